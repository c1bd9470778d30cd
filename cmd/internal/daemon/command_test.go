package daemon_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/drydock-os/drydock/testdata/real"
)

// TestCheckConfigJudgesTheFileAlone runs where nothing of a host is there.
func TestCheckConfigJudgesTheFileAlone(t *testing.T) {
	binary := buildDaemon(t)
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.toml")
	if err := os.WriteFile(bad, []byte("[reboot]\nstrategy = \"sometimes\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	example := filepath.Join(real.Module(t), "dist", "drydock.toml")
	for _, c := range []struct {
		file string
		exit int
		say  string
	}{{example, 0, ""}, {bad, 1, "reboot.strategy"}, {filepath.Join(dir, "none.toml"), 1, "none.toml"}} {
		cmd := exec.Command(binary, "--config", c.file, "--check-config")
		if os.Geteuid() == 0 { // and without any right
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
			os.Chmod(filepath.Dir(binary), 0o755)
			os.Chmod(dir, 0o755)
			os.Chmod(filepath.Dir(dir), 0o755)
		}
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != c.exit || !strings.Contains(string(out), c.say) {
			t.Errorf("%s: exit %d (%v), %s; want exit %d and %q", c.file, cmd.ProcessState.ExitCode(), err, out, c.exit, c.say)
		}
	}
}

// TestManPageNamesEveryFlag keeps drydockd(8) true.
func TestManPageNamesEveryFlag(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(real.Module(t), "dist", "man", "drydockd.8"))
	if err != nil {
		t.Fatal(err)
	}
	help, _ := exec.Command(buildDaemon(t), "-help").CombinedOutput()
	flags := 0
	for line := range strings.Lines(string(help)) {
		if name, ok := strings.CutPrefix(line, "  -"); ok {
			flags++
			name = strings.ReplaceAll(strings.Fields(name)[0], "-", `\-`)
			if !strings.Contains(string(page), `\-`+name) {
				t.Errorf("drydockd(8) does not name -%s", name)
			}
		}
	}
	if flags < 4 {
		t.Errorf("only %d flags in %s", flags, help)
	}
}

// TestHelpNamesTrialState: the trial guard calls it, and whoever debugs that.
func TestHelpNamesTrialState(t *testing.T) {
	out, err := exec.Command(buildDaemon(t), "-h").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "trial-state") || !strings.Contains(string(out), "-check-config") {
		t.Errorf("%v: %s", err, out)
	}
}

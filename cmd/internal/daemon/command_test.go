package daemon_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/drydock-os/drydock/cmd/internal/survey"
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

// TestSurveyIsPrinted: what drydock doctor reads is all that is on standard output,
// and a policy that does not read is no survey.
func TestSurveyIsPrinted(t *testing.T) {
	binary, root := buildDaemon(t), t.TempDir()
	for name, text := range map[string]string{
		"etc/machine-id": "0123456789abcdef0123456789abcdef\n", "proc/sys/kernel/random/boot_id": "boot-1\n",
		"good.toml": "state = \"" + root + "/state\"\n[server]\nurl = \"http://127.0.0.1:9/\"\n[gates]\nhttp = [{ url = \"http://127.0.0.1:9/\" }]\n", "bad.toml": "[scheduler]\nkind = \"swarm\"\n",
	} {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	s, err := survey.Surveyor{Program: binary, Args: []string{"-config", filepath.Join(root, "good.toml"), "-root", root}}.Survey(t.Context())
	if err != nil || len(s.Gates) != 1 || !s.Gates[0].Unfit || s.Scheduler.Opened != "" {
		t.Errorf("%+v, %v", s, err)
	}
	_, err = survey.Surveyor{Program: binary, Args: []string{"-config", filepath.Join(root, "bad.toml"), "-root", root}}.Survey(t.Context())
	if err == nil || !strings.Contains(err.Error(), "scheduler.kind") {
		t.Errorf("of a policy that does not read: %v", err)
	}
	if help, _ := exec.Command(binary, "-h").CombinedOutput(); !strings.Contains(string(help), "survey  ") {
		t.Errorf("%s", help)
	}
}

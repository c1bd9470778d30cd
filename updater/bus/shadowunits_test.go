package bus

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/testdata/real"
)

// engineUnit is update-engine.service as Flatcar ships it (flatcar/update_engine,
// systemd/update-engine.service), with a program that exists here.
const engineUnit = `[Unit]
Description=Update Engine
ConditionVirtualization=!container
ConditionPathExists=!/usr/.noupdate

[Service]
Type=dbus
BusName=com.coreos.update1
ExecStart=/bin/true -foreground -logtostderr
Restart=always
RestartSec=30

[Install]
WantedBy=multi-user.target
`

// shadowHost is a directory with the script that the units ask, a policy, and a
// drydockd.
type shadowHost struct{ dir string }

func newShadowHost(t *testing.T, policy string) shadowHost {
	t.Helper()
	h := shadowHost{t.TempDir()}
	if err := os.WriteFile(filepath.Join(h.dir, "drydock.toml"), []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	return h
}

// runs executes a unit's command line, with our files in place of the
// installed ones, and reports whether it ended well in time.
func (h shadowHost) runs(t *testing.T, line string) bool {
	t.Helper()
	line = strings.NewReplacer("/usr/lib/drydock/", distFile(t, "lib")+"/", "/run/drydock", h.dir).Replace(line)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, real.Program(t, "sh"), "-c", line)
	cmd.Env = append(os.Environ(), "DRYDOCKD=/bin/true", "DRYDOCK_CONFIG="+filepath.Join(h.dir, "drydock.toml"), "DRYDOCK_STATE_DIR="+h.dir)
	cmd.WaitDelay = time.Second
	return cmd.Run() == nil
}

// TestUnitsStandAsideInShadowMode runs the commands of the units: upstream's
// engine and locksmithd start, nobody waits for our verdict, and the trial guard
// is not run; without shadow mode it is all the other way round.
func TestUnitsStandAsideInShadowMode(t *testing.T) {
	shadow, ours := newShadowHost(t, "shadow = true\n[server]\nbroken"), newShadowHost(t, "shadow = false\n")
	for _, tt := range []struct {
		unit, key string
		shadow    bool // ends well in shadow mode, and fails or waits without it
	}{
		{"update-engine.service.d/10-drydock.conf", "ExecCondition", true},
		{"drydock-good.service", "ExecStart", true},
		{"drydock-trial.service", "ExecCondition", false},
	} {
		line := setting(t, tt.unit, tt.key)
		if line == "" {
			t.Fatalf("%s has no %s", tt.unit, tt.key)
		}
		if got := shadow.runs(t, line); got != tt.shadow {
			t.Errorf("%s in shadow mode: %v", tt.unit, got)
		}
		if got := ours.runs(t, line); got == tt.shadow {
			t.Errorf("%s without it: %v", tt.unit, got)
		}
	}
	if !shadow.runs(t, setting(t, "locksmithd.service.d/10-drydock.conf", "ExecCondition")) {
		t.Error("locksmithd does not start in shadow mode")
	}
	if err := os.WriteFile(filepath.Join(ours.dir, "good"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if !ours.runs(t, setting(t, "drydock-good.service", "ExecStart")) {
		t.Error("a good boot is waited for")
	}
}

func TestSystemdTakesTheEnginesDropIn(t *testing.T) {
	analyze := real.Program(t, "systemd-analyze")
	dir := t.TempDir()
	dropIn, err := os.ReadFile(distFile(t, "systemd/system/update-engine.service.d/10-drydock.conf"))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(dropIn), "/usr/lib/drydock/upstream", distFile(t, "lib/upstream"))
	if err := os.Mkdir(filepath.Join(dir, "update-engine.service.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"update-engine.service": engineUnit, "update-engine.service.d/10-drydock.conf": text} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(analyze, "verify", "--man=no", filepath.Join(dir, "update-engine.service"))
	cmd.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+dir+":")
	if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), "update-engine") {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

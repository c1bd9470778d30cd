package bus

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/drydock-os/drydock/testdata/real"
	"github.com/drydock-os/drydock/updater"
)

// upstreamUnit is locksmithd.service as Flatcar ships it (flatcar/locksmith,
// systemd/locksmithd.service), with a program that exists here.
const upstreamUnit = `[Unit]
Description=Cluster reboot manager
After=update-engine.service
ConditionVirtualization=!container
ConditionPathExists=!/usr/.noupdate

[Service]
CPUWeight=10
MemoryHigh=32M
PrivateDevices=false
Environment=GOMAXPROCS=1
EnvironmentFile=-/usr/share/flatcar/update.conf
EnvironmentFile=-/etc/flatcar/update.conf
ExecStart=/bin/true
Restart=on-failure
RestartSec=10s

[Install]
WantedBy=multi-user.target
`

// TestLocksmithdStartsAfterTheVerdict has systemd read upstream's unit with our
// drop-in, wanted by multi-user.target as there: it finds cycles.
func TestLocksmithdStartsAfterTheVerdict(t *testing.T) {
	analyze := real.Program(t, "systemd-analyze")
	files := units(t)
	dir := filepath.Dir(files[0])
	dropIn, err := os.ReadFile(distFile(t, "systemd/system/locksmithd.service.d/10-drydock.conf"))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(dropIn), "/usr/lib/drydock/external-only", distFile(t, "lib/external-only"))
	for name, content := range map[string]string{"locksmithd.service": upstreamUnit, "locksmithd.service.d/10-drydock.conf": text} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	wants := filepath.Join(dir, "multi-user.target.wants")
	if err := os.Mkdir(wants, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, unit := range []string{"locksmithd.service", "drydockd.service"} {
		if err := os.Symlink("../"+unit, filepath.Join(wants, unit)); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(analyze, "verify", "--man=no", filepath.Join(dir, "locksmithd.service"), "multi-user.target")
	cmd.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+dir+":")
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Contains(string(out), "locksmithd") || strings.Contains(string(out), "drydock") || strings.Contains(string(out), "cycle") {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	lines := strings.Split(text, "\n")
	if !slices.Contains(lines, "Requires=drydock-good.service") || !slices.ContainsFunc(lines, func(l string) bool {
		after := strings.Fields(strings.TrimPrefix(l, "After="))
		return strings.HasPrefix(l, "After=") && slices.Contains(after, "drydock-good.service") && slices.Contains(after, "multi-user.target")
	}) {
		t.Errorf("the drop-in does not wait for the verdict:\n%s", text)
	}
}

// TestLocksmithdStartsOnlyWithStrategyExternal runs the drop-in's condition
// against a daemon on a real bus.
func TestLocksmithdStartsOnlyWithStrategyExternal(t *testing.T) {
	real.Program(t, "busctl")
	for _, test := range []struct {
		strategy string // "-": no daemon on the bus
		want     int
	}{{"external", 0}, {"coordinated", 1}, {"immediate", 1}, {"off", 1}, {"", 255}, {"-", 255}} {
		t.Run("strategy "+test.strategy, func(t *testing.T) {
			b := startBus(t)
			if test.strategy != "-" {
				serve(t, b, &Server{Controller: newYard(updater.Status{Strategy: test.strategy})})
			}
			ours := filepath.Join(t.TempDir(), "drydock.toml")
			if err := os.WriteFile(ours, []byte("shadow = false\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			var said []byte
			run := func(daemon string) int {
				cmd := exec.Command(distFile(t, "lib/external-only"))
				cmd.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS="+b.address, "DRYDOCKD="+daemon, "DRYDOCK_CONFIG="+ours)
				out, err := cmd.CombinedOutput()
				said = out
				var exit *exec.ExitError
				if err != nil && !errors.As(err, &exit) {
					t.Fatalf("%v: %s", err, out)
				}
				return cmd.ProcessState.ExitCode()
			}
			if got := run("/bin/true"); got != test.want {
				t.Errorf("exit %d, want %d; %s", got, test.want, said)
			}
			if got := run("/nonexistent/drydockd"); got != 0 {
				t.Errorf("without drydockd: exit %d, want 0", got)
			}
		})
	}
}

package daemon_test

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/drydock-os/drydock/fleetlink/kubernetes/kubetest"
	"github.com/drydock-os/drydock/testdata/real"
)

// TestIdle measures the memory of a drydockd that does nothing, without a
// scheduler and with one of each kind beside its server: it runs
// testdata/bench/install/idle.sh under DRYDOCK_IDLE=1, and prints what that prints.
// DRYDOCK_IDLE_SECONDS is how long each is left alone, in place of 60.
func TestIdle(t *testing.T) {
	if os.Getenv("DRYDOCK_IDLE") != "1" {
		t.Skip("takes minutes, and measures memory: set DRYDOCK_IDLE=1")
	}
	h := &host{t: t, dir: t.TempDir()}
	h.startBus() // of the servers; the script has one for drydockd
	docks := map[string]func() dock{
		"none (Podman)": func() dock { return podmanDock(t, h) },
		"hook":          func() dock { return hookDock(t, h) },
		"nomad":         func() dock { return nomadDock(t, h) },
		"fleet":         func() dock { return fleetDock(t, h) },
	}
	if os.Getenv(kubetest.Wanted) == "1" {
		docks["kubernetes"] = func() dock { return kubeDock(t, kubetest.StartAudited(t)) }
	}
	args := []string{filepath.Join(real.Module(t), "testdata", "bench", "install", "idle.sh"), "--machine-id", machineID(0)}
	if seconds := os.Getenv("DRYDOCK_IDLE_SECONDS"); seconds != "" {
		args = append(args, "--seconds", seconds)
	}
	heard := map[string]func() bool{}
	for _, name := range slices.Sorted(maps.Keys(docks)) {
		d := docks[name]()
		heard[name] = d.heard
		args = append(args, "--scheduler", name+"="+h.write(strings.Fields(name)[0]+".toml", d.tables))
	}
	cmd := exec.Command("bash", args...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		t.Fatalf("idle.sh: %v\n%s", err, &said)
	}
	t.Logf("\n%s", &said)
	for name, is := range heard {
		if is != nil && !is() {
			t.Errorf("the server of %s was never asked: nothing was measured", name)
		}
	}
}

package daemon_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/godbus/dbus/v5"

	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/bus"
	"github.com/drydock-os/drydock/updater/policy"
)

// coordinator asks com.coreos.update1 as locksmith and the Flatcar operators
// do.
type coordinator struct {
	h    *host
	conn *dbus.Conn
}

// said is what GetStatus answers: (xdssx).
type said struct {
	LastChecked int64
	Progress    float64
	Operation   string
	NewVersion  string
	NewSize     int64
}

func (c coordinator) call(method string, into ...any) error {
	call := c.conn.Object(bus.Update1Name, bus.Update1Path).Call(bus.Update1Interface+"."+method, 0)
	if len(into) == 0 {
		return call.Err
	}
	return call.Store(into...)
}

// status is what GetStatus says; zero while there is no daemon.
func (c coordinator) status() (s said) {
	c.call("GetStatus", &s.LastChecked, &s.Progress, &s.Operation, &s.NewVersion, &s.NewSize)
	return s
}

// await waits for an operation.
func (c coordinator) await(operation string) (s said) {
	c.h.t.Helper()
	c.h.until(operation, func() bool { s = c.status(); return s.Operation == operation })
	return s
}

// next is the slot that the loader would take now.
func (h *host) next() (next partition.Slot) {
	h.t.Helper()
	h.opened(func(d *partition.Disk) {
		table, err := (partition.GPTPrio{Disk: d}).Table()
		if err != nil {
			h.t.Fatal(err)
		}
		next, _ = table.Next()
	})
	return next
}

// TestAnotherCoordinatorReboots runs strategy external as locksmith sees it:
// what is written is staged at once, update1 says so also after a restart of
// the daemon, ResetStatus takes it back, and nobody but the coordinator
// reboots.
func TestAnotherCoordinatorReboots(t *testing.T) {
	const idle, needReboot = "UPDATE_STATUS_IDLE", "UPDATE_STATUS_UPDATED_NEED_REBOOT"
	h := newHost(t)
	h.strategy, h.first = policy.External, "1h"
	h.policy(partition.A)
	h.publish("1.1.0")
	conn, err := dbus.Connect(h.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := coordinator{h, conn}
	h.start()
	if s := c.await(idle); s != (said{Operation: idle, NewVersion: "0.0.0"}) {
		t.Errorf("before the first check: %+v", s)
	}
	attempt := func() said {
		t.Helper()
		if err := c.call("AttemptUpdate"); err != nil {
			t.Fatal(err)
		}
		s := c.await(needReboot)
		if s.NewVersion != "1.1.0" || s.NewSize != int64(len(h.files["1.1.0"])) || s.LastChecked == 0 || h.next() != partition.B {
			t.Errorf("staged: %+v, the loader takes %s", s, h.next())
		}
		return s
	}
	staged := attempt()

	h.kill()
	h.start()
	if s := c.await(needReboot); s != staged {
		t.Errorf("after a restart of the daemon %+v, before it %+v", s, staged)
	}
	if err := c.call("ResetStatus"); err != nil {
		t.Fatal(err)
	}
	if s := c.await(idle); s.NewVersion != "0.0.0" || s.NewSize != 0 || h.next() != partition.A {
		t.Errorf("after ResetStatus: %+v, the loader takes %s", s, h.next())
	}
	attempt()
	log, err := os.ReadFile(filepath.Join(h.dir, "hook.log"))
	line := fmt.Sprintf("1.1.0 B %sp4 KERNEL=%s/flatcar/vmlinuz-b\n", h.disk, h.boot)
	if err != nil || string(log) != line+line {
		t.Errorf("hooks were told\n%swant twice\n%s(%v)", log, line, err)
	}

	if len(h.rebooted) > 0 {
		t.Error("the daemon asked for a reboot")
	}
	h.kill()
	if slot, version := h.powerOn(); slot != partition.B || version != "1.1.0" {
		t.Fatalf("the coordinator's reboot leads to slot %s, %s", slot, version)
	}
	h.live(func(s updater.Status) bool { return s.Release == "1.1.0" && !s.OnTrial && s.StepName == "wait" })
	if len(h.rebooted) > 0 {
		t.Error("the daemon asked for a reboot")
	}
}

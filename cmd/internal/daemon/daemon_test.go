package daemon_test

import (
	"context"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/testdata/real"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/bus"
)

// TestDaemonUpdatesALoopDevice runs the whole job with the real daemon, the
// real bus, a real GPT and the release's own hook, A to B and B to A.
func TestDaemonUpdatesALoopDevice(t *testing.T) {
	h := newHost(t)
	for i, version := range []string{"1.1.0", "1.2.0"} {
		h.publish(version)
		s := h.live(rests(version))
		if want := []string{"B", "A"}[i]; s.Booted != want {
			t.Errorf("%s runs from slot %s, want %s", version, s.Booted, want)
		}
		if good, err := os.ReadFile(filepath.Join(h.dir, "root/run/drydock/good")); err != nil || strings.TrimSpace(string(good)) != version {
			t.Errorf("the mark of a good boot: %q, %v", good, err)
		}
	}
	log, err := os.ReadFile(filepath.Join(h.dir, "hook.log"))
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("1.1.0 B %sp4 KERNEL=%s/flatcar/vmlinuz-b\n1.2.0 A %sp3 KERNEL=%s/flatcar/vmlinuz-a\n", h.disk, h.boot, h.disk, h.boot)
	if string(log) != want {
		t.Errorf("hooks were told\n%swant\n%s", log, want)
	}
}

// TestDaemonKilledAtRandomMoments kills the daemon with SIGKILL again and again
// while it updates a real device, and now and then cuts the machine's power
// with it: what the firmware would boot is always a whole release, and the
// machine always ends on the new one.
func TestDaemonKilledAtRandomMoments(t *testing.T) {
	h := newHost(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := mathrand.New(mathrand.NewPCG(seed, 0))
	kills := 0
	for i := range 3 {
		version := fmt.Sprintf("1.%d.0", i+1)
		h.publish(version)
		for range 12 {
			h.start()
			wait := time.NewTimer(time.Duration(random.IntN(500)) * time.Millisecond)
			rebooted := false
			select {
			case <-wait.C:
			case <-h.rebooted:
				rebooted = true
			}
			h.kill()
			kills++
			h.opened(func(d *partition.Disk) {
				table, err := (partition.GPTPrio{Disk: d}).Table()
				if err != nil {
					t.Fatal(err)
				}
				next, ok := table.Next()
				if !ok {
					t.Fatalf("nothing to boot: %v", table)
				}
				h.whole(d, next)
			})
			if rebooted || random.IntN(4) == 0 {
				h.powerOn()
			}
		}
		h.live(rests(version))
	}
	t.Logf("%d kills, %d boots", kills, h.boots)
}

// TestReloadKeepsTheOldPolicy breaks the policy file under a running daemon:
// the old one stays in force and every status says so, until the file is well.
func TestReloadKeepsTheOldPolicy(t *testing.T) {
	h := newHost(t)
	good, err := os.ReadFile(filepath.Join(h.dir, "drydock.toml"))
	if err != nil {
		t.Fatal(err)
	}
	h.start()
	status := func() (s updater.Status) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		c, err := bus.Dial(ctx, h.address)
		if err != nil {
			return s
		}
		defer c.Close()
		s, _ = c.Status(ctx)
		return s
	}
	complaint := func() string {
		for _, r := range status().Reasons {
			if r.Kind == "policy" {
				return r.Text
			}
		}
		return ""
	}
	h.until("the daemon is up", func() bool { return !status().LastChecked.IsZero() })
	h.write("drydock.toml", strings.Replace(string(good), "strategy =", "stratgy =", 1))
	h.daemon.Process.Signal(syscall.SIGHUP)
	h.until("the status complains", func() bool { return complaint() != "" })
	if why := complaint(); !strings.Contains(why, "stratgy") || !strings.Contains(why, "reboot.strategy") {
		t.Errorf("complaint %q: want the wrong key and the nearest known one", why)
	}
	if s := status(); s.Strategy != "immediate" {
		t.Errorf("strategy %q: the old policy is no longer in force", s.Strategy)
	}
	h.write("drydock.toml", strings.Replace(string(good), `"immediate"`, `"off"`, 1))
	h.daemon.Process.Signal(syscall.SIGHUP)
	h.until("the new policy is in force", func() bool { return status().Strategy == "off" && complaint() == "" })
}

// TestFullBootPartitionIsSaid has the kernel not fit: the error says so, the
// running release is untouched, and nothing is staged.
func TestFullBootPartitionIsSaid(t *testing.T) {
	h := newHost(t)
	small := filepath.Join(h.dir, "small")
	if err := os.Mkdir(small, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=32k"); err != nil {
		real.Missing(t, "mount tmpfs: "+err.Error())
	}
	t.Cleanup(func() { syscall.Unmount(small, 0) })
	h.boot = small
	h.policy(partition.A)
	h.publish("1.1.0")
	s := h.live(func(s updater.Status) bool { return s.LastError != "" && s.StepName == "wait" })
	if !strings.Contains(s.LastError, "make room") || !strings.Contains(s.LastError, small+" is full") {
		t.Errorf("error %q", s.LastError)
	}
	h.opened(func(d *partition.Disk) {
		table, err := (partition.GPTPrio{Disk: d}).Table()
		if next, ok := table.Next(); err != nil || !ok || next != partition.A || table[partition.B].Bootable() {
			t.Errorf("flags %v, %v", table, err)
		}
	})
}

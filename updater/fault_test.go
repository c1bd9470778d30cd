package updater_test

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drydock-os/drydock/updater"
)

// The faults of those who coordinate reboots elsewhere that concern one
// machine's flow. rebootlock/fault_test.go has the list of all.

// TestCoreosBugs1886WindowShutsWhileItWaitsForTheLock (and rebootmgr#4): the
// window was looked at once, before the lock was waited for, and a machine that
// got it hours later rebooted outside. Here its place in the queue goes with the
// window, and a grant that comes anyway is not used.
func TestCoreosBugs1886WindowShutsWhileItWaitsForTheLock(t *testing.T) {
	b, l := ready(t), newLedger()
	l.in(b)
	if _, err := b.group.Acquire(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	u, _ := b.up()
	b.until(u, func(s updater.Status) bool { return s.Permit == "queued" })
	b.policy.Reboot.Windows = shutWindow(t)
	u.SetPolicy(b.policy)
	if err := b.group.Release(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	u.Wake()
	b.until(u, func(s updater.Status) bool { return has(s.Reasons, "window") && permitted("none")(s) })
	b.never("went on outside the window", func() bool { return b.boot.Err() != nil || u.Status().Staged || u.Status().Drained })
	if slices.ContainsFunc(l.noted(), func(s string) bool { return !strings.HasPrefix(s, "aborted") }) {
		t.Errorf("the lock heard %q", l.noted())
	}
	if holders := b.group.Holders(); len(holders) > 0 {
		t.Errorf("the permit is kept from the others by %v", holders)
	}
}

// TestFLUO201WindowShutsDuringTheDrain: the window was looked at before the
// first step alone, and reboots came after it. Here it is looked at before each
// one, and what was moved away comes back.
func TestFLUO201WindowShutsDuringTheDrain(t *testing.T) {
	for _, phase := range []string{updater.PhaseDraining, updater.PhaseStaging} {
		t.Run(phase, func(t *testing.T) {
			b, l := ready(t), newLedger()
			l.in(b)
			var shut atomic.Bool
			u, _ := b.up(func(u *updater.Updater) {
				u.Lock = fenced{u.Lock, func(p string) {
					if p == phase && shut.CompareAndSwap(false, true) {
						p := b.policy
						p.Reboot.Windows = shutWindow(t)
						u.SetPolicy(p)
					}
				}}
			})
			b.until(u, func(s updater.Status) bool { return shut.Load() && has(s.Reasons, "window") && permitted("none")(s) })
			if s := u.Status(); b.boot.Err() != nil || s.Staged || s.Drained || len(b.cluster.Workloads("m")) != 2 {
				t.Errorf("%+v, workloads %v", s, b.cluster.Workloads("m"))
			}
			if got := l.noted(); slices.Contains(got, updater.PhaseRebooting) || !strings.HasPrefix(got[len(got)-1], "aborted") {
				t.Errorf("the lock heard %q", got)
			}
		})
	}
}

// TestCoreosBugs1782HeldUntilHealthy (and coreos/bugs#861, coreos/docs#825,
// flatcar/Flatcar#1367): a lock that was given back because the daemon runs let
// the next machine go down before this one's services were up. Here they are
// up, and the work is back, before it is.
func TestCoreosBugs1782HeldUntilHealthy(t *testing.T) {
	b, l := ready(t), newLedger()
	l.in(b)
	b.policy.Health.Timeout = time.Minute
	var well atomic.Bool
	b.machine.Ails = func(release string) []updater.Reason {
		if release == "1.1.0" && !well.Load() {
			return []updater.Reason{{Kind: "unit", Text: "etcd.service is activating"}}
		}
		return nil
	}
	_, stop := b.up()
	b.left()
	stop()
	u, _ := b.up()
	b.until(u, func(s updater.Status) bool { return s.Release == "1.1.0" && s.Step == updater.Validate })
	b.never("gave the permit back, or took work on", func() bool {
		return !slices.Contains(b.group.Holders(), "m") || len(b.cluster.Workloads("m")) > 0
	})
	if position, err := b.group.Acquire(context.Background(), "other"); err != nil || slices.Contains(b.group.Holders(), "other") {
		t.Errorf("another one holds as well: %v, %v", position, err)
	}
	well.Store(true)
	u.Wake()
	b.until(u, updated("1.1.0"))
	steps := b.steps()
	good, resume, release := slices.Index(steps, "mark-good"), slices.Index(steps, "resume"), slices.Index(steps, "release")
	if good < 0 || resume < good || release < resume {
		t.Errorf("steps %v: want good, resumed, released", steps)
	}
	if n := len(b.cluster.Workloads("m")); n != 2 {
		t.Errorf("%d of 2 workloads are back", n)
	}
}

// TestKured63WorkComesBackAfterTheReboot (and terraform-hcloud-kube-hetzner
// #1497, bottlerocket-update-operator#691): a node stayed cordoned after its
// reboot. Here that the work is back is no wish of the step before it, but looked at:
// a daemon that dies
// between, once and again, finds what is drained.
func TestKured63WorkComesBackAfterTheReboot(t *testing.T) {
	b, l := ready(t), newLedger()
	l.in(b)
	var well atomic.Bool
	b.machine.Ails = func(release string) []updater.Reason {
		if release == "1.1.0" && !well.Load() {
			return []updater.Reason{{Kind: "unit", Text: "web.service is activating"}}
		}
		return nil
	}
	b.policy.Health.Timeout = time.Minute
	_, stop := b.up()
	b.left()
	stop()
	for range 3 {
		u, stop := b.up()
		b.until(u, func(s updater.Status) bool { return s.Release == "1.1.0" && s.Step == updater.Validate })
		stop()
	}
	well.Store(true)
	u, _ := b.up()
	b.until(u, updated("1.1.0"))
	if b.cluster.Cordoned("m") || len(b.cluster.Workloads("m")) != 2 {
		t.Errorf("cordoned %t, workloads %v", b.cluster.Cordoned("m"), b.cluster.Workloads("m"))
	}
	if got := l.noted(); got[len(got)-1] != "updated: " {
		t.Errorf("the lock heard %q", got)
	}
}

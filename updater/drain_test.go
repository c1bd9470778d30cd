package updater_test

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/policy"
)

// returning is a scheduler that finds something missing once work was resumed.
type returning struct {
	fleetlink.Link
	missing *atomic.Bool
	resumed *atomic.Bool
}

func (r returning) Resume(ctx context.Context) error {
	r.resumed.Store(true)
	return r.Link.Resume(ctx)
}

func (r returning) Ailments(ctx context.Context) ([]fleetlink.Workload, error) {
	if r.resumed.Load() && r.missing.Load() {
		return []fleetlink.Workload{{Name: "shop/db", Why: "0 of 1 replicas are ready"}}, nil
	}
	return r.Link.Ailments(ctx)
}

// TestPermitIsKeptUntilTheWorkIsBack: the machine is good and takes work again,
// and what it took is not up yet. The next one must not go.
func TestPermitIsKeptUntilTheWorkIsBack(t *testing.T) {
	b := ready(t)
	var missing, resumed atomic.Bool
	missing.Store(true)
	b.adjust = func(u *updater.Updater) { u.Scheduler = returning{u.Scheduler, &missing, &resumed} }
	_, stop := b.up()
	b.left()
	stop()
	u, stop := b.up()
	kept := func(s updater.Status) bool { return resumed.Load() && s.Permit == "held" && has(s.Reasons, "return") }
	b.until(u, kept)
	if s := u.Status(); s.Release != "1.1.0" || s.OnTrial {
		t.Errorf("%+v: want it good", s)
	}
	stop() // a restart finds it the same
	u, stop = b.up()
	b.until(u, func(s updater.Status) bool {
		return s.Permit == "held" && (has(s.Reasons, "return") || has(s.Reasons, "health"))
	})
	b.never("gave the permit back", func() bool { return !slices.Contains(b.group.Holders(), "m") })
	stop()
	missing.Store(false)
	u, _ = b.up()
	b.until(u, updated("1.1.0"))
}

// gates are gates that a test shuts.
type gates struct{ shut atomic.Pointer[string] }

func (g *gates) Shut(context.Context) []string {
	if why := g.shut.Load(); why != nil {
		return []string{*why}
	}
	return nil
}

// TestGates: an alert that fires keeps a machine from asking for a permit, and one
// that has used its permit from giving it back. What a drain brings about ends no
// drain.
func TestGates(t *testing.T) {
	b, g, why := ready(t), &gates{}, "alert DiskFull fires for db-2"
	g.shut.Store(&why)
	b.adjust = func(u *updater.Updater) { u.Gates = g }
	b.live(func(s updater.Status) bool { return written("1.1.0")(s) && has(s.Reasons, "gate") })
	if s := b.current.Status(); s.Permit != "none" || slices.Contains(b.steps(), "lock") {
		t.Errorf("asked for a permit at a gate that is shut: %+v", s)
	}
	g.shut.Store(nil)
	b.adjust = func(u *updater.Updater) {
		u.Gates = g
		u.Lock = fenced{u.Lock, func(phase string) {
			if phase == updater.PhaseDraining {
				g.shut.Store(&why)
			}
		}}
	}
	_, stop := b.up()
	b.left()
	stop()
	u, _ := b.up()
	b.until(u, func(s updater.Status) bool {
		return s.Release == "1.1.0" && s.Permit == "held" && has(s.Reasons, "gate")
	})
	if len(b.cluster.Workloads("m")) != 2 {
		t.Error("the work waits for the gate, too")
	}
	g.shut.Store(nil)
	u.Wake()
	b.until(u, updated("1.1.0"))
}

// TestDrainIsTold: what still has to leave, and why it has not, is in the status
// while the drain goes on, and after a restart in its middle.
func TestDrainIsTold(t *testing.T) {
	b := ready(t)
	b.policy.Drain.Timeout, b.policy.Drain.OnTimeout = time.Hour, policy.Force // a preflight that finds db held keeps nobody from asking
	b.cluster.Hold("db", "its budget allows none")
	told := func(s updater.Status) bool {
		return s.Drain != nil && s.Drain.Total == 2 && slices.Equal(s.Drain.Left, []fleetlink.Workload{{Name: "db", Why: "its budget allows none"}}) &&
			s.Drain.Deadline.Sub(s.Drain.Since) == time.Hour && s.Step == updater.Drain &&
			slices.ContainsFunc(s.Reasons, func(r updater.Reason) bool {
				return r.Kind == "drain" && strings.Contains(r.Text, "db (its budget allows none)")
			})
	}
	u, stop := b.up()
	b.until(u, told)
	since := u.Status().Drain.Since
	stop()
	u, _ = b.up()
	b.until(u, func(s updater.Status) bool {
		return s.Step == updater.Drain && s.Drain != nil && len(s.Drain.Left) == 1
	})
	if again := u.Status().Drain.Since; !again.Equal(since) {
		t.Errorf("the drain that was begun at %s counts from %s after a restart", since, again)
	}
	b.cluster.Hold("db", "")
	b.left()
}

// TestDrainDeadlineOutlivesTheDaemon: a daemon that is restarted again and again
// does not drain for ever.
func TestDrainDeadlineOutlivesTheDaemon(t *testing.T) {
	b := ready(t)
	b.policy.Drain.Timeout, b.policy.Drain.OnTimeout = 20*time.Second, policy.Force
	b.cluster.Hold("db", "its budget allows none")
	u, stop := b.up()
	b.until(u, func(s updater.Status) bool { return s.Drain != nil && len(s.Drain.Left) == 1 })
	stop()
	b.skew, b.policy.Drain.OnTimeout = 2*time.Hour, policy.Abort
	u, _ = b.up()
	b.until(u, func(s updater.Status) bool { return s.Permit == "none" && s.Drain == nil && s.LastError != "" })
	if s := u.Status(); !strings.Contains(s.LastError, "db (its budget allows none)") {
		t.Errorf("%+v: want it to say what did not leave", s)
	}
	if b.cluster.Cordoned("m") || len(b.cluster.Workloads("m")) != 2 {
		t.Errorf("cordoned %t with %v: want everything undone", b.cluster.Cordoned("m"), b.cluster.Workloads("m"))
	}
}

// TestForceEndsWhatDoesNotLeave: before a reboot by force the scheduler ends the
// work by its own means.
func TestForceEndsWhatDoesNotLeave(t *testing.T) {
	b := ready(t)
	b.policy.Drain = policy.Drain{Timeout: 200 * time.Millisecond, OnTimeout: policy.Force, ForceGrace: time.Minute}
	b.cluster.Hold("db", "its budget allows none")
	_, stop := b.up()
	b.left()
	stop()
	if here := b.cluster.Workloads("m"); len(here) != 0 {
		t.Errorf("rebooted with %v", here)
	}
}

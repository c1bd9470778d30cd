package updater_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/policy"
)

// odd is a scheduler of which a test changes what it likes.
type odd struct {
	fleetlink.Link
	standing  func(ctx context.Context) (fleetlink.Standing, error)
	preflight func(ctx context.Context) ([]fleetlink.Workload, error)
	drain     func(ctx context.Context, o fleetlink.Order) error
	resume    func(ctx context.Context) error
	ailments  func(ctx context.Context) ([]fleetlink.Workload, error)
}

func (l odd) Standing(ctx context.Context) (fleetlink.Standing, error) {
	if l.standing != nil {
		return l.standing(ctx)
	}
	return l.Link.Standing(ctx)
}

func (l odd) Preflight(ctx context.Context) ([]fleetlink.Workload, error) {
	if l.preflight != nil {
		return l.preflight(ctx)
	}
	return l.Link.Preflight(ctx)
}

func (l odd) Drain(ctx context.Context, o fleetlink.Order) error {
	if l.drain != nil {
		return l.drain(ctx, o)
	}
	return l.Link.Drain(ctx, o)
}

func (l odd) Resume(ctx context.Context) error {
	if l.resume != nil {
		return l.resume(ctx)
	}
	return l.Link.Resume(ctx)
}

func (l odd) Ailments(ctx context.Context) ([]fleetlink.Workload, error) {
	if l.ailments != nil {
		return l.ailments(ctx)
	}
	return l.Link.Ailments(ctx)
}

// TestWorkComesBackBeforeTheVerdict: a drain is given up and the daemon restarted,
// and the host is not well without the work that left. The boot is the one of
// before: the work comes back, and then it is well.
func TestWorkComesBackBeforeTheVerdict(t *testing.T) {
	b := ready(t)
	b.machine.Ails = func(string) []updater.Reason {
		if len(b.cluster.Workloads("m")) < 2 {
			return []updater.Reason{{Kind: "health", Text: "web.service is inactive"}}
		}
		return nil
	}
	b.cluster.Hold("db", "its budget allows none")
	b.policy.Drain.OnTimeout, b.policy.Drain.Timeout = policy.Force, time.Hour // a preflight that finds db held keeps nobody from asking
	u, stop := b.up()
	b.until(u, func(s updater.Status) bool { return s.Drain != nil && len(s.Drain.Left) == 1 })
	stop()
	b.policy.Reboot.Windows = shutWindow(t)
	u, _ = b.up()
	b.until(u, func(s updater.Status) bool { return waiting(s) && s.Permit == "none" && s.Drain == nil })
	if b.cluster.Cordoned("m") || len(b.cluster.Workloads("m")) != 2 {
		t.Errorf("cordoned %t with %v", b.cluster.Cordoned("m"), b.cluster.Workloads("m"))
	}
}

// TestForceAsksOnceMore: while a drain lasts until the policy would force it, the
// window shuts. Nothing is ended.
func TestForceAsksOnceMore(t *testing.T) {
	b := ready(t)
	b.policy.Drain = policy.Drain{Timeout: 300 * time.Millisecond, OnTimeout: policy.Force, ForceGrace: time.Minute}
	b.policy.Reboot.RetryPause = time.Hour
	var forced atomic.Bool
	shut := b.policy
	shut.Reboot.Windows = shutWindow(t)
	b.adjust = func(u *updater.Updater) {
		inner := u.Scheduler
		u.Scheduler = odd{Link: inner, drain: func(ctx context.Context, o fleetlink.Order) error {
			forced.Store(forced.Load() || o.Force)
			u.SetPolicy(shut)
			<-ctx.Done()
			return fleetlink.Unfinished{Left: []fleetlink.Workload{{Name: "db"}}, Err: ctx.Err()}
		}}
	}
	u, _ := b.up()
	b.until(u, func(s updater.Status) bool {
		return waiting(s) && s.Permit == "none" && s.Drain == nil && b.told(updater.EventOperator) > 0
	})
	if forced.Load() || len(b.cluster.Workloads("m")) != 2 {
		t.Errorf("forced %t, and here are %v", forced.Load(), b.cluster.Workloads("m"))
	}
}

// TestLateDrainHasALastTry: the daemon was away for longer than a drain may last,
// and so was the budget's second replica. By now it is back: nothing is forced.
func TestLateDrainHasALastTry(t *testing.T) {
	b := ready(t)
	b.policy.Drain = policy.Drain{Timeout: time.Minute, OnTimeout: policy.Force, ForceGrace: time.Minute}
	b.cluster.Hold("db", "its budget allows none")
	u, stop := b.up()
	b.until(u, func(s updater.Status) bool { return s.Drain != nil && len(s.Drain.Left) == 1 })
	stop()
	b.cluster.Hold("db", "")
	b.skew = time.Hour
	var forced atomic.Bool
	b.adjust = func(u *updater.Updater) {
		inner := u.Scheduler
		u.Scheduler = odd{Link: inner, drain: func(ctx context.Context, o fleetlink.Order) error {
			forced.Store(forced.Load() || o.Force)
			return inner.Drain(ctx, o)
		}}
	}
	_, _ = b.up()
	b.left()
	if forced.Load() {
		t.Error("what would have left is ended by force")
	}
}

// TestSilenceAtOneLookReleasesNothing: a lock that knows nothing of drains, and a
// scheduler that does not answer at the look after the trial. The machine is
// still cordoned, so its permit stays.
func TestSilenceAtOneLookReleasesNothing(t *testing.T) {
	b := ready(t)
	b.policy.Health.Scheduler = false
	_, stop := b.up()
	b.left()
	stop()
	var silent atomic.Bool
	silent.Store(true)
	l := newLedger()
	l.in(b)
	in := b.adjust
	b.adjust = func(u *updater.Updater) {
		in(u)
		inner := u.Scheduler
		u.Scheduler = odd{Link: inner, standing: func(ctx context.Context) (fleetlink.Standing, error) {
			if silent.Load() {
				return fleetlink.Standing{}, errors.New("503")
			}
			return inner.Standing(ctx)
		}, resume: func(ctx context.Context) error {
			if silent.Load() {
				return errors.New("503")
			}
			return inner.Resume(ctx)
		}}
	}
	u, stop := b.up()
	b.until(u, func(s updater.Status) bool { return s.Release == "1.1.0" && !s.OnTrial && has(s.Reasons, "scheduler") })
	b.never("gave the permit back cordoned", func() bool { return b.cluster.Cordoned("m") && !slices.Contains(b.group.Holders(), "m") })
	stop()
	silent.Store(false)
	u, _ = b.up()
	b.until(u, updated("1.1.0"))
}

// TestForceLiftsNoBan: an operator's label says that this machine is left alone.
// The policy to force a drain that does not end does not lift it, before the
// permit nor with it in hand, and after the reboot the permit waits for it.
func TestForceLiftsNoBan(t *testing.T) {
	b := ready(t)
	b.policy.Drain.OnTimeout = policy.Force
	var ban atomic.Bool
	ban.Store(true)
	b.adjust = func(u *updater.Updater) {
		inner := u.Scheduler
		u.Scheduler = odd{Link: inner, preflight: func(ctx context.Context) ([]fleetlink.Workload, error) {
			if ban.Load() {
				return []fleetlink.Workload{{Name: "node m", Why: "label maintenance=never", Forbids: true}}, nil
			}
			return []fleetlink.Workload{{Name: "db", Why: "its budget allows none"}}, nil
		}}
	}
	said := func(s updater.Status) bool {
		return slices.ContainsFunc(s.Reasons, func(r updater.Reason) bool { return strings.Contains(r.Text, "maintenance=never") })
	}
	b.live(func(s updater.Status) bool { return written("1.1.0")(s) && said(s) && s.Permit == "none" })
	if slices.Contains(b.steps(), "lock") {
		t.Errorf("steps %v", b.steps())
	}
	ban.Store(false)
	_, stop := b.up()
	b.left()
	stop()
	ban.Store(true)
	u, _ := b.up()
	b.until(u, func(s updater.Status) bool {
		return s.Release == "1.1.0" && s.Drain == nil && s.Permit == "held" && said(s)
	})
	ban.Store(false)
	u.Wake()
	b.until(u, updated("1.1.0"))
}

// TestForceKnowsWhatWasIllBefore: work that is not well, and for which only a
// drain by force does not wait, has no release rejected and no permit kept. What
// is not well in another way after the reboot does.
func TestForceKnowsWhatWasIllBefore(t *testing.T) {
	logs := fleetlink.Workload{Name: "kube-system/logs", Why: "container main is in CrashLoopBackOff"}
	worse := fleetlink.Workload{Name: logs.Name, Why: "its image is gone"}
	for _, tt := range []struct {
		onTimeout policy.OnTimeout
		after     fleetlink.Workload
		release   string
	}{{policy.Force, logs, "1.1.0"}, {policy.Force, worse, "1.0.0"}, {policy.Abort, logs, "1.0.0"}} {
		b := ready(t)
		b.policy.Drain.OnTimeout = tt.onTimeout
		b.policy.Health.Timeout = time.Second
		b.adjust = func(u *updater.Updater) {
			u.Scheduler = odd{Link: u.Scheduler, ailments: func(context.Context) ([]fleetlink.Workload, error) {
				if id, err := b.machine.Identity(); err != nil || id.Release != "1.0.0" {
					return []fleetlink.Workload{tt.after}, err
				}
				return []fleetlink.Workload{logs}, nil
			}}
		}
		b.live(func(s updater.Status) bool {
			return s.Release == tt.release && (len(s.Rejected) == 1) == (tt.release == "1.0.0") && (updated(tt.release)(s) || tt.onTimeout == policy.Abort)
		})
	}
}

// TestGateBetweenGrantAndDrain: an alert begins to fire after the permit was
// asked for and before any work is moved: the permit goes back unused.
func TestGateBetweenGrantAndDrain(t *testing.T) {
	b, g, l, why := ready(t), &gates{}, newLedger(), "alert DiskFull fires for db-2"
	b.policy.Reboot.RetryPause = time.Hour
	l.after = func(what string) {
		if what == "granted" {
			g.shut.Store(&why)
		}
	}
	l.in(b)
	in := b.adjust
	b.adjust = func(u *updater.Updater) { in(u); u.Gates = g }
	u, _ := b.up()
	b.until(u, func(s updater.Status) bool { return s.Permit == "none" && has(s.Reasons, "pause") })
	if got := b.steps(); !slices.Contains(got, "release") || slices.Contains(got, "drain") {
		t.Errorf("steps %v", got)
	}
}

// TestResumeHasABound: a scheduler that never answers to resume does not hang the
// daemon, and the status says what it waits for.
func TestResumeHasABound(t *testing.T) {
	b := ready(t)
	b.policy.Drain.Timeout = 100 * time.Millisecond
	b.stuck = true
	b.adjust = func(u *updater.Updater) {
		u.Scheduler = odd{Link: u.Scheduler, resume: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}
	}
	u, _ := b.up()
	b.until(u, func(s updater.Status) bool {
		return strings.Contains(s.LastError, "drain.timeout") && strings.Contains(s.LastError, "take work back")
	})
	if s := u.Status(); s.Permit != "held" {
		t.Errorf("%+v: the permit went back while the machine is cordoned", s)
	}
}

// TestMomentOfSilenceUndoesNothing: the scheduler is restarted in the middle of a
// drain. What was begun goes on when it is back.
func TestMomentOfSilenceUndoesNothing(t *testing.T) {
	b := ready(t)
	b.policy.Drain.Timeout, b.policy.Reboot.RetryPause = time.Minute, 0
	var looks, resumed atomic.Int64
	b.adjust = func(u *updater.Updater) {
		inner := u.Scheduler
		u.Scheduler = odd{Link: inner, standing: func(ctx context.Context) (fleetlink.Standing, error) {
			if b.cluster.Cordoned("m") && looks.Add(1) <= 2 {
				return fleetlink.Standing{}, errors.New("503")
			}
			return inner.Standing(ctx)
		}, resume: func(ctx context.Context) error { resumed.Add(1); return inner.Resume(ctx) }}
	}
	_, _ = b.up()
	b.left()
	if looks.Load() < 3 || resumed.Load() > 0 {
		t.Errorf("%d looks, resumed %d times", looks.Load(), resumed.Load())
	}
}

// TestLinkThatCannotBeMadeJudgesNoRelease: the policy names another scheduler since
// the machine was taken out of service. That says nothing of the new release.
func TestLinkThatCannotBeMadeJudgesNoRelease(t *testing.T) {
	b := ready(t)
	b.policy.Health.Timeout = 200 * time.Millisecond
	_, stop := b.up()
	b.left()
	stop()
	notAsked := func() error { return fleetlink.ErrNotAsked }
	b.adjust = func(u *updater.Updater) {
		u.Scheduler = odd{Link: u.Scheduler, standing: func(context.Context) (fleetlink.Standing, error) { return fleetlink.Standing{}, notAsked() },
			ailments: func(context.Context) ([]fleetlink.Workload, error) { return nil, notAsked() },
			resume:   func(context.Context) error { return notAsked() }}
	}
	u, _ := b.up()
	b.until(u, func(s updater.Status) bool { return s.Release == "1.1.0" && !s.OnTrial && has(s.Reasons, "scheduler") })
	if s := u.Status(); s.Permit != "held" || !b.flags()[partition.B].Successful {
		t.Errorf("%+v", s)
	}
}

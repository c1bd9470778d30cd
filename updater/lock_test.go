package updater_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/rebootlock/fleetlock"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/link"
	"github.com/drydock-os/drydock/updater/policy"
	"github.com/drydock-os/drydock/updater/sim"
)

// ledger is a lock that writes down what is asked of it.
type ledger struct {
	updater.RebootLock
	away  *atomic.Bool       // it cannot be reached
	stale *atomic.Bool       // it believes in a permit that is gone
	after func(phase string) // is called after a fence that was passed, "granted" after a grant
	mu    *sync.Mutex        // guards lines
	lines *[]string          // phases, endings with their details
	asked *[]updater.Intent  // for permits
}

func newLedger() *ledger {
	return &ledger{away: new(atomic.Bool), stale: new(atomic.Bool), mu: new(sync.Mutex), lines: new([]string), asked: new([]updater.Intent)}
}

// in puts the ledger before the lock of each daemon.
func (l *ledger) in(b *bench) {
	b.adjust = func(u *updater.Updater) {
		mine := *l
		mine.RebootLock = u.Lock
		u.Lock = mine
	}
}

func (l ledger) note(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	*l.lines = append(*l.lines, fmt.Sprintf(format, args...))
}

func (l ledger) noted() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(*l.lines)
}

var errAway = errors.New("etcd does not answer")

func (l ledger) Standing(ctx context.Context) (updater.Standing, error) {
	if l.away.Load() {
		return updater.Standing{}, errAway
	}
	s, err := l.RebootLock.Standing(ctx)
	if l.stale.Load() {
		s.Permit = updater.Held
	}
	return s, err
}

func (l ledger) Acquire(ctx context.Context, i updater.Intent) (updater.Permit, error) {
	if l.away.Load() {
		return updater.PermitUnknown, errAway
	}
	l.mu.Lock()
	*l.asked = append(*l.asked, i)
	l.mu.Unlock()
	p, err := l.RebootLock.Acquire(ctx, i)
	if p == updater.Held && l.after != nil {
		l.after("granted")
	}
	return p, err
}

func (l ledger) Fence(ctx context.Context, phase string) error {
	if l.away.Load() {
		return errAway
	}
	err := l.RebootLock.Fence(ctx, phase)
	if err == nil {
		l.note("%s", phase)
	}
	return err
}

func (l ledger) Release(ctx context.Context, ending updater.Ending, detail string) error {
	if l.away.Load() {
		return errAway
	}
	err := l.RebootLock.Release(ctx, ending, detail)
	if err == nil {
		l.note("%s: %s", ending, detail)
	}
	return err
}

// occupied is a host on which somebody may log in.
type occupied struct {
	*sim.Machine
	by *atomic.Bool
}

func (o occupied) Blockers(context.Context, policy.Policy) []updater.Reason {
	if o.by.Load() {
		return []updater.Reason{{Kind: "session", Text: "ann is logged in"}}
	}
	return nil
}

// TestEveryEndingOfAPermit: updated and rolled back are said only of what is so,
// after health and resume; an operator's rollback is no failure of a release.
func TestEveryEndingOfAPermit(t *testing.T) {
	b, l := ready(t), newLedger()
	l.in(b)
	b.policy.Health.Timeout = 100 * time.Millisecond
	b.live(updated("1.1.0"))
	b.ask = &updater.Request{Action: updater.ActRollback, Reason: "slow"}
	b.live(updated("1.0.0"))
	before := b.bootID()
	b.ask = &updater.Request{Action: updater.ActReboot, Reason: "new firmware"}
	b.live(func(s updater.Status) bool { return b.bootID() != before && updated("1.0.0")(s) })
	b.publish("1.2.0", releasePayload(t, "1.2.0", releaseImage(t, "1.2.0")))
	b.machine.Ails = func(release string) []updater.Reason {
		if release == "1.2.0" {
			return []updater.Reason{{Kind: "unit", Text: "unit web.service is failed"}}
		}
		return nil
	}
	b.live(func(s updater.Status) bool { return updated("1.0.0")(s) && len(s.Rejected) == 2 })
	want := []string{"draining", "staging", "staging", "rebooting", "updated: ",
		"draining", "staging", "rebooting", "updated: rolled back from 1.1.0 on an operator's word: slow",
		"draining", "rebooting", "rebooted: new firmware",
		"draining", "staging", "staging", "rebooting", "rolled-back: not healthy within 100ms: unit web.service is failed"}
	if got := l.noted(); !slices.Equal(got, want) {
		t.Errorf("the lock heard\n%q, want\n%q", got, want)
	}
	asked := []updater.Intent{
		{Reason: "update to 1.1.0", From: "1.0.0", To: "1.1.0"},
		{Reason: "rollback from 1.1.0", From: "1.1.0", To: "1.0.0"},
		{Reason: "reboot: new firmware", From: "1.0.0", To: "1.0.0"},
		{Reason: "update to 1.2.0", From: "1.0.0", To: "1.2.0"},
	}
	if !slices.Equal(*l.asked, asked) {
		t.Errorf("asked for %+v, want %+v", *l.asked, asked)
	}
}

// TestPermitIsNotHeldDuringALogin (SUSE/rebootmgr#4, zincati's login grace):
// somebody logs in with the grant. The permit goes back unused, and the machine
// asks again after a pause, behind the others.
func TestPermitIsNotHeldDuringALogin(t *testing.T) {
	b, l, by := ready(t), newLedger(), new(atomic.Bool)
	l.in(b)
	l.after = func(what string) { by.Store(what == "granted") }
	u, _ := b.up(func(u *updater.Updater) { u.Host = occupied{b.machine, by} })
	b.until(u, func(s updater.Status) bool { return len(l.noted()) > 0 && s.Permit == "none" && waiting(s) })
	if got, want := l.noted(), []string{"aborted: ann is logged in"}; !slices.Equal(got, want) {
		t.Errorf("the lock heard %q, want %q", got, want)
	}
	if len(b.cluster.Workloads("m")) == 0 || slices.Contains(b.steps(), "drain") {
		t.Errorf("steps %v: it was drained", b.steps())
	}
	b.group.Acquire(context.Background(), "other")
	if holders := b.group.Holders(); !slices.Equal(holders, []string{"other"}) {
		t.Errorf("the permit is with %v", holders)
	}
	by.Store(false)
	u.Wake()
	b.until(u, func(s updater.Status) bool { return has(s.Reasons, "pause") })
	if why := u.Status().Reasons; !strings.Contains(why[0].Text, "ann is logged in") || why[0].Until.IsZero() {
		t.Errorf("it says %+v", why)
	}
	b.got(u, updater.ActUnpause, updater.Done) // an operator has looked
	b.until(u, func(s updater.Status) bool { return s.Permit == "queued" })
}

// TestInhibitorAfterTheDrain (coreos/bugs#1111): work comes back, and the permit
// is not held until the inhibitor is gone.
func TestInhibitorAfterTheDrain(t *testing.T) {
	for _, phase := range []string{updater.PhaseDraining, updater.PhaseStaging} {
		b, l, by := ready(t), newLedger(), new(atomic.Bool)
		l.in(b)
		l.after = func(string) {}
		b.policy.Reboot.RetryPause = 50 * time.Millisecond
		u, _ := b.up(func(u *updater.Updater) {
			u.Host = occupied{b.machine, by}
			u.Lock = fenced{u.Lock, func(p string) {
				if p == phase {
					by.Store(true)
				}
			}}
		})
		b.until(u, func(s updater.Status) bool {
			return slices.Contains(l.noted(), "aborted: ann is logged in") && permitted("none")(s) && waiting(s)
		})
		if s := u.Status(); s.Drained || s.Staged || len(b.cluster.Workloads("m")) != 2 {
			t.Errorf("after %s: %+v, workloads %v", phase, s, b.cluster.Workloads("m"))
		}
	}
}

// fenced is a lock that tells of fences that were passed.
type fenced struct {
	updater.RebootLock
	told func(phase string)
}

func (f fenced) Fence(ctx context.Context, phase string) error {
	err := f.RebootLock.Fence(ctx, phase)
	if err == nil {
		f.told(phase)
	}
	return err
}

// TestStalePermitDrainsNothing: a machine that still believes in a permit that
// was taken away learns better at the fence, before any work is moved.
func TestStalePermitDrainsNothing(t *testing.T) {
	b, l := ready(t), newLedger()
	l.in(b)
	l.after = func(what string) { // taken away with the grant
		if what == "granted" {
			l.stale.Store(true)
			b.group.Release(context.Background(), "m")
		}
	}
	u, _ := b.up()
	b.until(u, func(s updater.Status) bool { return strings.Contains(s.LastError, rebootlock.ErrNotHolder.Error()) })
	l.stale.Store(false)
	u.Wake()
	b.until(u, func(s updater.Status) bool { return waiting(s) && s.Permit == "none" })
	if b.cluster.Cordoned("m") || u.Status().Staged {
		t.Errorf("cordoned %t, %+v", b.cluster.Cordoned("m"), u.Status())
	}
}

// TestFreezeEndsADrainInItsMiddle: an operator's stop does not wait for the
// drain's half an hour, and what was moved comes back.
func TestFreezeEndsADrainInItsMiddle(t *testing.T) {
	b, l := ready(t), newLedger()
	l.in(b)
	b.stuck = true
	u, _ := b.up()
	b.draining(u)
	b.group.Freeze("incident")
	u.Wake()
	b.until(u, func(s updater.Status) bool { return waiting(s) && s.Permit == "none" && !s.Drained })
	if got := l.noted(); len(got) != 2 || !strings.Contains(got[1], "aborted: the group is frozen: incident") {
		t.Errorf("the lock heard %q", got)
	}
	if got := b.steps(); !slices.Contains(got, "resume") {
		t.Errorf("steps %v: work that was half moved is not taken back", got)
	}
}

// TestLockAwayHoldsNoDownloadUp: without the lock nothing is granted, releases
// are written, the status says why, and all goes on by itself when it is back.
func TestLockAwayHoldsNoDownloadUp(t *testing.T) {
	b, l := ready(t), newLedger()
	l.in(b)
	l.away.Store(true)
	u, _ := b.up()
	b.until(u, func(s updater.Status) bool { return written("1.1.0")(s) && has(s.Reasons, "lock") })
	b.never("went on without the lock", func() bool { return len(l.noted()) > 0 || len(*l.asked) > 0 })
	l.away.Store(false)
	u.Wake()
	b.left()
}

// TestPermitFromBeforeIsGivenBack (flatcar/Flatcar#408): one that is held when
// the daemon starts, and that nothing needs, goes back once this boot is well.
func TestPermitFromBeforeIsGivenBack(t *testing.T) {
	b, l := newBench(t, "1.0.0"), newLedger()
	l.in(b)
	b.policy.Reboot.Windows = shutWindow(t)
	if _, err := b.group.Acquire(t.Context(), "m"); err != nil {
		t.Fatal(err)
	}
	u, _ := b.up()
	b.until(u, func(s updater.Status) bool { return waiting(s) && s.Permit == "none" })
	want := []string{"validate", "release", "check"}
	if got := b.steps(); !slices.Equal(got, want) {
		t.Errorf("steps %v, want %v", got, want)
	}
}

// TestFileAsksForAReboot: it takes the way of every reboot, and an operator's
// strategy off stands above it.
func TestFileAsksForAReboot(t *testing.T) {
	b, l := newBench(t, "1.0.0"), newLedger()
	l.in(b)
	b.live(waiting)
	b.policy.Reboot.Strategy = policy.Off
	b.machine.Wants = "/run/reboot-required asks for it: new kernel arguments"
	b.live(func(s updater.Status) bool { return waiting(s) && s.Pending == "reboot" && has(s.Reasons, "strategy") })
	if len(l.noted()) > 0 {
		t.Fatalf("strategy off, and the lock heard %q", l.noted())
	}
	b.policy.Reboot.Strategy = policy.Coordinated
	before := b.bootID()
	b.live(func(s updater.Status) bool { return b.bootID() != before && updated("1.0.0")(s) && s.Pending == "" })
	want := []string{"draining", "rebooting", "rebooted: /run/reboot-required asks for it: new kernel arguments"}
	if got := l.noted(); !slices.Equal(got, want) {
		t.Errorf("the lock heard %q, want %q", got, want)
	}
}

// TestFileThatIsGoneAsksForNothing: the wish goes with the file.
func TestFileThatIsGoneAsksForNothing(t *testing.T) {
	b := newBench(t, "1.0.0")
	b.live(waiting)
	b.group.Freeze("not now")
	b.machine.Wants = "/run/reboot-required asks for it"
	b.live(func(s updater.Status) bool { return waiting(s) && s.Pending == "reboot" && has(s.Reasons, "freeze") })
	b.machine.Wants = ""
	b.live(func(s updater.Status) bool { return waiting(s) && s.Pending == "" })
}

// TestFleetLockServerThatIsAwayHoldsNoDownloadUp, as zincati's does: whether this
// machine holds a permit from before nobody can say then. When the server is
// back nothing is waited for.
func TestFleetLockServerThatIsAwayHoldsNoDownloadUp(t *testing.T) {
	var up atomic.Bool
	var asked []string
	var mu sync.Mutex
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if !up.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		asked = append(asked, path.Base(r.URL.Path))
	}))
	defer server.Close()
	b := ready(t)
	client := fleetlock.Client{URL: server.URL, Group: "g", ID: "m"}
	b.adjust = func(u *updater.Updater) { u.Lock = link.FleetLock{Lock: &fleetlock.Lock{Client: client}} }
	u, _ := b.up()
	b.until(u, func(s updater.Status) bool { return s.Written && s.NewVersion == "1.1.0" })
	up.Store(true)
	said := func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(asked)
	}
	for deadline := time.Now().Add(30 * time.Second); len(said()) < 2 && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
	}
	if got, want := said(), []string{"steady-state", "pre-reboot"}; len(got) < 2 || !slices.Equal(got[:2], want) {
		t.Errorf("asked %v, want %v and no pause between", got, want)
	}
}

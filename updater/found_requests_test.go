package updater_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/policy"
)

// up starts a daemon on the machine, which is booted if it is not. It runs
// until it is stopped, or the test ends.
func (b *bench) up(adjust ...func(*updater.Updater)) (u *updater.Updater, stop func()) {
	b.t.Helper()
	if b.boot == nil || b.boot.Err() != nil {
		boot, err := b.machine.PowerOn(context.Background())
		if err != nil {
			b.t.Fatal(err)
		}
		b.boot = boot
	}
	u = b.daemon()
	for _, f := range adjust {
		f(u)
	}
	ctx, cancel := context.WithCancel(b.boot)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := u.Run(ctx); err != nil {
			b.t.Error(err)
		}
	})
	stop = func() { cancel(); wg.Wait() }
	b.t.Cleanup(stop)
	return u, stop
}

// until waits for a status, and ends the test if it does not come.
func (b *bench) until(u *updater.Updater, cond func(updater.Status) bool) {
	b.t.Helper()
	b.bounded(func() bool { return cond(u.Status()) })
	if s := u.Status(); !cond(s) {
		b.t.Fatalf("did not come about: %+v", s)
	}
}

func (b *bench) bounded(cond func() bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
	defer cancel()
	b.wait(ctx, cond)
}

// never gives what must not happen some time to happen.
func (b *bench) never(what string, cond func() bool) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	b.wait(ctx, cond)
	if cond() {
		b.t.Errorf("%s: %+v", what, b.current.Status())
	}
}

// left waits for the running system to end.
func (b *bench) left() {
	b.t.Helper()
	b.bounded(func() bool { return b.boot.Err() != nil })
	if b.boot.Err() == nil {
		b.t.Fatalf("release %s is not left: %+v", b.running(), b.current.Status())
	}
}

// do is a request that is answered soon.
func (b *bench) do(u *updater.Updater, r updater.Request) (updater.Outcome, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
	defer cancel()
	return u.Do(ctx, r)
}

// got says that a request must end so.
func (b *bench) got(u *updater.Updater, action updater.Action, want updater.Outcome) {
	b.t.Helper()
	if outcome, err := b.do(u, updater.Request{Action: action, Reason: "test"}); outcome != want || err != nil {
		b.t.Fatalf("%s: %q, %v, want %q", action, outcome, err, want)
	}
}

// refused says that a request must be refused, in those words.
func (b *bench) refused(u *updater.Updater, action updater.Action, words string) {
	b.t.Helper()
	outcome, err := b.do(u, updater.Request{Action: action, Reason: "test"})
	if !errors.Is(err, updater.ErrRefused) || !strings.Contains(err.Error(), words) {
		b.t.Errorf("%s: %q, %v, want it refused: %s", action, outcome, err, words)
	}
}

// fetched counts the downloads of a file.
func (b *bench) fetched(name string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.paths {
		if p == name {
			n++
		}
	}
	return n
}

// told counts the events of a type.
func (b *bench) told(t updater.EventType) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.events {
		if e.Type == t {
			n++
		}
	}
	return n
}

// clock is a daemon's clock that a test moves while the daemon runs.
type clock struct{ ahead atomic.Int64 }

func (c *clock) in(u *updater.Updater) {
	u.Now = func() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }
}

// move moves the clock, and has the daemon look at it.
func (c *clock) move(u *updater.Updater, d time.Duration) {
	c.ahead.Add(int64(d))
	u.SetPolicy(u.Policy())
}

func permitted(permit string) func(updater.Status) bool {
	return func(s updater.Status) bool { return s.Step == updater.Wait && s.Permit == permit }
}

// before has f see every request to the server first.
func (b *bench) before(f func(*http.Request)) {
	inner := b.server.Config.Handler
	b.server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f(r)
		inner.ServeHTTP(w, r)
	})
}

func TestStagedElsewherePingsOnce(t *testing.T) {
	b := ready(t)
	b.policy.Reboot.Strategy = policy.External
	var requests atomic.Int64
	b.before(func(*http.Request) { requests.Add(1) })
	u, _ := b.up()
	b.until(u, func(s updater.Status) bool { return s.Staged && s.Step == updater.Wait })
	for action, want := range map[updater.Action]updater.Outcome{updater.ActUpdate: updater.Updated, updater.ActCheck: updater.Done} {
		before := requests.Load()
		b.got(u, action, want)
		b.never("pings without end", func() bool { return requests.Load() > before+1 })
		if n := requests.Load() - before; n != 1 {
			t.Errorf("%s: %d requests, want one ping", action, n)
		}
	}
}

func TestAskedWhileQueuedIsAnswered(t *testing.T) {
	b := ready(t)
	b.group.Acquire(context.Background(), "other")
	u, _ := b.up()
	b.until(u, func(s updater.Status) bool { return s.Permit == "queued" })
	b.got(u, updater.ActUpdate, updater.Updated)
	b.got(u, updater.ActCheck, updater.Done)
}

// blind is a boot control whose flags cannot be read.
type blind struct{ partition.Control }

func (blind) Table() (partition.Table, error) {
	return partition.Table{}, errors.New("the partition table is damaged")
}

func TestAskedWhileFlagsAreUnknownIsRefused(t *testing.T) {
	b := ready(t)
	b.policy.Update.FirstCheck = time.Hour
	u, _ := b.up(func(u *updater.Updater) { u.Control = blind{u.Control} })
	b.refused(u, updater.ActUpdate, "the partition table is damaged")
	b.refused(u, updater.ActCheck, "the partition table is damaged")
	b.refused(u, updater.ActReboot, "the partition table is damaged")
}

func TestDownloadStoppedByAnotherIsSaid(t *testing.T) {
	b := ready(t)
	b.policy.Update.FirstCheck = time.Hour
	b.policy.Update.Bandwidth = 200 << 10
	u, _ := b.up()
	var wg sync.WaitGroup
	wg.Go(func() {
		b.bounded(func() bool { return u.Status().Operation == updater.Downloading })
		b.do(u, updater.Request{Action: updater.ActPause, Reason: "migration"})
	})
	b.refused(u, updater.ActUpdate, "stopped by an operator")
	wg.Wait()
	if s := u.Status(); s.Written || s.Paused != "migration" {
		t.Errorf("after the stop: %+v", s)
	}
}

func TestRebootUnderExternalIsRefused(t *testing.T) {
	b := newBench(t, "1.0.0")
	b.policy.Reboot.Strategy = policy.External
	u, _ := b.up()
	b.until(u, waiting)
	b.refused(u, updater.ActReboot, "another coordinator")
	if s := u.Status(); s.Pending != "" {
		t.Errorf("pending %q: it was taken all the same", s.Pending)
	}
}

func TestCancelledRollbackIsNotARejection(t *testing.T) {
	b := ready(t)
	b.live(updated("1.1.0"))
	b.policy.Reboot.Windows = shutWindow(t)
	u, _ := b.up()
	b.got(u, updater.ActRollback, updater.Accepted)
	if s := u.Status(); s.Pending != "rollback" || len(s.Rejected) != 1 {
		t.Errorf("after the rollback was asked for: %+v", s)
	}
	b.got(u, updater.ActCancel, updater.Done)
	if s := u.Status(); s.Pending != "" || len(s.Rejected) != 0 {
		t.Errorf("after it was cancelled: %+v", s)
	}
}

// heard is a context that tells when a request with it waits for its answer.
type heard struct {
	context.Context
	now func()
}

func (h heard) Done() <-chan struct{} {
	h.now()
	return h.Context.Done()
}

// looked is a lock that calls f before it says where the machine stands.
type looked struct {
	updater.RebootLock
	f func()
}

func (l looked) Standing(ctx context.Context) (updater.Standing, error) {
	l.f()
	return l.RebootLock.Standing(ctx)
}

func TestPauseThatArrivesDuringALook(t *testing.T) {
	b := ready(t)
	answered := make(chan error, 1)
	var once sync.Once
	u, _ := b.up(func(u *updater.Updater) {
		u.Lock = looked{u.Lock, func() {
			if u.Status().Operation != updater.UpdateAvailable {
				return
			}
			once.Do(func() { // the look between the check and the download
				asked := make(chan struct{})
				ctx := heard{context.Background(), sync.OnceFunc(func() { close(asked) })}
				go func() {
					_, err := u.Do(ctx, updater.Request{Action: updater.ActPause, Reason: "migration"})
					answered <- err
				}()
				<-asked
			})
		}}
	})
	b.until(u, func(s updater.Status) bool { return s.Paused != "" })
	if err := <-answered; err != nil {
		t.Error(err)
	}
	b.never("written while paused", func() bool { return u.Status().Written || b.fetched("1.1.0") > 0 })
	if s := u.Status(); !has(s.Reasons, "paused") {
		t.Errorf("reasons %+v", s.Reasons)
	}
}

func TestPauseHoldsStagingForAnotherCoordinator(t *testing.T) {
	b := ready(t)
	b.policy.Reboot.Strategy, b.policy.Reboot.RetryPause = policy.External, time.Hour
	var well atomic.Bool
	b.machine.PostInstall = func(context.Context, updater.HookRun) error {
		if !well.Load() {
			return errors.New("no space")
		}
		return nil
	}
	var c clock
	u, _ := b.up(c.in)
	b.until(u, func(s updater.Status) bool { return s.Step == updater.Wait && has(s.Reasons, "hook") })
	b.got(u, updater.ActPause, updater.Done)
	well.Store(true)
	c.move(u, 2*time.Hour)
	b.never("staged while paused", func() bool { return u.Status().Staged || b.flags()[partition.B].Bootable() })
	b.got(u, updater.ActUnpause, updater.Done)
	b.until(u, func(s updater.Status) bool { return s.Staged })
}

func TestDisabledUpdatesWriteNothing(t *testing.T) {
	b := ready(t)
	b.policy.Update.Windows = shutWindow(t)
	b.policy.Reboot.Strategy = policy.Off
	u, _ := b.up()
	b.until(u, func(s updater.Status) bool { return has(s.Reasons, "download-window") })
	p := b.policy
	p.Update.Enabled, p.Update.Windows = false, nil // the window opens
	u.SetPolicy(p)
	b.never("written although updates are disabled", func() bool { return b.fetched("1.1.0") > 0 })
	if s := u.Status(); s.Written || !has(s.Reasons, "disabled") {
		t.Errorf("%+v", s)
	}
	b.got(u, updater.ActUpdate, updater.Updated) // a person's word goes over it
}

func TestCurrentIsOnlySaidWhenItIs(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(*bench)
		offered bool
		at      func(updater.Status) bool
		want    bool
	}{
		{"nothing is offered", func(*bench) {}, false, waiting, true},
		{"written, and the window is shut", func(b *bench) { b.policy.Reboot.Windows = shutWindow(t) }, true, written("1.1.0"), false},
		{"written, and the strategy is off", func(b *bench) { b.policy.Reboot.Strategy = policy.Off }, true, written("1.1.0"), false},
		{"staged for another coordinator", func(b *bench) { b.policy.Reboot.Strategy = policy.External }, true,
			func(s updater.Status) bool { return waiting(s) && s.Staged }, false},
		{"in the queue", func(b *bench) { b.group.Acquire(context.Background(), "other") }, true,
			func(s updater.Status) bool { return s.Permit == "queued" }, false},
		{"refused without a key", func(b *bench) { b.keys = nil }, true, failedOnce, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, "1.0.0")
			if c.offered {
				b.publish("1.1.0", releasePayload(t, "1.1.0", releaseImage(t, "1.1.0")))
			}
			c.prepare(b)
			u, _ := b.up()
			b.until(u, c.at)
			if s := u.Status(); has(s.Reasons, "current") != c.want || len(s.Reasons) == 0 {
				t.Errorf("reasons %+v, want current: %t", s.Reasons, c.want)
			}
		})
	}
}

func TestQueuedMachineGivesItsTicketBackBeforeItDownloads(t *testing.T) {
	b := ready(t)
	b.group.Acquire(context.Background(), "other")
	var ticket atomic.Int64
	b.before(func(r *http.Request) {
		if s, _ := b.group.Standing(context.Background(), "m"); strings.HasSuffix(r.URL.Path, "/p/1.2.0") {
			ticket.Add(int64(s))
		}
	})
	var c clock
	u, _ := b.up(c.in)
	b.until(u, func(s updater.Status) bool { return s.Permit == "queued" })
	b.publish("1.2.0", releasePayload(t, "1.2.0", releaseImage(t, "1.2.0")))
	c.move(u, 24*time.Hour) // the next check is due
	b.until(u, func(s updater.Status) bool { return s.Written && s.Slots[partition.B].Release == "1.2.0" })
	if b.fetched("1.2.0") == 0 || ticket.Load() != 0 {
		t.Errorf("%d downloads, standing %d: a grant would have met a machine that downloads", b.fetched("1.2.0"), ticket.Load())
	}
	if got := strings.Join(b.steps(), " "); !strings.Contains(got, "release write") {
		t.Errorf("steps %s", got)
	}
}

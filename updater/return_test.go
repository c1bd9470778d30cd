package updater_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/updater"
)

// brisk is a clock whose pauses are short. It notes how long they were to be.
type brisk struct {
	mu      sync.Mutex
	longest time.Duration
}

func (b *brisk) Pause(ctx context.Context, d time.Duration, wake <-chan struct{}) {
	b.mu.Lock()
	b.longest = max(b.longest, d)
	b.mu.Unlock()
	timer := time.NewTimer(min(d, 10*time.Millisecond))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-wake:
	}
}

func (b *brisk) Within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, d)
}

func (b *brisk) Beside(f func()) (wait func()) {
	var group sync.WaitGroup
	group.Go(f)
	return group.Wait
}

// pauses returns the longest pause since it was called last.
func (b *brisk) pauses() (longest time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	longest, b.longest = b.longest, 0
	return longest
}

// TestWorkThatComesBackIsSeenSoon: the next machine waits for a permit whose
// holder looked for its work once a minute.
func TestWorkThatComesBackIsSeenSoon(t *testing.T) {
	b, clock := ready(t), &brisk{}
	var missing, resumed atomic.Bool
	missing.Store(true)
	b.adjust = func(u *updater.Updater) {
		u.Scheduler = returning{u.Scheduler, &missing, &resumed}
		u.Clock = clock
	}
	_, stop := b.up()
	b.left()
	stop()
	u, _ := b.up()
	b.until(u, func(s updater.Status) bool { return s.Permit == "held" && has(s.Reasons, "return") })
	clock.pauses()
	b.never("gave the permit back", func() bool { return u.Status().Permit == "none" })
	if longest := clock.pauses(); longest == 0 || longest > 10*time.Second {
		t.Errorf("looks for its work every %s, want that to be soon", longest)
	}
	missing.Store(false)
	b.until(u, updated("1.1.0")) // nobody wakes it
}

// lacking is a scheduler that finds this machine lacking something.
type lacking struct {
	fleetlink.Link
	what *atomic.Pointer[string]
}

func (l lacking) Ailments(ctx context.Context) ([]fleetlink.Workload, error) {
	if what := l.what.Load(); what != nil {
		return []fleetlink.Workload{{Name: "node m", Why: *what}}, nil
	}
	return l.Link.Ailments(ctx)
}

// TestTrialSaysWhatItLacks: a boot may be judged for minutes, and the status said
// nothing meanwhile.
func TestTrialSaysWhatItLacks(t *testing.T) {
	b := ready(t)
	b.policy.Health.Timeout, b.policy.Health.Scheduler = time.Minute, true
	var what atomic.Pointer[string]
	b.adjust = func(u *updater.Updater) { u.Scheduler = lacking{u.Scheduler, &what} }
	_, stop := b.up()
	b.left()
	stop()
	why := "it is not ready: the network is not up"
	what.Store(&why)
	u, _ := b.up()
	b.until(u, func(s updater.Status) bool {
		return s.Step == updater.Validate && has(s.Reasons, "health") && strings.Contains(s.Reasons[0].Text, why)
	})
	if told := b.told(updater.EventWaiting); told == 0 {
		t.Error("no event tells of it")
	}
	what.Store(nil)
	b.until(u, updated("1.1.0"))
	if s := u.Status(); has(s.Reasons, "health") {
		t.Errorf("%+v: it lacks nothing any more", s.Reasons)
	}
}

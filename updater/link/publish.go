package link

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/updater"
)

// The times of a publisher.
const (
	// publishPause is the least time between two statuses, and publishEvery about
	// the most: 10,000 machines that say nothing new write 33 times a second.
	publishPause = 3 * time.Second
	publishEvery = 5 * time.Minute
	// publishRetry is about how long a status that did not get through waits.
	publishRetry = 30 * time.Second
)

// A Publisher is an updater.Observer that tells the cluster what this machine
// says of itself: when something of weight has changed, and every few minutes.
// It never holds the updater up, and of what could not be told keeps the latest.
type Publisher struct {
	// To writes a status: rebootlock.Client.Publish.
	To func(context.Context, rebootlock.Status) error

	once  sync.Once
	fresh chan struct{} // something of weight has changed

	mu     sync.Mutex
	latest *rebootlock.Status
}

// Observe implements updater.Observer.
func (p *Publisher) Observe(e updater.Event) {
	s := statusOf(e.Status)
	p.mu.Lock()
	weighty := p.latest == nil || !alike(*p.latest, s)
	p.latest = &s
	p.mu.Unlock()
	if !weighty {
		return
	}
	select {
	case p.news() <- struct{}{}:
	default:
	}
}

func (p *Publisher) news() chan struct{} {
	p.once.Do(func() { p.fresh = make(chan struct{}, 1) })
	return p.fresh
}

// Run publishes until ctx ends.
func (p *Publisher) Run(ctx context.Context) error {
	for {
		wait := around(publishEvery)
		select {
		case <-p.news(): // what is told now
		default:
		}
		p.mu.Lock()
		latest := p.latest
		p.mu.Unlock()
		if latest != nil && p.To(ctx, *latest) != nil { // the lock itself says what is wrong with etcd
			wait = around(publishRetry)
		}
		if !nap(ctx, publishPause, nil) || !nap(ctx, wait, p.news()) {
			return ctx.Err()
		}
	}
}

// around is d, give or take a third: machines must not all write at once.
func around(d time.Duration) time.Duration {
	return d - d/3 + time.Duration(rand.Int64N(int64(2*d/3)))
}

// nap waits for a time or for news, and reports whether ctx goes on.
func nap(ctx context.Context, d time.Duration, news <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	case <-news:
	}
	return true
}

// maxSaid bounds the reasons and the rejected releases of a published status:
// who wants to know more asks the machine.
const maxSaid = 10

// statusOf is a status as the cluster has it.
func statusOf(s updater.Status) rebootlock.Status {
	out := rebootlock.Status{
		Release: s.Release, Slot: s.Booted, OnTrial: s.OnTrial, Step: s.StepName, Operation: s.Operation.String(),
		Progress: s.Progress, NewVersion: s.NewVersion, Permit: s.Permit, Strategy: s.Strategy, LastError: s.LastError,
	}
	for _, r := range s.Reasons[:min(len(s.Reasons), maxSaid)] {
		out.Waits = append(out.Waits, rebootlock.Obstacle(r))
	}
	for _, r := range s.Rejected[:min(len(s.Rejected), maxSaid)] {
		out.Rejected = append(out.Rejected, r.Version)
	}
	return out
}

// alike says whether b is no news after a: progress is none, but for every tenth.
func alike(a, b rebootlock.Status) bool {
	return a.Release == b.Release && a.Slot == b.Slot && a.OnTrial == b.OnTrial && a.Step == b.Step && a.Operation == b.Operation &&
		a.NewVersion == b.NewVersion && a.Permit == b.Permit && a.Strategy == b.Strategy && a.LastError == b.LastError &&
		int(a.Progress*10) == int(b.Progress*10) && slices.Equal(a.Rejected, b.Rejected) &&
		slices.EqualFunc(a.Waits, b.Waits, func(x, y rebootlock.Obstacle) bool { return x.Kind == y.Kind && x.Text == y.Text })
}

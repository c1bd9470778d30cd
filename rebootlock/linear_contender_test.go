package rebootlock

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// A contender is a machine that asks, fences and gives back, again and again.
type contender struct {
	*chaos
	n     int
	id    string
	store Store
	rng   *rand.Rand

	client *Client
	boots  int
	stop   func()
	news   chan struct{}
}

// contenderTTL is that of ticket and presence: shorter than faults may last.
const contenderTTL = 10 * time.Second

// boot starts the machine's client, as after a reboot.
func (m *contender) boot() {
	m.boots++
	news, self := make(chan struct{}, 1), Self{
		Machine: m.id, Instance: "instance-" + m.id, Boot: fmt.Sprintf("boot-%d", m.boots), Group: testGroup, Hostname: fmt.Sprintf("host-%d", m.n),
	}
	m.news = news
	m.client = &Client{
		Store: m.store, Keys: m.keys, Now: chaosNow, TTL: contenderTTL, Self: func() Self { return self },
		Rand: func(n int64) int64 { return rand.Int64N(n/20 + 1) }, // a fleet may take a minute to come back; a test does not
		Changed: func() {
			select {
			case news <- struct{}{}:
			default:
			}
		},
	}
	ctx, cancel := context.WithCancel(m.ctx)
	var wg sync.WaitGroup
	wg.Go(func() { _ = m.client.Run(ctx) }) // what the goodbye leaves ends with its lease
	m.stop = func() { cancel(); wg.Wait() }
}

func (m *contender) join() {
	ctx, cancel := context.WithTimeout(m.ctx, turnLimit)
	defer cancel()
	for m.client.Refresh(ctx) != nil {
		if !wait(ctx, 100*time.Millisecond) {
			m.t.Errorf("machine %d did not join within %s", m.n, turnLimit)
			return
		}
	}
}

// takeTurns takes turns until enough is closed, and one at least.
func (m *contender) takeTurns(ctx context.Context, enough <-chan struct{}) {
	for {
		if err := m.turn(ctx); err != nil {
			m.t.Errorf("machine %d: %v", m.n, err)
			return
		}
		select {
		case <-enough:
			return
		default:
		}
		if !wait(ctx, time.Duration(m.rng.IntN(50))*time.Millisecond) {
			return
		}
	}
}

// turn is one machine's way through the lock, with what it saw of it. Calls
// that fail are made again: an operation lasts from its first call to the answer
// that says how it stands, and one that never got such an answer stays open.
func (m *contender) turn(ctx context.Context) error {
	begun := chaosNow()
	granted, err := m.acquire(ctx)
	if err != nil {
		m.history.add(m.n, acquired, begun, time.Time{})
		return err
	}
	// The coordinator decided upon the grant at that time, and wrote it after it:
	// the machine cannot have come to hold before. To let the operation begin then,
	// and not when it was asked for, is sound therefore, allows strictly fewer
	// histories, and leaves porcupine a few operations at a time to put in order,
	// where 200 that wait would be open all the time.
	m.history.add(m.n, acquired, later(begun, granted), chaosNow())
	m.history.waited(chaosNow().Sub(begun))

	m.fence(ctx, PhaseDraining)
	wait(ctx, time.Duration(m.rng.IntN(5))*time.Millisecond)
	m.fence(ctx, PhaseRebooting)
	if m.rng.IntN(20) == 0 { // the others only say so
		m.stop()
		m.boot()
	}
	called := chaosNow()
	for {
		if err = m.client.Release(ctx, Updated, ""); err == nil {
			m.history.add(m.n, released, called, chaosNow())
			return nil
		}
		if !wait(ctx, 50*time.Millisecond) {
			m.history.add(m.n, released, called, time.Time{})
			return fmt.Errorf("give the permit back: %w", err)
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// acquire asks until the machine holds, and returns when that was decided.
func (m *contender) acquire(ctx context.Context) (granted time.Time, err error) {
	looked := chaosNow()
	for {
		var s State
		standing, asked := m.client.Acquire(ctx, Request{Reason: "test", From: "1", To: "2"})
		if err = asked; err == nil && standing == Holding {
			if s, err = m.client.Standing(ctx); err == nil && s.Standing == Holding {
				return s.Permit.Granted, nil
			}
		}
		if now := chaosNow(); now.Sub(looked) > 3*time.Second { // a watch on a member that stands still tells nothing
			looked = now
			err = errors.Join(err, m.client.Refresh(ctx))
		}
		timer := time.NewTimer(200*time.Millisecond + time.Duration(m.rng.IntN(200))*time.Millisecond)
		select {
		case <-m.news:
		case <-timer.C:
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("it got no permit: %w, %v", ctx.Err(), err)
		}
		timer.Stop()
	}
}

// fence begins a phase, and notes what that says about the permit.
func (m *contender) fence(ctx context.Context, phase string) {
	for range 3 {
		called := chaosNow()
		err := m.client.Fence(ctx, phase)
		switch {
		case err == nil:
			m.history.add(m.n, fenced, called, chaosNow())
			return
		case errors.Is(err, ErrNotHolder):
			m.history.add(m.n, denied, called, chaosNow())
			return
		}
		wait(ctx, 20*time.Millisecond) // an answer that did not come says nothing
	}
}

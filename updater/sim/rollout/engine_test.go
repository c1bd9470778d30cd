package rollout

import (
	"context"
	"slices"
	"testing"
	"time"
)

func newCrew() *crew {
	e := &engine{now: start}
	return &crew{e: e, after: func() {}}
}

func TestEngineKeepsOrder(t *testing.T) {
	e := &engine{now: start}
	var got []int
	say := func(n int) func() { return func() { got = append(got, n) } }
	e.after(2*time.Second, say(4))
	e.after(time.Second, func() {
		say(1)()
		e.at(e.now, say(3)) // after what was asked for before
	})
	e.after(time.Second, say(2))
	for e.step() {
	}
	if want := []int{1, 2, 3, 4}; !slices.Equal(got, want) || e.now != start.Add(2*time.Second) {
		t.Errorf("%v at %s", got, e.now)
	}
}

// TestClock: what ends a pause, and when.
func TestClock(t *testing.T) {
	for name, test := range map[string]struct {
		do   func(c *crew)
		want time.Duration
	}{
		"time": {func(c *crew) { c.Pause(context.Background(), time.Minute, nil) }, time.Minute},
		"wake": {func(c *crew) {
			wake := make(chan struct{}, 1)
			c.e.after(time.Second, func() { wake <- struct{}{}; c.poke(true) })
			c.Pause(context.Background(), time.Minute, wake)
		}, time.Second},
		"a wake before": {func(c *crew) {
			wake := make(chan struct{}, 1)
			wake <- struct{}{}
			c.Pause(context.Background(), time.Minute, wake)
		}, 0},
		"a wake of others": {func(c *crew) {
			c.e.after(time.Second, func() { c.poke(true) })
			c.Pause(context.Background(), time.Minute, nil)
		}, time.Minute},
		"context": {func(c *crew) {
			ctx, cancel := c.Within(context.Background(), 2*time.Second)
			defer cancel()
			c.Pause(ctx, time.Minute, nil)
		}, 2 * time.Second},
		"context ended": {func(c *crew) {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			c.Pause(ctx, time.Minute, nil)
		}, 0},
		"beside": {func(c *crew) {
			ctx, cancel := context.WithCancel(context.Background())
			join := c.Beside(func() {
				for ctx.Err() == nil {
					c.Pause(ctx, time.Second, nil)
				}
			})
			c.Pause(ctx, 2500*time.Millisecond, nil)
			cancel()
			join()
		}, 2500 * time.Millisecond},
		"beside for longer": {func(c *crew) { c.Beside(func() { c.Pause(context.Background(), time.Minute, nil) })() }, time.Minute},
		"beside, stopping": {func(c *crew) {
			ctx, cancel := context.WithCancel(context.Background())
			join := c.Beside(func() {
				c.Pause(ctx, time.Second, nil)
				cancel()
			})
			c.Pause(ctx, time.Minute, nil)
			join()
		}, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			c, took := newCrew(), time.Duration(-1)
			c.start(func() {
				test.do(c)
				took = c.e.now.Sub(start)
			})
			for c.e.step() {
			}
			if took != test.want || len(c.threads) != 0 {
				t.Errorf("took %s, want %s; %d threads left", took, test.want, len(c.threads))
			}
		})
	}
}

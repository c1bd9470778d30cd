package main

import (
	"context"
	"sort"
	"sync"
	"time"
)

// result is what one cell came to.
type result struct {
	took      time.Duration // from the first release, or grant, to the last release
	handovers []time.Duration
	served    int
	requests  int64
}

// turn is one machine's permit.
type turn struct {
	machine           int
	granted, released time.Time // released: when it began to give back
}

// drive has every machine ask at once, hold, and give back. Where there is a
// queue, nothing is granted before all have asked: the group is frozen till then.
func drive(ctx context.Context, f fleet, l load_, limit time.Duration) result {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var mu sync.Mutex
	var turns []turn
	var wg sync.WaitGroup
	before := f.requests()
	began := time.Now()
	for i := range l.machines {
		wg.Go(func() {
			if f.acquire(ctx, i) != nil {
				return
			}
			t := turn{machine: i, granted: time.Now()}
			if l.hold > 0 {
				select {
				case <-ctx.Done():
					return
				case <-time.After(l.hold):
				}
			}
			t.released = time.Now()
			if f.release(ctx, i) != nil {
				return
			}
			mu.Lock()
			turns = append(turns, t)
			mu.Unlock()
		})
	}
	if q, ok := f.(interface {
		open(context.Context, int) time.Time
	}); ok {
		began = q.open(ctx, l.machines)
	}
	wg.Wait()
	r := result{took: time.Since(began), served: len(turns), requests: f.requests() - before}
	r.handovers = handovers(turns, l.permits)
	return r
}

// handovers pairs each release with the grant that it made possible: with k
// permits, the i-th release in time lets the (i+k)-th machine in.
func handovers(turns []turn, k int) (all []time.Duration) {
	grants, releases := make([]time.Time, 0, len(turns)), make([]time.Time, 0, len(turns))
	for _, t := range turns {
		grants, releases = append(grants, t.granted), append(releases, t.released)
	}
	sort.Slice(grants, func(i, j int) bool { return grants[i].Before(grants[j]) })
	sort.Slice(releases, func(i, j int) bool { return releases[i].Before(releases[j]) })
	for i := 0; i+k < len(grants); i++ {
		all = append(all, max(grants[i+k].Sub(releases[i]), 0))
	}
	return all
}

// Package gate asks what else must be well before a machine may go down, and
// before the next one may: alerts of a Prometheus, an answer over HTTP.
package gate

import (
	"context"
	"sync"
	"time"
)

// A Gate is something that must be well. Besides those of this package,
// fleetlink/hook has one that is an executable.
type Gate interface {
	// Shut says in sentences why the gate is shut; none: it is open. What could not
	// be asked is shut. It changes nothing, and ends soon after its context.
	Shut(ctx context.Context) []string
}

// Gates are open when all of List are. Set the fields, then call Shut, from any
// goroutine.
type Gates struct {
	List     []Gate
	Every    time.Duration    // how long an answer holds; zero: DefaultEvery; negative: not at all
	Patience time.Duration    // for one gate; zero: DefaultPatience
	Now      func() time.Time // nil: time.Now

	turn sync.Mutex // one asks at a time, and the next takes its answer
	said []string
	at   time.Time
}

// What zero values of Gates mean. DefaultPatience is half of what a look of the
// updater may take (20 s).
const (
	DefaultEvery    = 30 * time.Second
	DefaultPatience = 10 * time.Second
)

// Shut says of each gate that is not open why, in sentences, in the order of
// List. All are asked at the same time. An answer that was cut off by the end of
// ctx is given, and not kept.
func (g *Gates) Shut(ctx context.Context) []string {
	g.turn.Lock()
	defer g.turn.Unlock()
	every, now := g.Every, g.now()
	if every == 0 {
		every = DefaultEvery
	}
	if age := now.Sub(g.at); !g.at.IsZero() && age >= 0 && age < every { // a clock that was set back keeps nothing
		return g.said
	}
	said := g.ask(ctx)
	if g.said, g.at = said, now; ctx.Err() != nil {
		g.said, g.at = nil, time.Time{}
	}
	return said
}

// ask asks every gate, whatever was said before.
func (g *Gates) ask(ctx context.Context) (all []string) {
	patience := g.Patience
	if patience <= 0 {
		patience = DefaultPatience
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	said := make([][]string, len(g.List))
	var wg sync.WaitGroup
	for i, gate := range g.List {
		wg.Go(func() { said[i] = gate.Shut(ctx) })
	}
	wg.Wait()
	for _, why := range said {
		all = append(all, why...)
	}
	return all
}

func (g *Gates) now() time.Time {
	if g.Now == nil {
		return time.Now()
	}
	return g.Now()
}

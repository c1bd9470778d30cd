package rebootlock

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// The coordinator's own times.
const (
	// stampInterval is how often the coordinator says that it is at work. Three
	// times as long without a word, and the others call it stalled.
	stampInterval = 20 * time.Second
	// leadTTL is how long a coordinator that died keeps others from its place. A
	// member of etcd that stands still is noticed after up to 13 s; its clients'
	// leases must outlast that.
	leadTTL = 25 * time.Second
	// rereadInterval is how often everything is read anew, whatever the watch says.
	rereadInterval = 2 * time.Minute
	// holdBack is how long one that resigned for trouble lets others try.
	holdBack = time.Minute
)

// errDeposed ends a reign whose leadership is gone.
var errDeposed = errors.New("another coordinator was elected")

// errPutBack ends a reign over a store that is at an earlier revision than it
// was: what is known is of a time that never was.
var errPutBack = errors.New("the store was put back to an earlier state")

// errAside ends the reign of a coordinator that holds a permit itself.
var errAside = errors.New("this machine is to reboot: it coordinates again when it is back")

// A Coordinator stands for election and, elected, grants permits. Any number of
// them may run; at most one reigns, and every write of its reign is made only
// while that holds.
type Coordinator struct {
	Store   Store
	Keys    Keys
	Machine string // machine-id, or another name
	Now     func() time.Time
	// May reports whether this machine may coordinate now: not while it holds a
	// permit. nil: always.
	May func() bool
	// Trouble is told why a reign ended early, and nil when the next begins; it may
	// be nil.
	Trouble func(error)
	// Spread is how long at most a candidate waits before it stands again, at
	// random, and up to eight times as long while it cannot; 0: 5 s.
	Spread time.Duration

	told tallies
}

// Run stands for election and reigns, again and again, until ctx ends. It
// returns ctx's error.
func (c *Coordinator) Run(ctx context.Context) error {
	for tries := 0; ctx.Err() == nil; {
		wait := time.Duration(0)
		if c.May == nil || c.May() {
			elected, err := c.term(ctx)
			if tries++; elected {
				tries = 0
			}
			if ctx.Err() == nil {
				wait = c.after(err)
			}
		}
		sleep(ctx, wait+c.spread(tries))
	}
	return ctx.Err()
}

// spread is a random pause, longer after each try that came to nothing: every
// machine of a cluster may be a candidate, and etcd away.
func (c *Coordinator) spread(tries int) time.Duration {
	limit := c.Spread
	if limit <= 0 {
		limit = 5 * time.Second
	}
	return time.Duration(rand.Int64N(int64(limit << min(tries, 3))))
}

// after tells why a term ended, and says how long to let others try.
func (c *Coordinator) after(err error) time.Duration {
	if errors.Is(err, errAside) || errors.Is(err, errDeposed) {
		return 0
	}
	if c.Trouble != nil {
		c.Trouble(err)
	}
	if errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNewer) || errors.Is(err, ErrRefused) || errors.Is(err, errClock) {
		return holdBack
	}
	return 0
}

// term is one candidacy, and the reign if it comes to one.
func (c *Coordinator) term(ctx context.Context) (elected bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	session, err := c.Store.Session(ctx, leadTTL)
	if err != nil {
		cancel()
		return false, fmt.Errorf("stand for coordinator: %w", err)
	}
	defer func() {
		bounded, done := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer done()
		_ = session.Resign(bounded) // what is not given back ends with the lease
		_ = session.Close(bounded)
	}()
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel()
	watch.Go(func() {
		select {
		case <-session.Done(): // whatever is being written compares the leadership too
			cancel()
		case <-ctx.Done():
		}
	})
	lead, err := session.Campaign(ctx, c.Keys.Election(), []byte(c.Machine))
	if errors.Is(err, ErrRefused) && ctx.Err() == nil {
		return false, fmt.Errorf("stand for coordinator: etcd does not let this machine coordinate cluster %s, which it leaves to others: give its user the role of a coordinator (etcd-roles.md), or set cluster.coordinate = false: %w", c.Keys.Cluster, err)
	}
	if err != nil {
		return false, fmt.Errorf("stand for coordinator: %w", err)
	}
	return true, c.reign(ctx, lead)
}

// reign coordinates until the leadership, or the wish for it, ends.
func (c *Coordinator) reign(ctx context.Context, lead Leadership) error {
	r, err := c.Begin(ctx, lead)
	if err != nil {
		return err
	}
	defer c.untell()
	if c.Trouble != nil {
		c.Trouble(nil)
	}
	for {
		if err := c.follow(ctx, r); err != nil {
			return err
		}
		if err := r.reread(ctx); err != nil {
			return err
		}
	}
}

// follow passes on every change, until it is time to read everything anew.
func (c *Coordinator) follow(ctx context.Context, r *Reign) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events := c.Store.Watch(ctx, r.Revision(), c.Keys.everything())
	until := c.Now().Add(rereadInterval)
	for {
		next, err := r.Pass(ctx)
		if err != nil {
			return err
		}
		c.tell(r)
		if c.May != nil && !c.May() {
			return errAside
		}
		now := c.Now()
		if !now.Before(until) {
			return nil
		}
		timer := time.NewTimer(min(max(next.Sub(now), 0), until.Sub(now), stampInterval/2))
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case batch, ok := <-events:
			timer.Stop()
			if !ok { // a gap: everything is read anew, and not again and again at once
				sleep(ctx, c.spread(0)/10)
				return ctx.Err()
			}
			r.Apply(batch)
			for more := true; more; { // what has come meanwhile is judged with it
				select {
				case batch, more = <-events:
					r.Apply(batch)
				default:
					more = false
				}
			}
		case <-timer.C:
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

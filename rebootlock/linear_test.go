package rebootlock

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/drydock-os/drydock/rebootlock/etcdtest"
)

// The bounds of a run.
const (
	contenders  = 200
	connections = 8
	// strikeTime is how long a round has faults; then all is healed, everybody
	// comes to the end of its turn, and what was seen is checked.
	strikeTime = 9 * time.Second
	// turnLimit is how long after the faults everybody must have had its turn.
	turnLimit = 2 * time.Minute
	// checkLimit is how long porcupine may think about one round: what it cannot
	// decide in that time counts as a failure.
	checkLimit = 30 * time.Second
)

// chaosTime is how long TestLinearizable lasts: DRYDOCK_CHAOS, or 20 s.
func chaosTime(t *testing.T) time.Duration {
	text := os.Getenv("DRYDOCK_CHAOS")
	if text == "" {
		return 20 * time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("DRYDOCK_CHAOS: %v", err)
	}
	return d
}

// chaosSeed is DRYDOCK_SEED, or one by the clock. The schedule of the faults
// follows from it; what else happens depends on the machine.
func chaosSeed(t *testing.T) uint64 {
	text := os.Getenv("DRYDOCK_SEED")
	if text == "" {
		return uint64(chaosNow().UnixNano()) % 1_000_000
	}
	seed, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("DRYDOCK_SEED: %v", err)
	}
	return seed
}

// TestLinearizable has 200 machines take turns on three members of etcd that
// are killed, stopped, paused and cut off, under three coordinators that come,
// go, and send what they decided long after they were deposed. Checked are: the
// history that the machines saw, against a semaphore; how many hold at each
// revision of the store; the order of the grants; and that everybody has its
// turn in every round.
//
// It lasts 20 s, and with DRYDOCK_CHAOS=3m as long as that says. It prints its
// seed, and DRYDOCK_SEED takes one.
func TestLinearizable(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 20 s")
	}
	seed, lasts := chaosSeed(t), chaosTime(t)
	t.Logf("DRYDOCK_SEED=%d DRYDOCK_CHAOS=%s", seed, lasts)
	cluster := etcdtest.Start(t, etcdtest.Options{Members: 3, Flags: []string{"--unsafe-no-fsync"}})
	open := func() Store {
		e, err := DialEtcd(EtcdOptions{Endpoints: cluster.Endpoints()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { e.Close() })
		return e
	}
	c := newChaos(t, open, nil)
	rng := rand.New(rand.NewPCG(seed, 1))
	c.start(contenders, connections)
	n := &nemesis{chaos: c, cluster: cluster, down: map[int]bool{}}
	for begun, round := chaosNow(), 1; !t.Failed() && (round == 1 || chaosNow().Sub(begun)+strikeTime < lasts); round++ {
		limit := 2 + rng.IntN(3)
		t.Logf("round %d: max %d", round, limit)
		c.round(limit, func(ctx context.Context) { n.haunt(ctx, rng, strikeTime) })
		c.verdict()
	}
	t.Logf("%d late transactions of deposed coordinators arrived, and were refused", c.late())
}

// chaos is a lock with everybody who uses it, and all that is seen of it.
type chaos struct {
	t            *testing.T
	keys         Keys
	open         func() Store // a connection of its own
	operator     Operator
	contenders   []*contender
	coordinators []*coordinated
	watcher      *watcher
	history      *chronicle
	ctx          context.Context
	running      sync.WaitGroup
}

// newChaos prepares a lock. Each coordinator's store goes through harm, which
// may be nil.
func newChaos(t *testing.T, open func() Store, harm func(Store) Store) *chaos {
	c := &chaos{t: t, keys: Keys{Cluster: "chaos"}, open: open, history: &chronicle{}}
	ctx, cancel := context.WithCancel(context.Background())
	c.ctx = ctx
	t.Cleanup(func() { cancel(); c.running.Wait() })
	c.operator = Operator{Store: open(), Keys: c.keys, Who: "operator chaos", Now: chaosNow}
	c.watcher = newWatcher(c.keys)
	eye := open()
	c.running.Go(func() { c.watcher.run(ctx, eye) })
	for i := range 3 {
		store := open()
		if harm != nil {
			store = harm(store)
		}
		c.coordinators = append(c.coordinators, newCoordinated(c, i, store))
	}
	return c
}

// start has the machines join, and the coordinators stand for election.
func (c *chaos) start(machines, connections int) {
	c.t.Helper()
	c.setMax(1)
	for _, k := range c.coordinators {
		k.start()
	}
	var stores []Store
	for range connections {
		stores = append(stores, c.open())
	}
	var joins sync.WaitGroup
	for i := range machines {
		m := &contender{chaos: c, n: i, id: fmt.Sprintf("%032x", i+1), store: stores[i%connections], rng: rand.New(rand.NewPCG(uint64(i), 2))}
		c.contenders = append(c.contenders, m)
		joins.Go(func() { m.boot(); m.join() })
	}
	joins.Wait()
	c.t.Cleanup(func() {
		for _, m := range c.contenders {
			m.stop()
		}
		for _, k := range c.coordinators {
			k.stop()
		}
	})
}

// setMax changes the group's rules while nobody asks for anything.
func (c *chaos) setMax(limit int) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.ctx, turnLimit)
	defer cancel()
	if _, _, err := c.operator.Apply(ctx, testGroup, Rules{Version: version, Max: Max{Count: limit}}); err != nil {
		c.t.Fatalf("set max: %v", err)
	}
	c.history.limit = limit
}

// round has everybody take turns while harm goes on, and one whole turn at
// least. It returns when nobody holds or waits, and the watcher has seen it.
func (c *chaos) round(limit int, harm func(context.Context)) {
	c.t.Helper()
	c.setMax(limit)
	c.history.ops = nil
	harmed := make(chan struct{})
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	var turns sync.WaitGroup
	for _, m := range c.contenders {
		turns.Go(func() { m.takeTurns(ctx, harmed) })
	}
	harm(ctx)
	close(harmed)
	limitReached := time.AfterFunc(turnLimit, cancel)
	turns.Wait()
	if !limitReached.Stop() {
		v, err := c.operator.Look(c.ctx)
		c.t.Errorf("somebody starved: not everybody had its turn within %s after the faults; coordinator %+v, groups %+v, %v", turnLimit, v.Coordinator, v.Groups, err)
	}
	// The marker is no record that anybody knows: it is there to be seen.
	ctx, done := context.WithTimeout(c.ctx, turnLimit)
	defer done()
	c.watcher.put(c.t, ctx, c.operator.Store, []Op{{Key: c.keys.root() + "lock/marker", Value: []byte(chaosNow().String())}})
}

// verdict checks what was seen of a round.
func (c *chaos) verdict() {
	c.t.Helper()
	found, grants := c.watcher.findings()
	for _, f := range found {
		c.t.Error(f)
	}
	begun := chaosNow()
	if got := c.history.check(checkLimit); got != porcupine.Ok {
		c.t.Errorf("%d operations of %d machines: porcupine says %s, want %s", len(c.history.ops), len(c.contenders), got, porcupine.Ok)
	}
	c.t.Logf("%d grants so far; %d operations in this round, checked in %s; longest wait %s", grants, len(c.history.ops),
		chaosNow().Sub(begun).Round(time.Millisecond), c.history.longest.Round(time.Millisecond))
}

// late counts the transactions that came after their coordinator was deposed.
func (c *chaos) late() (n int) {
	for _, k := range c.coordinators {
		n += k.valve.refused()
	}
	return n
}

// chaosEpoch and chaosNow are a wall clock that nobody steps: times that a
// record brings are compared with times that were measured.
var chaosEpoch = time.Now()

func chaosNow() time.Time { return chaosEpoch.Add(time.Since(chaosEpoch)) }

// wait waits, and reports whether there is still somebody to wait for.
func wait(ctx context.Context, d time.Duration) bool { sleep(ctx, d); return ctx.Err() == nil }

package rebootlock

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A counter is a store that counts what is asked of it, and from when on.
type counter struct {
	Store
	requests atomic.Int64
	busiest  atomic.Int64 // requests in one second, at most

	mu     sync.Mutex
	second int64
	within int64
}

func (c *counter) count() {
	c.requests.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now().Unix(); now != c.second {
		c.second, c.within = now, 0
	}
	c.within++
	c.busiest.Store(max(c.busiest.Load(), c.within))
}

func (c *counter) Read(ctx context.Context, ranges ...Range) (Snapshot, error) {
	c.count()
	return c.Store.Read(ctx, ranges...)
}

func (c *counter) Commit(ctx context.Context, t Txn) (Result, error) {
	c.count()
	return c.Store.Commit(ctx, t)
}

func (c *counter) Session(ctx context.Context, ttl time.Duration) (Session, error) {
	c.count()
	return c.Store.Session(ctx, ttl)
}

// A harbour is a cluster in which everything runs by itself, in a bubble of
// synctest.
type harbour struct {
	t       *testing.T
	store   *Memory
	asked   *counter
	keys    Keys
	running sync.WaitGroup
	stop    context.CancelFunc
	ctx     context.Context
}

func newHarbour(t *testing.T, rules Rules) *harbour {
	h := &harbour{t: t, store: &Memory{Now: time.Now}, keys: Keys{Cluster: "test"}}
	h.asked = &counter{Store: h.store}
	h.ctx, h.stop = context.WithCancel(t.Context())
	rules.Version = version
	h.write(h.keys.Rules(testGroup), encode(rules, nil))
	c := &Coordinator{Store: h.store, Keys: h.keys, Machine: "coordinator", Now: time.Now}
	h.running.Go(func() { c.Run(h.ctx) })
	return h
}

func (h *harbour) write(key string, value []byte) {
	h.t.Helper()
	if _, err := h.store.Commit(h.t.Context(), Txn{Then: []Op{{Key: key, Value: value, Delete: value == nil}}}); err != nil {
		h.t.Fatal(err)
	}
}

func (h *harbour) end() {
	h.stop()
	h.running.Wait()
}

// client is a machine that is not running yet.
func (h *harbour) client(n int) *Client {
	self := Self{Machine: fmt.Sprintf("%032x", n), Instance: fmt.Sprint("i", n), Boot: fmt.Sprint("b", n), Group: testGroup}
	return &Client{Store: h.asked, Keys: h.keys, Self: func() Self { return self }, Now: time.Now}
}

// run runs a machine, and returns when it has joined.
func (h *harbour) run(c *Client) {
	h.running.Go(func() {
		if err := c.Run(h.ctx); err != nil {
			h.t.Errorf("run: %v", err)
		}
	})
	synctest.Wait()
}

func standing(t *testing.T, c *Client) State {
	t.Helper()
	s, err := c.Standing(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestOneRequestForEachCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarbour(t, Rules{Max: Max{Count: 1}})
		defer h.end()
		c := h.client(1)
		h.run(c)
		total := h.asked.requests.Load()
		cost := func(what string, most int64, call func() error) {
			t.Helper()
			before := h.asked.requests.Load()
			if err := call(); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			synctest.Wait()
			if n := h.asked.requests.Load() - before; n > most {
				t.Errorf("%s takes %d requests, want %d", what, n, most)
			}
		}
		ctx := t.Context()
		cost("standing", 0, func() error { return expect(None)(c.Standing(ctx)) })
		cost("acquire", 1, func() error { _, err := c.Acquire(ctx, Request{To: "2"}); return err })
		time.Sleep(time.Second) // granted
		cost("standing", 0, func() error { return expect(Holding)(c.Standing(ctx)) })
		cost("acquire of a holder", 0, func() error { _, err := c.Acquire(ctx, Request{To: "2"}); return err })
		for _, phase := range []string{PhaseDraining, PhaseStaging, PhaseRebooting} {
			cost(phase, 1, func() error { return c.Fence(ctx, phase) })
		}
		cost("release", 1, func() error { return c.Release(ctx, Updated, "") })
		cost("standing", 0, func() error { return expect(None)(c.Standing(ctx)) })
		if n := h.asked.requests.Load() - total; n > 5 {
			t.Errorf("a whole turn takes %d requests, want 5 at most", n)
		}
	})
}

func expect(want Standing) func(State, error) error {
	return func(s State, err error) error {
		if err == nil && s.Standing != want {
			return fmt.Errorf("standing %v, want %v: %+v", s.Standing, want, s)
		}
		return err
	}
}

func TestFreezeIsKnownAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarbour(t, Rules{Max: Max{Count: 1}})
		defer h.end()
		c := h.client(1)
		var woken atomic.Int64
		c.Changed = func() { woken.Add(1) }
		h.run(c)
		before, at := woken.Load(), time.Now()
		h.write(h.keys.Rules(testGroup), encode(Rules{Version: 1, Max: Max{Count: 1}, Freeze: &Freeze{Reason: "incident", By: "ann"}}, nil))
		synctest.Wait()
		if woken.Load() == before || !has(standing(t, c).Stops, "freeze") || !time.Now().Equal(at) {
			t.Errorf("woken %d times, %+v", woken.Load()-before, standing(t, c))
		}
	})
}

// TestGrantsToOthersAreNotHeard: with ten thousand machines, what all would hear
// of each grant is what etcd could not send.
func TestGrantsToOthersAreNotHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarbour(t, Rules{Max: Max{Count: 1}})
		defer h.end()
		idle, busy := h.client(1), h.client(2)
		var woken atomic.Int64
		idle.Changed = func() { woken.Add(1) }
		h.run(idle)
		h.run(busy)
		before, requests := woken.Load(), idle.Store.(*counter).requests.Load()
		for range 5 {
			if _, err := busy.Acquire(t.Context(), Request{}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second)
			if err := busy.Release(t.Context(), Updated, ""); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second)
		}
		if n := woken.Load() - before; n != 0 {
			t.Errorf("woken %d times", n)
		}
		if n := h.asked.requests.Load() - requests; n > 12 {
			t.Errorf("%d requests, of which 10 are those of the busy one", n)
		}
	})
}

func TestEndTakesPresenceAndTicketAndLeavesThePermit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarbour(t, Rules{Max: Max{Count: 1}})
		defer h.end()
		holder, waiter := h.client(1), h.client(2)
		ctx, stop := context.WithCancel(t.Context())
		var gone sync.WaitGroup
		for _, c := range []*Client{holder, waiter} {
			gone.Go(func() {
				if err := c.Run(ctx); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
			if _, err := c.Acquire(t.Context(), Request{}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if standing(t, holder).Standing != Holding || standing(t, waiter).Standing != Queued {
			t.Fatal("one should hold, and one wait")
		}
		stop()
		gone.Wait()
		for kind, want := range map[string]int{kindPresence: 0, kindTicket: 0, kindPermit: 1, kindMember: 2} {
			s, err := h.store.Read(t.Context(), h.keys.all(kind))
			if err != nil || len(s.KVs) != want {
				t.Errorf("%s: %d records, want %d; %v", kind, len(s.KVs), want, err)
			}
		}
	})
}

// TestOutageOfHoursEndsWithoutAStampede: 200 machines find that etcd is back.
func TestOutageOfHoursEndsWithoutAStampede(t *testing.T) {
	const machines = 200
	synctest.Test(t, func(t *testing.T) {
		h := newHarbour(t, Rules{Max: Max{Count: 1}})
		defer h.end()
		var all []*Client
		for n := range machines {
			c := h.client(n + 1)
			all = append(all, c)
			h.running.Go(func() { c.Run(h.ctx) })
		}
		time.Sleep(2 * time.Minute)
		if _, err := all[0].Acquire(t.Context(), Request{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if err := all[0].Fence(t.Context(), PhaseDraining); err != nil { // a grant that is not collected would go back
			t.Fatal(err)
		}
		away := errors.New("etcd is away")
		h.store.Outage(away)
		time.Sleep(time.Minute)
		if s, err := all[1].Standing(t.Context()); !errors.Is(err, away) {
			t.Errorf("standing %v is known while etcd is away: %v", s.Standing, err)
		}
		if err := all[0].Fence(t.Context(), PhaseRebooting); !errors.Is(err, away) {
			t.Errorf("a phase began while etcd is away: %v", err)
		}
		before := h.asked.requests.Load()
		time.Sleep(3 * time.Hour)
		each := float64(h.asked.requests.Load()-before) / machines / 180
		if each < 1 || each > 3 {
			t.Errorf("%.1f tries a minute and machine, want about 2", each)
		}
		h.asked.busiest.Store(0)
		h.store.Outage(nil)
		time.Sleep(2 * time.Minute)
		if n := h.asked.busiest.Load(); n > machines/2 { // each needs five
			t.Errorf("%d requests in one second by %d machines", n, machines)
		}
		if s := standing(t, all[0]); s.Standing != Holding {
			t.Errorf("the permit is gone: %+v", s)
		}
		s, err := h.store.Read(t.Context(), h.keys.all(kindPresence))
		if err != nil || len(s.KVs) != machines {
			t.Errorf("%d machines are back, want %d; %v", len(s.KVs), machines, err)
		}
		before = h.asked.requests.Load()
		time.Sleep(10 * time.Minute)
		if each := float64(h.asked.requests.Load()-before) / machines / 10; each > 1.2 {
			t.Errorf("%.2f requests a minute of an idle machine", each)
		}
	})
}

// mute is a store whose watch never tells anything, as one that a proxy cut off.
type mute struct{ Store }

func (m mute) Watch(ctx context.Context, _ int64, _ ...Range) <-chan []Event {
	return m.Store.Watch(ctx, 1<<40)
}

// TestWatchThatIsDeafIsOutvotedByThePoll: what it did not tell is known after a
// poll, and a fence is not fooled before.
func TestWatchThatIsDeafIsOutvotedByThePoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarbour(t, Rules{Max: Max{Count: 1}})
		defer h.end()
		c := h.client(1)
		c.Store = mute{h.asked}
		h.run(c)
		if _, err := c.Acquire(t.Context(), Request{To: "2"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(pollInterval * 2)
		if s := standing(t, c); s.Standing != Holding {
			t.Fatalf("%+v", s)
		}
		h.write(h.keys.Permit(testGroup, c.Self().Machine), nil)
		if err := c.Fence(t.Context(), PhaseRebooting); !errors.Is(err, ErrNotHolder) {
			t.Errorf("fence: %v", err)
		}
	})
}

// TestCallsMayComeAtOnce is for the race detector.
func TestCallsMayComeAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarbour(t, Rules{Max: Max{Count: 1}})
		defer h.end()
		c := h.client(1)
		h.run(c)
		var wg sync.WaitGroup
		for n := range 8 {
			wg.Go(func() {
				for range 20 {
					switch n % 4 {
					case 0:
						c.Acquire(t.Context(), Request{To: "2"})
					case 1:
						c.Release(t.Context(), Aborted, "")
					case 2:
						c.Standing(t.Context())
					case 3:
						c.Publish(t.Context(), Status{Release: "1"})
					}
					time.Sleep(time.Millisecond * time.Duration(n))
				}
			})
		}
		wg.Wait()
		if err := c.Release(t.Context(), Aborted, ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		if s := standing(t, c); s.Standing != None {
			t.Errorf("%+v", s)
		}
	})
}

// TestSlowStoreHoldsNobodyForEver: a call that gets no answer ends, and lets the
// next one try.
func TestSlowStoreHoldsNobodyForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarbour(t, Rules{Max: Max{Count: 1}})
		defer h.end()
		c := h.client(1)
		c.Store = silent{h.asked}
		begun := time.Now()
		if _, err := c.Standing(t.Context()); !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != patience {
			t.Errorf("after %s: %v", time.Since(begun), err)
		}
		var wg sync.WaitGroup
		wg.Go(func() { c.Refresh(t.Context()) })
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := c.Refresh(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a caller with little time: %v", err)
		}
		wg.Wait()
	})
}

// silent is a store that never answers.
type silent struct{ Store }

func (silent) Read(ctx context.Context, _ ...Range) (Snapshot, error) {
	<-ctx.Done()
	return Snapshot{}, ctx.Err()
}

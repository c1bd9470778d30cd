package rebootlock

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestEventsThatComeLateChangeNothing: a watch tells of what was read, or
// written by this client, long since.
func TestEventsThatComeLateChangeNothing(t *testing.T) {
	keys, now := Keys{Cluster: "test"}, time.Now()
	var o outlook
	o.aim(newPlaces(keys, "m", "g"))
	put := func(revision int64, phase string) Event {
		return Event{KV: KV{Key: keys.Permit("g", "m"), Value: encode(Permit{Version: 1, Phase: phase}, nil), Created: 5, Modified: revision}}
	}
	gone := func(revision int64) Event {
		return Event{KV: KV{Key: keys.Permit("g", "m"), Modified: revision}, Deleted: true}
	}
	o.survey(nil, 10, now)
	if e := (Event{KV: KV{Key: keys.Presence("m", "b"), Value: encode(Presence{Version: 1}, nil), Created: 7, Modified: 7}}); o.hear(e, now) || len(o.present) > 0 {
		t.Error("a boot came back that is gone")
	}
	if o.hear(put(7, PhaseGranted), now) || o.permit.there() {
		t.Error("a permit came back that is gone")
	}
	if !o.hear(put(11, PhaseGranted), now) || o.permit.modified != 11 {
		t.Error("a new permit was not heard of")
	}
	ended := put(15, PhaseEnded)
	o.wrote([]Op{{Key: ended.Key, Value: ended.Value}}, 15, now)
	if o.hear(put(12, PhaseStaging), now) || o.permit.rec.Phase != PhaseEnded || o.permit.created != 5 {
		t.Errorf("phase %s, created %d", o.permit.rec.Phase, o.permit.created)
	}
	if o.hear(ended, now) {
		t.Error("its own write is news")
	}
	if o.hear(gone(14), now) || !o.permit.there() || !o.hear(gone(16), now) || o.permit.there() {
		t.Error("it is not gone when it goes")
	}
	if o.hear(Event{KV: KV{Key: keys.Permit("g", "other"), Modified: 20}}, now) {
		t.Error("another machine's record is news")
	}
}

// TestThawThatIsNotHeardIsReadBeforeRefusing: a watch may lag; what it told is
// not enough to refuse.
func TestThawThatIsNotHeardIsReadBeforeRefusing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarbour(t, Rules{Max: Max{Count: 1}})
		defer h.end()
		c := h.client(1)
		c.Store = mute{h.asked}
		h.run(c)
		if _, err := c.Acquire(t.Context(), Request{To: "2"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		rules := Rules{Version: 1, Max: Max{Count: 1}, Freeze: &Freeze{Reason: "incident", By: "ann"}}
		h.write(h.keys.Rules(testGroup), encode(rules, nil))
		time.Sleep(2 * pollInterval)
		if !has(standing(t, c).Stops, "freeze") {
			t.Fatal("the poll did not bring the freeze")
		}
		rules.Freeze = nil
		h.write(h.keys.Rules(testGroup), encode(rules, nil))
		if err := c.Fence(t.Context(), PhaseDraining); err != nil {
			t.Error(err)
		}
	})
}

// deaf is a store whose watches end at once.
type deaf struct{ Store }

func (deaf) Watch(context.Context, int64, ...Range) <-chan []Event {
	c := make(chan []Event)
	close(c)
	return c
}

func TestWithoutAWatchEachLookReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarbour(t, Rules{Max: Max{Count: 1}})
		defer h.end()
		c := h.client(1)
		c.Store, c.Rand = deaf{h.asked}, func(n int64) int64 { return n - 1 }
		h.run(c)
		before := h.asked.requests.Load()
		standing(t, c)
		if n := h.asked.requests.Load() - before; n != 1 {
			t.Errorf("%d requests", n)
		}
		before = h.asked.requests.Load()
		time.Sleep(time.Hour)
		if n := h.asked.requests.Load() - before; n > 3600/9 {
			t.Errorf("%d requests in an hour of watches that break", n)
		}
	})
}

// TestWordThatIsOldIsNotGoneBy: the watch is there, and nothing was heard of the
// store for longer than two polls.
func TestWordThatIsOldIsNotGoneBy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarbour(t, Rules{Max: Max{Count: 1}})
		defer h.end()
		c := h.client(1)
		var skip atomic.Int64
		c.Now = func() time.Time { return time.Now().Add(time.Duration(skip.Load())) }
		h.run(c)
		for _, d := range []time.Duration{0, freshness, freshness + time.Second, -time.Second} {
			skip.Store(int64(d))
			before := h.asked.requests.Load()
			standing(t, c)
			if read := h.asked.requests.Load() > before; read != (d < 0 || d > freshness) {
				t.Errorf("after %s: read %t", d, read)
			}
			skip.Store(0)
			if err := c.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestReinstalledMachineTakesOverAsSoonAsTheOldOneIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarbour(t, Rules{Max: Max{Count: 1}})
		defer h.end()
		old := h.client(1)
		ctx, stop := context.WithCancel(t.Context())
		var gone sync.WaitGroup
		gone.Go(func() { old.Run(ctx) })
		synctest.Wait()
		if _, err := old.Acquire(t.Context(), Request{To: "2"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		anew := h.client(1)
		self := anew.Self()
		self.Instance, self.Boot = "anew", "next"
		anew.Self = func() Self { return self }
		h.run(anew)
		for name, c := range map[string]*Client{"old": old, "new": anew} {
			if s := standing(t, c); !has(s.Stops, "clone") || s.Standing != Holding {
				t.Errorf("%s: %+v", name, s)
			}
		}
		stop()
		gone.Wait()
		synctest.Wait() // and not a poll later
		if s := standing(t, anew); len(s.Stops) > 0 || s.Permit == nil || s.Permit.Instance != "anew" {
			t.Errorf("%+v", s)
		}
	})
}

func TestWatchFollowsTheMachineIntoItsNewGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarbour(t, Rules{Max: Max{Count: 1}})
		defer h.end()
		c := h.client(1)
		var group atomic.Value
		group.Store(testGroup)
		self := c.Self()
		c.Self = func() Self { s := self; s.Group = group.Load().(string); return s }
		h.run(c)
		group.Store("db")
		time.Sleep(2 * pollInterval)
		before := h.asked.requests.Load()
		h.write(h.keys.Rules("db"), encode(Rules{Version: 1, Max: Max{Count: 1}, Freeze: &Freeze{Reason: "incident"}}, nil))
		synctest.Wait()
		if s := standing(t, c); !has(s.Stops, "freeze") || h.asked.requests.Load() != before {
			t.Errorf("%+v after %d requests", s, h.asked.requests.Load()-before)
		}
	})
}

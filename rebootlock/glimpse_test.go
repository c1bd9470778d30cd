package rebootlock

import (
	"context"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestGlimpseIsWhatTheMachineKnows: a holder, one that waits, a freeze, and a
// release that was stopped, each without a question to the store.
func TestGlimpseIsWhatTheMachineKnows(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	a, b := y.ship(1), y.ship(2)
	if g := a.Glimpse(); !g.Read.IsZero() || g.Permit != nil || g.Ticket != nil {
		t.Errorf("before the first look: %+v", g)
	}
	a.ask()
	b.ask()
	y.want(a.self.Machine)
	y.passes()
	a.is(Holding)
	b.is(Queued)
	asked := a.wire.asked()
	if g := a.Glimpse(); !g.Read.Equal(y.now) || g.Permit == nil || g.Permit.Machine != a.self.Machine || g.Ticket != nil || g.Group != testGroup || g.Stamp.At.IsZero() {
		t.Errorf("the holder: %+v", g)
	}
	if n := a.wire.asked() - asked; n != 0 {
		t.Errorf("%d requests", n)
	}
	if g := b.Glimpse(); g.Permit != nil || g.Ticket == nil || g.Ticket.Machine != b.self.Machine || g.Frozen || g.Stops != nil {
		t.Errorf("the one that waits: %+v", g)
	}
	y.rules(Rules{Max: Max{Count: 1}, Freeze: &Freeze{Reason: "fair", By: "ann", Since: y.now}})
	y.write(y.keys.Failures(testGroup), encode(Failures{Version: 1, Failed: []Failure{{Release: "2", Machine: "m", How: howRolledBack, At: y.now}}}, nil))
	b.is(Queued)
	if g := b.Glimpse(); !g.Frozen || !reflect.DeepEqual(g.Stops, []Stop{{"2", 1}}) {
		t.Errorf("frozen and stopped: %+v", g)
	}
}

// TestTalliesAreThoseOfTheView: a coordinator at work has the numbers that an
// operator would read, and none when it does not reign.
func TestTalliesAreThoseOfTheView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{t: t, keys: Keys{Cluster: "test"}, store: &Memory{Now: time.Now}}
		y.write(y.keys.ClusterRecord(), encode(Cluster{Version: 1, ID: "test", UID: "u"}, nil))
		y.rules(Rules{Max: Max{Count: 2}, Deadline: Duration(time.Hour)})
		y.join("", "a", "b", "c", "d")
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		c := &Coordinator{Store: y.store, Keys: y.keys, Machine: "coordinator", Now: time.Now}
		if _, reigns := c.Tallies(); reigns {
			t.Error("it reigns before it was elected")
		}
		running.Go(func() { c.Run(ctx) })
		time.Sleep(10 * time.Second)
		y.now = time.Now()
		y.gone("d")
		synctest.Wait() // a coordinator that had not seen that would grant two
		y.ask("a", "b", "c")
		time.Sleep(2 * stampInterval)
		want := Tally{Group: testGroup, Max: 2, Members: 4, Absent: 1, Held: 1, Waiting: 2, Blocked: []string{"absent"}}
		if got, reigns := c.Tallies(); !reigns || len(got) != 1 || !reflect.DeepEqual(got[0], want) {
			t.Errorf("got %+v, %t, want %+v", got, reigns, want)
		}
		p := y.permit("a")
		p.Phase, p.PhaseSince = PhaseDraining, time.Now() // else it goes back, uncollected
		y.write(y.keys.Permit(testGroup, "a"), encode(p, nil))
		time.Sleep(time.Hour + 2*stampInterval)
		v, err := Operator{Store: y.store, Keys: y.keys, Now: time.Now}.Look(ctx)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := c.Tallies()
		if g := v.Groups[0]; len(got) != 1 || got[0].Overdue != 1 || !g.Holders[0].Overdue || got[0].Stopped != len(g.Stops) ||
			got[0].Max != g.Max || got[0].Held != len(g.Holders) || got[0].Waiting != len(g.Queue) || got[0].Absent != g.Absent {
			t.Errorf("tallies %+v, view %+v", got, g)
		}
		stop()
		running.Wait()
		if got, reigns := c.Tallies(); reigns || got != nil {
			t.Errorf("after the reign: %+v, %t", got, reigns)
		}
	})
}

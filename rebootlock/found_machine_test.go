package rebootlock

import (
	"context"
	"testing"
)

// TestBootThatIsAboutToGoIsNoEvidence: a holder crashes while it drains, comes
// back, goes on, and passes the last fence. That it is there with another boot
// than at the grant does not show that it is back: it goes down any moment.
func TestBootThatIsAboutToGoIsNoEvidence(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	a := y.ship(1)
	a.hold()
	a.fence(PhaseDraining)
	a.die()
	y.now = y.now.Add(2 * defaultTTL)
	y.held()
	o := Operator{Store: y.store, Keys: y.keys, Who: "operator ann", Now: a.Now}
	for range 2 { // again, after a reboot that came back unexplained
		a.boot(a.self.Instance)
		a.is(Holding)
		a.fence(PhaseRebooting)
		if err := o.TakeAway(context.Background(), testGroup, a.self.Machine, "it is back, is it not?", false); err == nil {
			t.Fatal("the permit of a machine that goes down was taken away without force")
		}
		a.die()
		y.now = y.now.Add(2 * defaultTTL)
		y.held()
	}
	a.boot(a.self.Instance)
	a.state()
	if err := o.TakeAway(context.Background(), testGroup, a.self.Machine, "it is back", false); err != nil {
		t.Error(err)
	}
}

// TestOperatorAsksAgainBeforeTheLastPermitIsBooked: release and acquire at once.
func TestOperatorAsksAgainBeforeTheLastPermitIsBooked(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	o := Operator{Store: y.store, Keys: y.keys, Who: "operator ann", Now: y.c.Now}
	for range 2 {
		if err := o.Acquire(context.Background(), testGroup, "a", "maintenance"); err != nil {
			t.Fatal(err)
		}
		y.want("a")
		if err := o.Release(context.Background(), testGroup, "a", ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.Acquire(context.Background(), testGroup, "a", "maintenance"); err != nil {
		t.Fatal(err)
	}
	y.want("a")
}

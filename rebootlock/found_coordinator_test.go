package rebootlock

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"
)

// gone is the end of a machine's presence: it is down, or cut off.
func (y *yard) gone(machines ...string) {
	for _, m := range machines {
		y.write(y.keys.Presence(m, "boot"), nil)
	}
}

// TestWhoLeavesItsPermitAbsentStillUsesUpMax: a permit that is given back, or
// lapses, while its machine is not there makes room for nobody: it is away from
// then on, and the next one would be the second that is down.
func TestWhoLeavesItsPermitAbsentStillUsesUpMax(t *testing.T) {
	for name, leave := range map[string]func(*yard){
		"given back before the machine died": func(y *yard) { y.phase("a", PhaseDraining); y.end("a", Updated); y.gone("a") },
		"lapsed because the machine died":    func(y *yard) { y.gone("a"); y.now = y.now.Add(lostTime + time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			y := newYard(t, Rules{Max: Max{Count: 1}})
			y.join("z1", "a", "b")
			y.ask("a", "b")
			y.want("a")
			leave(y)
			y.want()
			y.join("z1", "a")
			y.want("b")
		})
	}
	t.Run("zone", func(t *testing.T) {
		y := newYard(t, Rules{Max: Max{Count: 3}, ZoneMax: 1})
		y.join("z1", "a", "b")
		y.ask("a", "b")
		y.want("a")
		y.end("a", Updated)
		y.gone("a")
		y.want()
	})
}

// TestPauseBeginsWhateverTheMachinesClockSays: a machine whose clock is behind
// gives back; the pause counts from when that is booked.
func TestPauseBeginsWhateverTheMachinesClockSays(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}, Pause: Duration(time.Minute)})
	y.join("", "a", "b", "c")
	y.ask("a", "b", "c")
	y.want("a")
	y.end("a", Updated)
	y.want()
	y.now = y.now.Add(61 * time.Second)
	y.want("b")
	y.now = y.now.Add(10 * time.Second)
	y.end("b", Updated)
	p := y.permit("b")
	p.PhaseSince = y.now.Add(-4 * time.Minute)
	y.write(y.keys.Permit(testGroup, "b"), encode(p, nil))
	y.want()
	y.now = y.now.Add(61 * time.Second)
	y.want("c")
}

// TestOverdueOfManyIsBookedOnce: more holders are overdue at once than failures
// are kept, as after an etcd that was away for hours. Each pass ends, and books
// nothing twice.
func TestOverdueOfManyIsBookedOnce(t *testing.T) {
	for _, on := range []OnOverdue{StopOverdue, TakeAwayOverdue} {
		t.Run(string(on), func(t *testing.T) {
			y := newYard(t, Rules{Max: Max{Count: 5000}, OnOverdue: on})
			for i := range 1500 {
				m := fmt.Sprintf("m%04d", i)
				y.write(y.keys.Permit(testGroup, m), encode(Permit{Version: 1, Machine: m, Group: testGroup, To: "2", Phase: PhaseRebooting,
					Granted: y.now.Add(-3 * time.Hour), Deadline: y.now.Add(-time.Hour)}, nil))
			}
			for range 3 {
				if err := y.pass(); err != nil {
					t.Fatal(err)
				}
			}
			before := y.store.revision()
			if err := y.pass(); err != nil {
				t.Fatal(err)
			}
			if n := y.store.revision() - before; n > 1 {
				t.Errorf("%d changes in a pass without news", n)
			}
		})
	}
}

// TestOverdueIsBookedOnlyOfAPermitThatWasSeen: a machine comes back while the
// coordinator books the overdue of many.
func TestOverdueIsBookedOnlyOfAPermitThatWasSeen(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 100}, OnOverdue: TakeAwayOverdue})
	for i := range batch + 1 {
		m := fmt.Sprintf("m%02d", i)
		y.join("", m)
		y.write(y.keys.Permit(testGroup, m), encode(Permit{Version: 1, Machine: m, Group: testGroup, To: "2", Phase: PhaseDraining,
			Granted: y.now.Add(-3 * time.Hour), Deadline: y.now.Add(-time.Hour)}, nil))
	}
	events, err := y.store.Since(y.reign.Revision(), y.keys.everything())
	if err != nil {
		t.Fatal(err)
	}
	y.reign.Apply(events)
	y.end("m00", Aborted) // not seen yet
	if _, err := y.reign.Pass(context.Background()); err != nil {
		t.Fatal(err)
	}
	for _, f := range y.reign.book.group(testGroup).failures.rec.Failed {
		if f.Machine == "m00" {
			t.Errorf("booked: %+v", f)
		}
	}
}

// TestOneRebootFailsOnce: a machine that is overdue and then comes back with the
// old release is one failure, not two.
func TestOneRebootFailsOnce(t *testing.T) {
	two := 2
	y := newYard(t, Rules{Max: Max{Count: 1}, StopAfter: &two})
	y.join("", "a", "b")
	y.ask("a", "b")
	y.want("a")
	y.phase("a", PhaseRebooting)
	y.now = y.now.Add(3 * time.Hour)
	y.want("a")
	y.end("a", RolledBack)
	y.held()
	y.want("b")
}

// TestPermitOfAnOperatorIsNotOverdue: it is there to be held. It stops nobody,
// and on_overdue does not take it away.
func TestPermitOfAnOperatorIsNotOverdue(t *testing.T) {
	for _, on := range []OnOverdue{StopOverdue, TakeAwayOverdue} {
		t.Run(string(on), func(t *testing.T) {
			y := newYard(t, Rules{Max: Max{Count: 2}, OnOverdue: on})
			y.join("", "b")
			y.write(y.keys.Ticket(testGroup, "a"), encode(Ticket{Version: 1, Machine: "a", Group: testGroup, Via: viaOperator}, nil))
			y.want("a")
			y.now = y.now.Add(3 * time.Hour)
			y.want("a")
			y.write(y.keys.Member("f"), encode(Member{Version: 1, Machine: "f", Group: testGroup, Via: viaFleetLock}, nil))
			y.write(y.keys.Ticket(testGroup, "f"), encode(Ticket{Version: 1, Machine: "f", Group: testGroup, Via: viaFleetLock}, nil))
			y.want("a", "f")
		})
	}
}

// TestGrantByAClockThatWasAheadLapses: a coordinator whose clock was a day ahead
// granted, and the machine died. The grant does not lie until its clock's time.
func TestGrantByAClockThatWasAheadLapses(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 2}})
	y.join("", "a", "b")
	y.ask("a")
	right := y.now
	y.now = y.now.Add(365 * 24 * time.Hour)
	y.want("a")
	y.now = right
	y.gone("a")
	y.write(y.reign.lead.Key, nil)
	y.elect("another")
	for range 40 {
		y.now = y.now.Add(30 * time.Second)
		y.held()
	}
	y.want()
}

// TestEndOfAPermitWakesVotersOfOtherGroups, whatever keeps the first of their
// queue.
func TestEndOfAPermitWakesVotersOfOtherGroups(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 5}, ZoneMax: 1})
	voter := []EtcdMember{{Cluster: "c1", Member: "m"}}
	y.join("", "a") // its zone is not known: it waits, and is the first
	y.write(y.keys.Member("b"), encode(Member{Version: 1, Machine: "b", Group: testGroup, Zone: "z", Etcd: voter}, nil))
	y.write(y.keys.Presence("b", "boot"), encode(Presence{Version: 1, Machine: "b", Boot: "boot"}, nil))
	y.write(y.keys.Permit("other", "z"), encode(Permit{Version: 1, Machine: "z", Group: "other", Phase: PhaseRebooting, Deadline: y.now.Add(time.Hour), Etcd: voter}, nil))
	y.ask("a", "b")
	y.want()
	y.write(y.keys.Permit("other", "z"), nil)
	y.want("b")
}

// back is a store that is put back to an earlier state.
type back struct {
	Store
	by int64
	n  int
}

func (b *back) Commit(ctx context.Context, t Txn) (Result, error) {
	b.n++
	if b.by == 0 {
		return b.Store.Commit(ctx, t)
	}
	r := Result{Revision: 3} // what it was decided upon is not there
	for _, e := range t.Else {
		if s, _ := b.Store.Read(ctx, e); len(s.KVs) == 1 && s.KVs[0].Lease != 0 {
			r.Else = append(r.Else, s.KVs...)
		}
	}
	return r, nil
}

// TestStoreThatWasPutBackEndsTheReign: etcd was restored from a backup. What the
// coordinator knows is of a time that never was, and is not tried again and again.
func TestStoreThatWasPutBackEndsTheReign(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	y.join("", "a", "b")
	y.ask("a", "b")
	b := &back{Store: y.store}
	y.c.Store = b
	y.want("a")
	y.end("a", Updated)
	b.by, b.n = 1, 0
	err := y.pass()
	if err == nil || b.n > 1 {
		t.Errorf("after %d transactions: %v", b.n, err)
	}
}

// TestTurnOfAZoneEndsInAStoreThatWasCopied: the ledger came from an etcd whose
// revisions were far ahead. Whoever joins a zone's queue is not before the
// others for ever.
func TestTurnOfAZoneEndsInAStoreThatWasCopied(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}, OneZone: true})
	y.write(y.keys.Ledger(testGroup), encode(Ledger{Version: 1, Zone: "z1", ZoneUntil: 1 << 40}, nil))
	y.join("z1", "a", "b")
	y.join("z2", "x")
	y.ask("a", "x")
	y.want("a")
	y.ask("b")
	y.end("a", Updated)
	y.want("x")
}

// TestCoordinatorWithAWrongClockResigns before it judges windows and deadlines
// by it: machines refuse at their fence, FleetLock's clients have none.
func TestCoordinatorWithAWrongClockResigns(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	y.want()
	right := y.now
	appear := func(n int) {
		m := fmt.Sprintf("m%d", n)
		y.join("", m)
		y.write(y.keys.Presence(m, "boot"), nil)
		y.write(y.keys.Presence(m, "boot"), encode(Presence{Version: 1, Machine: m, Boot: "boot", Since: right}, nil))
	}
	y.now = right.Add(24 * time.Hour)
	appear(1)
	appear(2)
	y.want() // two may be wrong themselves
	y.ask("m1")
	appear(3)
	if err := y.pass(); !errors.Is(err, errClock) {
		t.Errorf("pass: %v, want %v", err, errClock)
	}
	if s, _ := y.store.Read(context.Background(), y.keys.all(kindPermit)); len(s.KVs) != 0 {
		t.Errorf("%d permits", len(s.KVs))
	}
}

// TestOneMachineWithAWrongClockDeposesNobody.
func TestOneMachineWithAWrongClockDeposesNobody(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	for i := range 20 {
		m, at := fmt.Sprintf("m%d", i%4), y.now
		if i%4 == 1 {
			at = at.Add(-24 * time.Hour)
		}
		y.join("", m)
		y.write(y.keys.Presence(m, "boot"), nil)
		y.write(y.keys.Presence(m, "boot"), encode(Presence{Version: 1, Machine: m, Boot: "boot", Since: at}, nil))
		y.want()
	}
}

// TestMachineThatIsTakenFromWhileItIsDownStillUsesUpMax: on_overdue = "take-away"
// frees the permit, not the machine.
func TestMachineThatIsTakenFromWhileItIsDownStillUsesUpMax(t *testing.T) {
	never := 0
	y := newYard(t, Rules{Max: Max{Count: 1}, Deadline: Duration(time.Hour), OnOverdue: TakeAwayOverdue, StopAfter: &never})
	y.join("", "a", "b")
	y.ask("a", "b")
	y.want("a")
	y.phase("a", PhaseRebooting)
	y.write(y.keys.Presence("a", "boot"), nil)
	y.now = y.now.Add(2 * time.Hour)
	y.want()
	y.write(y.keys.Member("a"), nil)
	y.want("b")
}

package rebootlock

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"
)

// again calls until there is no error.
func again(t *testing.T, call func(context.Context) error) {
	t.Helper()
	var err error
	for range 10 {
		if err = call(context.Background()); err == nil {
			return
		}
		if !errors.Is(err, errWire) {
			t.Fatal(err)
		}
	}
	t.Fatalf("it never works: %v", err)
}

// turn is everything that a machine does for one reboot. Each call is repeated
// until it gets through.
func (s *ship) turn(t *testing.T) {
	t.Helper()
	again(t, s.Refresh)
	again(t, func(ctx context.Context) error { _, err := s.Acquire(ctx, Request{From: "1", To: "2"}); return err })
	s.y.held()
	for _, phase := range []string{PhaseDraining, PhaseStaging, PhaseRebooting} {
		again(t, func(ctx context.Context) error { return s.Fence(ctx, phase) })
	}
	again(t, func(ctx context.Context) error { return s.Release(ctx, Updated, "") })
	s.y.held()
}

// TestUnknownOutcomeOfEachRequest cuts the wire at each request of a machine's
// whole turn, before the store has it and after: the turn ends the same, with
// nothing done twice.
func TestUnknownOutcomeOfEachRequest(t *testing.T) {
	requests := 0
	for cut := 1; cut == 1 || cut <= requests; cut++ {
		for _, length := range []int{1, 2, 5} {
			for _, arrives := range []bool{false, true} {
				t.Run(fmt.Sprintf("request %d, %d cut, arrives %t", cut, length, arrives), func(t *testing.T) {
					y := newYard(t, Rules{Max: Max{Count: 1}})
					y.write(y.keys.Rules(testGroup), nil)
					y.write(y.keys.ClusterRecord(), nil)
					a := y.ship(1)
					a.Seed = func() *Rules { return &Rules{Max: Max{Count: 1}} }
					a.wire.lose = func(n int, _ *Txn) (never, lost bool) {
						hit := n >= cut && n < cut+length
						return hit && !arrives, hit && arrives
					}
					a.turn(t)
					requests = max(requests, a.wire.asked())
					a.wire.lose = nil
					a.is(None)
					want := map[string]int{"joined": 1, "rules": 1, "granted": 1, "updated": 1}
					for what, n := range y.journal() {
						if want[what] != n {
							t.Errorf("%s: %d times", what, n)
						}
						delete(want, what)
					}
					if len(want) > 0 {
						t.Errorf("never: %v", want)
					}
					if s, _ := y.store.Read(context.Background(), y.keys.all(kindTicket), y.keys.all(kindPermit)); len(s.KVs) > 0 {
						t.Errorf("left over: %v", s.KVs)
					}
				})
			}
		}
	}
	if requests < 20 {
		t.Errorf("%d requests were cut", requests)
	}
}

// TestMachineDiesAtEachRequest: a process ends at each request, and the next
// one goes on. The permit is never lost, and never given twice.
func TestMachineDiesAtEachRequest(t *testing.T) {
	for cut := 1; cut <= 24; cut++ {
		for _, arrives := range []bool{false, true} {
			t.Run(fmt.Sprintf("request %d, arrives %t", cut, arrives), func(t *testing.T) {
				y := newYard(t, Rules{Max: Max{Count: 1}})
				a, b := y.ship(1), y.ship(2)
				dead := false
				a.wire.lose = func(n int, _ *Txn) (never, lost bool) {
					if n != cut {
						return dead, dead
					}
					dead = true
					return !arrives, arrives
				}
				calls := []func(context.Context) error{
					func(ctx context.Context) error { _, err := a.Acquire(ctx, Request{To: "2"}); return err },
					func(context.Context) error { y.held(); return nil },
					func(ctx context.Context) error { return a.Fence(ctx, PhaseDraining) },
					func(ctx context.Context) error { return a.Fence(ctx, PhaseRebooting) },
					func(ctx context.Context) error { return a.Release(ctx, Updated, "") },
				}
				for _, call := range calls {
					if err := call(context.Background()); err != nil {
						break
					}
				}
				if !dead {
					return // its turn has fewer requests
				}
				if a.session != nil {
					a.die()
				}
				y.later(2 * time.Minute)
				b.ask()
				y.held()
				a.wire.lose = nil
				if s, _ := y.store.Read(context.Background(), Range{Key: y.keys.Member(a.self.Machine)}); len(s.KVs) == 0 {
					b.is(Holding) // nobody has ever heard of a
					return
				}
				b.is(Queued) // a is not there, with a permit or without
				a.boot("instance1")
				if a.state().Standing == Holding {
					a.release(Updated)
				}
				y.held()
				b.is(Holding)
			})
		}
	}
}

// TestRaceIsJudgedAgain: others change the machine's records all the time; a
// call gives up after a few tries, and says so.
func TestRaceIsJudgedAgain(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	a := y.ship(1)
	a.hold()
	n := 0
	a.wire.lose = func(_ int, txn *Txn) (bool, bool) {
		if txn != nil {
			n++
			y.rules(Rules{Max: Max{Count: n}})
		}
		return false, false
	}
	if err := a.Fence(context.Background(), PhaseStaging); !errors.Is(err, errOvertaken) || n > maxTries {
		t.Errorf("after %d tries: %v", n, err)
	}
	a.wire.lose = nil
	a.fence(PhaseStaging)
}

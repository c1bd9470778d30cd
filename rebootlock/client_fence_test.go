package rebootlock

import (
	"context"
	"errors"
	"strings"
	"testing"
)

func TestFreezeBetweenTicketAndFence(t *testing.T) {
	for name, c := range map[string]struct {
		kind  string
		spoil func(*yard)
		heal  func(*yard)
	}{
		"freeze of the group": {"freeze",
			func(y *yard) { y.rules(Rules{Max: Max{Count: 1}, Freeze: &Freeze{Reason: "incident", By: "ann"}}) },
			func(y *yard) { y.rules(Rules{Max: Max{Count: 1}}) }},
		"freeze of the cluster": {"freeze",
			func(y *yard) {
				y.write(y.keys.ClusterRecord(), encode(Cluster{Version: 1, ID: "test", UID: "u", Freeze: &Freeze{Reason: "incident"}}, nil))
			},
			func(y *yard) {
				y.write(y.keys.ClusterRecord(), encode(Cluster{Version: 1, ID: "test", UID: "u"}, nil))
			}},
		"the release stopped": {"stopped",
			func(y *yard) {
				y.write(y.keys.Failures(testGroup), encode(Failures{Version: 1, Failed: []Failure{{Release: "2"}}}, nil))
			},
			func(y *yard) {
				y.write(y.keys.Failures(testGroup), encode(Failures{Version: 1, Failed: []Failure{{Release: "1.9"}}}, nil))
			}},
		"failures that cannot be read": {"stopped",
			func(y *yard) { y.write(y.keys.Failures(testGroup), []byte("?")) },
			func(y *yard) { y.write(y.keys.Failures(testGroup), nil) }},
		"rules of a newer version": {"rules",
			func(y *yard) { y.write(y.keys.Rules(testGroup), []byte(`{"version":2,"max":1}`)) },
			func(y *yard) { y.rules(Rules{Max: Max{Count: 1}}) }},
		"corrupt rules": {"rules",
			func(y *yard) { y.write(y.keys.Rules(testGroup), []byte(`{"version":1,"max":`)) },
			func(y *yard) { y.rules(Rules{Max: Max{Count: 1}}) }},
		"rules with max 0": {"rules",
			func(y *yard) { y.write(y.keys.Rules(testGroup), []byte(`{"version":1,"max":0}`)) },
			func(y *yard) { y.rules(Rules{Max: Max{Count: 1}}) }},
		"rules with max 101 %": {"rules",
			func(y *yard) { y.write(y.keys.Rules(testGroup), []byte(`{"version":1,"max":"101%"}`)) },
			func(y *yard) { y.rules(Rules{Max: Max{Count: 1}}) }},
		"rules of no place": {"rules",
			func(y *yard) {
				y.write(y.keys.Rules(testGroup), []byte(`{"version":1,"max":1,"timezone":"Mars/Olympus"}`))
			},
			func(y *yard) { y.rules(Rules{Max: Max{Count: 1}}) }},
		"no rules": {"rules",
			func(y *yard) { y.write(y.keys.Rules(testGroup), nil) },
			func(y *yard) { y.rules(Rules{Max: Max{Count: 1}}) }},
	} {
		t.Run(name, func(t *testing.T) {
			y := newYard(t, Rules{Max: Max{Count: 1}})
			a := y.ship(1)
			a.hold()
			a.fence(PhaseDraining)
			c.spoil(y)
			a.stopped(c.kind)
			if p, _ := oneOf[Permit](y, y.keys.Permit(testGroup, a.self.Machine)); p.Phase != PhaseDraining {
				t.Errorf("phase %s", p.Phase)
			}
			c.heal(y)
			a.fence(PhaseStaging)
			c.spoil(y)
			a.release(Aborted) // to give back is always allowed
		})
	}
}

// TestFenceComparesWhatItWasJudgedUpon: what changes after it was read, and
// before the transaction, is seen.
func TestFenceComparesWhatItWasJudgedUpon(t *testing.T) {
	ctx := context.Background()
	for name, c := range map[string]struct {
		change func(y *yard, a *ship)
		want   string // "": it passes
	}{
		"frozen": {func(y *yard, _ *ship) {
			y.rules(Rules{Max: Max{Count: 1}, Freeze: &Freeze{Reason: "incident", By: "ann"}})
		}, "frozen by ann: incident"},
		"cluster frozen": {func(y *yard, _ *ship) {
			y.write(y.keys.ClusterRecord(), encode(Cluster{Version: 1, ID: "test", UID: "u", Freeze: &Freeze{Reason: "incident", By: "bob"}}, nil))
		}, "frozen by bob: incident"},
		"taken away": {func(y *yard, a *ship) {
			if err := (Operator{Store: y.store, Keys: y.keys, Now: a.Now}).TakeAway(ctx, testGroup, a.self.Machine, "gone", true); err != nil {
				y.t.Error(err)
			}
		}, ErrNotHolder.Error()},
		"stopped": {func(y *yard, _ *ship) {
			y.write(y.keys.Failures(testGroup), encode(Failures{Version: 1, Failed: []Failure{{Release: "2"}}}, nil))
		}, "stopped after 1 failed reboot"},
		"given back by another process": {func(y *yard, a *ship) { y.end(a.self.Machine, Aborted) }, ErrNotHolder.Error()},
		"max changed":                   {func(y *yard, _ *ship) { y.rules(Rules{Max: Max{Count: 3}}) }, ""},
		"another release failed": {func(y *yard, _ *ship) {
			y.write(y.keys.Failures(testGroup), encode(Failures{Version: 1, Failed: []Failure{{Release: "3"}}}, nil))
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			y := newYard(t, Rules{Max: Max{Count: 1}})
			a := y.ship(1)
			a.hold()
			changed := false
			a.wire.lose = func(_ int, txn *Txn) (bool, bool) {
				if txn != nil && !changed {
					changed = true
					c.change(y, a)
				}
				return false, false
			}
			err := a.Fence(ctx, PhaseRebooting)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if c.want == ErrNotHolder.Error() && !errors.Is(err, ErrNotHolder) {
				t.Errorf("%v is not ErrNotHolder", err)
			}
			if !changed {
				t.Error("nothing was committed")
			}
		})
	}
}

// TestPermitThatAppearsMeanwhile: it is written between a call's reading and its
// transaction.
func TestPermitThatAppearsMeanwhile(t *testing.T) {
	ctx := context.Background()
	for _, instance := range []string{"instance1", "another"} {
		y := newYard(t, Rules{Max: Max{Count: 1}})
		a := y.ship(1)
		a.is(None)
		permit := encode(Permit{Version: 1, Machine: a.self.Machine, Instance: instance, Group: testGroup, Phase: PhaseGranted}, nil)
		meanwhile := func() {
			wrote := false
			a.wire.lose = func(_ int, txn *Txn) (bool, bool) {
				if txn != nil && !wrote {
					wrote = true
					y.write(y.keys.Permit(testGroup, a.self.Machine), permit)
				}
				return false, false
			}
		}
		meanwhile()
		if s, err := a.Acquire(ctx, Request{}); s != Holding || err != nil {
			t.Errorf("instance %s: acquire: %v, %v", instance, s, err)
		}
		y.write(y.keys.Permit(testGroup, a.self.Machine), nil)
		a.ask()
		meanwhile()
		err := a.Release(ctx, Aborted, "")
		p, _ := oneOf[Permit](y, y.keys.Permit(testGroup, a.self.Machine))
		if mine := instance == "instance1"; mine != (err == nil) || mine != (p.Phase == PhaseEnded) {
			t.Errorf("instance %s: release: %v, phase %s", instance, err, p.Phase)
		}
		a.wire.lose = nil
		a.release(Aborted) // taken over by now
		a.is(None)
	}
}

func TestPhasesAndEndingsThatAreNone(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	a := y.ship(1)
	a.hold()
	for _, phase := range []string{"", PhaseGranted, PhaseEnded, "sailing"} {
		if err := a.Fence(context.Background(), phase); err == nil {
			t.Errorf("phase %q began", phase)
		}
	}
	for _, e := range []Ending{"", TakenAway, "sunk"} {
		if err := a.Release(context.Background(), e, ""); err == nil {
			t.Errorf("ended as %q", e)
		}
	}
	a.is(Holding)
	if err := a.Release(context.Background(), RolledBack, strings.Repeat("ä", 10_000)); err != nil {
		t.Fatal(err)
	}
	if p, _ := oneOf[Permit](y, y.keys.Permit(testGroup, a.self.Machine)); p.Ending != RolledBack || len(p.Detail) > maxText+3 || p.Phase != PhaseEnded {
		t.Errorf("permit %+v", p)
	}
	if err := a.Fence(context.Background(), PhaseStaging); !errors.Is(err, ErrNotHolder) {
		t.Errorf("a phase after the end: %v", err)
	}
	a.is(None) // before the coordinator has booked it
	a.ask()
	a.is(Queued)
}

package rebootlock

import (
	"context"
	"strings"
	"testing"
	"time"
)

// cloned checks that both of two ships see the other, and are refused.
func cloned(t *testing.T, ships ...*ship) {
	t.Helper()
	for _, s := range ships {
		s.stopped("clone")
		s.refused(ErrClone)
		for _, o := range s.state().Stops {
			if o.Kind == "clone" && !strings.Contains(o.Text, s.self.Machine) {
				t.Errorf("nobody is told which machine: %s", o.Text)
			}
		}
	}
}

// twin is another machine with the ship's machine-id.
func (s *ship) twin(boot, instance string) *ship {
	twin := s.y.ship(1)
	twin.self.Machine, twin.self.Boot, twin.self.Instance = s.self.Machine, boot, instance
	twin.self.UID = s.self.UID
	return twin
}

// TestTwoLiveMachinesWithOneMachineIDAreBothRefused: as long as both live, and
// whichever way one was copied.
func TestTwoLiveMachinesWithOneMachineIDAreBothRefused(t *testing.T) {
	for name, id := range map[string]struct{ boot, instance string }{
		"copied with its state":           {"boot2", "instance1"},
		"copied without its state":        {"boot2", "instance2"},
		"two daemons with a state each":   {"boot1", "instance2"},
		"a boot-id with odd characters":   {"boot1/instance2", "instance1"},
		"an instance with odd characters": {"boot1", "instance/1"},
	} {
		t.Run(name, func(t *testing.T) {
			y := newYard(t, Rules{Max: Max{Count: 1}})
			a := y.ship(1)
			a.hold()
			a.fence(PhaseDraining)
			b := a.twin(id.boot, id.instance)
			if err := b.Refresh(context.Background()); err != nil {
				t.Fatal(err)
			}
			cloned(t, a, b)
			if p, _ := oneOf[Permit](y, y.keys.Permit(testGroup, a.self.Machine)); p.Instance != "instance1" || p.Phase != PhaseDraining {
				t.Errorf("permit %+v", p)
			}
			if m, _ := oneOf[Member](y, y.keys.Member(a.self.Machine)); m.Instance != "instance1" {
				t.Errorf("member %+v", m)
			}
			b.die()
			y.now = y.now.Add(30 * time.Second)
			a.stopped("clone")
			y.now = y.now.Add(31 * time.Second)
			a.fence(PhaseStaging)
			a.release(Aborted)
		})
	}
}

// TestTwinsThatAppearAtOnceBothSeeIt: each writes before it reads.
func TestTwinsThatAppearAtOnceBothSeeIt(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	a := y.ship(1)
	b := a.twin("boot2", "instance2")
	a.wire.lose = func(_ int, txn *Txn) (bool, bool) { // b appears between a's reading and its writing
		if txn != nil && b.session == nil {
			if err := b.Refresh(context.Background()); err != nil {
				t.Error(err)
			}
		}
		return false, false
	}
	if _, err := a.Acquire(context.Background(), Request{}); err == nil {
		t.Error("the second one queues")
	}
	cloned(t, a, b)
}

// TestSecondProcessWithOneState: the older one stands back; it cannot tell the
// newer one from its successor.
func TestSecondProcessWithOneState(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	a := y.ship(1)
	a.hold()
	b := a.twin(a.self.Boot, a.self.Instance)
	b.is(Holding)
	a.stopped("clone")
	a.refused(ErrClone)
	b.fence(PhaseStaging)
	b.die()
	y.now = y.now.Add(61 * time.Second)
	a.fence(PhaseRebooting)
}

func TestCrashAndFastRebootResolvesByItself(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	a := y.ship(1)
	a.hold()
	a.fence(PhaseRebooting)
	a.die()
	y.now = y.now.Add(10 * time.Second)
	a.boot("instance1")
	a.is(Holding)
	a.stopped("clone")
	y.now = y.now.Add(51 * time.Second)
	a.is(Holding)
	a.release(Updated)
	y.want()
}

func TestCleanRebootNeedsNoWait(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	a := y.ship(1)
	a.hold()
	a.fence(PhaseRebooting)
	if err := a.leave(context.Background()); err != nil {
		t.Fatal(err)
	}
	a.boot("instance1")
	a.is(Holding)
	a.release(Updated)
}

func TestReinstalledMachineTakesItsOldPermitOver(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	a := y.ship(1)
	a.hold()
	a.fence(PhaseRebooting)
	a.die()
	y.now = y.now.Add(10 * time.Second)
	a.boot("reinstalled")
	a.is(Holding)
	a.stopped("reinstalled")
	a.stopped("clone") // its old presence still lives
	a.refused(ErrClone)
	y.now = y.now.Add(51 * time.Second)
	a.is(Holding)
	p := a.state().Permit
	if p.Instance != "reinstalled" || p.Boot != "boot1" || p.Phase != PhaseRebooting {
		t.Errorf("permit %+v", p)
	}
	if m, _ := oneOf[Member](y, y.keys.Member(a.self.Machine)); m.Instance != "reinstalled" {
		t.Errorf("member %+v", m)
	}
	if told := y.journal(); told["adopted"] != 1 || told["reinstalled"] != 1 || told["joined"] != 1 {
		t.Errorf("journal %v", told)
	}
	a.release(Aborted)
	y.want()
	if len(a.uids) != 2 {
		t.Errorf("it was told the UIDs %v", a.uids)
	}
}

// TestPermitOfFleetLockIsTakenOver: a machine that spoke FleetLock, and has
// drydockd now.
func TestPermitOfFleetLockIsTakenOver(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	a := y.ship(1)
	y.write(y.keys.Permit(testGroup, a.self.Machine), encode(Permit{Version: 1, Machine: a.self.Machine, Group: testGroup, Phase: PhaseGranted, Via: viaFleetLock, Granted: y.now, Deadline: y.now.Add(time.Hour)}, nil))
	a.is(Holding)
	a.fence(PhaseDraining)
	if p := a.state().Permit; p.Via != "" || p.Instance != "instance1" {
		t.Errorf("permit %+v", p)
	}
	a.release(Aborted)
}

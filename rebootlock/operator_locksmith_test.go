package rebootlock

import (
	"strings"
	"testing"
	"time"
)

// What locksmith's semaphore does (lock/semaphore.go: Lock, Unlock, SetMax), and
// what ours does in its place, each with real grants of a coordinator.

// step is one command, and who holds a permit after it.
type step struct {
	do   func(f *office) error
	want string
}

func lockFor(machine string) func(*office) error {
	return func(f *office) error { return f.Acquire(f.t.Context(), "web", machine, "by hand") }
}

func unlockFor(machine string) func(*office) error {
	return func(f *office) error { return f.Release(f.t.Context(), "web", machine, "") }
}

func setMax(n int) func(*office) error {
	return func(f *office) error { _, err := f.SetMax(f.t.Context(), "web", Max{Count: n}); return err }
}

var semaphore = []struct {
	name  string
	steps []step
}{
	{"Lock takes a free permit", []step{{lockFor(m1), "1"}}},
	{"Lock of a full semaphore waits in line, where locksmith says semaphore is at 0", []step{
		{lockFor(m1), "1"}, {lockFor(m2), "1"}, {lockFor(m3), "1"}, {unlockFor(m1), "2"}, {unlockFor(m2), "3"},
	}},
	{"coreos/locksmith#58: Lock by a holder of a full semaphore succeeds", []step{{lockFor(m1), "1"}, {lockFor(m1), "1"}, {unlockFor(m1), ""}}},
	{"Lock twice in line keeps one place", []step{
		{lockFor(m1), "1"}, {lockFor(m2), "1"}, {lockFor(m3), "1"}, {lockFor(m2), "1"}, {unlockFor(m1), "2"}, {unlockFor(m2), "3"}, {unlockFor(m3), ""},
	}},
	{"Unlock by a holder frees its permit", []step{{lockFor(m1), "1"}, {unlockFor(m1), ""}, {lockFor(m2), "2"}}},
	{"Unlock by one who holds none succeeds, where locksmith says holder does not exist", []step{{unlockFor(m1), ""}, {lockFor(m1), "1"}, {unlockFor(m2), "1"}, {unlockFor(m1), ""}, {unlockFor(m1), ""}}},
	{"Unlock leaves the line", []step{{lockFor(m1), "1"}, {lockFor(m2), "1"}, {unlockFor(m2), "1"}, {unlockFor(m1), ""}}},
	{"Unlock and Lock go to the end of the line", []step{
		{lockFor(m1), "1"}, {lockFor(m2), "1"}, {unlockFor(m1), "2"}, {lockFor(m1), "2"}, {lockFor(m3), "2"}, {unlockFor(m2), "1"},
	}},
	{"SetMax above the holders grants to those in line at once", []step{{lockFor(m1), "1"}, {lockFor(m2), "1"}, {lockFor(m3), "1"}, {setMax(3), "123"}}},
	{"SetMax below the holders takes nothing away and grants nothing, where locksmith shows Available: -1", []step{
		{setMax(2), ""}, {lockFor(m1), "1"}, {lockFor(m2), "12"}, {lockFor(m3), "12"}, {setMax(1), "12"}, {unlockFor(m1), "2"}, {unlockFor(m2), "3"},
	}},
	{"SetMax to what it is changes nothing", []step{{lockFor(m1), "1"}, {setMax(1), "1"}}},
}

func TestSemaphoreOfLocksmith(t *testing.T) {
	onEachStore(t, func(t *testing.T, store Store) {
		for _, test := range semaphore {
			t.Run(test.name, func(t *testing.T) {
				f := newOffice(t, store)
				f.apply(Rules{Max: Max{Count: 1}})
				f.join(m1, m2, m3)
				for i, s := range test.steps {
					f.now = f.now.Add(time.Second)
					if err := s.do(f); err != nil {
						t.Fatalf("step %d: %v", i, err)
					}
					if got := f.held(); got != s.want {
						t.Fatalf("after step %d %q hold, want %q", i, got, s.want)
					}
				}
			})
		}
	})
}

// TestHolderNeedNotBeAMember: locksmithctl lock takes any machine-id.
func TestHolderNeedNotBeAMember(t *testing.T) {
	f := inMemory(t)
	if err := f.Acquire(t.Context(), "web", m3, "a machine without drydock"); err != nil {
		t.Fatal(err)
	}
	if got := f.held(); got != "3" {
		t.Errorf("%q", got)
	}
	f.now = f.now.Add(24 * time.Hour)
	if got := f.held(); got != "3" {
		t.Errorf("a day later: %q", got)
	}
}

func TestAcquireIsRefused(t *testing.T) {
	f := inMemory(t)
	f.join(m1)
	if _, _, err := f.Apply(t.Context(), "db", Rules{Max: Max{Count: 1}}); err != nil {
		t.Fatal(err)
	}
	if err := f.Acquire(t.Context(), "db", m1, "x"); err == nil || !strings.Contains(err.Error(), "it is in group web") {
		t.Errorf("another group: %v", err)
	}
	if err := f.Acquire(t.Context(), "none", m2, "x"); err == nil || !strings.Contains(err.Error(), "no rules") {
		t.Errorf("a group without rules: %v", err)
	}
}

// TestOperatorDoesNotUnlockAMachine: locksmithctl unlock takes a lock from a
// machine that reboots this minute. Ours names the command for that.
func TestOperatorDoesNotUnlockAMachine(t *testing.T) {
	f := inMemory(t)
	f.join(m1, m2)
	f.hold(m1, PhaseRebooting)
	f.ask(m2)
	if err := f.Release(t.Context(), "web", m1, ""); err == nil || !strings.Contains(err.Error(), "take-away") {
		t.Errorf("a permit: %v", err)
	}
	if err := f.Release(t.Context(), "web", m2, ""); err == nil || !strings.Contains(err.Error(), "would ask again") {
		t.Errorf("a ticket: %v", err)
	}
	if got := f.held(); got != "1" {
		t.Errorf("%q hold", got)
	}
}

// TestLimitsAreInOnePlace is airlock#81: what one operator sets, every reader
// sees, and nothing else is asked.
func TestLimitsAreInOnePlace(t *testing.T) {
	onEachStore(t, func(t *testing.T, store Store) {
		f := newOffice(t, store)
		f.apply(Rules{Max: Max{Count: 1}})
		f.join(m1, m2, m3)
		other := f.Operator
		other.Who = "operator bob@desk"
		if _, err := other.SetMax(t.Context(), "web", Max{Percent: 67}); err != nil {
			t.Fatal(err)
		}
		rules, err := f.Rules(t.Context(), "web")
		if g := f.group(); err != nil || rules.Max.Percent != 67 || g.Max != 2 || g.Rules.Max.Percent != 67 {
			t.Errorf("%+v, %v, %+v", rules, err, g)
		}
	})
}

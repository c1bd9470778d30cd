package rebootlock

import (
	"strings"
	"testing"
	"time"
)

func TestApplyKeepsTheFreezeAndSaysWhatChanged(t *testing.T) {
	f := newOffice(t, &Memory{})
	two := 2
	before, changed, err := f.Apply(t.Context(), "web", Rules{Max: Max{Count: 1}, Pause: Duration(time.Minute)})
	if before != nil || !changed || err != nil {
		t.Fatalf("%+v, %v, %v", before, changed, err)
	}
	if err := f.Freeze(t.Context(), "web", "fair"); err != nil {
		t.Fatal(err)
	}
	before, changed, err = f.Apply(t.Context(), "web", Rules{Max: Max{Percent: 25}, StopAfter: &two})
	if err != nil || !changed || before == nil || before.Max.Count != 1 {
		t.Fatalf("%+v, %v, %v", before, changed, err)
	}
	rules, err := f.Rules(t.Context(), "web")
	if err != nil || rules.Freeze == nil || rules.Freeze.Reason != "fair" || rules.Max.Percent != 25 || rules.Pause != 0 {
		t.Errorf("%+v, %v", rules, err)
	}
	if line := f.entries()[0]; line != "rules  max 1 → 25%, stop_after – → 2, pause 1m0s → –" {
		t.Errorf("journal %q", line)
	}
	lines := len(f.entries())
	if _, changed, err = f.Apply(t.Context(), "web", *rules); changed || err != nil || len(f.entries()) != lines {
		t.Errorf("what it is already: %v, %v", changed, err)
	}
	if rules, err := f.Rules(t.Context(), "none"); rules != nil || err != nil {
		t.Errorf("no group: %+v, %v", rules, err)
	}
}

func TestMaxThatCannotBe(t *testing.T) {
	f := inMemory(t)
	before := f.revision()
	for _, bad := range []Max{{}, {Count: -1}, {Percent: 101}, {Percent: -1}, {Count: 1, Percent: 1}} {
		if _, err := f.SetMax(t.Context(), "web", bad); err == nil || !strings.Contains(err.Error(), "at least 1") {
			t.Errorf("SetMax(%+v): %v", bad, err)
		}
		if _, _, err := f.Apply(t.Context(), "web", Rules{Max: bad}); err == nil {
			t.Errorf("Apply(%+v) is taken", bad)
		}
	}
	if _, err := f.SetMax(t.Context(), "wbe", Max{Count: 2}); err == nil || !strings.Contains(err.Error(), "drydock lock apply") {
		t.Errorf("a group that was mistyped: %v", err)
	}
	if f.revision() != before {
		t.Error("something was written")
	}
}

func TestOddGroupNames(t *testing.T) {
	onEachStore(t, func(t *testing.T, store Store) {
		f := newOffice(t, store)
		odd := []string{"prod/db", "prod", "prod/", "../x", "a b", "Zürich", "%2F", "a%b", strings.Repeat("x", 128)}
		for i, name := range odd {
			if _, _, err := f.Apply(t.Context(), name, Rules{Max: Max{Count: i + 1}}); err != nil {
				t.Errorf("%q: %v", name, err)
			}
			if err := f.Acquire(t.Context(), name, m1, "x"); err != nil {
				t.Errorf("%q: %v", name, err)
			}
		}
		v, err := f.Look(t.Context())
		if err != nil || len(v.Groups) != len(odd) || len(v.Unreadable) > 0 {
			t.Fatalf("%+v, %v", v, err)
		}
		for i, name := range odd {
			if rules, err := f.Rules(t.Context(), name); err != nil || rules.Max.Count != i+1 {
				t.Errorf("%q: %+v, %v", name, rules, err)
			}
			if err := f.Freeze(t.Context(), name, "x"); err != nil {
				t.Errorf("%q: %v", name, err)
			}
		}
		for _, bad := range []string{"", " x", "x ", "a\nb", "\xff", "a\x00", strings.Repeat("x", 129)} {
			if _, _, err := f.Apply(t.Context(), bad, Rules{Max: Max{Count: 1}}); err == nil {
				t.Errorf("%q is taken", bad)
			}
			if err := f.Acquire(t.Context(), bad, m1, "x"); err == nil {
				t.Errorf("a ticket in %q is taken", bad)
			}
		}
	})
}

func TestReasonThatIsNone(t *testing.T) {
	f := busyOffice(t, &Memory{})
	for _, bad := range []string{"", "  ", "a\nb", "\x1b[2J", "\xff", strings.Repeat("x", 1025)} {
		for name, err := range map[string]error{
			"freeze": f.Freeze(t.Context(), "web", bad), "freeze cluster": f.Freeze(t.Context(), "", bad),
			"acquire": f.Acquire(t.Context(), "web", m3, bad), "take-away": f.TakeAway(t.Context(), "web", m1, bad, true),
			"remove": f.Remove(t.Context(), m3, bad, true),
		} {
			if err == nil || !strings.Contains(err.Error(), "the reason") {
				t.Errorf("%s because %q: %v", name, bad, err)
			}
		}
	}
}

func TestFreezeOfWhatIsFrozen(t *testing.T) {
	f := inMemory(t)
	first := f.now
	f.Freeze(t.Context(), "web", "fair")
	f.now = f.now.Add(time.Hour)
	if err := f.Freeze(t.Context(), "web", "fair, and then Easter"); err != nil {
		t.Fatal(err)
	}
	rules, err := f.Rules(t.Context(), "web")
	if err != nil || rules.Freeze.Reason != "fair, and then Easter" || !rules.Freeze.Since.Equal(first) {
		t.Errorf("%+v, %v", rules.Freeze, err)
	}
	if err := newOffice(t, &Memory{}).Freeze(t.Context(), "", "x"); err == nil || !strings.Contains(err.Error(), "there is no cluster") {
		t.Errorf("a cluster that is not there: %v", err)
	}
}

// TestFreezeAndThaw: a freeze of the group and one of the cluster end apart, and
// a thaw lifts no stop.
func TestFreezeAndThaw(t *testing.T) {
	f := inMemory(t)
	f.join(m1)
	f.ask(m1)
	for _, group := range []string{"", "web"} {
		if err := f.Freeze(t.Context(), group, "fair"); err != nil {
			t.Fatal(err)
		}
	}
	for _, group := range []string{"web", ""} {
		if got := f.held(); got != "" {
			t.Fatalf("%s holds in a freeze", got)
		}
		if err := f.Thaw(t.Context(), group); err != nil {
			t.Fatal(err)
		}
	}
	if got := f.held(); got != "1" {
		t.Errorf("%q holds after the thaw", got)
	}
}

func TestForgiveLiftsTheStop(t *testing.T) {
	f := inMemory(t)
	f.join(m1, m2)
	f.ask(m1)
	fail := func(releases ...string) {
		var all []Failure
		for _, r := range releases {
			all = append(all, Failure{Release: r, Machine: m2, How: "rolled-back", At: f.now})
		}
		f.write(f.Keys.Failures("web"), encode(Failures{Version: 1, Failed: all}, nil))
	}
	fail("1.1.0", "0.9.0")
	if got := f.held(); got != "" {
		t.Fatalf("%s holds a permit for a release that is stopped", got)
	}
	if g := f.group(); len(g.Stops) != 2 || len(g.Queue) != 1 || len(g.Queue[0].Waits) == 0 || g.Queue[0].Waits[0].Kind != "stopped" {
		t.Errorf("%+v", g)
	}
	for _, release := range []string{"1.0.5", "0.9.0"} {
		if err := f.Forgive(t.Context(), "web", release); err != nil {
			t.Fatal(err)
		}
		if got := f.held(); got != "" {
			t.Fatalf("%s holds, and only %s was forgiven", got, release)
		}
	}
	if err := f.Forgive(t.Context(), "web", ""); err != nil {
		t.Fatal(err)
	}
	if got := f.held(); got != "1" {
		t.Errorf("%q holds after all is forgiven", got)
	}
	if err := f.Forgive(t.Context(), "none", ""); err != nil {
		t.Errorf("nothing to forgive: %v", err)
	}
}

func TestTakeAwayTakesEvidenceOrForce(t *testing.T) {
	for _, test := range []struct {
		phase   string
		present []string // boots; that of the grant is a
		refuse  string   // without force
	}{
		{PhaseGranted, nil, ""},
		{PhaseDraining, []string{"a"}, ""},
		{PhaseStaging, []string{"a"}, ""},
		{PhaseRebooting, nil, "has not been seen since"},
		{PhaseRebooting, []string{"a"}, "may go down at any moment"},
		{PhaseRebooting, []string{"b"}, ""},
		{PhaseRebooting, []string{"a", "b"}, ""},
		{PhaseEnded, []string{"b"}, "coordinator's next pass"},
		{"somersault", []string{"b"}, "none that this version knows"},
	} {
		f := inMemory(t)
		f.join(m1)
		f.gone(m1, "a")
		f.hold(m1, test.phase)
		for _, boot := range test.present {
			f.boot(m1, boot)
		}
		err := f.TakeAway(t.Context(), "web", m1, "it smells", false)
		if (err == nil) != (test.refuse == "") || err != nil && !strings.Contains(err.Error(), test.refuse) {
			t.Errorf("%s, present %v: %v", test.phase, test.present, err)
		}
		if err != nil {
			if got := f.group().Holders; len(got) != 1 {
				t.Errorf("%s: refused and taken", test.phase)
			}
			err = f.TakeAway(t.Context(), "web", m1, "it smells", true)
			if line := f.entries()[0]; line != "taken-away 1 it smells (by force, in phase "+test.phase+")" {
				t.Errorf("journal %q", line)
			}
		}
		if got := f.group().Holders; err != nil || len(got) != 0 {
			t.Errorf("%s: %v, %+v", test.phase, err, got)
		}
		if err := f.TakeAway(t.Context(), "web", m1, "it smells", true); err == nil || !strings.Contains(err.Error(), "holds no permit") {
			t.Errorf("again: %v", err)
		}
	}
}

// TestTakeAwayOfOneThatWaits names what ends the wait.
func TestTakeAwayOfOneThatWaits(t *testing.T) {
	f := inMemory(t)
	f.join(m1, m2)
	f.ask(m1)
	if err := f.Acquire(t.Context(), "web", m2, "new disk"); err != nil {
		t.Fatal(err)
	}
	for machine, want := range map[string]string{m1: "drydock pause", m2: "drydock lock release takes it"} {
		if err := f.TakeAway(t.Context(), "web", machine, "it smells", true); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", machine, err, want)
		}
	}
}

// TestTakeAwayOfOneThatMovedOn: the permit began to reboot while the operator
// looked at it draining.
func TestTakeAwayOfOneThatMovedOn(t *testing.T) {
	f := inMemory(t)
	f.join(m1)
	f.hold(m1, PhaseDraining)
	f.Store = &rival{Store: f.store, before: func() { f.hold(m1, PhaseRebooting) }}
	if err := f.TakeAway(t.Context(), "web", m1, "x", false); err == nil || !strings.Contains(err.Error(), PhaseRebooting) {
		t.Errorf("%v", err)
	}
	if len(f.group().Holders) != 1 {
		t.Error("it was taken")
	}
}

func TestTakeAwayOfAnUnreadablePermitTakesForce(t *testing.T) {
	f := inMemory(t)
	f.write(f.Keys.Permit("web", m1), []byte(`{"version":1`))
	if err := f.TakeAway(t.Context(), "web", m1, "x", false); err == nil || !strings.Contains(err.Error(), "force") {
		t.Errorf("%v", err)
	}
	if err := f.TakeAway(t.Context(), "web", m1, "x", true); err != nil {
		t.Errorf("%v", err)
	}
}

// TestGhostNode is kured#137: a permit that a machine holds which no longer
// exists. It goes by an operator's word, with the member.
func TestGhostNode(t *testing.T) {
	f := inMemory(t)
	f.join(m1, m2)
	f.ask(m2)
	f.write(f.Keys.Status(m1), encode(Status{Version: 1, Machine: m1}, nil))
	f.hold(m1, PhaseRebooting)
	if err := f.Remove(t.Context(), m1, "scrapped", false); err == nil || !strings.Contains(err.Error(), "holds a permit") {
		t.Fatalf("%v", err)
	}
	f.write(f.Keys.Permit("web", m1), nil)
	if err := f.Remove(t.Context(), m1, "scrapped", false); err == nil || !strings.Contains(err.Error(), "is present") {
		t.Fatalf("%v", err)
	}
	f.gone(m1, "a")
	f.hold(m1, PhaseRebooting)
	if got := f.held(); got != "1" {
		t.Fatalf("%s holds beside a ghost", got)
	}
	if err := f.Remove(t.Context(), m1, "scrapped", true); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{f.Keys.Member(m1), f.Keys.Status(m1), f.Keys.Permit("web", m1)} {
		if f.raw(key).Value != nil {
			t.Errorf("%s is left", key)
		}
	}
	if got := f.held(); got != "2" {
		t.Errorf("%s holds after the ghost is gone", got)
	}
	if err := f.Remove(t.Context(), m1, "scrapped", false); err == nil || !strings.Contains(err.Error(), "no member") {
		t.Errorf("again: %v", err)
	}
}

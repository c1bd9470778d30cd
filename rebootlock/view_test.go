package rebootlock

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/testdata/real"
)

// report writes what a machine says of itself.
func (f *office) report(s Status) {
	s.Version, s.Group, s.At = 1, "web", f.now
	f.write(f.Keys.Status(s.Machine), encode(s, nil))
}

// rollingOffice has a group in the middle of a rollout.
func rollingOffice(t *testing.T) *office {
	f := newOffice(t, &Memory{})
	f.Keys = Keys{Cluster: "prod"}
	f.apply(Rules{Max: Max{Percent: 50}, Pause: Duration(10 * time.Minute)})
	f.write(f.Keys.ClusterRecord(), encode(Cluster{Version: 1, ID: "prod", UID: "FIXED", Created: f.now}, nil))
	machines := []string{m1, m2, m3, strings.Repeat("4", 32), strings.Repeat("5", 32)}
	f.join(machines...)
	f.gone(machines[4], "a")
	f.report(Status{Machine: m1, Release: "1.1.0", Slot: "B", Step: "wait"})
	f.report(Status{Machine: m2, Release: "1.0.0", Slot: "A", Step: "drain", NewVersion: "1.1.0", Permit: "held"})
	f.report(Status{Machine: m3, Release: "1.0.0", Slot: "A", Step: "wait", NewVersion: "1.1.0", Permit: "queued"})
	f.report(Status{Machine: machines[3], Release: "1.0.0", Slot: "A", Step: "wait", Rejected: []string{"1.1.0"}, LastError: "health: unit web.service failed"})
	f.hold(m2, PhaseDraining)
	f.ask(m3)
	f.write(f.Keys.Failures("web"), encode(Failures{Version: 1, Failed: []Failure{{Release: "1.0.9", Machine: machines[3], How: "rolled-back", At: f.now}}}, nil))
	f.write(f.Keys.Stamp(), encode(Stamp{Version: 1, Coordinator: m1, Pass: 7, At: f.now}, nil))
	f.write(f.Keys.Election()+"/1", []byte(m1))
	f.write(f.Keys.Status("broken"), []byte("{"))
	f.now = f.now.Add(30 * time.Second)
	return f
}

// TestViewAsJSON keeps the shape that programs read. UPDATE=1 writes it anew.
func TestViewAsJSON(t *testing.T) {
	v, err := rollingOffice(t).Look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join(real.Module(t), "testdata", "rebootlock", "view.json")
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(golden, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || !bytes.Equal(append(got, '\n'), want) {
		t.Errorf("%v, got\n%s", err, got)
	}
	var back View
	if err := json.Unmarshal(got, &back); err != nil {
		t.Fatal(err)
	}
	again, _ := json.Marshal(back)
	first, _ := json.Marshal(v)
	if !bytes.Equal(again, first) {
		t.Error("a view that was read differs from the one that was written")
	}
}

func TestViewNeverFailsOnOddRecords(t *testing.T) {
	f := rollingOffice(t)
	s, err := f.store.Read(t.Context(), Range{Key: f.Keys.root(), Prefix: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range s.KVs {
		for _, value := range []string{"", "{", "[]", "null", `{"version":1}`, `{"version":99}`, `{"version":1,"max":"200%"}`} {
			f := rollingOffice(t)
			f.write(kv.Key, []byte(value))
			v, err := f.Look(t.Context())
			if err != nil {
				t.Errorf("%s = %q: %v", kv.Key, value, err)
			}
			for _, m := range v.Machines {
				if len(m.Waits) == 0 {
					t.Errorf("%s = %q: nothing is said of %s", kv.Key, value, m.Machine)
				}
			}
			if strings.HasPrefix(kv.Key, f.Keys.root()+"lock/") && value == "{" && len(v.Unreadable) != 2 {
				t.Errorf("%s = %q: unreadable %q", kv.Key, value, v.Unreadable)
			}
		}
		g := rollingOffice(t)
		g.write(kv.Key, nil)
		if _, err := g.Look(t.Context()); err != nil {
			t.Errorf("without %s: %v", kv.Key, err)
		}
	}
}

func TestExplainAlwaysSaysSomething(t *testing.T) {
	const other = "9999"
	for _, test := range []struct {
		name    string
		machine string
		set     func(f *office)
		want    []string // the beginnings of kinds, in order
	}{
		{"nobody knows it", other, func(*office) {}, []string{"member"}},
		{"it is there and silent", m1, func(f *office) { f.join(m1) }, []string{"silent"}},
		{"it is gone", m1, func(f *office) { f.join(m1); f.gone(m1, "a") }, []string{"absent"}},
		{"a clone", m1, func(f *office) { f.join(m1); f.boot(m1, "b") }, []string{"clone", "silent"}},
		{"it is current", m1, func(f *office) { f.join(m1); f.report(Status{Machine: m1, Release: "1.1.0", Step: "wait"}) }, []string{"current"}},
		{"nothing was offered to it", m1, func(f *office) {
			f.join(m1, m2)
			f.report(Status{Machine: m1, Release: "1.0.0", Step: "wait"})
			f.report(Status{Machine: m2, Release: "1.1.0"})
		}, []string{"unoffered"}},
		{"it writes", m1, func(f *office) {
			f.join(m1)
			f.report(Status{Machine: m1, Step: "write", Progress: 0.5, NewVersion: "1.1.0"})
		}, []string{"step"}},
		{"it waits by its policy", m1, func(f *office) {
			f.join(m1)
			f.report(Status{Machine: m1, Step: "wait", NewVersion: "1.1.0", Waits: []Obstacle{{Kind: "window", Text: "outside its windows"}}, LastError: "dns"})
		}, []string{"window", "error"}},
		{"nothing is in its way", m1, func(f *office) {
			f.join(m1)
			f.report(Status{Machine: m1, Release: "1.0.0", Step: "wait", NewVersion: "1.1.0"})
		}, []string{"next"}},
		{"nobody coordinates", m1, func(f *office) { f.join(m1); f.ask(m1) }, []string{"coordinator"}},
		{"it is its turn", m1, func(f *office) { f.join(m1); f.pass(); f.ask(m1) }, []string{"turn"}},
		{"the coordinator is stalled", m1, func(f *office) { f.join(m1); f.pass(); f.ask(m1); f.now = f.now.Add(time.Hour) }, []string{"coordinator"}},
		{"another holds the only permit", m2, func(f *office) { f.join(m1, m2); f.pass(); f.hold(m1, PhaseDraining); f.ask(m3, m2) }, []string{"full", "queue"}},
		{"the group is frozen", m1, func(f *office) { f.join(m1); f.pass(); f.ask(m1); f.Freeze(f.t.Context(), "web", "x") }, []string{"freeze"}},
		{"it holds", m1, func(f *office) { f.join(m1); f.hold(m1, PhaseDraining) }, []string{"permit", "silent"}},
		{"it is overdue", m1, func(f *office) { f.join(m1); f.hold(m1, PhaseRebooting); f.now = f.now.Add(3 * time.Hour) }, []string{"overdue"}},
		{"it has given back", m1, func(f *office) { f.join(m1); f.hold(m1, PhaseEnded) }, []string{"permit"}},
		{"it went back", m1, func(f *office) {
			f.join(m1, m2)
			f.report(Status{Machine: m1, Release: "1.0.0", Step: "wait", Rejected: []string{"1.1.0"}})
			f.report(Status{Machine: m2, Release: "1.1.0"})
		}, []string{"rejected"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := inMemory(t)
			test.set(f)
			v, err := f.Look(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var kinds []string
			why := Explain(v, test.machine)
			for _, o := range why {
				kinds = append(kinds, o.Kind)
				if o.Text == "" {
					t.Errorf("%s says nothing", o.Kind)
				}
			}
			if len(kinds) == 0 || !slices.Equal(kinds[:min(len(kinds), len(test.want))], test.want[:min(len(kinds), len(test.want))]) {
				t.Errorf("why %+v", why)
			}
		})
	}
}

func TestRolloutIsOfWhatIsOffered(t *testing.T) {
	for _, test := range []struct {
		name    string
		reports []Status
		want    Rollout
	}{
		{"nothing is known", nil, Rollout{Releases: map[string]int{"": 3}}},
		{"all run the same", []Status{{Machine: m1, Release: "1.0.0"}, {Machine: m2, Release: "1.0.0"}, {Machine: m3, Release: "1.0.0"}},
			Rollout{To: "1.0.0", Done: 3, Releases: map[string]int{"1.0.0": 3}}},
		{"in the middle", []Status{{Machine: m1, Release: "1.10.0"}, {Machine: m2, Release: "1.9.0", NewVersion: "1.10.0"}, {Machine: m3, Release: "1.9.0"}},
			Rollout{To: "1.10.0", Done: 1, Releases: map[string]int{"1.10.0": 1, "1.9.0": 2}}},
		{"the fleet is rolled back", []Status{{Machine: m1, Release: "1.0.0"}, {Machine: m2, Release: "1.1.0", NewVersion: "1.0.0"}, {Machine: m3, Release: "1.1.0"}},
			Rollout{To: "1.0.0", Done: 1, Releases: map[string]int{"1.0.0": 1, "1.1.0": 2}}},
		{"one went back", []Status{{Machine: m1, Release: "1.0.0", Rejected: []string{"1.1.0"}}, {Machine: m2, Release: "1.0.0", NewVersion: "1.1.0"}, {Machine: m3, Release: "1.0.0"}},
			Rollout{To: "1.1.0", Rejected: 1, Releases: map[string]int{"1.0.0": 3}}},
	} {
		f := inMemory(t)
		f.join(m1, m2, m3)
		for _, s := range test.reports {
			f.report(s)
		}
		if got := f.group().Rollout; !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: %+v, want %+v", test.name, got, test.want)
		}
	}
}

func TestNewer(t *testing.T) {
	ordered := []string{"", "0.9", "1.0.0-alpha", "1.0.0-alpha.2", "1.0.0-alpha.10", "1.0.0", "1.0.1", "1.2", "1.10", "4081.2.0", "10000"}
	for i, a := range ordered {
		for j, b := range ordered {
			if got := newer(a, b); got != (i > j) {
				t.Errorf("newer(%q, %q) = %v", a, b, got)
			}
		}
	}
}

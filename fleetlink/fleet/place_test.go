package fleet

import (
	"slices"
	"strings"
	"testing"
)

// file is a unit's file of "Name=value" lines of [X-Fleet], and "BindsTo=" ones.
func file(name string, lines ...string) *unit {
	doc := unitDoc{Name: name}
	for _, line := range lines {
		key, value, _ := strings.Cut(line, "=")
		section := "X-Fleet"
		if key == "BindsTo" {
			section = "Unit"
		}
		doc.Options = append(doc.Options, option{section, key, value})
	}
	u := parseUnit(doc)
	u.desired = launched
	return u
}

// TestPlace: a group goes where fleet's engine would put it (AbleToRun of
// agent/state.go, leastLoadedScheduler of engine/scheduler.go), or it is said why
// it can go nowhere.
func TestPlace(t *testing.T) {
	machines := map[string]map[string]string{idA: {"zone": "1"}, idB: {"zone": "1"}, idC: {"zone": "2"}}
	at := func(machine string, u *unit) *unit { u.target = machine; return u }
	for name, test := range map[string]struct {
		u      *unit
		others []*unit
		out    map[string]string
		to     string
		why    string
	}{
		"ties go to the first by id": {u: file("a.service"), to: idB},
		"the least loaded":           {u: file("a.service"), others: []*unit{at(idB, file("x.service"))}, to: idC},
		"inactive units are no load": {u: file("a.service"), others: []*unit{{name: "x.service", target: idB, desired: inactive}}, to: idB},
		"Global units are load where metadata admits them": {
			u: file("a.service"), others: []*unit{file("g.service", "Global=true", "MachineMetadata=zone=1")}, to: idC},
		"metadata":                     {u: file("a.service", "MachineMetadata=zone=2"), to: idC},
		"metadata, one of several":     {u: file("a.service", "MachineMetadata=zone=3", "MachineMetadata=zone=2"), to: idC},
		"metadata, several on a line":  {u: file("a.service", `MachineMetadata="zone=2" "disk=ssd"`), why: "it can go nowhere: bbbbbbbb, cccccccc has no disk=ssd"},
		"metadata that is none":        {u: file("a.service", "MachineMetadata=zone", "MachineMetadata=a=b=c", "MachineMetadata==x"), to: idB},
		"the old name of metadata":     {u: file("a.service", "X-ConditionMachineMetadata=zone=2"), to: idC},
		"a machine":                    {u: file("a.service", "MachineID="+idC), to: idC},
		"a machine by its short id":    {u: file("a.service", "MachineID=cccccccc"), to: idC},
		"this machine":                 {u: file("a.service", "MachineID="+idA), why: "it can go nowhere: bbbbbbbb, cccccccc is not machine aaaaaaaa"},
		"a conflict":                   {u: file("a@1.service", "Conflicts=%p@*.service"), others: []*unit{at(idB, file("a@2.service"))}, to: idC},
		"a conflict of the other unit": {u: file("a@1.service"), others: []*unit{at(idB, file("z.service", "X-Conflicts=a@*"))}, to: idC},
		"a glob that is none":          {u: file("a.service", "Conflicts=[x"), others: []*unit{at(idC, file("x.service"))}, to: idB},
		"no place for a replacement":   {u: file("a.service", "Replaces=b*"), others: []*unit{at(idB, file("b.service"))}, to: idC},
		"each replaces the other: no matter to fleet": {
			u: file("a.service", "Replaces=b*"), others: []*unit{at(idB, file("b.service", "Replaces=a*")), at(idC, file("x.service"))}, to: idB},
		"a peer":                 {u: file("a.service", "MachineOf=p.service"), others: []*unit{at(idC, file("p.service"))}, to: idC},
		"a peer that is nowhere": {u: file("a.service", "MachineOf=p.service"), why: "it can go nowhere: bbbbbbbb, cccccccc does not run p.service, which a.service must be with"},
		"with its group":         {u: file("a.service"), others: []*unit{at(idA, file("s.service", "MachineOf=a.service", "MachineMetadata=zone=2"))}, to: idC},
		"a circle": {u: file("a.service", "MachineOf=b.service"), others: []*unit{at(idA, file("b.service", "MachineOf=a.service"))},
			why: "it cannot move: it and the units it is bound to must each be where the other is (MachineOf), so fleet could not schedule them again"},
		"machines that are drained": {u: file("a.service"), out: map[string]string{idB: "is being drained as well"}, to: idC},
		"all different": {u: file("a.service", "MachineMetadata=zone=2"), others: []*unit{at(idC, file("x.service", "Conflicts=a.*"))},
			why: "it can go nowhere: bbbbbbbb has no zone=2; cccccccc runs x.service, which a.service conflicts with"},
	} {
		w := &world{self: idA, machines: machines, units: map[string]*unit{}, out: test.out}
		for _, u := range append(test.others, at(idA, test.u)) {
			w.units[u.name] = u
		}
		i := slices.IndexFunc(w.groups(), func(g group) bool { return g.has(test.u.name) })
		if to, why := w.place(w.groups()[i]); to != test.to || why != test.why {
			t.Errorf("%s: %q, %q, want %q, %q", name, to, why, test.to, test.why)
		}
	}
}

// TestGroups: what is bound together is in one group, each after what it must be
// with, and announcements are told apart from what only goes along.
func TestGroups(t *testing.T) {
	w := &world{self: idA, units: map[string]*unit{}}
	for _, u := range []*unit{
		file("a-announce@1.service", "MachineOf=web@%i.service", "BindsTo=web@%i.service other.service"),
		file("b-logs.service", "MachineOf=a-announce@1.service"),
		file("web@1.service"),
		file("alone.service"),
		file("elsewhere.service", "MachineOf=web@1.service"),
		file("everywhere.service", "Global=yes"),
	} {
		u.target = idA
		w.units[u.name] = u
	}
	w.units["elsewhere.service"].target = idB
	var got []string
	for _, g := range w.groups() {
		var names []string
		for _, u := range g {
			names = append(names, u.name)
		}
		for _, u := range g.announcements() {
			names = append(names, "announces: "+u.name)
		}
		got = append(got, strings.Join(names, " "))
	}
	want := []string{"web@1.service a-announce@1.service b-logs.service announces: a-announce@1.service", "alone.service"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// FuzzParseUnit: no unit file makes the link stumble.
func FuzzParseUnit(f *testing.F) {
	for _, line := range []string{"a=b", `"a=b" "c=d"`, `"`, `""`, "%p@%i.%n", "[", "true", "\\"} {
		f.Add("web@1.service", "MachineMetadata", line)
		f.Add("x", "Conflicts", line)
	}
	f.Fuzz(func(t *testing.T, name, key, value string) {
		doc := unitDoc{Name: name, Options: []option{{"X-Fleet", key, value}, {"X-Fleet", "MachineOf", value}, {"Unit", "BindsTo", value}}}
		u := parseUnit(doc)
		u.target, u.desired = idA, launched
		w := &world{self: idA, machines: map[string]map[string]string{idA: {}, idB: {value: key}}, units: map[string]*unit{name: u}}
		for _, g := range w.groups() {
			if to, why := w.place(g); (to == "") == (why == "") {
				t.Errorf("placed on %q, and %q", to, why)
			}
		}
	})
}

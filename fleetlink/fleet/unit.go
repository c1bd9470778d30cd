package fleet

import (
	"path"
	"slices"
	"strings"
)

// A unit is one of fleet's units: what its file asks of a machine ([X-Fleet],
// job/job.go of fleet), and what is wanted of it.
type unit struct {
	name      string
	global    bool
	machineID string              // the one machine that it may run on; "": any
	metadata  map[string][]string // what a machine must have, one of the values of each key
	peers     []string            // units that must be scheduled where it is
	conflicts []string            // globs of units that must not
	replaces  []string            // globs of units that it drives away
	binds     []string            // units without which systemd stops it
	starts    []string            // units that systemd starts with it, or that it starts when it is used

	desired string // inactive, loaded or launched
	target  string // the machine that it is scheduled to; "": none
}

// The states that fleet can be told to keep a unit in.
const (
	inactive = "inactive"
	loaded   = "loaded"
	launched = "launched"
)

// parseUnit reads what a unit's file asks for, as fleet's own code does: the
// deprecated names count, the last Global wins, the first MachineID does, and
// what makes no sense asks for nothing.
func parseUnit(doc unitDoc) *unit {
	u := &unit{name: doc.Name, desired: inactive, metadata: map[string][]string{}}
	keys := map[string][]string{}
	for _, o := range doc.Options {
		switch o.Section {
		case "X-Fleet":
			for _, v := range manyValues(o.Value) {
				keys[o.Name] = append(keys[o.Name], specifiers(v, doc.Name))
			}
		case "Unit", "Socket":
			u.relate(o.Name, strings.Fields(specifiers(o.Value, doc.Name)))
		}
	}
	if stem, ok := strings.CutSuffix(doc.Name, ".socket"); ok && u.starts == nil {
		u.starts = []string{stem + ".service"}
	}
	if g := keys["Global"]; len(g) > 0 {
		u.global = slices.Contains([]string{"true", "yes", "1", "on", "t"}, strings.ToLower(g[len(g)-1]))
	}
	for _, name := range []string{"MachineID", "X-ConditionMachineID", "X-ConditionMachineBootID"} {
		if ids := keys[name]; len(ids) > 0 {
			u.machineID = ids[0]
			break
		}
	}
	for _, pair := range slices.Concat(keys["X-ConditionMachineMetadata"], keys["MachineMetadata"]) {
		if k, v, ok := strings.Cut(pair, "="); ok && k != "" && v != "" && !strings.Contains(v, "=") {
			u.metadata[k] = append(u.metadata[k], v)
		}
	}
	u.peers = slices.Concat(keys["X-ConditionMachineOf"], keys["MachineOf"])
	u.conflicts = slices.Concat(keys["X-Conflicts"], keys["Conflicts"])
	u.replaces = keys["Replaces"]
	return u
}

// relate reads a line of [Unit] or [Socket] that names other units.
func (u *unit) relate(line string, names []string) {
	switch line {
	case "BindsTo", "BindTo":
		u.binds = append(u.binds, names...)
		u.starts = append(u.starts, names...)
	case "Requires", "Wants", "Service": // Service= of a socket
		u.starts = append(u.starts, names...)
	}
}

// manyValues takes apart a line of several quoted values, as only [X-Fleet] has
// them (unit/unit.go of fleet).
func manyValues(line string) (values []string) {
	if len(line) < 2 || line[0] != '"' || line[len(line)-1] != '"' {
		return []string{line}
	}
	value, within := strings.Builder{}, false
	for _, b := range []byte(line) {
		switch {
		case b == '"':
			within = !within
		case b == ' ' && !within:
			values = append(values, value.String())
			value.Reset()
		default:
			value.WriteByte(b)
		}
	}
	return append(values, value.String())
}

// specifiers fills in %n, %N, %p and %i, one after the other as fleet does.
func specifiers(s, full string) string {
	dot := strings.LastIndex(full, ".")
	if dot < 0 {
		return s
	}
	name := full[:dot]
	prefix, instance, _ := strings.Cut(name, "@")
	for _, r := range [][2]string{{"%n", full}, {"%N", name}, {"%p", prefix}, {"%i", instance}} {
		s = strings.ReplaceAll(s, r[0], r[1])
	}
	return s
}

// matches reports whether one of several globs names a unit. A glob that is none
// names nothing, as with fleet.
func matches(globs []string, name string) bool {
	return slices.ContainsFunc(globs, func(g string) bool { ok, err := path.Match(g, name); return ok && err == nil })
}

// shortID is how much of a machine's id names it in a unit file.
const shortID = 8

// lacks says which of a unit's conditions on the machine itself one does not
// meet; "" if it meets all.
func (u *unit) lacks(id string, metadata map[string]string) string {
	if u.machineID != "" && u.machineID != id && u.machineID != short(id) {
		return "is not machine " + short(u.machineID)
	}
	for _, key := range sorted(u.metadata) {
		if values := u.metadata[key]; !slices.Contains(values, metadata[key]) {
			return "has no " + key + "=" + strings.Join(values, " or ")
		}
	}
	return ""
}

// announces reports whether a unit tells the world where another one is: it is
// where that is, and stops with it.
func (u *unit) announces(of *unit) bool {
	return u != of && slices.Contains(u.peers, of.name) && slices.Contains(u.binds, of.name)
}

// short is a machine's id as fleetctl shows it.
func short(id string) string { return id[:min(len(id), shortID)] }

package fleet

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A world is what fleet's engine decides by.
type world struct {
	self     string
	machines map[string]map[string]string // metadata by id
	units    map[string]*unit
	out      map[string]string // machines that are to get no work though fleet would give it, and why

	there map[string][]*unit // on each machine; nil: not known yet
}

// A group is units that are on one machine and bound together (MachineOf): they
// can only leave together. Each comes after the ones that it must be with.
type group []*unit

// has reports whether a unit is in the group.
func (g group) has(name string) bool {
	return slices.ContainsFunc(g, func(u *unit) bool { return u.name == name })
}

// announcements are the units of a group that announce another one of it.
func (g group) announcements() (found group) {
	for _, u := range g {
		if slices.ContainsFunc(g, u.announces) {
			found = append(found, u)
		}
	}
	return found
}

// on lists what fleet counts as being on a machine: what is scheduled to it and
// not inactive, and the Global units that its metadata admits (engine/state.go).
func (w *world) on(machine string) []*unit {
	if w.there == nil {
		w.there = map[string][]*unit{}
		for _, name := range sorted(w.units) {
			u := w.units[name]
			switch {
			case !u.global && u.desired != inactive:
				w.there[u.target] = append(w.there[u.target], u)
			case u.global:
				for id, metadata := range w.machines {
					if u.lacks(id, metadata) == "" {
						w.there[id] = append(w.there[id], u)
					}
				}
			}
		}
	}
	return w.there[machine]
}

// groups lists what is scheduled to this machine.
func (w *world) groups() (groups []group) {
	local := map[string]*unit{}
	for name, u := range w.units {
		if !u.global && u.target == w.self && u.desired != inactive {
			local[name] = u
		}
	}
	for _, name := range sorted(local) {
		if local[name] != nil {
			groups = append(groups, gather(local, name))
		}
	}
	return groups
}

// gather takes the group of one unit out of the units that have none.
func gather(local map[string]*unit, name string) (g group) {
	first := local[name]
	delete(local, name)
	for queue := []*unit{first}; len(queue) > 0; queue = queue[1:] {
		g = append(g, queue[0])
		for _, other := range sorted(local) {
			if u := local[other]; slices.Contains(u.peers, queue[0].name) || slices.Contains(queue[0].peers, other) {
				delete(local, other)
				queue = append(queue, u)
			}
		}
	}
	slices.SortFunc(g, func(a, b *unit) int { return cmp.Compare(a.name, b.name) })
	ordered, placed := group{}, map[string]bool{}
	for range g {
		for _, u := range g {
			ready := !slices.ContainsFunc(u.peers, func(p string) bool { return g.has(p) && !placed[p] })
			if ready && !placed[u.name] {
				ordered, placed[u.name] = append(ordered, u), true
			}
		}
	}
	for _, u := range g { // those that wait for each other come last
		if !placed[u.name] {
			ordered = append(ordered, u)
		}
	}
	return ordered
}

// circle reports whether units of a group must each be where another one is
// already: fleet could not schedule them again once they have left.
func (g group) circle() bool {
	for i, u := range g {
		if slices.ContainsFunc(u.peers, g[i:].has) {
			return true
		}
	}
	return false
}

// obstacle says why a group cannot run on a machine; "" if it can (AbleToRun,
// agent/state.go). A unit that would drive another one away counts as one that
// cannot.
func (w *world) obstacle(g group, machine string) string {
	there := w.on(machine)
	for _, u := range g {
		if why := u.lacks(machine, w.machines[machine]); why != "" {
			return why
		}
		for _, peer := range u.peers {
			if !g.has(peer) && !slices.ContainsFunc(there, func(t *unit) bool { return t.name == peer }) {
				return "does not run " + peer + ", which " + u.name + " must be with"
			}
		}
		for _, t := range there {
			switch {
			case g.has(t.name):
			case matches(u.conflicts, t.name) || matches(t.conflicts, u.name):
				return "runs " + t.name + ", which " + u.name + " conflicts with"
			case matches(u.replaces, t.name) != matches(t.replaces, u.name):
				return "runs " + t.name + ", and one of it and " + u.name + " replaces the other"
			}
		}
	}
	return ""
}

// place picks the machine that fleet's engine would pick for a group if this one
// were not there: the one with the fewest units of those that can run it, of
// these the first by id (engine/scheduler.go). Where there is none, why says
// which condition each does not meet.
func (w *world) place(g group) (machine, why string) {
	if g.circle() {
		return "", "it cannot move: it and the units it is bound to must each be where the other is (MachineOf), so fleet could not schedule them again"
	}
	least, reasons := 0, map[string][]string{}
	for _, id := range sorted(w.machines) {
		if id == w.self {
			continue
		}
		obstacle := w.out[id]
		if obstacle == "" {
			obstacle = w.obstacle(g, id)
		}
		if obstacle != "" {
			reasons[obstacle] = append(reasons[obstacle], short(id))
			continue
		}
		if n := len(w.on(id)); machine == "" || n < least {
			machine, least = id, n
		}
	}
	if machine != "" {
		return machine, ""
	}
	return "", nowhere(reasons)
}

// maxReasons is how many different obstacles one sentence names.
const maxReasons = 3

// nowhere says that no machine will do, and what each lacks.
func nowhere(reasons map[string][]string) string {
	var parts []string
	for _, reason := range sorted(reasons) {
		who := strings.Join(reasons[reason][:min(len(reasons[reason]), maxReasons)], ", ")
		if more := len(reasons[reason]) - maxReasons; more > 0 {
			who += fmt.Sprintf(" and %d more", more)
		}
		parts = append(parts, who+" "+reason)
	}
	switch {
	case len(parts) == 0:
		return "it can go nowhere: fleet sees no other machine"
	case len(parts) > maxReasons:
		parts = append(parts[:maxReasons], fmt.Sprintf("and %d other reasons", len(reasons)-maxReasons))
	}
	return "it can go nowhere: " + strings.Join(parts, "; ")
}

// move has a group scheduled elsewhere, in this picture of the world alone.
func (w *world) move(g group, machine string) {
	for _, u := range g {
		u.target = machine
	}
	w.there = nil
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

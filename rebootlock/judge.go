package rebootlock

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// collectTime is how long a grant may lie before anything was done with it; then
// it goes back. Nothing was drained yet, and the fence will refuse a machine
// that comes for it later. FleetLock's clients ask every five minutes.
const collectTime = 15 * time.Minute

// lostTime is the same where the machine is not even there any more.
const lostTime = time.Minute

// A judgement is what a group's records call for at one moment.
type judgement struct {
	ended   []item[Permit] // were given back
	lapsed  []item[Permit] // were never collected
	overdue []item[Permit] // newly, and are to be booked
	taken   []item[Permit] // overdue, and taken away
	grants  []item[Ticket]
	zone    string // that has its turn, with OneZone
	until   int64
	blocked []Obstacle            // why nothing (more) is granted
	waits   map[string][]Obstacle // by machine: why it is not granted; nil unless asked for
	next    time.Time             // when the judgement changes by itself; zero: not before a record does
}

// judge says what the records of a group call for at now. It is pure. With
// explain it looks at every ticket, and not only at the first ones.
func (b *book) judge(g *groupBook, now time.Time, explain bool) judgement {
	v := verdict{b: b, g: g, now: now, explain: explain}
	if explain {
		v.waits = map[string][]Obstacle{}
	}
	v.holders()
	v.group()
	v.turn()
	v.grant()
	return v.judgement
}

// verdict is a judgement in the making.
type verdict struct {
	b       *book
	g       *groupBook
	now     time.Time
	explain bool
	judgement
	holding  []item[Permit]
	leaving  map[string]string // machine: zone; members that are not there, and whose permit goes with this judgement
	zones    map[string]int    // holders by zone
	etcds    map[string]bool   // etcd clusters of which a voter holds a permit, in any group
	failures map[string]int    // by release
	free     int               // permits
	shut     bool              // something holds the whole group back
}

// wake brings next forward.
func (v *verdict) wake(at time.Time) {
	if at.After(v.now) && (v.next.IsZero() || at.Before(v.next)) {
		v.next = at
	}
}

// stop notes what holds the whole group back.
func (v *verdict) stop(kind string, until time.Time, format string, args ...any) {
	v.blocked = append(v.blocked, Obstacle{Kind: kind, Text: fmt.Sprintf(format, args...), Until: until})
	v.shut = true
	v.wake(until)
}

// holders sorts the permits: which have ended, which are overdue, and which hold.
func (v *verdict) holders() {
	rules := v.g.rules.rec
	v.zones, v.failures, v.leaving = map[string]int{}, map[string]int{}, map[string]string{}
	for _, f := range v.g.failures.rec.Failed {
		v.failures[f.Release]++
	}
	for _, machine := range slices.Sorted(maps.Keys(v.g.permits)) {
		p := v.g.permits[machine]
		switch {
		case p.rec.Phase == PhaseEnded:
			v.ended = append(v.ended, p)
			v.leave(machine)
			if p.rec.Ending == RolledBack {
				v.failures[p.rec.To]++
			}
			continue
		case v.uncollected(p):
			v.lapsed = append(v.lapsed, p)
			v.leave(machine)
			continue
		case p.rec.Via == viaOperator: // there to be held until it is given back
		case v.now.After(p.rec.Deadline) && !p.rec.Deadline.IsZero():
			if v.late(p, rules.OnOverdue) {
				continue
			}
		default:
			v.wake(p.rec.Deadline.Add(time.Second))
		}
		v.holding = append(v.holding, p)
		v.zones[p.rec.Zone]++
	}
	v.etcds = map[string]bool{}
	for _, g := range v.b.groups {
		for _, p := range g.permits {
			for _, e := range p.rec.Etcd {
				v.etcds[e.Cluster] = v.etcds[e.Cluster] || p.rec.Phase != PhaseEnded
			}
		}
	}
}

// leave notes that a machine whose permit goes is away from then on: what is
// granted with the same transaction must count it already.
func (v *verdict) leave(machine string) {
	if m := v.b.members[machine].rec; v.b.absent(machine) && m.Group == v.g.name {
		v.leaving[machine] = m.Zone
	}
}

// uncollected reports whether a grant was left lying. An operator's own is
// there to be held.
func (v *verdict) uncollected(p item[Permit]) bool {
	if p.rec.Phase != PhaseGranted || p.rec.Via == viaOperator {
		return false
	}
	limit := collectTime
	if p.rec.Via == "" && len(v.b.present[p.rec.Machine]) == 0 {
		limit = lostTime
	}
	lies := v.now.Sub(p.rec.PhaseSince)
	if lies < -maxSkew { // by a clock that was wrong: it would lie there until that time has come
		return true
	}
	lies = max(lies, 0)
	v.wake(v.now.Add(limit - lies + time.Second))
	return lies > limit
}

// Who asks for a machine that does not ask for itself.
const (
	viaOperator  = "operator"
	viaFleetLock = "fleetlock"
)

const (
	howOverdue    = "overdue"
	howRolledBack = "rolled-back"
)

// late deals with a holder past its deadline, and reports whether its permit is
// taken away.
func (v *verdict) late(p item[Permit], on OnOverdue) bool {
	booked := slices.ContainsFunc(v.g.failures.rec.Failed, func(f Failure) bool {
		return f.Machine == p.rec.Machine && f.How == howOverdue && !f.At.Before(p.rec.Granted)
	})
	if on == WaitOverdue {
		return false
	}
	if !booked && !v.enough(p.rec.To) {
		v.overdue = append(v.overdue, p)
		v.failures[p.rec.To]++
	}
	if on == TakeAwayOverdue {
		v.taken = append(v.taken, p)
		v.leave(p.rec.Machine)
		return true
	}
	return false
}

// enough reports whether a release has stopped already, and there is no room to
// book another failure of it: what is booked then would push out what is booked
// of the next holder, for ever.
func (v *verdict) enough(release string) bool {
	return len(v.g.failures.rec.Failed) >= maxFailures && v.failures[release] >= min(max(v.g.rules.rec.stopAfter(), 1), maxFailures/2)
}

// group says what holds the whole group back, and counts the permits that are
// free.
func (v *verdict) group() {
	g, rules := v.g, v.g.rules.rec
	if g.rules.modified == 0 {
		v.stop("rules", time.Time{}, "group %s has no rules: `drydock lock apply FILE` writes them", g.name)
		return
	}
	if f := v.b.cluster.rec.Freeze; f != nil {
		v.stop("freeze", time.Time{}, "the cluster was frozen by %s: %s (`drydock lock thaw --cluster-wide` ends it)", f.By, f.Reason)
	}
	if f := rules.Freeze; f != nil {
		v.stop("freeze", time.Time{}, "group %s was frozen by %s: %s (`drydock lock thaw` ends it)", g.name, f.By, f.Reason)
	}
	v.clock(rules)
	limit := rules.Max.Of(g.members)
	away := len(g.away) + len(v.leaving)
	v.free = limit - len(v.holding) - away
	if v.free > 0 {
		return
	}
	text := fmt.Sprintf("%d of %d permits are held", len(v.holding), limit)
	if names := v.names(); names != "" {
		text += " by " + names
	}
	kind := "full"
	if away > 0 {
		kind = "absent"
		text += fmt.Sprintf("; %s not there and %s up what may be down at once (bring back, or `drydock fleet remove`)",
			plural(away, "member is", "members are"), one(away, "uses", "use"))
	}
	if away > 0 && away <= maxNamed {
		var names []string
		for machine := range union(g.away, v.leaving) {
			names = append(names, v.b.name(machine))
		}
		slices.Sort(names)
		text += ": " + few(names)
	}
	v.blocked = append(v.blocked, Obstacle{Kind: kind, Text: text})
}

// maxNamed is how many members that are away are named: with more of them, as
// after an outage, each that comes back would have all of them sorted anew.
const maxNamed = 100

func union(a, b map[string]string) map[string]string {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

// clock judges windows and the pause between reboots.
func (v *verdict) clock(rules Rules) {
	s := v.g.opens
	if !s.Open(v.now) {
		at, ok := s.Next(v.now)
		if !ok {
			v.stop("window", time.Time{}, "none of the group's windows ever opens")
		} else {
			v.stop("window", at, "outside the group's windows; the next opens at %s", at.In(s.Location).Format("Mon 2006-01-02 15:04 MST"))
		}
	} else {
		v.wake(s.Until(v.now))
	}
	last := v.g.ledger.rec.LastEnd
	used := func(p item[Permit]) bool { return p.rec.Ending != Aborted }
	if slices.ContainsFunc(v.ended, used) || len(v.taken) > 0 {
		last = v.now // booked with this pass
	}
	pause := time.Duration(rules.Pause)
	if last.IsZero() || pause == 0 {
		return
	}
	over := last.Add(pause)
	if over.Sub(v.now) > pause { // a clock was ahead when it was written
		over = v.now.Add(pause)
	}
	if over.After(v.now) {
		v.stop("pause", over, "a machine came back a moment ago; the group pauses %s between reboots", pause)
	}
}

// names lists who holds, for people.
func (v *verdict) names() string {
	var names []string
	for _, p := range v.holding {
		names = append(names, v.b.name(p.rec.Machine)+" ("+p.rec.Phase+")")
	}
	return few(names)
}

// name is a machine as people know it.
func (b *book) name(machine string) string {
	if m, ok := b.members[machine]; ok && m.rec.Hostname != "" {
		return m.rec.Hostname
	}
	return short(machine)
}

func short(machine string) string {
	if len(machine) > 12 {
		return machine[:12]
	}
	return machine
}

// few joins names, and counts those that are too many to read.
func few(names []string) string {
	const most = 5
	if n := len(names); n > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), n-most)
	}
	return strings.Join(names, ", ")
}

func one(n int, singular, more string) string {
	if n == 1 {
		return singular
	}
	return more
}

func plural(n int, singular, more string) string {
	return fmt.Sprintf("%d %s", n, one(n, singular, more))
}

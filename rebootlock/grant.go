package rebootlock

import (
	"fmt"
	"slices"
)

// turn finds the zone that has its turn, where only one at a time has. It keeps
// it while somebody holds there, or waits there who came before the turn began:
// so each zone's turn ends, however many join its queue.
func (v *verdict) turn() {
	if !v.g.rules.rec.OneZone {
		return
	}
	v.zone, v.until = v.g.ledger.rec.Zone, min(v.g.ledger.rec.ZoneUntil, v.b.revision)
	if len(v.holding) > 0 {
		if v.zones[v.zone] == 0 {
			v.zone, v.until = v.holding[0].rec.Zone, v.b.revision
		}
		return
	}
	first := ""
	for _, t := range v.g.queue.line {
		if t == nil || len(v.personal(*t)) > 0 {
			continue
		}
		if t.rec.Zone == v.zone && t.created <= v.until {
			return
		}
		if first == "" {
			first = t.rec.Zone
		}
	}
	v.zone, v.until = first, v.b.revision
}

// personal is what keeps one machine from a permit, whatever the others do.
func (v *verdict) personal(t item[Ticket]) (why []Obstacle) {
	no := func(kind, format string, args ...any) {
		why = append(why, Obstacle{Kind: kind, Text: fmt.Sprintf(format, args...)})
	}
	rules := v.g.rules.rec
	if limit := rules.stopAfter(); limit > 0 && v.failures[t.rec.To] >= limit {
		no("stopped", "%s stopped after %s: see `drydock lock journal`, then `drydock lock thaw`",
			releaseName(t.rec.To), plural(v.failures[t.rec.To], "failed reboot", "failed reboots"))
	}
	if t.rec.Via == viaOperator {
		return why
	}
	if t.rec.Zone == "" && (rules.ZoneMax > 0 || rules.OneZone) {
		no("zone", "the group's rules name zones, and this machine's is not known (policy key cluster.zone, or [platform])")
	}
	m, known := v.b.members[t.rec.Machine]
	switch n := len(v.b.present[t.rec.Machine]); {
	case !known:
		no("member", "the cluster does not know this machine")
	case m.rec.Group != v.g.name:
		no("member", "this machine belongs to group %s", m.rec.Group)
	case t.rec.Via == "" && n == 0:
		no("absent", "this machine is not there")
	case n > 1:
		no("clone", "%d machines with the machine-id %s are there", n, t.rec.Machine)
	}
	return why
}

func releaseName(release string) string {
	if release == "" {
		return "reboots"
	}
	return "release " + release
}

// grant walks the queue and hands out what is free, first come, first served.
func (v *verdict) grant() {
	others := v.others()
	for _, t := range v.g.queue.line {
		if t == nil {
			continue
		}
		if !v.explain && (v.shut || v.free <= 0) {
			return
		}
		why := append(v.personal(*t), v.shared(*t, others)...)
		if v.shut || v.free <= 0 {
			why = append(why, v.blocked...)
		}
		if len(why) > 0 {
			if v.explain {
				v.waits[t.rec.Machine] = why
			} else if len(v.blocked) < 1 {
				v.blocked = append(v.blocked, why[0]) // why the first of them waits
			}
			continue
		}
		v.grants = append(v.grants, *t)
		v.free--
		v.zones[t.rec.Zone]++
		for _, e := range t.rec.Etcd {
			v.etcds[e.Cluster] = true
		}
		if v.free == 0 && v.explain {
			v.blocked = append(v.blocked, Obstacle{Kind: "full", Text: "those before it in the queue get the permits that are free"})
		}
	}
}

// others reports whether somebody waits in another zone than the one that has
// its turn.
func (v *verdict) others() bool {
	if !v.g.rules.rec.OneZone {
		return false
	}
	return slices.ContainsFunc(v.g.queue.line, func(t *item[Ticket]) bool {
		return t != nil && t.rec.Zone != v.zone && len(v.personal(*t)) == 0
	})
}

// down is how many machines of a zone are down, or may be.
func (v *verdict) down(zone string) int {
	n := v.zones[zone] + v.g.awayIn[zone]
	for _, in := range v.leaving {
		if in == zone {
			n++
		}
	}
	return n
}

// shared is what keeps a machine from a permit because of those that hold one.
func (v *verdict) shared(t item[Ticket], others bool) (why []Obstacle) {
	no := func(kind, format string, args ...any) {
		why = append(why, Obstacle{Kind: kind, Text: fmt.Sprintf(format, args...)})
	}
	rules, zone := v.g.rules.rec, t.rec.Zone
	if _, holds := v.g.permits[t.rec.Machine]; holds {
		no("booking", "this machine's last permit is not booked yet")
	}
	if down := v.down(zone); rules.ZoneMax > 0 && down >= rules.ZoneMax {
		no("zone", "%d of %s are down or may be, %d are the most", down, zoneName(zone), rules.ZoneMax)
	}
	if rules.OneZone && (zone != v.zone || others && t.created > v.until) {
		no("zone", "it is the turn of %s, one zone at a time", zoneName(v.zone))
	}
	for _, e := range t.rec.Etcd {
		if v.etcds[e.Cluster] {
			no("etcd", "another voter of etcd cluster %s holds a permit; its quorum comes first", e.Cluster)
		}
	}
	return why
}

// zoneName names a zone; an operator's ticket may have none.
func zoneName(zone string) string {
	if zone == "" {
		return "an unknown zone"
	}
	return "zone " + zone
}

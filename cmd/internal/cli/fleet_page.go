package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/drydock-os/drydock/rebootlock"
)

// lock is the whole lock: each group's permits, holders and queue.
func (p page) lock(v rebootlock.View) {
	p.cluster(v)
	for _, g := range v.Groups {
		fmt.Fprintln(p.w)
		p.group(v, g)
		p.holders(g)
		p.queue(g)
	}
	p.noGroup(v)
}

func (p page) noGroup(v rebootlock.View) {
	if len(v.Groups) == 0 {
		fmt.Fprintln(p.w, "no group has rules or members yet: drydock lock apply, or the first machine that joins, makes one")
	}
}

// cluster is what is the same for every group.
func (p page) cluster(v rebootlock.View) {
	p.line("Cluster", "%s", v.Cluster)
	if v.Freeze != nil {
		p.line("Frozen", "the whole cluster: %s", p.frozen(v.Freeze))
	}
	p.coordinator(v.Coordinator)
	for _, text := range v.Unreadable {
		p.line("Damaged", "%s", text)
	}
}

// coordinator is who grants, or why nobody does.
func (p page) coordinator(c rebootlock.CoordinatorView) {
	switch name := orElse(c.Hostname, c.Machine); {
	case name == "":
		p.line("Grants", "nobody: no machine is the coordinator (a drydockd with cluster.coordinate = true must run)")
	case c.Stalled:
		p.line("Grants", "%s, which has said nothing since %s%s", name, stamp(c.At), p.ago(c.At))
	default:
		p.line("Grants", "by the coordinator %s", name)
	}
	if c.Trouble != "" {
		p.line("Trouble", "%s", c.Trouble)
	}
}

func (p page) frozen(f *rebootlock.Freeze) string {
	return fmt.Sprintf("%s (%s, %s%s)", f.Reason, f.By, stamp(f.Since), p.ago(f.Since))
}

// group is a group's numbers, and what holds it back.
func (p page) group(v rebootlock.View, g rebootlock.GroupView) {
	p.line("Group", "%s", g.Group)
	if g.Rules == nil {
		p.line("Permits", "none: the group has no rules (drydock lock apply writes them)")
	} else {
		held := 0
		for _, h := range g.Holders {
			if h.Phase != rebootlock.PhaseEnded {
				held++
			}
		}
		p.line("Permits", "%d of %d held, %d waiting; max is %s", held, g.Max, len(g.Queue), g.Rules.Max)
		if g.Rules.Freeze != nil {
			p.line("Frozen", "%s", p.frozen(g.Rules.Freeze))
		}
	}
	p.line("Members", "%d: %d present, %d absent", g.Members, g.Present, g.Absent)
	p.failed(v, g)
	p.blocked(g)
}

// failed is what went wrong, and what that stopped.
func (p page) failed(v rebootlock.View, g rebootlock.GroupView) {
	names := map[string]string{}
	for _, m := range v.Machines {
		names[m.Machine] = m.Hostname
	}
	for _, s := range g.Stops {
		p.line("Stopped", "%s after %d failed (drydock lock thaw lets it go on)", orElse(s.Release, "reboots that are no update"), s.Failures)
	}
	for _, f := range g.Failures {
		p.line("Failed", "%s on %s: %s, %s%s", orElse(f.Release, "a reboot"), orElse(names[f.Machine], f.Machine), f.How, stamp(f.At), p.ago(f.At))
	}
}

func (p page) blocked(g rebootlock.GroupView) {
	if len(g.Blocked) > 0 {
		p.line("Blocked", "nothing more is granted, because:")
		p.obstacles(g.Blocked)
	}
}

func (p page) obstacles(all []rebootlock.Obstacle) {
	for _, o := range all {
		until := ""
		if !o.Until.IsZero() {
			until = fmt.Sprintf(" (until %s%s)", stamp(o.Until), p.in(o.Until))
		}
		p.line("", "- %s%s", o.Text, until)
	}
}

// holders is who holds, and in which phase.
func (p page) holders(g rebootlock.GroupView) {
	if len(g.Holders) == 0 {
		return
	}
	rows := [][]string{{"HOLDER", "MACHINE", "PHASE", "SINCE", "RELEASE", "DEADLINE", "REASON"}}
	for _, h := range g.Holders {
		phase, deadline := h.Phase, stamp(h.Deadline)+p.in(h.Deadline)
		if h.Phase == rebootlock.PhaseEnded {
			phase += " (" + string(h.Ending) + ")"
		}
		if h.Overdue {
			deadline = "OVERDUE, " + stamp(h.Deadline) + p.ago(h.Deadline)
		}
		if h.Deadline.IsZero() {
			deadline = "-"
		}
		rows = append(rows, []string{orDash(h.Hostname), h.Machine, phase, stamp(h.PhaseSince), way(h.From, h.To), deadline, h.Reason})
	}
	p.table(rows)
}

// queues are the queues of all groups.
func (p page) queues(v rebootlock.View) {
	nobody := true
	for _, g := range v.Groups {
		if len(g.Queue) == 0 {
			continue
		}
		if c := v.Coordinator; nobody && (c.Machine == "" || c.Stalled) {
			p.coordinator(c)
		}
		if !nobody {
			fmt.Fprintln(p.w)
		}
		nobody = false
		p.line("Group", "%s", g.Group)
		p.blocked(g)
		p.queue(g)
	}
	if nobody {
		fmt.Fprintln(p.w, "nobody waits for a permit")
	}
}

// queue is who waits, in order, each with what it waits for.
func (p page) queue(g rebootlock.GroupView) {
	if len(g.Queue) == 0 {
		return
	}
	rows := [][]string{{"PLACE", "WAITER", "MACHINE", "ASKED", "RELEASE", "WHY"}}
	for _, w := range g.Queue {
		rows = append(rows, []string{fmt.Sprint(w.Place), orDash(w.Hostname), w.Machine, stamp(w.Asked), way(w.From, w.To), first(w.Waits, g)})
	}
	p.table(rows)
}

// first is the first reason that is not the whole group's: that is said once,
// above.
func first(why []rebootlock.Obstacle, g rebootlock.GroupView) string {
	for _, o := range why {
		if o.Kind != "queue" && !slices.ContainsFunc(g.Blocked, func(b rebootlock.Obstacle) bool { return b.Text == o.Text }) {
			return o.Text
		}
	}
	if len(why) > 0 {
		return "as all of the group: " + why[0].Kind
	}
	return "its turn: the next pass grants it"
}

// way is from which release to which.
func way(from, to string) string {
	if from == to {
		return orDash(from)
	}
	return orDash(from) + " → " + orDash(to)
}

// table writes rows in columns. Cells come from records that any machine of the
// cluster writes.
func (p page) table(rows [][]string) {
	fmt.Fprintln(p.w)
	w := tabwriter.NewWriter(p.w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			row[i] = clean(cell)
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	w.Flush()
}

// fleet is every machine, and each group's rollout.
func (p page) fleet(v rebootlock.View) {
	p.cluster(v)
	for _, g := range v.Groups {
		fmt.Fprintln(p.w)
		p.group(v, g)
		p.rollout(g)
		p.machines(g, slices.DeleteFunc(slices.Clone(v.Machines), func(m rebootlock.MachineView) bool { return m.Group != g.Group }))
	}
	p.noGroup(v)
}

// machines is a line each; with zones and labels, where one has any.
func (p page) machines(g rebootlock.GroupView, all []rebootlock.MachineView) {
	if len(all) == 0 {
		return
	}
	columns := []struct {
		name  string
		shown bool
		of    func(rebootlock.MachineView) string
	}{
		{"HOST", true, func(m rebootlock.MachineView) string { return orDash(m.Hostname) }},
		{"MACHINE", true, func(m rebootlock.MachineView) string { return m.Machine }},
		{"ZONE", slices.ContainsFunc(all, func(m rebootlock.MachineView) bool { return m.Zone != "" }), func(m rebootlock.MachineView) string { return orDash(m.Zone) }},
		{"LABELS", slices.ContainsFunc(all, func(m rebootlock.MachineView) bool { return len(m.Labels) > 0 }), func(m rebootlock.MachineView) string { return orDash(pairs(m.Labels)) }},
		{"RELEASE", true, runs},
		{"DOES", true, func(m rebootlock.MachineView) string { return does(m, g) }},
		{"WHY", true, func(m rebootlock.MachineView) string { return first(m.Waits, g) }},
	}
	rows := make([][]string, len(all)+1)
	for _, c := range columns {
		if !c.shown {
			continue
		}
		rows[0] = append(rows[0], c.name)
		for i, m := range all {
			rows[i+1] = append(rows[i+1], c.of(m))
		}
	}
	p.table(rows)
}

// pairs are names with their values, by name.
func pairs(of map[string]string) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(of)) {
		all = append(all, name+"="+of[name])
	}
	return strings.Join(all, " ")
}

// rollout is a bar, and who runs what.
func (p page) rollout(g rebootlock.GroupView) {
	r := g.Rollout
	if r.To == "" || g.Members == 0 {
		return
	}
	const width = 30
	full := min(r.Done, g.Members) * width / g.Members
	text := fmt.Sprintf("%s [%s%s] %d of %d run it", r.To, strings.Repeat("#", full), strings.Repeat("-", width-full), r.Done, g.Members)
	if r.Underway > 0 {
		text += fmt.Sprintf(", %d under way", r.Underway)
	}
	if r.Rejected > 0 {
		text += fmt.Sprintf(", %d went back", r.Rejected)
	}
	p.line("Rollout", "%s", text)
	var counts []string
	for _, release := range slices.Sorted(maps.Keys(r.Releases)) {
		counts = append(counts, fmt.Sprintf("%s on %d", orElse(release, "not known"), r.Releases[release]))
	}
	p.line("Releases", "%s", strings.Join(counts, ", "))
}

func runs(m rebootlock.MachineView) string {
	if m.Status == nil || m.Status.Release == "" {
		return "?"
	}
	text := m.Status.Release
	if m.Status.OnTrial {
		text += " (on trial)"
	}
	if m.Status.NewVersion != "" && m.Status.NewVersion != m.Status.Release {
		text += " → " + m.Status.NewVersion
	}
	return text
}

// does is what a machine does, from what is surest to what it said of itself.
func does(m rebootlock.MachineView, g rebootlock.GroupView) string {
	for _, h := range g.Holders {
		if h.Machine != m.Machine {
			continue
		}
		if h.Overdue {
			return h.Phase + ", OVERDUE"
		}
		return h.Phase
	}
	switch {
	case !m.Present && m.Via == "":
		return "absent"
	case m.Standing == rebootlock.Queued.String():
		return "queued"
	case m.Status == nil:
		return "?"
	}
	return orElse(m.Status.Step, "?")
}

// why is why a machine is not updating.
func (p page) why(v rebootlock.View, m subject, why []rebootlock.Obstacle) {
	p.line("Machine", "%s%s", m.machine, parenthesis(m.hostname))
	for _, known := range v.Machines {
		if known.Machine == m.machine {
			p.line("Group", "%s", known.Group)
			p.line("Release", "%s", runs(known))
			for _, fact := range [][2]string{{"Zone", known.Zone}, {"Labels", pairs(known.Labels)}, {"Platform", pairs(known.Platform)}} {
				if fact[1] != "" {
					p.line(fact[0], "%s", fact[1])
				}
			}
		}
	}
	p.line("Why", "it is not updating, because:")
	p.obstacles(why)
}

func parenthesis(text string) string {
	if text == "" {
		return ""
	}
	return " (" + text + ")"
}

// journal is what happened, newest first.
func (p page) journal(entries []rebootlock.Entry) {
	if len(entries) == 0 {
		fmt.Fprintln(p.w, "nothing has happened yet")
		return
	}
	w := tabwriter.NewWriter(p.w, 0, 0, 2, ' ', 0)
	for _, e := range entries {
		about := strings.TrimSpace(strings.Join([]string{e.Group, e.Machine, e.Release}, " "))
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", stamp(e.At), clean(e.What), orDash(clean(about)), clean(e.Who), clean(e.Why))
	}
	w.Flush()
}

package rebootlock

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Explain says why a machine of v is not updating, most important first: the
// lock's reasons, then its own. There is always one.
func Explain(v View, machine string) []Obstacle { return newExplainer(v).explain(machine) }

// explainer finds what a View holds of a machine.
type explainer struct {
	v        View
	machines map[string]*MachineView
	waiters  map[string]*Waiter
	holders  map[string]*Holder
	groups   map[string]*GroupView
}

func newExplainer(v View) *explainer {
	e := &explainer{v, map[string]*MachineView{}, map[string]*Waiter{}, map[string]*Holder{}, map[string]*GroupView{}}
	for i := range v.Machines {
		e.machines[v.Machines[i].Machine] = &v.Machines[i]
	}
	for i := range v.Groups {
		g := &v.Groups[i]
		e.groups[g.Group] = g
		for j := range g.Queue {
			e.waiters[g.Queue[j].Machine] = &g.Queue[j]
		}
		for j := range g.Holders {
			e.holders[g.Holders[j].Machine] = &g.Holders[j]
		}
	}
	return e
}

// reasons are obstacles, each text once.
type reasons []Obstacle

func (r *reasons) add(o Obstacle) {
	if !slices.ContainsFunc(*r, func(known Obstacle) bool { return known.Text == o.Text }) {
		*r = append(*r, o)
	}
}

func (r *reasons) say(kind, format string, args ...any) {
	r.add(Obstacle{Kind: kind, Text: fmt.Sprintf(format, args...)})
}

func (e *explainer) explain(machine string) []Obstacle {
	var why reasons
	m := e.machines[machine]
	if m == nil {
		why.say("member", "cluster %s does not know this machine: its drydockd has never joined (see its policy's [cluster], and drydock status there)", e.v.Cluster)
	}
	if m != nil {
		e.there(m, &why)
	}
	if h := e.holders[machine]; h != nil {
		e.holds(h, &why)
	}
	if w := e.waiters[machine]; w != nil {
		e.waits(w, &why)
	}
	if m != nil && m.Status != nil {
		e.itself(m, &why)
	}
	if len(why) == 0 {
		e.idle(m, &why)
	}
	return why
}

// there says whether the machine can be asked at all.
func (e *explainer) there(m *MachineView, why *reasons) {
	heard := "nothing was ever heard of it"
	if m.Status != nil {
		heard = "it was last heard of at " + moment(m.Status.At)
	}
	switch {
	case m.Via != "":
		if e.waiters[m.Machine] == nil && e.holders[m.Machine] == nil {
			why.say("foreign", "it asks over %s, and not now: what it does is not known here", m.Via)
		}
	case m.Boots > 1:
		why.say("clone", "%d machines, or boots of one, are there with this machine-id: none gets a permit until one is left (give the clone its own with systemd-machine-id-setup)", m.Boots)
	case !m.Present:
		why.say("absent", "it is not there: %s (look at the machine; drydock fleet remove forgets one that is gone for good)", heard)
	}
}

func (e *explainer) holds(h *Holder, why *reasons) {
	switch {
	case h.Phase == PhaseEnded:
		why.say("permit", "it has given its permit back (%s), and the coordinator's next pass books that", h.Ending)
	case h.Overdue:
		why.say("overdue", "it holds a permit in phase %s since %s, and was to be back by %s (see the machine; drydock lock take-away takes the permit)",
			h.Phase, moment(h.PhaseSince), moment(h.Deadline))
	default:
		why.add(Obstacle{Kind: "permit", Text: fmt.Sprintf("it holds a permit, in phase %s since %s", h.Phase, moment(h.PhaseSince)), Until: h.Deadline})
	}
}

func (e *explainer) waits(w *Waiter, why *reasons) {
	for _, o := range w.Waits {
		why.add(o)
	}
	c := e.v.Coordinator
	switch {
	case c.Machine == "":
		why.say("coordinator", "nobody grants permits: no machine is the coordinator (%s)", orElse(c.Trouble, "is a drydockd running that may be?"))
	case c.Stalled:
		why.say("coordinator", "the coordinator %s has said nothing since %s (%s)", orElse(c.Hostname, short(c.Machine)), moment(c.At), orElse(c.Trouble, "see its drydockd"))
	case len(w.Waits) == 0:
		why.say("turn", "it is its turn: the coordinator's next pass grants its permit")
	}
	if w.Place > 1 {
		why.say("queue", "it is number %d in the queue of group %s", w.Place, w.Group)
	}
}

// itself adds what the machine says of itself.
func (e *explainer) itself(m *MachineView, why *reasons) {
	s := m.Status
	for _, o := range s.Waits {
		why.add(o)
	}
	if g := e.groups[m.Group]; g != nil && slices.Contains(s.Rejected, g.Rollout.To) {
		why.say("rejected", "it has tried %s and went back (drydock history there; drydock retry takes it again)", g.Rollout.To)
	}
	if len(s.Waits) == 0 && s.Step != "" && s.Step != "wait" {
		progress := ""
		if s.Progress > 0 {
			progress = fmt.Sprintf(", %.0f %% done", 100*s.Progress)
		}
		why.say("step", "it is at work: step %s%s", s.Step, progress)
	}
	if s.LastError != "" {
		why.say("error", "its last error: %s", s.LastError)
	}
}

// idle says something where nothing is in the way.
func (e *explainer) idle(m *MachineView, why *reasons) {
	g := e.groups[m.Group]
	switch {
	case m.Status == nil:
		why.say("silent", "it is there and has said nothing of itself yet")
	case g != nil && g.Rollout.To != "" && m.Status.Release == g.Rollout.To:
		why.say("current", "it runs %s, the newest release that its group knows of", m.Status.Release)
	case m.Status.NewVersion != "":
		why.say("next", "nothing is in the way of %s: its next step begins shortly", m.Status.NewVersion)
	default:
		why.say("unoffered", "it runs %s and is offered nothing newer", orElse(m.Status.Release, "an unknown release"))
	}
}

// moment is a time in a sentence.
func moment(t time.Time) string {
	if t.IsZero() {
		return "an unknown time"
	}
	return t.UTC().Format("2006-01-02 15:04 UTC")
}

func orElse(text, other string) string {
	if strings.TrimSpace(text) == "" {
		return other
	}
	return text
}

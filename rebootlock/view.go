package rebootlock

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// A View is the whole lock at one moment, for people and for programs that show
// it: its JSON is what drydock lock status --json prints. It is never acted upon.
type View struct {
	Cluster     string          `json:"cluster"`       // as the policy files have it
	UID         string          `json:"uid,omitempty"` // "": the cluster has no record yet
	At          time.Time       `json:"at"`            // by the viewer's clock, as all that is said to be late or overdue
	Revision    int64           `json:"revision"`      // of the store
	Freeze      *Freeze         `json:"freeze,omitempty"`
	Coordinator CoordinatorView `json:"coordinator"`
	Groups      []GroupView     `json:"groups"`               // by name
	Machines    []MachineView   `json:"machines"`             // the members, by group, hostname and machine-id
	Unreadable  []string        `json:"unreadable,omitempty"` // records that cannot be read, and why
}

// CoordinatorView is who grants permits.
type CoordinatorView struct {
	Machine  string    `json:"machine,omitempty"` // elected now; "": nobody is
	Hostname string    `json:"hostname,omitempty"`
	Pass     int64     `json:"pass,omitempty"`
	At       time.Time `json:"at,omitzero"` // of its last stamp, by its clock
	Stalled  bool      `json:"stalled,omitempty"`
	Trouble  string    `json:"trouble,omitempty"` // why the last one resigned, or cannot go on
}

// GroupView is one group.
type GroupView struct {
	Group    string     `json:"group"`
	Rules    *Rules     `json:"rules"`             // null: it has none, and nothing is granted
	Max      int        `json:"max"`               // permits that there are now
	Members  int        `json:"members"`           // that the cluster knows
	Present  int        `json:"present"`           // of them
	Absent   int        `json:"absent"`            // of them; neither where nobody can know
	Blocked  []Obstacle `json:"blocked,omitempty"` // why nothing (more) is granted
	Stops    []Stop     `json:"stops,omitempty"`
	Holders  []Holder   `json:"holders"` // by the time of the grant
	Queue    []Waiter   `json:"queue"`   // first come, first served
	Failures []Failure  `json:"failures,omitempty"`
	Rollout  Rollout    `json:"rollout"`
}

// A Stop is a release that may not go on in a group.
type Stop struct {
	Release  string `json:"release"` // "": reboots that were no update
	Failures int    `json:"failures"`
}

// A Holder is a machine with a permit.
type Holder struct {
	Permit
	Hostname string `json:"hostname,omitempty"`
	Present  bool   `json:"present"`
	Back     bool   `json:"back,omitempty"` // present with another boot than that of the grant
	Overdue  bool   `json:"overdue,omitempty"`
}

// A Waiter is a machine with a ticket.
type Waiter struct {
	Ticket
	Hostname string     `json:"hostname,omitempty"`
	Place    int        `json:"place"`           // 1 is the first
	Waits    []Obstacle `json:"waits,omitempty"` // why it has no permit; empty: the next pass grants it
}

// MachineView is one member.
type MachineView struct {
	Member
	Present  bool       `json:"present"`
	Boots    int        `json:"boots,omitempty"` // present under this machine-id; more than one are clones, or a reboot a moment ago
	Standing string     `json:"standing"`        // none, queued, holding
	Status   *Status    `json:"status,omitempty"`
	Waits    []Obstacle `json:"waits"` // why it is not updating; never empty
}

// Rollout is how far a group's newest release has come.
type Rollout struct {
	To       string         `json:"to,omitempty"`       // newest that a member is offered, else that one runs
	Done     int            `json:"done"`               // members that run it
	Underway int            `json:"underway"`           // that hold a permit for it
	Rejected int            `json:"rejected,omitempty"` // that tried it and went back
	Releases map[string]int `json:"releases"`           // members by what they run; "": not known
}

// stalledAfter is how long a coordinator may say nothing.
const stalledAfter = 3 * stampInterval

// Look reads everything, as of one revision, and says what it means.
func (o Operator) Look(ctx context.Context) (View, error) {
	k := o.Keys
	s, err := o.Store.Read(ctx, k.everything(), Range{Key: k.Stamp()}, Range{Key: k.Election() + "/", Prefix: true}, k.all(kindStatus))
	if err != nil {
		return View{}, fmt.Errorf("read the lock of cluster %s: %w", k.Cluster, err)
	}
	l := looker{now: o.Now(), statuses: map[string]*Status{}, book: newBook(k, s)}
	for _, kv := range s.KVs {
		l.take(kv)
	}
	return l.view(), nil
}

// looker makes a View of what was read.
type looker struct {
	*book
	now      time.Time
	stamp    Stamp
	leader   KV
	statuses map[string]*Status
	standing map[string]Standing
}

// take keeps what the lock's book does not.
func (l *looker) take(kv KV) {
	if strings.HasPrefix(kv.Key, l.keys.Election()+"/") {
		if l.leader.Created == 0 || kv.Created < l.leader.Created { // the first that stood is elected
			l.leader = kv
		}
		return
	}
	kind, names, ok := l.keys.parse(kv.Key)
	if !ok {
		return
	}
	var err error
	switch {
	case kind == kindStamp && len(names) == 0:
		err = decodeInto(kv.Value, &l.stamp)
	case kind == kindStatus && len(names) == 1:
		status := &Status{}
		if err = decodeInto(kv.Value, status); err == nil {
			l.statuses[names[0]] = status
		}
	}
	if err != nil {
		l.bad[kv.Key] = err
	}
}

func (l *looker) view() View {
	v := View{
		Cluster: l.keys.Cluster, UID: l.cluster.rec.UID, At: l.now, Revision: l.revision, Freeze: l.cluster.rec.Freeze,
		Coordinator: l.coordinator(), Groups: []GroupView{}, Machines: []MachineView{},
	}
	l.standing = map[string]Standing{}
	for _, name := range slices.Sorted(maps.Keys(l.groups)) {
		if g := l.groups[name]; g.shows() {
			v.Groups = append(v.Groups, l.group(g))
		}
	}
	for machine := range l.members {
		v.Machines = append(v.Machines, l.machine(machine))
	}
	slices.SortFunc(v.Machines, func(a, b MachineView) int {
		return cmp.Or(strings.Compare(a.Group, b.Group), strings.Compare(a.Hostname, b.Hostname), strings.Compare(a.Machine, b.Machine))
	})
	for _, key := range slices.Sorted(maps.Keys(l.bad)) {
		v.Unreadable = append(v.Unreadable, fmt.Sprintf("%s: %v", key, l.bad[key]))
	}
	e := newExplainer(v)
	for i, m := range v.Machines {
		v.Machines[i].Waits = e.explain(m.Machine)
	}
	return v
}

// shows reports whether anything is left of a group.
func (g *groupBook) shows() bool {
	return g.rules.modified != 0 || g.members > 0 || len(g.permits) > 0 || g.queue.len() > 0
}

func (l *looker) coordinator() CoordinatorView {
	c := CoordinatorView{Machine: string(l.leader.Value), Pass: l.stamp.Pass, At: l.stamp.At, Trouble: l.stamp.Trouble}
	if c.Machine != "" {
		c.Hostname = l.members[c.Machine].rec.Hostname
		c.Stalled = l.now.Sub(c.At) > stalledAfter
	}
	return c
}

func (l *looker) group(g *groupBook) GroupView {
	v := GroupView{
		Group: g.name, Members: g.members, Holders: []Holder{}, Queue: []Waiter{},
		Failures: g.failures.rec.Failed, Blocked: l.judge(g, l.now, false).blocked,
	}
	if g.rules.modified != 0 {
		rules := g.rules.rec
		v.Rules, v.Max = &rules, rules.Max.Of(g.members)
		v.Stops = stops(g.failures.rec.Failed, rules.stopAfter())
	}
	for machine, m := range l.members {
		switch {
		case m.rec.Group != g.name:
		case len(l.present[machine]) > 0:
			v.Present++
		case m.rec.Via == "":
			v.Absent++
		}
	}
	waits := l.judge(g, l.now, true).waits
	for _, t := range g.queue.line {
		if t != nil {
			l.standing[t.rec.Machine] = Queued
			v.Queue = append(v.Queue, Waiter{t.rec, l.hostname(t.rec.Machine), len(v.Queue) + 1, waits[t.rec.Machine]})
		}
	}
	for _, p := range g.permits {
		l.standing[p.rec.Machine] = Holding
		v.Holders = append(v.Holders, l.holder(p.rec))
	}
	slices.SortFunc(v.Holders, func(a, b Holder) int {
		return cmp.Or(a.Granted.Compare(b.Granted), strings.Compare(a.Machine, b.Machine))
	})
	v.Rollout = l.rollout(v)
	return v
}

func (l *looker) hostname(machine string) string { return l.members[machine].rec.Hostname }

func (l *looker) holder(p Permit) Holder {
	h := Holder{Permit: p, Hostname: l.hostname(p.Machine), Present: len(l.present[p.Machine]) > 0}
	h.Overdue = p.Phase != PhaseEnded && p.Via != viaOperator && !p.Deadline.IsZero() && l.now.After(p.Deadline)
	for boot := range l.present[p.Machine] {
		h.Back = h.Back || p.Boot != "" && boot != p.Boot
	}
	return h
}

// stops are the releases that failed as often as the rules allow, by name.
func stops(failed []Failure, limit int) (all []Stop) {
	counts := map[string]int{}
	for _, f := range failed {
		counts[f.Release]++
	}
	for _, release := range slices.Sorted(maps.Keys(counts)) {
		if limit > 0 && counts[release] >= limit {
			all = append(all, Stop{release, counts[release]})
		}
	}
	return all
}

func (l *looker) machine(machine string) MachineView {
	boots := len(l.present[machine])
	return MachineView{
		Member: l.members[machine].rec, Present: boots > 0, Boots: boots,
		Standing: l.standing[machine].String(), Status: l.statuses[machine],
	}
}

// rollout counts who runs what. The release that is rolled out is the newest
// that somebody is offered and does not run: it may be older than what runs,
// where the fleet is rolled back.
func (l *looker) rollout(g GroupView) Rollout {
	r := Rollout{Releases: map[string]int{}}
	offered, runs := "", ""
	offer := func(from, to string) {
		if to != from && newer(to, offered) {
			offered = to
		}
	}
	for machine, m := range l.members {
		if m.rec.Group != g.Group {
			continue
		}
		status := l.statuses[machine]
		if status == nil {
			status = &Status{}
		}
		r.Releases[status.Release]++
		offer(status.Release, status.NewVersion)
		if newer(status.Release, runs) {
			runs = status.Release
		}
	}
	for _, t := range g.Queue {
		offer(t.From, t.To)
	}
	for _, h := range g.Holders {
		offer(h.From, h.To)
	}
	if r.To = cmp.Or(offered, runs); r.To == "" {
		return r
	}
	r.Done = r.Releases[r.To]
	for _, h := range g.Holders {
		if h.To == r.To && h.From != h.To && h.Phase != PhaseEnded {
			r.Underway++
		}
	}
	for machine, m := range l.members {
		if s := l.statuses[machine]; s != nil && m.rec.Group == g.Group && slices.Contains(s.Rejected, r.To) {
			r.Rejected++
		}
	}
	return r
}

// newer compares versions for show: numbers as numbers, and what follows a
// hyphen is before the release itself. What may be installed is the policy's
// affair.
func newer(a, b string) bool {
	if a == "" || b == "" {
		return a != "" && b == ""
	}
	mainA, preA, _ := strings.Cut(a, "-")
	mainB, preB, _ := strings.Cut(b, "-")
	if c := compareParts(mainA, mainB); c != 0 {
		return c > 0
	}
	if preA == "" || preB == "" {
		return preA == "" && preB != ""
	}
	return compareParts(preA, preB) > 0
}

func compareParts(a, b string) int {
	return slices.CompareFunc(strings.Split(a, "."), strings.Split(b, "."), func(x, y string) int {
		if digits(x) && digits(y) {
			x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
			return cmp.Or(len(x)-len(y), strings.Compare(x, y))
		}
		return strings.Compare(x, y)
	})
}

func digits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/fleetlink/fleet/etcd2"
)

// lasting is an error that asking again does not cure.
type lasting struct{ error }

// Unwrap is the error.
func (e lasting) Unwrap() error { return e.error }

// unitFiles are the units' files as they were read last, and the schedule's hashes
// of them then: fleet reads its whole registry for each page of them.
type unitFiles struct {
	hashes string
	docs   []unitDoc
	until  time.Time // they are read again, whatever the schedule says
}

// filesKeep is how long unit files are not read again that the schedule says are
// the same: fleet's API may have read them from an etcd member that was behind.
const filesKeep = time.Minute

// A view is what was seen of a fleet in one look.
type view struct {
	world
	o     *Options
	seen  bool              // fleet lists this machine
	here  map[string]state  // what systemd here says of units, as fleet was told
	own   *etcd2.Node       // the override of the cordon's key of metadata; nil: none
	rec   *record           // nil: this machine is in service
	stray map[string]string // units that were moved and are not settled, and why
	// ending are units that are not to run here any more, and may all the same, and why
	// that is thought.
	ending map[string]string
	index  uint64 // of etcd, at the look
}

// look sees everything that a decision needs. What the schedule says is read by
// quorum; unit files and states come from fleet's API.
func (l *Link) look(ctx context.Context) (*view, error) {
	v := &view{o: &l.o, here: map[string]state{}, stray: map[string]string{}, ending: map[string]string{}}
	v.self = l.o.Machine.ID
	var err error
	if v.machines, err = l.api.machines(ctx); err != nil {
		return nil, err
	}
	if err := l.lookRecords(ctx, v); err != nil {
		return nil, err
	}
	if err := l.lookMachine(ctx, v); err != nil {
		return nil, err
	}
	if err := l.lookSchedule(ctx, v); err != nil {
		return nil, err
	}
	states, err := l.api.states(ctx, "", v.self)
	if err != nil {
		return nil, err
	}
	for _, s := range states {
		v.here[s.Name] = s
	}
	return v, nil
}

// lookRecords reads this machine's record, and who else is out of service.
func (l *Link) lookRecords(ctx context.Context, v *view) error {
	v.out = map[string]string{}
	for id, metadata := range v.machines {
		if l.o.CordonKey != "" && metadata[l.o.CordonKey] == l.o.CordonValue {
			v.out[id] = "has " + l.o.CordonKey + "=" + l.o.CordonValue
		}
	}
	dir, _, err := l.etcd.Get(ctx, l.records())
	if err != nil && !etcd2.Is(err, etcd2.KeyNotFound) {
		return err
	}
	for _, node := range dir.Nodes {
		if id := node.Name(); id != v.self {
			v.out[id] = "is being drained as well"
		} else if v.rec, err = l.decode(node); err != nil {
			return err
		}
	}
	return nil
}

// lookMachine reads what etcd says of this machine.
func (l *Link) lookMachine(ctx context.Context, v *view) error {
	node, _, err := l.etcd.Get(ctx, l.key("machines", v.self))
	if err != nil && !etcd2.Is(err, etcd2.KeyNotFound) {
		return err
	}
	_, object := node.Child("object")
	_, listed := v.machines[v.self]
	v.seen = listed
	if listed && !object {
		return fmt.Errorf("fleet's API lists this machine and etcd does not have it: its fleetd has just stopped, or this is not fleet's etcd, or not its key prefix (%s)", l.o.Prefix)
	}
	if metadata, ok := node.Child("metadata"); ok && l.o.CordonKey != "" {
		if own, ok := metadata.Child(l.o.CordonKey); ok {
			v.own = &own
		}
	}
	return nil
}

// lookSchedule reads all units: their files, what is wanted of them, and where
// they are to be.
func (l *Link) lookSchedule(ctx context.Context, v *view) error {
	jobs, index, err := l.etcd.Get(ctx, l.key("job"))
	if err != nil && !etcd2.Is(err, etcd2.KeyNotFound) {
		return err
	}
	docs, err := l.unitDocs(ctx, jobs)
	if err != nil {
		return err
	}
	v.index, v.units = index, map[string]*unit{}
	for _, doc := range docs {
		v.units[doc.Name] = parseUnit(doc)
	}
	for _, job := range jobs.Nodes {
		target, _ := job.Child("target")
		u := v.units[job.Name()]
		if u == nil {
			if target.Value == v.self {
				return fmt.Errorf("etcd has %s scheduled to this machine, and fleet's API does not list it", job.Name())
			}
			continue
		}
		u.target = target.Value
		if desired, ok := job.Child("target-state"); ok {
			u.desired = desired.Value
		}
		if u.desired != inactive && u.desired != loaded && u.desired != launched {
			u.desired = inactive // as fleet takes it (ParseJobState)
		}
	}
	return nil
}

// unitDocs returns the unit files, from fleet's API where the schedule has other
// ones than the last time.
func (l *Link) unitDocs(ctx context.Context, jobs etcd2.Node) ([]unitDoc, error) {
	var hashes []string
	for _, job := range jobs.Nodes {
		object, _ := job.Child("object")
		hashes = append(hashes, job.Name()+" "+object.Value)
	}
	slices.Sort(hashes) // etcd keeps no order
	sum := strings.Join(hashes, "\n")
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.files.hashes == sum && l.o.Now().Before(l.files.until) {
		return l.files.docs, nil
	}
	docs, err := l.api.units(ctx)
	if err != nil {
		return nil, err
	}
	if len(docs) >= len(jobs.Nodes) {
		l.files = unitFiles{sum, docs, l.o.Now().Add(filesKeep)}
	}
	return docs, nil
}

// present says why fleet cannot be asked to move anything from here.
func (v *view) present() error {
	if v.seen {
		return nil
	}
	return errors.New("fleet does not see this machine: fleetd is not running here, or it has another machine-id than this one, so what runs here cannot be told (systemctl status fleet; fleetctl list-machines)")
}

// shut reports whether the machine's metadata has the cordon's value.
func (v *view) shut() bool { return v.machines[v.self][v.o.CordonKey] == v.o.CordonValue }

// up reports whether a unit of this machine's schedule has to leave: systemd here
// runs it, or it is to run and nothing is known of it, or nothing new. One that has
// ended or failed loses nothing by a reboot.
func (v *view) up(u *unit) bool {
	s, known := v.here[u.name]
	return known && s.runs() || u.desired == launched && u.target == v.self && (!known || v.wokenUp(u))
}

// wokenUp reports whether a unit that we stopped is wished for again, by a Resume
// that was cut off or by somebody else. What is told of it is of before: the agent
// may be about to start it.
func (v *view) wokenUp(u *unit) bool {
	if v.rec == nil {
		return false
	}
	m := v.rec.line(u.name)
	return m != nil && m.Set != "" && m.Set != u.desired
}

// A step is a group that has to leave, and where it could go.
type step struct {
	group group
	to    string // "": nowhere
	why   string // it cannot
	job   string // why it has to wait until something of it has ended; "": it need not
}

// plan has the groups leave one after the other, in the mind alone.
func (v *view) plan() (steps []step) {
	w := v.world
	w.units, w.there = map[string]*unit{}, nil
	for name, u := range v.units {
		twin := *u
		w.units[name] = &twin
	}
	for _, g := range w.groups() {
		if !slices.ContainsFunc(g, v.up) {
			continue
		}
		to, why := w.place(g)
		if to != "" {
			w.move(g, to)
		}
		own := v.real(g)
		steps = append(steps, step{own, to, why, v.job(own)})
	}
	return steps
}

// job says which unit of a group is at work though it is not fleet's to start: a
// timer or a person started it, and nothing does where it goes. One that a socket
// starts, or a unit that goes along, is started there.
func (v *view) job(g group) string {
	for _, u := range g {
		touched := v.rec != nil && v.rec.line(u.name) != nil && v.rec.line(u.name).Set != ""
		if u.desired == launched || touched || !v.up(u) || v.started(u, g) {
			continue
		}
		return u.name + " is at work, and was not started by fleet (its desired state is " + u.desired + "): to move it is to cut it off, so it is waited for until it ends"
	}
	return ""
}

// started reports whether a unit is started where it goes.
func (v *view) started(u *unit, g group) bool {
	for _, other := range v.units {
		if other.desired == launched && slices.Contains(other.starts, u.name) && (strings.HasSuffix(other.name, ".socket") || g.has(other.name)) {
			return true
		}
	}
	return false
}

// real is a group of the view's own units.
func (v *view) real(g group) (own group) {
	for _, u := range g {
		own = append(own, v.units[u.name])
	}
	return own
}

// workloads lists the units of a group that have to leave.
func (v *view) workloads(g group, why string) (all []fleetlink.Workload) {
	for _, u := range g {
		if v.up(u) {
			all = append(all, fleetlink.Workload{Name: u.name, Why: why})
		}
	}
	return all
}

// left lists what has to leave, or has left and is not up elsewhere.
func (v *view) left() (left []fleetlink.Workload) {
	planned := map[string]bool{}
	for _, s := range v.plan() {
		for _, u := range s.group {
			planned[u.name] = true
		}
		left = append(left, v.workloads(s.group, cmp.Or(s.job, s.why))...)
	}
	for _, name := range sorted(v.here) {
		u := v.units[name]
		if planned[name] || !v.here[name].runs() || u != nil && u.global {
			continue
		}
		planned[name] = true
		left = append(left, fleetlink.Workload{Name: name, Why: "fleet has taken it off this machine, and it has not ended here yet (" + v.here[name].String() + ")"})
	}
	if v.rec == nil {
		return left
	}
	for _, m := range v.rec.Units {
		if planned[m.Name] {
			continue
		}
		if u := v.units[m.Name]; v.leaves(m) {
			v.ending[m.Name] = cmp.Or(v.ending[m.Name], "it has not been seen to end here yet")
		} else if m.To != "" && !m.Settled && u != nil && u.desired != inactive {
			left = append(left, fleetlink.Workload{Name: m.Name, Why: cmp.Or(v.stray[m.Name], "it was moved to "+short(m.To)+" and has not been seen to stay up there yet")})
		}
	}
	for _, name := range sorted(v.ending) {
		if !planned[name] {
			left = append(left, fleetlink.Workload{Name: name, Why: v.ending[name]})
		}
	}
	slices.SortStableFunc(left, func(a, b fleetlink.Workload) int { return strings.Compare(a.Name, b.Name) })
	return left
}

// globalAils says what is wrong with a Global unit that was up here; "" if it is
// up, has been up since and ended well, or nobody wants it here.
func (v *view) globalAils(b *backlog, name string) string {
	u := v.units[name]
	if u == nil || !u.global || u.desired != launched || u.lacks(v.self, v.machines[v.self]) != "" {
		return ""
	}
	seen := slices.Contains(b.Seen, name)
	switch s, known := v.here[name]; {
	case s.steady():
		if !seen {
			b.Seen = append(b.Seen, name)
		}
		return ""
	case seen && s.Active == inactive:
		return ""
	case known:
		return "it was up on this machine before, and is " + s.String()
	}
	return "it was up on this machine before, and has not started yet"
}

// ails says what is wrong with a unit that was moved or stopped; "" if it is up,
// has been up and ended well, or nobody wants it.
func (v *view) ails(m *moved, states []state) string {
	u := v.units[m.Name]
	if u == nil || u.desired != launched {
		return ""
	}
	if u.target == "" {
		return "it is scheduled nowhere"
	}
	for _, s := range states {
		if s.Name != m.Name || s.MachineID != u.target {
			continue
		}
		if m.saw(s); m.fine(s) {
			return ""
		}
		return "it is " + s.String() + " on " + short(u.target)
	}
	return "it does not run on " + short(u.target) + " yet"
}

// saw notes where a unit was seen up.
func (m *moved) saw(s state) {
	if s.steady() {
		m.Up = s.MachineID
	}
}

// fine reports whether a unit does again what it did before it was touched, or has
// done it and ended well.
func (m moved) fine(s state) bool {
	return m.Ran == "" || s.steady() || m.Ran == ranStarting && s.starting() || s.Active == inactive && (m.Ran == ranStarting || m.Up == s.MachineID)
}

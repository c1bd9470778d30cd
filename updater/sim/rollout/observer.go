package rollout

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/rebootlock"
)

// An observer holds the invariants against what is: the records of the store as
// each revision leaves them, and the disks. It shares no code with what it
// watches but the names of the keys, and reads the records itself.
type observer struct {
	s          *Simulation
	permits    map[string]permit // by machine
	tickets    map[string]int64  // by machine: revision in which it came to be
	left       map[string]int64  // the same of those that are no more
	turn       int64             // revision of the ticket that was granted last
	members    map[string]bool
	zones      map[string]int  // holders
	frozen     map[string]bool // the group, by its name, and the cluster, as ""
	begun      []string        // machines whose permit says that they begin a phase, in the revision that is looked at
	violations []string
	more       int
	first      time.Time // grant
	last       time.Time // release
}

// permit is what the observer reads of a permit.
type permit struct {
	Zone    string `json:"zone"`
	Phase   string `json:"phase"`
	Ending  string `json:"ending"`
	created int64
}

// maxViolations bounds the list: the first ones tell.
const maxViolations = 100

func newObserver(s *Simulation) *observer {
	return &observer{s: s, permits: map[string]permit{}, tickets: map[string]int64{}, left: map[string]int64{}, members: map[string]bool{}, zones: map[string]int{}, frozen: map[string]bool{}}
}

func (o *observer) violate(format string, args ...any) {
	if len(o.violations) >= maxViolations {
		o.more++
		return
	}
	at := o.s.engine.now.Sub(start).Round(time.Millisecond)
	o.violations = append(o.violations, fmt.Sprintf("%s: ", at)+fmt.Sprintf(format, args...))
}

// told are the violations.
func (o *observer) told() []string {
	all := append([]string{}, o.violations...)
	if o.more > 0 {
		all = append(all, fmt.Sprintf("and %d more", o.more))
	}
	return all
}

// see takes changes in and judges after each revision.
func (o *observer) see(events []rebootlock.Event) {
	granted := false
	for i, e := range events {
		granted = o.take(e) || granted
		if i+1 == len(events) || events[i+1].Modified != e.Modified {
			o.judge(e.Modified, granted)
			o.judgeFreeze(e.Modified, granted)
			granted = false
		}
	}
}

// take takes one change in, and reports whether it is a grant.
func (o *observer) take(e rebootlock.Event) (granted bool) {
	rest, _ := strings.CutPrefix(e.Key, o.s.root.Key+"lock/")
	parts := strings.Split(rest, "/")
	switch {
	case parts[0] == "members" && len(parts) == 2:
		o.members[parts[1]] = true
		if e.Deleted {
			delete(o.members, parts[1])
		}
	case parts[0] == "tickets" && len(parts) == 3:
		if e.Deleted {
			o.left[parts[2]] = o.tickets[parts[2]]
			delete(o.tickets, parts[2])
			return false
		}
		o.tickets[parts[2]] = e.Created
	case parts[0] == "permits" && len(parts) == 3:
		return o.takePermit(parts[2], e)
	case parts[0] == "groups" && len(parts) == 2:
		o.takeFreeze(parts[1], e)
	case parts[0] == "cluster" && len(parts) == 1:
		o.takeFreeze("", e)
	}
	return false
}

func (o *observer) takePermit(machine string, e rebootlock.Event) (granted bool) {
	now := o.s.engine.now
	old, held := o.permits[machine]
	if held && e.Deleted && old.Ending == "" {
		o.last = now // it was taken away
	}
	if held {
		o.zones[old.Zone]--
		delete(o.permits, machine)
	}
	if e.Deleted {
		return false
	}
	p := permit{created: e.Created}
	if err := json.Unmarshal(e.Value, &p); err != nil {
		o.violate("the permit of machine %s cannot be read: %v", machine, err)
	}
	o.permits[machine] = p
	o.zones[p.Zone]++
	if p.Phase == rebootlock.PhaseEnded && old.Phase != rebootlock.PhaseEnded {
		o.last = now
	}
	if held {
		if p.Phase != rebootlock.PhaseEnded { // also where it says so again: its machine asked whether it may
			o.begun = append(o.begun, machine)
		}
		return false
	}
	if o.first.IsZero() {
		o.first = now
	}
	o.inTurn(machine)
	return true
}

// inTurn judges that a grant is that of the oldest ticket. Where zones or faults
// hold a machine back, others may come before it.
func (o *observer) inTurn(machine string) {
	c := o.s.config
	if c.Faults > 0 || c.ZoneMax > 0 || c.OneZone {
		return
	}
	asked := o.left[machine]
	if asked < o.turn {
		o.violate("machine %s asked in revision %d and got its permit after one that asked in revision %d", machine, asked, o.turn)
	}
	o.turn = asked
}

// judge holds the limits against the holders as of a revision. A permit that
// has ended, and is not booked yet, still counts: nobody else has it.
func (o *observer) judge(revision int64, granted bool) {
	if !granted {
		return // lowering a limit takes nothing away
	}
	limit := o.s.config.Max.Of(len(o.members))
	if n := len(o.permits); n > limit {
		o.violate("revision %d: %d machines hold permits, %d are the most", revision, n, limit)
	}
	inUse := 0
	for zone, n := range o.zones {
		if n > 0 {
			inUse++
		}
		if most := o.s.config.ZoneMax; most > 0 && n > most {
			o.violate("revision %d: %d machines of %s hold permits, %d are the most", revision, n, zone, most)
		}
	}
	if o.s.config.OneZone && inUse > 1 {
		o.violate("revision %d: machines of %d zones hold permits", revision, inUse)
	}
}

// takeFreeze takes in whether the group, or the cluster (""), is frozen.
func (o *observer) takeFreeze(scope string, e rebootlock.Event) {
	var record struct {
		Freeze *json.RawMessage `json:"freeze"`
	}
	if err := json.Unmarshal(e.Value, &record); err != nil && !e.Deleted {
		o.violate("record %s cannot be read: %v", e.Key, err)
	}
	o.frozen[scope] = record.Freeze != nil
}

// judgeFreeze holds against a freeze, as of a revision, what began in it. What
// ends may end.
func (o *observer) judgeFreeze(revision int64, granted bool) {
	begun := o.begun
	o.begun = nil
	if !o.frozen[group] && !o.frozen[""] {
		return
	}
	if granted {
		o.violate("revision %d: a permit comes to be in a freeze", revision)
	}
	for _, machine := range begun {
		o.violate("revision %d: machine %s begins phase %s in a freeze", revision, machine, o.permits[machine].Phase)
	}
}

// allowed judges a machine that begins to drain, to stage or to reboot: its own
// permit is in that phase in the store, now.
func (o *observer) allowed(m *machine, phase string) {
	o.s.learn()
	p, held := o.permits[m.id]
	switch {
	case !held:
		o.violate("machine %d is %s without a permit", m.index, phase)
	case p.Phase != phase:
		o.violate("machine %d is %s and its permit says %s", m.index, phase, p.Phase)
	}
}

// booted judges what a machine has booted, by every byte.
func (o *observer) booted(m *machine) {
	slot, err := m.host.Booted()
	if err != nil {
		o.violate("machine %d: %v", m.index, err)
		return
	}
	if o.s.factory.holds(m.disk.Disk, slot) == "" {
		o.violate("machine %d booted slot %s, which holds no whole release", m.index, slot)
	}
}

// finished judges a machine that has come to its end: the disk says so too.
func (o *observer) finished(m *machine, e end) {
	flags, err := partition.GPTPrio{Disk: m.disk.Disk}.Table()
	next, ok := flags.Next()
	want := map[end]string{updated: newRelease, rolledBack: oldRelease}[e]
	switch holds := o.s.factory.holds(m.disk.Disk, next); {
	case err != nil || !ok:
		o.violate("machine %d has ended, and nothing would boot: %v", m.index, err)
	case holds != want || !flags[next].Successful:
		o.violate("machine %d has ended with %s, and would boot %q with flags %v", m.index, want, holds, flags)
	}
	if p, held := o.permits[m.id]; held && p.Phase != rebootlock.PhaseEnded {
		o.violate("machine %d has ended, and holds its permit in phase %s", m.index, p.Phase)
	}
	if len(o.s.cluster.Workloads(m.id)) == 0 {
		o.violate("machine %d has ended, and its work is not back", m.index)
	}
}

// waitsForEver is said of the machines that are left when nothing can come any
// more.
func (o *observer) waitsForEver() {
	for _, m := range o.s.machines {
		if m.end != running {
			continue
		}
		doing := "it is off"
		if m.ctx != nil {
			st := m.updater.Status()
			doing = "in step " + st.StepName
			for _, r := range st.Reasons {
				doing += "; " + r.Text
			}
		}
		o.violate("machine %d waits for ever: %s", m.index, doing)
	}
	if o.s.running == 0 {
		o.violate("%d permits are never given back", len(o.permits))
	}
}

func (o *observer) holds(machine string) bool { _, held := o.permits[machine]; return held }

func (o *observer) queues(machine string) bool { _, waits := o.tickets[machine]; return waits }

func (o *observer) held() int { return len(o.permits) }

// permit says when a machine's permit came to be, if it is held.
func (o *observer) permit(machine string) (created int64, held bool) {
	p, held := o.permits[machine]
	return p.created, held && p.Phase != rebootlock.PhaseEnded
}

// makespan is from the first grant to the last release.
func (o *observer) makespan() time.Duration {
	if o.first.IsZero() {
		return 0
	}
	return o.last.Sub(o.first)
}

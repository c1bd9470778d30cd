package rebootlock

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// maxSkew is how far this machine's clock and the coordinator's may differ:
// windows and deadlines are judged by both.
const maxSkew = 5 * time.Minute

// skew is what a client knows of its clock, and of the coordinator, by the
// coordinator's times.
type skew struct {
	read    time.Time     // when the stamp was last read
	since   time.Time     // when that stamp was first seen
	off     time.Duration // this clock minus the coordinator's, where that cannot be explained
	by      string        // the coordinator
	compare bool          // something could be compared
}

// witness compares a time that the coordinator wrote, at most age ago as this
// machine measured it, with now.
func (s *skew) witness(now, written time.Time, age time.Duration, by string) {
	off := now.Sub(written)
	s.compare, s.by, s.off = true, by, 0
	if off < -maxSkew || off > max(age, 0)+stampInterval+maxSkew {
		s.off = off
	}
}

// look takes in a stamp that was read. One that has changed was written since
// the last look; how old the first one is, nobody knows.
func (s *skew) look(now time.Time, stamp Stamp, changed bool) {
	if changed {
		if !s.read.IsZero() && !stamp.At.IsZero() {
			s.witness(now, stamp.At, now.Sub(s.read), stamp.Coordinator)
		}
		s.since = now
	}
	s.read = now
}

// stalled is how long the stamp has not changed, if that is too long.
func (s *skew) stalled() time.Duration {
	if d := s.read.Sub(s.since); d >= stalledAfter {
		return d
	}
	return 0
}

// sentences collects obstacles.
type sentences []Obstacle

func (s *sentences) add(kind, format string, args ...any) {
	*s = append(*s, Obstacle{Kind: kind, Text: fmt.Sprintf(format, args...)})
}

// A scene is what a client judges by: what it is, and what it knows, at one
// moment.
type scene struct {
	outlook
	self   Self
	now    time.Time
	uid    string // of the cluster that was joined; "": none was
	lease  int64  // of the session; 0: there is none
	shown  int64  // lease with which this process showed the machine as present
	ttl    time.Duration
	policy *Rules // the group's, by policy; nil: it says nothing
}

// scene is what is known now.
func (c *Client) scene(self Self) scene {
	v := scene{self: self, uid: self.UID, ttl: c.ttl(), now: c.Now().UTC()}
	if c.Seed != nil {
		v.policy = c.Seed()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	v.outlook, v.shown = c.sees, c.shown
	v.present = maps.Clone(c.sees.present)
	if c.uid != "" {
		v.uid = c.uid
	}
	if c.session != nil {
		v.lease = c.session.Lease()
	}
	return v
}

// state says where the machine stands.
func (v scene) state() (State, error) {
	if v.permit.err != nil {
		return State{}, v.unreadable()
	}
	s := State{Queue: v.ledger.rec.Queue, Stops: v.stops(), Waits: v.waits()}
	switch {
	case v.holds() && v.permit.rec.Via != viaOperator:
		s.Standing, s.Phase, s.Permit = Holding, v.permit.rec.Phase, &v.permit.rec
	case v.queued():
		s.Standing, s.Ticket = Queued, &v.ticket.rec
	}
	return s, nil
}

// unreadable is the error of a permit that cannot be read.
func (v scene) unreadable() error {
	return fmt.Errorf("permit of machine %s in group %s: %w", v.self.Machine, v.at.group, v.permit.err)
}

// queued reports whether the ticket is there, and lives as long as this
// process. One of a process before is no place in the queue until it is written
// again.
func (v scene) queued() bool {
	t := &v.ticket
	return t.there() && t.err == nil && t.rec.Via == "" && v.lease != 0 && t.lease == v.lease
}

// stops says why no phase may begin.
func (v scene) stops() []Obstacle {
	var s sentences
	if text := v.clones(); text != "" {
		s.add("clone", "%s", text)
	}
	switch {
	case v.operated():
		s.add("operator", "an operator asked for this machine's permit (%s): it does not reboot by itself until `drydock lock release`", v.operation())
	case v.holds() && v.permit.err == nil && v.permit.rec.Instance != v.self.Instance:
		s.add("reinstalled", "the permit was granted to this machine before it was installed anew; it is taken over when no other machine with its machine-id is there")
	}
	s = append(s, v.frozen()...)
	if off := v.clock.off; off != 0 {
		s.add("clock", "this machine's clock is %s %s that of the coordinator %s: windows cannot be trusted; set the clock (chronyc, timedatectl)",
			off.Abs().Round(time.Second), one(int(off/off.Abs()), "ahead of", "behind"), short(v.clock.by))
	}
	return s
}

// frozen says what the records of cluster and group forbid.
func (o *outlook) frozen() []Obstacle {
	var s sentences
	rules := o.rulesErr()
	switch {
	case o.cluster.err != nil:
		s.add("cluster", "the cluster's record cannot be read: %v", o.cluster.err)
	case o.cluster.rec.Freeze != nil:
		f := o.cluster.rec.Freeze
		s.add("freeze", "the cluster was frozen by %s: %s (`drydock lock thaw --cluster-wide` ends it)", f.By, f.Reason)
	}
	switch {
	case rules != nil:
		s.add("rules", "the rules of group %s cannot be gone by: %v (`drydock lock apply FILE` writes them)", o.at.group, rules)
	case !o.rules.there() && o.holds():
		s.add("rules", "group %s has no rules: `drydock lock apply FILE` writes them", o.at.group)
	case o.rules.rec.Freeze != nil:
		f := o.rules.rec.Freeze
		s.add("freeze", "group %s was frozen by %s: %s (`drydock lock thaw` ends it)", o.at.group, f.By, f.Reason)
	}
	to, asked := o.permit.rec.To, o.holds()
	if !asked && o.ticket.there() && o.ticket.err == nil {
		to, asked = o.ticket.rec.To, true
	}
	failed := 0
	for _, f := range o.failures.rec.Failed {
		if f.Release == to {
			failed++
		}
	}
	limit := o.rules.rec.stopAfter()
	switch {
	case o.failures.err != nil:
		s.add("stopped", "the failures of group %s cannot be read: %v", o.at.group, o.failures.err)
	case asked && rules == nil && limit > 0 && failed >= limit:
		s.add("stopped", "%s stopped after %s: see `drydock lock journal`, then `drydock lock thaw`",
			releaseName(to), plural(failed, "failed reboot", "failed reboots"))
	}
	return s
}

// rulesErr says why the rules that are there cannot be gone by.
func (o *outlook) rulesErr() error {
	if !o.rules.there() || o.rules.err != nil {
		return o.rules.err
	}
	return o.rules.rec.Check()
}

// operated reports whether ticket or permit are those of a person, who asked for
// them in this machine's name and gives them back.
func (o *outlook) operated() bool {
	return o.holds() && o.permit.rec.Via == viaOperator || o.ticket.there() && o.ticket.rec.Via == viaOperator
}

func (o *outlook) operation() string {
	if o.holds() {
		return o.permit.rec.Reason
	}
	return o.ticket.rec.Reason
}

// clones says which other machine has this one's machine-id; "": none.
func (v scene) clones() string {
	var names []string
	for _, p := range v.present {
		if v.isOwn(p) {
			continue
		}
		name := "a boot whose record cannot be read"
		if p.err == nil {
			name = fmt.Sprintf("%s, instance %s, boot %s, since %s", p.rec.Program, short(p.rec.Instance), short(p.rec.Boot), p.rec.Since.UTC().Format(time.RFC3339))
		}
		names = append(names, name)
	}
	if names == nil {
		return ""
	}
	slices.Sort(names)
	return fmt.Sprintf("two live machines have the machine-id %s: this one (%s, instance %s, boot %s), and %s. Neither may reboot. "+
		"If one is a copy, stop it, and give it its own: empty /etc/machine-id and drydock's state directory, and boot it. "+
		"If the other is this machine before it crashed, this ends by itself within %s",
		v.self.Machine, v.self.Hostname, short(v.self.Instance), short(v.self.Boot), few(names), v.ttl)
}

// isOwn reports whether a presence is this process's: of this boot and this
// instance, and not written over by a twin.
func (v scene) isOwn(p fact[Presence]) bool {
	own := p.err == nil && p.rec.Boot == v.self.Boot && p.rec.Instance == v.self.Instance
	return own && (v.shown == 0 || v.shown != v.lease || p.lease == v.lease)
}

// waits says, for people, why nothing is granted, and what is odd.
func (v scene) waits() []Obstacle {
	s := sentences(slices.Clone(v.ledger.rec.Blocked))
	if p := v.permit.rec; v.holds() && !p.Deadline.IsZero() && v.now.After(p.Deadline) {
		s.add("overdue", "this machine should have given its permit back at %s", p.Deadline.UTC().Format(time.RFC3339))
	}
	v.coordination(&s)
	if v.at.group != v.self.Group {
		s.add("group", "policy says group %s, and this machine still holds a permit of group %s: it moves when that is given back", v.self.Group, v.at.group)
	}
	if !v.rules.there() && !v.holds() {
		s.add("rules", "group %s has no rules, so nothing is granted: `drydock lock apply FILE` writes them, or a [group] in a policy file", v.at.group)
	}
	if v.seed != "" {
		s.add("rules", "%s", v.seed)
	} else if text := v.differs(); text != "" {
		s.add("rules", "%s", text)
	}
	if v.member.err != nil {
		s.add("member", "this machine's member record cannot be read, and is left alone: %v", v.member.err)
	}
	if v.etcd != nil {
		s.add("etcd", "whether this machine is a member of etcd is unknown, so it does not ask for a permit: %v", v.etcd)
	}
	return s
}

// coordination says what ails the coordinator.
func (o *outlook) coordination(s *sentences) {
	stamp := o.stamp.rec
	switch {
	case o.stamp.err != nil:
		s.add("coordinator", "what the coordinator says of itself cannot be read: %v", o.stamp.err)
	case !o.stamp.there():
		s.add("coordinator", "no coordinator was ever at work: let at least one machine of the cluster coordinate (policy)")
	case o.clock.stalled() > 0:
		s.add("coordinator", "the coordinator %s has said nothing since %s: nothing is granted until it, or another, is at work",
			short(stamp.Coordinator), stamp.At.UTC().Format(time.RFC3339))
	}
	if stamp.Trouble != "" {
		s.add("coordinator", "the coordinator %s is in trouble: %s", short(stamp.Coordinator), stamp.Trouble)
	}
}

// differs says in what the group's rules are not what this machine's policy
// says of them. The store's count.
func (v scene) differs() string {
	if v.policy == nil || !v.rules.there() || v.rulesErr() != nil || v.at.group != v.self.Group {
		return ""
	}
	mine, stored := meant(*v.policy), meant(v.rules.rec)
	text := difference(&mine, stored)
	if text == "" {
		return ""
	}
	return fmt.Sprintf("the rules of group %s are not those of this machine's policy file, and the store's count (`drydock lock show`, `drydock lock apply FILE`): %s", v.at.group, text)
}

// meant is rules with what is left out as what it means.
func meant(r Rules) Rules {
	stop := r.stopAfter()
	r.StopAfter, r.Deadline, r.Freeze = &stop, Duration(r.deadline()), nil
	if r.OnOverdue == "" {
		r.OnOverdue = StopOverdue
	}
	if r.Timezone == "" {
		r.Timezone = "UTC"
	}
	return r
}

// refusal is obstacles as an error.
func refusal(stops []Obstacle) error {
	var texts []string
	clone := false
	for _, s := range stops {
		texts = append(texts, s.Text)
		clone = clone || s.Kind == "clone"
	}
	if clone {
		return fmt.Errorf("%w: %s", ErrClone, strings.Join(texts, "; "))
	}
	return errors.New(strings.Join(texts, "; "))
}

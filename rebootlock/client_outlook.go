package rebootlock

import (
	"net/url"
	"strings"
	"time"
)

// places are the keys that a client looks at.
type places struct {
	machine, group                              string
	cluster, rules, failures, ledger, stamp     string
	permit, ticket, member, present, statusHere string
}

func newPlaces(k Keys, machine, group string) places {
	return places{
		machine: machine, group: group,
		cluster: k.ClusterRecord(), rules: k.Rules(group), failures: k.Failures(group), ledger: k.Ledger(group), stamp: k.Stamp(),
		permit: k.Permit(group, machine), ticket: k.Ticket(group, machine), member: k.Member(machine),
		present: k.all(kindPresence, machine).Key, statusHere: k.Status(machine),
	}
}

// watched are the ranges of which every change is told at once. The ledger
// changes with each grant, and the stamp all the time: to tell every machine of
// that would cost as many messages as there are machines, so they are polled.
func (p places) watched() []Range {
	return []Range{{Key: p.cluster}, {Key: p.rules}, {Key: p.failures}, {Key: p.permit}, {Key: p.ticket}, {Key: p.present, Prefix: true}}
}

// all are the ranges that are read.
func (p places) all() []Range {
	return append(p.watched(), Range{Key: p.ledger}, Range{Key: p.stamp}, Range{Key: p.member})
}

func (p places) isPresence(key string) bool { return strings.HasPrefix(key, p.present) }

// presence is the key of one boot of this machine; of a second instance that
// says it is the same boot, one below it, where only this machine looks.
func (p places) presence(boot, instance string, second bool) string {
	key := p.present + url.PathEscape(boot)
	if second {
		key += "/" + url.PathEscape(instance)
	}
	return key
}

// A fact is a record as it was last seen.
type fact[T any] struct {
	item[T]
	lease int64
	err   error // why the record cannot be read
	asOf  int64 // revision as of which this is known
}

func (f *fact[T]) there() bool { return f.modified != 0 }

// learn takes in what a key holds as of a revision; kv.Modified 0 is nothing. It
// reports whether that is news.
func (f *fact[T]) learn(kv KV, revision int64) bool {
	if revision < f.asOf {
		return false
	}
	f.asOf = revision
	if kv.Modified == f.modified {
		return false
	}
	f.item, f.lease, f.err = item[T]{}, kv.Lease, nil
	if kv.Modified != 0 {
		f.item, f.err = read[T](kv)
	}
	return true
}

func (f *fact[T]) since() int64 { return f.created }

// learner is a fact of any kind.
type learner interface {
	learn(kv KV, revision int64) bool
	since() int64
}

// outlook is what a client knows.
type outlook struct {
	at       places
	cluster  fact[Cluster]
	rules    fact[Rules]
	failures fact[Failures]
	ledger   fact[Ledger]
	stamp    fact[Stamp]
	permit   fact[Permit]
	ticket   fact[Ticket]
	member   fact[Member]
	present  map[string]fact[Presence] // by key
	revision int64                     // as of which everything was read
	heard    time.Time                 // when the store was last heard of; zero: what is known is in doubt
	watching bool
	clock    skew
	etcd     error  // why the voters of etcd on this machine are unknown
	seed     string // why policy's rules were not written
}

// aim turns to the keys of a machine in a group, and forgets others' records.
func (o *outlook) aim(p places) {
	if o.at == p {
		return
	}
	*o = outlook{at: p, clock: o.clock, member: o.member}
	if o.member.rec.Machine != p.machine {
		o.member = fact[Member]{}
	}
}

// doubt says that what is known is not to be gone by: a write was made, or not.
func (o *outlook) doubt() { o.heard = time.Time{} }

func (o *outlook) fact(key string) learner {
	switch key {
	case o.at.cluster:
		return &o.cluster
	case o.at.rules:
		return &o.rules
	case o.at.failures:
		return &o.failures
	case o.at.ledger:
		return &o.ledger
	case o.at.stamp:
		return &o.stamp
	case o.at.permit:
		return &o.permit
	case o.at.ticket:
		return &o.ticket
	case o.at.member:
		return &o.member
	}
	return nil
}

// hear takes in one event of the watch.
func (o *outlook) hear(e Event, now time.Time) bool {
	if e.Modified <= o.revision {
		return false // everything was read since
	}
	kv := e.KV
	if e.Deleted {
		kv = KV{Key: e.Key}
	}
	return o.note(kv, e.Modified, now)
}

// note takes in what one key holds as of a revision.
func (o *outlook) note(kv KV, revision int64, now time.Time) bool {
	if o.at.isPresence(kv.Key) {
		return o.notePresence(kv, revision)
	}
	f := o.fact(kv.Key)
	if f == nil {
		return false
	}
	absent := !o.permit.there()
	news := f.learn(kv, revision)
	if news && kv.Key == o.at.permit && absent && !o.heard.IsZero() && !o.permit.rec.Granted.IsZero() {
		o.clock.witness(now, o.permit.rec.Granted, now.Sub(o.heard), o.permit.rec.GrantedBy)
	}
	return news
}

func (o *outlook) notePresence(kv KV, revision int64) bool {
	p := o.present[kv.Key]
	news := p.learn(kv, revision)
	if o.present == nil {
		o.present = map[string]fact[Presence]{}
	}
	o.present[kv.Key] = p
	if !p.there() {
		delete(o.present, kv.Key)
	}
	return news
}

// alive says that the store was heard of.
func (o *outlook) alive(now time.Time) {
	if !o.heard.IsZero() {
		o.heard = now
	}
}

// wrote takes in what this client wrote in a revision.
func (o *outlook) wrote(ops []Op, revision int64, now time.Time) {
	for _, op := range ops {
		kv := KV{Key: op.Key}
		if !op.Delete {
			kv = KV{Key: op.Key, Value: op.Value, Created: o.born(op.Key, revision), Modified: revision, Lease: op.Lease}
		}
		o.note(kv, revision, now)
	}
	o.alive(now)
}

// born is the revision in which a key came to be that is written in one.
func (o *outlook) born(key string, revision int64) int64 {
	if f := o.fact(key); f != nil && f.since() != 0 {
		return f.since()
	}
	if p := o.present[key]; p.there() {
		return p.created
	}
	return revision
}

// survey takes in everything that is read, as of a revision.
func (o *outlook) survey(kvs []KV, revision int64, now time.Time) (news bool) {
	if revision < o.revision { // the store was put back to an earlier state
		at, c := o.at, o.clock
		*o = outlook{at: at, clock: c, watching: o.watching}
		news = true
	}
	held := map[string]KV{}
	for _, kv := range kvs {
		held[kv.Key] = kv
		if o.at.isPresence(kv.Key) {
			news = o.note(kv, revision, now) || news
		}
	}
	for key := range o.present {
		if _, there := held[key]; !there {
			news = o.note(KV{Key: key}, revision, now) || news
		}
	}
	seen := o.stamp.modified
	for _, r := range o.at.all() {
		if !r.Prefix {
			kv := held[r.Key]
			kv.Key = r.Key
			news = o.note(kv, revision, now) || news
		}
	}
	o.clock.look(now, o.stamp.rec, o.stamp.modified != seen)
	o.revision, o.heard = revision, now
	return news
}

// home is the group that this machine goes by: that of its member record until
// that is moved, for a permit may be held there.
func (o *outlook) home(self Self) string {
	if o.at.machine == self.Machine && o.member.there() && o.member.err == nil && CheckName("group", o.member.rec.Group) == nil {
		return o.member.rec.Group
	}
	return self.Group
}

// holds reports whether there is a permit that is in use, readable or not.
func (o *outlook) holds() bool {
	return o.permit.there() && (o.permit.err != nil || o.permit.rec.Phase != PhaseEnded)
}

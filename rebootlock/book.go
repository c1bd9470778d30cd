package rebootlock

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/drydock-os/drydock/rebootlock/window"
)

// An item is a record with the revisions of its key.
type item[T any] struct {
	rec      T
	created  int64
	modified int64 // 0: there is no such record
}

// book is the lock's records as the coordinator, and whoever explains it, knows
// them, with the sums that are asked for at each grant. It is kept current by
// events, each record by its own revision: what this program wrote, or read in
// a transaction, may be in it before the watch tells of it.
type book struct {
	keys     Keys
	revision int64
	cluster  item[Cluster]
	groups   map[string]*groupBook
	members  map[string]item[Member]
	present  map[string]map[string]Presence // by machine and boot
	bad      map[string]error               // by key: records that cannot be read
	ahead    map[string]int64               // by key: known as of this revision already
	order    []mark                         // of ahead, by revision
}

type mark struct {
	key      string
	revision int64
}

// groupBook is one group's part of the book.
type groupBook struct {
	name               string
	rules              item[Rules]
	opens              window.Schedule // of rules; their zone is loaded once
	failures           item[Failures]
	ledger             item[Ledger]
	lastGrant, lastEnd time.Time               // where they are later than in the ledger
	permits            map[string]item[Permit] // by machine
	queue              queue
	members            int
	away               map[string]string // machine: zone; members that are not there and hold no permit
	awayIn             map[string]int    // the same by zone
}

// everything is the range of what the coordinator goes by.
func (k Keys) everything() Range { return Range{Key: k.root() + "lock/", Prefix: true} }

// load reads the lock's records as of one revision.
func load(ctx context.Context, store Store, keys Keys) (*book, error) {
	s, err := store.Read(ctx, keys.everything())
	if err != nil {
		return nil, fmt.Errorf("read the lock of cluster %s: %w", keys.Cluster, err)
	}
	return newBook(keys, s), nil
}

func newBook(keys Keys, s Snapshot) *book {
	b := &book{
		keys: keys, revision: s.Revision, groups: map[string]*groupBook{}, members: map[string]item[Member]{},
		present: map[string]map[string]Presence{}, bad: map[string]error{}, ahead: map[string]int64{},
	}
	slices.SortFunc(s.KVs, func(x, y KV) int { return int(x.Created - y.Created) }) // the queue's order
	for _, kv := range s.KVs {
		b.put(kv)
	}
	return b
}

// apply brings in what a watch told, by revision.
func (b *book) apply(events []Event) {
	for _, e := range events {
		b.forget(e.Modified)
		b.revision = max(b.revision, e.Modified)
		if at, ok := b.ahead[e.Key]; ok && e.Modified <= at {
			continue
		}
		b.change(e)
	}
}

// learn brings in what is known as of a revision, before the watch tells of it.
func (b *book) learn(e Event, as int64) {
	if as <= b.ahead[e.Key] {
		return
	}
	b.ahead[e.Key] = as
	b.order = append(b.order, mark{e.Key, as})
	b.change(e)
}

// forget drops what was known ahead of a revision that the watch has reached.
func (b *book) forget(revision int64) {
	n := 0
	for n < len(b.order) && b.order[n].revision < revision {
		if k := b.order[n]; b.ahead[k.key] == k.revision {
			delete(b.ahead, k.key)
		}
		n++
	}
	b.order = b.order[n:]
}

func (b *book) change(e Event) {
	if e.Deleted {
		b.drop(e.Key)
		return
	}
	b.put(e.KV)
}

// group returns a group's part, which comes to be with its first record.
func (b *book) group(name string) *groupBook {
	g := b.groups[name]
	if g == nil {
		g = &groupBook{name: name, permits: map[string]item[Permit]{}, queue: newQueue(), away: map[string]string{}, awayIn: map[string]int{}}
		b.groups[name] = g
	}
	return g
}

// put takes a record in. One that cannot be read is noted as such, and what was
// known before it no longer counts.
func (b *book) put(kv KV) {
	kind, names, ok := b.keys.parse(kv.Key)
	if !ok {
		return
	}
	delete(b.bad, kv.Key)
	var err error
	switch {
	case kind == kindCluster && len(names) == 0:
		b.cluster, err = read[Cluster](kv)
	case kind == kindRules && len(names) == 1:
		g := b.group(names[0])
		if g.rules, err = read[Rules](kv); err == nil {
			err = g.rules.rec.Check()
		}
		if err == nil {
			g.opens, err = g.rules.rec.schedule()
		}
	case kind == kindFailures && len(names) == 1:
		b.group(names[0]).failures, err = read[Failures](kv)
	case kind == kindLedger && len(names) == 1:
		b.group(names[0]).ledger, err = read[Ledger](kv)
	case kind == kindTicket && len(names) == 2:
		err = b.putTicket(kv, names[0], names[1])
	case kind == kindPermit && len(names) == 2:
		err = b.putPermit(kv, names[0], names[1])
	case kind == kindMember && len(names) == 1:
		err = b.putMember(kv, names[0])
	case kind == kindPresence && len(names) >= 2:
		err = b.putPresence(kv, names[0], strings.Join(names[1:], "/"))
	}
	if err != nil {
		b.bad[kv.Key] = err
	}
}

func read[T any](kv KV) (item[T], error) {
	it := item[T]{created: kv.Created, modified: kv.Modified}
	err := decodeInto(kv.Value, &it.rec)
	return it, err
}

func (b *book) putTicket(kv KV, group, machine string) error {
	it, err := read[Ticket](kv)
	if err == nil && (it.rec.Group != group || it.rec.Machine != machine) {
		err = fmt.Errorf("%w: it is a ticket of machine %q in group %q", ErrCorrupt, it.rec.Machine, it.rec.Group)
	}
	if err != nil {
		b.group(group).queue.remove(machine)
		return err
	}
	b.group(group).queue.put(it)
	return nil
}

func (b *book) putPermit(kv KV, group, machine string) error {
	it, err := read[Permit](kv)
	if err == nil && (it.rec.Group != group || it.rec.Machine != machine) {
		err = fmt.Errorf("%w: it is a permit of machine %q in group %q", ErrCorrupt, it.rec.Machine, it.rec.Group)
	}
	if err != nil { // whoever it is: somebody holds it
		it.rec.Group, it.rec.Machine = group, machine
	}
	b.group(group).permits[machine] = it
	b.recount(machine)
	return err
}

func (b *book) putMember(kv KV, machine string) error {
	it, err := read[Member](kv)
	if err == nil && it.rec.Machine != machine {
		err = fmt.Errorf("%w: it is the record of machine %q", ErrCorrupt, it.rec.Machine)
	}
	if err != nil {
		return err // the one before it still counts
	}
	if old, ok := b.members[machine]; ok {
		b.group(old.rec.Group).members--
		b.here(old.rec.Group, machine)
	}
	b.members[machine] = it
	b.group(it.rec.Group).members++
	b.recount(machine)
	return nil
}

func (b *book) putPresence(kv KV, machine, boot string) error {
	it, err := read[Presence](kv)
	if err != nil {
		return err
	}
	if b.present[machine] == nil {
		b.present[machine] = map[string]Presence{}
	}
	b.present[machine][boot] = it.rec
	b.recount(machine)
	return nil
}

// drop takes a record out.
func (b *book) drop(key string) {
	kind, names, ok := b.keys.parse(key)
	if !ok {
		return
	}
	delete(b.bad, key)
	switch {
	case kind == kindCluster && len(names) == 0:
		b.cluster = item[Cluster]{}
	case kind == kindRules && len(names) == 1:
		b.group(names[0]).rules = item[Rules]{}
	case kind == kindFailures && len(names) == 1:
		b.group(names[0]).failures = item[Failures]{}
	case kind == kindLedger && len(names) == 1:
		b.group(names[0]).ledger = item[Ledger]{}
	case kind == kindTicket && len(names) == 2:
		b.group(names[0]).queue.remove(names[1])
	case kind == kindPermit && len(names) == 2:
		delete(b.group(names[0]).permits, names[1])
		b.recount(names[1])
	case kind == kindMember && len(names) == 1:
		if old, ok := b.members[names[0]]; ok {
			b.group(old.rec.Group).members--
			b.here(old.rec.Group, names[0])
			delete(b.members, names[0])
		}
	case kind == kindPresence && len(names) >= 2:
		delete(b.present[names[0]], strings.Join(names[1:], "/"))
		if len(b.present[names[0]]) == 0 {
			delete(b.present, names[0])
		}
		b.recount(names[0])
	}
}

// recount notes whether a member is away: it is not there, and it holds no
// permit that would count already. Nobody knows that of one that speaks only
// FleetLock.
func (b *book) recount(machine string) {
	m, ok := b.members[machine]
	if !ok {
		return
	}
	g := b.group(m.rec.Group)
	b.here(g.name, machine)
	if _, holds := g.permits[machine]; holds || !b.absent(machine) {
		return
	}
	g.away[machine] = m.rec.Zone
	g.awayIn[m.rec.Zone]++
}

// absent reports whether a member is known not to be there.
func (b *book) absent(machine string) bool {
	m, ok := b.members[machine]
	return ok && m.rec.Via == "" && len(b.present[machine]) == 0
}

func (b *book) here(group, machine string) {
	g := b.group(group)
	if zone, was := g.away[machine]; was {
		delete(g.away, machine)
		g.awayIn[zone]--
	}
}

// unreadable is the first record that cannot be read, by key; nil if there is none.
func (b *book) unreadable() error {
	if len(b.bad) == 0 {
		return nil
	}
	key := slices.Min(slices.Collect(maps.Keys(b.bad)))
	return fmt.Errorf("record %s: %w", key, b.bad[key])
}

// queue is a group's tickets in the order in which they came.
type queue struct {
	line      []*item[Ticket] // nil where one left
	places    map[string]int  // by machine, in line, counted from the first ever
	gone      int             // entries cut off line's head
	leftovers int             // nil entries in line
	voters    int             // tickets of machines on which a voter of etcd runs
}

func newQueue() queue { return queue{places: map[string]int{}} }

func (q *queue) put(it item[Ticket]) {
	if at, ok := q.places[it.rec.Machine]; ok {
		if old := q.line[at-q.gone]; old.created == it.created {
			q.voters += votes(it) - votes(*old)
			q.line[at-q.gone] = &it // changed, not moved
			return
		}
		q.remove(it.rec.Machine)
	}
	q.voters += votes(it)
	i, last := len(q.line), len(q.line)-1
	if last >= 0 && q.line[last] != nil && q.line[last].created < it.created {
		last = -1 // the usual case: behind all others
	}
	for last >= 0 && i > 0 && (q.line[i-1] == nil || q.line[i-1].created > it.created) {
		i-- // only where a ticket was learnt of before the watch told of an older one
	}
	if i < len(q.line) {
		q.line = slices.Insert(q.line, i, &it)
		q.number()
		return
	}
	q.places[it.rec.Machine] = q.gone + i
	q.line = append(q.line, &it)
}

// votes counts a ticket of a machine on which a voter of etcd runs.
func votes(it item[Ticket]) int { return min(len(it.rec.Etcd), 1) }

func (q *queue) remove(machine string) {
	at, ok := q.places[machine]
	if !ok {
		return
	}
	delete(q.places, machine)
	q.voters -= votes(*q.line[at-q.gone])
	q.line[at-q.gone] = nil
	q.leftovers++
	for len(q.line) > 0 && q.line[0] == nil {
		q.line, q.gone, q.leftovers = q.line[1:], q.gone+1, q.leftovers-1
	}
	if q.leftovers > 64 && q.leftovers > len(q.line)/2 {
		q.line = slices.DeleteFunc(q.line, func(it *item[Ticket]) bool { return it == nil })
		q.number()
	}
}

// number gives every ticket its place anew.
func (q *queue) number() {
	q.leftovers = 0
	for i, it := range q.line {
		if it == nil {
			q.leftovers++
			continue
		}
		q.places[it.rec.Machine] = q.gone + i
	}
}

func (q *queue) len() int { return len(q.places) }

func (q *queue) ticket(machine string) *item[Ticket] {
	at, ok := q.places[machine]
	if !ok {
		return nil
	}
	return q.line[at-q.gone]
}

package rebootlock

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// A Reign is one coordinator's term: what it knows, and what it does about it.
// It is not safe for use by several goroutines. Run drives it by a watch; a
// simulator calls Apply and Pass itself.
type Reign struct {
	c       *Coordinator
	lead    Leadership
	book    *book
	dirty   map[string]bool // groups to be judged
	due     map[string]time.Time
	pass    int64
	stamped time.Time
	entries int // written since the journal was last cut
	clock   clock
}

// Begin reads everything, and returns the reign of a leadership that was won.
func (c *Coordinator) Begin(ctx context.Context, lead Leadership) (*Reign, error) {
	r := &Reign{c: c, lead: lead, entries: cutAfter}
	return r, r.reread(ctx)
}

// Revision is the one up to which the watch has told.
func (r *Reign) Revision() int64 { return r.book.revision }

func (r *Reign) reread(ctx context.Context) error {
	b, err := load(ctx, r.c.Store, r.c.Keys)
	if err != nil {
		return err
	}
	r.book, r.dirty, r.due = b, map[string]bool{}, map[string]time.Time{}
	r.touchAll()
	return nil
}

// Apply brings in changes, in the order of their revisions.
func (r *Reign) Apply(events []Event) {
	r.book.apply(events)
	now := r.c.Now()
	for _, e := range events {
		r.touch(e.Key)
		r.hear(e, now)
	}
}

// hear compares clocks with a machine that wrote a moment ago.
func (r *Reign) hear(e Event, now time.Time) {
	if e.Deleted || e.Created != e.Modified {
		return
	}
	switch kind, names, _ := r.book.keys.parse(e.Key); {
	case kind == kindTicket && len(names) == 2:
		if t := r.book.group(names[0]).queue.ticket(names[1]); t != nil && t.rec.Via == "" {
			r.clock.hear(names[1], now, t.rec.Asked)
		}
	case kind == kindPresence && len(names) == 2:
		r.clock.hear(names[0], now, r.book.present[names[0]][names[1]].Since)
	}
}

// touch marks the groups that a record matters to.
func (r *Reign) touch(key string) {
	kind, names, _ := r.book.keys.parse(key)
	switch kind {
	case kindLedger: // our own
	case kindRules, kindFailures, kindTicket, kindPermit:
		if len(names) > 0 {
			r.dirty[names[0]] = true
		}
		if kind == kindPermit {
			r.touchEtcd()
		}
	default:
		r.touchAll()
	}
}

func (r *Reign) touchAll() {
	for name := range r.book.groups {
		r.dirty[name] = true
	}
}

// touchEtcd marks the groups in which a voter waits, maybe for the end of
// another's permit, in whatever group that is.
func (r *Reign) touchEtcd() {
	for name, g := range r.book.groups {
		if g.queue.voters > 0 {
			r.dirty[name] = true
		}
	}
}

// Pass judges every group that something changed for, writes what follows, and
// returns when it must be called again though nothing changes. Any error ends
// the reign: what was written, and whether, the next one reads.
func (r *Reign) Pass(ctx context.Context) (time.Time, error) {
	r.pass++
	now := r.c.Now()
	if err := r.book.unreadable(); err != nil {
		err = fmt.Errorf("resign: %w; nothing is granted until it is put right, or a newer version coordinates", err)
		return now, r.stamp(ctx, now, err)
	}
	for name, at := range r.due {
		if !now.Before(at) {
			r.dirty[name] = true
		}
	}
	if err := r.clock.wrong(); err != nil {
		return now, r.stamp(ctx, now, fmt.Errorf("resign: %w", err))
	}
	if err := r.aside(); err != nil {
		return now, err
	}
	for _, name := range slices.Sorted(maps.Keys(r.dirty)) {
		if err := r.settle(ctx, r.book.group(name), now); err != nil {
			return now, err
		}
		if err := r.aside(); err != nil {
			return now, err
		}
	}
	if now.Sub(r.stamped) >= stampInterval || now.Before(r.stamped) {
		if err := r.stamp(ctx, now, nil); err != nil {
			return now, err
		}
		if err := r.cut(ctx); err != nil {
			return now, err
		}
	}
	next := r.stamped.Add(stampInterval)
	for _, at := range r.due {
		if at.Before(next) {
			next = at
		}
	}
	return next, nil
}

// aside ends the reign where this machine was granted a permit: it gives the
// office up before it drains itself.
func (r *Reign) aside() error {
	for _, g := range r.book.groups {
		if p, ok := g.permits[r.c.Machine]; ok && p.rec.Phase != PhaseEnded && p.rec.Via == "" {
			return errAside
		}
	}
	return nil
}

// rounds bounds how often one group is judged in one pass: each round writes up
// to batch changes, or learns why it may not.
const rounds = 64

// batch is how many permits one transaction ends or grants: three changes and
// two conditions each, and some for all, stay under etcd's 128.
const batch = 40

// settle judges a group until there is nothing more to do for it.
func (r *Reign) settle(ctx context.Context, g *groupBook, now time.Time) error {
	delete(r.dirty, g.name)
	delete(r.due, g.name)
	for range rounds {
		j := r.book.judge(g, now, false)
		d := r.draft(g, j, now)
		if d == nil {
			if !j.next.IsZero() {
				r.due[g.name] = j.next
			}
			return r.report(ctx, g, j, now)
		}
		done, err := r.commit(ctx, d.txn)
		if err != nil {
			return err
		}
		if done {
			d.note()
		}
	}
	r.dirty[g.name] = true // others are served in between
	r.due[g.name] = now
	return nil
}

// reportInterval bounds how often a group's ledger is written for its readers
// alone.
const reportInterval = 10 * time.Second

// report says in the ledger why nothing is granted, where that changed.
func (r *Reign) report(ctx context.Context, g *groupBook, j judgement, now time.Time) error {
	l := g.ledger.rec
	if g.queue.len() == l.Queue && slices.EqualFunc(j.blocked, l.Blocked, func(a, b Obstacle) bool { return a.Kind == b.Kind && a.Text == b.Text }) {
		return nil
	}
	if g.rules.modified == 0 && g.queue.len() == 0 && len(g.permits) == 0 {
		return nil // a name that nobody made a group of
	}
	if wait := reportInterval - now.Sub(l.At); wait > 0 && wait <= reportInterval {
		at := now.Add(wait)
		if due, ok := r.due[g.name]; !ok || at.Before(due) {
			r.due[g.name] = at
		}
		return nil
	}
	d := r.newDraft(g, now)
	d.ledger.Blocked = j.blocked
	d.ledger.Zone, d.ledger.ZoneUntil = j.zone, j.until
	_, err := r.commit(ctx, d.finish())
	return err
}

// commit writes a transaction of this reign, and learns from it. That its
// conditions do not hold is no error: what does is learnt, and judged again.
func (r *Reign) commit(ctx context.Context, t Txn) (done bool, err error) {
	t.If = append(t.If, Cond{Key: r.lead.Key, Created: r.lead.Created})
	t.Else = nil
	for _, c := range t.If {
		t.Else = append(t.Else, Range{Key: c.Key})
	}
	res, err := r.c.Store.Commit(ctx, t)
	if err != nil {
		return false, fmt.Errorf("coordinate: %w", err)
	}
	if res.Revision < r.book.revision {
		return false, fmt.Errorf("coordinate: %w", errPutBack)
	}
	if res.Done {
		for _, op := range t.Then {
			kv := KV{Key: op.Key, Value: op.Value, Created: res.Revision, Modified: res.Revision, Lease: op.Lease}
			r.learn(Event{KV: kv, Deleted: op.Delete}, res.Revision)
		}
		return true, nil
	}
	found := map[string]KV{}
	for _, kv := range res.Else {
		found[kv.Key] = kv
	}
	if found[r.lead.Key].Created != r.lead.Created {
		return false, errDeposed
	}
	for _, c := range t.If {
		kv, is := found[c.Key]
		kv.Key = c.Key
		r.learn(Event{KV: kv, Deleted: !is}, res.Revision)
	}
	return false, nil
}

func (r *Reign) learn(e Event, as int64) {
	if strings.HasPrefix(e.Key, r.book.keys.everything().Key) {
		r.book.learn(e, as)
	}
}

// stamp says that the coordinator is at work, or why it is not.
func (r *Reign) stamp(ctx context.Context, now time.Time, trouble error) error {
	s := Stamp{Version: version, Coordinator: r.c.Machine, Pass: r.pass, At: now.UTC()}
	if trouble != nil {
		s.Trouble = trouble.Error()
	}
	if _, err := r.commit(ctx, Txn{Then: []Op{{Key: r.c.Keys.Stamp(), Value: encode(s, nil)}}}); err != nil {
		return err
	}
	r.stamped = now
	return trouble
}

// The journal's bounds: when it is cut, and to how many entries.
const (
	cutAfter    = 500
	journalKept = 10_000
)

// cut takes the oldest entries out of the journal.
func (r *Reign) cut(ctx context.Context) error {
	if r.entries < cutAfter {
		return nil
	}
	s, err := r.c.Store.Read(ctx, r.c.Keys.all(kindEntry))
	if err != nil {
		return fmt.Errorf("cut the journal: %w", err)
	}
	r.entries = 0
	if len(s.KVs) <= journalKept {
		return nil
	}
	slices.SortFunc(s.KVs, func(a, b KV) int { return int(a.Created - b.Created) })
	for old := range slices.Chunk(s.KVs[:len(s.KVs)-journalKept], maxOps-1) {
		t := Txn{}
		for _, kv := range old {
			t.Then = append(t.Then, Op{Key: kv.Key, Delete: true})
		}
		if _, err := r.commit(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

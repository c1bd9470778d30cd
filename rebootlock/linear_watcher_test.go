package rebootlock

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"
)

// A watcher sees every change of the lock's records, revision by revision, and
// notes what ought not to be.
type watcher struct {
	keys Keys

	mu       sync.Mutex
	seen     chan struct{} // closed with each change
	revision int64
	rules    Rules
	frozen   bool              // the cluster
	permits  map[string]string // phases by machine
	tickets  map[string]KV
	members  map[string]bool
	present  map[string]map[string]bool
	since    map[string]int64 // revision since which a ticket may be granted
	grants   int
	found    []string
}

func newWatcher(keys Keys) *watcher {
	return &watcher{keys: keys, seen: make(chan struct{}), permits: map[string]string{}, tickets: map[string]KV{}, members: map[string]bool{},
		present: map[string]map[string]bool{}, since: map[string]int64{}}
}

// run watches from the first revision on, until ctx ends. A watch that breaks
// goes on behind what was seen.
func (w *watcher) run(ctx context.Context, store Store) {
	for ctx.Err() == nil {
		for batch := range store.Watch(ctx, w.at(), w.keys.everything()) {
			w.take(batch)
		}
		sleep(ctx, 20*time.Millisecond)
	}
}

func (w *watcher) at() int64 { w.mu.Lock(); defer w.mu.Unlock(); return w.revision }

// take takes in a batch, which holds the changes of a revision all or not.
func (w *watcher) take(batch []Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(batch) > 0 {
		n := 1
		for n < len(batch) && batch[n].Modified == batch[0].Modified {
			n++
		}
		if batch[0].Modified > w.revision {
			w.judge(batch[:n])
			w.revision = batch[0].Modified
		}
		batch = batch[n:]
	}
	close(w.seen)
	w.seen = make(chan struct{})
}

// reach waits until a revision was seen.
func (w *watcher) reach(ctx context.Context, revision int64) bool {
	for {
		w.mu.Lock()
		there, seen := w.revision >= revision, w.seen
		w.mu.Unlock()
		if there {
			return true
		}
		select {
		case <-seen:
		case <-ctx.Done():
			return false
		}
	}
}

// put writes, and waits until that was seen.
func (w *watcher) put(t *testing.T, ctx context.Context, store Store, ops []Op) {
	t.Helper()
	r, err := store.Commit(ctx, Txn{Then: ops})
	if err != nil || !w.reach(ctx, r.Revision) {
		t.Fatalf("write %d records, and see them: %v, %v", len(ops), err, ctx.Err())
	}
}

func (w *watcher) findings() (found []string, grants int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.found), w.grants
}

func (w *watcher) note(revision int64, format string, args ...any) {
	w.found = append(w.found, fmt.Sprintf("at revision %d: ", revision)+fmt.Sprintf(format, args...))
}

// judge brings in one revision, and looks what it did.
func (w *watcher) judge(events []Event) {
	at, touched := events[0].Modified, map[string]bool{}
	var granted []KV // the tickets, as they were before
	for _, e := range events {
		kind, names, ok := w.keys.parse(e.Key)
		if !ok || kind != kindPermit || e.Deleted || len(names) != 2 || w.permits[names[1]] != "" {
			continue
		}
		ticket, asked := w.tickets[names[1]]
		if !asked {
			w.note(at, "%s got a permit without a ticket", names[1])
		}
		granted = append(granted, ticket)
	}
	for _, e := range events {
		if machine := w.apply(at, e); machine != "" {
			touched[machine] = true
		}
	}
	for machine := range touched {
		w.recount(machine, at)
	}
	w.limits(at, granted)
	w.order(at, granted)
}

// apply brings in one change, and returns the machine that it is about.
func (w *watcher) apply(at int64, e Event) (machine string) {
	kind, names, ok := w.keys.parse(e.Key)
	if !ok {
		w.note(at, "nobody knows the key %s", e.Key)
		return ""
	}
	if n := len(names); n > 0 {
		machine = names[n-1]
	}
	switch kind {
	case kindCluster:
		var rec Cluster
		w.decode(at, e, &rec)
		w.frozen = rec.Freeze != nil
	case kindRules:
		w.rules = Rules{}
		w.decode(at, e, &w.rules)
	case kindTicket:
		if w.tickets[machine] = e.KV; e.Deleted {
			delete(w.tickets, machine)
		}
	case kindPermit:
		var rec Permit
		w.decode(at, e, &rec)
		if e.Deleted && w.permits[machine] != PhaseEnded {
			w.note(at, "the permit of %s is gone in phase %q", machine, w.permits[machine])
		}
		if w.permits[machine] = rec.Phase; e.Deleted {
			delete(w.permits, machine)
		}
	case kindMember:
		w.members[machine] = !e.Deleted
	case kindPresence:
		machine = names[0]
		if w.present[machine] == nil {
			w.present[machine] = map[string]bool{}
		}
		if w.present[machine][e.Key] = true; e.Deleted {
			delete(w.present[machine], e.Key)
		}
	}
	return machine
}

func (w *watcher) decode(at int64, e Event, record any) {
	if e.Deleted {
		return
	}
	if err := json.Unmarshal(e.Value, record); err != nil {
		w.note(at, "record %s: %v", e.Key, err)
	}
}

// recount notes since when a machine waits and may be granted its permit.
func (w *watcher) recount(machine string, at int64) {
	_, asks := w.tickets[machine]
	switch _, has := w.permits[machine]; {
	case !asks || has || !w.members[machine] || len(w.present[machine]) != 1:
		delete(w.since, machine)
	case w.since[machine] == 0:
		w.since[machine] = at
	}
}

// limits checks that never more than max hold, and that a freeze grants nothing.
func (w *watcher) limits(at int64, granted []KV) {
	w.grants += len(granted)
	var holding []string
	for machine, phase := range w.permits {
		if phase != PhaseEnded {
			holding = append(holding, machine)
		}
	}
	if limit := w.rules.Max.Count; len(holding) > limit {
		slices.Sort(holding)
		w.note(at, "%d hold, %d may: %v", len(holding), limit, holding)
	}
	if w.frozen && len(granted) > 0 {
		w.note(at, "%d granted in a frozen cluster", len(granted))
	}
}

// order checks that nobody was passed over who came before, and whom the
// coordinator, which knew the ticket that it granted, could have granted too.
func (w *watcher) order(at int64, granted []KV) {
	for _, ticket := range granted {
		for _, machine := range slices.Sorted(maps.Keys(w.since)) {
			if first := w.tickets[machine]; first.Created < ticket.Created && w.since[machine] <= ticket.Modified {
				w.note(at, "the ticket of revision %d was granted before that of revision %d, which %s has", ticket.Created, first.Created, machine)
			}
		}
	}
}

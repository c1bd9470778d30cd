package rebootlock

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/tidwall/btree"
)

// maxHistory is how many changes Memory keeps at least for Since and Watch: a
// cluster of 10,000 machines that all change every record of theirs at once.
const maxHistory = 1 << 17

// ErrCompacted refuses changes that the store no longer has: what is must be
// read instead.
var ErrCompacted = errors.New("the changes are no longer kept")

var _ Store = (*Memory)(nil)

// Memory is a Store in the memory of one process, for machines in one process:
// simulations, tests, demonstrations. It behaves as one etcd does, revisions
// included. The zero value is an empty store.
//
// Values that it returns are its own: they are read, and never written to.
type Memory struct {
	// Now is the time by which leases end that nobody keeps alive any more. With
	// nil they never do.
	Now func() time.Time

	mu        sync.Mutex
	records   btree.Map[string, KV]
	changes   int64   // revisions after the first
	history   []Event // by revision, then as the transaction had them
	compacted int64   // last revision of which the history lacks something
	changed   chan struct{}
	outage    error
	sessions  map[int64]*memorySession
	leases    int64 // the last that was made
	dying     []*memorySession
	lost      time.Time     // since when an outage keeps all sessions from the store
	patience  time.Duration // the shortest ttl of those that do not know it yet
	watches   sync.WaitGroup
}

func (m *Memory) revision() int64 { return m.changes + 1 }

// Read returns the records of the ranges.
func (m *Memory) Read(ctx context.Context, ranges ...Range) (Snapshot, error) {
	if err := checkRanges(ranges); err != nil {
		return Snapshot{}, fmt.Errorf("read records: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.enter(ctx); err != nil {
		return Snapshot{}, fmt.Errorf("read records: %w", err)
	}
	return Snapshot{Revision: m.revision(), KVs: m.read(ranges)}, nil
}

// enter begins an operation: it refuses it when the store cannot be reached,
// and ends the leases whose time has come.
func (m *Memory) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if m.outage != nil {
		m.loseSessions()
		return m.outage
	}
	m.expire()
	return nil
}

func (m *Memory) read(ranges []Range) []KV {
	var kvs []KV
	for _, r := range ranges {
		if !r.Prefix {
			if kv, exists := m.records.Get(r.Key); exists {
				kvs = append(kvs, kv)
			}
			continue
		}
		m.records.Ascend(r.Key, func(key string, kv KV) bool {
			if !strings.HasPrefix(key, r.Key) {
				return false
			}
			kvs = append(kvs, kv)
			return true
		})
	}
	return byKey(kvs)
}

// Commit carries t out as one, or not at all.
func (m *Memory) Commit(ctx context.Context, t Txn) (Result, error) {
	if err := t.check(); err != nil {
		return Result{}, fmt.Errorf("commit %d changes: %w", len(t.Then), err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.enter(ctx); err != nil {
		return Result{}, fmt.Errorf("commit %d changes: %w", len(t.Then), err)
	}
	for _, c := range t.If {
		if !m.holds(c) {
			return Result{Revision: m.revision(), Else: m.read(t.Else)}, nil
		}
	}
	for _, op := range t.Then {
		if _, exists := m.sessions[op.Lease]; op.Lease != 0 && !op.Delete && !exists {
			return Result{}, fmt.Errorf("commit %d changes: lease %x of %s has ended: %w", len(t.Then), op.Lease, op.Key, ErrRefused)
		}
	}
	m.apply(t.Then)
	return Result{Done: true, Revision: m.revision()}, nil
}

func (m *Memory) holds(c Cond) bool {
	kv, _ := m.records.Get(c.Key)
	if c.Created != 0 {
		return kv.Created == c.Created
	}
	return kv.Modified == c.Modified
}

// apply makes the changes under the next revision, if there are any.
func (m *Memory) apply(ops []Op) {
	rev, before := m.revision()+1, len(m.history)
	for _, op := range ops {
		old, exists := m.records.Get(op.Key)
		if exists && old.Lease != 0 {
			delete(m.sessions[old.Lease].keys, op.Key)
		}
		if op.Delete {
			if exists {
				m.records.Delete(op.Key)
				m.history = append(m.history, Event{KV: KV{Key: op.Key, Modified: rev}, Deleted: true})
			}
			continue
		}
		kv := KV{Key: op.Key, Value: bytes.Clone(op.Value), Created: old.Created, Modified: rev, Lease: op.Lease}
		if !exists {
			kv.Created = rev
		}
		if op.Lease != 0 {
			m.sessions[op.Lease].keys[op.Key] = struct{}{}
		}
		m.records.Set(op.Key, kv)
		m.history = append(m.history, Event{KV: kv})
	}
	if len(m.history) == before {
		return
	}
	m.changes++
	if len(m.history) >= 2*maxHistory {
		gone := len(m.history) - maxHistory
		m.compacted = m.history[gone-1].Modified
		m.history = slices.Clone(m.history[gone:])
	}
	m.wake()
}

// wake lets everything that waits for a change look again.
func (m *Memory) wake() {
	if m.changed != nil {
		close(m.changed)
		m.changed = nil
	}
}

// Since returns the changes of the ranges that follow a revision, in their
// order. ErrCompacted says that some of them are no longer kept.
func (m *Memory) Since(after int64, ranges ...Range) ([]Event, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.enter(context.Background()); err != nil {
		return nil, fmt.Errorf("read changes: %w", err)
	}
	return m.since(after, ranges)
}

func (m *Memory) since(after int64, ranges []Range) ([]Event, error) {
	if after < m.compacted {
		return nil, fmt.Errorf("read changes after revision %d: %w", after, ErrCompacted)
	}
	from := sort.Search(len(m.history), func(i int) bool { return m.history[i].Modified > after })
	var events []Event
	for _, e := range m.history[from:] {
		if covers(ranges, e.Key) {
			events = append(events, e)
		}
	}
	return events, nil
}

// Watch sends the changes of the ranges that follow a revision. It closes the
// channel when ctx ends, at an outage, and when it reads so slowly that the
// history has gone past it.
func (m *Memory) Watch(ctx context.Context, after int64, ranges ...Range) <-chan []Event {
	out := make(chan []Event)
	m.watches.Go(func() {
		defer close(out)
		for {
			events, w, err := m.next(ctx, after, ranges)
			if err != nil {
				return
			}
			if len(events) == 0 {
				w.wait(ctx, nil)
				continue
			}
			select {
			case out <- events:
				after = events[len(events)-1].Modified
			case <-ctx.Done():
				return
			}
		}
	})
	return out
}

// next is the changes after a revision, and what to wait for when there are none.
func (m *Memory) next(ctx context.Context, after int64, ranges []Range) ([]Event, waiting, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.enter(ctx); err != nil {
		return nil, waiting{}, err
	}
	events, err := m.since(after, ranges)
	return events, m.waiting(), err
}

// Outage makes the store unreachable: every call returns err, and watches end.
// With nil it is reachable again. As with etcd, an outage ends no lease while it
// lasts, and gives each its whole time again afterwards; but a session that did
// not hear of the store for its ttl is Done.
func (m *Memory) Outage(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case err != nil && m.outage == nil:
		m.expire()
		if m.Now != nil {
			m.lost, m.patience = m.Now(), 0
		}
	case err == nil && m.outage != nil:
		m.loseSessions()
		m.revive()
	}
	m.outage = err
	m.wake()
}

// sortedKeys are the keys of a lease in the order in which they end.
func sortedKeys(keys map[string]struct{}) []string { return slices.Sorted(maps.Keys(keys)) }

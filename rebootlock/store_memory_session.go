package rebootlock

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// errSessionEnded is why a session can do no more.
var errSessionEnded = errors.New("the session has ended")

// A memorySession is a lease of Memory. Its fields belong to the store's mutex.
type memorySession struct {
	store *Memory
	lease int64
	ttl   time.Duration
	keys  map[string]struct{} // that hang on the lease
	stand map[string]struct{} // those of them with which it stands for election
	ends  time.Time           // of one that nobody keeps alive; zero: no time is set
	done  chan struct{}
	over  bool // done is closed
}

// Session makes a lease that lasts until Close; after Abandon, until its ttl
// has passed.
func (m *Memory) Session(ctx context.Context, ttl time.Duration) (Session, error) {
	if ttl <= 0 {
		return nil, fmt.Errorf("make lease of %s: %w", ttl, ErrRefused)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.enter(ctx); err != nil {
		return nil, fmt.Errorf("make lease: %w", err)
	}
	if m.sessions == nil {
		m.sessions = map[int64]*memorySession{}
	}
	m.leases++
	s := &memorySession{store: m, lease: m.leases, ttl: ttl, done: make(chan struct{}),
		keys: map[string]struct{}{}, stand: map[string]struct{}{}}
	m.sessions[s.lease] = s
	return s, nil
}

// Abandon is what a machine does that dies: nobody keeps s alive any more, and
// its lease ends when its ttl has passed. s is a session of this store.
func (m *Memory) Abandon(s Session) {
	m.mu.Lock()
	defer m.mu.Unlock()
	own, ok := s.(*memorySession)
	if !ok || m.Now == nil || m.sessions[own.lease] != own || !own.ends.IsZero() {
		return
	}
	own.ends = m.Now().Add(own.ttl)
	m.abandoned(own)
	m.wake() // what waits has a time now at which to look again
}

// abandoned puts s where leases wait for their end, first that which ends first.
func (m *Memory) abandoned(s *memorySession) {
	i, _ := slices.BinarySearchFunc(m.dying, s, endsBefore)
	m.dying = slices.Insert(m.dying, i, s)
}

func endsBefore(a, b *memorySession) int {
	return cmp.Or(a.ends.Compare(b.ends), cmp.Compare(a.lease, b.lease))
}

// expire ends the leases whose time has come.
func (m *Memory) expire() {
	if len(m.dying) == 0 {
		return
	}
	now := m.Now()
	for len(m.dying) > 0 && !m.dying[0].ends.After(now) {
		s := m.dying[0]
		m.dying = m.dying[1:]
		m.end(s)
	}
}

// end ends a lease, and with it, in one revision, the records that hang on it.
func (m *Memory) end(s *memorySession) {
	var ops []Op
	for _, key := range sortedKeys(s.keys) {
		ops = append(ops, Op{Key: key, Delete: true})
	}
	m.apply(ops)
	delete(m.sessions, s.lease)
	s.finish()
	m.wake()
}

func (s *memorySession) finish() {
	if !s.over {
		s.over = true
		close(s.done)
	}
}

// loseSessions, in an outage, finishes the sessions that have not heard of the
// store for their ttl.
func (m *Memory) loseSessions() {
	if m.Now == nil {
		return
	}
	passed := m.Now().Sub(m.lost)
	if passed < m.patience {
		return
	}
	m.patience = forever
	for _, s := range m.sessions {
		switch {
		case s.over:
		case s.ttl <= passed:
			s.finish()
			m.wake()
		default:
			m.patience = min(m.patience, s.ttl)
		}
	}
}

const forever = time.Duration(math.MaxInt64)

// revive, after an outage, gives each lease that nobody keeps alive its whole
// time again, as a new leader of etcd does.
func (m *Memory) revive() {
	m.dying = nil
	if m.Now == nil {
		return
	}
	for _, lease := range slices.Sorted(maps.Keys(m.sessions)) {
		s := m.sessions[lease]
		if s.over || !s.ends.IsZero() {
			s.ends = m.Now().Add(s.ttl)
			m.abandoned(s)
		}
	}
}

// Lease is the number of the lease.
func (s *memorySession) Lease() int64 { return s.lease }

// Done is closed when the lease has ended, or may have.
func (s *memorySession) Done() <-chan struct{} { return s.done }

// Campaign stands for election under a prefix and returns when nobody stands
// there that came before.
func (s *memorySession) Campaign(ctx context.Context, prefix string, value []byte) (Leadership, error) {
	key := fmt.Sprintf("%s/%x", prefix, s.lease)
	created, err := s.candidate(ctx, key, value)
	if err != nil {
		return Leadership{}, fmt.Errorf("stand for election: %w", err)
	}
	for {
		elected, w, err := s.elected(ctx, prefix, Leadership{Key: key, Created: created})
		switch {
		case err != nil:
			s.withdraw(key)
			return Leadership{}, fmt.Errorf("wait for election: %w", err)
		case elected:
			return Leadership{Key: key, Created: created}, nil
		}
		w.wait(ctx, s.done)
	}
}

// candidate writes the session's key of an election, unless it stands already
// with this value.
func (s *memorySession) candidate(ctx context.Context, key string, value []byte) (created int64, err error) {
	m := s.store
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.enter(ctx); err != nil {
		return 0, err
	}
	if s.over {
		return 0, errSessionEnded
	}
	kv, stands := m.records.Get(key)
	if !stands || string(kv.Value) != string(value) {
		m.apply([]Op{{Key: key, Value: value, Lease: s.lease}})
		kv, _ = m.records.Get(key)
	}
	s.stand[key] = struct{}{}
	return kv.Created, nil
}

// elected says whether l is the first under its prefix, and what to wait for
// if it is not.
func (s *memorySession) elected(ctx context.Context, prefix string, l Leadership) (bool, waiting, error) {
	m := s.store
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.enter(ctx); err != nil {
		return false, waiting{}, err
	}
	if s.over {
		return false, waiting{}, errSessionEnded
	}
	if !m.holds(l.cond()) {
		return false, waiting{}, errors.New("the candidature was withdrawn")
	}
	first := true
	m.records.Ascend(prefix+"/", func(key string, kv KV) bool {
		first = !strings.HasPrefix(key, prefix+"/") || kv.Created >= l.Created
		return first && strings.HasPrefix(key, prefix+"/")
	})
	return first, m.waiting(), nil
}

// cond holds for as long as the leadership, or the candidature, lasts.
func (l Leadership) cond() Cond { return Cond{Key: l.Key, Created: l.Created} }

// withdraw takes a candidature back, also of a caller that has gone away.
func (s *memorySession) withdraw(key string) {
	m := s.store
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, stands := s.keys[key]; stands && m.outage == nil {
		m.apply([]Op{{Key: key, Delete: true}})
	}
	delete(s.stand, key)
}

// Resign gives up every election in which the session stands.
func (s *memorySession) Resign(ctx context.Context) error {
	m := s.store
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.enter(ctx); err != nil {
		return fmt.Errorf("resign: %w", err)
	}
	for _, key := range sortedKeys(s.stand) {
		if _, stands := s.keys[key]; stands {
			m.apply([]Op{{Key: key, Delete: true}})
		}
	}
	clear(s.stand)
	return nil
}

// Close ends the lease. One that has ended already is no error.
func (s *memorySession) Close(ctx context.Context) error {
	m := s.store
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.enter(ctx); err != nil {
		return fmt.Errorf("end lease: %w", err)
	}
	if m.sessions[s.lease] == s {
		m.dying = slices.DeleteFunc(m.dying, func(other *memorySession) bool { return other == s })
		m.end(s)
	}
	return nil
}

// waiting is what somebody waits for who found nothing to do: a change, or the
// end of a lease.
type waiting struct {
	changed <-chan struct{}
	expiry  time.Duration // until the next lease ends; 0: none will by itself
}

func (m *Memory) waiting() waiting {
	if m.changed == nil {
		m.changed = make(chan struct{})
	}
	w := waiting{changed: m.changed}
	if len(m.dying) > 0 {
		w.expiry = max(m.dying[0].ends.Sub(m.Now()), time.Millisecond)
	}
	return w
}

func (w waiting) wait(ctx context.Context, done <-chan struct{}) {
	var expired <-chan time.Time
	if w.expiry > 0 {
		timer := time.NewTimer(w.expiry)
		defer timer.Stop()
		expired = timer.C
	}
	select {
	case <-w.changed:
	case <-expired:
	case <-ctx.Done():
	case <-done:
	}
}

package rebootlock

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"
)

// An etcdSession is a lease of etcd that its client keeps alive.
type etcdSession struct {
	etcd    *Etcd
	session *concurrency.Session

	election sync.Mutex // held while one is waited for, or given up

	mu     sync.Mutex
	waits  map[*context.CancelFunc]struct{} // what ends each wait for an election
	stands []string                         // keys with which the session stands, or may
}

// Session makes a lease, and keeps it alive. ttl is rounded up to whole
// seconds; etcd's shortest is about two. One below 20 s may end when the member
// that is asked to keep it alive stops without closing its connections: it
// takes 13 s to see that, and the next member is asked then.
func (e *Etcd) Session(ctx context.Context, ttl time.Duration) (Session, error) {
	seconds := int64(math.Ceil(ttl.Seconds()))
	if seconds <= 0 {
		return nil, fmt.Errorf("make lease of %s: %w", ttl, ErrRefused)
	}
	lease, err := once(ctx, e, callTimeout, func(ctx context.Context) (*clientv3.LeaseGrantResponse, error) {
		return e.Client.Grant(ctx, seconds)
	})
	if err != nil {
		return nil, fmt.Errorf("make lease: %w", err)
	}
	session, err := concurrency.NewSession(e.Client, concurrency.WithLease(lease.ID), concurrency.WithTTL(int(seconds)))
	if session == nil {
		return nil, fmt.Errorf("keep lease alive: %w", errors.Join(err, errSessionEnded))
	}
	return &etcdSession{etcd: e, session: session}, nil
}

// Lease is etcd's lease ID.
func (s *etcdSession) Lease() int64 { return int64(s.session.Lease()) }

// Done is closed when etcd says that the lease has ended, or has not been heard
// of for its ttl.
func (s *etcdSession) Done() <-chan struct{} { return s.session.Done() }

// Campaign stands for election under a prefix, as etcd's own elections do.
func (s *etcdSession) Campaign(ctx context.Context, prefix string, value []byte) (Leadership, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(s.session.Ctx(), stop)()
	defer s.standing(fmt.Sprintf("%s/%x", prefix, s.Lease()), stop)()
	s.election.Lock()
	defer s.election.Unlock()
	session, release, err := s.patient(ctx)
	if err != nil {
		return Leadership{}, fmt.Errorf("stand for election: %w", err)
	}
	defer release()
	election := concurrency.NewElection(session, prefix)
	err = election.Campaign(ctx, string(value))
	switch {
	case s.session.Ctx().Err() != nil:
		return Leadership{}, fmt.Errorf("stand for election: %w", errSessionEnded)
	case err != nil && isRefusal(err):
		return Leadership{}, fmt.Errorf("stand for election: %w: %w", ErrRefused, err)
	case err != nil:
		return Leadership{}, fmt.Errorf("stand for election: %w", err)
	}
	return Leadership{Key: election.Key(), Created: election.Rev()}, nil
}

// standing notes the key with which the session stands, or may, and what ends
// its wait, until leave is called: the key stays.
func (s *etcdSession) standing(key string, stop context.CancelFunc) (leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waits == nil {
		s.waits = map[*context.CancelFunc]struct{}{}
	}
	s.waits[&stop] = struct{}{}
	if !slices.Contains(s.stands, key) {
		s.stands = append(s.stands, key)
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.waits, &stop)
	}
}

// patient is the session as an election needs it: an election whose context
// ended withdraws under its client's context, which would wait for an etcd that
// is away for ever. This one's waits callTimeout longer than ctx.
func (s *etcdSession) patient(ctx context.Context) (*concurrency.Session, context.CancelFunc, error) {
	real := s.etcd.Client
	longer, cancel := context.WithCancel(real.Ctx())
	ended := context.AfterFunc(ctx, func() { time.AfterFunc(callTimeout, cancel) })
	client := clientv3.NewCtxClient(longer, clientv3.WithZapLogger(zap.NewNop()))
	client.KV, client.Lease, client.Watcher = real.KV, real.Lease, real.Watcher
	release := func() { ended(); cancel() }
	session, err := concurrency.NewSession(client, concurrency.WithLease(s.session.Lease()), concurrency.WithContext(longer))
	if session == nil {
		release()
		return nil, nil, errors.Join(err, errSessionEnded)
	}
	return session, release, nil
}

// Resign gives up every election in which the session stands or may stand.
func (s *etcdSession) Resign(ctx context.Context) error {
	s.mu.Lock()
	for stop := range s.waits {
		(*stop)()
	}
	stands := slices.Clone(s.stands)
	s.mu.Unlock()
	s.election.Lock()
	defer s.election.Unlock()
	var t Txn
	for _, key := range stands { // their names hold the lease: nobody else's
		t.Then = append(t.Then, Op{Key: key, Delete: true})
	}
	if len(t.Then) == 0 {
		return nil
	}
	if _, err := s.etcd.Commit(ctx, t); err != nil {
		return fmt.Errorf("resign: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stands = slices.DeleteFunc(s.stands, func(key string) bool { return slices.Contains(stands, key) })
	return nil
}

// Close ends the lease. One that has ended already is no error.
func (s *etcdSession) Close(ctx context.Context) error {
	s.session.Orphan()
	_, err := once(ctx, s.etcd, callTimeout, func(ctx context.Context) (*clientv3.LeaseRevokeResponse, error) {
		return s.etcd.Client.Revoke(ctx, s.session.Lease())
	})
	if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("end lease: %w", err)
	}
	return nil
}

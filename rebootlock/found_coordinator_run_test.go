package rebootlock

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// busy counts what is asked of a store.
type busy struct {
	Store
	sessions, reads atomic.Int64
	deaf            atomic.Bool // watches break at once
}

func (b *busy) Session(ctx context.Context, ttl time.Duration) (Session, error) {
	b.sessions.Add(1)
	return b.Store.Session(ctx, ttl)
}

func (b *busy) Read(ctx context.Context, ranges ...Range) (Snapshot, error) {
	b.reads.Add(1)
	return b.Store.Read(ctx, ranges...)
}

func (b *busy) Watch(ctx context.Context, after int64, ranges ...Range) <-chan []Event {
	if b.deaf.Load() {
		gap := make(chan []Event)
		close(gap)
		return gap
	}
	return b.Store.Watch(ctx, after, ranges...)
}

// TestCandidatesLeaveAnEtcdThatIsAwayInPeace: any machine may be a candidate,
// and 10,000 of them are not to ask every other second while etcd is away.
func TestCandidatesLeaveAnEtcdThatIsAwayInPeace(t *testing.T) {
	const candidates = 100
	synctest.Test(t, func(t *testing.T) {
		store := &Memory{Now: time.Now}
		b := &busy{Store: store}
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		defer running.Wait()
		defer stop()
		for range candidates {
			c := &Coordinator{Store: b, Keys: Keys{Cluster: "test"}, Machine: "c", Now: time.Now}
			running.Go(func() { c.Run(ctx) })
		}
		time.Sleep(time.Minute)
		store.Outage(errors.New("etcd is away"))
		time.Sleep(5 * time.Minute)
		before := b.sessions.Load()
		time.Sleep(time.Hour)
		if each := float64(b.sessions.Load()-before) / candidates / 60; each > 4 {
			t.Errorf("%.1f tries a minute and candidate", each)
		}
		store.Outage(nil)
		time.Sleep(time.Minute)
		var stamp Stamp
		s, err := store.Read(ctx, Range{Key: Keys{Cluster: "test"}.Stamp()})
		if err != nil || len(s.KVs) != 1 || decodeInto(s.KVs[0].Value, &stamp) != nil || time.Since(stamp.At) > time.Minute {
			t.Errorf("a minute after etcd is back nobody coordinates: %+v, %v", stamp, err)
		}
	})
}

// TestWatchThatBreaksAtOnceIsNoBusyLoop: 10,000 machines' records are not read
// as fast as they come.
func TestWatchThatBreaksAtOnceIsNoBusyLoop(t *testing.T) {
	b := &busy{Store: &Memory{}}
	b.deaf.Store(true)
	ctx, stop := context.WithTimeout(t.Context(), 3*time.Second)
	defer stop()
	(&Coordinator{Store: b, Keys: Keys{Cluster: "test"}, Machine: "c", Now: time.Now}).Run(ctx)
	if n := b.reads.Load(); n > 100 {
		t.Errorf("everything was read %d times in three seconds", n)
	}
}

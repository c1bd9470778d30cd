package rebootlock_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
)

func session(t *testing.T, m *rebootlock.Memory, ttl time.Duration) rebootlock.Session {
	t.Helper()
	s, err := m.Session(t.Context(), ttl)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func ended(s rebootlock.Session) bool {
	select {
	case <-s.Done():
		return true
	default:
		return false
	}
}

func commit(t *testing.T, m *rebootlock.Memory, ops ...rebootlock.Op) int64 {
	t.Helper()
	got, err := m.Commit(t.Context(), rebootlock.Txn{Then: ops})
	if err != nil || !got.Done {
		t.Fatalf("Commit(%v) = %+v, %v", ops, got, err)
	}
	return got.Revision
}

func keys(t *testing.T, m *rebootlock.Memory) string {
	t.Helper()
	snap, err := m.Read(t.Context(), rebootlock.Range{Prefix: true, Key: "/"})
	if err != nil {
		t.Fatal(err)
	}
	var out string
	for _, kv := range snap.KVs {
		out += kv.Key
	}
	return out
}

func TestMemoryLeasesEndByTheClock(t *testing.T) {
	now := time.Unix(0, 0)
	m := &rebootlock.Memory{Now: func() time.Time { return now }}
	long, short, lives := session(t, m, time.Minute), session(t, m, 10*time.Second), session(t, m, time.Second)
	rev := commit(t, m, rebootlock.Op{Key: "/long", Lease: long.Lease()},
		rebootlock.Op{Key: "/short", Lease: short.Lease()}, rebootlock.Op{Key: "/lives", Lease: lives.Lease()})
	m.Abandon(long)
	m.Abandon(short)
	for _, step := range []struct {
		passed time.Duration
		want   string
	}{
		{10*time.Second - 1, "/lives/long/short"},
		{1, "/lives/long"},
		{50*time.Second - 1, "/lives/long"},
		{1, "/lives"},
		{24 * time.Hour, "/lives"},
	} {
		now = now.Add(step.passed)
		if got := keys(t, m); got != step.want {
			t.Errorf("after %s: %s, want %s", now.Sub(time.Unix(0, 0)), got, step.want)
		}
	}
	if !ended(long) || !ended(short) || ended(lives) {
		t.Error("Done does not tell which leases ended")
	}
	events, err := m.Since(rev, rebootlock.Range{Key: "/", Prefix: true})
	if err != nil || len(events) != 2 || events[0].Key != "/short" || events[0].Modified != rev+1 || events[1].Modified != rev+2 {
		t.Errorf("Since() = %+v, %v; want the ends of two leases", events, err)
	}
}

// TestMemoryLeaseEndsUnderAWatch has nobody call the store when a lease ends:
// who watches and who waits for an election are woken all the same.
func TestMemoryLeaseEndsUnderAWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &rebootlock.Memory{Now: time.Now}
		dies, waits := session(t, m, 10*time.Second), session(t, m, time.Second)
		l, err := dies.Campaign(t.Context(), "/e", nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		watch := m.Watch(ctx, l.Created, rebootlock.Range{Key: l.Key})
		start := time.Now()
		synctest.Wait() // the watch waits when the lease has no end yet
		m.Abandon(dies)
		if events := <-watch; len(events) != 1 || !events[0].Deleted || time.Since(start) != 10*time.Second {
			t.Errorf("after %s, the watch brought %v", time.Since(start), events)
		}
		if _, err := waits.Campaign(t.Context(), "/e", nil); err != nil {
			t.Errorf("Campaign() = %v", err)
		}
		cancel()
		if _, open := <-watch; open {
			t.Error("the watch does not end")
		}
	})
}

func TestMemoryOutage(t *testing.T) {
	now := time.Unix(0, 0)
	m := &rebootlock.Memory{Now: func() time.Time { return now }}
	short, long := session(t, m, 10*time.Second), session(t, m, time.Minute)
	gone := session(t, m, 10*time.Second)
	commit(t, m, rebootlock.Op{Key: "/short", Lease: short.Lease()}, rebootlock.Op{Key: "/long", Lease: long.Lease()},
		rebootlock.Op{Key: "/gone", Lease: gone.Lease()})
	m.Abandon(gone)
	watch := m.Watch(t.Context(), 99, rebootlock.Range{Key: "/", Prefix: true})
	away := errors.New("away")
	m.Outage(away)
	if _, open := <-watch; open {
		t.Error("the watch goes on")
	}
	now = now.Add(30 * time.Second)
	calls := []struct {
		name string
		call func() error
	}{
		{"Read", func() error { _, err := m.Read(t.Context(), rebootlock.Range{Key: "/"}); return err }},
		{"Commit", func() error { _, err := m.Commit(t.Context(), rebootlock.Txn{}); return err }},
		{"Since", func() error { _, err := m.Since(0); return err }},
		{"Session", func() error { _, err := m.Session(t.Context(), time.Second); return err }},
		{"Campaign", func() error { _, err := long.Campaign(t.Context(), "/e", nil); return err }},
		{"Resign", func() error { return long.Resign(t.Context()) }},
		{"Close", func() error { return long.Close(t.Context()) }},
	}
	for _, c := range calls {
		if err := c.call(); !errors.Is(err, away) || errors.Is(err, rebootlock.ErrRefused) {
			t.Errorf("%s = %v; want the outage's error", c.name, err)
		}
	}
	if !ended(short) || ended(long) {
		t.Error("of the sessions, the one with the shorter ttl alone should know that it may have ended")
	}
	m.Outage(nil)
	if got := keys(t, m); got != "/gone/long/short" {
		t.Errorf("after the outage: %s; want all leases, with their whole time again", got)
	}
	now = now.Add(10 * time.Second)
	if got := keys(t, m); got != "/long" {
		t.Errorf("10 s later: %s; want those gone that nobody keeps alive", got)
	}
	for _, c := range calls {
		if err := c.call(); err != nil {
			t.Errorf("%s after the outage = %v", c.name, err)
		}
	}
}

func TestMemoryHistoryIsBounded(t *testing.T) {
	m := &rebootlock.Memory{}
	var ops []rebootlock.Op
	for i := range 100 {
		ops = append(ops, rebootlock.Op{Key: fmt.Sprintf("/%02d", i)})
	}
	all := rebootlock.Range{Key: "/", Prefix: true}
	for range 3000 { // 300,000 changes: 131,072 are kept at least
		commit(t, m, ops...)
	}
	if _, err := m.Since(10, all); !errors.Is(err, rebootlock.ErrCompacted) {
		t.Errorf("Since(10) = %v; want ErrCompacted", err)
	}
	if _, open := <-m.Watch(t.Context(), 10, all); open {
		t.Error("a watch with a gap brings changes")
	}
	// 1,300 commits back nothing may be missing, wherever the history was cut.
	events, err := m.Since(3001-1300, all)
	if err != nil || len(events) != 130_000 || events[0].Modified != 3002-1300 {
		t.Errorf("Since(1701) = %d changes, %v; want 130000, the first of revision 1702", len(events), err)
	}
}

// BenchmarkMemory is what a simulation of 10,000 machines asks of the store.
func BenchmarkMemory(b *testing.B) {
	m := &rebootlock.Memory{Now: func() time.Time { return time.Time{} }}
	s, err := m.Session(b.Context(), time.Minute)
	if err != nil {
		b.Fatal(err)
	}
	const machines = 10_000
	key := func(kind string, i int) string { return fmt.Sprintf("/drydock/c/lock/%s/web/%032x", kind, i%machines) }
	value := make([]byte, 400)
	for i := range machines {
		for _, kind := range []string{"members", "present", "tickets"} {
			if _, err := m.Commit(b.Context(), rebootlock.Txn{Then: []rebootlock.Op{{Key: key(kind, i), Value: value, Lease: s.Lease()}}}); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("put", func(b *testing.B) {
		for i := range b.N {
			m.Commit(b.Context(), rebootlock.Txn{Then: []rebootlock.Op{{Key: key("status", i), Value: value}}})
		}
	})
	b.Run("point", func(b *testing.B) {
		for i := range b.N {
			m.Read(b.Context(), rebootlock.Range{Key: key("tickets", i)}, rebootlock.Range{Key: key("permits", i)})
		}
	})
	b.Run("prefix", func(b *testing.B) {
		for i := range b.N {
			m.Read(b.Context(), rebootlock.Range{Key: key("present", i), Prefix: true})
		}
	})
	b.Run("grant", func(b *testing.B) {
		for i := range b.N {
			ticket, permit := key("tickets", i), key("permits", i)
			snap, _ := m.Read(b.Context(), rebootlock.Range{Key: ticket})
			m.Commit(b.Context(), rebootlock.Txn{
				If:   []rebootlock.Cond{{Key: ticket, Modified: snap.KVs[0].Modified}, {Key: permit}},
				Then: []rebootlock.Op{{Key: permit, Value: value}},
			})
			m.Commit(b.Context(), rebootlock.Txn{Then: []rebootlock.Op{{Key: permit, Delete: true}}})
		}
	})
	b.Run("since", func(b *testing.B) {
		for i := range b.N {
			snap, _ := m.Read(b.Context())
			m.Commit(b.Context(), rebootlock.Txn{Then: []rebootlock.Op{{Key: key("status", i), Value: value}}})
			m.Since(snap.Revision, rebootlock.Range{Key: "/drydock/c/status/", Prefix: true})
		}
	})
}

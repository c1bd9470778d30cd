package fleetlock

import (
	"errors"
	"testing"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/rebootlock/etcdtest"
)

// TestOverEtcd is the life of a FleetLock cluster over a real etcd: two servers,
// a machine that stops asking, an outage in the middle of a reboot.
func TestOverEtcd(t *testing.T) {
	cluster := etcdtest.Start(t, etcdtest.Options{})
	store := &rebootlock.Etcd{Client: cluster.Client(t)}
	y := newYard(t, store, "workers")
	const ttl = 4 * time.Second
	serve := func() string {
		return "http://" + y.serve(&Server{Hold: time.Second, Locks: &Permits{Store: store, Keys: y.keys, Now: time.Now, TTL: ttl}})
	}
	one, two := serve(), serve()
	a, silent, polls := Client{URL: one, Group: "workers", ID: "a"}, Client{URL: one, Group: "workers", ID: "silent"}, Client{URL: one, Group: "workers", ID: "polls"}
	eventually(t, "the grant", func() bool { return a.PreReboot(t.Context()) == nil })
	queued := func(c Client) {
		t.Helper()
		var no *Error
		if err := c.PreReboot(t.Context()); !errors.As(err, &no) || no.Kind != kindQueued {
			t.Fatalf("%s: %v, want queued", c.ID, err)
		}
	}
	queued(silent)
	queued(polls)
	there := func(machine string) (created int64) {
		t.Helper()
		s, err := store.Read(t.Context(), rebootlock.Range{Key: y.keys.Ticket("workers", machine)})
		if err != nil {
			t.Fatal(err)
		}
		for _, kv := range s.KVs {
			created = kv.Created
		}
		return created
	}
	place := there("polls")
	eventually(t, "the ticket that nobody renews lapses, while another is renewed through both servers", func() bool {
		polls.URL, two = two, polls.URL
		queued(polls)
		return there("silent") == 0
	})
	if got := there("polls"); got != place {
		t.Errorf("the polled ticket is of revision %d, was %d: the place is lost", got, place)
	}

	cluster.Stop(0)
	var no *Error
	a.Timeout = 30 * time.Second
	if err := a.PreReboot(t.Context()); !errors.As(err, &no) || no.Status != 503 {
		t.Errorf("the holder asks while etcd is down: %v, want 503", err)
	}
	cluster.Launch(0)
	eventually(t, "a gives back after the outage", func() bool { return a.SteadyState(t.Context()) == nil })
	if got := y.phase("workers", "a"); got != rebootlock.PhaseEnded && got != "" {
		t.Errorf("phase %q after it was given back", got)
	}
}

func TestLeasesOfEtcd(t *testing.T) {
	ctx, cluster := t.Context(), etcdtest.Start(t, etcdtest.Options{})
	store := &rebootlock.Etcd{Client: cluster.Client(t)}
	lease, err := store.GrantLease(ctx, 1500*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Commit(ctx, rebootlock.Txn{Then: []rebootlock.Op{{Key: "k", Value: []byte("v"), Lease: lease}}}); err != nil {
		t.Fatal(err)
	}
	renewed := time.Now()
	for time.Since(renewed) < 5*time.Second {
		if err := store.RenewLease(ctx, lease); err != nil {
			t.Fatal(err)
		}
		<-time.After(200 * time.Millisecond)
	}
	eventually(t, "the lease ends", func() bool {
		s, err := store.Read(ctx, rebootlock.Range{Key: "k"})
		return err == nil && len(s.KVs) == 0
	})
	if err := store.RenewLease(ctx, lease); !errors.Is(err, rebootlock.ErrRefused) {
		t.Errorf("a lease that ended: %v, want ErrRefused", err)
	}
	if _, err := store.GrantLease(ctx, 0); !errors.Is(err, rebootlock.ErrRefused) {
		t.Errorf("a lease of no time: %v", err)
	}
}

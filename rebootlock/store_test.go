package rebootlock_test

import (
	"testing"

	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/rebootlock/etcdtest"
	"github.com/drydock-os/drydock/rebootlock/locktest"
)

func TestMemoryStore(t *testing.T) {
	locktest.Store(t, func(*testing.T) rebootlock.Store { return &rebootlock.Memory{} })
}

func TestEtcdStore(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{Flags: []string{"--unsafe-no-fsync"}})
	locktest.Store(t, func(t *testing.T) rebootlock.Store { return dial(t, rebootlock.EtcdOptions{Endpoints: c.Endpoints()}) })
}

// TestEtcdStoreOfThree has elections, watches and leases cross members.
func TestEtcdStoreOfThree(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{Members: 3, Flags: []string{"--unsafe-no-fsync"}})
	locktest.Store(t, func(t *testing.T) rebootlock.Store { return dial(t, rebootlock.EtcdOptions{Endpoints: c.Endpoints()}) })
}

func dial(t *testing.T, o rebootlock.EtcdOptions) *rebootlock.Etcd {
	t.Helper()
	e, err := rebootlock.DialEtcd(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
	})
	return e
}

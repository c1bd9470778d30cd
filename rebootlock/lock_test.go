package rebootlock_test

import (
	"testing"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/rebootlock/etcdtest"
	"github.com/drydock-os/drydock/rebootlock/locktest"
)

func TestLockInMemory(t *testing.T) {
	locktest.Test(t, func(*testing.T) rebootlock.Store { return &rebootlock.Memory{Now: time.Now} })
}

func TestLockInEtcd(t *testing.T) {
	cluster := etcdtest.Start(t, etcdtest.Options{Members: 1})
	locktest.Test(t, func(t *testing.T) rebootlock.Store {
		store, err := rebootlock.DialEtcd(rebootlock.EtcdOptions{Endpoints: cluster.Endpoints()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { store.Close() })
		return store
	})
}

package rebootlock

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/drydock-os/drydock/rebootlock/etcdtest"
)

// TestHostMayWriteItsOwnKeysOnly: with the rights of a host, a machine takes its
// whole turn in a real etcd, and another machine's records are refused to it.
func TestHostMayWriteItsOwnKeysOnly(t *testing.T) {
	ctx := t.Context()
	c := etcdtest.Start(t, etcdtest.Options{TLS: etcdtest.Server, Auth: true})
	keys := Keys{Cluster: "prod"}
	self := Self{Machine: "00000000000000000000000000000001", Instance: "i", Boot: "b", Group: "web/1"}
	own := []string{keys.Member(self.Machine), keys.Status(self.Machine), keys.Ticket(self.Group, self.Machine), keys.Permit(self.Group, self.Machine)}
	rights := []etcdtest.Permission{
		{Key: keys.root(), Prefix: true},
		{Key: keys.root() + "journal/" + self.Machine + "/", Prefix: true, Write: true},
		{Key: keys.all(kindPresence, self.Machine).Key, Prefix: true, Write: true},
	}
	for _, key := range own {
		rights = append(rights, etcdtest.Permission{Key: key, Write: true})
	}
	options := EtcdOptions{Endpoints: c.Endpoints(), CAFile: c.CAFile, User: c.User, PasswordFile: c.PasswordFile}
	dial := func(o EtcdOptions) *Etcd {
		store, err := DialEtcd(o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { store.Close() })
		return store
	}
	root := dial(options)
	options.User, options.PasswordFile = "host", c.AddUser("host", rights...)
	host := dial(options)
	client := &Client{Store: host, Keys: keys, Self: func() Self { return self }, Now: time.Now}

	if _, err := client.Standing(ctx); !errors.Is(err, ErrRefused) {
		t.Errorf("it founded the cluster: %v", err)
	}
	put := func(key string, value []byte) {
		t.Helper()
		if _, err := root.Commit(ctx, Txn{Then: []Op{{Key: key, Value: value}}}); err != nil {
			t.Fatal(err)
		}
	}
	put(keys.ClusterRecord(), encode(Cluster{Version: 1, ID: "prod", UID: "u"}, nil))
	put(keys.Rules(self.Group), encode(Rules{Version: 1, Max: Max{Count: 1}}, nil))
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- client.Run(running) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if s, err := root.Read(ctx, keys.all(kindPresence)); err != nil || len(s.KVs) > 0 {
			t.Errorf("it is present after its end: %v, %v", s.KVs, err)
		}
	}()
	patiently(t, func(ctx context.Context) error { _, err := client.Acquire(ctx, Request{To: "2"}); return err })
	put(keys.Permit(self.Group, self.Machine), encode(Permit{Version: 1, Machine: self.Machine, Instance: "i", Group: self.Group, To: "2", Phase: PhaseGranted}, nil))
	patiently(t, func(ctx context.Context) error { return expect(Holding)(client.Standing(ctx)) }) // by its watch
	for _, call := range []func() error{
		func() error { return client.Fence(ctx, PhaseDraining) },
		func() error { return client.Fence(ctx, PhaseRebooting) },
		func() error { return client.Publish(ctx, Status{Release: "2"}) },
		func() error { return client.Release(ctx, Updated, "") },
	} {
		if err := call(); err != nil {
			t.Error(err)
		}
	}
	other := "00000000000000000000000000000002"
	for _, key := range []string{
		keys.Member(other), keys.Permit(self.Group, other), keys.Ticket(self.Group, other), keys.Status(other), keys.Presence(other, "b"),
		keys.Rules(self.Group), keys.Failures(self.Group), keys.Ledger(self.Group), keys.ClusterRecord(), keys.Stamp(), keys.Election() + "/1", keys.Entry("0"),
		Keys{Cluster: "production"}.Member(self.Machine),
	} {
		if _, err := host.Commit(ctx, Txn{Then: []Op{{Key: key, Value: []byte("{}")}}}); !errors.Is(err, ErrRefused) {
			t.Errorf("it may write %s: %v", key, err)
		}
	}
}

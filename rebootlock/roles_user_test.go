package rebootlock

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/drydock-os/drydock/rebootlock/etcdtest"
)

// TestUserCountsBeforeTheCertificate: with both, the certificate opens the
// connection, and the user says what is allowed, from the first call on.
func TestUserCountsBeforeTheCertificate(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{TLS: etcdtest.Mutual, Auth: true, Flags: []string{"--unsafe-no-fsync"}})
	ann := c.AddUser("ann", etcdtest.Permission{Key: "/ann", Write: true})
	c.AddUser("host", etcdtest.Permission{Key: "/host", Write: true})
	for _, test := range []struct {
		certificate, user string
		may               string // key; "": none
	}{
		{"host", "", "/host"},
		{"nobody", "", ""},
		{"host", "ann", "/ann"},
		{"nobody", "ann", "/ann"},
	} {
		t.Run(test.certificate+" as "+test.user, func(t *testing.T) {
			o := EtcdOptions{Endpoints: c.Endpoints(), CAFile: c.CAFile}
			o.CertFile, o.KeyFile = c.Certificate(test.certificate)
			if test.user != "" {
				o.User, o.PasswordFile = test.user, ann
			}
			for _, key := range []string{"/ann", "/host"} {
				e := dialled(t, o) // each the first call
				_, err := e.Commit(t.Context(), Txn{Then: []Op{{Key: key, Value: []byte("x")}}})
				if allowed := key == test.may; allowed && err != nil || !allowed && !errors.Is(err, ErrRefused) {
					t.Errorf("write %s: %v; it may write %q", key, err, test.may)
				}
			}
		})
	}
}

// TestMemberWithoutRootLeavesTheHandOverToEtcd: only root may move etcd's
// leadership. A machine whose user is not root asks whether the others are well,
// and goes on: its etcd hands over itself when it is stopped in order.
func TestMemberWithoutRootLeavesTheHandOverToEtcd(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{Members: 3, Auth: true, Flags: []string{"--unsafe-no-fsync"}})
	file := c.AddUser("host", etcdtest.Permission{Key: "/drydock/", Prefix: true})
	leader := -1
	patiently(t, func(context.Context) error {
		if leader = c.Leader(); leader < 0 {
			return errors.New("no leader")
		}
		return nil
	})
	here := localEtcd(c, leader)
	here.Options.User, here.Options.PasswordFile = "host", file
	patiently(t, here.Preflight)
	if err := here.HandOver(t.Context()); err != nil {
		t.Errorf("HandOver() = %v", err)
	}
	if _, err := here.Members(t.Context()); err != nil {
		t.Errorf("Members() = %v", err)
	}
	c.Stop(leader)
	others := slices.Delete(c.Endpoints(), leader, leader+1)
	root := dialled(t, EtcdOptions{Endpoints: others, User: c.User, PasswordFile: c.PasswordFile})
	patiently(t, func(ctx context.Context) error {
		_, err := root.Commit(ctx, Txn{Then: []Op{{Key: "/k", Value: []byte("v")}}})
		return err
	})
}

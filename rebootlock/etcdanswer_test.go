package rebootlock_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/rebootlock/etcdtest"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func TestEachEndpointAnswersForItself(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{Members: 3, TLS: etcdtest.Server})
	options := rebootlock.EtcdOptions{Endpoints: c.Endpoints(), CAFile: c.CAFile}
	answers, err := rebootlock.AskEtcd(t.Context(), options)
	if err != nil || len(answers) != 3 {
		t.Fatalf("%+v, %v", answers, err)
	}
	for _, a := range answers {
		if a.Err != nil || a.Cluster == "" || a.Member == "" || a.Cluster != answers[0].Cluster || a.Leader == "" || a.Version == "" || a.Bytes == 0 || len(a.Alarms) > 0 {
			t.Errorf("%+v", a)
		}
	}
	if answers[0].Member == answers[1].Member {
		t.Error("two endpoints answer for one member")
	}
	c.Stop(1)
	if answers, err = rebootlock.AskEtcd(t.Context(), options); err != nil || answers[0].Err != nil || answers[1].Err == nil || answers[2].Err != nil {
		t.Errorf("one is stopped: %+v, %v", answers, err)
	}
	c.Restart(1)
	other := etcdtest.Start(t, etcdtest.Options{TLS: etcdtest.Server})
	options.CAFile = other.CAFile
	if answers, err = rebootlock.AskEtcd(t.Context(), options); err != nil || answers[0].Err == nil || !strings.Contains(answers[0].Err.Error(), "x509") {
		t.Errorf("another CA: %+v, %v", answers, err)
	}
	if _, err := rebootlock.AskEtcd(t.Context(), rebootlock.EtcdOptions{}); err == nil {
		t.Error("no endpoint, and no error")
	}
}

// TestWhoHangsUpSaysWhy: an etcd that asks for a client's certificate, and gets
// none or one that it does not know, hangs up behind the handshake. A client that
// spoke by then is told of a broken pipe; the answer says what it was each time.
func TestWhoHangsUpSaysWhy(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{TLS: etcdtest.Mutual})
	other := etcdtest.Start(t, etcdtest.Options{TLS: etcdtest.Mutual})
	for want, o := range map[string]rebootlock.EtcdOptions{
		"certificate required":          {Endpoints: c.Endpoints(), CAFile: c.CAFile},
		"unknown certificate authority": {Endpoints: c.Endpoints(), CAFile: c.CAFile, CertFile: other.CertFile, KeyFile: other.KeyFile},
	} {
		for range 5 {
			answers, err := rebootlock.AskEtcd(t.Context(), o)
			if err != nil || answers[0].Err == nil || !strings.Contains(answers[0].Err.Error(), want) {
				t.Errorf("%+v, %v; want %q", answers, err, want)
			}
		}
	}
}

func TestRightsAreFoundOutWithoutAWrite(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{Auth: true})
	k := rebootlock.Keys{Cluster: "prod"}
	const machine = "0123456789abcdef0123456789abcdef"
	rights := rebootlock.MachineRights(k, "web", machine, false)
	permissions := []etcdtest.Permission{{Key: "/drydock/prod/", Prefix: true}}
	for _, r := range rights {
		if !strings.Contains(r.What, "ticket") {
			permissions = append(permissions, etcdtest.Permission{Key: r.Key, Write: true})
		}
	}
	ask := func(user string, permissions ...etcdtest.Permission) (map[rebootlock.Right]error, error) {
		store, err := rebootlock.DialEtcd(rebootlock.EtcdOptions{Endpoints: c.Endpoints(), User: user, PasswordFile: c.AddUser(user, permissions...)})
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		return rebootlock.CheckRights(t.Context(), store, k, rights)
	}
	refused, err := ask("most", permissions...)
	if _, ticket := refused[rights[1]]; err != nil || len(refused) != 1 || !ticket {
		t.Errorf("all but the ticket: %v, %v", refused, err)
	}
	if refused, err := ask("all", etcdtest.Permission{Key: "/drydock/prod/", Prefix: true, Write: true}); err != nil || len(refused) > 0 {
		t.Errorf("all: %v, %v", refused, err)
	}
	if _, err := ask("none"); !errors.Is(err, rebootlock.ErrRefused) {
		t.Errorf("may not even read: %v", err)
	}
	if got, err := c.Client(t).Get(t.Context(), "/drydock/", clientv3.WithPrefix()); err != nil || got.Count != 0 {
		t.Errorf("%d records after it, %v", got.Count, err)
	}
}

func TestAFullEtcdTakesNoChange(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{Flags: []string{"--quota-backend-bytes=2097152"}})
	fill := strings.Repeat("x", 1<<18)
	for i := range 200 {
		if _, err := c.Client(t).Put(t.Context(), "/filler", fill); err != nil {
			break
		} else if i == 199 {
			t.Fatal("etcd does not fill up")
		}
	}
	store, err := rebootlock.DialEtcd(rebootlock.EtcdOptions{Endpoints: c.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	k := rebootlock.Keys{Cluster: "prod"}
	refused, err := rebootlock.CheckRights(t.Context(), store, k, rebootlock.MachineRights(k, "web", "m", true))
	if err != nil || len(refused) == 0 {
		t.Errorf("refused %v, %v", refused, err)
	}
	answers, err := rebootlock.AskEtcd(t.Context(), rebootlock.EtcdOptions{Endpoints: c.Endpoints()})
	if err != nil || len(answers[0].Alarms) == 0 || !strings.Contains(answers[0].Alarms[0], "NOSPACE") || answers[0].Quota != 2<<20 {
		t.Errorf("%+v, %v", answers, err)
	}
}

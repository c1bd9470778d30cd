package rebootlock_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/rebootlock/etcdtest"
)

// works says what is wrong with a write and a read.
func works(t *testing.T, e *rebootlock.Etcd) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	_, err := e.Commit(ctx, set("/drydock/k", "v"))
	if err == nil {
		_, err = e.Read(ctx, rebootlock.Range{Key: "/drydock/", Prefix: true})
	}
	return err
}

func TestTLSWithCAAlone(t *testing.T) {
	t.Parallel()
	c := etcdtest.Start(t, etcdtest.Options{TLS: etcdtest.Server, Flags: []string{"--unsafe-no-fsync"}})
	if err := works(t, dial(t, rebootlock.EtcdOptions{Endpoints: c.Endpoints(), CAFile: c.CAFile})); err != nil {
		t.Errorf("with the CA: %v", err)
	}
	bare := strings.TrimPrefix(c.Endpoints()[0], "https://")
	if err := works(t, dial(t, rebootlock.EtcdOptions{Endpoints: []string{bare}, CAFile: c.CAFile})); err != nil {
		t.Errorf("endpoint without scheme: %v", err)
	}
	// The system trusts another CA, as a machine does whose policy names none.
	if err := works(t, dial(t, rebootlock.EtcdOptions{Endpoints: c.Endpoints()})); err == nil || !strings.Contains(err.Error(), "certificate signed by unknown authority") {
		t.Errorf("without the CA: %v; want an error that says what is wrong with the certificate", err)
	}
	if err := works(t, dial(t, rebootlock.EtcdOptions{Endpoints: []string{"http://" + bare}})); err == nil || errors.Is(err, rebootlock.ErrRefused) {
		t.Errorf("http to a member that speaks https: %v", err)
	}
}

func TestTLSWithClientCertificate(t *testing.T) {
	t.Parallel()
	c := etcdtest.Start(t, etcdtest.Options{TLS: etcdtest.Mutual, Flags: []string{"--unsafe-no-fsync"}})
	if err := works(t, dial(t, rebootlock.EtcdOptions{Endpoints: c.Endpoints(), CAFile: c.CAFile})); err == nil {
		t.Error("without a client certificate: it works")
	}
	dir := t.TempDir()
	o := rebootlock.EtcdOptions{Endpoints: c.Endpoints(), CAFile: c.CAFile, CertFile: dir + "/cert.pem", KeyFile: dir + "/key.pem"}
	// At first a certificate of another CA, then a half-written renewal, then a
	// whole one: no restart between.
	other := etcdtest.Start(t, etcdtest.Options{TLS: etcdtest.Server})
	install(t, other.CertFile, o.CertFile)
	install(t, other.KeyFile, o.KeyFile)
	e := dial(t, o)
	if err := works(t, e); err == nil {
		t.Error("with a certificate of another CA: it works")
	}
	install(t, c.CertFile, o.CertFile)
	if err := works(t, e); err == nil {
		t.Error("with a certificate and another's key: it works")
	}
	install(t, c.KeyFile, o.KeyFile)
	limit := time.Now().Add(etcdLimit)
	err := works(t, e)
	for err != nil && time.Now().Before(limit) {
		err = works(t, e)
	}
	if err != nil {
		t.Errorf("with a renewed certificate: %v", err)
	}
}

// install replaces a file as whoever renews certificates does.
func install(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to+".new", data, 0o600)
	}
	if err == nil {
		err = os.Rename(to+".new", to)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestUserAndPassword(t *testing.T) {
	t.Parallel()
	// Tokens last for a second only, as after a long silence.
	c := etcdtest.Start(t, etcdtest.Options{TLS: etcdtest.Server, Auth: true, Flags: []string{"--unsafe-no-fsync", "--auth-token-ttl=1"}})
	password := filepath.Join(t.TempDir(), "password")
	install(t, c.AddUser("host", etcdtest.Permission{Key: "/drydock/", Prefix: true, Write: true}), password)
	o := rebootlock.EtcdOptions{Endpoints: c.Endpoints(), CAFile: c.CAFile, User: "host", PasswordFile: password}
	e := dial(t, o)
	if err := works(t, e); err != nil {
		t.Errorf("with user and password: %v", err)
	}
	s, err := e.Session(t.Context(), 10*time.Second)
	if err != nil {
		t.Fatalf("Session() = %v", err)
	}
	if _, err := s.Campaign(t.Context(), "/drydock/election", nil); err != nil {
		t.Errorf("Campaign() = %v", err)
	}
	if _, err := s.Campaign(t.Context(), "/elsewhere/election", nil); !errors.Is(err, rebootlock.ErrRefused) {
		t.Errorf("Campaign() elsewhere = %v; want ErrRefused", err)
	}

	if _, err := e.Commit(t.Context(), set("/elsewhere", "v")); !errors.Is(err, rebootlock.ErrRefused) || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("Commit() elsewhere = %v; want ErrRefused", err)
	}
	if _, err := e.Read(t.Context(), rebootlock.Range{Key: "/", Prefix: true}); !errors.Is(err, rebootlock.ErrRefused) {
		t.Errorf("Read() elsewhere = %v; want ErrRefused", err)
	}
	if events, open := <-e.Watch(bounded(t), 0, rebootlock.Range{Key: "/elsewhere"}); open {
		t.Errorf("Watch() elsewhere brought %v; want it to end", events)
	}
	nobody := o
	nobody.User, nobody.PasswordFile = "", ""
	if err := works(t, dial(t, nobody)); !errors.Is(err, rebootlock.ErrRefused) {
		t.Errorf("without user: %v; want ErrRefused", err)
	}

	// The password is changed, in etcd and in the file, and the token ends.
	if _, err := c.Client(t).UserChangePassword(t.Context(), "host", "another"); err != nil {
		t.Fatal(err)
	}
	limit := time.Now().Add(etcdLimit)
	for err = works(t, e); err == nil && time.Now().Before(limit); {
		err = works(t, e)
	}
	if !errors.Is(err, rebootlock.ErrRefused) || !strings.Contains(err.Error(), "password") {
		t.Errorf("with the old password: %v; want ErrRefused", err)
	}
	if err := os.WriteFile(password, []byte("another\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := works(t, e); err != nil {
		t.Errorf("with the new password: %v", err)
	}
	select {
	case <-s.Done():
		t.Error("the session ended with its token")
	default:
	}
}

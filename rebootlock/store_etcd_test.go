package rebootlock_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/rebootlock/etcdtest"
)

// etcdLimit bounds what a cluster under a fault may take to get on.
const etcdLimit = 60 * time.Second

func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), etcdLimit)
	t.Cleanup(cancel)
	return ctx
}

func set(key, value string) rebootlock.Txn {
	return rebootlock.Txn{Then: []rebootlock.Op{{Key: key, Value: []byte(value)}}}
}

// mustCommit tries until the store is up again.
func mustCommit(t *testing.T, s rebootlock.Store, txn rebootlock.Txn) rebootlock.Result {
	t.Helper()
	ctx := bounded(t)
	for {
		got, err := s.Commit(ctx, txn)
		if err == nil {
			return got
		}
		if ctx.Err() != nil {
			t.Fatalf("Commit() = %v", err)
		}
	}
}

// silent is a loopback address that takes connections and never answers.
func silent(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

// refusing is a loopback address at which nobody listens.
func refusing(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestEndpointsThatDoNotAnswer(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{Flags: []string{"--unsafe-no-fsync"}})
	for name, first := range map[string][]string{
		"one is down":          {"http://" + refusing(t)},
		"one is silent":        {"http://" + silent(t)},
		"one is not there":     {"http://no-such-host.invalid:2379"},
		"three of four failed": {"http://" + refusing(t), "http://" + silent(t), "http://" + refusing(t)},
	} {
		t.Run(name, func(t *testing.T) {
			e := dial(t, rebootlock.EtcdOptions{Endpoints: append(first, c.Endpoints()...)})
			start := time.Now()
			for i := range 10 {
				if _, err := e.Commit(t.Context(), set("/k", fmt.Sprint(i))); err != nil {
					t.Errorf("Commit() = %v", err)
				}
				if snap, err := e.Read(t.Context(), rebootlock.Range{Key: "/k"}); err != nil || string(snap.KVs[0].Value) != fmt.Sprint(i) {
					t.Errorf("Read() = %v, %v", snap, err)
				}
			}
			if passed := time.Since(start); passed > 5*time.Second {
				t.Errorf("20 calls took %s", passed)
			}
		})
	}
}

// TestMemberPausedWhileInUse stops each member in turn, connections open: reads
// go on within seconds, and the session lives.
func TestMemberPausedWhileInUse(t *testing.T) {
	t.Parallel()
	c := etcdtest.Start(t, etcdtest.Options{Members: 3, Flags: []string{"--unsafe-no-fsync"}})
	e := dial(t, rebootlock.EtcdOptions{Endpoints: c.Endpoints()})
	ctx := bounded(t)
	s, err := e.Session(ctx, 25*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	got := mustCommit(t, e, rebootlock.Txn{Then: []rebootlock.Op{{Key: "/mine", Lease: s.Lease()}}})
	paused := c.Leader()
	c.Pause(paused)
	for i := range 40 {
		start := time.Now()
		if _, err := e.Read(ctx, rebootlock.Range{Key: "/mine"}); err != nil {
			t.Errorf("read %d after %s: %v", i, time.Since(start), err)
		}
		// The first reads may wait for the new leader besides.
		if passed := time.Since(start); i > 3 && passed > 4*time.Second {
			t.Errorf("read %d took %s", i, passed)
		}
	}
	mustCommit(t, e, set("/k", "while one member is paused"))
	c.Continue(paused)
	select {
	case <-s.Done():
		t.Error("the session ended though two members of three answer")
	default:
	}
	if snap, err := e.Read(ctx, rebootlock.Range{Key: "/mine"}); err != nil || len(snap.KVs) != 1 || snap.KVs[0].Created != got.Revision {
		t.Errorf("Read() = %+v, %v; want the session's record", snap, err)
	}
}

// TestNoAnswerIsNoRefusal: what became of a commit is unknown when etcd stops
// while it is under way.
func TestNoAnswerIsNoRefusal(t *testing.T) {
	t.Parallel()
	c := etcdtest.Start(t, etcdtest.Options{Flags: []string{"--unsafe-no-fsync"}})
	e := dial(t, rebootlock.EtcdOptions{Endpoints: c.Endpoints()})
	mustCommit(t, e, set("/k", "1"))
	leader, err := e.Session(t.Context(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := leader.Campaign(t.Context(), "/election", nil); err != nil {
		t.Fatal(err)
	}
	waits, err := e.Session(t.Context(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	c.Pause(0)
	defer c.Continue(0)

	start := time.Now()
	_, err = e.Commit(t.Context(), set("/k", "2"))
	if err == nil || errors.Is(err, rebootlock.ErrRefused) {
		t.Errorf("Commit() = %v; want an unknown outcome", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := e.Read(ctx, rebootlock.Range{Key: "/k"}); err == nil || !strings.Contains(err.Error(), c.Endpoints()[0]) {
		t.Errorf("Read() = %v; want an error that names the endpoint", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := waits.Campaign(ctx, "/election", nil); err == nil {
		t.Error("elected by an etcd that stands still")
	}
	if passed := time.Since(start); passed > 30*time.Second {
		t.Errorf("three calls that were never answered took %s", passed)
	}
	c.Continue(0)
	mustCommit(t, e, set("/k", "3"))
	if err := leader.Close(t.Context()); err != nil {
		t.Errorf("Close() = %v", err)
	}
}

// TestEtcdComesLater: the store is made before there is an etcd, and begins to
// work when there is one.
func TestEtcdComesLater(t *testing.T) {
	t.Parallel()
	c := etcdtest.Start(t, etcdtest.Options{Auth: true, Flags: []string{"--unsafe-no-fsync"}})
	c.Stop(0)
	e := dial(t, rebootlock.EtcdOptions{Endpoints: c.Endpoints(), User: c.User, PasswordFile: c.PasswordFile})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := e.Read(ctx, rebootlock.Range{Key: "/k"}); err == nil || errors.Is(err, rebootlock.ErrRefused) {
		t.Errorf("Read() = %v", err)
	}
	watch := e.Watch(bounded(t), 0, rebootlock.Range{Key: "/k"})
	c.Restart(0)
	mustCommit(t, e, set("/k", "1"))
	if events := <-watch; len(events) != 1 || string(events[0].Value) != "1" {
		t.Errorf("watch brought %v", events)
	}
}

// TestWatchOutlivesMembers kills and restarts the members one by one under a
// watch: it brings every change once and in order, or ends.
func TestWatchOutlivesMembers(t *testing.T) {
	t.Parallel()
	c := etcdtest.Start(t, etcdtest.Options{Members: 3, Flags: []string{"--unsafe-no-fsync"}})
	e := dial(t, rebootlock.EtcdOptions{Endpoints: c.Endpoints()})
	ctx := bounded(t)
	var after, seen int64
	watch := e.Watch(ctx, after, rebootlock.Range{Key: "/k"})
	commit := func(value string) {
		seen++
		want := mustCommit(t, e, set("/k", value)).Revision
		for after < want {
			events, open := <-watch
			if !open { // no leader for a while: then from where it was
				if ctx.Err() != nil {
					t.Fatal("the watch does not come back")
				}
				watch = e.Watch(ctx, after, rebootlock.Range{Key: "/k"})
			}
			for _, event := range events {
				if event.Modified <= after {
					t.Fatalf("revision %d after %d", event.Modified, after)
				}
				after = event.Modified
			}
		}
	}
	for i := range 3 {
		commit("before")
		c.Kill(i)
		commit("while one is gone")
		c.Restart(i)
	}
}

func TestWatchEndsWithoutLeader(t *testing.T) {
	t.Parallel()
	c := etcdtest.Start(t, etcdtest.Options{Members: 3, Flags: []string{"--unsafe-no-fsync"}})
	e := dial(t, rebootlock.EtcdOptions{Endpoints: c.Endpoints()})
	watch := e.Watch(bounded(t), 0, rebootlock.Range{Key: "/a"}, rebootlock.Range{Key: "/b"})
	mustCommit(t, e, set("/a", "1"))
	<-watch
	c.Kill(0)
	c.Kill(1)
	for range watch { // ends, or the test's time does
	}
}

func TestWatchEndsWhereHistoryDoes(t *testing.T) {
	t.Parallel()
	c := etcdtest.Start(t, etcdtest.Options{Flags: []string{"--unsafe-no-fsync"}})
	e := dial(t, rebootlock.EtcdOptions{Endpoints: c.Endpoints()})
	var last int64
	for i := range 10 {
		last = mustCommit(t, e, set("/k", fmt.Sprint(i))).Revision
	}
	if _, err := c.Client(t).Compact(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	if events, open := <-e.Watch(bounded(t), last-5, rebootlock.Range{Key: "/k"}); open {
		t.Errorf("a watch with a gap brought %v", events)
	}
	if events := <-e.Watch(bounded(t), last-1, rebootlock.Range{Key: "/k"}); len(events) != 1 {
		t.Errorf("a watch without a gap brought %v", events)
	}
}

// TestLeaseEndsWithItsProcess closes a client without ending its session, which
// is what a crash looks like to etcd.
func TestLeaseEndsWithItsProcess(t *testing.T) {
	t.Parallel()
	c := etcdtest.Start(t, etcdtest.Options{Flags: []string{"--unsafe-no-fsync"}})
	e := dial(t, rebootlock.EtcdOptions{Endpoints: c.Endpoints()})
	dies, err := rebootlock.DialEtcd(rebootlock.EtcdOptions{Endpoints: c.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	s, err := dies.Session(t.Context(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	made := mustCommit(t, dies, rebootlock.Txn{Then: []rebootlock.Op{{Key: "/ticket", Lease: s.Lease()}}}).Revision
	watch := e.Watch(bounded(t), made, rebootlock.Range{Key: "/ticket"})
	if err := dies.Close(); err != nil {
		t.Errorf("Close() = %v", err)
	}
	<-s.Done()
	if events := <-watch; len(events) != 1 || !events[0].Deleted {
		t.Errorf("watch brought %v, want the ticket's end", events)
	}
}

func TestEtcdOptions(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		name = dir + "/" + name
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	nonsense, empty, none := write("nonsense.pem", "nonsense"), write("empty", "\n"), dir+"/none"
	huge := write("huge", strings.Repeat("x", 5<<10))
	secure := []string{"https://127.0.0.1:2379"}
	for name, test := range map[string]struct {
		o    rebootlock.EtcdOptions
		want string // in the error
	}{
		"no endpoint":         {rebootlock.EtcdOptions{}, "no endpoint"},
		"no host":             {rebootlock.EtcdOptions{Endpoints: []string{"https://"}}, "https://host:2379"},
		"a path":              {rebootlock.EtcdOptions{Endpoints: []string{"http://h:1/v2"}}, "https://host:2379"},
		"a password in it":    {rebootlock.EtcdOptions{Endpoints: []string{"http://u:p@h:1"}}, "http://u:xxxxx@h:1"},
		"another scheme":      {rebootlock.EtcdOptions{Endpoints: []string{"ftp://h:1"}}, "https://host:2379"},
		"no URL":              {rebootlock.EtcdOptions{Endpoints: []string{"http://h:port"}}, "port"},
		"http and https":      {rebootlock.EtcdOptions{Endpoints: []string{"https://a:1", "http://b:1"}}, "http://b:1"},
		"CA with http":        {rebootlock.EtcdOptions{Endpoints: []string{"http://a:1"}, CAFile: nonsense}, "write https://"},
		"certificate, http":   {rebootlock.EtcdOptions{Endpoints: []string{"http://a:1"}, CertFile: nonsense, KeyFile: nonsense}, "write https://"},
		"certificate, no key": {rebootlock.EtcdOptions{Endpoints: secure, CertFile: nonsense}, "both"},
		"user, no password":   {rebootlock.EtcdOptions{Endpoints: secure, User: "u"}, "password file"},
		"password, no user":   {rebootlock.EtcdOptions{Endpoints: secure, PasswordFile: huge}, "a user"},
		"no CA file":          {rebootlock.EtcdOptions{Endpoints: secure, CAFile: none}, none},
		"CA file without CA":  {rebootlock.EtcdOptions{Endpoints: secure, CAFile: nonsense}, nonsense},
		"no certificate file": {rebootlock.EtcdOptions{Endpoints: secure, CertFile: none, KeyFile: nonsense}, none},
		"no key file":         {rebootlock.EtcdOptions{Endpoints: secure, CertFile: nonsense, KeyFile: none}, none},
		"no key pair":         {rebootlock.EtcdOptions{Endpoints: secure, CertFile: nonsense, KeyFile: nonsense}, nonsense},
		"no password file":    {rebootlock.EtcdOptions{Endpoints: secure, User: "u", PasswordFile: none}, none},
		"empty password":      {rebootlock.EtcdOptions{Endpoints: secure, User: "u", PasswordFile: empty}, empty},
		"huge password":       {rebootlock.EtcdOptions{Endpoints: secure, User: "u", PasswordFile: huge}, huge},
		"negative timeout":    {rebootlock.EtcdOptions{Endpoints: secure, DialTimeout: -1}, "timeout"},
		"too many endpoints":  {rebootlock.EtcdOptions{Endpoints: make([]string, 65)}, "65 endpoints"},
	} {
		if _, err := rebootlock.DialEtcd(test.o); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: DialEtcd() = %v, want an error with %q", name, err, test.want)
		}
	}
}

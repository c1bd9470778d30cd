package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/rebootlock/etcdtest"
	"github.com/drydock-os/drydock/testdata/real"
	"github.com/drydock-os/drydock/updater/link"
	"github.com/rogpeppe/go-internal/testscript"
)

// harbour is a cluster of which a script's daemon is a member: a store in
// memory, and a coordinator that passes when the script says so.
type harbour struct {
	rebootlock.Operator
	lead *rebootlock.Leadership
}

// newHarbour makes a cluster named prod, of the records in text: lines of a key
// below the cluster's own and its JSON, in the order in which they came to be.
func newHarbour(text string) (*harbour, error) {
	h := &harbour{Operator: rebootlock.Operator{Store: &rebootlock.Memory{}, Keys: rebootlock.Keys{Cluster: "prod"}, Now: clock}}
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok {
			continue
		}
		root := strings.TrimSuffix(h.Keys.ClusterRecord(), "lock/cluster")
		op := rebootlock.Op{Key: root + key, Value: []byte(value)}
		if _, err := h.Store.Commit(context.Background(), rebootlock.Txn{Then: []rebootlock.Op{op}}); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// pass has a coordinator on the machine look at everything, and settle and grant
// what is to be.
func (h *harbour) pass(machine string) error {
	ctx := context.Background()
	if h.lead == nil {
		session, err := h.Store.Session(ctx, time.Hour)
		if err != nil {
			return err
		}
		lead, err := session.Campaign(ctx, h.Keys.Election(), []byte(machine))
		if err != nil {
			return err
		}
		h.lead = &lead
	}
	c := rebootlock.Coordinator{Store: h.Store, Keys: h.Keys, Machine: machine, Now: clock}
	reign, err := c.Begin(ctx, *h.lead)
	if err == nil {
		_, err = reign.Pass(ctx)
	}
	return err
}

// cluster FILE starts a D-Bus daemon and the service of drydockd on it, with the
// reboot lock that FILE describes.
func cluster(ts *testscript.TestScript, _ bool, args []string) {
	h, err := newHarbour(ts.ReadFile(args[len(args)-1]))
	ts.Check(err)
	s := &standIn{Now: json.RawMessage(`{"step":"wait"}`), cluster: link.ClusterOf(h.Operator)}
	address, stop, err := s.start(ts.Getenv("WORK"), len(args) == 2 && args[0] == "-deny")
	ts.Check(err)
	ts.Setenv("DRYDOCK_BUS", address)
	ts.Defer(stop)
	*ts.Value("harbour").(**harbour) = h
}

// pass MACHINE has the coordinator of the cluster, on MACHINE, do its work once.
func pass(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check((*ts.Value("harbour").(**harbour)).pass(args[0]))
}

// TestLockInEtcd has the command speak to a real etcd with users and TLS, by
// flags and by the environment.
func TestLockInEtcd(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{TLS: etcdtest.Server, Auth: true})
	at := []string{"--endpoints", strings.Join(c.Endpoints(), ","), "--cluster", "prod", "--cacert", c.CAFile, "--cert", c.CertFile, "--key", c.KeyFile,
		"--user", c.User, "--password-file", c.PasswordFile}
	ask := func(want int, words ...string) string {
		t.Helper()
		code, out, errs := run(t.Context(), words...)
		if code != want {
			t.Fatalf("drydock %s: exit %d, want %d: %s%s", strings.Join(words, " "), code, want, out, errs)
		}
		return out + errs
	}
	says := func(out string, want ...string) {
		t.Helper()
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("got\n%swhich does not say %q", out, w)
			}
		}
	}
	in := func(words ...string) []string { return append(words, at...) }
	file := filepath.Join(t.TempDir(), "groups.toml")
	if err := os.WriteFile(file, []byte("[[group]]\nname = \"web/1\"\nmax = \"25%\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	says(ask(exitDone, in("lock", "status")...), "no group has rules or members yet")
	says(ask(exitFailed, in("lock", "set-max", "2")...), "has no group yet")
	says(ask(exitDone, in("lock", "apply", file)...), "group web/1: created")
	says(ask(exitDone, in("lock", "apply", file)...), "group web/1: as it was")
	machine := strings.Repeat("ab", 16)
	says(ask(exitDone, in("lock", "acquire", machine, "--reason", "disk")...), "waits for a permit of group web/1")
	says(ask(exitDone, in("lock", "queue")...), machine, "web/1")
	says(ask(exitDone, in("lock", "release", machine)...), "any more")
	says(ask(exitDone, in("lock", "journal")...), "operator "+who(t), "released", "queued", "rules")
	says(ask(exitFailed, "lock", "show", "--endpoints", "http://127.0.0.1:1", "--cluster", "prod"), "no member of etcd answered in time", "--endpoints")
	nobody := append([]string{"lock", "show"}, at[:len(at)-4]...) // a certificate that names no user of etcd
	says(ask(exitFailed, nobody...), "etcd-roles.md")
	for i, name := range []string{"endpoints", "cluster", "cacert", "cert", "key", "user", "password-file"} {
		t.Setenv(variables[name], at[2*i+1])
	}
	says(ask(exitDone, "lock", "show"), "name = \"web/1\"\nmax = \"25%\"\n")
	says(ask(exitDone, "lock", "set-max", "2"), "max of group web/1 is 2, it was 25%")
	t.Setenv("DRYDOCK_USER", "")
	says(ask(exitFailed, "lock", "show"), "drydock lock show: ")
	t.Setenv("DRYDOCK_PASSWORD_FILE", "")
	t.Setenv("DRYDOCK_ENDPOINTS", "")
	real.Program(t, "dbus-daemon")
	says(ask(exitFailed, "--bus", "unix:path=/nonexistent", "lock", "show"), "/nonexistent")
}

// who is this test in the journal.
func who(t *testing.T) string {
	t.Helper()
	return strings.TrimPrefix(whoAmI(), "operator ")
}

// TestWatchFleet shows changes as they come, and ends when it is interrupted.
func TestWatchFleet(t *testing.T) {
	h, err := newHarbour(`lock/groups/web {"version":1,"max":1}`)
	if err != nil {
		t.Fatal(err)
	}
	s := &standIn{Now: json.RawMessage(`{"step":"wait"}`), cluster: link.ClusterOf(h.Operator)}
	address := serve(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	shown := &notify{wrote: make(chan string, 16)}
	p := Program{In: strings.NewReader(""), Out: shown, Err: shown, Now: clock}
	code := make(chan int, 1)
	go func() { code <- p.Run(ctx, []string{"--bus", address, "--json", "lock", "status", "--watch"}) }()
	var v rebootlock.View
	next := func() {
		t.Helper()
		select {
		case line := <-shown.wrote:
			v = rebootlock.View{}
			if err := json.Unmarshal([]byte(line), &v); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("nothing is shown")
		}
	}
	if next(); v.Groups[0].Max != 1 {
		t.Errorf("%+v", v)
	}
	if err := h.Freeze(t.Context(), "web", "fair"); err != nil {
		t.Fatal(err)
	}
	if next(); v.Groups[0].Rules.Freeze == nil {
		t.Errorf("%+v", v)
	}
	cancel()
	if got := <-code; got != exitDone {
		t.Errorf("exit %d", got)
	}
}

// notify is a writer that hands on what is written.
type notify struct{ wrote chan string }

// Write implements io.Writer.
func (n *notify) Write(p []byte) (int, error) {
	n.wrote <- string(p)
	return len(p), nil
}

// TestFind finds machines by what people call them.
func TestFind(t *testing.T) {
	var v rebootlock.View
	for _, m := range []struct{ id, host, group string }{{"ab12", "node1", "web"}, {"ab34", "node2", "web"}, {"cd56", "ab34", "db"}, {"cd78", "node1", "db"}} {
		v.Machines = append(v.Machines, rebootlock.MachineView{Member: rebootlock.Member{Machine: m.id, Hostname: m.host, Group: m.group}})
	}
	for _, test := range []struct{ name, group, want string }{
		{"ab12", "", "ab12"},
		{"ab34", "", "ab34"}, // a machine-id before a hostname
		{"ab", "", `"ab" names 2 machines: ab12 in group web, ab34 in group web, …`},
		{"ab3", "", "ab34"},
		{"node2", "", "ab34"},
		{"node1", "", `"node1" names 2 machines: ab12 in group web, cd78 in group db, …`},
		{"node1", "db", "cd78"},
		{"cd5", "web", `"cd5" is no machine of this cluster: drydock fleet status lists them`},
		{"", "", `"" is no machine of this cluster: drydock fleet status lists them`},
	} {
		got, err := find(v, test.name, test.group)
		if text := fmt.Sprint(got.machine, err); text != test.want+"<nil>" && text != test.want {
			t.Errorf("find(%q, %q) = %s, want %s", test.name, test.group, text, test.want)
		}
	}
}

package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/rebootlock/etcdtest"
)

// join makes the body a member of cluster "prod" in an etcd of three, with TLS
// and certificates.
func (b *body) join(c *etcdtest.Cluster) {
	b.t.Helper()
	b.etcd = c
	for name, from := range map[string]string{"ca.pem": c.CAFile, "machine.pem": c.CertFile, "machine.key": c.KeyFile} {
		data, err := os.ReadFile(from)
		if err != nil {
			b.t.Fatal(err)
		}
		b.write("etc/drydock/etcd/"+name, string(data), 0o600)
	}
	b.endpoints(c.Endpoints())
	b.set("reboot", "strategy = \"coordinated\"\n")
	b.status.Strategy = "coordinated"
	b.write("var/lib/drydock/cluster.json", `{"version": 1, "cluster": "prod", "uid": "u", "joined": "2026-01-02T03:04:05Z"}`, 0o600)
	b.stamp(time.Now())
}

func (b *body) endpoints(list []string) {
	quoted, err := json.Marshal(list)
	if err != nil {
		b.t.Fatal(err)
	}
	b.set("cluster", fmt.Sprintf("id = \"prod\"\nendpoints = %s\nlocal_etcd = [%q]\nca_file = \"/etc/drydock/etcd/ca.pem\"\n", quoted, list[0])+
		"cert_file = \"/etc/drydock/etcd/machine.pem\"\nkey_file = \"/etc/drydock/etcd/machine.key\"\n")
}

// stamp writes what a coordinator would.
func (b *body) stamp(at time.Time) {
	b.t.Helper()
	text, err := json.Marshal(rebootlock.Stamp{Version: 1, Coordinator: machineID, Pass: 1, At: at})
	if err == nil {
		_, err = b.etcd.Client(b.t).Put(b.t.Context(), rebootlock.Keys{Cluster: "prod"}.Stamp(), string(text))
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// etcdIlls begin with a machine that is a healthy member, and end with an etcd
// that is well again.
var etcdIlls = []ill{
	{id: "machine.instance", what: "none", make: gone("var/lib/drydock/instance-id"), verdict: Warning, seen: "no ", mend: "drydockd"},
	{id: "machine.instance", what: "damaged", make: put("var/lib/drydock/instance-id", "\x00\x00"), verdict: Wrong, seen: "no instance-id", mend: "restart drydockd"},
	{id: "etcd.joined", what: "another cluster", make: put("var/lib/drydock/cluster.json", `{"cluster": "test"}`), verdict: Wrong, seen: `it joined "test"`, mend: "drydock fleet remove"},
	{id: "etcd.joined", what: "none", make: gone("var/lib/drydock/cluster.json"), verdict: Warning, seen: "not joined", mend: "start drydockd"},
	{id: "etcd.clock", what: "behind", make: func(b *body) { b.stamp(time.Now().Add(20 * time.Minute)) }, verdict: Wrong, seen: "ahead of this machine's", mend: "timedatectl"},
	{id: "etcd.clock", what: "silence", make: func(b *body) { b.stamp(time.Now().Add(-20 * time.Minute)) }, verdict: Warning, seen: "20m", mend: "drydock lock status"},
	{id: "etcd.endpoints", what: "one is stopped", make: func(b *body) { b.etcd.Stop(2); b.t.Cleanup(func() { b.etcd.Restart(2) }) }, verdict: Warning, seen: "connection refused", mend: "start etcd there"},
	{id: "etcd.local", what: "another is stopped", make: func(b *body) {
		b.etcd.Stop(2)
		b.t.Cleanup(func() { b.etcd.Restart(2) })
		b.led(true) // it may have been the leader: until there is another one, ours is behind
	}, verdict: Wrong, seen: "does not answer", mend: "etcdctl endpoint health"},
	{id: "etcd.endpoints", what: "paused", make: func(b *body) { b.etcd.Pause(2); b.t.Cleanup(func() { b.etcd.Continue(2) }) }, verdict: Warning, seen: "etcd at", mend: "firewall"},
	{id: "etcd.endpoints", what: "another CA", make: func(b *body) {
		b.write("etc/drydock/etcd/ca.pem", b.serverCA(), 0o644)
	}, verdict: Wrong, seen: "x509", mend: "cluster.ca_file"},
	{id: "etcd.endpoints", what: "no certificate of its own", make: func(b *body) {
		b.set("cluster", strings.NewReplacer("cert_file = \"/etc/drydock/etcd/machine.pem\"\n", "", "key_file = \"/etc/drydock/etcd/machine.key\"\n", "").Replace(b.lines["cluster"]))
	}, verdict: Wrong, seen: "certificate", mend: "cluster.cert_file"},
	{id: "etcd.endpoints", what: "no name", make: func(b *body) { b.endpoints([]string{"https://etcd.invalid:2379"}) }, verdict: Wrong, seen: "etcd.invalid", mend: "cluster.endpoints"},
	{id: "policy.certificates", what: "its own is gone", make: gone("etc/drydock/etcd/machine.pem"), verdict: Wrong, seen: "machine.pem", mend: "PEM"},
	// Its member says so, or, until it has noticed, a linearizable read does not end.
	{id: "etcd.quorum", what: "two are stopped", make: func(b *body) {
		b.etcd.Stop(1)
		b.etcd.Stop(2)
		b.t.Cleanup(func() { b.etcd.Launch(1); b.etcd.Restart(2) })
		b.led(false)
	}, verdict: Wrong, seen: "follows no leader", mend: "more than half"},
}

// led waits until etcd has a leader, or has none.
func (b *body) led(is bool) {
	b.t.Helper()
	for end := time.Now().Add(time.Minute); (b.etcd.Leader() >= 0) != is; {
		if time.Now().After(end) {
			b.t.Fatalf("etcd is led: never %t", is)
		}
	}
}

// A leader that has lost the others takes itself for one for about a second.
func TestLeaderThatCannotAnswer(t *testing.T) {
	f := etcdFacts{answers: []rebootlock.EtcdAnswer{{Endpoint: "one", Version: "3.6.1", Cluster: "c", Leader: "one"}}, rights: context.DeadlineExceeded}
	if got := judgeQuorum(f); got.Verdict != Wrong || !strings.Contains(got.Seen, "linearizable") || !strings.Contains(got.Mend, "more than half") {
		t.Errorf("%+v", got)
	}
}

func (b *body) serverCA() string {
	data, err := os.ReadFile(b.path("etc/drydock/server-ca.pem"))
	if err != nil {
		b.t.Fatal(err)
	}
	return string(data)
}

func TestMemberOfACluster(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{Members: 3, TLS: etcdtest.Mutual, Direct: true})
	b := newBody(t, "gptprio")
	b.join(c)
	r := b.examine()
	healthy(t, r)
	if f := finding(t, r, "trial.coordinated"); !r.Healthy || f.Verdict != OK {
		t.Errorf("healthy %v, %+v", r.Healthy, f)
	}
	for _, i := range etcdIlls {
		t.Run(i.id+"/"+i.what, func(t *testing.T) {
			b := newBody(t, "gptprio")
			b.join(c)
			i.make(b)
			i.found(t, b.examine())
		})
	}
}

// Two etcds under one name are two locks.
func TestEndpointsOfTwoEtcds(t *testing.T) {
	one, other := etcdtest.Start(t, etcdtest.Options{}), etcdtest.Start(t, etcdtest.Options{})
	b := newBody(t, "gptprio")
	b.set("cluster", fmt.Sprintf("id = \"prod\"\nendpoints = [%q, %q]\n", one.Endpoints()[0], other.Endpoints()[0]))
	f := finding(t, b.examine(), "etcd.quorum")
	if f.Verdict != Wrong || !strings.Contains(f.Seen, "etcd cluster") || !strings.Contains(f.Means, "two locks") || !strings.Contains(f.Mend, "cluster.endpoints") {
		t.Errorf("%+v", f)
	}
	if f := finding(t, b.examine(), "etcd.local"); f.Verdict != Warning || !strings.Contains(f.Mend, "cluster.local_etcd") {
		t.Errorf("%+v", f)
	}
	b.set("cluster", fmt.Sprintf("id = \"prod\"\nendpoints = [%q]\nlocal_etcd = [%[1]q]\n", one.Endpoints()[0]))
	if f := finding(t, b.examine(), "etcd.local"); f.Verdict != Wrong || !strings.Contains(f.Seen, "only member") || !strings.Contains(f.Mend, "allow_single_etcd") {
		t.Errorf("%+v", f)
	}
	if f := finding(t, b.examine(), "etcd.clock"); f.Verdict != Warning || !strings.Contains(f.Seen, "no coordinator") || !strings.Contains(f.Mend, "cluster.coordinate") {
		t.Errorf("%+v", f)
	}
}

func TestRightsAndRoomInEtcd(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{Auth: true, Flags: []string{"--quota-backend-bytes=2097152"}})
	b := newBody(t, "gptprio")
	as := func(user string, permissions ...etcdtest.Permission) Report {
		t.Helper()
		file := c.AddUser(user, permissions...)
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		b.write("etc/drydock/etcd/password", string(data), 0o600)
		b.set("cluster", fmt.Sprintf("id = \"prod\"\nendpoints = [%q]\nuser = %q\npassword_file = \"/etc/drydock/etcd/password\"\ncoordinate = false\n", c.Endpoints()[0], user))
		return b.examine()
	}
	if f := finding(t, as("none"), "etcd.rights"); f.Verdict != Wrong || !strings.Contains(f.Seen, "may not read /drydock/prod/") || !strings.Contains(f.Mend, "etcd-roles.md") {
		t.Errorf("%+v", f)
	}
	read := etcdtest.Permission{Key: "/drydock/prod/", Prefix: true}
	if f := finding(t, as("reader", read), "etcd.rights"); f.Verdict != Wrong || !strings.Contains(f.Seen, "write its ticket (/drydock/prod/lock/tickets/default/"+machineID) || !strings.Contains(f.Mend, "etcd-roles.md") {
		t.Errorf("%+v", f)
	}
	all := etcdtest.Permission{Key: "/drydock/prod/", Prefix: true, Write: true}
	if f := finding(t, as("all", all), "etcd.rights"); f.Verdict != OK {
		t.Errorf("%+v", f)
	}
	b.write("etc/drydock/etcd/password", "wrong\n", 0o600)
	if f := finding(t, b.examine(), "etcd.endpoints"); f.Verdict != Wrong || !strings.Contains(f.Seen, "authentication failed") || !strings.Contains(f.Mend, "cluster.password_file") {
		t.Errorf("%+v", f)
	}
	fill := strings.Repeat("x", 1<<18)
	for i := range 200 {
		if _, err := c.Client(t).Put(t.Context(), "/filler", fill); err != nil {
			break
		} else if i == 199 {
			t.Fatal("etcd does not fill up")
		}
	}
	b.set("cluster", fmt.Sprintf("id = \"prod\"\nendpoints = [%q]\nuser = \"root\"\npassword_file = \"/etc/drydock/etcd/password\"\n", c.Endpoints()[0]))
	b.write("etc/drydock/etcd/password", etcdtest.RootPassword+"\n", 0o600)
	r := b.examine()
	if f := finding(t, r, "etcd.space"); f.Verdict != Wrong || !strings.Contains(f.Seen, "NOSPACE") || !strings.Contains(f.Mend, "auto-compaction") {
		t.Errorf("%+v", f)
	}
	if f := finding(t, r, "etcd.rights"); f.Verdict != Unknown || f.Because != "etcd.space" {
		t.Errorf("%+v", f)
	}
}

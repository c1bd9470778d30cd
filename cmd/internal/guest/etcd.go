package guest

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// An Etcd is a cluster of etcd with a member on each of some guests.
type Etcd struct {
	binary  string // the server, statically linked
	members map[string]etcdMember
}

// etcdMember is one member, by the name of its machine.
type etcdMember struct {
	client, peer int      // ports of the host
	with         []string // the members when it begins, itself as well
	state        string   // of that cluster: "new", "existing"
}

// The ports of etcd in a guest.
const (
	etcdClient = 2379
	etcdPeer   = 2380
)

// Etcd plans a cluster that begins with a member on each of the machines named.
func (l *Lab) Etcd(t testing.TB, names ...string) *Etcd {
	t.Helper()
	dir := t.TempDir()
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", dir, "./rebootlock/etcdtest/etcd")
	build.Dir, build.Env = l.Module, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build etcd: %v: %s", err, out)
	}
	binary, err := os.ReadFile(filepath.Join(dir, "etcd"))
	if err != nil {
		t.Fatal(err)
	}
	e := &Etcd{binary: string(binary), members: map[string]etcdMember{}}
	for _, name := range names {
		e.members[name] = etcdMember{FreePort(t), FreePort(t), names, "new"}
	}
	return e
}

// Join plans a member that joins others; whoever adds it to etcd says that it is
// at Peer.
func (e *Etcd) Join(t testing.TB, name string, others ...string) {
	e.members[name] = etcdMember{FreePort(t), FreePort(t), append(others, name), "existing"}
}

// Peer is the URL at which the others reach a member.
func (e *Etcd) Peer(name string) string { return urlOf(hostAddress, e.members[name].peer) }

// Endpoint is the URL at which the test reaches a member.
func (e *Etcd) Endpoint(name string) string { return urlOf("127.0.0.1", e.members[name].client) }

// client is the URL at which guests reach a member.
func (e *Etcd) client(name string) string { return urlOf(hostAddress, e.members[name].client) }

func urlOf(host string, port int) string { return fmt.Sprintf("http://%s:%d", host, port) }

// On returns s with its member, and a policy that goes by it and those that it
// begins with.
func (e *Etcd) On(s Spec) Spec {
	m := e.members[s.Name]
	var clients []string
	for _, name := range m.with {
		clients = append(clients, fmt.Sprintf("%q", e.client(name)))
	}
	s.Ports = plus(s.Ports, map[int]int{etcdClient: m.client, etcdPeer: m.peer})
	s.Files = plus(s.Files, map[string]string{
		"var/lib/etcd-server*":                                    e.binary,
		"etc/systemd/system/etcd.service":                         e.unit(s.Name),
		"etc/systemd/system/multi-user.target.wants/etcd.service": "-> ../etcd.service",
	})
	s.Policy = plus(s.Policy, map[string]string{
		"cluster.endpoints":  "[" + strings.Join(clients, ", ") + "]",
		"cluster.local_etcd": fmt.Sprintf("[%q]", urlOf("127.0.0.1", etcdClient)),
	})
	return s
}

// plus is one map and what another adds to it.
func plus[K comparable, V any](m, more map[K]V) map[K]V {
	all := maps.Clone(more)
	maps.Copy(all, m)
	return all
}

// unit runs a member. An emulated machine that boots, or shares its processor
// with one that does, says nothing for seconds: that is no reason for an
// election.
func (e *Etcd) unit(name string) string {
	m := e.members[name]
	var peers []string
	for _, other := range m.with {
		peers = append(peers, other+"="+e.Peer(other))
	}
	return fmt.Sprintf(`[Unit]
Description=etcd
[Service]
ExecStart=/var/lib/etcd-server --name=%s --data-dir=/var/lib/etcd --initial-cluster=%s --initial-cluster-state=%s \
	--listen-client-urls=%s --advertise-client-urls=%s --listen-peer-urls=%s --initial-advertise-peer-urls=%s \
	--heartbeat-interval=1000 --election-timeout=10000 --auto-compaction-mode=periodic --auto-compaction-retention=1h
Restart=always
RestartSec=2
`, name, strings.Join(peers, ","), m.state, urlOf("0.0.0.0", etcdClient), e.client(name), urlOf("0.0.0.0", etcdPeer), e.Peer(name))
}

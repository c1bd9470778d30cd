package daemon_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/rebootlock/etcdtest"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/bus"
	"github.com/drydock-os/drydock/updater/policy"
)

// fleet is hosts that share a reboot lock in a real etcd.
type fleet struct {
	t        *testing.T
	etcd     *etcdtest.Cluster
	hosts    []*host
	operator rebootlock.Operator
	down     func(*host) // is called while a host is down
}

// fleetPatience bounds the waits of a fleet: a machine tries an etcd that was
// away again within a minute.
const fleetPatience = 3 * time.Minute

func machineID(i int) string { return fmt.Sprintf("%032x", 0xd0c0+i) }

func newFleet(t *testing.T, n int) *fleet {
	t.Helper()
	return newFleetOf(t, n, etcdtest.Options{})
}

// newFleetOf is a fleet with another etcd than usual.
func newFleetOf(t *testing.T, n int, o etcdtest.Options) *fleet {
	t.Helper()
	f := &fleet{t: t}
	for i := range n {
		h := newHost(t)
		h.strategy = policy.Coordinated
		h.write("root/etc/machine-id", machineID(i)+"\n")
		f.hosts = append(f.hosts, h)
	}
	f.etcd = etcdtest.Start(t, o)
	store, err := rebootlock.DialEtcd(rebootlock.EtcdOptions{Endpoints: f.etcd.Endpoints(), CAFile: f.etcd.CAFile, CertFile: f.etcd.CertFile, KeyFile: f.etcd.KeyFile})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	f.operator = rebootlock.Operator{Store: store, Keys: rebootlock.Keys{Cluster: "harbour"}, Who: "operator test", Now: time.Now}
	for _, h := range f.hosts {
		f.joins(h, "harbour")
	}
	return f
}

// joins has a host's policy name a cluster.
func (f *fleet) joins(h *host, cluster string) {
	h.more = fmt.Sprintf("[cluster]\nid = %q\nendpoints = [%q]\nca_file = %q\ncert_file = %q\nkey_file = %q\n[group]\nmax = \"1\"\n",
		cluster, strings.Join(f.etcd.Endpoints(), `", "`), f.etcd.CAFile, f.etcd.CertFile, f.etcd.KeyFile)
	h.policy(partition.A)
}

// look is the lock as an operator sees it, and fails the test when more machines
// than one hold a permit.
func (f *fleet) look() (v rebootlock.View, ok bool) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 2*time.Second)
	defer cancel()
	v, err := f.operator.Look(ctx)
	if err != nil {
		return v, false
	}
	for _, g := range v.Groups {
		if len(g.Holders) > 1 {
			f.t.Errorf("group %s: %d holders, 1 is the most: %+v", g.Group, len(g.Holders), g.Holders)
		}
	}
	return v, true
}

// turn takes the steps of the hosts' loaders where they are due.
func (f *fleet) turn() {
	for _, h := range f.hosts {
		select {
		case <-h.rebooted:
			h.shutDown()
			if f.down != nil {
				f.down(h)
			}
			h.powerOn()
			h.start()
		default:
		}
	}
}

// until takes turns until something holds.
func (f *fleet) until(what string, cond func() bool) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), fleetPatience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		f.turn()
		select {
		case <-ctx.Done():
			v, _ := f.look()
			view, _ := json.Marshal(v)
			for i, h := range f.hosts {
				f.t.Logf("host %d: %+v\n%s", i, h.status(), h.output)
			}
			f.t.Fatalf("never: %s\n%s", what, view)
		case <-tick.C:
		}
	}
}

// shutDown ends the daemon as systemd does on the way to a reboot.
func (h *host) shutDown() {
	h.daemon.Process.Signal(syscall.SIGTERM)
	if err := h.daemon.Wait(); err != nil {
		h.t.Errorf("drydockd ends with %v", err)
	}
	h.daemon = nil
}

// status asks the host's daemon; the zero status if it does not answer.
func (h *host) status() (s updater.Status) {
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Second)
	defer cancel()
	c, err := bus.Dial(ctx, h.address)
	if err != nil {
		return s
	}
	defer c.Close()
	s, _ = c.Status(ctx)
	return s
}

// TestFleetReboots (flatcar/Flatcar#1367, coreos/bugs#1782): three real daemons,
// each on a real device, take turns through a real etcd, of which the only
// member dies on the way: never are two of them away, the permit goes to the
// next only when the last is well, and all end on the new release.
func TestFleetReboots(t *testing.T) {
	t.Parallel() // it mostly waits
	f := newFleet(t, 3)
	for _, h := range f.hosts {
		h.publish("1.1.0")
		h.start()
	}
	var first *host
	f.down = func(h *host) {
		if first == nil {
			first = h
			f.etcd.Kill(0)
		}
	}
	f.until("the first is back, and says that it cannot give its permit back", func() bool {
		if first == nil {
			f.look()
			return false
		}
		s := first.status()
		return s.Release == "1.1.0" && !s.OnTrial && slices.ContainsFunc(s.Reasons, func(r updater.Reason) bool { return r.Kind == "lock" })
	})
	if n := f.boots(); n != 4 {
		t.Errorf("%d boots: a machine rebooted with etcd away", n)
	}
	f.etcd.Restart(0)
	f.until("all are updated", func() bool {
		f.look()
		return !slices.ContainsFunc(f.hosts, func(h *host) bool { return h.boots < 2 || !rests("1.1.0")(h.status()) })
	})
	f.until("nobody holds a permit", func() bool {
		v, ok := f.look()
		return ok && len(v.Groups) == 1 && len(v.Groups[0].Holders) == 0
	})
	for i, h := range f.hosts {
		if h.boots != 2 {
			t.Errorf("host %d booted %d times, want twice", i, h.boots)
		}
	}
	entries, err := f.operator.Journal(t.Context(), "default", 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range f.hosts {
		if !slices.ContainsFunc(entries, func(e rebootlock.Entry) bool {
			return e.Machine == machineID(i) && e.What == "updated" && e.Release == "1.1.0"
		}) {
			t.Errorf("the journal does not say that %s was updated: %+v", machineID(i), entries)
		}
	}
}

func (f *fleet) boots() (n int) {
	for _, h := range f.hosts {
		n += h.boots
	}
	return n
}

// TestFreezeHoldsTheFleet: nothing reboots under a freeze, the bus says why, and
// thaw lets it go on.
func TestFreezeHoldsTheFleet(t *testing.T) {
	t.Parallel() // it mostly waits
	f := newFleet(t, 1)
	h := f.hosts[0]
	h.start()
	f.until("the group has its rules", func() bool { v, ok := f.look(); return ok && len(v.Groups) == 1 && v.Groups[0].Rules != nil })
	if err := f.operator.Freeze(t.Context(), "default", "incident 7"); err != nil {
		t.Fatal(err)
	}
	h.publish("1.1.0")
	h.shutDown()
	h.start() // it checks when it starts
	f.until("the freeze is said", func() bool {
		return slices.ContainsFunc(h.status().Reasons, func(r updater.Reason) bool { return strings.Contains(r.Text, "incident 7") })
	})
	if s := h.status(); !s.Written || h.boots != 1 {
		t.Errorf("frozen: %+v", s)
	}
	c, err := bus.Dial(t.Context(), h.address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if seen, err := c.Look(t.Context()); err != nil || !strings.Contains(string(seen), "incident 7") {
		t.Errorf("the bus shows %s, %v", seen, err)
	}
	if err := f.operator.Thaw(t.Context(), "default"); err != nil {
		t.Fatal(err)
	}
	f.until("it goes on", func() bool { return h.boots == 2 && rests("1.1.0")(h.status()) })
}

// TestOtherClusterIsRefused: a machine that joined one cluster takes no part in
// another by a line in a file, and one whose etcd was wiped says so.
func TestOtherClusterIsRefused(t *testing.T) {
	t.Parallel() // it mostly waits
	f := newFleet(t, 1)
	h := f.hosts[0]
	h.start()
	kept := filepath.Join(h.dir, "state", "cluster.json")
	f.until("it has joined", func() bool { _, err := os.Stat(kept); return err == nil })
	says := func(words ...string) func() bool {
		return func() bool {
			return slices.ContainsFunc(h.status().Reasons, func(r updater.Reason) bool {
				return r.Kind == "lock" && !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(r.Text, w) })
			})
		}
	}
	f.joins(h, "other")
	h.daemon.Process.Signal(syscall.SIGHUP)
	f.until("another cluster is refused", says(rebootlock.ErrOtherCluster.Error(), `"harbour"`, `"other"`, kept))
	f.joins(h, "harbour")
	h.daemon.Process.Signal(syscall.SIGHUP)
	f.until("it is back", func() bool { s := h.status(); return s.Permit == "none" && !says("")() })
	h.kill()
	data, err := os.ReadFile(kept)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(data, &m); err != nil || m["uid"] == "" {
		t.Fatalf("%s, %v", data, err)
	}
	m["uid"] = "00000000000000000000000000000000" // as if this etcd were new
	data, _ = json.Marshal(m)
	if err := os.WriteFile(kept, data, 0o600); err != nil {
		t.Fatal(err)
	}
	h.start()
	f.until("another etcd is refused", says(rebootlock.ErrOtherCluster.Error()))
}

// TestDaemonRunsWithoutItsCluster: with certificates that are not there yet, and
// an etcd that never answers, releases are written all the same, the status says
// why nothing reboots, and the machine joins when the files are there.
func TestDaemonRunsWithoutItsCluster(t *testing.T) {
	t.Parallel() // it mostly waits
	f := newFleet(t, 1)
	h := f.hosts[0]
	ca := filepath.Join(h.dir, "etcd-ca.pem")
	plain := h.more
	h.more = fmt.Sprintf("[cluster]\nid = \"harbour\"\nendpoints = [\"https://127.0.0.1:1\"]\nca_file = %q\n", ca)
	h.policy(partition.A)
	h.publish("1.1.0")
	h.start()
	says := func(words string) func() bool {
		return func() bool {
			s := h.status()
			return s.Written && slices.ContainsFunc(s.Reasons, func(r updater.Reason) bool { return r.Kind == "lock" && strings.Contains(r.Text, words) })
		}
	}
	f.until("the missing file is said", says("etcd-ca.pem"))
	h.more = strings.Replace(h.more, fmt.Sprintf("ca_file = %q\n", ca), "", 1)
	h.policy(partition.A)
	h.daemon.Process.Signal(syscall.SIGHUP)
	f.until("the silent etcd is said", says("127.0.0.1:1"))
	h.more = plain
	h.policy(partition.A)
	h.daemon.Process.Signal(syscall.SIGHUP)
	f.until("it is updated", func() bool { return h.boots == 2 && rests("1.1.0")(h.status()) })
}

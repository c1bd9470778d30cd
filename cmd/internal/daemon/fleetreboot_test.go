package daemon_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/rebootlock/etcdtest"
	"github.com/drydock-os/drydock/rebootlock/fleetlock"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/bus"
)

// journal is what the journal says of a machine, oldest first.
func (f *fleet) journal(machine string) (entries []rebootlock.Entry) {
	f.t.Helper()
	all, err := f.operator.Journal(f.t.Context(), "default", 0)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, e := range slices.Backward(all) {
		if e.Machine == machine {
			entries = append(entries, e)
		}
	}
	return entries
}

// told reports whether the journal says these things of a machine, in this
// order, with others between.
func told(entries []rebootlock.Entry, what ...string) bool {
	for _, e := range entries {
		if len(what) > 0 && e.What == what[0] {
			what = what[1:]
		}
	}
	return len(what) == 0
}

// free is whether nobody holds a permit, or waits for one.
func (f *fleet) free() bool {
	f.t.Helper()
	v, ok := f.look()
	return ok && !slices.ContainsFunc(v.Groups, func(g rebootlock.GroupView) bool { return len(g.Holders)+len(g.Queue) > 0 })
}

// TestRebootOnRequest: an operator's `drydock reboot --reason`, and then a file
// (reboot.required_file), take the machine through the lock: a permit, the
// drain, a reboot into the same release, health checks, and the permit is given
// back as that of a reboot.
func TestRebootOnRequest(t *testing.T) {
	t.Parallel() // it mostly waits
	f := newFleet(t, 1)
	h := f.hosts[0]
	checks := h.write("checks.log", "")
	check := h.write("health.d/10-well", fmt.Sprintf("#!/bin/sh\ncat %s >> %s\n", filepath.Join(h.dir, "root/proc/sys/kernel/random/boot_id"), checks))
	if err := os.Chmod(check, 0o755); err != nil {
		t.Fatal(err)
	}
	h.first = "1h"
	h.more = strings.Replace(h.more, "[cluster]", "[cluster]\nlabels = [\"role=web\"]", 1)
	h.reboot = "required_file = \"/run/reboot-required\"\n"
	h.policy(partition.A)
	h.write("root/proc/uptime", "86400.00 86400.00\n")
	held := map[int]rebootlock.Holder{}
	f.down = func(h *host) {
		if v, ok := f.look(); ok && len(v.Groups) == 1 && len(v.Groups[0].Holders) == 1 {
			held[h.boots] = v.Groups[0].Holders[0]
		}
	}
	h.start()
	f.until("the daemon is there", func() bool { return h.status().Permit == "none" })

	c, err := bus.Dial(t.Context(), h.address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Start(t.Context(), updater.Request{Action: updater.ActReboot, Reason: "new kernel arguments"}); err != nil {
		t.Fatal(err)
	}
	f.rebooted(h, 2)
	h.write("root/run/reboot-required", "openssl\n")
	h.daemon.Process.Signal(syscall.SIGHUP) // it looks once a minute
	f.rebooted(h, 3)

	for boot, reason := range map[int]string{1: "new kernel arguments", 2: "/run/reboot-required asks for it: openssl"} {
		if p := held[boot]; p.Phase != rebootlock.PhaseRebooting || !strings.Contains(p.Reason, reason) || p.From != "1.0.0" || p.To != "1.0.0" {
			t.Errorf("down after boot %d: permit %+v, want one with %q", boot, p, reason)
		}
	}
	entries := f.journal(machineID(0))
	if !told(entries, "granted", "rebooted", "granted", "rebooted") {
		t.Errorf("journal %+v", entries)
	}
	ran, err := os.ReadFile(checks)
	if err != nil {
		t.Fatal(err)
	}
	for _, boot := range []string{"000000000002", "000000000003"} {
		if !strings.Contains(string(ran), boot) {
			t.Errorf("no health check was run in boot %s:\n%s", boot, ran)
		}
	}
	f.until("the cluster knows how it is", func() bool {
		v, ok := f.look()
		return ok && len(v.Machines) == 1 && v.Machines[0].Status != nil && v.Machines[0].Status.Slot == "A" && v.Machines[0].Status.Labels["role"] == "web"
	})
}

// rebooted waits until a host has booted so often, is well, and gave its permit
// back.
func (f *fleet) rebooted(h *host, boots int) {
	f.t.Helper()
	f.until(fmt.Sprintf("boot %d is well, and its permit is given back", boots), func() bool {
		s := h.status()
		return h.boots == boots && s.Permit == "none" && !s.OnTrial && s.Pending == "" && f.free()
	})
	if s := h.status(); s.Release != "1.0.0" || s.Booted != "A" {
		f.t.Errorf("after boot %d: %+v", boots, s)
	}
}

// TestFleetLockIsTheLock: a machine whose policy names a FleetLock server,
// which a daemon on etcd is, takes an update under a permit of it, and gives
// that back when it is well.
func TestFleetLockIsTheLock(t *testing.T) {
	t.Parallel() // it mostly waits
	f := newFleetOf(t, 2, etcdtest.Options{TLS: etcdtest.Mutual})
	server, h := f.hosts[0], f.hosts[1]
	id, err := fleetlock.AppID(machineID(1))
	if err != nil {
		t.Fatal(err)
	}
	address := freeAddress(t)
	certFile, keyFile := f.etcd.Certificate("server")
	server.more += fmt.Sprintf("[fleetlock]\nlisten = %q\ncert_file = %q\nkey_file = %q\nclient_ca_file = %q\n", address, certFile, keyFile, f.etcd.CAFile)
	server.first = "1h"
	server.policy(partition.A)
	certFile, keyFile = f.etcd.Certificate(id)
	h.more = fmt.Sprintf("[fleetlock]\nurl = \"https://%s/base\"\nca_file = %q\nclient_cert_file = %q\nclient_key_file = %q\n", address, f.etcd.CAFile, certFile, keyFile)
	h.reboot = "retry_pause = \"1s\"\n" // what may be held from before goes back, as if unused
	h.policy(partition.A)
	h.publish("1.1.0")
	held := false
	f.down = func(*host) {
		v, ok := f.look()
		held = ok && len(v.Groups) == 1 && len(v.Groups[0].Holders) == 1 && v.Groups[0].Holders[0].Machine == id && v.Groups[0].Holders[0].Phase == rebootlock.PhaseRebooting
	}
	h.start()
	f.until("a server that is away keeps it from rebooting", func() bool {
		return slices.ContainsFunc(h.status().Reasons, func(r updater.Reason) bool { return strings.Contains(r.Text, address) })
	})
	if h.boots != 1 {
		t.Errorf("%d boots with no lock to be asked", h.boots)
	}
	server.start()
	f.until("it is updated, and its permit given back", func() bool { return h.boots == 2 && rests("1.1.0")(h.status()) && f.free() })
	if entries := f.journal(id); !held || !told(entries, "granted", "rebooted") && !told(entries, "granted", "updated") {
		t.Errorf("held while down: %t; journal %+v", held, entries)
	}
}

// freeAddress is an address on loopback that nobody listened on a moment ago.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

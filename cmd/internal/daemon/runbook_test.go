package daemon_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/drydock-os/drydock/omaha"
	"github.com/drydock-os/drydock/rebootlock"
)

// Windows that are shut whenever tests run, but for a minute a week.
const noWindow = "windows = [{ start = \"Mon 00:00\", length = \"1m\" }]\n"

// later has a policy check for updates when it is told to.
func later(p string) string {
	return strings.Replace(p, `first_check = "0s"`, `first_check = "1h"`, 1)
}

// TestRunbookMachineOverdue: web-2 does not come back, and then does; with the
// next release it is gone for good.
func TestRunbookMachineOverdue(t *testing.T) {
	d := newDrill(t, "machine-overdue", setUp{hosts: 3, tables: func(p string) string {
		return later(strings.Replace(p, "[group]\n", "[group]\ndeadline = \"30s\"\n", 1))
	}})
	d.started()
	d.until("all have told of themselves", func() bool {
		v, ok := d.look()
		return ok && !slices.ContainsFunc(v.Machines, func(m rebootlock.MachineView) bool { return m.Status == nil || m.Status.Release == "" })
	})
	two := d.host("web-2")
	for _, version := range []string{"1.1.0", "1.2.0"} {
		d.dead[two] = true
		d.upgrade(version, "web-2")
		d.until("web-2 went away", func() bool { return two.daemon == nil })
		d.upgrade(version, "web-1", "web-3")
		if version == "1.1.0" {
			d.play(1)
			d.dead[two] = false
			two.powerOn()
			two.start()
			d.play(1)
			d.settled("1.1.0", d.hosts...)
		}
	}
	d.play(2)
	d.settled("1.2.0", d.host("web-1"), d.host("web-3"))
}

// TestRunbookGroupStopped: web-1 goes back for a reason of its own; it is mended,
// and the group goes on. Then somebody forgot a freeze.
func TestRunbookGroupStopped(t *testing.T) {
	d := newDrill(t, "group-stopped", setUp{hosts: 3, tables: later})
	one := d.host("web-1")
	data := filepath.Join(one.dir, "data")
	one.script("10-data", "[ -e "+data+" ] || grep -q 1.0.0 "+one.dir+"/root/usr/lib/os-release || { echo /srv/data is not mounted; exit 1; }")
	d.started()
	d.upgrade("1.1.0", "web-1")
	d.until("it went back", func() bool {
		s := one.status()
		return s.Release == "1.0.0" && len(s.Rejected) > 0 && s.Permit == "none"
	})
	d.upgrade("1.1.0", "web-2", "web-3")
	d.play(1)
	one.write("data", "")
	d.play(1)
	d.settled("1.1.0", d.hosts...)
	if out, err := d.run(one, `drydock lock freeze --reason "switch maintenance, INC-40"`); err != nil {
		t.Fatal(out)
	}
	d.play(1)
}

// TestRunbookBadRelease: a release that is not well anywhere, and the next one.
func TestRunbookBadRelease(t *testing.T) {
	d := newDrill(t, "bad-release", setUp{hosts: 3, tables: func(p string) string {
		return later(strings.Replace(p, `timeout = "2s"`, `timeout = "10m"`, 1))
	}})
	for _, h := range d.hosts {
		h.script("10-web", "grep -q 1.1.0 "+h.dir+"/root/usr/lib/os-release && { echo 'GET / says 500'; exit 1; }; exit 0")
	}
	d.started()
	d.upgrade("1.1.0", "web-1")
	d.until("it is on trial", func() bool { return d.host("web-1").status().OnTrial })
	d.play(1)
	d.until("it is back", func() bool { s := d.host("web-1").status(); return s.Release == "1.0.0" && s.Permit == "none" })
	d.upgrade("1.1.0", "web-2", "web-3")
	d.play(1)
	for _, h := range d.hosts {
		h.publish("1.1.1")
	}
	d.play(1)
	for _, name := range []string{"web-2", "web-3"} { // as they do by themselves, in time
		if out, err := d.run(d.host(name), "drydock update"); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
	d.play(1)
	d.settled("1.1.1", d.hosts...)
}

// TestRunbookLostKey: the key file of a machine is gone; then the release team's
// key is, and another takes its place.
func TestRunbookLostKey(t *testing.T) {
	d := newDrill(t, "lost-key", setUp{hosts: 1, lines: noWindow})
	one := d.host("web-1")
	key := filepath.Join(one.dir, "etc/drydock/keys/release.pem")
	good, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	os.Remove(key)
	one.publish("1.1.0")
	d.started()
	d.play(1)
	one.write("etc/release.pem", string(good)) // from a machine that has it
	d.play(1)

	if one.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(one.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	one.write("etc/release-2.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
	one.publish("1.2.0")
	d.play(1)
	one.updates.Release(nil)
	if out, err := d.run(one, "drydock update"); err != nil { // as it does by itself, in time: what it was offered last is taken when its key is
		t.Errorf("with nothing offered: %v\n%s", err, out)
	}
	d.play(1)
	d.edit("web-1")
	d.play(1)
	d.edit("web-1")
	d.play(1)
	if s := one.status(); s.Written || len(s.Rejected) != 1 || s.Rejected[0].Version != "1.1.0" {
		t.Errorf("after the old key's release was dropped: %+v", s)
	}
	one.publish("1.2.0")
	d.play(1)
	if s := one.status(); !s.Written || s.NewVersion != "1.2.0" {
		t.Errorf("under the new key: %+v", s)
	}
}

// TestRunbookEtcdLost: etcd goes down and comes back; then it is lost with all
// that was in it.
func TestRunbookEtcdLost(t *testing.T) {
	d := newDrill(t, "etcd-lost", setUp{hosts: 2, tables: later})
	d.started()
	d.play(1)
	d.etcd.Kill(0)
	d.play(1)
	d.host("web-1").publish("1.1.0")
	d.play(1)
	if one := d.host("web-1"); !one.status().Written || one.boots != 1 {
		t.Errorf("with etcd away: %+v after %d boots", one.status(), one.boots)
	}
	d.etcd.Restart(0)
	d.settled("1.1.0", d.host("web-1"))
	d.play(1)
	if _, err := d.etcd.Client(t).Delete(t.Context(), "/drydock/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	d.play(4)
}

// TestRunbookFullBoot: another file leaves no room for the new kernel.
func TestRunbookFullBoot(t *testing.T) {
	d := newDrill(t, "full-boot", setUp{hosts: 1, bootKB: 200, lines: noWindow})
	one := d.host("web-1")
	if err := os.MkdirAll(filepath.Join(one.boot, "flatcar"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, size := range map[string]int{"flatcar/vmlinuz-a": 70000, "crash-2026.dump": 90000} {
		if err := os.WriteFile(filepath.Join(one.boot, name), make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	one.publish("1.1.0")
	d.started()
	d.play(2)
	if s := one.status(); !s.Written || s.NewVersion != "1.1.0" {
		t.Errorf("%+v", s)
	}
}

// TestRunbookStuckDrain: what runs on web-1 does not leave it, until there is
// room elsewhere; and the next time until it need not.
func TestRunbookStuckDrain(t *testing.T) {
	d := newDrill(t, "stuck-drain", setUp{hosts: 2, budget: "budget", tables: func(p string) string {
		return later(p) + "[drain]\ntimeout = \"4s\"\n"
	}})
	d.started()
	one := d.host("web-1")
	budget := one.write("budget", "its disruption budget allows no pod to go")
	d.upgrade("1.1.0", "web-1")
	d.play(1)
	os.Remove(budget)
	d.play(1)
	d.settled("1.1.0", one)
	one.write("budget", "its disruption budget allows no pod to go")
	d.upgrade("1.2.0", "web-1")
	d.until("it tried", func() bool { return one.status().LastError != "" })
	d.edit("web-1")
	d.play(1)
	d.settled("1.2.0", one)
}

// TestRunbookMachineReplaced: a machine is installed anew, another one is gone,
// and a third is a clone.
func TestRunbookMachineReplaced(t *testing.T) {
	d := newDrill(t, "machine-replaced", setUp{hosts: 3, tables: later})
	d.started()
	two, three := d.host("web-2"), d.host("web-3")
	d.dead[two] = true // installed anew while it holds a permit
	d.upgrade("1.1.0", "web-2")
	d.until("web-2 went away", func() bool { return two.daemon == nil })
	files, err := filepath.Glob(filepath.Join(two.dir, "state/*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		os.RemoveAll(name)
	}
	two.powerOn()
	two.start()
	d.play(1)

	three.shutDown()
	three.names(strings.Repeat("2", 32))
	three.start()
	d.play(5)
}

// names gives a host that is off another machine-id.
func (h *host) names(id string) {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(h.dir, "etc/machine-id"), []byte(id+"\n"), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

// TestRunbookRollBackTheFleet: two of three run a release that was found good,
// and is not. web-1 can go back; web-2 has written the next one over the release
// before; web-3 has only written it.
func TestRunbookRollBackTheFleet(t *testing.T) {
	d := newDrill(t, "roll-back-the-fleet", setUp{hosts: 3, tables: later})
	one, two, three := d.host("web-1"), d.host("web-2"), d.host("web-3")
	d.set(two, []string{"[server]", fmt.Sprintf("url = %q", two.insistent())})
	d.started()
	d.upgrade("1.1.0", "web-1", "web-2")
	d.settled("1.1.0", one, two)
	d.play(1)
	d.upgrade("1.1.0", "web-3")
	d.upgrade("1.1.1", "web-2")
	d.play(1)
	two.publish("1.0.0")
	d.play(2)
	d.settled("1.0.0", d.hosts...)
	d.play(1)
	if three.boots != 1 {
		t.Errorf("web-3 booted %d times", three.boots)
	}
	for _, h := range d.hosts {
		h.publish("1.1.2")
		if out, err := d.run(h, "drydock update"); err != nil {
			t.Errorf("%s: %v\n%s", h.name, err, out)
		}
	}
	d.play(1)
}

// insistent is a server that offers the host's release to whoever runs another
// one, be it newer, and its URL.
func (h *host) insistent() string {
	server := httptest.NewServer(&omaha.Handler{Updates: insistent{h.updates}})
	h.t.Cleanup(server.Close)
	return server.URL + "/"
}

type insistent struct{ *omaha.Static }

// Offer implements omaha.Updates.
func (i insistent) Offer(ctx context.Context, app omaha.App) (*omaha.Offer, error) {
	running := app.Version
	app.Version = "0.0.0"
	offer, err := i.Static.Offer(ctx, app)
	if offer != nil && offer.Version == running {
		return nil, err
	}
	return offer, err
}

package daemon

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drydock-os/drydock/cmd/internal/config"
	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/rebootlock/etcdtest"
	"github.com/drydock-os/drydock/testdata/real"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/link"
)

// shadowed prepares a daemon in shadow mode. It has no bus.
func shadowed(t *testing.T, extra string) *process {
	p := prepare(t, "")
	p.top = "shadow = true\n"
	p.policy(extra)
	return p
}

func (p *process) sum() (sum [sha256.Size]byte) {
	p.t.Helper()
	data, err := os.ReadFile(p.disk)
	if err != nil {
		p.t.Fatal(err)
	}
	return sha256.Sum256(data)
}

// files are all below the test's directory, but for the disk and the policy.
func (p *process) files() (names []string) {
	p.t.Helper()
	err := filepath.WalkDir(p.dir, func(path string, d os.DirEntry, err error) error {
		if name, _ := filepath.Rel(p.dir, path); err == nil && !d.IsDir() && name != "disk.img" && name != "drydock.toml" {
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return names
}

func (p *process) stage(f func(partition.Table) partition.Table) {
	p.t.Helper()
	d, err := partition.OpenDisk(p.disk)
	if err != nil {
		p.t.Fatal(err)
	}
	defer d.Close()
	c := partition.GPTPrio{Disk: d}
	table, err := c.Table()
	if err == nil {
		err = c.SetTable(f(table))
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

// TestShadowLeavesEverythingAlone runs a daemon in shadow mode over all that
// calls for an act: a checked-out update server, a damaged partition table, a slot
// on trial that is not well, a staged slot. Nothing but its notes is written, and
// nobody is asked.
func TestShadowLeavesEverythingAlone(t *testing.T) {
	var requests atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { requests.Add(1) }))
	defer server.Close()
	p := shadowed(t, "[server]\nurl = \""+server.URL+"/\"\n[health]\nunits = [\"no.service\"]\ntimeout = \"1s\"\nsettle = \"0s\"\n")
	p.stage(func(partition.Table) partition.Table { // A is on trial, B was good before
		return partition.Table{{Priority: 2, Tries: 0}, {Priority: 1, Successful: true}}
	})
	f, err := os.OpenFile(p.disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("overwritten"), 512+60); err != nil {
		t.Fatal(err)
	}
	p.write("root/proc/uptime", "3600.00 1.00\n")
	p.write("health.d/x", "")
	disk, files := p.sum(), p.files()
	stop := p.build().run()
	p.until("it would reject the release", func() bool {
		s := p.keeper.Status()
		return s.Shadow != nil && s.Shadow.Would == "reject" && s.OnTrial
	})
	for _, a := range []updater.Action{updater.ActCheck, updater.ActUpdate, updater.ActMarkGood, updater.ActMarkBad, updater.ActRollback, updater.ActReboot, updater.ActReset} {
		if _, err := p.server.Controller.Do(t.Context(), updater.Request{Action: a}); !errors.Is(err, updater.ErrRefused) {
			t.Errorf("%s: %v", a, err)
		}
	}
	if err := TrialState(p.Options); err != nil {
		t.Errorf("the trial guard is told: %v", err)
	}
	shadow := p.keeper.(*updater.Shadow)
	shadow.Hear(updater.Upstream{Running: true, Operation: updater.Downloading, NewVersion: "1.1.0", NewSize: 1})
	p.until("it hears of a download", func() bool { return len(shadow.History()) >= 2 })
	if err := stop(); err != nil {
		t.Error(err)
	}
	if p.sum() != disk {
		t.Error("the disk was written")
	}
	if got := p.files(); !slices.Equal(got, slices.Sorted(slices.Values(append(files, "state/shadow.json")))) {
		t.Errorf("files %q, before %q", got, files)
	}
	if n := requests.Load(); n > 0 {
		t.Errorf("the update server was asked %d times", n)
	}
	if log := p.log.String(); !strings.Contains(log, "update_engine downloads 1.1.0") {
		t.Errorf("the log says\n%s", log)
	}
	p.top = ""
	p.policy(noServer)
	if err := TrialState(p.Options); !errors.Is(err, ErrOnTrial) {
		t.Errorf("without shadow mode the trial guard is told: %v", err)
	}
}

func TestShadowTakesARestart(t *testing.T) {
	p := shadowed(t, noServer).build()
	p.run()
	p.until("it looks", func() bool { return p.keeper.Status().Booted == "A" })
	p.top = ""
	p.policy(noServer)
	p.reload <- os.Interrupt
	p.until("the status says so", func() bool {
		return slices.ContainsFunc(p.keeper.Status().Reasons, func(r updater.Reason) bool {
			return r.Kind == "policy" && strings.Contains(r.Text, "shadow takes a restart")
		})
	})
	if !p.keeper.Policy().Shadow {
		t.Error("shadow mode was left without a restart")
	}
}

// TestShadowSeesOtherServersAndKeys compares the policy with what upstream goes
// by.
func TestShadowSeesOtherServersAndKeys(t *testing.T) {
	pemOf := func() string {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	}
	p := prepare(t, noServer)
	ours, theirs := pemOf(), pemOf()
	file := p.write("key.pem", ours)
	p.policy(noServer + "[trust]\nkeys = [\"" + file + "\"]\n")
	root := filepath.Join(p.dir, "root")
	kinds := func() (kinds []string) {
		t.Helper()
		policy, err := config.LoadHost(filepath.Join(p.dir, "drydock.toml"), root)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range beside(policy, root) {
			kinds = append(kinds, r.Kind)
		}
		return kinds
	}
	expect := func(what string, want ...string) {
		t.Helper()
		if got := kinds(); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	expect("neither server nor key", "server", "keys")
	p.updateConf("GROUP=stable\nSERVER=http://127.0.0.1:1/\n")
	p.write("root/"+upstreamKey, ours)
	expect("alike")
	p.write("root/"+upstreamKey, ours+theirs)
	expect("another key as well", "keys")
	p.write("root/"+upstreamKey, "")
	expect("no key", "keys")
	p.write("root/"+upstreamKey, ours)
	p.updateConf("GROUP=beta\nSERVER=http://127.0.0.1:1/\n")
	expect("another group", "server")
}

// TestShadowIsNoMember: the group's lock is read in a real etcd, and nothing of it
// changes.
func TestShadowIsNoMember(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.Options{})
	store := &rebootlock.Etcd{Client: etcd.Client(t)}
	operator := rebootlock.Operator{Store: store, Keys: rebootlock.Keys{Cluster: "docks"}, Who: "ann", Now: time.Now}
	if _, _, err := operator.Apply(t.Context(), "default", rebootlock.Rules{Max: rebootlock.Max{Count: 1}}); err != nil {
		t.Fatal(err)
	}
	if err := operator.Freeze(t.Context(), "default", "exams"); err != nil {
		t.Fatal(err)
	}
	p := prepare(t, "")
	p.top, p.reboot = "shadow = true\n", "strategy = \"coordinated\"\nrespect_inhibitors = false\nrespect_sessions = false\n"
	p.policy(noServer + "[cluster]\nid = \"docks\"\nendpoints = [\"" + etcd.Endpoints()[0] + "\"]\n")
	everything := rebootlock.Range{Prefix: true, Key: "/"}
	before, err := store.Read(t.Context(), everything)
	if err != nil {
		t.Fatal(err)
	}
	stop := p.build().run()
	shadow := p.keeper.(*updater.Shadow)
	p.until("it looks", func() bool { return shadow.Status().Booted == "A" })
	p.stage(func(partition.Table) partition.Table {
		return partition.Table{{Priority: 1, Successful: true}, {Priority: 2, Tries: 1}}
	})
	shadow.Hear(updater.Upstream{Running: true, Operation: updater.NeedReboot, NewVersion: "1.1.0", NewSize: 1})
	p.until("the freeze is seen", func() bool {
		return slices.ContainsFunc(shadow.Status().Reasons, func(r updater.Reason) bool { return r.Kind == "freeze" })
	})
	if would := shadow.Status().Shadow.Would; would != "wait" {
		t.Errorf("it would %s", would)
	}
	var v rebootlock.View
	data, err := p.server.Cluster.Look(t.Context())
	if err := errors.Join(err, json.Unmarshal(data, &v)); err != nil || len(v.Groups) != 1 || len(v.Machines) != 0 {
		t.Errorf("the lock: %+v, %v", v, err)
	}
	if _, err := p.server.Cluster.Change(t.Context(), link.VerbThaw, []byte(`{"group":"default"}`), "ann"); !errors.Is(err, updater.ErrRefused) {
		t.Errorf("a change: %v", err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if after, err := store.Read(context.Background(), everything); err != nil || after.Revision != before.Revision {
		t.Errorf("revision %d, then %d, %v", before.Revision, after.Revision, err)
	}
}

// TestUnitsReadTheKeyAsTheDaemonDoes: the script that the units ask goes by the
// policy file alone, and must never say "upstream's" of a machine that drydockd
// keeps.
func TestUnitsReadTheKeyAsTheDaemonDoes(t *testing.T) {
	script := filepath.Join(real.Module(t), "dist", "lib", "upstream")
	dir := t.TempDir()
	file, state := filepath.Join(dir, "drydock.toml"), filepath.Join(dir, "state")
	upstreams := func(daemon string) bool {
		t.Helper()
		cmd := exec.Command(real.Program(t, "sh"), script)
		cmd.Env = append(os.Environ(), "DRYDOCKD="+daemon, "DRYDOCK_CONFIG="+file, "DRYDOCK_STATE_DIR="+state)
		out, err := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); len(out) > 0 || err != nil && code != 1 {
			t.Fatalf("%v: %s", err, out)
		}
		return err == nil
	}
	const rest = "[server]\nurl = \"http://127.0.0.1:1/\"\n"
	for _, text := range []string{
		"shadow = true\n", "shadow=true", "\tshadow\t=\ttrue # until Friday\n", "\"shadow\" = true\n", "'shadow' = true\n", "shadow = true\r\n",
		"state = \"/s\"\nshadow = true\n", "# shadow = false\nshadow = true\n", "shadow = true\n\n\n",
		"", "shadow = false\n", "#shadow = true\n", "shadow = false # true\n", "shadow_x = 1\n", "xshadow = true\n", "shadow = truely\n", "shadow = \"true\"\n", "SHADOW = true\n",
	} {
		if err := os.WriteFile(file, []byte(text+rest), 0o600); err != nil {
			t.Fatal(err)
		}
		if text != "" && !strings.HasSuffix(text, "\n") {
			os.WriteFile(file, []byte(text+"\n"+rest), 0o600)
		}
		p, err := config.Load(file)
		if got := upstreams("/bin/true"); got != (err == nil && p.Shadow) {
			t.Errorf("%q: the script says %v, the daemon %v (%v)", text, got, p.Shadow, err)
		}
		if !upstreams(filepath.Join(dir, "none")) {
			t.Errorf("%q: without drydockd the machine is not upstream's", text)
		}
	}
	// The rest of the file may be wrong, and the key in a table is another one.
	for text, want := range map[string]bool{"shadow = true\n[serve]\nx": true, "[server]\nshadow = true\n": false, "[[x]]\nshadow = true\n": false, "  [a]\nshadow = true\n": false} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := upstreams("/bin/true"); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
	os.Remove(file)
	if !upstreams("/bin/true") {
		t.Error("a machine that nobody put under drydock is not upstream's")
	}
	os.MkdirAll(state, 0o700)
	os.WriteFile(filepath.Join(state, "shadow.json"), nil, 0o600)
	if !upstreams("/bin/true") {
		t.Error("a machine that was in shadow mode alone is not upstream's")
	}
	os.WriteFile(filepath.Join(state, "memory.json"), nil, 0o600)
	if upstreams("/bin/true") {
		t.Error("a machine whose policy got lost is upstream's")
	}
}

package guest_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/cmd/internal/guest"
	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/rebootlock/etcdtest"
	"github.com/drydock-os/drydock/testdata/real"
	"github.com/drydock-os/drydock/updater"
)

// A bad release, and what a machine says when it was there.
type bad struct {
	guest.Release
	why string // within the reason of the rejection
}

// noVerdict is the reason of a release that never came so far as to judge itself.
const noVerdict = "without a verdict"

// The bad releases. What is wrong with each is one file, or one word on the
// kernel's command line.
var (
	// initHangs starts a system whose first process does nothing for ever: only
	// the watchdog, which the initrd has armed, ends that.
	initHangs = bad{guest.Release{Version: "1.0.1", Loader: guest.Modelled,
		Files: map[string]string{"usr/lib/systemd/systemd*": "#!/bin/sh\nexec sleep infinity\n"}}, noVerdict}
	sick = bad{guest.Release{Version: "1.0.2", Loader: guest.Modelled,
		Files: map[string]string{"etc/drydock/health.d/database*": "#!/bin/sh\necho no answer from the database\nexit 1\n"}}, "no answer from the database"}
	// daemonEnds has a drydockd that ends at once, and cannot answer the trial
	// guard either.
	daemonEnds = bad{guest.Release{Version: "1.0.1", Loader: guest.Modelled,
		Files: map[string]string{"usr/bin/drydockd*": "#!/bin/sh\nexit 1\n"}}, noVerdict}
	// daemonHangs neither gets ready nor ends, and lets the guard wait.
	daemonHangs = bad{guest.Release{Version: "1.0.1", Loader: guest.Modelled,
		Files: map[string]string{"usr/bin/drydockd*": "#!/bin/sh\nexec sleep infinity\n"}}, noVerdict}
	// initCrashes has the real systemd, which freezes when it crashes, and feeds
	// the watchdog no more.
	initCrashes = bad{guest.Release{Version: "1.0.2", Loader: guest.Modelled, Files: map[string]string{
		"etc/systemd/system/sysinit.target.wants/crash.service": "-> ../crash.service",
		"etc/systemd/system/crash.service":                      "[Unit]\nDefaultDependencies=no\nBefore=sysinit.target\n[Service]\nType=oneshot\nExecStart=/bin/sh -c 'kill -SEGV 1; sleep infinity'\n",
	}}, noVerdict}
	panicsUKI  = bad{guest.Release{Version: "1.0.1", Loader: guest.SystemdBoot, Options: "rdinit=/nonexistent"}, noVerdict}
	panicsGRUB = bad{guest.Release{Version: "1.0.1", Loader: guest.GRUB,
		Files: map[string]string{"boot/drydock-slot.cfg": "set drydock_slot_options=\"rdinit=/nonexistent\"\n"}}, noVerdict}
)

// once is a policy under which a trial that came back without a verdict is not
// tried again: that it is takes another boot of the bad release and one of the
// good one, and is shown where it costs least.
var once = map[string]string{"trial.retries": "0"}

// tries offers a bad release, and waits until the machine boots it.
func tries(t testing.TB, m *guest.Machine, b bad) guest.Image {
	t.Helper()
	img, boots := image(t, guest.Open(t), b.Release), m.Boots()
	m.Server.Offer(t, img)
	m.Do("drydock check")
	// Download, write and read back, then shut down.
	m.Until(6*time.Minute, "it boots "+b.Version, func(context.Context) bool { return m.Boots() > boots })
	return img
}

// turnsDown waits until a machine is back from a bad release and says why, and
// sees that it is not taken again although the server goes on to offer it. It was
// downloaded once, however often it was tried.
func turnsDown(t testing.TB, m *guest.Machine, b bad, img guest.Image, served int64) {
	t.Helper()
	// Trial, trial guard or watchdog, and the boot of the old release, twice where
	// the policy has it.
	m.Until(10*time.Minute, "it is back on 1.0.0 and has rejected "+b.Version, func(ctx context.Context) bool {
		s, err := m.Status(ctx)
		return err == nil && s.Release == "1.0.0" && !s.OnTrial && !s.Staged && s.Permit == "none" && len(s.Rejected) > 0 && s.Rejected[0].Version == b.Version
	})
	guest.Count(t, "rollbacks", 1)
	payload, err := os.Stat(img.Payload)
	if err != nil {
		t.Fatal(err)
	}
	if got, most := m.Server.Bytes.Load()-served, payload.Size()*11/10; got > most {
		t.Errorf("%s was downloaded more than once: %d bytes of %d", b.Version, got, payload.Size())
	}
	before := m.Server.Bytes.Load()
	out := m.Do("drydock update; [ $? = 3 ]")
	for _, want := range []string{"nothing to do: 1.0.0 stays", b.Version + " was rejected", b.why} {
		if !strings.Contains(out, want) {
			t.Errorf("drydock update on offer of the rejected %s says %q, want %q", b.Version, out, want)
		}
	}
	if got := m.Server.Bytes.Load() - before; got != 0 {
		t.Errorf("%d bytes of %s were downloaded again", got, b.Version)
	}
}

// fails is the whole story of a bad release.
func fails(t testing.TB, m *guest.Machine, b bad) {
	t.Helper()
	served := m.Server.Bytes.Load()
	turnsDown(t, m, b, tries(t, m, b), served)
}

// history is what a machine remembers, oldest first: "written 1.0.1".
func history(t testing.TB, m *guest.Machine) (lines []string) {
	t.Helper()
	var entries []updater.HistoryEntry
	if err := json.Unmarshal([]byte(m.Do("drydock history --json")), &entries); err != nil {
		t.Fatal(err)
	}
	for _, e := range slices.Backward(entries) {
		lines = append(lines, string(e.Type)+" "+e.Version)
	}
	return lines
}

// agree compares what was told with what happened.
func agree(t testing.TB, who string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s tells\n\t%s\nwant\n\t%s", who, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// rejected lists the releases that a machine takes no more.
func rejected(t testing.TB, m *guest.Machine) (versions []string) {
	t.Helper()
	s, err := m.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range slices.Backward(s.Rejected) {
		versions = append(versions, r.Version)
	}
	return versions
}

// updates takes a good release.
func updates(t testing.TB, m *guest.Machine, version string) {
	t.Helper()
	m.Server.Offer(t, image(t, guest.Open(t), guest.Release{Version: version, Loader: m.Release.Release.Loader}))
	m.Do("drydock check")
	m.Settled(8*time.Minute, version)
	guest.Count(t, "updates", 1)
}

// TestReleaseWhoseKernelPanics: the kernel reboots by panic=, the firmware has
// spent the only try, and boots the old release. The next one is taken.
func TestReleaseWhoseKernelPanics(t *testing.T) {
	t.Parallel()
	for _, b := range []bad{panicsUKI, panicsGRUB} {
		t.Run(string(b.Loader), func(t *testing.T) {
			t.Parallel()
			l := guest.Open(t)
			if b.Loader == guest.GRUB && !guest.Full() {
				t.Skip("DRYDOCK_BOOT=full runs it")
			}
			l.Processor(t)
			m := l.Machine(t, guest.Spec{Name: "edge", Release: image(t, l, guest.Release{Version: "1.0.0", Loader: b.Loader}), Policy: once})
			m.Start(5*time.Minute, "1.0.0")
			fails(t, m, b)
			if n := strings.Count(m.Console(), "Kernel panic - not syncing"); n != 1 {
				t.Errorf("the kernel panicked %d times, want once", n)
			}
			updates(t, m, "1.0.2")
			agree(t, "drydock history", history(t, m), "written 1.0.1", "rejected 1.0.1", "written 1.0.2", "good 1.0.2")
			agree(t, "drydock status", rejected(t, m), "1.0.1")
		})
	}
}

// TestReleasesThatFail takes two machines through bad releases: db waits for its
// trial guard while web, one of a group with a reboot lock, goes from one bad
// release to the next, and then to a good one in whose trial the power fails.
func TestReleasesThatFail(t *testing.T) {
	t.Parallel()
	l := guest.Open(t)
	group := startGroup(t)
	l.Processor(t)
	good := image(t, l, guest.Release{Version: "1.0.0", Loader: guest.Modelled})

	db := l.Machine(t, guest.Spec{Name: "db", Release: good, Policy: once})
	db.Start(5*time.Minute, "1.0.0")
	isSandboxed(t, db)
	broken := tries(t, db, daemonEnds)

	web := l.Machine(t, guest.Spec{Name: "web", Release: good, Policy: group.policy})
	web.Start(5*time.Minute, "1.0.0")
	fails(t, web, initHangs)
	if n := web.Events("WATCHDOG"); n != 2 { // the trial, and the one retry
		t.Errorf("the watchdog reset the machine %d times, want 2", n)
	}
	fails(t, web, sick)
	powerFails(t, web, group)
	agree(t, "drydock history", history(t, web),
		"written 1.0.1", "returned 1.0.1", "rejected 1.0.1",
		"written 1.0.2", "rejected 1.0.2", "rolled-back 1.0.0",
		"written 1.0.3", "returned 1.0.3", "good 1.0.3")
	agree(t, "drydock status", rejected(t, web), "1.0.1", "1.0.2")
	agree(t, "the group's journal", group.journal(t),
		"granted 1.0.1", "rolled-back 1.0.1", "granted 1.0.2", "rolled-back 1.0.2", "granted 1.0.3", "updated 1.0.3")

	turnsDown(t, db, daemonEnds, broken, 0)
	guarded(t, db)
}

// guarded sees that it was the trial guard who rebooted a machine.
func guarded(t testing.TB, m *guest.Machine) {
	t.Helper()
	said := m.Do("journalctl --no-pager -o cat -u drydock-trial.service")
	for _, want := range []string{
		"drydockd cannot tell whether this release is on its trial",
		"this release is on its trial and was not found good in time: rebooting",
	} {
		if strings.Count(said, want) != 1 {
			t.Errorf("the trial guard said %q, want once %q", said, want)
		}
	}
	agree(t, "drydock history", history(t, m), "written 1.0.1", "rejected 1.0.1")
}

// TestReleasesThatFailSlowly has the faults that take longest to be noticed.
func TestReleasesThatFailSlowly(t *testing.T) {
	t.Parallel()
	l := guest.Open(t)
	if !guest.Full() {
		t.Skip("DRYDOCK_BOOT=full runs it")
	}
	l.Processor(t)
	m := l.Machine(t, guest.Spec{Name: "db", Release: image(t, l, guest.Release{Version: "1.0.0", Loader: guest.Modelled}), Policy: once})
	m.Start(5*time.Minute, "1.0.0")
	fails(t, m, daemonHangs)
	guarded(t, m)
	fails(t, m, initCrashes)
	if n := m.Events("WATCHDOG"); n != 1 {
		t.Errorf("the watchdog reset the machine %d times, want once", n)
	}
	updates(t, m, "1.0.3")
	agree(t, "drydock status", rejected(t, m), "1.0.1", "1.0.2")
}

// powerFails cuts the power while a machine boots a good release, on trial. The
// old one comes up, with the permit still held, and goes again.
func powerFails(t testing.TB, m *guest.Machine, g group) {
	t.Helper()
	tries(t, m, bad{Release: guest.Release{Version: "1.0.3", Loader: guest.Modelled}})
	time.Sleep(3 * time.Second) // into the boot; none is done in so short a time
	m.Cut()
	guest.Count(t, "power cuts", 1)
	if b := m.Flags()[partition.B]; b.Successful || b.Tries != 0 || b.Priority == 0 {
		t.Fatalf("flags of slot B after a power cut during its trial: %+v, want no try left, and not good", b)
	}
	held := g.holder(t)
	if held.Machine != m.ID() || held.Phase != rebootlock.PhaseRebooting || held.To != "1.0.3" {
		t.Errorf("the permit of a machine without power: %+v, want it held, and rebooting", held)
	}
	m.PowerOn()
	m.Until(5*time.Minute, "1.0.0 is back, and knows what came back", func(ctx context.Context) bool {
		r, err := m.Run(ctx, "/usr/bin/drydock", "history")
		return err == nil && r.Code == 0 && strings.Contains(r.Out, "nobody recorded why")
	})
	if again := g.holder(t); again.Machine != m.ID() || !again.Granted.Equal(held.Granted) {
		t.Errorf("after the power came back the permit is %+v, want the one of before, %+v", again, held)
	}
	m.Settled(8*time.Minute, "1.0.3")
	guest.Count(t, "updates", 1)
}

// exposure is the figure that DESIGN.md states of the sandbox.
var exposure = regexp.MustCompile(`has exposure ([0-9.]+) by .systemd-analyze security`)

// isSandboxed asks the guest's systemd what it thinks of the daemon's sandbox.
func isSandboxed(t testing.TB, m *guest.Machine) {
	t.Helper()
	design, err := os.ReadFile(filepath.Join(real.Module(t), "DESIGN.md"))
	if err != nil {
		t.Fatal(err)
	}
	number := func(pattern *regexp.Regexp, text string) float64 {
		found := pattern.FindStringSubmatch(text)
		if found == nil {
			t.Fatalf("no %v in %q", pattern, text)
		}
		n, err := strconv.ParseFloat(found[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	most := number(exposure, string(design))
	got := number(regexp.MustCompile(`exposure level for drydockd.service: ([0-9.]+)`), m.Do("systemd-analyze security --no-pager drydockd.service | tail -n 3"))
	if got > most {
		t.Errorf("drydockd.service has exposure %.1f in a guest, and DESIGN.md says %.1f", got, most)
	}
}

// A group is a reboot lock in an etcd of the host, which guests reach under
// 10.0.2.2 (QEMU documentation, "Using the user mode network stack").
type group struct {
	policy   map[string]string // of its machines
	operator rebootlock.Operator
}

func startGroup(t testing.TB) group {
	t.Helper()
	etcd := etcdtest.Start(t, etcdtest.Options{})
	store, err := rebootlock.DialEtcd(rebootlock.EtcdOptions{Endpoints: etcd.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return group{
		policy: map[string]string{
			"trial.retries": "1", "health.timeout": `"40s"`, "reboot.strategy": `"coordinated"`, "cluster.id": `"guests"`, "group.max": "1",
			"cluster.endpoints": "[" + strconv.Quote(strings.Replace(etcd.Endpoints()[0], "127.0.0.1", "10.0.2.2", 1)) + "]",
		},
		operator: rebootlock.Operator{Store: store, Keys: rebootlock.Keys{Cluster: "guests"}, Who: "test", Now: time.Now},
	}
}

// holder is the group's one permit.
func (g group) holder(t testing.TB) rebootlock.Permit {
	t.Helper()
	view, err := g.operator.Look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(view.Groups) != 1 || len(view.Groups[0].Holders) != 1 {
		t.Fatalf("groups %+v, want one with one holder", view.Groups)
	}
	return view.Groups[0].Holders[0].Permit
}

// journal is what happened to permits, oldest first: "granted 1.0.1".
func (g group) journal(t testing.TB) (lines []string) {
	t.Helper()
	entries, err := g.operator.Journal(t.Context(), "default", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range slices.Backward(entries) {
		switch e.What {
		case "granted", "updated", "rolled-back", "aborted", "taken-away":
			lines = append(lines, e.What+" "+e.Release)
		}
	}
	return lines
}

package doctor

import (
	"context"
	"encoding/pem"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/bus"
	"github.com/drydock-os/drydock/updater/policy"
)

func TestHealthyHost(t *testing.T) {
	for _, control := range []string{"gptprio", "systemd-boot", "grub"} {
		t.Run(control, func(t *testing.T) {
			r := newBody(t, control).examine()
			healthy(t, r)
			if !r.Healthy || r.Image || len(r.Checks) < 35 {
				t.Errorf("healthy %v, image %v, %d checks", r.Healthy, r.Image, len(r.Checks))
			}
		})
	}
}

// A check that hangs must not hang the doctor, nor count as well.
func TestCheckThatHangsIsUnknown(t *testing.T) {
	d := Doctor{Now: time.Now, Patience: 20 * time.Millisecond}
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	f := d.one(t.Context(), check{id: "x.hangs", look: func(context.Context, *patient) Finding { <-hang; return ok("never") }}, nil)
	if f.ID != "x.hangs" || f.Verdict != Unknown || !f.Fails() || f.Seen != "did not answer in 20ms" {
		t.Errorf("%+v", f)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if f := d.one(ctx, check{look: func(context.Context, *patient) Finding { <-hang; return ok("never") }}, nil); f.Seen != "interrupted" || f.Verdict != Unknown {
		t.Errorf("%+v", f)
	}
}

func TestUnknownIsNeverOK(t *testing.T) {
	for f, fails := range map[Finding]bool{
		{Verdict: OK}: false, {Verdict: Warning}: false, {Verdict: Wrong}: true, {Verdict: Unknown}: true, {Verdict: Unknown, Minor: true}: false,
	} {
		if f.Fails() != fails {
			t.Errorf("%+v: fails %v", f, !fails)
		}
	}
	if f := complain("good", []complaint{{verdict: Unknown, seen: "a"}, {verdict: Warning, seen: "b"}}); f.Verdict != Unknown || f.Seen != "a; b" {
		t.Errorf("%+v", f)
	}
}

// Without a policy nothing that hangs on it is called well.
func TestPolicyThatDoesNotReadKeepsTheRestUnknown(t *testing.T) {
	b := newBody(t, "gptprio")
	b.set("reboot", "stratgey = \"off\"\n")
	r := b.examine()
	if f := finding(t, r, "policy.file"); f.Verdict != Wrong || !strings.Contains(f.Seen, "stratgey") || !strings.Contains(f.Seen, "reboot.strategy") {
		t.Errorf("%+v", f)
	}
	if f := finding(t, r, "slots.table"); f.Verdict != Unknown || f.Because != "policy.file" || !f.Fails() {
		t.Errorf("%+v", f)
	}
	if f := finding(t, r, "trial.panic"); f.Verdict != OK {
		t.Errorf("%+v: it needs no policy", f)
	}
}

// A tree that does not run has only its files looked at.
func TestImage(t *testing.T) {
	b := newBody(t, "gptprio")
	b.remove("proc")
	image := func(d *Doctor) { d.Bus = "" }
	r := b.examine(image)
	healthy(t, r)
	if !r.Image || !r.Healthy {
		t.Errorf("image %v, healthy %v", r.Image, r.Healthy)
	}
	b.remove("etc/systemd/system/sysinit.target.wants")
	b.remove("usr/lib/systemd/system/drydockd.service")
	r = b.examine(image)
	if f := finding(t, r, "trial.timer"); f.Verdict != Wrong || !strings.Contains(f.Mend, "systemctl enable") {
		t.Errorf("%+v", f)
	}
	if f := finding(t, r, "daemon.unit"); f.Verdict != Wrong || !strings.Contains(f.Seen, "not-found") {
		t.Errorf("%+v", f)
	}
	for _, f := range r.Checks {
		if strings.HasPrefix(f.ID, "slots.") || strings.HasPrefix(f.ID, "etcd.") {
			t.Errorf("%s was looked at", f.ID)
		}
	}
}

// A system that runs below --root is not judged by this machine's bus.
func TestAnotherSystemIsNotJudgedByThisBus(t *testing.T) {
	r := newBody(t, "gptprio").examine(func(d *Doctor) { d.Bus = "" })
	for _, id := range []string{"bus.reachable", "daemon.answers"} {
		if f := finding(t, r, id); f.Verdict != Unknown || !strings.Contains(f.Mend, "--bus") {
			t.Errorf("%+v", f)
		}
	}
}

func TestEveryCheckHasAName(t *testing.T) {
	seen := map[string]bool{"policy.file": true}
	for _, c := range all() {
		if seen[c.id] || strings.Count(c.id, ".") != 1 || c.look == nil {
			t.Errorf("check %q", c.id)
		}
		seen[c.id] = true
	}
}

// What the etcd checks need is no part of a machine in no cluster.
func TestChecksOfAClusterAreForMachinesInOne(t *testing.T) {
	in := policy.Policy{Cluster: policy.Cluster{ID: "x"}}
	if !inCluster(in) || inCluster(policy.Policy{}) || inCluster(policy.Policy{Cluster: in.Cluster, FleetLock: policy.FleetLock{URL: "http://x"}}) {
		t.Error("inCluster")
	}
}

func TestBusThatIsAway(t *testing.T) {
	b := newBody(t, "gptprio")
	r := b.examine(func(d *Doctor) { d.Bus = "unix:path=/nonexistent" })
	if f := finding(t, r, "bus.reachable"); f.Verdict != Wrong || !strings.Contains(f.Mend, "dbus.socket") {
		t.Errorf("%+v", f)
	}
	for _, id := range []string{"bus.logind", "bus.polkit", "daemon.answers", "daemon.unit", "trial.timer"} {
		if f := finding(t, r, id); f.Verdict != Unknown || f.Because != "bus.reachable" {
			t.Errorf("%+v", f)
		}
	}
}

func TestJudgements(t *testing.T) {
	running := &patient{names: func() (map[string]bus.NameState, error) {
		return map[string]bus.NameState{bus.Name: {Owned: true}}, nil
	},
		status: func() (updater.Status, error) { return updater.Status{}, nil }}
	vfat := bootFacts{control: policy.SystemdBoot, path: "/efi", kind: "vfat", own: true}
	btrfs, stacked := vfat, vfat
	btrfs.kind = "btrfs"
	stacked.control, stacked.stacked = policy.GRUB, "software RAID"
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for what, test := range map[string]struct {
		f       Finding
		verdict Verdict
		mend    string
	}{
		"no polkit":             {lookPolkit(t.Context(), running), Warning, "install polkit"},
		"no name of upstream's": {lookNames(t.Context(), running), Warning, "bus.files"},
		"clock not kept":        {judgeClock(unix.TIME_ERROR, unix.STA_UNSYNC), Warning, "NTP"},
		"clock kept":            {judgeClock(unix.TIME_OK, 0), OK, ""},
		"ESP":                   {judgeBoot(vfat), OK, ""},
		"ESP of btrfs":          {judgeBoot(btrfs), Wrong, "boot partition"},
		"GRUB on RAID":          {judgeBoot(stacked), Wrong, "plain partition"},
		"no inodes":             {judgeSpace(spaceFacts{of: "/x", free: 1 << 40, counted: true, crucial: true}), Wrong, "remove files"},
		"before it was made":    {judgeTime(now, now.Add(time.Hour), "this program was made"), Wrong, "timedatectl"},
		"an old etcd":           {judgeQuorum(etcdFacts{answers: []rebootlock.EtcdAnswer{{Endpoint: "e", Version: "3.3.27", Leader: "1", Cluster: "c"}}}), Wrong, "upgrade"},
		"no leader":             {judgeQuorum(etcdFacts{answers: []rebootlock.EtcdAnswer{{Endpoint: "e", Version: "3.6.0", Cluster: "c"}}}), Wrong, "more than half"},
		"nearly full":           {judgeEtcdSpace(etcdFacts{answers: []rebootlock.EtcdAnswer{{Bytes: 90, Quota: 100}}}), Warning, "defrag"},
		"corrupt":               {judgeEtcdSpace(etcdFacts{answers: []rebootlock.EtcdAnswer{{Alarms: []string{"memberID:1 alarm:CORRUPT"}}}}), Wrong, "replace"},
		"panic at once":         {judgePanic("panic=-1", "-1"), OK, ""},
		"panic is no number":    {judgePanic("panic=soon", "30"), Wrong, "panic=30"},
		"locksmith beside external": {judgeRivals(bus.UnitSetup{}, bus.UnitSetup{UnitState: bus.UnitState{ActiveState: "active"}},
			policy.Policy{Reboot: policy.Reboot{Strategy: policy.External}}), OK, ""},
		"guard that is not known": {judgeCoordinated(policy.Coordinated, map[string]Finding{"trial.panic": {Verdict: Unknown}}), Unknown, ""},
	} {
		if test.f.Verdict != test.verdict || !strings.Contains(test.f.Mend, test.mend) {
			t.Errorf("%s: %+v", what, test.f)
		}
	}
}

func TestCertificatesThatEnd(t *testing.T) {
	server := httptest.NewUnstartedServer(nil)
	server.StartTLS()
	server.Close()
	cert := server.Certificate()
	data := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
	for at, want := range map[time.Time]string{
		cert.NotAfter.Add(time.Hour): "ended on", cert.NotAfter.Add(-time.Hour): "ends on", cert.NotBefore.Add(-time.Hour): "begins on", cert.NotBefore.Add(time.Hour): "",
	} {
		found := judgeCertificates("x.pem", data, at)
		if want == "" && len(found) == 0 {
			continue
		}
		if len(found) != 1 || !strings.Contains(found[0].seen, want) || found[0].mend == "" {
			t.Errorf("%v: %+v", at, found)
		}
	}
}

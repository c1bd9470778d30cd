package guest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/cmd/internal/doctor"
	"github.com/drydock-os/drydock/cmd/internal/guest"
	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/rebootlock/etcdtest"
	"github.com/drydock-os/drydock/updater"
)

// A harbour is a cluster on an etcd of the host, as an operator's laptop sees it.
type harbour struct {
	t        testing.TB
	l        *guest.Lab
	endpoint string // on the host
	gangway  string // for guests
}

func openHarbour(t testing.TB, l *guest.Lab) harbour {
	t.Helper()
	endpoint := etcdtest.Start(t, etcdtest.Options{Direct: true}).Endpoints()[0]
	return harbour{t, l, endpoint, "http://10.0.2.2:" + gangway(t, strings.TrimPrefix(endpoint, "http://"))}
}

// gangway passes connections to a port of 127.0.0.1, which is what guests reach of
// the host, on to an address. It returns the port.
func gangway(t testing.TB, to string) (port string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	pass := func(to, from net.Conn) {
		io.Copy(to, from)
		to.Close()
	}
	go func() {
		for {
			guest, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				guest.Close()
				continue
			}
			go pass(guest, server)
			go pass(server, guest)
		}
	}()
	_, port, _ = net.SplitHostPort(listener.Addr().String())
	return port
}

// policy is what a machine's policy says of it: one permit.
func (h harbour) policy(more map[string]string) map[string]string {
	keys := map[string]string{
		"reboot.strategy": `"coordinated"`, "cluster.id": `"harbour"`, "group.max": `"1"`,
		"cluster.endpoints": fmt.Sprintf("[%q]", h.gangway),
	}
	for key, value := range more {
		keys[key] = value
	}
	return keys
}

// lock runs `drydock lock` on the host.
func (h harbour) lock(args ...string) string {
	h.t.Helper()
	return h.l.Drydock(h.t, append([]string{"lock", "--endpoints", h.endpoint, "--cluster", "harbour"}, args...)...)
}

// look is the only group, once it is there.
func (h harbour) look() (v rebootlock.View) {
	h.t.Helper()
	if err := json.Unmarshal([]byte(h.lock("status", "--json")), &v); err != nil {
		h.t.Fatal(err)
	}
	return v
}

// journal is what happened to the lock, oldest first: "granted", "aborted" and so
// on.
func (h harbour) journal() (entries []rebootlock.Entry) {
	h.t.Helper()
	if err := json.Unmarshal([]byte(h.lock("journal", "--json", "-n", "0")), &entries); err != nil {
		h.t.Fatal(err)
	}
	slices.Reverse(entries)
	return entries
}

// A ship is a machine that is kept from rebooting.
type ship struct {
	*guest.Machine
	t     testing.TB
	boots int // that it may have had so far
}

// waits waits until the status gives a reason with these words, for programs and
// for people, with no permit and nothing staged or drained; and fails the test if
// the machine rebooted.
func (s ship) waits(kind, words string) {
	s.t.Helper()
	var last updater.Status
	defer func() {
		if s.t.Failed() {
			s.t.Logf("last status: %+v", last)
		}
	}()
	s.Until(4*time.Minute, kind+": "+words, func(ctx context.Context) bool {
		if got := s.Boots(); got != s.boots {
			s.t.Fatalf("%s booted %d times, want %d: it was to wait because of %s", s.Name, got, s.boots, words)
		}
		status, err := s.Status(ctx)
		last = status
		rests := !status.Staged && !status.Drained && status.Permit != "held"
		return err == nil && rests && slices.ContainsFunc(status.Reasons, func(r updater.Reason) bool {
			return r.Kind == kind && strings.Contains(r.Text, words)
		})
	})
	if text := s.Do("drydock status"); !strings.Contains(text, words) {
		s.t.Errorf("drydock status does not say %q:\n%s", words, text)
	}
}

// atHook waits until the release's hook runs, which is while the permit is held,
// the work is away, and nothing is staged.
func (s ship) atHook() {
	s.t.Helper()
	s.Until(5*time.Minute, "the hook runs", func(ctx context.Context) bool {
		r, err := s.Run(ctx, "/usr/bin/test", "-e", "/run/hook-runs")
		return err == nil && r.Code == 0
	})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if status, err := s.Status(ctx); err != nil || status.StepName != "stage" || status.Permit != "held" || !status.Drained {
		s.t.Fatalf("%+v, %v: want the permit held and the machine drained", status, err)
	}
}

// gate is a post-install hook that waits until it is let through, as one does
// that fetches extensions. The scheduler of these machines has nothing to move, so
// this is what takes time between drain and reboot.
const gate = `#!/bin/sh
: > /run/hook-runs
until [ -e /run/hook-may-end ]; do sleep 1; done
rm -f /run/hook-runs /run/hook-may-end
`

const (
	inhibit = "systemd-run -q --unit=backup systemd-inhibit --what=shutdown --mode=block --who=backup --why='the nightly backup runs' sleep infinity"
	login   = `systemd-run -q --unit=visitor sh -c "sleep infinity | script -qc 'login -f root' /dev/null"`
	reload  = "systemctl reload drydockd.service"
)

// TestInTheWay has one machine, with an update that is written, meet everything
// that may be in the way of its reboot, one after the other. It reboots when the
// last is gone, and not before.
func TestInTheWay(t *testing.T) {
	t.Parallel()
	l := guest.Open(t)
	old := image(t, l, guest.Release{Version: "1.0.0", Loader: guest.Modelled})
	fresh := image(t, l, guest.Release{Version: "1.0.1", Loader: guest.Modelled, Files: map[string]string{"postinst*": gate}})
	h := openHarbour(t, l)
	l.Processor(t)
	shut := fmt.Sprintf(`[{ start = %q, length = "1h" }]`, time.Now().UTC().Add(3*time.Hour).Format("15:04"))
	m := l.Machine(t, guest.Spec{Name: "web", Release: old, Policy: h.policy(map[string]string{"reboot.windows": shut})})
	m.Start(5*time.Minute, "1.0.0")
	examine(t, m, doctor.Wrong) // strategy coordinated must not be used then

	s := ship{m, t, 1}
	m.Server.Offer(t, fresh)
	m.Do("drydock update --no-wait || true")
	s.waits("window", "reboots wait for their window")
	m.Do(inhibit + ` && sed -i 's/^windows = .*/windows = []/' /etc/drydock/drydock.toml && ` + reload)
	s.waits("inhibitor", "the nightly backup runs")
	m.Do(login + " && until loginctl list-sessions --no-legend | grep -q root; do sleep 1; done; systemctl stop backup.service && " + reload)
	s.waits("session", "root is logged in")
	h.lock("freeze", "--reason", "the switch is replaced")
	m.Do("systemctl stop visitor.service && " + reload)
	s.waits("freeze", "the switch is replaced")
	s.undone(h)
	s.asked(h)
}

// undone stops the machine twice when it holds its permit and has been drained:
// by a freeze that its fence sees before it stages, and by an inhibitor that is
// seen after it has staged.
func (s ship) undone(h harbour) {
	s.t.Helper()
	h.lock("thaw")
	s.atHook()
	h.lock("freeze", "--reason", "a database fails over")
	s.Do("touch /run/hook-may-end")
	s.waits("freeze", "a database fails over")
	if by := "frozen by " + operator(h); !strings.Contains(s.Do("drydock status"), by) {
		s.t.Errorf("drydock status does not say %q", by)
	}
	h.ended(1, "aborted")

	h.lock("thaw")
	s.atHook()
	s.Do(inhibit + " && touch /run/hook-may-end")
	s.waits("inhibitor", "the nightly backup runs")
	if log := s.Do("journalctl -b -u drydockd.service -o cat"); !strings.Contains(log, "is no longer next to boot") {
		s.t.Errorf("nothing was unstaged:\n%s", log)
	}
	h.ended(2, "aborted")

	s.Do("touch /run/hook-may-end && systemctl stop backup.service && " + reload)
	s.Settled(6*time.Minute, "1.0.1")
	guest.Count(s.t, "updates", 1)
	if got := s.Boots(); got != 2 {
		s.t.Errorf("booted %d times, want 2", got)
	}
	h.ended(3, "updated")
}

// asked has a reboot asked for while an operator holds the group's only permit
// for another machine.
func (s ship) asked(h harbour) {
	s.t.Helper()
	s.boots = s.Boots()
	other := strings.Repeat("ab", 16)
	h.lock("acquire", other, "--group", "default", "--reason", "the rack is rewired")
	s.Until(2*time.Minute, "the operator has the permit", func(context.Context) bool {
		groups := h.look().Groups
		return len(groups) == 1 && len(groups[0].Holders) == 1 && groups[0].Holders[0].Machine == other
	})
	const bootID = "cat /proc/sys/kernel/random/boot_id"
	before := s.Do(bootID)
	s.Do("drydock reboot --reason kernel-args")
	s.waits("queued", "waits in the queue for a permit to reboot")
	if text := s.Do("drydock status"); !strings.Contains(text, "reboot, as an operator asked") {
		s.t.Errorf("drydock status does not say what was asked:\n%s", text)
	}
	if q := h.look().Groups[0].Queue; len(q) != 1 || q[0].Machine != s.ID() || q[0].Reason != "reboot: kernel-args" {
		s.t.Errorf("the queue is %+v", q)
	}
	h.lock("release", other, "--group", "default")
	s.Until(3*time.Minute, "it reboots", func(context.Context) bool { return s.Boots() > s.boots })
	s.Settled(5*time.Minute, "1.0.1")
	if after := s.Do(bootID); after == before || s.Boots() != s.boots+1 {
		s.t.Errorf("boot-id %s after %s, %d boots more", after, before, s.Boots()-s.boots)
	}
	h.ended(5, "rebooted") // the operator's own was the fourth
}

// ended waits until n permits have ended, and compares how the last one did. An
// end is booked by the coordinator's next pass.
func (h harbour) ended(n int, want string) {
	h.t.Helper()
	var ends []string
	for range 30 {
		ends = nil
		for _, e := range h.journal() {
			if slices.Contains([]string{"aborted", "updated", "rebooted", "rolled-back", "taken-away"}, e.What) {
				ends = append(ends, e.What)
			}
		}
		if len(ends) >= n {
			break
		}
		time.Sleep(time.Second)
	}
	if len(ends) != n || ends[n-1] != want {
		h.t.Errorf("permits ended as %v, want %d and the last as %s", ends, n, want)
	}
}

// operator is who froze the group last, as the journal has it.
func operator(h harbour) string {
	for _, e := range slices.Backward(h.journal()) {
		if e.What == "frozen" {
			return e.Who
		}
	}
	h.t.Fatal("the journal knows of no freeze")
	return ""
}

// lacks says whether a check finds a guest not well of what it really lacks.
func lacks(m *guest.Machine, id string) bool {
	switch id {
	case "clock.synchronised": // nobody keeps the guests' clock
		return true
	case "space.packages": // the guests' disk is small
		return true
	case "boot.directory": // the test is the firmware, and takes the kernels out of the slots
		return m.Release.Release.Loader == guest.Modelled
	}
	return false
}

// examine has a healthy guest examined by `drydock doctor`, which must find what a
// guest lacks and nothing else; and then one whose trial guard is masked, which is
// as bad as the verdict without.
func examine(t *testing.T, m *guest.Machine, without doctor.Verdict) {
	t.Helper()
	for _, f := range checks(t, m) {
		if f.Verdict != doctor.OK && !lacks(m, f.ID) {
			t.Errorf("doctor, of a healthy guest: %+v", f)
		}
	}
	m.Do("systemctl mask -q drydock-trial.timer")
	found := checks(t, m)
	m.Do("systemctl unmask -q drydock-trial.timer && systemctl start drydock-trial.timer")
	for id, want := range map[string]doctor.Verdict{"trial.timer": doctor.Wrong, "trial.coordinated": without} {
		if !slices.ContainsFunc(found, func(f doctor.Finding) bool { return f.ID == id && f.Verdict == want }) {
			t.Errorf("doctor does not say %s of %s where the timer is masked: %+v", want, id, found)
		}
	}
}

func checks(t *testing.T, m *guest.Machine) []doctor.Finding {
	t.Helper()
	var report doctor.Report
	if err := json.Unmarshal([]byte(m.Do("drydock doctor --json || true")), &report); err != nil || len(report.Checks) == 0 {
		t.Fatalf("doctor: %+v, %v", report, err)
	}
	return report.Checks
}

// TestDoctor examines a guest with firmware and systemd-boot.
func TestDoctor(t *testing.T) {
	t.Parallel()
	l := guest.Open(t)
	old := image(t, l, guest.Release{Version: "1.0.0", Loader: guest.SystemdBoot})
	l.Processor(t)
	m := l.Machine(t, guest.Spec{Name: "web", Release: old})
	m.Start(5*time.Minute, "1.0.0")
	examine(t, m, doctor.Warning)
}

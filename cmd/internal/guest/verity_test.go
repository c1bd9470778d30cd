package guest_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/cmd/internal/guest"
	"github.com/drydock-os/drydock/partition"
)

const (
	// needless is a file that no boot reads, with blocks of its own.
	needless = "usr/share/guest/needless"
	// needed is what PID 1 is linked with.
	needed = "usr/lib/x86_64-linux-gnu/systemd/libsystemd-shared-252.so"
)

// rotting is a release whose root is verified, for a disk that rots.
func rotting(t testing.TB, l *guest.Lab, loader guest.Loader, version string) guest.Image {
	t.Helper()
	var text strings.Builder
	for h := sha256.Sum256([]byte(version)); text.Len() < 400<<10; h = sha256.Sum256(h[:]) {
		fmt.Fprintf(&text, "%x\n", h)
	}
	return image(t, l, guest.Release{Version: version, Loader: loader, Verity: true, Files: map[string]string{needless: text.String()}})
}

func spot(t testing.TB, img guest.Image, file string) int64 {
	t.Helper()
	at, err := img.Place(file)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// runsVerified checks that the root is dm-verity's, over the slot and with the root
// hash of a release, and that a block that is read wrong panics on a trial alone.
func runsVerified(t *testing.T, m *guest.Machine, img guest.Image, slot string, trial bool) {
	t.Helper()
	if source := strings.TrimSpace(m.Do("findmnt --noheadings --output SOURCE /")); source != "/dev/mapper/root" {
		t.Errorf("%s is mounted at /", source)
	}
	status := m.Do("veritysetup status root; echo node: $(readlink -f /dev/disk/by-partlabel/ROOT-" + slot + "); veritysetup status root | sed -n 's/^ *data device: */data: /p'")
	for _, want := range []string{"VERITY", "verified", img.Hash} {
		if !strings.Contains(status, want) {
			t.Errorf("no %q in %s", want, status)
		}
	}
	node, data := lineAfter(status, "node: "), lineAfter(status, "data: ")
	if node == "" || node != data {
		t.Errorf("ROOT-%s is %q, and %q is verified: %s", slot, node, data, status)
	}
	if strings.Contains(status, "panic_on_corruption") != trial {
		t.Errorf("on trial: %v, and the modes are %s", trial, status)
	}
	if s, err := m.Status(t.Context()); err != nil || s.Booted != slot || s.Release != img.Release.Version {
		t.Errorf("drydockd finds slot %q with %q: %v", s.Booted, s.Release, err)
	}
}

// lineAfter is what follows a word up to the end of its line.
func lineAfter(text, word string) string {
	_, rest, _ := strings.Cut(text, word)
	line, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSpace(line)
}

// waitWritten waits until the passive slot holds a release.
func waitWritten(m *guest.Machine, version string) {
	m.Until(10*time.Minute, version+" is written", func(ctx context.Context) bool {
		s, err := m.Status(ctx)
		return err == nil && s.Written && s.NewVersion == version
	})
}

// A byte that changes in the passive slot after it was written and verified is
// noticed before the slot is staged: it is written again, and then booted. From A
// to B, and back to A with the next release.
func TestVerityPassiveSlot(t *testing.T) {
	t.Parallel()
	l := guest.Open(t)
	l.Processor(t)
	first, second := rotting(t, l, guest.Modelled, "1.0.0"), rotting(t, l, guest.Modelled, "1.0.1")
	m := l.Machine(t, guest.Spec{Name: "web", Release: first, Policy: map[string]string{"reboot.strategy": `"off"`}})
	m.Start(10*time.Minute, "1.0.0")
	runsVerified(t, m, first, "A", false)

	m.Server.Offer(t, second)
	m.Do("drydock check")
	waitWritten(m, "1.0.1")
	bytes := m.Server.Bytes.Load()
	m.FlipRunning(partition.B, second, spot(t, second, needless))
	m.Do("drydock reboot --reason test")
	m.Settled(20*time.Minute, "1.0.1")
	guest.Count(t, "updates", 1)
	runsVerified(t, m, second, "B", true)
	if again := m.Server.Bytes.Load() - bytes; again < bytes*9/10 || m.Boots() != 2 {
		t.Errorf("%d bytes first and %d after the byte was flipped, %d boots: want it written again, and no boot of what was flipped", bytes, again, m.Boots())
	}
	if log := m.Do("journalctl --no-pager --boot=-1 --unit=drydockd.service"); !strings.Contains(log, "slot B: the written root of release 1.0.1 has changed since it was verified") {
		t.Errorf("drydockd did not say that the slot has changed:\n%s", log)
	}

	third := rotting(t, l, guest.Modelled, "1.0.2")
	m.Server.Offer(t, third)
	m.Do("drydock check")
	waitWritten(m, "1.0.2")
	m.Do("drydock reboot --reason test")
	m.Settled(20*time.Minute, "1.0.2")
	guest.Count(t, "updates", 1)
	runsVerified(t, m, third, "A", true)
	if m.Boots() != 3 {
		t.Errorf("%d boots", m.Boots())
	}
}

// One machine whose disk rots in each state of a slot: on trial, good and coming
// up, good and not coming up, and with nothing left to go back to.
func TestVerityDamage(t *testing.T) {
	t.Parallel()
	l := guest.Open(t)
	l.Processor(t)
	first, second := rotting(t, l, guest.Modelled, "1.0.0"), rotting(t, l, guest.Modelled, "1.0.1")
	m := l.Machine(t, guest.Spec{Name: "web", Release: first, Policy: map[string]string{"trial.firmware_tries": "2"}})
	tried, at := false, spot(t, second, needed)
	m.AtBoot = func(m *guest.Machine) {
		if flags := m.Flags(); flags[partition.B].OnTrial() && !tried {
			tried = true
			m.Flip(partition.B, at)
		}
	}
	m.Start(10*time.Minute, "1.0.0")

	// On trial: both tries end at the bad block, the old release writes the new one
	// again, and that one is good. Nothing is held against the release.
	m.Server.Offer(t, second)
	m.Do("drydock check")
	m.Settled(20*time.Minute, "1.0.1")
	guest.Count(t, "updates", 1)
	guest.Count(t, "rollbacks", 1)
	if panics := strings.Count(m.Console(), "dm-verity device corrupted"); m.Boots() != 5 || panics < 2 {
		t.Errorf("%d boots, and %d panics: want one, two that panic, the old release, and the new one", m.Boots(), panics)
	}
	if s, err := m.Status(t.Context()); err != nil || len(s.Rejected) != 0 {
		t.Errorf("rejected %v, %v", s.Rejected, err)
	}

	// Good, and it comes up: drydockd goes back, and writes the release over the
	// damage. (The boot of the trial itself still panics.)
	m.Cut()
	m.Start(10*time.Minute, "1.0.1")
	runsVerified(t, m, second, "B", false)
	m.FlipRunning(partition.B, second, spot(t, second, needless))
	m.Do("! cat /" + needless + " >/dev/null 2>&1 && veritysetup status root | grep -q corrupted && systemctl is-active drydockd.service")
	m.Until(10*time.Minute, "it goes back, and to the new release again", func(context.Context) bool { return m.Boots() == 8 })
	m.Settled(10*time.Minute, "1.0.1")
	guest.Count(t, "updates", 1)
	guest.Count(t, "rollbacks", 1)
	if history := m.Do("drydock history && cat /" + needless + " >/dev/null"); !strings.Contains(history, "from 1.0.1: dm-verity met a block that is not what was built") {
		t.Errorf("history says\n%s", history)
	}

	m.Server.Offer(t, first) // from here on nothing is to be taken
	m.Do("drydock check")
	notComingUp(t, m, second)
	nothingLeft(t, m, first)
}

// notComingUp damages the good slot B so that PID 1 does not start: one boot ends
// there, the next one reads the slot and leaves it, and the third is slot A.
func notComingUp(t *testing.T, m *guest.Machine, img guest.Image) {
	t.Helper()
	m.Cut()
	m.Flip(partition.B, spot(t, img, needed))
	before := m.Boots()
	m.PowerOn()
	m.Up()
	if n := m.Boots() - before; n != 3 {
		t.Errorf("%d boots, want 3", n)
	}
	if console := m.Console(); !strings.Contains(console, "slot B is damaged") || !strings.Contains(console, "restarting into it") {
		t.Error("the console does not say why the slot was left")
	}
	m.Until(5*time.Minute, "1.0.0 runs and says why", func(ctx context.Context) bool {
		s, err := m.Status(ctx)
		if err != nil || s.Release != "1.0.0" || s.Booted != "A" || s.OnTrial {
			return false
		}
		r, err := m.Run(ctx, "/usr/bin/drydock", "history")
		return err == nil && strings.Contains(r.Out, "from 1.0.1: it did not come up, and cannot be read in full")
	})
	guest.Count(t, "rollbacks", 1)
}

// nothingLeft damages slot A too, while slot B holds nothing: the machine tries
// three times, and then stops and says why. When the disk is mended it comes up.
func nothingLeft(t *testing.T, m *guest.Machine, img guest.Image) {
	t.Helper()
	m.Cut()
	if flags := m.Flags(); flags[partition.B].Bootable() || !flags[partition.A].Successful {
		t.Fatalf("flags %v", flags)
	}
	at := spot(t, img, needed)
	m.Flip(partition.A, at)
	before := m.Boots()
	m.PowerOn()
	halts := func(words string, times int) { // once a minute
		m.Until(10*time.Minute, "the console says: "+words, func(context.Context) bool { return strings.Count(m.Console(), words) == times })
	}
	halts("HALTED: slot A is damaged, and did not come up 3 times", 2) // the guest's watchdog would have acted after 30 s
	if n := m.Boots() - before; n != 4 {
		t.Errorf("%d boots until it halted, want 4", n)
	}
	m.Cut()
	m.Flip(partition.A, at)       // as it was
	m.Flip(partition.A, img.Tree) // its super block
	m.PowerOn()
	halts("HALTED: slot A, which was good, cannot be opened or mounted", 1)
	m.Cut()
	m.Flip(partition.A, img.Tree)
	m.Start(10*time.Minute, "1.0.0")
	if n := m.Boots() - before; n != 6 || !strings.Contains(m.Console(), "slot A is whole") {
		t.Errorf("%d boots, want 6, the last of which reads the slot and finds it whole", n)
	}
}

// The same with what really carries the root hash: a UKI, which systemd-boot
// starts, and, in the full run, what GRUB reads behind the file system.
func TestVerityLoaders(t *testing.T) {
	for _, loader := range []guest.Loader{guest.SystemdBoot, guest.GRUB} {
		t.Run(string(loader), func(t *testing.T) {
			t.Parallel()
			l := guest.Open(t)
			if loader == guest.GRUB && !guest.Full() {
				t.Skip("DRYDOCK_BOOT=full runs it")
			}
			l.Processor(t)
			first, second := rotting(t, l, loader, "1.0.0"), rotting(t, l, loader, "1.0.1")
			m := l.Machine(t, guest.Spec{Name: "web", Release: first, Policy: map[string]string{"reboot.strategy": `"off"`}})
			m.Start(10*time.Minute, "1.0.0")
			runsVerified(t, m, first, "A", false)
			m.Server.Offer(t, second)
			m.Do("drydock check")
			waitWritten(m, "1.0.1")
			m.Do("drydock reboot --reason test")
			m.Settled(20*time.Minute, "1.0.1")
			guest.Count(t, "updates", 1)
			runsVerified(t, m, second, "B", true)
			notComingUp(t, m, second)
			runsVerified(t, m, first, "A", false)
		})
	}
}

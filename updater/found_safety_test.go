package updater_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/omaha"
	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/policy"
	"github.com/drydock-os/drydock/updater/sim"
)

func TestRollbackKeepsItsSlotFromTheNextRelease(t *testing.T) {
	b := ready(t)
	b.live(updated("1.1.0"))
	b.policy.Reboot.Windows = shutWindow(t)
	b.policy.Update.FirstCheck = time.Hour
	b.publish("1.2.0", releasePayload(t, "1.2.0", releaseImage(t, "1.2.0")))
	u, stop := b.up()
	b.got(u, updater.ActRollback, updater.Accepted)
	b.got(u, updater.ActCheck, updater.Done)
	b.refused(u, updater.ActUpdate, "rollback")
	if s := u.Status(); !has(s.Reasons, "rollback") || s.Pending != "rollback" || s.Written || b.fetched("1.2.0") != 0 {
		t.Errorf("%+v", s)
	}
	if f := b.flags()[partition.A]; !f.Successful || !f.Bootable() {
		t.Fatalf("flags %+v: the way back was given up", f)
	}
	stop()
	b.policy.Reboot.Windows = nil
	b.live(func(s updater.Status) bool { return s.Release == "1.0.0" && permitted("none")(s) && s.Pending == "" })
}

// slow makes 1.1.0 sick for good, and the old release until it is well.
func (b *bench) slow(well *atomic.Bool) {
	b.policy.Health.Timeout = time.Nanosecond
	b.machine.Ails = func(release string) []updater.Reason {
		b.mu.Lock()
		came := b.current != nil && len(b.current.Status().Rejected) > 0
		b.mu.Unlock()
		if release == "1.1.0" || came && !well.Load() {
			return []updater.Reason{{Kind: "unit", Text: "web.service is activating"}}
		}
		return nil
	}
}

func TestOldReleaseThatRecoversIsJudgedAgain(t *testing.T) {
	for name, again := range map[string]func(*bench, *updater.Updater, *clock){
		"a minute later": func(_ *bench, u *updater.Updater, c *clock) { c.move(u, time.Minute) },
		"overruled":      func(b *bench, u *updater.Updater, _ *clock) { b.got(u, updater.ActMarkGood, updater.Done) },
	} {
		t.Run(name, func(t *testing.T) {
			b := ready(t)
			var well atomic.Bool
			b.slow(&well)
			b.live(func(s updater.Status) bool {
				return s.Release == "1.0.0" && len(s.Rejected) == 1 && permitted("held")(s)
			})
			var c clock
			u, _ := b.up(c.in)
			b.until(u, func(s updater.Status) bool { return permitted("held")(s) && has(s.Reasons, "health") })
			well.Store(true)
			u.SetPolicy(b.policy)
			b.never("went on without another verdict", func() bool { return u.Status().Permit != "held" })
			again(b, u, &c)
			b.until(u, func(s updater.Status) bool { return permitted("none")(s) && !s.Drained })
		})
	}
}

// fullDisk is a store that keeps nothing any more.
type fullDisk struct{ updater.Store }

func (fullDisk) Save(updater.Memory) error { return syscall.ENOSPC }

func TestSickReleaseIsLeftWithAFullStateDisk(t *testing.T) {
	b := ready(t)
	b.policy.Health.Timeout = time.Nanosecond
	b.machine.Ails = func(release string) []updater.Reason {
		if release == "1.1.0" {
			return []updater.Reason{{Kind: "check", Text: "the disk is full"}}
		}
		return nil
	}
	_, stop := b.up()
	b.left()
	stop()
	_, stop = b.up(func(u *updater.Updater) { u.Store = fullDisk{u.Store} })
	if b.running() != "1.1.0" {
		t.Fatalf("runs %s", b.running())
	}
	b.left()
	stop()
	if b.flags()[partition.B].Bootable() {
		t.Errorf("flags %v: the sick release can boot", b.flags())
	}
}

func TestSlotBootedByHandIsLeftAlone(t *testing.T) {
	b := newBench(t, "1.0.0")
	if err := b.machine.Install(partition.B, bytes.NewReader(releaseImage(t, "0.9.0"))); err != nil {
		t.Fatal(err)
	}
	good := partition.Flags{Priority: 1, Successful: true}
	b.machine.Control.SetTable(partition.Table{partition.B: good}) // as a loader's menu
	boot, err := b.machine.PowerOn(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	b.boot = boot
	b.machine.Control.SetTable(partition.Table{partition.A: good})
	b.machine.Block = []updater.Reason{{Kind: "inhibitor", Text: "a backup runs"}}
	u, _ := b.up()
	b.until(u, func(s updater.Status) bool { return s.Step == updater.Wait && has(s.Reasons, "by-hand") })
	b.never("rebooted", func() bool { return boot.Err() != nil })
	if b.told(updater.EventRejected) != 0 || b.flags() != (partition.Table{partition.A: good}) {
		t.Errorf("flags %v: somebody's boot by hand was judged", b.flags())
	}
	b.got(u, updater.ActMarkGood, updater.Done)
	if next, _ := b.flags().Next(); next != partition.B || !b.flags()[partition.B].Successful || has(u.Status().Reasons, "by-hand") {
		t.Errorf("flags %v, %+v: not adopted", b.flags(), u.Status().Reasons)
	}
}

func TestPauseAfterAFailureOutlivesAnotherFailure(t *testing.T) {
	b := ready(t)
	b.refuse = true
	b.policy.Reboot.RetryPause = 24 * time.Hour
	var c clock
	u, _ := b.up(c.in)
	b.until(u, func(s updater.Status) bool { return failedOnce(s) && s.Permit == "none" })
	b.deaf = true
	c.move(u, 6*time.Hour) // the next check is due, and fails
	b.until(u, func(s updater.Status) bool {
		failed := 0
		for _, r := range s.Reasons {
			if r.Kind == "failed" {
				failed++
			}
		}
		return failed == 2
	})
	b.never("rebooted again before its pause was over", func() bool { return b.told(updater.EventRebooting) != 1 })
}

// mute is a scheduler that does not say how things stand once a drain was begun.
type mute struct {
	fleetlink.Link
	drained, resumed *atomic.Int64
}

func (m mute) Standing(ctx context.Context) (fleetlink.Standing, error) {
	if m.drained.Load() > 0 {
		return fleetlink.Standing{}, errors.New("503")
	}
	return m.Link.Standing(ctx)
}

func (m mute) Drain(ctx context.Context, o fleetlink.Order) error {
	m.drained.Add(1)
	return m.Link.Drain(ctx, o)
}

func (m mute) Resume(ctx context.Context) error {
	m.resumed.Add(1)
	return m.Link.Resume(ctx)
}

func TestMuteSchedulerDoesNotSpin(t *testing.T) {
	b := ready(t)
	b.policy.Drain.Timeout = 5 * time.Second
	var drained, resumed atomic.Int64
	u, _ := b.up(func(u *updater.Updater) { u.Scheduler = mute{u.Scheduler, &drained, &resumed} })
	b.until(u, func(s updater.Status) bool {
		return resumed.Load() > 0 && s.Permit == "none" && has(s.Reasons, "scheduler")
	})
	b.never("the scheduler is asked without end, or the machine goes on blindly", func() bool {
		return resumed.Load() > 2 || drained.Load() > 1 || b.boot.Err() != nil || len(b.cluster.Workloads("m")) != 2
	})
}

func TestMissingPackageIsNotDownloadedTwice(t *testing.T) {
	b := newBench(t, "1.0.0")
	b.pause = time.Millisecond
	b.policy.Reboot.Windows = shutWindow(t)
	b.policy.Update.ExtraPackagesDir = filepath.Join(b.dir, "packages")
	pkg := b.file("oem.gz", []byte("an extension"))
	b.file("oem.gz", nil) // not there yet
	b.offer("1.1.0", releasePayload(t, "1.1.0", releaseImage(t, "1.1.0")), pkg)
	b.live(failedOnce)
	b.policy.Update.FirstCheck = time.Hour
	u, _ := b.up()
	for range 2 {
		if outcome, err := b.do(u, updater.Request{Action: updater.ActUpdate}); err == nil || u.Status().Written {
			t.Errorf("%q without the package: %+v", outcome, u.Status())
		}
	}
	b.file("oem.gz", []byte("an extension"))
	b.got(u, updater.ActUpdate, updater.Updated)
	if n := b.fetched("1.1.0"); n != 1 || b.fetched("oem.gz") < 4 {
		t.Errorf("%d downloads of the payload and %d of the package over four checks", n, b.fetched("oem.gz"))
	}
}

func TestPackagesOfOldReleasesGo(t *testing.T) {
	b := newBench(t, "1.0.0")
	b.policy.Reboot.Windows = shutWindow(t)
	dir := filepath.Join(b.dir, "packages")
	b.policy.Update.ExtraPackagesDir = dir
	for name, kept := range map[string]bool{"release-0.8.0": false, "release-0.9.0": false, "release-1.0.0": true, "release-1.1.0": true, "somebody's": true} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != kept {
				t.Errorf("%s: %v, want it kept: %t", name, err, kept)
			}
		}()
	}
	b.offer("1.1.0", releasePayload(t, "1.1.0", releaseImage(t, "1.1.0")), b.file("oem.gz", []byte("an extension")))
	b.live(written("1.1.0"))
}

func TestHookKilledWithTheDaemonIsNoFault(t *testing.T) {
	b := ready(t)
	b.policy.Trial.Retries = 0
	runs := make(chan struct{}, 1)
	b.machine.PostInstall = func(ctx context.Context, _ updater.HookRun) error {
		runs <- struct{}{}
		<-ctx.Done()
		return errors.New("signal: killed")
	}
	for range 2 {
		u, stop := b.up()
		b.bounded(func() bool { return len(runs) > 0 })
		stop()
		if len(runs) == 0 {
			t.Fatalf("the hook does not run: %+v", u.Status())
		}
		<-runs
		if s := u.Status(); len(s.Rejected) != 0 || b.flags()[partition.B].Bootable() {
			t.Fatalf("after the daemon was stopped: %+v", s)
		}
	}
	b.machine.PostInstall = nil
	b.live(updated("1.1.0"))
	if n := b.fetched("1.1.0"); n != 1 {
		t.Errorf("%d downloads, want one", n)
	}
}

func TestEventsAreToldWithAFullHistory(t *testing.T) {
	b := newBench(t, "1.0.0")
	b.policy.Update.FirstCheck = time.Hour
	m := updater.Memory{Version: 1, Trial: &updater.Trial{Slot: partition.B, Version: "1.1.0", Verdict: "web.service is failed"}}
	for range 100 {
		m.History = append(m.History, updater.HistoryEntry{At: time.Now(), Type: updater.EventWritten, Version: "1.1.0"})
	}
	if err := (updater.MemoryFile{Path: filepath.Join(b.dir, "memory.json")}).Save(m); err != nil {
		t.Fatal(err)
	}
	u, _ := b.up()
	b.until(u, func(s updater.Status) bool { return s.Step == updater.Wait && s.Booted != "" })
	if n := b.told(updater.EventRolledBack); n != 1 {
		t.Errorf("the rollback was told %d times, want once", n)
	}
	if h := u.History(); len(h) != 100 || h[0].Type != updater.EventRolledBack {
		t.Errorf("%d entries of history, the newest %+v", len(h), h[0])
	}
}

// inhibited is a host on which an inhibitor counts as the policy says.
type inhibited struct{ *sim.Machine }

func (h inhibited) Blockers(ctx context.Context, p policy.Policy) []updater.Reason {
	if !p.Reboot.RespectInhibitors {
		return nil
	}
	return h.Machine.Blockers(ctx, p)
}

func TestRespectInhibitorsFalseGoesOverThem(t *testing.T) {
	for _, respect := range []bool{false, true} {
		b := ready(t)
		b.policy.Reboot.RespectInhibitors = respect
		b.machine.Block = []updater.Reason{{Kind: "inhibitor", Text: "a backup runs"}}
		u, _ := b.up(func(u *updater.Updater) { u.Host = inhibited{b.machine} })
		if respect {
			b.until(u, func(s updater.Status) bool { return written("1.1.0")(s) && has(s.Reasons, "inhibitor") })
			continue
		}
		b.left()
		if next, _ := b.flags().Next(); next != partition.B {
			t.Errorf("flags %v", b.flags())
		}
	}
}

// backedOff is the offer of a release without the server's leave to try again
// at once.
func (b *bench) backedOff(version string, data []byte) {
	b.publish(version, data)
	b.updates.Release(&omaha.Offer{Update: true, Version: version, Name: version, URLs: []string{b.server.URL + "/p/" + version},
		Size: int64(len(data)), SHA256: sum(data)})
}

func TestMissingKeyCostsNoBackoff(t *testing.T) {
	b := newBench(t, "1.0.0")
	b.policy.Reboot.Windows = shutWindow(t)
	b.backedOff("1.1.0", releasePayload(t, "1.1.0", releaseImage(t, "1.1.0")))
	keys := b.keys
	b.keys = nil
	b.live(failedOnce)
	if got := b.reported(); slices.Contains(got, "13/1") || b.fetched("1.1.0") != 0 {
		t.Errorf("the server heard %v and of %d downloads: nothing was to begin without a key", got, b.fetched("1.1.0"))
	}
	b.keys = keys
	b.live(written("1.1.0"))
}

// fickle is a lock that grants and does not show it.
type fickle struct {
	updater.RebootLock
	asked *atomic.Int32
}

func (f fickle) Acquire(context.Context, updater.Intent) (updater.Permit, error) {
	f.asked.Add(1)
	return updater.Held, nil
}

func TestLockThatDoesNotShowItsGrantIsNotAskedWithoutEnd(t *testing.T) {
	b := ready(t)
	b.quiet = true
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	boot, err := b.machine.PowerOn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int32
	u := b.daemon()
	u.Lock = fickle{u.Lock, &asked}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { u.Run(boot) })
	bounded, end := context.WithTimeout(ctx, 2500*time.Millisecond)
	defer end()
	b.wait(bounded, func() bool { return asked.Load() > 6 })
	if n := asked.Load(); n == 0 || n > 6 {
		t.Errorf("asked %d times in %s", n, 2500*time.Millisecond)
	}
	if s := u.Status(); s.Drained || s.Staged {
		t.Errorf("went on without a permit that shows: %+v", s)
	}
}

func TestUnexplainedReturnUnderExternalWaitsItsBackoff(t *testing.T) {
	b := ready(t)
	b.quiet = true
	b.policy.Reboot.Strategy = policy.External
	b.policy.Trial.RetryBackoff = time.Hour
	b.live(func(s updater.Status) bool { return s.Staged && waiting(s) })
	b.machine.PowerOff() // the other coordinator reboots it, and the power fails in the trial
	cuts := 0
	b.dark = func(release string) bool { cuts++; return release == "1.1.0" && cuts == 1 }
	b.live(func(s updater.Status) bool { return s.Release == "1.0.0" && waiting(s) && has(s.Reasons, "retry") })
	if s := b.current.Status(); s.Staged || b.flags()[partition.B].Tries > 0 {
		t.Errorf("staged again at once: %+v", s)
	}
}

func TestRebootOnRequestTakesWhatWaitsUnderOff(t *testing.T) {
	b := ready(t)
	b.quiet = true
	b.policy.Reboot.Strategy = policy.Off
	b.live(written("1.1.0"))
	b.ask = &updater.Request{Action: updater.ActReboot, Reason: "now"}
	b.live(func(s updater.Status) bool { return updated("1.1.0")(s) && s.Pending == "" })
}

// TestOperatorJudgesWhileHealthIsLookedAt: `drydock mark` was not heard before
// health.timeout was over, and whoever asked waited with it.
func TestOperatorJudgesWhileHealthIsLookedAt(t *testing.T) {
	for action, want := range map[updater.Action]string{updater.ActMarkGood: "1.1.0", updater.ActMarkBad: "1.0.0"} {
		b := ready(t)
		b.policy.Health.Timeout = time.Hour
		b.machine.Ails = func(release string) []updater.Reason {
			if release == "1.1.0" {
				return []updater.Reason{{Kind: "unit", Text: "web.service is activating"}}
			}
			return nil
		}
		b.live(func(s updater.Status) bool { return s.OnTrial && s.Step == updater.Validate })
		u, stop := b.up()
		b.until(u, func(s updater.Status) bool { return s.Step == updater.Validate })
		b.got(u, action, updater.Done)
		if action == updater.ActMarkBad {
			b.left()
		} else {
			b.until(u, func(s updater.Status) bool { return !s.OnTrial && s.Permit == "none" })
		}
		stop()
		b.live(func(s updater.Status) bool {
			return s.Release == want && !s.OnTrial && waiting(s) && s.Permit == "none"
		})
	}
}

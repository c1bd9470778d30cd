package updater_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/omaha"
	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/rebootlock/window"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/payload"
	"github.com/drydock-os/drydock/updater/policy"
)

// ready is a machine on 1.0.0 that is offered 1.1.0.
func ready(t *testing.T) *bench {
	t.Helper()
	b := newBench(t, "1.0.0")
	b.publish("1.1.0", releasePayload(t, "1.1.0", releaseImage(t, "1.1.0")))
	return b
}

// shutWindow is a reboot window that is far from now.
func shutWindow(t *testing.T) []window.Window {
	t.Helper()
	w, err := window.Parse(time.Now().UTC().Add(12*time.Hour).Format("15:04"), "1h")
	if err != nil {
		t.Fatal(err)
	}
	return []window.Window{w}
}

func waiting(s updater.Status) bool { return s.Step == updater.Wait && !s.LastChecked.IsZero() }

func written(version string) func(updater.Status) bool {
	return func(s updater.Status) bool { return waiting(s) && s.Written && s.NewVersion == version }
}

func (b *bench) flags() partition.Table {
	b.t.Helper()
	table, err := b.machine.Control.Table()
	if err != nil {
		b.t.Fatal(err)
	}
	return table
}

// passive returns the bytes of slot B.
func (b *bench) passive() []byte {
	b.t.Helper()
	d, err := b.machine.Slot(partition.B)
	if err != nil {
		b.t.Fatal(err)
	}
	defer d.Close()
	data := make([]byte, d.Size())
	if _, err := d.ReadAt(data, 0); err != nil {
		b.t.Fatal(err)
	}
	return data
}

func has(reasons []updater.Reason, kind string) bool {
	return slices.ContainsFunc(reasons, func(r updater.Reason) bool { return r.Kind == kind })
}

// lastError is the last error event.
func (b *bench) lastError() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range slices.Backward(b.events) {
		if e.Type == updater.EventError && e.Err != nil {
			return e.Err
		}
	}
	return nil
}

func failedOnce(s updater.Status) bool { return waiting(s) && s.LastError != "" }

func TestWindowShutWritesAndWaits(t *testing.T) {
	b := ready(t)
	b.policy.Reboot.Windows = shutWindow(t)
	b.live(written("1.1.0"))
	s := b.current.Status()
	if !has(s.Reasons, "window") || s.Reasons[0].Until.IsZero() {
		t.Errorf("reasons %+v: want the window, and when it opens", s.Reasons)
	}
	if s.Operation != updater.Finalizing || s.Staged || b.flags()[partition.B].Bootable() {
		t.Errorf("a written release must not be staged: %+v", s)
	}
}

func TestNewerReleaseReplacesWritten(t *testing.T) {
	b := ready(t)
	b.policy.Reboot.Windows = shutWindow(t)
	b.live(written("1.1.0"))
	b.publish("1.2.0", releasePayload(t, "1.2.0", releaseImage(t, "1.2.0")))
	b.live(written("1.2.0"))
}

func TestFlippedByteIsNoticedBeforeStaging(t *testing.T) {
	b := ready(t)
	b.policy.Reboot.Windows = shutWindow(t)
	b.live(written("1.1.0"))
	d, err := b.machine.Slot(partition.B)
	if err != nil {
		t.Fatal(err)
	}
	one := make([]byte, 1)
	d.ReadAt(one, 500000)
	one[0] ^= 1
	if _, err := d.WriteAt(one, 500000); err != nil {
		t.Fatal(err)
	}
	b.policy.Reboot.Windows = nil
	b.policy.Reboot.RetryPause = 10 * time.Millisecond
	b.live(func(s updater.Status) bool { return s.Release == "1.1.0" && waiting(s) && s.Permit == "none" })
	if got := b.steps(); !slices.Contains(got, "stage") || strings.Count(strings.Join(got, " "), "write") != 2 {
		t.Errorf("steps %v: want the damage noticed in stage, and the release written again", got)
	}
}

func TestNoKeyRefusesBeforeTheFirstByte(t *testing.T) {
	b := ready(t)
	b.keys = nil
	before := b.passive()
	b.live(failedOnce)
	if !errors.Is(b.lastError(), payload.ErrNoKey) {
		t.Errorf("error %v, want ErrNoKey", b.lastError())
	}
	if !slices.Equal(before, b.passive()) {
		t.Error("the slot was touched")
	}
}

func TestOlderSignedReleaseReplayed(t *testing.T) {
	// Major 1 signs no version: only the image itself can tell.
	b := newBench(t, "1.0.0")
	b.useRSA()
	b.publish("2.0.0", majorOne(t, releaseImage(t, "0.9.0")))
	b.live(failedOnce)
	if err := b.lastError(); err == nil || !strings.Contains(err.Error(), "0.9.0") {
		t.Errorf("error %v: want the image's own version", err)
	}
	s := b.current.Status()
	if b.flags()[partition.B].Bootable() || s.Written || len(s.Rejected) != 1 {
		t.Errorf("a replayed release got through: %+v", s)
	}
}

func TestSignedVersionMustBeTheOffered(t *testing.T) {
	b := newBench(t, "1.0.0")
	b.publish("2.0.0", releasePayload(t, "1.5.0", releaseImage(t, "1.5.0")))
	before := b.passive()
	b.live(failedOnce)
	if !slices.Equal(before, b.passive()) {
		t.Error("the slot was touched although the signed version is another")
	}
}

func TestDowngradeNeedsPermission(t *testing.T) {
	b := newBench(t, "2.0.0")
	b.updates.AppID = policy.DefaultAppID
	b.publish("1.1.0", releasePayload(t, "1.1.0", releaseImage(t, "1.1.0")))
	b.anyVersion = true
	b.live(waiting)
	if s := b.current.Status(); !has(s.Reasons, "version") || s.Written {
		t.Errorf("%+v", s)
	}
	b.policy.Update.AllowDowngrade = true
	b.live(func(s updater.Status) bool { return s.Release == "1.1.0" && waiting(s) && s.Permit == "none" })
}

func TestKeepPrevious(t *testing.T) {
	b := ready(t)
	b.live(func(s updater.Status) bool { return s.Release == "1.1.0" && waiting(s) && s.Permit == "none" })
	b.policy.Trial.KeepPrevious = time.Hour
	b.publish("1.2.0", releasePayload(t, "1.2.0", releaseImage(t, "1.2.0")))
	b.live(func(s updater.Status) bool { return waiting(s) && has(s.Reasons, "keep-previous") })
	if !b.flags()[partition.A].Successful {
		t.Error("the way back was given up")
	}
}

func TestRollbackByOperatorAndRetry(t *testing.T) {
	b := ready(t)
	b.live(func(s updater.Status) bool { return s.Release == "1.1.0" && waiting(s) && s.Permit == "none" })
	b.ask = &updater.Request{Action: updater.ActRollback, Reason: "the app misbehaves"}
	b.live(func(s updater.Status) bool {
		return s.Release == "1.0.0" && waiting(s) && s.Permit == "none" && !s.Drained
	})
	s := b.current.Status()
	if len(s.Rejected) != 1 || s.Rejected[0].Version != "1.1.0" || !has(s.Reasons, "rejected") {
		t.Errorf("after the rollback: %+v", s)
	}
	if w := b.cluster.Workloads("m"); len(w) != 2 {
		t.Errorf("workloads %v", w)
	}
	b.ask = &updater.Request{Action: updater.ActRetry, Version: "1.1.0"}
	b.live(func(s updater.Status) bool { return s.Release == "1.1.0" && waiting(s) && s.Permit == "none" })
}

func TestUnexplainedReturnIsTriedAgainAndThenGivenUp(t *testing.T) {
	b := ready(t)
	b.policy.Trial.Retries, b.policy.Trial.RetryBackoff = 2, 0
	b.dark = func(release string) bool { return release == "1.1.0" } // the power fails whenever it boots
	b.live(func(s updater.Status) bool {
		return s.Release == "1.0.0" && waiting(s) && len(s.Rejected) == 1 && s.Permit == "none"
	})
	trials := 0
	for _, e := range b.events {
		if e.Type == updater.EventStaged {
			trials++
		}
	}
	if trials != 3 {
		t.Errorf("%d trials, want the first and two retries", trials)
	}
}

func TestRefusedRebootIsTakenBack(t *testing.T) {
	b := ready(t)
	b.policy.Reboot.RetryPause = time.Hour
	b.refuse = true
	b.live(func(s updater.Status) bool { return waiting(s) && s.LastError != "" && s.Permit == "none" })
	s := b.current.Status()
	if s.Staged || s.Drained || b.flags()[partition.B].Bootable() || !s.Written {
		t.Errorf("after a refused reboot: %+v", s)
	}
	want := []string{"check", "write", "lock", "drain", "stage", "reboot", "unstage", "resume", "validate", "release"}
	if got := b.steps(); !slices.Equal(got, want) {
		t.Errorf("steps %v, want %v", got, want)
	}
}

func TestFreezeHoldsEverything(t *testing.T) {
	b := ready(t)
	b.group.Freeze("incident 42")
	b.live(func(s updater.Status) bool { return written("1.1.0")(s) && has(s.Reasons, "freeze") })
	b.group.Freeze("")
	b.live(func(s updater.Status) bool { return s.Release == "1.1.0" && waiting(s) && s.Permit == "none" })
}

func TestPausedByOperator(t *testing.T) {
	b := ready(t)
	b.policy.Update.FirstCheck = time.Hour
	b.ask = &updater.Request{Action: updater.ActPause, Reason: "migration"}
	b.live(func(s updater.Status) bool { return s.Paused == "migration" && s.Step == updater.Wait })
	b.policy.Update.FirstCheck = 0
	b.live(func(s updater.Status) bool { return waiting(s) && has(s.Reasons, "paused") })
	b.ask = &updater.Request{Action: updater.ActUnpause}
	b.live(func(s updater.Status) bool { return s.Release == "1.1.0" && waiting(s) && s.Permit == "none" })
}

func TestDrainThatCannotBeDone(t *testing.T) {
	b := ready(t)
	b.cluster.Obstruct("m", "db has no second replica")
	b.live(func(s updater.Status) bool { return written("1.1.0")(s) && has(s.Reasons, "drain") })
	if s := b.current.Status(); s.Permit != "none" {
		t.Errorf("asked for a permit against the preflight: %+v", s)
	}
}

func TestReportIsToldUntilTheServerHasIt(t *testing.T) {
	b := ready(t)
	b.deafAfterBoot = true
	b.live(func(s updater.Status) bool {
		return s.Release == "1.1.0" && s.Step == updater.Wait && s.LastError != ""
	})
	b.deafAfterBoot, b.deaf = false, false
	b.live(func(s updater.Status) bool { return waiting(s) })
	var got []string
	for _, s := range b.updates.Seen() {
		if s.Version == "1.1.0" && s.Event.PreviousVersion != nil {
			got = append(got, *s.Event.PreviousVersion)
		}
	}
	if len(got) == 0 || got[0] != "1.0.0" {
		t.Errorf("the server heard of updates from %q, want 1.0.0: the report was lost with the request", got)
	}
}

func TestExtraPackagesAreVerified(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(*omaha.Package)
		want  string // of the error; "" for success
	}{
		{"good", func(*omaha.Package) {}, ""},
		{"wrong hash", func(p *omaha.Package) { p.SHA256 = make([]byte, 32) }, "hash"},
		{"wrong size", func(p *omaha.Package) { p.Size++ }, "bytes"},
		{"leaves its directory", func(p *omaha.Package) { p.Name = "../../evil" }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, "1.0.0")
			b.policy.Reboot.Windows = shutWindow(t)
			b.policy.Update.ExtraPackagesDir = filepath.Join(b.dir, "packages")
			pkg := b.file("oem-qemu.gz", []byte("an extension"))
			c.spoil(&pkg)
			b.offer("1.1.0", releasePayload(t, "1.1.0", releaseImage(t, "1.1.0")), pkg)
			b.live(func(s updater.Status) bool { return s.Step == updater.Wait && (s.Written || s.LastError != "") })
			s := b.current.Status()
			_, err := os.Stat(filepath.Join(b.dir, "packages", "release-1.1.0", "oem-qemu.gz"))
			switch {
			case c.name == "good" && (err != nil || !s.Written):
				t.Errorf("%v, %+v", err, s)
			case c.name != "good" && (s.Written || err == nil):
				t.Errorf("counts as written: %+v", s)
			case !strings.Contains(s.LastError, c.want):
				t.Errorf("error %q, want %q in it", s.LastError, c.want)
			}
			if _, err := os.Stat(filepath.Join(b.dir, "evil")); err == nil {
				t.Error("a package left its directory")
			}
		})
	}
}

func TestClockThatJumps(t *testing.T) {
	b := ready(t)
	b.policy.Trial.KeepPrevious = time.Hour
	b.skew = 30 * 24 * time.Hour // ahead while it updates
	b.live(func(s updater.Status) bool { return s.Release == "1.1.0" && waiting(s) && s.Permit == "none" })
	b.skew = 0 // and put right: "good" lies in the future
	b.publish("1.2.0", releasePayload(t, "1.2.0", releaseImage(t, "1.2.0")))
	b.live(func(s updater.Status) bool { return waiting(s) && has(s.Reasons, "keep-previous") })
	for _, r := range b.current.Status().Reasons {
		if r.Kind == "keep-previous" && time.Until(r.Until) > 2*time.Hour {
			t.Errorf("keeps the previous release until %s: the clock that was ahead still counts", r.Until)
		}
	}
}

func TestCancelledUpdateGoesOnWhereItStopped(t *testing.T) {
	b := ready(t)
	b.policy.Update.FirstCheck = time.Hour
	b.policy.Update.Bandwidth = 400 << 10
	b.piece = 64 << 10
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if _, err := b.machine.PowerOn(ctx); err != nil {
		t.Fatal(err)
	}
	u := b.daemon()
	done := make(chan error, 1)
	go func() { done <- u.Run(ctx) }()
	job, stop := context.WithCancel(ctx)
	go func() {
		b.wait(ctx, func() bool { return u.Status().Progress > 0.5 })
		stop()
	}()
	if _, err := u.Do(job, updater.Request{Action: updater.ActUpdate}); !errors.Is(err, context.Canceled) {
		t.Fatalf("%v, want cancelled", err)
	}
	b.wait(ctx, func() bool { return u.Status().Step == updater.Wait })
	if _, err := os.Stat(filepath.Join(b.dir, "download.json")); err != nil {
		t.Errorf("no checkpoint: %v", err)
	}
	p := b.policy
	p.Update.Bandwidth, p.Reboot.Strategy = 0, policy.Off
	u.SetPolicy(p)
	if outcome, err := u.Do(ctx, updater.Request{Action: updater.ActUpdate}); outcome != updater.Updated || err != nil {
		t.Errorf("%s, %v", outcome, err)
	}
	cancel()
	<-done
}

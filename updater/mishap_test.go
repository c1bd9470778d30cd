package updater_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/testdata/real"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/payload"
	"github.com/drydock-os/drydock/updater/policy"
)

func updated(version string) func(updater.Status) bool {
	return func(s updater.Status) bool {
		return s.Release == version && waiting(s) && s.Permit == "none" && !s.Drained
	}
}

func TestHookThatFailsEveryTimeIsGivenUp(t *testing.T) {
	b := ready(t)
	b.policy.Trial.Retries, b.policy.Reboot.RetryPause = 1, 10*time.Millisecond
	runs := 0
	b.machine.PostInstall = func(context.Context, updater.HookRun) error {
		runs++
		return errors.New("exit status 1")
	}
	b.live(func(s updater.Status) bool { return waiting(s) && len(s.Rejected) == 1 && s.Permit == "none" })
	if runs != 2 {
		t.Errorf("the hook ran %d times, want once and one retry", runs)
	}
	s := b.current.Status()
	if s.Drained || s.Staged || b.flags()[partition.B].Bootable() {
		t.Errorf("after a failing hook: %+v", s)
	}
	if got := b.reported(); !slices.Contains(got, "3/0") {
		t.Errorf("the server heard %v, want the failure", got)
	}
}

func TestExpectedReleaseMustRun(t *testing.T) {
	b := ready(t)
	b.swap = func() { // another image gets into the slot between staging and boot
		if err := b.machine.Install(partition.B, strings.NewReader(string(releaseImage(t, "6.6.6")))); err != nil {
			t.Error(err)
		}
	}
	b.live(func(s updater.Status) bool {
		return s.Release == "1.0.0" && len(s.Rejected) > 0 && s.Step == updater.Wait && s.Permit == "none"
	})
	if why := b.current.Status().Rejected[0]; why.Version != "1.1.0" || !strings.Contains(why.Reason, "6.6.6") {
		t.Errorf("rejected %+v, want 1.1.0 because 6.6.6 ran", why)
	}
}

func TestRebootOnRequestTakesTheSameWay(t *testing.T) {
	b := newBench(t, "1.0.0")
	b.live(waiting)
	b.events = nil
	b.ask = &updater.Request{Action: updater.ActReboot, Reason: "new firmware"}
	before := b.bootID()
	b.live(func(s updater.Status) bool { return b.bootID() != before && updated("1.0.0")(s) && s.Pending == "" })
	want := []string{"check", "lock", "drain", "reboot", "validate", "resume", "release", "check"}
	if got := b.steps(); !slices.Equal(got, want) {
		t.Errorf("steps %v, want %v", got, want)
	}
}

func TestCancelledRebootDoesNotHappen(t *testing.T) {
	b := newBench(t, "1.0.0")
	b.group.Freeze("not now")
	b.ask = &updater.Request{Action: updater.ActReboot, Reason: "new firmware"}
	b.live(func(s updater.Status) bool { return waiting(s) && s.Pending == "reboot" && has(s.Reasons, "freeze") })
	b.ask = &updater.Request{Action: updater.ActCancel}
	b.group.Freeze("")
	b.live(func(s updater.Status) bool { return waiting(s) && s.Pending == "" })
	if got := b.steps(); slices.Contains(got, "reboot") || slices.Contains(got, "drain") {
		t.Errorf("steps %v: it went on all the same", got)
	}
}

// draining waits until the scheduler was asked for its first drain: the status
// says so a moment earlier, while the lock can still refuse it.
func (b *bench) draining(u *updater.Updater) {
	b.t.Helper()
	b.until(u, func(s updater.Status) bool { return s.Step == updater.Drain })
	asked := func() bool { b.mu.Lock(); defer b.mu.Unlock(); return b.drains > 0 }
	if b.bounded(asked); !asked() {
		b.t.Fatal("the scheduler is never asked to drain")
	}
}

// stuck is a scheduler whose drain never ends by itself.
type stuck struct {
	fleetlink.Link
	b *bench
}

func (s stuck) Drain(ctx context.Context, o fleetlink.Order) error {
	s.b.mu.Lock()
	s.b.drains++
	last := s.b.drains >= s.b.drainsNeeded && s.b.drainsNeeded > 0
	s.b.mu.Unlock()
	if last {
		return s.Link.Drain(ctx, o)
	}
	<-ctx.Done()
	return fmt.Errorf("db has no second replica: %w", ctx.Err())
}

func TestDrainThatDoesNotFinish(t *testing.T) {
	for _, c := range []struct {
		what   policy.OnTimeout
		needed int
		done   func(updater.Status) bool
	}{
		{policy.Abort, 0, func(s updater.Status) bool {
			return written("1.1.0")(s) && s.LastError != "" && s.Permit == "none" && !s.Drained
		}},
		{policy.Wait, 3, updated("1.1.0")},
		{policy.Force, 0, updated("1.1.0")},
	} {
		t.Run(string(c.what), func(t *testing.T) {
			b := ready(t)
			b.stuck, b.drainsNeeded = true, c.needed
			b.policy.Drain = policy.Drain{Timeout: 30 * time.Millisecond, OnTimeout: c.what, ForceGrace: 30 * time.Millisecond}
			b.policy.Reboot.RetryPause = time.Hour
			b.live(c.done)
			if c.what == policy.Abort && b.flags()[partition.B].Bootable() {
				t.Error("staged without a drain")
			}
		})
	}
}

func TestRolledBackIsToldUntilTheServerHasIt(t *testing.T) {
	b := ready(t)
	b.policy.Health.Timeout = 50 * time.Millisecond
	b.machine.Ails = func(release string) []updater.Reason {
		if release == "1.1.0" {
			return []updater.Reason{{Kind: "unit", Text: "web.service is failed"}}
		}
		return nil
	}
	b.deafAfterBoot = true
	b.live(func(s updater.Status) bool {
		return s.Release == "1.0.0" && len(s.Rejected) == 1 && s.Step == updater.Wait && s.LastError != "" && s.Permit == "none"
	})
	b.deafAfterBoot, b.deaf = false, false
	told := func() bool {
		for _, s := range b.updates.Seen() {
			if s.Event.Type == 3 && s.Event.Result == 0 && s.Event.ErrorCode == 44 {
				return true
			}
		}
		return false
	}
	if told() {
		t.Fatal("the server was deaf and heard it")
	}
	b.live(func(s updater.Status) bool { return waiting(s) && s.LastError == "" })
	if !told() {
		t.Error("the server never heard of the rollback")
	}
}

func TestPCRPolicyIsPosted(t *testing.T) {
	for _, status := range []int{http.StatusOK, http.StatusInternalServerError} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			var body []byte
			var kind string
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ = io.ReadAll(r.Body)
				kind = r.Header.Get("Content-Type")
				w.WriteHeader(status)
			}))
			defer srv.Close()
			data := readFile(t, real.Shared(t, "vectors", "traces", "payloads", "pcr.crau"))
			old, err := exec.Command(real.Program(t, "xz"), "-dc", real.Shared(t, "vectors", "crau", "old.ext2.img.xz")).Output()
			if err != nil {
				t.Fatal(err)
			}
			b := newBench(t, "1.0.0")
			b.machine.Install(partition.A, strings.NewReader(string(old)))
			b.keys = readKeys(t, "signer-a.pub.pem")
			b.policy.Reboot.Strategy = policy.Off
			b.policy.Server.PCRPolicyServer = srv.URL
			b.publish("1.1.0", data)
			b.live(func(s updater.Status) bool { return waiting(s) && (s.Written || s.LastError != "") })
			s := b.current.Status()
			if len(body) == 0 || kind != "application/octet-stream" {
				t.Errorf("posted %d bytes of %q", len(body), kind)
			}
			if s.Written != (status == http.StatusOK) {
				t.Errorf("status %d: written %t, %s", status, s.Written, s.LastError)
			}
		})
	}
}

func TestClockThatWasAheadDoesNotHoldAPermit(t *testing.T) {
	ahead := 400 * 24 * time.Hour
	t.Run("retry of a trial", func(t *testing.T) {
		b := ready(t)
		b.policy.Trial.RetryBackoff = 50 * time.Millisecond
		b.skew = ahead
		cuts := 0
		b.dark = func(release string) bool {
			if release == "1.1.0" && cuts == 0 {
				cuts++
				return true
			}
			if cuts == 1 { // back on the old release: the clock is put right after the return was written down
				b.skew = 0
			}
			return false
		}
		b.live(updated("1.1.0"))
	})
	t.Run("retry of a hook", func(t *testing.T) {
		b := ready(t)
		b.policy.Reboot.RetryPause = 50 * time.Millisecond
		b.skew = ahead
		var runs atomic.Int32
		b.machine.PostInstall = func(context.Context, updater.HookRun) error {
			if runs.Add(1) == 1 {
				return errors.New("exit status 1")
			}
			return nil
		}
		b.live(func(s updater.Status) bool { return runs.Load() > 0 && s.LastError != "" })
		b.skew = 0
		b.live(updated("1.1.0"))
	})
}

func TestDownloadGoesOnAfterAPowerCut(t *testing.T) {
	b := ready(t)
	b.policy.Update.Bandwidth = 400 << 10
	b.piece = 64 << 10
	b.live(func(s updater.Status) bool { return s.Progress > 0.5 && s.Step == updater.Write })
	b.machine.PowerOff()
	b.mu.Lock()
	b.ranges = nil
	b.mu.Unlock()
	b.policy.Update.Bandwidth = 0
	b.policy.Update.FirstCheck = 0
	b.policy.Reboot.Windows = shutWindow(t)
	b.events = nil
	b.live(written("1.1.0"))
	if s := b.events[0].Status; b.events[0].Type != updater.EventStarted || s.NewVersion != "1.1.0" || s.Progress < 0.2 {
		t.Errorf("version and progress did not survive the restart: %+v", s)
	}
	if !slices.ContainsFunc(b.ranges, func(r string) bool { return strings.HasPrefix(r, "bytes=") && r != "bytes=0-" }) {
		t.Errorf("ranges asked for: %q; it began again", b.ranges)
	}
}

func TestOnlyChosenPackagesAreFetched(t *testing.T) {
	b := newBench(t, "1.0.0")
	b.policy.Reboot.Strategy = policy.Off
	b.policy.Update.ExtraPackagesDir = b.dir + "/packages"
	b.policy.Update.Packages = []string{"oem-qemu.*"}
	must := b.file("must.gz", []byte("required"))
	must.Required = true
	b.offer("1.1.0", releasePayload(t, "1.1.0", releaseImage(t, "1.1.0")), b.file("oem-qemu.gz", []byte("ours")), b.file("oem-ami.gz", []byte("not ours")), must)
	b.live(written("1.1.0"))
	var got []string
	for _, p := range b.paths {
		if strings.HasSuffix(p, ".gz") {
			got = append(got, p)
		}
	}
	if !slices.Equal(got, []string{"oem-qemu.gz", "must.gz"}) {
		t.Errorf("fetched %v", got)
	}
}

func TestKernelWithoutAPlaceIsRefused(t *testing.T) {
	b := ready(t)
	b.policy.Slots.Kernel = false
	b.live(failedOnce)
	if !errors.Is(b.lastError(), payload.ErrNoTarget) {
		t.Errorf("error %v", b.lastError())
	}
}

func TestPollIntervalOfTheServerIsKept(t *testing.T) {
	b := newBench(t, "1.0.0")
	b.pollInterval = 3 * time.Hour
	b.live(waiting)
	if d := time.Until(b.current.Status().NextCheck); d < time.Hour || d > 5*time.Hour {
		t.Errorf("next check in %s, want about three hours", d)
	}
}

func TestUpdateIsPlannedWithoutTouchingAnything(t *testing.T) {
	b := ready(t)
	b.policy.Update.FirstCheck = time.Hour
	b.policy.Reboot.Windows = shutWindow(t)
	b.group.Freeze("incident 42")
	before := b.passive()
	if _, err := b.machine.PowerOn(context.Background()); err != nil {
		t.Fatal(err)
	}
	u := b.daemon()
	plan, err := u.Plan(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if plan.Offered != "1.1.0" || !plan.Wanted || plan.Download == 0 || plan.WrittenSlot != "B" || len(plan.Steps) < 5 {
		t.Errorf("plan %+v", plan)
	}
	if !has(plan.Reasons, "window") || !has(plan.Reasons, "freeze") {
		t.Errorf("reasons %+v: want what would hold the reboot up", plan.Reasons)
	}
	if !slices.Equal(before, b.passive()) || len(b.updates.Seen()) != 0 {
		t.Error("a plan changed something")
	}
}

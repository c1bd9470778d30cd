package updater

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/drydock-os/drydock/omaha"
	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/updater/payload"
	"github.com/drydock-os/drydock/updater/policy"
)

func (u *Updater) lock(ctx context.Context, o Observed) error {
	m := u.recall()
	if m.Ending != "" || m.Returning { // of a permit that was taken away: this one has its own
		m.Ending, m.Detail, m.Returning = "", "", false
		if err := u.remember(m); err != nil {
			return err
		}
	}
	permit, err := u.Lock.Acquire(ctx, m.intent(o))
	if err != nil {
		return fmt.Errorf("ask for a permit: %w", err)
	}
	if u.run.asked, u.run.answer = o.Now, permit; permit == Held {
		u.run.asked = time.Time{}
		u.event(EventStep, "", nil, "a permit to reboot was granted")
	}
	return nil
}

// release gives permit or ticket back, and says how it ended and why.
func (u *Updater) release(ctx context.Context, o Observed) error {
	m := u.recall()
	ending, detail := m.Ending, m.Detail
	if ending == "" || ending == EndAborted {
		ending, detail = EndAborted, cmpOr(u.run.halt, "nothing is to be rebooted for any more")
	}
	u.run.asked = time.Time{}
	if err := u.Lock.Release(ctx, ending, detail); err != nil {
		return fmt.Errorf("give the permit back: %w", err)
	}
	return u.remember(m.released(o, u.Policy().Reboot.RetryPause, detail))
}

// stage selects the passive slot for the next boot: the fence, a last look at
// every byte, the kernel in its place, the release's own hook, and then one
// durable write of the flags, which is read back.
func (u *Updater) stage(ctx context.Context, o Observed) error {
	m, p := u.recall(), u.Policy()
	passive := o.Booted.Other()
	external := p.Reboot.Strategy == policy.External
	if !external {
		if err := u.Lock.Fence(ctx, PhaseStaging); err != nil {
			return fmt.Errorf("stage: %w", err)
		}
	}
	if m.Wish != nil && m.Wish.Goal == OldRelease {
		return u.flip(o.Flags.Select(passive), passive)
	}
	if err := u.reread(m.Written); err != nil {
		m.Written = nil // it is written again
		return errors.Join(err, u.remember(m))
	}
	kernel, err := u.Control.PlaceKernel(passive)
	if err != nil {
		return fmt.Errorf("place kernel: %w", err)
	}
	if err := u.hook(ctx, m, kernel); err != nil {
		return u.hookFailed(ctx, err)
	}
	if !external { // the hook took its time: the permit may be gone, or somebody stopped the group
		if err := u.Lock.Fence(ctx, PhaseStaging); err != nil {
			return errors.Join(fmt.Errorf("stage: %w", err), u.discard(passive))
		}
	}
	if err := u.remember(m.arm(o)); err != nil {
		return err
	}
	flags, err := u.Control.Table() // the hook may have set them itself
	if err != nil {
		return fmt.Errorf("read flags after the hook: %w", err)
	}
	if err := u.flip(flags.Stage(passive, uint8(p.Trial.FirmwareTries)), passive); err != nil {
		return err
	}
	u.operation(NeedReboot)
	u.event(EventStaged, m.Written.Version, nil, "slot %s with %s is next to boot, on trial", passive, m.Written.Version)
	if external {
		u.report(ctx, omaha.EventUpdateComplete, omaha.ResultSuccess, omaha.CodeOK, false)
		u.settleUpdate(nil)
	}
	return nil
}

// flip writes the flags and reads them back: only what the firmware will read
// counts.
func (u *Updater) flip(t partition.Table, want partition.Slot) error {
	if next, ok := t.Next(); !ok || next != want {
		return fmt.Errorf("set boot flags: slot %s would not be next with %v", want, t)
	}
	if err := u.Control.SetTable(t); err != nil {
		return fmt.Errorf("set boot flags: %w", err)
	}
	got, err := u.Control.Table()
	if err != nil {
		return fmt.Errorf("read boot flags back: %w", err)
	}
	if next, ok := got.Next(); !ok || next != want {
		return fmt.Errorf("set boot flags: read back %v, which does not select slot %s", got, want)
	}
	return nil
}

// reread hashes the written images once more from the device: bytes that
// changed since they were written must not be booted.
func (u *Updater) reread(w *Written) error {
	for name, image := range w.Images {
		var from io.ReaderAt
		switch name {
		case payload.Kernel:
			k, err := u.Control.OpenKernel(w.Slot)
			if err != nil {
				return fmt.Errorf("read written kernel: %w", err)
			}
			defer k.Close()
			from = k
		case payload.PCRPolicy:
			f, err := os.Open(u.pcrPath(w.Slot))
			if err != nil {
				return fmt.Errorf("read written PCR policy: %w", err)
			}
			defer f.Close()
			from = f
		default:
			d, err := u.Disk.Slot(w.Slot)
			if err != nil {
				return fmt.Errorf("read written slot: %w", err)
			}
			defer d.Close()
			from = d
		}
		h := sha256.New()
		if n, err := io.Copy(h, io.NewSectionReader(from, 0, image.Size)); err != nil || n != image.Size {
			return fmt.Errorf("read written %s: %d of %d bytes: %w", name, n, image.Size, err)
		}
		if !bytes.Equal(h.Sum(nil), image.SHA256) {
			return fmt.Errorf("slot %s: the written %s of release %s has changed since it was verified: it is not booted, and written again", w.Slot, name, w.Version)
		}
	}
	return nil
}

// hook runs the release's post-install hook.
func (u *Updater) hook(ctx context.Context, m Memory, kernel string) error {
	p := u.Policy()
	if p.Hook.Postinstall == policy.PostinstallOff {
		return nil
	}
	run := HookRun{
		Slot: m.Written.Slot, Version: m.Written.Version, Kernel: kernel,
		Packages: m.Written.Packages, Response: u.responsePath(), Policy: p.Hook,
	}
	if _, has := m.Written.Images[payload.PCRPolicy]; has {
		run.PCRPolicy = u.pcrPath(m.Written.Slot)
	}
	return u.Host.Hook(ctx, run, func(line string) { u.event(EventHook, m.Written.Version, nil, "%s", line) })
}

// hookFailed takes back whatever the hook may have done to the flags, and
// gives a release up whose hook fails every time.
func (u *Updater) hookFailed(ctx context.Context, cause error) error {
	m := u.recall()
	w := *m.Written
	if ctx.Err() != nil { // stopped with the daemon: no fault of the release
		return errors.Join(ctx.Err(), u.discard(w.Slot))
	}
	w.HookFailures++
	w.NotBefore = u.Now().Add(u.Policy().Reboot.RetryPause)
	m.Written = &w
	if w.HookFailures > u.Policy().Trial.Retries {
		m = m.reject(w.Version, w.SHA256, "its post-install hook fails: "+cause.Error(), u.Now())
	}
	err := errors.Join(cause, u.discard(w.Slot), u.remember(m))
	u.operation(ReportingError)
	u.report(ctx, omaha.EventUpdateComplete, omaha.ResultError, omaha.CodePostinstall, false)
	u.operation(Idle)
	u.settleUpdate(cause)
	return err
}

// discard makes a slot unbootable whose release is not to be tried now, whatever
// its hook did to the flags.
func (u *Updater) discard(s partition.Slot) error {
	flags, err := u.Control.Table()
	if err != nil {
		return fmt.Errorf("take back what the hook did to the boot flags: %w", err)
	}
	return u.Control.SetTable(flags.Discard(s))
}

// unstage takes the selection of the passive slot back. A release that was
// good keeps its flags; one that was never tried becomes unbootable again.
func (u *Updater) unstage(o Observed) error {
	passive := o.Booted.Other()
	flags := o.Flags.Unstage(passive)
	if o.Flags[passive].Successful {
		flags = o.Flags.Select(o.Booted)
	}
	if err := u.flip(flags, o.Booted); err != nil {
		return fmt.Errorf("unstage: %w", err)
	}
	if err := u.remember(u.recall().disarm()); err != nil {
		return err
	}
	u.event(EventUnstaged, "", nil, "slot %s is no longer next to boot", passive)
	return nil
}

// rebootPatience is how long a reboot that was agreed to may take before it
// counts as one that did not happen.
const rebootPatience = 10 * time.Minute

// reboot leaves the running system. What was refused, or does not happen, is
// taken back by what follows: Unstage, Resume, Release.
func (u *Updater) reboot(ctx context.Context, o Observed) error {
	forced := o.Flags[o.Booted].Priority == 0
	if !forced {
		if err := u.Lock.Fence(ctx, PhaseRebooting); err != nil {
			return fmt.Errorf("reboot: %w", err)
		}
	}
	next, _ := o.Flags.Next()
	why := u.recall().intent(o).Reason
	u.event(EventRebooting, "", nil, "rebooting into slot %s: %s", next, why)
	err := u.Host.Reboot(ctx, why, forced || !u.Policy().Reboot.RespectInhibitors)
	if errors.Is(err, ErrRefused) {
		return fmt.Errorf("reboot: %w", err)
	}
	if err != nil && ctx.Err() == nil { // no answer is no refusal
		u.event(EventError, "", err, "the reboot may be under way all the same, and is waited for: %v", err)
	}
	u.clock().Pause(ctx, rebootPatience, nil)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("reboot: %w", err)
	}
	return fmt.Errorf("reboot: agreed to and not done for %s", rebootPatience)
}

func (u *Updater) pcrPath(s partition.Slot) string {
	return filepath.Join(u.Scratch, map[partition.Slot]string{partition.A: "pcrs-a.zip", partition.B: "pcrs-b.zip"}[s])
}

func (u *Updater) responsePath() string { return filepath.Join(u.Scratch, "response.xml") }

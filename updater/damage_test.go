package updater_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/policy"
)

const rot = "dm-verity met a block that is not what was built"

// onGood is a machine on 1.1.0 in slot B, good, with 1.0.0 in slot A, whose slot B
// then rots.
func onGood(t *testing.T) *bench {
	t.Helper()
	b := ready(t)
	b.live(func(s updater.Status) bool { return s.Release == "1.1.0" && s.Permit == "none" && waiting(s) })
	b.machine.Damage[partition.B] = rot
	return b
}

// A damaged good slot is left with permit and drain for the release before, which
// then writes what is offered over the damage: the release is not at fault.
func TestDamagedGoodSlotIsLeftAndWrittenAnew(t *testing.T) {
	b := onGood(t)
	before := len(b.steps())
	b.live(func(s updater.Status) bool { return s.Booted == "A" })
	if got, want := b.steps()[before:], []string{"lock", "drain", "stage", "reboot"}; !slices.Equal(got[:min(len(got), 4)], want) {
		t.Errorf("steps %v, want %v first", got, want)
	}
	if s := b.current.Status(); s.Release != "1.0.0" || len(s.Rejected) != 0 {
		t.Errorf("after the way back: %+v", s)
	}
	b.machine.Damage[partition.B] = ""
	b.live(func(s updater.Status) bool { return s.Release == "1.1.0" && s.Permit == "none" && waiting(s) })
	if n := b.fetched("1.1.0"); n != 2 {
		t.Errorf("%d downloads of 1.1.0, want 2: the damaged slot is written anew", n)
	}
	if s := b.current.Status(); has(s.Reasons, "damage") || s.OnTrial || s.Drained {
		t.Errorf("at rest: %+v", s)
	}
}

// The old release is the only way out of a damaged slot: it is not written over,
// and strategy off leaves the reboot to an operator.
func TestDamagedSlotKeepsItsWayBack(t *testing.T) {
	b := onGood(t)
	b.policy.Reboot.Strategy = policy.Off
	b.publish("1.2.0", releasePayload(t, "1.2.0", releaseImage(t, "1.2.0")))
	u, stop := b.up()
	b.until(u, func(s updater.Status) bool { return waiting(s) && has(s.Reasons, "rollback") })
	b.never("writes over the way back", func() bool { return b.fetched("1.2.0") > 0 })
	s := u.Status()
	if !has(s.Reasons, "damage") || !has(s.Reasons, "strategy") || s.Pending != "rollback" || s.Booted != "B" {
		t.Errorf("at rest: %+v", s)
	}
	// What was met in one boot is known in the next, where nothing has read it yet.
	stop()
	b.machine.Damage[partition.B] = ""
	u, _ = b.up()
	b.until(u, func(s updater.Status) bool { return waiting(s) && has(s.Reasons, "damage") })
}

// A machine without anything to go back to stays up, says so, and takes the next
// release.
func TestDamagedSlotWithoutAnotherStaysUntilTheNextRelease(t *testing.T) {
	b := newBench(t, "1.0.0")
	b.machine.Damage[partition.A] = rot
	u, stop := b.up()
	b.until(u, func(s updater.Status) bool { return waiting(s) && has(s.Reasons, "damage") })
	b.never("reboots", func() bool { return b.boot.Err() != nil || u.Status().Permit != "none" })
	if text := u.Status().Reasons[0].Text; !strings.Contains(text, "slot A with 1.0.0 is damaged ("+rot+"), and slot B holds no release that was good") {
		t.Errorf("status says %q", text)
	}
	stop()
	b.publish("1.1.0", releasePayload(t, "1.1.0", releaseImage(t, "1.1.0")))
	b.live(func(s updater.Status) bool { return s.Release == "1.1.0" && s.Permit == "none" && waiting(s) })
}

// Two slots that are both damaged do not send a machine to and fro.
func TestDamagedSlotsAreLeftOnce(t *testing.T) {
	b := onGood(t)
	b.policy.Update.Enabled = false // nothing is written over either
	b.machine.Damage[partition.A] = rot
	b.live(func(s updater.Status) bool { return s.Booted == "A" && s.Permit == "none" && s.Step == updater.Wait })
	u, stop := b.up()
	b.until(u, func(s updater.Status) bool { return s.Step == updater.Wait && has(s.Reasons, "damage") })
	b.never("goes back to a damaged slot", func() bool { return b.boot.Err() != nil || u.Status().Pending != "" })
	if text := u.Status().Reasons[0].Text; !strings.Contains(text, "and so is slot B, which was left for it") {
		t.Errorf("status says %q", text)
	}
	stop()
	// The way forward is open: the release is written over the damage.
	b.policy.Update.Enabled = true
	b.machine.Damage[partition.B] = ""
	b.live(func(s updater.Status) bool {
		return s.Release == "1.1.0" && s.Permit == "none" && waiting(s) && !has(s.Reasons, "damage")
	})
}

// A release on its trial is not marked good in a slot that is known to be damaged.
func TestDamagedTrialLeadsBack(t *testing.T) {
	b := ready(t)
	b.machine.Damage[partition.B] = rot
	b.policy.Health.Timeout = 100 * time.Millisecond
	b.live(func(s updater.Status) bool {
		return s.Booted == "A" && len(s.Rejected) == 1 && s.Permit == "none" && waiting(s)
	})
	if why := b.current.Status().Rejected[0].Reason; !strings.Contains(why, rot) {
		t.Errorf("rejected because %q", why)
	}
	if b.flags()[partition.B].Bootable() {
		t.Errorf("flags %v: the damaged slot can boot", b.flags())
	}
}

// An operator's word to stay is heard as everywhere: pause.
func TestDamagedSlotWaitsWhilePaused(t *testing.T) {
	b := onGood(t)
	u, _ := b.up(func(u *updater.Updater) {
		m, err := u.Store.Load()
		if err != nil {
			t.Fatal(err)
		}
		m.Paused = "test"
		if err := u.Store.Save(m); err != nil {
			t.Fatal(err)
		}
	})
	b.until(u, func(s updater.Status) bool { return waiting(s) && has(s.Reasons, "damage") && has(s.Reasons, "paused") })
	b.never("reboots", func() bool { return b.boot.Err() != nil })
}

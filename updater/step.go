// Package updater decides what a machine does next about its operating system, and does it.
//
// It senses disk, boot flags, lock, scheduler and server; a pure Decide names
// the next step; the step is done and all is sensed again. Nothing remembers
// which step was last: after any crash the next look finds the way.
package updater

import "github.com/drydock-os/drydock/partition"

// A Step is one thing to do. Every step may be run again after a crash.
type Step uint8

// The steps, in the order in which an update passes them.
const (
	Wait     Step = iota // nothing to do, or nothing that may be done now
	Check                // ask the update server
	Write                // write the offered release into the passive slot and verify it
	Lock                 // ask for a permit to reboot
	Drain                // have the workloads moved away
	Stage                // select the other slot for the next boot
	Unstage              // take that selection back
	Reboot               // into the slot that the boot flags choose
	Validate             // judge the health of this boot
	MarkGood             // end the trial of the booted slot
	Reject               // discard the booted slot; the next boot is the old one
	Resume               // take workloads again
	Release              // give the permit, or the place in the queue, back
)

var stepNames = [...]string{"wait", "check", "write", "lock", "drain", "stage", "unstage", "reboot", "validate", "mark-good", "reject", "resume", "release"}

// String is the step as status and log have it.
func (s Step) String() string { return stepNames[s] }

// Health is the verdict on the present boot.
type Health uint8

// The verdicts. They are judged anew after each start of the daemon.
const (
	HealthUnknown Health = iota
	Healthy
	Sick
)

// A Permit is this machine's standing in its group's reboot lock.
type Permit uint8

// The standings. What could not be read is PermitUnknown and allows nothing.
const (
	PermitUnknown Permit = iota
	NoPermit
	Queued // has a ticket, waits for its turn
	Held   // may reboot
)

// A Goal is why this machine should reboot, if it should.
type Goal uint8

// The goals. Each takes the same way: permit, drain, stage, reboot, health, release.
const (
	NoGoal     Goal = iota
	NewRelease      // the passive slot holds a verified release that is to be tried
	OldRelease      // an operator wants the passive slot's good release back
	SameSlot        // a reboot for another reason, into the same slot
)

// Facts are what the machine observes. Nothing in them is remembered from step
// to step, and what could not be observed has the value that allows less.
type Facts struct {
	Readable bool           // the booted slot and the boot flags are known
	Booted   partition.Slot // the slot that runs
	Flags    partition.Table
	Health   Health
	Goal     Goal
	Rejected bool // the booted release was judged and is to be left
	External bool // somebody else reboots this machine: stage at once, never lock, drain or reboot
	MayStage bool // to an external coordinator: nobody paused this machine
	Permit   Permit
	Stuck    bool // the permit is only feared to be held, and cannot be given back: whom it belongs to does not answer
	Drained  bool // this machine is out of service on our word, and none of its workloads is left
	Begun    bool // a drain was begun, and its work is not known to be back
	Stayed   bool // it was begun in this boot: no reboot came of it
	Silent   bool // the scheduler fell silent a moment ago: what was begun is neither gone on with nor undone
	Back     bool // after that all is as it was before: work, and what else the policy asks for
	Offered  bool // a release is offered that is wanted and not written yet
	Stale    bool // the last check is too long ago, or somebody asked for one
	MayWrite bool // a download may run now, and the passive slot may be given up
	MayAsk   bool // window, inhibitors, sessions, health and scheduler allow to ask for a permit
	MayGo    bool // with the permit held: the window is still open, nobody is in the way, and nobody stopped it
	MayWait  bool // the place in the queue may be kept
	Hold     bool // a trial came back unexplained and is tried again shortly: keep the permit and the drain
}

// Decide returns the next step. The rules are tried in order.
func Decide(f Facts) Step {
	next, bootable := f.Flags.Next()
	booted := f.Flags[f.Booted]
	staged := bootable && next != f.Booted
	goal := f.Booted // the slot to be selected before the reboot
	if f.Goal == NewRelease || f.Goal == OldRelease {
		goal = f.Booted.Other()
	}
	going := f.Goal != NoGoal && (f.Permit == Held && f.MayGo || f.Permit != Held && f.MayAsk)
	free := (f.Permit != Held || f.Stuck) && !f.Drained && !f.Begun && !staged // no reboot is under way
	switch {
	case !f.Readable:
		return Wait
	case booted.Priority == 0 && staged && f.Rejected: // leave at once, the permit is still ours
		return Reboot
	case booted.Priority == 0: // booted by hand, or nothing else would boot: stay, and say so
		return Wait
	case !booted.Successful && f.Health == HealthUnknown:
		return Validate
	case !booted.Successful && f.Health == Sick:
		return Reject
	case !booted.Successful:
		return MarkGood
	case free && f.Stale: // also while a release waits: a newer one replaces it
		return Check
	case free && f.Offered && f.MayWrite && f.Permit == Queued:
		return Release // a grant must not find this machine downloading
	case free && f.Offered && f.MayWrite:
		return Write
	case f.External:
		return external(f, staged)
	case f.Silent && f.Goal != NoGoal && f.Permit == Held && (f.Drained || f.Begun):
		return Wait
	case going && free:
		return Lock
	case going && f.Permit == Held && !f.Drained:
		return Drain
	case going && f.Permit == Held && goal == next:
		return Reboot
	case going && f.Permit == Held && goal != f.Booted:
		return Stage
	case staged: // the window shut on us, or the permit was lost: another is asked for from the start
		return Unstage
	}
	return settle(f)
}

// external is what follows for a machine that somebody else reboots: the
// release is staged as soon as it is written, as upstream does.
func external(f Facts, staged bool) Step {
	switch {
	case (f.Goal == NewRelease || f.Goal == OldRelease) && !staged && f.MayStage:
		return Stage
	case f.Goal == NoGoal && staged:
		return Unstage
	case staged && f.Stale:
		return Check // only a ping: what is staged is not replaced
	}
	return settle(f)
}

// settle brings the machine back to rest: work first, then the permit.
func settle(f Facts) Step {
	back := f.Drained || f.Begun || f.Permit == Held
	switch {
	case f.Permit == Held && f.Hold:
		return Wait
	case (f.Drained || f.Begun) && f.Stayed: // this boot was not what was in question, and work that it waits for may be part of its health
		return Resume
	case back && f.Health == HealthUnknown:
		return Validate
	case back && f.Health == Sick: // an old release that is not well keeps its permit: the group must not go on
		return Wait
	case f.Drained || f.Begun:
		return Resume
	case f.Permit == Held && !f.Back: // the next machine would go while this one's work is still missing
		return Wait
	case f.Permit == Held:
		return Release
	case f.Permit == Queued && !(f.Goal != NoGoal && f.MayWait):
		return Release
	}
	return Wait
}

package updater

import (
	"fmt"
	"slices"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/omaha"
	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/updater/policy"
)

// Observed is what was seen on one look at the machine and at what is around it.
type Observed struct {
	Now      time.Time
	BootID   string
	Known    bool   // booted slot and flags could be read
	Unknown  string // why not
	Booted   partition.Slot
	Flags    partition.Table
	Release  string        // version that runs, by its own os-release
	Damage   string        // what is wrong with the booted slot's bytes; "" while nothing is known to be
	Up       time.Duration // since the boot; 0 if that is not known
	Health   Health
	Permit   Permit
	Perhaps  bool // the permit is only feared to be held
	Drained  bool
	Forced   bool                 // Drained is the policy's word: work may still be here
	Begun    bool                 // a drain was begun, and its work is not known to be back
	Silent   bool                 // the scheduler did not answer, for the first time a moment ago
	Left     []fleetlink.Workload // what still has to leave, of a drain that was begun
	Returns  []Reason             // why a permit that was used is not given back yet: work is not back, a gate is shut
	Offer    *omaha.Offer         // of the last check, nil if there is none
	Stale    bool                 // the schedule or somebody asks for a check
	Asked    bool                 // somebody asked for the update now: download windows do not hold it
	Older    bool                 // and was allowed to take an older release
	Failed   []Failure            // what went wrong and waits before it is tried again
	Sick     string               // why this boot is not well
	Blockers []Reason             // inhibitors, sessions, and before the permit what the scheduler says: what must not be in the way of a reboot
	Stopped  []Reason             // what takes a permit's use away again: a freeze
	Waits    []Reason             // why the permit is not granted yet
	Required string               // who asks for a reboot by a file; "" for nobody
}

// onTrial reports whether the booted slot is not marked good yet.
func (o Observed) onTrial() bool { return o.Known && !o.Flags[o.Booted].Successful }

// A Failure is a step that went wrong and is not tried again before Until.
type Failure struct {
	Step  Step
	Err   error
	Until time.Time
}

// view is one look as facts for Decide, and as reasons for people.
type view struct {
	Facts   Facts
	Reasons []Reason
	Halt    string // why a permit that is held is not gone on with; "" if it is, or nothing is to be rebooted for
}

func (v *view) because(kind string, until time.Time, format string, args ...any) {
	v.Reasons = append(v.Reasons, Reason{Kind: kind, Text: fmt.Sprintf(format, args...), Until: until})
}

// derive makes facts of what was observed and remembered, under a policy. It
// is pure: all that Decide knows comes through here.
func derive(o Observed, m Memory, p policy.Policy) view {
	v := view{Facts: Facts{
		Readable: o.Known, Booted: o.Booted, Flags: o.Flags, Health: o.Health,
		External: p.Reboot.Strategy == policy.External, Permit: o.Permit, Drained: o.Drained,
		Begun: o.Begun, Back: len(o.Returns) == 0, Silent: o.Silent, Stale: o.Stale,
	}}
	if !o.Known {
		v.because("unknown", time.Time{}, "cannot tell which slot is booted or what the boot flags say, so nothing is done: %s", o.Unknown)
		return v
	}
	if t := m.Trial; t != nil && t.Slot == o.Booted && t.Verdict != "" {
		v.Facts.Health, v.Facts.Rejected = Sick, true // judged before the last crash
	}
	v.Facts.MayStage = m.Paused == ""
	v.Facts.Stayed = m.Drain != nil && m.Drain.Boot == o.BootID
	v.Facts.Stuck = o.Perhaps && slices.ContainsFunc(o.Failed, func(f Failure) bool { return f.Step == Release })
	v.situation(o, m)
	v.overdue(o, m, p)
	v.Facts.Goal = v.goal(o, m, p)
	v.write(o, m, p)
	v.reboot(o, m, p)
	v.failed(o)
	return v
}

// situation says what is out of the ordinary with the boot itself.
func (v *view) situation(o Observed, m Memory) {
	booted := o.Flags[o.Booted]
	next, ok := o.Flags.Next()
	away := o.Drained || o.Begun || o.Permit == Held
	v.damage(o, m)
	switch {
	case booted.Priority == 0 && v.Facts.Rejected && ok && next != o.Booted:
		v.because("rejected", time.Time{}, "release %s was rejected and is left: %s", o.Release, m.Trial.Verdict)
	case booted.Priority == 0 && ok && next != o.Booted:
		v.because("by-hand", time.Time{}, "slot %s runs although its boot flags forbid it: somebody booted it by hand. The next boot takes slot %s; `drydock mark good` keeps %s", o.Booted, next, o.Release)
	case booted.Priority == 0:
		v.because("stuck", time.Time{}, "slot %s runs although its boot flags forbid it, and no other slot could be booted: this machine needs a person (`drydock mark good` keeps %s)", o.Booted, o.Release)
	case v.Facts.Health == Sick && (away || !booted.Successful):
		v.because("health", time.Time{}, "this boot is not well (%s) and is judged again; `drydock mark good` overrules it", o.Sick)
	case v.Facts.External && booted.Successful && ok && next != o.Booted:
		v.because("staged", time.Time{}, "slot %s is next to boot; another coordinator reboots this machine", next)
	}
	if away || o.Permit == Queued || o.Permit == PermitUnknown {
		v.Reasons = append(v.Reasons, o.Stopped...)
	}
	v.Reasons = append(v.Reasons, o.Returns...)
	if o.Begun && len(o.Left) > 0 {
		v.Reasons = append(v.Reasons, stillHere(o.Left))
	}
}

// overdue says that a drain lasts longer than it should, and that the policy waits.
func (v *view) overdue(o Observed, m Memory, p policy.Policy) {
	if d := m.Drain; d != nil && o.Begun && !o.Drained && v.Facts.Stayed && p.Drain.OnTimeout == policy.Wait && o.Now.Sub(d.Since) >= p.Drain.Timeout {
		v.because("overdue", time.Time{}, "the drain has lasted %s, longer than drain.timeout (%s), and the policy says to wait: the permit is held meanwhile (`drydock pause` undoes the drain)",
			o.Now.Sub(d.Since).Round(time.Second), p.Drain.Timeout)
	}
}

// damage says what becomes of a good slot that is not what was written any more.
func (v *view) damage(o Observed, m Memory) {
	what, passive := o.Damage, o.Booted.Other()
	if w := m.Wish; what == "" && w != nil && w.Damage { // found in an earlier boot
		what = w.Reason
	}
	switch {
	case what == "" || o.onTrial():
	case m.Wish != nil && m.Wish.Goal == OldRelease:
		v.because("damage", time.Time{}, "slot %s with %s is damaged (%s): this machine goes back to the release in slot %s; what is offered then is written over the damage", o.Booted, o.Release, what, passive)
	case m.Left != nil && m.Left.Slot == passive:
		v.because("damage", time.Time{}, "slot %s with %s is damaged (%s), and so is slot %s, which was left for it (%s): this machine stays as long as it runs, and the next release mends it", o.Booted, o.Release, what, passive, m.Left.Reason)
	default:
		v.because("damage", time.Time{}, "slot %s with %s is damaged (%s), and slot %s holds no release that was good to go back to: this machine stays as long as it runs, and the next release mends it", o.Booted, o.Release, what, passive)
	}
}

// goal is why this machine should reboot.
func (v *view) goal(o Observed, m Memory, p policy.Policy) Goal {
	passive, otherwise := o.Flags[o.Booted.Other()], NoGoal
	if w := m.Wish; w != nil {
		if w.Goal == OldRelease && !passive.Successful {
			v.because("rollback", time.Time{}, "a rollback was asked for, but slot %s holds no release that was ever good", o.Booted.Other())
			return NoGoal
		}
		if w.Goal == OldRelease {
			return OldRelease
		}
		otherwise = SameSlot // and a reboot that was asked for takes what waits for one
	}
	if m.usable(o, p) != nil {
		return otherwise
	}
	if w := m.Written; o.Now.Before(w.NotBefore) {
		v.because("hook", w.NotBefore, "the post-install hook of %s failed (%d times) and is tried again", w.Version, w.HookFailures)
		return otherwise
	}
	return NewRelease
}

// usable says whether the passive slot holds a release that may be tried: nil,
// or why not.
func (m Memory) usable(o Observed, p policy.Policy) error {
	w := m.Written
	switch {
	case w == nil:
		return fmt.Errorf("no release is written")
	case w.Slot == o.Booted:
		return fmt.Errorf("slot %s is booted", w.Slot)
	case w.Pending:
		return fmt.Errorf("what belongs to release %s is not complete", w.Version)
	}
	return m.wanted(o, p, w.Version, w.SHA256, w.Downgrade)
}

// holds reports whether the release that is offered is the one written.
func (m Memory) holds(offer *omaha.Offer) bool {
	w := m.Written
	return w != nil && w.Version == offer.Version && hexOf(w.SHA256) == hexOf(offer.SHA256)
}

// wanted says whether a release may be taken: nil, or a Reason as an error.
func (m Memory) wanted(o Observed, p policy.Policy, version string, sha256 []byte, older bool) error {
	if r, rejected := m.rejection(version, sha256); rejected {
		return unwanted{Reason{Kind: "rejected", Text: fmt.Sprintf("release %s was rejected on %s (%s) and is not taken again until `drydock retry %s`",
			version, r.At.Format(time.DateOnly), r.Reason, version)}}
	}
	p.Update.AllowDowngrade = p.Update.AllowDowngrade || older
	if err := p.Accept(o.Release, version); err != nil {
		return unwanted{Reason{Kind: "version", Text: fmt.Sprintf("release %s is offered and not taken: %v", version, err)}}
	}
	return nil
}

// unwanted is a Reason as an error.
type unwanted struct{ Reason }

// Error is the reason's sentence.
func (u unwanted) Error() string { return u.Text }

// write says whether a release is offered that should be written, and may be.
func (v *view) write(o Observed, m Memory, p policy.Policy) {
	f := &v.Facts
	if offer := o.Offer; offer != nil && offer.Update {
		err := m.wanted(o, p, offer.Version, offer.SHA256, o.Older)
		if u, no := err.(unwanted); no {
			v.Reasons = append(v.Reasons, u.Reason)
		}
		f.Offered = err == nil && (p.Update.Enabled || o.Asked) && !(m.holds(offer) && m.usable(o, p) == nil)
	}
	if !f.Offered {
		return
	}
	before := len(v.Reasons)
	v.paused(m)
	if m.Wish != nil && m.Wish.Goal == OldRelease {
		v.because("rollback", time.Time{}, "a rollback to the release in slot %s is asked for, so nothing is written there", o.Booted.Other())
	}
	if kept := m.GoodAt.Add(p.Trial.KeepPrevious); !m.GoodAt.IsZero() && o.Now.Before(kept) {
		v.because("keep-previous", kept, "the release before %s is kept in slot %s for %s after it was found good; release %s is written then",
			o.Release, o.Booted.Other(), p.Trial.KeepPrevious, o.Offer.Version)
	}
	if s, _ := p.Downloads(); !o.Asked && !s.Open(o.Now) {
		next, _ := s.Next(o.Now)
		v.because("download-window", next, "release %s is offered; downloads wait for their window", o.Offer.Version)
	}
	f.MayWrite = len(v.Reasons) == before
}

func (v *view) paused(m Memory) {
	if m.Paused != "" {
		v.because("paused", time.Time{}, "paused by an operator: %s (`drydock unpause` goes on)", m.Paused)
	}
}

// reboot says whether the way to a reboot may be begun, and gone on.
func (v *view) reboot(o Observed, m Memory, p policy.Policy) {
	f := &v.Facts
	if f.External && f.Goal == NewRelease {
		v.paused(m)
		f.MayStage = f.MayStage && !v.retry(o, m, p)
		return
	}
	if f.Goal == NoGoal {
		return
	}
	before := len(v.Reasons)
	if p.Reboot.Strategy == policy.Off && (m.Wish == nil || m.Wish.File || m.Wish.Damage) {
		v.because("strategy", time.Time{}, "a reboot is due (%s); strategy off leaves it to an operator", m.intent(o).Reason)
	}
	v.paused(m)
	if s, _ := p.Reboots(); !s.Open(o.Now) {
		next, _ := s.Next(o.Now)
		v.because("window", next, "reboots wait for their window")
	}
	v.Reasons = append(v.Reasons, o.Blockers...)
	f.MayWait = len(v.Reasons) == before
	if !o.Drained && !o.Begun && o.Permit == NoPermit { // else said already
		v.Reasons = append(v.Reasons, o.Stopped...)
	}
	used := o.Permit == Held && (m.Returning || m.Ending != "" && m.Ending != EndAborted) // a permit is for one reboot: this one goes back first
	f.MayGo = f.MayWait && len(o.Stopped) == 0 && !used
	if against := append(slices.Clone(v.Reasons[before:]), o.Stopped...); len(against) > 0 {
		v.Halt = firstReason(against)
	}
	f.MayAsk = f.MayGo && o.Permit != PermitUnknown && !v.early(o, m)
	if f.Goal == NewRelease && v.retry(o, m, p) {
		f.Hold, f.MayGo, f.MayAsk, f.MayWait = f.MayGo, false, false, false
	}
	if f.Permit == NoPermit || f.Permit == Queued {
		v.Reasons = append(v.Reasons, o.Waits...)
	}
	if f.Permit == Queued {
		v.because("queued", time.Time{}, "waits in the queue for a permit to reboot")
	}
}

// may reports whether a reboot is allowed by all that was asked so far.
func (v view) may() bool {
	if v.Facts.Permit == Held {
		return v.Facts.MayGo
	}
	return v.Facts.MayAsk || v.Facts.Permit == Queued && v.Facts.MayWait
}

// early reports whether a permit was given back unused so lately that it is not
// asked for again: the others go first.
func (v *view) early(o Observed, m Memory) bool {
	if o.Permit != NoPermit || !o.Now.Before(m.AskAgain) {
		return false
	}
	v.because("pause", m.AskAgain, "the last permit was given back unused (%s); another is asked for then", m.Unused)
	return true
}

// retry reports whether a trial that came back without a verdict waits to be
// tried again.
func (v *view) retry(o Observed, m Memory, p policy.Policy) bool {
	t := m.Trial
	if t == nil || !o.Now.Before(t.RetryAt) {
		return false
	}
	v.because("retry", t.RetryAt, "%s came back to %s without a verdict (%d of at most %d times) and is tried again", t.Version, o.Release, t.Returns, p.Trial.Retries)
	return true
}

// failed holds back the steps that went wrong until their pauses are over.
func (v *view) failed(o Observed) {
	f := &v.Facts
	for _, fail := range o.Failed {
		v.because("failed", fail.Until, "%s went wrong and is tried again: %v", fail.Step, fail.Err)
		switch fail.Step {
		case Check:
			f.Stale = f.Stale && o.Asked
		case Write:
			f.MayWrite = f.MayWrite && o.Asked
		case Lock: // a place in the queue is kept, and a permit that came all the same is used
			f.MayAsk = false
		case Drain, Stage, Reboot:
			f.MayAsk, f.MayGo, f.MayStage, f.MayWait = false, false, false, false
			v.Halt = cmpOr(v.Halt, fmt.Sprintf("%s went wrong: %v", fail.Step, fail.Err))
		}
	}
}

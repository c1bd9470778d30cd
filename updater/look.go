package updater

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/updater/policy"
)

// lookTimeout bounds what a look asks of lock, scheduler and host: an answer that
// does not come is an unknown fact, not a machine that hangs. The lock has its
// own bound: when it is away, the others must still be heard.
const (
	lookTimeout = 20 * time.Second
	lockTimeout = 5 * time.Second
)

// look observes the machine and what is around it, and brings the memory in
// line with what a boot has changed.
func (u *Updater) look(ctx context.Context) Observed {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	u.beat()
	p, run := u.Policy(), &u.run
	u.refresh()
	o := Observed{Now: u.Now(), Health: run.health, Sick: run.sick, Offer: run.offer}
	for _, step := range slices.Sorted(maps.Keys(run.failed)) {
		if f := run.failed[step]; o.Now.Before(f.Until) {
			o.Failed = append(o.Failed, f)
		}
	}
	if asked := u.asking(); asked != nil {
		o.Asked, o.Older, o.Stale = true, asked.AllowDowngrade, !asked.checked
	}
	o.Stale = o.Stale || p.Update.Enabled && p.Server.URL != "" && !o.Now.Before(run.nextCheck)
	u.lookInside(&o)
	if p.Reboot.Strategy != policy.External { // there another coordinator looks for such files
		o.Required = u.Host.Required(p)
	}
	if m := u.recall(); o.Known {
		next := m.reconcile(o, patience{Retries: p.Trial.Retries, Backoff: p.Trial.RetryBackoff, Pause: p.Reboot.RetryPause})
		if !sameMemory(m, next) {
			u.learn(m, next)
		}
	}
	o.Begun = run.begun
	err := u.lookOutside(ctx, &o, u.recall())
	if o.Permit != Held {
		run.late, run.forced = false, false
	}
	o.Forced = run.forced && !o.Drained
	o.Drained = o.Drained || run.forced
	switch {
	case err == nil:
		run.mute = time.Time{}
	case run.mute.IsZero():
		run.mute = o.Now
	}
	o.Silent = err != nil && o.Now.Sub(run.mute) < min(hush, p.Drain.Timeout/10)
	return o
}

// hush bounds how long a scheduler may be silent in the middle of a drain before
// what was begun is undone: a restart of its API server.
const hush = time.Minute

// rejudge is when a boot that is not well, and cannot be left, is judged again.
const rejudge = time.Minute

// refresh forgets what no longer holds: an offer made under another policy, a
// verdict on a boot that may have recovered.
func (u *Updater) refresh() {
	u.mu.Lock()
	outdated := u.outdated
	u.outdated = false
	u.mu.Unlock()
	if outdated && u.run.offer != nil {
		u.run.offer, u.run.nextCheck = nil, u.Now()
	}
	if u.run.health == Sick && u.Now().Sub(u.run.sickSince) >= rejudge {
		u.run.health = HealthUnknown
	}
}

// lookInside reads what runs and what the flags say. Whatever is missing
// leaves Known false.
func (u *Updater) lookInside(o *Observed) {
	id, err := u.Host.Identity()
	if err != nil {
		o.Unknown = err.Error()
		return
	}
	o.BootID, o.Release, o.Up, o.Damage = id.BootID, id.Release, id.Up, id.Damage
	if o.Booted, err = u.Disk.Booted(); err != nil {
		o.Unknown = err.Error()
		return
	}
	if o.Flags, err = u.Control.Table(); err != nil {
		o.Unknown = err.Error()
		return
	}
	o.Known = true
}

// lookOutside asks lock, scheduler and host. An answer that does not come
// allows nothing. The error is the scheduler's.
func (u *Updater) lookOutside(ctx context.Context, o *Observed, m Memory) error {
	bounded, cancel := context.WithTimeout(ctx, lockTimeout)
	standing, err := u.Lock.Standing(bounded)
	cancel()
	if err == nil && standing.Permit == PermitUnknown {
		err = errors.New("it does not say whether this machine holds a permit")
	}
	if err != nil {
		standing = Standing{Permit: PermitUnknown, Stopped: []Reason{{Kind: "lock", Text: "the reboot lock cannot be read, so this machine does not reboot until it can be (`drydock doctor` looks at etcd): " + err.Error()}}}
	}
	o.Permit, o.Stopped, o.Waits = standing.Permit, standing.Stopped, standing.Waits
	o.Perhaps = standing.Perhaps
	o.Begun = o.Begun || m.Drain != nil || standing.Begun && !m.Returning
	service, err := u.Scheduler.Standing(ctx)
	if err != nil { // what the lock knows of a drain brings its work back; nothing goes on blindly
		o.Stopped = append(o.Stopped, mute(err))
	}
	o.Drained, o.Begun, o.Left = service.Drained(), o.Begun || service.Ours, service.Left
	p := u.Policy()
	if o.Permit == Held && !o.Begun && (standing.Begun || m.Returning) {
		o.Returns = u.returns(ctx)
	}
	if derive(*o, m, p).Facts.Goal == NoGoal {
		return err // no reboot is to come
	}
	o.Blockers = u.Host.Blockers(ctx, p)
	if o.Begun || !derive(*o, m, p).may() {
		return err // the drain itself shows what stands in its way; or something does that costs nobody anything to ask
	}
	o.Blockers = append(o.Blockers, preflight(ctx, u.Scheduler, p)...)
	o.Blockers = append(o.Blockers, u.shut(ctx)...)
	return err
}

// mute is the reason of a scheduler that does not answer.
func mute(err error) Reason {
	return Reason{Kind: "scheduler", Text: "the scheduler cannot be asked: " + err.Error()}
}

// preflight says what would stand in the way of a drain now. Where the policy
// forces a drain that does not end, only what an operator forbids does.
func preflight(ctx context.Context, s Preflight, p policy.Policy) []Reason {
	held, err := s.Preflight(ctx)
	if p.Drain.OnTimeout == policy.Force {
		held = fleetlink.Forbidding(held)
	}
	switch {
	case err != nil:
		return []Reason{mute(err)}
	case len(held) == 0:
		return nil
	}
	return []Reason{{Kind: "drain", Text: "this machine could not be drained now: " + fleetlink.Names(held)}}
}

// shut says which gates are shut.
func (u *Updater) shut(ctx context.Context) (reasons []Reason) {
	if u.Gates == nil {
		return nil
	}
	for _, why := range u.Gates.Shut(ctx) {
		reasons = append(reasons, Reason{Kind: "gate", Text: why})
	}
	return reasons
}

// returns says why the next machine must not go yet, although this one has
// resumed its work.
func (u *Updater) returns(ctx context.Context) []Reason {
	ails, err := u.Scheduler.Ailments(ctx)
	if err != nil {
		return []Reason{mute(err)}
	}
	if ails = u.recall().Ill.without(ails); len(ails) > 0 {
		return []Reason{{Kind: "return", Text: "the permit is kept until the work is back: " + fleetlink.Names(ails)}}
	}
	held, err := u.Scheduler.Preflight(ctx)
	if err != nil {
		return []Reason{mute(err)}
	}
	if barred := fleetlink.Forbidding(held); len(barred) > 0 {
		return []Reason{{Kind: "return", Text: "the permit is kept for as long as an operator forbids reboots: " + fleetlink.Names(barred)}}
	}
	return u.shut(ctx)
}

// learn keeps what reconcile found, and tells it.
func (u *Updater) learn(before, after Memory) {
	if err := u.remember(after); err != nil {
		u.event(EventError, "", err, "%v", err)
		return
	}
	u.run.failed = nil
	news := after.History
	if len(before.History) > 0 {
		news = news[:max(slices.Index(news, before.History[0]), 0)]
	}
	for _, h := range slices.Backward(news) {
		u.event(h.Type, h.Version, nil, "%s", h.Message)
	}
}

// sameMemory reports whether reconcile left everything as it was.
func sameMemory(a, b Memory) bool {
	return a.Trial == b.Trial && a.Written == b.Written && a.Wish == b.Wish && a.GoodAt.Equal(b.GoodAt) &&
		a.Report == b.Report && a.AskAgain.Equal(b.AskAgain)
}

// current is the reason of a machine that has nothing to do.
func (u *Updater) current(o Observed) Reason {
	r := Reason{Kind: "current", Until: u.run.nextCheck, Text: "nothing newer than " + o.Release + " was offered; the server is asked again"}
	if u.memory.Poll.Answered.IsZero() {
		r.Text = "the update server has not answered a check yet; it is asked again"
	}
	return r
}

// standing is what keeps a machine from ever being updated.
func standing(p policy.Policy) []Reason {
	switch {
	case p.Server.URL == "":
		return []Reason{{Kind: "server", Text: "no update server is configured (server.url): releases are neither looked for nor taken"}}
	case !p.Update.Enabled:
		return []Reason{{Kind: "disabled", Text: "updates are disabled (update.enabled, or SERVER=disabled in update.conf): the server is asked only when somebody says so"}}
	}
	return nil
}

// note puts what was seen into the status, and tells when the step or the
// reasons changed.
func (u *Updater) note(o Observed, v view, step Step) {
	before := u.Status()
	u.survey(o, v, step)
	s := u.Status()
	switch {
	case before.Step != step, before.Operation != s.Operation:
		u.event(EventStep, s.NewVersion, nil, "%s", step)
	case !slices.EqualFunc(before.Reasons, s.Reasons, sameReason):
		u.event(EventWaiting, s.NewVersion, nil, "%s", firstReason(s.Reasons))
	}
}

// sameReason reports whether two reasons say the same.
func sameReason(a, b Reason) bool { return a.Kind == b.Kind && a.Text == b.Text }

// survey puts what was seen into the status.
func (u *Updater) survey(o Observed, v view, step Step) {
	m, p := u.recall(), u.Policy()
	u.mu.Lock()
	defer u.mu.Unlock()
	s := &u.status
	s.Step, s.StepName = step, step.String()
	s.Booted, s.Release = slotName(o.Booted, o.Known), o.Release
	s.Strategy, s.Paused = string(p.Reboot.Strategy), m.Paused
	s.Permit, s.Drained = permitNames[o.Permit], o.Drained && !o.Forced
	if o.Begun || o.Drained {
		left := o.Left
		if len(left) == 0 && !s.Drained && s.Drain != nil { // not known now
			left = s.Drain.Left
		}
		s.Drain = m.draining(left, s.Drain, p.Drain)
	} else {
		s.Drain = nil
	}
	s.NextCheck, s.Rejected = u.run.nextCheck, m.Rejected
	s.LastChecked = m.Poll.Answered
	s.Slots = slotStatus(o, m)
	s.OnTrial = o.Known && !o.Flags[o.Booted].Successful
	next, bootable := o.Flags.Next()
	s.Staged = o.Known && bootable && next != o.Booted && o.Flags[o.Booted].Successful
	s.Written = o.Known && m.usable(o, p) == nil && !v.Facts.Offered // what is offered takes its place
	s.Pending = pendingNames[NoGoal]
	if m.Wish != nil {
		s.Pending = pendingNames[m.Wish.Goal]
	}
	s.NewVersion, s.NewSize = "", 0
	switch {
	case v.Facts.Offered && o.Offer != nil:
		s.NewVersion, s.NewSize = o.Offer.Version, o.Offer.Size
	case s.Written:
		s.NewVersion, s.NewSize = m.Written.Version, m.Written.Size
	case u.run.interrupted != nil:
		c := u.run.interrupted
		s.NewVersion, s.NewSize, s.Done, s.Total = c.Version, c.Total, c.Done, c.Total
	}
	if step == Wait {
		s.Operation, s.Progress = restingOperation(*s), 0
		if c := u.run.interrupted; c != nil && c.Total > 0 {
			s.Progress = float64(c.Done) / float64(c.Total)
		}
	}
	s.Reasons = append(slices.Clip(v.Reasons), u.trouble...)
	s.Reasons = append(s.Reasons, standing(p)...)
	if step == Wait && len(s.Reasons) == 0 && o.Known && v.Facts.Goal == NoGoal && !v.Facts.Offered && o.Permit == NoPermit && !o.Drained {
		s.Reasons = []Reason{u.current(o)}
	}
}

var (
	permitNames  = [...]string{PermitUnknown: "unknown", NoPermit: "none", Queued: "queued", Held: "held"}
	pendingNames = [...]string{NoGoal: "", NewRelease: "", OldRelease: "rollback", SameSlot: "reboot"}
)

// restingOperation is what update1's clients see of a machine that waits.
func restingOperation(s Status) Operation {
	switch {
	case s.Staged:
		return NeedReboot
	case s.Written && s.Strategy != string(policy.External): // there it is staged, or its hook failed
		return Finalizing
	}
	return Idle
}

func slotStatus(o Observed, m Memory) (slots [2]SlotStatus) {
	for _, s := range []partition.Slot{partition.A, partition.B} {
		f := o.Flags[s]
		slots[s] = SlotStatus{Slot: s.String(), Priority: f.Priority, Tries: f.Tries, Successful: f.Successful}
		switch {
		case o.Known && s == o.Booted:
			slots[s].Release = o.Release
		case m.Written != nil && m.Written.Slot == s:
			slots[s].Release = m.Written.Version
		case m.Former != nil && m.Former.Slot == s:
			slots[s].Release = m.Former.Version
		}
	}
	return slots
}

func firstReason(reasons []Reason) string {
	if len(reasons) == 0 {
		return "nothing is in the way"
	}
	return reasons[0].Text
}

package updater

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/updater/policy"
)

// A Draining is a drain that was begun and whose work is not back.
type Draining struct {
	Since    time.Time            `json:"since"`
	Deadline time.Time            `json:"deadline"`       // when policy decides what becomes of it
	Total    int                  `json:"total"`          // workloads that had to leave, as far as they were seen
	Left     []fleetlink.Workload `json:"left,omitempty"` // those that are still here, and what they wait for
}

// drain takes the machine out of service and has the work leave, for as long as
// the lock stands by the permit.
func (u *Updater) drain(ctx context.Context, o Observed) error {
	if err := u.Lock.Fence(ctx, PhaseDraining); err != nil {
		return fmt.Errorf("drain: %w", err)
	}
	u.run.begun = true
	since, err := u.drainBegan(ctx, o)
	if err != nil {
		return err
	}
	m, p := u.recall(), u.Policy()
	order := fleetlink.Order{Why: "drydock: " + m.intent(o).Reason, Progress: u.left, Force: u.run.late && p.Drain.OnTimeout == policy.Force}
	order.Deadline = giveUp(since, o.Now, p.Drain, order.Force)
	late, err := u.drainUntil(ctx, order)
	if late && err != nil {
		err = inTime(err, o.Left, p.Drain.Timeout)
	}
	switch {
	case err == nil:
		m = u.recall()
		m.Unfinished = 0
		return u.remember(m)
	case late && p.Drain.OnTimeout == policy.Wait:
		u.event(EventWaiting, "", nil, "the drain has lasted %s and goes on: %v", u.Now().Sub(since).Round(time.Second), err)
		return nil // not drained yet: the next look drains on
	case late && order.Force:
		u.run.forced = true
		return nil
	case late && p.Drain.OnTimeout == policy.Force: // if nothing came in between: the next look asks
		u.run.late = true
		u.event(EventOperator, "", nil, "the policy says to reboot all the same, so what still runs is ended: %v", err)
		return nil
	case late:
		m = u.recall()
		m.Unfinished++
		u.Trouble("memory", u.remember(m))
	}
	return fmt.Errorf("drain: %w", err)
}

// giveUp is when a drain ends that was begun at since. One that is late when it
// is taken up has a last try before the policy has its way: that it took so long
// may be the fault of a scheduler that was away, of a daemon that was, or of a
// clock.
func giveUp(since, now time.Time, p policy.Drain, force bool) time.Time {
	switch deadline := since.Add(p.Timeout); {
	case force:
		return now.Add(p.ForceGrace)
	case p.OnTimeout == policy.Wait && !now.Before(deadline):
		return now.Add(p.Timeout) // when it is said again
	default:
		return later(deadline, now.Add(min(p.Timeout/10, lastTry)))
	}
}

// lastTry bounds how long a drain has that is late when it is taken up.
const lastTry = 5 * time.Minute

// later is the later of two times.
func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// inTime is the error of a drain that took too long: what is left, as it was seen
// last, is what a person asks about.
func inTime(err error, left []fleetlink.Workload, timeout time.Duration) error {
	if u := (fleetlink.Unfinished{}); errors.As(err, &u) {
		left = u.Left
	}
	return fleetlink.Unfinished{Left: left, Err: fmt.Errorf("not drained within %s", timeout)}
}

// drainBegan returns when the drain of this boot was begun, by this run of the
// daemon or by one before it.
func (u *Updater) drainBegan(ctx context.Context, o Observed) (time.Time, error) {
	m := u.recall()
	if d := m.Drain; d != nil && d.Boot == o.BootID && !d.Since.After(o.Now) {
		return d.Since, nil
	}
	if m.Drain == nil { // a cordon of an earlier boot may have made work ill since
		m.Ill = u.ill(ctx)
	}
	m.Drain, m.Returning = &Begun{Since: o.Now, Boot: o.BootID}, false
	return o.Now, u.remember(m)
}

// ill is what is not well before a drain that nothing but an operator's word keeps
// from beginning; before others, the preflight found nothing. Where it cannot be
// asked, nothing was ill.
func (u *Updater) ill(ctx context.Context) Ill {
	p := u.Policy()
	if p.Drain.OnTimeout != policy.Force {
		return nil
	}
	bounded, cancel := u.clock().Within(ctx, p.Health.CheckTimeout)
	defer cancel()
	ails, err := u.Scheduler.Ailments(bounded)
	if err != nil {
		return nil
	}
	return ails[:min(len(ails), maxIll)]
}

// drainUntil drains until the order's deadline, and reports whether that is what
// ended it.
func (u *Updater) drainUntil(ctx context.Context, order fleetlink.Order) (late bool, err error) {
	bounded, cancel := u.clock().Within(ctx, max(order.Deadline.Sub(u.Now()), 0))
	defer cancel()
	guarded, stop := context.WithCancelCause(bounded)
	guard := u.clock().Beside(func() { u.guard(guarded, stop) })
	if err = u.Scheduler.Cordon(guarded, order.Why); err == nil {
		err = u.Scheduler.Drain(guarded, order)
	}
	stop(nil)
	guard()
	if halt := (halted{}); errors.As(context.Cause(guarded), &halt) && err != nil {
		return false, halt
	}
	return ctx.Err() == nil && bounded.Err() != nil, err
}

// left tells of a drain's progress.
func (u *Updater) left(left []fleetlink.Workload) {
	u.beat()
	u.mu.Lock()
	s := &u.status
	before := s.Drain
	s.Drain = u.memory.draining(left, before, u.policy.Drain)
	reasons := slices.DeleteFunc(slices.Clone(s.Reasons), func(r Reason) bool { return r.Kind == "drain" })
	if len(left) > 0 {
		reasons = append(reasons, stillHere(left))
	}
	s.Reasons = reasons
	total := s.Drain.Total
	if total > 0 {
		s.Progress = float64(total-len(left)) / float64(total)
	}
	u.mu.Unlock()
	if before == nil || len(before.Left) != len(left) || before.Total != total {
		u.event(EventProgress, "", nil, "%d of %d workloads have left", total-len(left), total)
	}
}

// stillHere is the reason of a drain that goes on.
func stillHere(left []fleetlink.Workload) Reason {
	return Reason{Kind: "drain", Text: fleetlink.List(left)}
}

// draining is the drain that is remembered, as status shows it, after before.
func (m Memory) draining(left []fleetlink.Workload, before *Draining, p policy.Drain) *Draining {
	if m.Drain == nil {
		return &Draining{Total: len(left), Left: slices.Clone(left)}
	}
	d := &Draining{Since: m.Drain.Since, Deadline: m.Drain.Since.Add(p.Timeout), Total: len(left), Left: slices.Clone(left)}
	if before != nil {
		d.Total = max(d.Total, before.Total)
	}
	return d
}

// halted says why a drain was stopped in its middle.
type halted struct{ why string }

// Error is the reason as a sentence.
func (h halted) Error() string { return "stopped: " + h.why }

// guard ends a drain when the permit is gone or somebody stopped the group: an
// operator's freeze does not wait for half an hour. What cannot be read ends
// nothing: no reboot comes of a drain alone.
func (u *Updater) guard(ctx context.Context, stop context.CancelCauseFunc) {
	for {
		u.pause(ctx, pollDrain)
		if ctx.Err() != nil {
			return
		}
		s, err := u.Lock.Standing(ctx)
		switch {
		case err != nil || s.Permit == PermitUnknown:
		case s.Permit != Held:
			stop(halted{"the permit is no longer this machine's"})
			return
		case len(s.Stopped) > 0:
			stop(halted{s.Stopped[0].Text})
			return
		}
	}
}

// resume takes work back. Who lost a permit on the way waits like who gave it
// back unused. Without a lock a permit lasts as long as the daemon does: one that
// finds a drain which another run of it began has lost nothing.
func (u *Updater) resume(ctx context.Context, o Observed) error {
	u.run.late, u.run.forced = false, false
	limit := u.Policy().Drain.Timeout
	bounded, cancel := u.clock().Within(ctx, limit)
	defer cancel()
	if err := u.Scheduler.Resume(bounded); err != nil {
		if ctx.Err() == nil && bounded.Err() != nil {
			err = fmt.Errorf("not done within %s (drain.timeout): %w", limit, err)
		}
		return fmt.Errorf("take work back: %w", err)
	}
	m := u.recall()
	m.Drain, m.Returning = nil, o.Permit != NoPermit
	if o.Permit == NoPermit && u.run.begun {
		m = m.lost(o, u.Policy().Reboot.RetryPause)
	}
	if err := u.remember(m); err != nil {
		return err
	}
	u.run.begun = false
	return nil
}

package updater

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/drydock-os/drydock/omaha"
	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/updater/policy"
)

// request is a Request that somebody waits for.
type request struct {
	Request
	ctx     context.Context
	checked bool // the server has been asked on its behalf
	done    chan answer
}

type answer struct {
	outcome Outcome
	err     error
}

// reply answers a request after the next look, so that whoever asks for the
// status next sees what the request has changed.
func (u *Updater) reply(r *request, o Outcome, err error) {
	u.run.replies = append(u.run.replies, func() {
		select {
		case r.done <- answer{o, err}:
		default: // it has its answer, or nobody waits any more
		}
	})
}

// deliver hands the answers out.
func (u *Updater) deliver() {
	for _, answer := range u.run.replies {
		answer()
	}
	u.run.replies = nil
}

// Do carries out a request. It returns when the request is fulfilled, refused,
// or, for what waits for policy, accepted. Cancelling ctx stops a check or a
// download that it started.
func (u *Updater) Do(ctx context.Context, r Request) (Outcome, error) {
	req := &request{Request: r, ctx: ctx, done: make(chan answer, 1)}
	u.mu.Lock()
	u.requests = append(u.requests, req)
	if u.busy != nil && interrupts(r.Action, u.doing) {
		u.busy()
	}
	u.mu.Unlock()
	u.Wake()
	select {
	case a := <-req.done:
		return a.outcome, a.err
	case <-ctx.Done():
		u.abandon(req)
		return "", ctx.Err()
	}
}

// asking returns the request for a check or an update that somebody waits for.
func (u *Updater) asking() *request {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.asked
}

// onDemand reports whether a person waits for what is done now.
func (u *Updater) onDemand() bool {
	r := u.asking()
	return r != nil && r.OnDemand
}

// interrupts says whether a request ends a step that is under way: a download, a
// drain, a look at the health of a trial on which an operator has the last word.
func interrupts(a Action, step Step) bool {
	if step == Validate {
		return a == ActMarkGood || a == ActMarkBad
	}
	return a == ActPause || a == ActCancel || a == ActRollback || a == ActMarkBad
}

// abandon forgets a request whose caller went away, and stops what runs for it.
func (u *Updater) abandon(r *request) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.requests = slices.DeleteFunc(u.requests, func(q *request) bool { return q == r })
	if u.asked == r {
		u.asked = nil
		if u.busy != nil && u.doing != Validate {
			u.busy()
		}
	}
}

// serve takes up what was asked since the last look.
func (u *Updater) serve(ctx context.Context) {
	u.mu.Lock()
	requests := u.requests
	u.requests = nil
	u.mu.Unlock()
	for _, r := range requests {
		if r.ctx.Err() == nil {
			u.take(r)
		}
	}
}

func (u *Updater) take(r *request) {
	if r.Action == ActCheck || r.Action == ActUpdate {
		u.takeUpdate(r)
		return
	}
	m, err := u.change(r.Request)
	if err == nil {
		err = u.remember(m)
	}
	if err != nil {
		u.reply(r, "", err)
		return
	}
	if r.Action != ActPause { // an operator has looked at what went wrong
		u.run.failed = nil
	}
	u.event(EventOperator, r.Version, nil, "%s %s", r.Action, r.Reason)
	outcome := Done
	if r.Action == ActRollback || r.Action == ActReboot {
		outcome = Accepted
	}
	u.reply(r, outcome, nil)
}

// takeUpdate makes the loop check, and write what it finds, for a caller.
func (u *Updater) takeUpdate(r *request) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.policy.Server.URL == "":
		u.reply(r, "", fmt.Errorf("%w: no update server is configured (server.url)", ErrRefused))
	case u.asked != nil:
		u.reply(r, "", ErrBusy)
	default:
		u.asked, u.run.last = r, Wait
		delete(u.run.failed, Check)
		delete(u.run.failed, Write)
	}
}

// change is what a request does to the memory.
func (u *Updater) change(r Request) (Memory, error) {
	m := u.recall()
	if r.Action != ActPause { // an operator has looked at what went wrong
		m.AskAgain, m.Unused = time.Time{}, ""
	}
	switch r.Action {
	case ActPause:
		m.Paused = cmpOr(r.Reason, "no reason given")
	case ActUnpause:
		m.Paused = ""
	case ActRetry:
		m = m.retry(r.Version)
	case ActCancel:
		if w := m.Wish; w != nil && w.Goal == OldRelease {
			m = m.retry(w.From) // it was rejected for the rollback
		}
		m.Wish = nil
	case ActRollback, ActReboot:
		return u.wish(m, r)
	case ActMarkGood, ActMarkBad:
		return u.mark(m, r)
	case ActReset:
		return u.reset(m)
	default:
		return m, fmt.Errorf("%w: unknown action %q", ErrRefused, r.Action)
	}
	return m, nil
}

func cmpOr(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// wish records a rollback or a reboot that waits for policy, lock and drain.
func (u *Updater) wish(m Memory, r Request) (Memory, error) {
	o := Observed{}
	u.lookInside(&o)
	if !o.Known {
		return m, fmt.Errorf("%w: the boot flags cannot be read: %s", ErrRefused, o.Unknown)
	}
	goal := SameSlot
	if u.Policy().Reboot.Strategy == policy.External && r.Action == ActReboot {
		return m, fmt.Errorf("%w: with strategy external another coordinator reboots this machine; ask that one", ErrRefused)
	}
	if r.Action == ActRollback {
		goal = OldRelease
		passive := o.Booted.Other()
		if f := o.Flags[passive]; !f.Successful || !f.Bootable() {
			return m, fmt.Errorf("%w: slot %s holds no release that was ever good, so there is nothing to go back to", ErrRefused, passive)
		}
		m = m.reject(o.Release, nil, "rolled back by an operator: "+cmpOr(r.Reason, "no reason given"), u.Now())
	}
	m.Wish = &Wish{Goal: goal, Slot: o.Booted, Boot: o.BootID, From: o.Release, Reason: r.Reason, At: u.Now()}
	return m, nil
}

// mark is an operator's own verdict on the booted release, or on the one that
// waits.
func (u *Updater) mark(m Memory, r Request) (Memory, error) {
	o := Observed{Now: u.Now()}
	u.lookInside(&o)
	if !o.Known {
		return m, fmt.Errorf("%w: the boot flags cannot be read: %s", ErrRefused, o.Unknown)
	}
	onTrial := !o.Flags[o.Booted].Successful
	t := m.Trial
	switch {
	case r.Action == ActMarkGood && t != nil && t.Slot == o.Booted && t.Verdict != "":
		return m, fmt.Errorf("%w: release %s was rejected (%s) and is being left", ErrRefused, o.Release, t.Verdict)
	case r.Action == ActMarkGood && o.Flags[o.Booted].Priority == 0: // booted by hand
		if err := u.markGood(o); err != nil {
			return m, err
		}
		return u.recall(), nil
	case r.Action == ActMarkGood:
		u.run.health = Healthy
	case onTrial:
		u.run.health, u.run.sick, u.run.sickSince = Sick, "marked bad by an operator: "+cmpOr(r.Reason, "no reason given"), u.Now()
	case m.Written != nil:
		m = m.reject(m.Written.Version, m.Written.SHA256, "marked bad by an operator: "+cmpOr(r.Reason, "no reason given"), u.Now())
	default:
		return m, fmt.Errorf("%w: release %s is good already; `drydock rollback` leaves it", ErrRefused, o.Release)
	}
	return m, nil
}

// reset is update1's ResetStatus: a staged release is forgotten. Upstream left
// the flags as they were, and the next boot took the release all the same.
func (u *Updater) reset(m Memory) (Memory, error) {
	o := Observed{Now: u.Now()}
	u.lookInside(&o)
	if !o.Known {
		return m, fmt.Errorf("%w: the boot flags cannot be read: %s", ErrRefused, o.Unknown)
	}
	next, ok := o.Flags.Next()
	if !ok || next == o.Booted {
		return m, nil
	}
	if err := u.unstage(o); err != nil {
		return m, err
	}
	m = u.recall()
	m.Written, m.Wish = nil, nil
	u.run.offer = nil
	return m, nil
}

// settleCheck answers who asked for a check, once the server was asked.
func (u *Updater) settleCheck(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	r := u.asked
	if r == nil {
		return
	}
	r.checked = true
	if err != nil || r.Action == ActCheck {
		u.reply(r, Done, err)
		u.asked = nil
	}
}

// settleUpdate answers who asked for an update: it is done, or went wrong.
func (u *Updater) settleUpdate(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	r := u.asked
	if r == nil {
		return
	}
	outcome := Updated
	if err != nil {
		outcome = ""
	}
	u.reply(r, outcome, err)
	u.asked = nil
}

// satisfy answers who asked for a check or an update when the step that comes
// next will not bring it any further.
func (u *Updater) satisfy(o Observed, v view, step Step) {
	r, s := u.asking(), u.Status()
	switch {
	case r == nil || step == Check || step == Write:
		return
	case v.Facts.External && step == Stage: // the hook's answer is still to come
		return
	case step == Release && o.Permit == Queued && v.Facts.Offered && v.Facts.MayWrite: // the ticket goes back, then it is written
		return
	case !r.checked && step != Wait: // a reboot or a trial under way comes first
		return
	}
	u.mu.Lock()
	u.asked = nil
	u.mu.Unlock()
	switch {
	case !r.checked, v.Facts.Offered && !v.Facts.MayWrite:
		u.reply(r, "", fmt.Errorf("%w: %s", ErrRefused, firstReason(s.Reasons)))
	case (s.Written || s.Staged) && !v.Facts.Offered:
		u.reply(r, Updated, nil)
	default:
		u.reply(r, NothingToDo, nil)
	}
}

// Plan asks the server and says what an update would do now. Nothing is
// changed and no event is sent with it.
func (u *Updater) Plan(ctx context.Context) (Plan, error) {
	p, m := u.Policy(), u.recall()
	if p.Server.URL == "" {
		return Plan{}, fmt.Errorf("%w: no update server is configured (server.url)", ErrRefused)
	}
	o := Observed{Now: u.Now(), Asked: true}
	u.lookInside(&o)
	if !o.Known {
		return Plan{}, fmt.Errorf("%w: the boot flags cannot be read: %s", ErrRefused, o.Unknown)
	}
	offer, err := u.ask(ctx, p)
	if err != nil {
		return Plan{}, err
	}
	o.Offer = offer
	plan := Plan{Running: o.Release, WrittenSlot: o.Booted.Other().String()}
	if !offer.Update {
		plan.Why = "the server offers nothing"
		return plan, nil
	}
	plan.Offered, plan.URLs = offer.Version, offer.URLs
	if err := m.wanted(o, p, offer.Version, offer.SHA256, false); err != nil {
		plan.Why = err.Error()
		return plan, nil
	}
	plan.Wanted = true
	plan.Steps = steps(p, o.Booted.Other(), offer.Version)
	if m.holds(offer) && m.usable(o, p) == nil {
		plan.Why = "it is written already"
	} else {
		plan.Download = u.remaining(offer, p)
		plan.Reasons = derive(o, m, p).Reasons // what holds the download up
		m.Written = &Written{Slot: o.Booted.Other(), Version: offer.Version, SHA256: offer.SHA256}
	}
	o.Offer = nil // and what would hold the reboot up, were it written
	u.lookOutside(ctx, &o, m)
	plan.Reasons = append(plan.Reasons, derive(o, m, p).Reasons...)
	return plan, nil
}

// remaining is what is still to be fetched of an offer, in bytes.
func (u *Updater) remaining(offer *omaha.Offer, p policy.Policy) int64 {
	n := offer.Size
	if c := u.interruption(); c != nil && bytes.Equal(c.SHA256, offer.SHA256) {
		n -= c.Done
	}
	for _, pkg := range offer.Packages {
		if chosen(pkg, p) {
			n += pkg.Size
		}
	}
	return n
}

// steps tells the way of an update under a policy.
func steps(p policy.Policy, slot partition.Slot, version string) []string {
	write := fmt.Sprintf("write %s into slot %s and verify it", version, slot)
	switch p.Reboot.Strategy {
	case policy.External:
		return []string{write, "run the release's hook and select the slot", "wait for another coordinator to reboot"}
	case policy.Off:
		return []string{write, "wait for an operator"}
	case policy.Immediate:
		return []string{write, "drain", "select the slot", "reboot", "judge its health", "mark it good, or go back"}
	}
	return []string{write, "wait for a permit of the group", "drain", "select the slot", "reboot", "judge its health", "mark it good, or go back", "take work again", "give the permit back"}
}

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

// healthPoll is how often a boot that is not healthy yet is judged again.
const healthPoll = time.Second

// validate judges this boot: healthy once nothing ails it for the settle time
// without a break, sick when that does not come within the timeout.
func (u *Updater) validate(ctx context.Context, o Observed) error {
	p, m := u.Policy(), u.recall()
	if t := m.Trial; t != nil && t.Slot == o.Booted && t.Armed && t.Version != o.Release {
		return u.judged(Sick, fmt.Sprintf("slot %s was to run %s and runs %s", o.Booted, t.Version, o.Release))
	}
	timeout := p.Health.Timeout
	began := u.Now()
	var since time.Time // when it was first seen well, without a break
	var ailments []Reason
	for {
		bounded, cancel := u.clock().Within(ctx, timeout)
		ailments = append(u.Host.Ailments(bounded, p), u.misses(ctx, p)...)
		cancel()
		if id, err := u.Host.Identity(); err == nil && id.Damage != "" && o.onTrial() {
			ailments = append(ailments, Reason{Kind: "damage", Text: "the slot is damaged: " + id.Damage})
		}
		now := u.Now()
		u.beat()
		u.lacks(ctx, ailments)
		switch up := o.Up + now.Sub(began); {
		case ctx.Err() == nil && o.onTrial() && o.Up > 0 && up >= p.Trial.Deadline && len(ailments) > 0:
			return u.judged(Sick, fmt.Sprintf("not good %s after the boot (trial.deadline): %s", up.Round(time.Second), firstReason(ailments)))
		case ctx.Err() != nil:
			return ctx.Err()
		case len(ailments) > 0:
			since = time.Time{}
		case since.IsZero():
			since = now
		}
		if !since.IsZero() && now.Sub(since) >= p.Health.Settle {
			return u.judged(Healthy, "")
		}
		if now.Sub(began) >= timeout+p.Health.Settle || now.Sub(began) >= timeout && len(ailments) > 0 {
			return u.judged(Sick, "not healthy within "+timeout.String()+": "+firstReason(ailments))
		}
		u.clock().Pause(ctx, healthPoll, nil)
	}
}

// lacks has the status say what a boot that is being judged still lacks: that may
// take minutes.
func (u *Updater) lacks(ctx context.Context, ailments []Reason) {
	if ctx.Err() != nil { // they were cut off
		return
	}
	u.mu.Lock()
	before, now := u.status.Reasons, append(slices.Clip(ailments), u.trouble...)
	u.status.Reasons = now
	u.mu.Unlock()
	if len(ailments) > 0 && !slices.EqualFunc(before, now, sameReason) {
		u.event(EventWaiting, "", nil, "%s", firstReason(ailments))
	}
}

// misses says what the scheduler finds wrong with this machine, where health asks
// it. One that does not answer may be a machine without a network.
func (u *Updater) misses(ctx context.Context, p policy.Policy) (reasons []Reason) {
	if !p.Health.Scheduler {
		return nil
	}
	bounded, cancel := u.clock().Within(ctx, p.Health.CheckTimeout)
	defer cancel()
	ails, err := u.Scheduler.Ailments(bounded)
	if errors.Is(err, fleetlink.ErrNotAsked) {
		return nil // says nothing of this boot; the permit waits for it all the same
	}
	if err != nil {
		return []Reason{mute(err)}
	}
	for _, w := range u.recall().Ill.without(ails) {
		reasons = append(reasons, Reason{Kind: "health", Text: w.String()})
	}
	return reasons
}

func (u *Updater) judged(h Health, why string) error {
	u.run.health, u.run.sick, u.run.sickSince = h, why, u.Now()
	if h == Sick {
		u.event(EventError, "", nil, "this boot is not well: %s", why)
	}
	return nil
}

// markGood ends the trial of the booted slot.
func (u *Updater) markGood(o Observed) error {
	if err := u.flip(o.Flags.Good(o.Booted), o.Booted); err != nil {
		return fmt.Errorf("mark good: %w", err)
	}
	if err := u.remember(u.recall().good(o)); err != nil {
		return err
	}
	u.event(EventGood, o.Release, nil, "release %s is good", o.Release)
	return nil
}

// reject ends the trial of the booted slot with a verdict: it is remembered
// first, then the flags lead back to the old release. Flags that would leave
// nothing to boot are not written.
func (u *Updater) reject(o Observed) error {
	why := u.run.sick
	if t := u.recall().Trial; t != nil && t.Verdict != "" {
		why = t.Verdict
	}
	if !o.Flags[o.Booted.Other()].Bootable() {
		return fmt.Errorf("release %s is not well (%s), and slot %s holds nothing to go back to: this machine needs a person",
			o.Release, why, o.Booted.Other())
	}
	m := u.recall().judge(o, why)
	if err := u.remember(m); err != nil { // a release that fills the disk must be left all the same
		u.event(EventError, o.Release, err, "the verdict on %s is not written down (%v); it is left all the same", o.Release, err)
		u.mu.Lock()
		u.memory = m
		u.mu.Unlock()
	}
	if err := u.flip(o.Flags.Discard(o.Booted), o.Booted.Other()); err != nil {
		return fmt.Errorf("reject: %w", err)
	}
	u.event(EventRejected, o.Release, nil, "release %s is rejected: %s", o.Release, why)
	return nil
}

package updater

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"

	"github.com/drydock-os/drydock/omaha"
	"github.com/drydock-os/drydock/updater/policy"
)

// client speaks to the policy's update server.
func (u *Updater) client(p policy.Policy) (*omaha.Client, error) {
	c, err := u.HTTP(p)
	if err != nil {
		return nil, fmt.Errorf("prepare HTTP: %w", err)
	}
	return &omaha.Client{HTTP: c, URL: p.Server.URL, UpdaterVersion: u.Program}, nil
}

// ask asks the server for an offer and changes nothing here.
func (u *Updater) ask(ctx context.Context, p policy.Policy) (*omaha.Offer, error) {
	c, err := u.client(p)
	if err != nil {
		return nil, err
	}
	who, err := u.machine(p)
	if err != nil {
		return nil, err
	}
	return c.Check(ctx, who, omaha.CheckQuery{OnDemand: true})
}

// machine is what requests say about this machine.
func (u *Updater) machine(p policy.Policy) (omaha.Machine, error) {
	id, err := u.Host.Identity()
	if err != nil {
		return omaha.Machine{}, fmt.Errorf("identify machine: %w", err)
	}
	return omaha.Machine{
		AppID: p.Server.AppID, Version: cmpOr(p.Server.Version, id.Release), Track: p.Server.Group, BootID: "{" + id.BootID + "}",
		OEM: p.Server.OEM, OEMVersion: p.Server.OEMVersion, AlephVersion: cmpOr(u.recall().Aleph, id.Release),
		MachineID: id.MachineID, MachineAlias: p.Server.MachineAlias, Board: p.Server.Board, Arch: id.Arch,
	}, nil
}

// check asks the server. While a release is staged it only says that the
// machine is alive: what is staged is not replaced.
func (u *Updater) check(ctx context.Context, o Observed) error {
	p := u.Policy()
	c, err := u.client(p)
	if err != nil {
		return u.unchecked(err)
	}
	who, err := u.machine(p)
	if err != nil {
		return u.unchecked(err)
	}
	next, bootable := o.Flags.Next()
	if bootable && next != o.Booted {
		u.planCheck(policy.Answer{})
		err := c.Ping(ctx, who)
		u.settleCheck(err)
		u.settleUpdate(err) // it is staged already
		return err
	}
	u.operation(CheckingForUpdate)
	event := u.checkEvent(o)
	demand := u.onDemand()
	offer, err := c.Check(ctx, who, omaha.CheckQuery{OnDemand: demand, Event: &event})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return u.checkFailed(ctx, c, who, err)
	}
	return u.checked(ctx, o, c, who, offer)
}

// checkEvent is the event of an update check: what became of the last update,
// until the server has it.
func (u *Updater) checkEvent(o Observed) omaha.Event {
	r := u.recall().Report
	switch {
	case r.RolledBack:
		return omaha.CheckEvent(&o.Release, o.Release)
	case r.Previous != "" || r.Seen:
		return omaha.CheckEvent(&r.Previous, o.Release)
	}
	return omaha.CheckEvent(nil, o.Release)
}

// checked takes the server's answer in.
func (u *Updater) checked(ctx context.Context, o Observed, c *omaha.Client, who omaha.Machine, offer *omaha.Offer) error {
	m := u.recall()
	if offer.EventTaken {
		m.Report = Report{Seen: true}
	}
	m.Poll.Answered = u.Now()
	m.Poll.URLs = m.Poll.URLs.For(terms(offer), u.Now())
	if err := u.remember(m); err != nil {
		return u.unchecked(err)
	}
	if err := u.keepResponse(offer); err != nil {
		return u.unchecked(err)
	}
	u.planCheck(policy.Answer{Poll: offer.PollInterval})
	u.run.offer = offer
	u.settleCheck(nil)
	u.mu.Lock()
	u.status.LastChecked = m.Poll.Answered
	u.mu.Unlock()
	u.event(EventChecked, offer.Version, nil, "checked: %s", offerText(offer))
	if c := u.run.interrupted; c != nil && !bytes.Equal(c.SHA256, offer.SHA256) {
		u.run.interrupted = nil // nobody offers any more what was interrupted
		os.Remove(u.checkpointPath())
	}
	if !offer.Update {
		u.operation(u.atRest(o))
		return nil
	}
	if until := m.Poll.URLs.BackoffUntil(terms(offer)); u.Now().Before(until) && u.asking() == nil && !m.holds(offer) {
		u.run.offer = nil
		deferred := omaha.Event{Type: omaha.EventUpdateComplete, Result: omaha.ResultDeferred, ErrorCode: u.wire(omaha.CodeDeferredForBackoff, false)}
		u.tell(ctx, c, who, deferred)
		u.operation(Idle)
		return fmt.Errorf("release %s failed before and is downloaded again after %s", offer.Version, until.Format("2006-01-02 15:04"))
	}
	if err := m.wanted(o, u.Policy(), offer.Version, offer.SHA256, o.Older); err != nil || m.holds(offer) && m.usable(o, u.Policy()) == nil {
		u.operation(u.atRest(o))
		return nil // said by the reasons of every look
	}
	u.mu.Lock()
	u.status.NewVersion, u.status.NewSize = offer.Version, offer.Size
	u.mu.Unlock()
	u.operation(UpdateAvailable)
	u.event(EventOffered, offer.Version, nil, "release %s is offered, %d bytes", offer.Version, offer.Size)
	return nil
}

// atRest is what update1's clients see of this machine between two checks.
func (u *Updater) atRest(o Observed) Operation {
	p := u.Policy()
	return restingOperation(Status{Written: u.recall().usable(o, p) == nil, Strategy: string(p.Reboot.Strategy)})
}

func offerText(offer *omaha.Offer) string {
	if !offer.Update {
		return "no update"
	}
	return "release " + offer.Version
}

// unchecked ends a check that did not even reach the server.
func (u *Updater) unchecked(err error) error {
	u.planCheck(policy.Answer{})
	u.settleCheck(err)
	u.operation(Idle)
	return err
}

// checkFailed plans the next check after a failed one, and tells the server
// what it may want to know. A server that throttles is not told of a fault of
// ours (spec defect 12).
func (u *Updater) checkFailed(ctx context.Context, c *omaha.Client, who omaha.Machine, err error) error {
	var refused *omaha.Refused
	if errors.As(err, &refused) && refused.EventTaken {
		m := u.recall()
		m.Report = Report{Seen: true}
		if err := u.remember(m); err != nil {
			return u.unchecked(err)
		}
	}
	var status *omaha.StatusError
	overloaded := errors.As(err, &status) && (status.HTTP == http.StatusInternalServerError || status.HTTP == http.StatusServiceUnavailable)
	u.planCheck(policy.Answer{Overloaded: overloaded})
	u.run.offer = nil
	u.settleCheck(err)
	if code, report := omaha.CodeOf(err); report {
		u.operation(ReportingError)
		u.tell(ctx, c, who, omaha.Event{Type: omaha.EventUpdateComplete, Result: omaha.ResultError, ErrorCode: u.wire(code, false)})
	}
	u.operation(Idle)
	return err
}

// planCheck sets the time of the next check.
func (u *Updater) planCheck(last policy.Answer) {
	p, m := u.Policy(), u.recall()
	last.Interval = m.Poll.Interval
	interval, jitter := p.Update.NextInterval(last)
	u.run.nextCheck = policy.NextCheck(u.Now(), interval, jitter, u.random)
	if m.Poll.Interval == interval {
		return
	}
	m.Poll.Interval = interval
	if err := u.remember(m); err != nil {
		u.event(EventError, "", err, "%v", err)
	}
}

// tell reports an event as well as it can: an event that does not arrive is
// no fault of the update.
func (u *Updater) tell(ctx context.Context, c *omaha.Client, who omaha.Machine, e omaha.Event) {
	if err := c.Report(ctx, who, e, u.onDemand()); err != nil && ctx.Err() == nil {
		u.event(EventWaiting, "", nil, "the server did not take event %d/%d: %v", e.Type, e.Result, err)
	}
}

// report tells the server of one event of an update.
func (u *Updater) report(ctx context.Context, t omaha.EventType, r omaha.EventResult, code omaha.Code, resumed bool) {
	p := u.Policy()
	if p.Server.URL == "" {
		return
	}
	c, err := u.client(p)
	if err != nil {
		return
	}
	who, err := u.machine(p)
	if err != nil {
		return
	}
	u.tell(ctx, c, who, omaha.Event{Type: t, Result: r, ErrorCode: u.wire(code, resumed)})
}

func (u *Updater) wire(code omaha.Code, resumed bool) int {
	return code.Flagged(u.Policy().Server.URL, resumed).Wire()
}

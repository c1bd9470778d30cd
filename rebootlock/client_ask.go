package rebootlock

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// maxTries bounds how often one call tries a write that others overtake, or that
// no answer comes to.
const maxTries = 4

// maxText bounds a reason and a detail in a record, in bytes.
const maxText = 1024

// A Request says what a permit is asked for.
type Request struct {
	Reason string // a sentence for people
	From   string // release that runs
	To     string // release that is to run; From for another reboot
}

// An intent is what a call wants written, judged by what is known; done says
// that it is so already.
type intent func(ctx context.Context, v scene) (t Txn, done bool, err error)

// carry judges and writes, and judges again by what was learnt when others were
// faster, or when no answer came. What a watch told is enough to try, and not
// enough to refuse: then everything is read first.
func (c *Client) carry(ctx context.Context, want intent) error {
	ctx, leave, err := c.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	self := c.Self()
	read := !c.isFresh(self)
	if read {
		if err := c.refresh(ctx, self); err != nil {
			return err
		}
	}
	var doubt error
	for range maxTries {
		v := c.scene(self)
		if err := v.stranger(c.Keys.Cluster); err != nil {
			return err
		}
		t, done, err := want(ctx, v)
		switch {
		case err != nil && !read:
			if err := c.refresh(ctx, self); err != nil {
				return err
			}
			read = true
			continue
		case err != nil || done:
			return err
		}
		written, err := c.commit(ctx, v, t)
		if err == nil && written {
			return nil
		}
		read = true
		if err == nil {
			continue // judged anew, by what kept it
		}
		if again := c.refresh(ctx, self); again != nil || errors.Is(err, ErrRefused) && errors.Is(doubt, ErrRefused) {
			return errors.Join(err, again)
		}
		doubt = err
	}
	if doubt == nil {
		doubt = errOvertaken
	}
	return doubt
}

// Acquire asks for a permit: it writes a ticket, unless there is one, or a
// permit, and says where the machine stands. It does not wait.
func (c *Client) Acquire(ctx context.Context, r Request) (Standing, error) {
	standing := None
	err := c.carry(ctx, func(ctx context.Context, v scene) (Txn, bool, error) {
		if err := v.hands(); err != nil {
			return Txn{}, false, err
		}
		if v.holds() {
			standing = Holding
			return Txn{}, true, nil
		}
		if v.clock.off != 0 {
			return Txn{}, false, refusal(v.stops()) // a permit would be given back at once
		}
		voters, err := c.voters(ctx)
		if err != nil {
			return Txn{}, false, fmt.Errorf("whether this machine is a member of etcd is unknown: %w", err)
		}
		standing = Queued
		ticket := v.asTicket(r, voters)
		value := encode(ticket, ticket.Extra)
		if v.queued() && bytes.Equal(value, encode(v.ticket.rec, v.ticket.rec.Extra)) {
			return Txn{}, true, nil
		}
		return Txn{
			If:   []Cond{{Key: v.at.permit, Modified: v.permit.modified}, {Key: v.at.ticket, Modified: v.ticket.modified}},
			Then: []Op{{Key: v.at.ticket, Value: value, Lease: v.lease}},
		}, false, nil
	})
	if err != nil {
		return None, fmt.Errorf("ask for a permit: %w", err)
	}
	return standing, nil
}

// hands says why this machine may not lay hands on its ticket and its permit.
func (v scene) hands() error {
	switch text := v.clones(); {
	case text != "":
		return fmt.Errorf("%w: %s", ErrClone, text)
	case v.permit.err != nil:
		return v.unreadable()
	case v.operated():
		return fmt.Errorf("an operator asked for this machine's permit (%s): `drydock lock release` gives it back", v.operation())
	}
	return nil
}

// asTicket is the ticket as it should be: what the machine is now, asked for
// when it was first asked for.
func (v scene) asTicket(r Request, voters []EtcdMember) Ticket {
	t := Ticket{Asked: v.now}
	if v.ticket.there() && v.ticket.err == nil {
		t = v.ticket.rec
	}
	t.Version, t.Machine, t.Instance, t.Boot, t.Group, t.Zone = version, v.self.Machine, v.self.Instance, v.self.Boot, v.at.group, v.self.Zone
	t.Reason, t.From, t.To, t.Etcd, t.Via = clip(r.Reason), r.From, r.To, voters, ""
	return t
}

// clip bounds a text, at a letter's end.
func clip(s string) string {
	if len(s) > maxText {
		return strings.ToValidUTF8(s[:maxText], "") + "…"
	}
	return s
}

// phases are those that a machine may begin. Any of them may follow any: a
// reboot that was refused, or a trial that came back, is staged again.
var phases = []string{PhaseDraining, PhaseStaging, PhaseRebooting}

// Fence confirms, in one transaction, that the permit is this machine's and that
// nothing stops it, and moves it to a phase. An error forbids the phase:
// ErrNotHolder where the permit is gone.
func (c *Client) Fence(ctx context.Context, phase string) error {
	if !slices.Contains(phases, phase) {
		return fmt.Errorf("%q is no phase that a machine begins: those are %q", phase, phases)
	}
	err := c.carry(ctx, func(_ context.Context, v scene) (Txn, bool, error) {
		stops := v.stops()
		switch {
		case v.permit.err != nil:
			return Txn{}, false, v.unreadable()
		case v.clones() != "":
			return Txn{}, false, refusal(stops)
		case !v.holds() || v.permit.rec.Via == viaOperator:
			return Txn{}, false, fmt.Errorf("%w: group %s has none for %s, which was taken away, given back or never granted (`drydock lock journal`)", ErrNotHolder, v.at.group, v.self.Machine)
		case len(stops) > 0:
			return Txn{}, false, refusal(stops)
		}
		t := Txn{If: []Cond{
			{Key: v.at.permit, Modified: v.permit.modified}, {Key: v.at.rules, Modified: v.rules.modified},
			{Key: v.at.cluster, Modified: v.cluster.modified}, {Key: v.at.failures, Modified: v.failures.modified},
		}}
		record := v.permit.rec
		if record.Phase != phase {
			record.Phase, record.PhaseSince = phase, v.now
		}
		if phase == PhaseRebooting {
			record.Boot = v.self.Boot // only another one than this shows that it is back
		}
		// Written also where nothing changes: a Release of ours that timed out, and is
		// still under way, must not find the permit that it compares.
		record.Version = version
		t.Then = []Op{{Key: v.at.permit, Value: encode(record, record.Extra)}}
		return t, false, nil
	})
	if err != nil {
		return fmt.Errorf("begin phase %s: %w", phase, err)
	}
	return nil
}

// endings are those that a machine may say.
var endings = []Ending{Updated, RolledBack, Rebooted, Aborted}

// Release gives back what the machine has: the permit, with how it ended and a
// detail for people, or the ticket. To give back nothing is success, and so it
// is to leave alone what an operator asked for in this machine's name.
func (c *Client) Release(ctx context.Context, e Ending, detail string) error {
	if !slices.Contains(endings, e) {
		return fmt.Errorf("%q is no ending that a machine says: those are %q", e, endings)
	}
	err := c.carry(ctx, func(_ context.Context, v scene) (Txn, bool, error) {
		if v.operated() {
			return Txn{}, true, nil
		}
		if err := v.hands(); err != nil {
			return Txn{}, false, err
		}
		t := Txn{If: []Cond{{Key: v.at.permit, Modified: v.permit.modified}, {Key: v.at.ticket, Modified: v.ticket.modified}}}
		if v.ticket.there() {
			t.Then = append(t.Then, Op{Key: v.at.ticket, Delete: true})
		}
		if v.holds() {
			record := v.permit.rec
			if record.Instance != v.self.Instance {
				return Txn{}, false, errors.New("the permit was granted to this machine before it was installed anew, and is not taken over yet: ask again")
			}
			record.Version, record.Phase, record.PhaseSince, record.Ending, record.Detail = version, PhaseEnded, v.now, e, clip(detail)
			t.Then = append(t.Then, Op{Key: v.at.permit, Value: encode(record, record.Extra)})
		}
		return t, false, nil // where there is nothing, the transaction says so for certain
	})
	if err != nil {
		return fmt.Errorf("give the permit back: %w", err)
	}
	return nil
}

// Publish writes what the machine says of itself, whatever was there before. It
// fills in who says so, and when.
func (c *Client) Publish(ctx context.Context, s Status) error {
	ctx, leave, err := c.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	self := c.Self()
	v := c.scene(self)
	if !v.cluster.there() || v.stranger(c.Keys.Cluster) != nil || v.at.machine != self.Machine {
		if err := c.refresh(ctx, self); err != nil {
			return fmt.Errorf("publish the status: %w", err)
		}
		v = c.scene(self)
	}
	s.Version, s.Machine, s.Group, s.Zone, s.Labels, s.Hostname = version, self.Machine, self.Group, self.Zone, self.Labels, self.Hostname
	if s.At.IsZero() {
		s.At = v.now
	}
	value := encode(s, s.Extra)
	if len(value) > maxRecord {
		return fmt.Errorf("publish the status: it has %d bytes, %d are the most", len(value), maxRecord)
	}
	r, err := c.Store.Commit(ctx, Txn{
		If:   []Cond{{Key: v.at.cluster, Created: v.cluster.created}},
		Then: []Op{{Key: v.at.statusHere, Value: value}},
	})
	if err != nil {
		return fmt.Errorf("publish the status: %w", err)
	}
	if !r.Done {
		c.mu.Lock()
		c.sees.doubt()
		c.mu.Unlock()
		return fmt.Errorf("publish the status: %w: the cluster's record is gone, or another one", ErrOtherCluster)
	}
	return nil
}

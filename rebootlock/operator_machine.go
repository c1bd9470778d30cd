package rebootlock

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// TakeAway deletes a machine's permit, for a reason. One in PhaseRebooting may
// be of a machine that is down, and takes evidence that it is not, that is the
// machine's presence with another boot than the permit's, or force. A machine
// that is told nothing finds out at its next fence.
func (o Operator) TakeAway(ctx context.Context, group, machine, reason string, force bool) error {
	err := cmp.Or(CheckName("group", group), CheckName("machine", machine), checkReason(reason))
	if err == nil {
		key, ticket, present := o.Keys.Permit(group, machine), o.Keys.Ticket(group, machine), o.Keys.all(kindPresence, machine)
		err = o.change(ctx, []Range{{Key: key}, {Key: ticket}, present}, func(s seen) (edit, error) {
			p, there, err := record[Permit](s, key)
			switch {
			case err != nil && !force:
				return edit{}, fmt.Errorf("%w (or take it away with force)", err)
			case !there:
				return edit{}, o.nothingToTake(s, ticket)
			case err == nil && !force:
				if err := o.mayTake(s, p, present); err != nil {
					return edit{}, err
				}
			}
			why := reason
			if force {
				why += " (by force, in phase " + cmp.Or(p.Phase, "unknown") + ")"
			}
			entry := Entry{Group: group, Machine: machine, What: string(TakenAway), Why: why, Release: p.To}
			return edit{ops: []Op{{Key: key, Delete: true}}, entry: entry}, nil
		})
	}
	if err != nil {
		return fmt.Errorf("take away the permit of machine %s in group %s: %w", machine, group, err)
	}
	return nil
}

// nothingToTake says what a machine has that holds no permit.
func (o Operator) nothingToTake(s seen, ticket string) error {
	t, waits, err := record[Ticket](s, ticket)
	switch {
	case err != nil:
		return fmt.Errorf("the machine holds no permit there, and what it waits for cannot be read: %w", err)
	case waits && t.Via == viaOperator:
		return fmt.Errorf("the machine holds no permit there, it only waits for one: drydock lock release takes it out of the queue")
	case waits:
		return fmt.Errorf("the machine holds no permit there, it only waits for one: drydock lock release takes out of the queue what was asked for by hand, and drydock pause on the machine keeps it from asking")
	}
	return fmt.Errorf("the machine holds no permit there")
}

// mayTake says why a permit may not be taken away without force.
func (o Operator) mayTake(s seen, p Permit, present Range) error {
	switch p.Phase {
	case PhaseGranted, PhaseDraining, PhaseStaging:
		return nil
	case PhaseEnded:
		return fmt.Errorf("it has ended (%s) and goes with the coordinator's next pass; force takes it without booking it", p.Ending)
	}
	boots := o.boots(s, present)
	fenced := s[o.Keys.Permit(p.Group, p.Machine)].Modified
	isBack := func(boot string) bool { return boot != p.Boot && boots[boot] > fenced } // an older one may only linger on its lease
	switch {
	case p.Phase == PhaseRebooting && p.Boot != "" && slices.ContainsFunc(slices.Collect(maps.Keys(boots)), isBack):
		return nil // it is back from that reboot
	case p.Phase == PhaseRebooting && len(boots) > 0:
		return fmt.Errorf("it is in phase %s, and may go down at any moment: wait until it is back, or use force when you know that it will not reboot", p.Phase)
	case p.Phase == PhaseRebooting:
		return fmt.Errorf("it is in phase %s and has not been seen since, so it may be down: look at the machine, and use force when another may go down as well", p.Phase)
	}
	return fmt.Errorf("its phase %q is none that this version knows: use force, or a newer drydock", p.Phase)
}

// boots are the boots of a machine that are present, and since which revision.
func (o Operator) boots(s seen, present Range) map[string]int64 {
	boots := map[string]int64{}
	for _, key := range s.below(present) {
		if _, names, ok := o.Keys.parse(key); ok && len(names) > 1 {
			boots[names[1]] = s[key].Created
		}
	}
	return boots
}

// Acquire asks for a permit in the name of a machine, which need not be a
// member: a ticket that hangs on no lease, and a permit that stays until Release.
// A machine that waits or holds already does so.
func (o Operator) Acquire(ctx context.Context, group, machine, reason string) error {
	err := cmp.Or(CheckName("group", group), CheckName("machine", machine), checkReason(reason))
	if err == nil {
		member, ticket, permit := o.Keys.Member(machine), o.Keys.Ticket(group, machine), o.Keys.Permit(group, machine)
		err = o.change(ctx, []Range{{Key: member}, {Key: ticket}, {Key: permit}, {Key: o.Keys.Rules(group)}}, func(s seen) (edit, error) {
			p, holds, err := record[Permit](s, permit)
			switch {
			case err != nil:
				return edit{}, err
			case len(s[ticket].Value) > 0, holds && p.Phase != PhaseEnded: // one that has ended is as good as gone
				return edit{}, nil
			}
			m, there, err := record[Member](s, member)
			switch {
			case err != nil:
				return edit{}, err
			case there && m.Group != group:
				return edit{}, fmt.Errorf("it is in group %s", m.Group)
			case len(s[o.Keys.Rules(group)].Value) == 0:
				return edit{}, fmt.Errorf("the group has no rules, so nothing is granted there: drydock lock apply writes them")
			}
			t := Ticket{
				Version: version, Machine: machine, Instance: m.Instance, Group: group, Zone: m.Zone,
				Asked: o.Now(), Reason: reason, Etcd: m.Etcd, Via: viaOperator,
			}
			entry := Entry{Group: group, Machine: machine, What: "queued", Why: reason}
			return edit{ops: []Op{{Key: ticket, Value: encode(t, nil)}}, entry: entry}, nil
		})
	}
	if err != nil {
		return fmt.Errorf("acquire a permit for machine %s in group %s: %w", machine, group, err)
	}
	return nil
}

// Release gives back what Acquire asked for: the ticket at once, the permit with
// the coordinator's next pass. A reason is not needed. What the machine asked
// for itself is refused: it would ask again, and may be down. To give back what
// is not there is success.
func (o Operator) Release(ctx context.Context, group, machine, reason string) error {
	err := cmp.Or(CheckName("group", group), CheckName("machine", machine))
	if err == nil && reason != "" {
		err = checkReason(reason)
	}
	if err == nil {
		ticket, permit := o.Keys.Ticket(group, machine), o.Keys.Permit(group, machine)
		err = o.change(ctx, []Range{{Key: ticket}, {Key: permit}}, func(s seen) (edit, error) {
			e := edit{entry: Entry{Group: group, Machine: machine, What: "released", Why: reason}}
			t, waits, err := record[Ticket](s, ticket)
			if err != nil {
				return edit{}, err
			}
			p, holds, err := record[Permit](s, permit)
			switch {
			case err != nil:
				return edit{}, err
			case waits && t.Via != viaOperator:
				return edit{}, fmt.Errorf("it waits for itself, and would ask again: drydock pause on the machine keeps it from that")
			case holds && p.Via != viaOperator:
				return edit{}, fmt.Errorf("it holds the permit itself (phase %s) and gives it back when it is healthy: drydock lock take-away takes it", p.Phase)
			}
			if waits {
				e.ops = append(e.ops, Op{Key: ticket, Delete: true})
			}
			if holds && p.Phase != PhaseEnded {
				p.Version, p.Phase, p.PhaseSince = version, PhaseEnded, o.Now()
				p.Ending, p.Detail = Aborted, strings.TrimSuffix("released by "+o.who()+": "+reason, ": ")
				e.ops = append(e.ops, Op{Key: permit, Value: encode(p, p.Extra)})
			}
			return e, nil
		})
	}
	if err != nil {
		return fmt.Errorf("release machine %s in group %s: %w", machine, group, err)
	}
	return nil
}

// Remove forgets a member, its status and its ticket, for a reason. A machine
// that is there, or holds a permit, is refused without force: it would join
// again, or may be down. With force its permits go as well.
func (o Operator) Remove(ctx context.Context, machine, reason string, force bool) error {
	err := cmp.Or(CheckName("machine", machine), checkReason(reason))
	if err == nil {
		var group string
		if group, err = o.groupOf(ctx, machine); err == nil {
			err = o.remove(ctx, group, machine, reason, force)
		}
	}
	if err != nil {
		return fmt.Errorf("remove machine %s: %w", machine, err)
	}
	return nil
}

// groupOf is the group of a member.
func (o Operator) groupOf(ctx context.Context, machine string) (string, error) {
	records, err := o.read(ctx, []Range{{Key: o.Keys.Member(machine)}})
	if err != nil {
		return "", err
	}
	m, there, err := record[Member](records, o.Keys.Member(machine))
	if err == nil && !there {
		err = fmt.Errorf("it is no member of cluster %s", o.Keys.Cluster)
	}
	return m.Group, err
}

func (o Operator) remove(ctx context.Context, group, machine, reason string, force bool) error {
	member, status := o.Keys.Member(machine), o.Keys.Status(machine)
	ticket, permit := o.Keys.Ticket(group, machine), o.Keys.Permit(group, machine)
	present, permits := o.Keys.all(kindPresence, machine), o.Keys.all(kindPermit)
	keys := []string{member, status, ticket, permit}
	ranges := []Range{present, permits}
	for _, key := range keys {
		ranges = append(ranges, Range{Key: key})
	}
	return o.change(ctx, ranges, func(s seen) (edit, error) {
		held := o.held(s, permits, machine)
		switch {
		case len(s[member].Value) == 0:
			return edit{}, nil
		case len(held) > 0 && !force:
			return edit{}, fmt.Errorf("it holds a permit, and may be down: drydock lock take-away first, or force")
		case len(s.below(present)) > 0 && !force:
			return edit{}, fmt.Errorf("it is present, and would join again: stop its drydockd first, or use force")
		}
		e := edit{entry: Entry{Group: group, Machine: machine, What: "removed", Why: reason}}
		for _, key := range append(slices.Clone(keys[:3]), held...) {
			if _, there := s[key]; there {
				e.ops = append(e.ops, Op{Key: key, Delete: true})
			}
		}
		return e, nil
	})
}

// held are the keys of a machine's permits, in whatever group.
func (o Operator) held(s seen, permits Range, machine string) []string {
	return slices.DeleteFunc(s.below(permits), func(key string) bool {
		_, names, ok := o.Keys.parse(key)
		return !ok || len(names) != 2 || names[1] != machine
	})
}

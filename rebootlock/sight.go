package rebootlock

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A sight is what concerns one machine in one group, as of one revision.
type sight struct {
	group, machine       string
	permitKey, ticketKey string
	revision             int64
	cluster              item[Cluster]
	rules                item[Rules]
	failures             item[Failures]
	ledger               item[Ledger] // only to tell people why they wait
	permit               item[Permit]
	ticket               item[Ticket]
	member               item[Member]
	lease                int64 // of the ticket
}

// errRules wraps records of the group that cannot be read, while those of the
// machine can.
var errRules = errors.New("the group's records cannot be read")

// sight reads them. What cannot be read is an error.
func (p Proxy) sight(ctx context.Context, group, machine string) (sight, error) {
	s := sight{group: group, machine: machine, permitKey: p.Keys.Permit(group, machine), ticketKey: p.Keys.Ticket(group, machine)}
	ranges := []Range{
		{Key: p.Keys.ClusterRecord()}, {Key: p.Keys.Rules(group)}, {Key: p.Keys.Failures(group)}, {Key: p.Keys.Ledger(group)},
		{Key: s.permitKey}, {Key: s.ticketKey}, {Key: p.Keys.Member(machine)},
	}
	snap, err := p.Store.Read(ctx, ranges...)
	if err != nil {
		return s, fmt.Errorf("read the records of machine %s: %w", machine, err)
	}
	s.revision = snap.Revision
	var own, others error
	for _, kv := range snap.KVs {
		kind, _, _ := p.Keys.parse(kv.Key)
		var bad error
		switch kind {
		case kindPermit:
			s.permit, bad = read[Permit](kv)
		case kindTicket:
			s.ticket, bad = read[Ticket](kv)
			s.lease = kv.Lease
		case kindMember:
			s.member, bad = read[Member](kv)
		default:
			others = errors.Join(others, s.readGroup(kind, kv))
		}
		if bad != nil {
			own = errors.Join(own, fmt.Errorf("record %s: %w", kv.Key, bad))
		}
	}
	if own == nil && others != nil {
		return s, fmt.Errorf("%w: %w", errRules, others)
	}
	return s, own
}

func (s *sight) readGroup(kind string, kv KV) (err error) {
	switch kind {
	case kindCluster:
		s.cluster, err = read[Cluster](kv)
	case kindRules:
		if s.rules, err = read[Rules](kv); err == nil {
			err = s.rules.rec.Check()
		}
	case kindFailures:
		s.failures, err = read[Failures](kv)
	case kindLedger:
		s.ledger, _ = read[Ledger](kv) // nothing is decided upon it
	}
	if err != nil {
		return fmt.Errorf("record %s: %w", kv.Key, err)
	}
	return nil
}

// stopped says what forbids a holder to reboot: a freeze, or a release that was
// stopped after the grant.
func (s sight) stopped() (why []Obstacle) {
	no := func(kind, format string, args ...any) {
		why = append(why, Obstacle{Kind: kind, Text: fmt.Sprintf(format, args...)})
	}
	if f := s.cluster.rec.Freeze; f != nil {
		no("freeze", "the cluster was frozen by %s: %s", f.By, f.Reason)
	}
	if f := s.rules.rec.Freeze; f != nil {
		no("freeze", "group %s was frozen by %s: %s", s.group, f.By, f.Reason)
	}
	failed := 0
	for _, f := range s.failures.rec.Failed {
		if f.Release == s.permit.rec.To {
			failed++
		}
	}
	if limit := s.rules.rec.stopAfter(); limit > 0 && failed >= limit {
		no("stopped", "%s stopped after %s: see `drydock lock journal`, then `drydock lock thaw`",
			releaseName(s.permit.rec.To), plural(failed, "failed reboot", "failed reboots"))
	}
	return why
}

// waits says why a machine in the queue waits, as far as the coordinator told.
func (s sight) waits() []Obstacle {
	if len(s.ledger.rec.Blocked) > 0 {
		return s.ledger.rec.Blocked
	}
	since := "now"
	if s.ticket.modified != 0 {
		since = "since " + s.ticket.rec.Asked.UTC().Format(time.RFC3339)
	}
	return []Obstacle{{Kind: "queued", Text: "waits for its turn in group " + s.group + ", " + since}}
}

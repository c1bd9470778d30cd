package rebootlock

import (
	"fmt"
	"slices"
	"time"
)

// draft is a transaction of the coordinator in the making: what a judgement
// calls for, with the journal entries that tell of it.
type draft struct {
	r        *Reign
	g        *groupBook
	now      time.Time
	txn      Txn
	ledger   Ledger
	failures Failures
	failed   bool // failures changed
	entries  int
}

// draft returns what j calls for, as much as fits into one transaction; nil if
// that is nothing.
func (r *Reign) draft(g *groupBook, j judgement, now time.Time) *draft {
	d := r.newDraft(g, now)
	steps := []func(){}
	add := func(what func(item[Permit]), permits []item[Permit]) {
		for _, p := range permits {
			steps = append(steps, func() { what(p) })
		}
	}
	add(d.overdue, j.overdue)
	add(d.end, j.ended)
	add(d.lapse, j.lapsed)
	add(d.takeAway, j.taken)
	for _, t := range j.grants {
		steps = append(steps, func() { d.grant(t) })
	}
	if len(steps) == 0 {
		return nil
	}
	for _, step := range steps[:min(len(steps), batch)] {
		step()
	}
	d.ledger.Zone, d.ledger.ZoneUntil, d.ledger.Blocked = j.zone, j.until, j.blocked
	d.finish()
	return d
}

func (r *Reign) newDraft(g *groupBook, now time.Time) *draft {
	d := &draft{r: r, g: g, now: now, ledger: g.ledger.rec, failures: g.failures.rec}
	d.failures.Failed = slices.Clone(d.failures.Failed)
	d.ledger.LastGrant, d.ledger.LastEnd = latest(d.ledger.LastGrant, g.lastGrant), latest(d.ledger.LastEnd, g.lastEnd)
	return d
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// finish adds the conditions that every draft has: what it was judged by still
// holds.
func (d *draft) finish() Txn {
	keys := d.r.book.keys
	d.txn.If = append(d.txn.If,
		Cond{Key: keys.ClusterRecord(), Modified: d.r.book.cluster.modified},
		Cond{Key: keys.Rules(d.g.name), Modified: d.g.rules.modified},
		Cond{Key: keys.Failures(d.g.name), Modified: d.g.failures.modified})
	if d.failed {
		d.failures.Version = version
		d.txn.Then = append(d.txn.Then, Op{Key: keys.Failures(d.g.name), Value: encode(d.failures, d.failures.Extra)})
	}
	if !d.ledgerDue() {
		return d.txn
	}
	d.ledger.Version, d.ledger.At, d.ledger.Queue = version, d.now.UTC(), d.g.queue.len()
	d.txn.Then = append(d.txn.Then, Op{Key: keys.Ledger(d.g.name), Value: encode(d.ledger, d.ledger.Extra)})
	return d.txn
}

// ledgerAge is how old what people read in the ledger may be while permits pass
// from hand to hand: it is not written with each of them.
const ledgerAge = time.Second

// ledgerDue reports whether the ledger is to be written: the next judgement goes
// by it, or it is old.
func (d *draft) ledgerDue() bool {
	age := d.now.Sub(d.g.ledger.rec.At)
	return d.g.rules.rec.Pause > 0 || d.g.rules.rec.OneZone || age < 0 || age >= ledgerAge
}

// note keeps what was written, and what the ledger was not told yet.
func (d *draft) note() {
	d.g.lastGrant, d.g.lastEnd = d.ledger.LastGrant, d.ledger.LastEnd
	d.r.entries += d.entries
}

// unchanged is the condition that a permit is still what was judged.
func (d *draft) unchanged(p item[Permit]) string {
	key := d.r.book.keys.Permit(d.g.name, p.rec.Machine)
	d.txn.If = append(d.txn.If, Cond{Key: key, Modified: p.modified})
	return key
}

func (d *draft) remove(key string) { d.txn.Then = append(d.txn.Then, Op{Key: key, Delete: true}) }

// tell adds a journal entry. Those of one transaction are in its order: they come
// to be in one revision, and their keys, each a nanosecond later, tell which came
// first.
func (d *draft) tell(what, machine, release, why string) {
	e := Entry{Version: version, At: d.now.UTC(), Group: d.g.name, Machine: machine, Who: "coordinator " + d.r.c.Machine, What: what, Why: why, Release: release}
	d.txn.Then = append(d.txn.Then, Op{Key: d.r.book.keys.Entry(entryID(d.now.Add(time.Duration(d.entries)))), Value: encode(e, nil)})
	d.entries++
}

// fail books a reboot that went wrong, and says so where that stops the release.
func (d *draft) fail(p item[Permit], how string) {
	d.failed = true
	d.failures.Failed = append(d.failures.Failed, Failure{Release: p.rec.To, Machine: p.rec.Machine, How: how, At: d.now.UTC()})
	if n := len(d.failures.Failed); n > maxFailures {
		d.failures.Failed = d.failures.Failed[n-maxFailures:]
	}
}

// maxFailures bounds a group's failures: the record stays readable, and what is
// older has long stopped its release.
const maxFailures = 500

// end books a permit that was given back, and takes it away.
func (d *draft) end(p item[Permit]) {
	d.remove(d.unchanged(p))
	d.tell(string(p.rec.Ending), p.rec.Machine, p.rec.To, p.rec.Detail)
	if p.rec.Ending != Aborted {
		d.ledger.LastEnd = d.now.UTC()
	}
	late := func(f Failure) bool {
		return f.Machine == p.rec.Machine && f.How == howOverdue && f.Release == p.rec.To
	}
	if p.rec.Ending != Aborted && slices.ContainsFunc(d.failures.Failed, late) {
		d.failed = true // it came back after all; or, with the old release, failed once and not twice
		d.failures.Failed = slices.DeleteFunc(d.failures.Failed, late)
	}
	if p.rec.Ending == RolledBack {
		d.fail(p, howRolledBack)
	}
}

// lapse takes a grant back that nobody collected.
func (d *draft) lapse(p item[Permit]) {
	d.remove(d.unchanged(p))
	d.tell("lapsed", p.rec.Machine, p.rec.To, "the grant was not collected")
}

// overdue books a holder that is past its deadline.
func (d *draft) overdue(p item[Permit]) {
	d.unchanged(p)
	d.fail(p, howOverdue)
	d.tell(howOverdue, p.rec.Machine, p.rec.To, fmt.Sprintf("in phase %s since %s; the deadline was %s",
		p.rec.Phase, p.rec.PhaseSince.UTC().Format(time.RFC3339), p.rec.Deadline.UTC().Format(time.RFC3339)))
}

// takeAway ends an overdue permit, as the group's rules say.
func (d *draft) takeAway(p item[Permit]) {
	d.remove(d.unchanged(p))
	d.ledger.LastEnd = d.now.UTC()
	d.tell(string(TakenAway), p.rec.Machine, p.rec.To, "it was overdue, and the group's rules say on_overdue = \"take-away\"")
}

// grant turns a ticket into a permit.
func (d *draft) grant(t item[Ticket]) {
	keys, k := d.r.book.keys, t.rec
	permit := Permit{
		Version: version, Machine: k.Machine, Instance: k.Instance, Boot: k.Boot, Group: k.Group, Zone: k.Zone, Reason: k.Reason, From: k.From, To: k.To,
		Etcd: k.Etcd, Via: k.Via, Asked: k.Asked, Granted: d.now.UTC(), GrantedBy: d.r.c.Machine,
		Deadline: d.now.Add(d.g.rules.rec.deadline()).UTC(), Phase: PhaseGranted, PhaseSince: d.now.UTC(), Extra: k.Extra,
	}
	key := keys.Permit(d.g.name, k.Machine)
	d.txn.If = append(d.txn.If, Cond{Key: keys.Ticket(d.g.name, k.Machine), Modified: t.modified}, Cond{Key: key})
	d.remove(keys.Ticket(d.g.name, k.Machine))
	d.txn.Then = append(d.txn.Then, Op{Key: key, Value: encode(permit, permit.Extra)})
	d.ledger.LastGrant = d.now.UTC()
	d.tell("granted", k.Machine, k.To, k.Reason)
}

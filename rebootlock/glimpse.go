package rebootlock

import (
	"slices"
	"strings"
	"sync"
	"time"
)

// A Glimpse is what a machine knows of its lock, for those who count: nobody is
// asked, and nothing may be decided upon it.
type Glimpse struct {
	Read   time.Time     // when all of it was last read, by this machine's clock; zero: not since the start
	Group  string        // that the machine goes by
	Stamp  Stamp         // the coordinator's last; zero: none was read
	Queue  int           // tickets of the group, as the coordinator last counted
	Frozen bool          // the cluster, or the group
	Stops  []Stop        // releases that may not go on in the group, by name
	Permit *Permit       // that this machine holds; nil: none, or none that can be read
	Ticket *Ticket       // with which it waits; nil: none
	Off    time.Duration // this clock minus the coordinator's, where nothing explains that; 0: they agree, as far as is known
}

// Glimpse returns what is known now. It asks nobody and waits for no call.
func (c *Client) Glimpse() Glimpse {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := &c.sees
	g := Glimpse{
		Read: o.clock.read, Group: o.at.group, Stamp: o.stamp.rec, Queue: o.ledger.rec.Queue, Off: o.clock.off,
		Frozen: o.cluster.rec.Freeze != nil || o.rules.rec.Freeze != nil,
	}
	if o.rules.there() && o.rules.err == nil {
		g.Stops = stops(o.failures.rec.Failed, o.rules.rec.stopAfter())
	}
	if o.holds() && o.permit.err == nil {
		permit := o.permit.rec
		g.Permit = &permit
	} else if o.ticket.there() && o.ticket.err == nil {
		ticket := o.ticket.rec
		g.Ticket = &ticket
	}
	return g
}

// A Tally is the numbers of one group as its coordinator has them.
type Tally struct {
	Group   string
	Max     int // permits that there are now; 0: the group has no rules
	Members int
	Absent  int // of them, and without a permit: each uses up one of max
	Held    int // permits in use
	Overdue int // of them, past their deadline
	Waiting int // tickets
	Stopped int // releases that may not go on
	Frozen  bool
	Blocked []string // kinds of what keeps permits from being granted, by name, each once
}

// tally counts a group.
func (b *book) tally(g *groupBook, now time.Time) Tally {
	rules := g.rules.rec
	t := Tally{
		Group: g.name, Members: g.members, Absent: len(g.away), Waiting: g.queue.len(),
		Frozen: b.cluster.rec.Freeze != nil || rules.Freeze != nil,
	}
	if g.rules.modified != 0 {
		t.Max = rules.Max.Of(g.members)
		t.Stopped = len(stops(g.failures.rec.Failed, rules.stopAfter()))
	}
	for _, p := range g.permits {
		if p.rec.Phase == PhaseEnded {
			continue
		}
		t.Held++
		if p.rec.Via != viaOperator && !p.rec.Deadline.IsZero() && now.After(p.rec.Deadline) {
			t.Overdue++
		}
	}
	for _, o := range g.ledger.rec.Blocked {
		t.Blocked = append(t.Blocked, o.Kind)
	}
	slices.Sort(t.Blocked)
	t.Blocked = slices.Compact(t.Blocked)
	return t
}

// tallyInterval is how often at most a coordinator counts its groups: it passes
// with every change, and nobody reads the numbers that often.
const tallyInterval = time.Second

// tallies are a coordinator's numbers, for others than itself.
type tallies struct {
	mu     sync.Mutex
	at     time.Time
	reigns bool
	groups []Tally
}

// Tallies returns the numbers of each group as of at most some ten seconds ago, by
// name, and whether this coordinator reigns at all. It asks nobody.
func (c *Coordinator) Tallies() (groups []Tally, reigns bool) {
	c.told.mu.Lock()
	defer c.told.mu.Unlock()
	return slices.Clone(c.told.groups), c.told.reigns
}

// tell counts, where that was long enough ago.
func (c *Coordinator) tell(r *Reign) {
	now := c.Now()
	c.told.mu.Lock()
	defer c.told.mu.Unlock()
	if since := now.Sub(c.told.at); c.told.reigns && since >= 0 && since < tallyInterval {
		return
	}
	c.told.at, c.told.reigns, c.told.groups = now, true, nil
	for _, g := range r.book.groups {
		if g.shows() {
			c.told.groups = append(c.told.groups, r.book.tally(g, now))
		}
	}
	slices.SortFunc(c.told.groups, func(a, b Tally) int { return strings.Compare(a.Group, b.Group) })
}

// untell says that the reign has ended.
func (c *Coordinator) untell() {
	c.told.mu.Lock()
	defer c.told.mu.Unlock()
	c.told.reigns, c.told.groups = false, nil
}

package rollout

import (
	"context"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
)

// The office is that of the coordinator: it passes from machine to machine, and
// the reign of whoever has it is driven by the store's changes.
type office struct {
	s       *Simulation
	holder  *machine
	session rebootlock.Session
	reign   *rebootlock.Reign
	reigns  int
	soon    bool      // a pass is about to be made
	next    time.Time // when one is to be made at the latest
	stands  bool      // an election is under way
}

const (
	// leaseTTL is how long a coordinator that died keeps others from its place; as
	// rebootlock.Coordinator has it.
	leaseTTL = 25 * time.Second
	// electionPoll is how often candidates are asked whether one of them has won.
	electionPoll = time.Second
)

// stand has candidates stand for election, unless somebody has the office.
func (o *office) stand() {
	if o.reign != nil || o.stands {
		return
	}
	o.stands = true
	o.s.engine.at(o.s.engine.now, o.elect)
}

func (o *office) elect() {
	o.stands = false
	if o.reign != nil || o.s.absent > 0 {
		return // when etcd is back, they stand again
	}
	ctx := context.Background()
	before, err := o.s.store.Read(ctx, rebootlock.Range{Key: o.s.keys.Election() + "/", Prefix: true})
	m := o.candidate()
	if err != nil || len(before.KVs) > 0 || m == nil {
		o.stands = true
		o.s.engine.after(electionPoll, o.elect)
		return
	}
	if err := o.begin(ctx, m); err != nil {
		o.s.fail(err)
	}
}

// candidate is a machine that is on and holds no permit; it is any of them.
func (o *office) candidate() *machine {
	all := o.s.machines
	first := o.s.rand.IntN(len(all))
	for i := range all {
		m := all[(first+i)%len(all)]
		if _, held := o.s.watch.permit(m.id); m.session != nil && !held {
			return m
		}
	}
	return nil
}

func (o *office) begin(ctx context.Context, m *machine) error {
	session, err := o.s.store.Session(ctx, leaseTTL)
	if err != nil {
		return err
	}
	lead, err := session.Campaign(ctx, o.s.keys.Election(), []byte(m.id))
	if err != nil {
		return err
	}
	c := &rebootlock.Coordinator{Store: o.s.store, Keys: o.s.keys, Machine: m.id, Now: func() time.Time { return o.s.engine.now }}
	reign, err := c.Begin(ctx, lead)
	if err != nil {
		return err
	}
	o.holder, o.session, o.reign, o.next = m, session, reign, time.Time{}
	o.reigns++
	o.passSoon()
	return nil
}

// passSoon has a pass made after what else happens now.
func (o *office) passSoon() {
	if o.soon || o.reign == nil {
		return
	}
	o.soon = true
	o.s.engine.at(o.s.engine.now, func() {
		o.soon = false
		o.pass()
	})
}

func (o *office) pass() {
	s := o.s
	if o.reign == nil || s.absent > 0 {
		return
	}
	select {
	case <-o.session.Done():
		o.depart()
		return
	default:
	}
	reign := o.reign
	s.learn()
	events, err := s.store.Since(reign.Revision(), rebootlock.Range{Key: s.root.Key + "lock/", Prefix: true})
	if err != nil {
		s.fail(err)
		return
	}
	if spoil := s.config.sabotage.read; spoil != nil {
		for i := range events {
			spoil(&events[i].KV)
		}
	}
	reign.Apply(events)
	next, err := reign.Pass(context.Background())
	if err != nil {
		_ = o.session.Resign(context.Background())
		o.depart()
		s.learn()
		return
	}
	s.learn()
	if !o.next.After(s.engine.now) || next.Before(o.next) {
		o.next = next
		s.engine.at(maxTime(next, s.engine.now), func() {
			if o.reign == reign && o.next.Equal(next) {
				o.passSoon()
			}
		})
	}
}

func maxTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// depart ends a reign that is over, and lets others stand.
func (o *office) depart() {
	o.s.store.Abandon(o.session)
	o.s.lapse(leaseTTL)
	o.holder, o.session, o.reign = nil, nil, nil
	o.stand()
}

// left is told of a machine that has gone down: the office goes with it.
func (o *office) left(m *machine) {
	if o.holder == m {
		o.depart()
	}
}

// stall stops the coordinator in its tracks, leases and all. When it goes on,
// another one has its place, and it does not know.
func (o *office) stall(long time.Duration) {
	reign := o.reign
	if reign == nil {
		return
	}
	o.depart()
	var wake func()
	wake = func() {
		if o.s.absent > 0 || o.reign == nil {
			o.s.engine.after(electionPoll, wake) // it is stalled until somebody has its place
			return
		}
		before := o.s.revision
		_, err := reign.Pass(context.Background())
		o.s.learn()
		if err == nil && o.s.revision != before {
			o.s.watch.violate("a deposed coordinator wrote: revision %d", o.s.revision)
		}
	}
	o.s.engine.after(long, wake)
}

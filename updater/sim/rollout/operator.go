package rollout

import (
	"context"
	"encoding/json"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
)

// An operator is the person who looks after the fleet: at the deadline she takes
// a permit away, and removes a machine that is not coming back; she lifts a stop
// when she has seen why it came.
type operator struct {
	s      *Simulation
	hand   rebootlock.Operator
	lifts  bool // she is about to lift a stop
	failed bool // there are failures that stop a release
}

// reaction is how long it takes her to lift a stop, or to try again.
const reaction = 5 * time.Second

func newOperator(s *Simulation) *operator {
	return &operator{s: s, hand: rebootlock.Operator{Store: s.store, Keys: s.keys, Who: "operator simulated", Now: func() time.Time { return s.engine.now }}}
}

// prepare writes the group's rules.
func (o *operator) prepare(ctx context.Context) error {
	rules := o.s.config.rules()
	if change := o.s.config.sabotage.rules; change != nil {
		change(&rules)
	}
	_, _, err := o.hand.Apply(ctx, group, rules)
	return err
}

// expect looks at a permit again when it is past its deadline.
func (o *operator) expect(m *machine, created int64) {
	o.s.engine.after(o.s.config.deadline()+time.Millisecond, func() { o.takeAway(m, created) })
}

func (o *operator) takeAway(m *machine, created int64) {
	if at, held := o.s.watch.permit(m.id); !held || at != created {
		return
	}
	ctx := context.Background()
	err := o.hand.TakeAway(ctx, group, m.id, "past its deadline", true)
	if err == nil && m.dead {
		err = o.hand.Remove(ctx, m.id, "it is not coming back", true)
	}
	o.s.learn()
	if err != nil { // etcd is away
		o.s.engine.after(reaction, func() { o.takeAway(m, created) })
	}
}

// told is a change of a record of the group.
func (o *operator) told(kind string, e rebootlock.Event) {
	if kind != "failures" {
		return
	}
	var record struct {
		Failed []json.RawMessage `json:"failed"`
	}
	o.failed = !e.Deleted && json.Unmarshal(e.Value, &record) == nil && len(record.Failed) > 0
	if o.failed && !o.lifts {
		o.lifts = true
		o.s.engine.after(reaction, o.lift)
	}
}

func (o *operator) lift() {
	o.lifts = false
	if !o.failed {
		return
	}
	err := o.hand.Forgive(context.Background(), group, "")
	if err != nil {
		o.lifts = true
		o.s.engine.after(reaction, o.lift)
		return
	}
	o.s.learn()
}

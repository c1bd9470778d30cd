package rollout

import (
	"context"
	"encoding/json"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
)

// An operator is the person who looks after the fleet: at the deadline she takes
// a permit away, and removes a machine that is not coming back; she lifts a stop
// when she has seen why it came; and now and then she freezes the group, or the
// cluster, and thaws it.
type operator struct {
	s      *Simulation
	hand   rebootlock.Operator
	lifts  bool           // she is about to lift a stop
	failed bool           // there are failures that stop a release
	frozen map[string]int // reasons that she has to keep a group, or "" for the cluster, frozen
}

// reaction is how long it takes her to lift a stop, or to try again: she sits and
// watches. The whole group waits for that long with every failure.
const reaction = time.Second

func newOperator(s *Simulation) *operator {
	return &operator{s: s, frozen: map[string]int{}, hand: rebootlock.Operator{Store: s.store, Keys: s.keys, Who: "operator simulated", Now: func() time.Time { return s.engine.now }}}
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

// freeze freezes a group, or the cluster (""), for as long as the fault lasts.
func (o *operator) freeze(scope string, f *fault) {
	if err := o.hand.Freeze(context.Background(), scope, "to be looked at"); err != nil { // etcd is away
		o.s.engine.after(reaction, func() { o.freeze(scope, f) })
		return
	}
	f.happen(o.s)
	o.frozen[scope]++
	o.s.learn()
	o.s.engine.after(f.lasts, func() {
		o.frozen[scope]--
		o.thaw(scope)
	})
}

// thaw ends a freeze, unless there is another reason for it.
func (o *operator) thaw(scope string) {
	if o.frozen[scope] > 0 {
		return
	}
	if err := o.hand.Thaw(context.Background(), scope); err != nil {
		o.s.engine.after(reaction, func() { o.thaw(scope) })
		return
	}
	o.s.learn()
}

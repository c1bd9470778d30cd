package link

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/drydock-os/drydock/rebootlock"
)

// The verbs by which an operator changes the lock.
const (
	VerbApply    = "apply"     // Group, Rules
	VerbSetMax   = "set-max"   // Group, Max
	VerbFreeze   = "freeze"    // Group ("": the cluster), Reason
	VerbThaw     = "thaw"      // Group ("": the cluster)
	VerbForgive  = "forgive"   // Group, Release ("": every one)
	VerbAcquire  = "acquire"   // Group, Machine, Reason
	VerbRelease  = "release"   // Group, Machine, Reason (may be empty)
	VerbTakeAway = "take-away" // Group, Machine, Reason, Force
	VerbRemove   = "remove"    // Machine, Reason, Force
)

// A Change is the arguments of a verb, as it crosses D-Bus.
type Change struct {
	Group   string            `json:"group,omitempty"`
	Machine string            `json:"machine,omitempty"` // machine-id
	Release string            `json:"release,omitempty"`
	Reason  string            `json:"reason,omitempty"`
	Max     *rebootlock.Max   `json:"max,omitempty"`
	Rules   *rebootlock.Rules `json:"rules,omitempty"`
	Force   bool              `json:"force,omitempty"`
}

// An Outcome is what was before a Change that succeeded. Verbs other than apply
// and set-max have none.
type Outcome struct {
	Rules   *rebootlock.Rules `json:"rules_before,omitempty"` // apply; nil: the group had none
	Max     *rebootlock.Max   `json:"max_before,omitempty"`   // set-max
	Changed *bool             `json:"changed,omitempty"`      // apply, set-max: it was not so already; always there
}

// Cluster answers with an operator's eyes and hands, in JSON, as the bus and
// the command line ask.
type Cluster struct{ Operator rebootlock.Operator }

// ClusterOf is the Cluster of an operator. Who of the operator is used where a
// change names nobody.
func ClusterOf(o rebootlock.Operator) Cluster { return Cluster{o} }

// Look returns the JSON of rebootlock.View.
func (c Cluster) Look(ctx context.Context) ([]byte, error) {
	v, err := c.Operator.Look(ctx)
	if err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

// Journal returns the JSON of a list of rebootlock.Entry, newest first.
func (c Cluster) Journal(ctx context.Context, group string, limit int) ([]byte, error) {
	entries, err := c.Operator.Journal(ctx, group, limit)
	if err != nil {
		return nil, err
	}
	return json.Marshal(entries)
}

// Change carries out a verb with the JSON of a Change, in the name of who, and
// returns the JSON of an Outcome. An argument that is not known is refused: it
// may say what must not be done.
func (c Cluster) Change(ctx context.Context, verb string, args []byte, who string) ([]byte, error) {
	var ch Change
	d := json.NewDecoder(bytes.NewReader(args))
	d.DisallowUnknownFields()
	if err := d.Decode(&ch); err != nil {
		return nil, fmt.Errorf("%s: read its arguments: %w", verb, err)
	}
	o := c.Operator
	if who != "" {
		o.Who = who
	}
	outcome, err := carryOut(ctx, o, verb, ch)
	if err != nil {
		return nil, err
	}
	return json.Marshal(outcome)
}

func carryOut(ctx context.Context, o rebootlock.Operator, verb string, ch Change) (done Outcome, err error) {
	switch verb {
	case VerbApply:
		if ch.Rules == nil {
			return done, fmt.Errorf("%s: no rules are given", verb)
		}
		var changed bool
		done.Rules, changed, err = o.Apply(ctx, ch.Group, *ch.Rules)
		done.Changed = &changed
	case VerbSetMax:
		if ch.Max == nil {
			return done, fmt.Errorf("%s: no max is given", verb)
		}
		var before rebootlock.Max
		before, err = o.SetMax(ctx, ch.Group, *ch.Max)
		done.Max, done.Changed = &before, new(before != *ch.Max)
	case VerbFreeze:
		err = o.Freeze(ctx, ch.Group, ch.Reason)
	case VerbThaw:
		err = o.Thaw(ctx, ch.Group)
	case VerbForgive:
		err = o.Forgive(ctx, ch.Group, ch.Release)
	case VerbAcquire:
		err = o.Acquire(ctx, ch.Group, ch.Machine, ch.Reason)
	case VerbRelease:
		err = o.Release(ctx, ch.Group, ch.Machine, ch.Reason)
	case VerbTakeAway:
		err = o.TakeAway(ctx, ch.Group, ch.Machine, ch.Reason, ch.Force)
	case VerbRemove:
		err = o.Remove(ctx, ch.Machine, ch.Reason, ch.Force)
	default:
		err = fmt.Errorf("the verb %q is not known: this daemon may be older than the command", verb)
	}
	return done, err
}

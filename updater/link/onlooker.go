package link

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/updater"
)

// ReadOnly is a store that nothing is written to, and nothing hangs a lease on:
// who reads by it is no member of anything.
type ReadOnly struct{ rebootlock.Store }

var errReadOnly = fmt.Errorf("%w: it was opened to be read alone (shadow mode)", rebootlock.ErrRefused)

// Commit refuses.
func (ReadOnly) Commit(context.Context, rebootlock.Txn) (rebootlock.Result, error) {
	return rebootlock.Result{}, errReadOnly
}

// Session refuses.
func (ReadOnly) Session(context.Context, time.Duration) (rebootlock.Session, error) {
	return nil, errReadOnly
}

// Onlooker sees what would keep a machine of a group from a permit now, and is
// not in the group: it uses up nothing of its max. Implements
// updater.Bystander.
type Onlooker struct {
	Store rebootlock.Store
	Keys  rebootlock.Keys
	Group string
	Seeds bool // a machine that joins brings the group's first rules
	Now   func() time.Time
}

// Operator reads the lock, and is refused every change.
func (o Onlooker) Operator() rebootlock.Operator {
	return rebootlock.Operator{Store: ReadOnly{o.Store}, Keys: o.Keys, Now: o.Now}
}

// Standing implements updater.Bystander.
func (o Onlooker) Standing(ctx context.Context) (updater.Standing, error) {
	v, err := o.Operator().Look(ctx)
	if err != nil {
		return updater.Standing{}, err
	}
	out := updater.Standing{Permit: updater.NoPermit}
	at := slices.IndexFunc(v.Groups, func(g rebootlock.GroupView) bool { return g.Group == o.Group })
	switch {
	case at >= 0 && (v.Groups[at].Rules != nil || !o.Seeds):
		out.Stopped = reasons(v.Groups[at].Blocked)
	case v.Freeze != nil:
		out.Stopped = []updater.Reason{{Kind: "freeze", Text: fmt.Sprintf("the cluster was frozen by %s: %s", v.Freeze.By, v.Freeze.Reason)}}
	case !o.Seeds:
		out.Stopped = []updater.Reason{{Kind: "rules", Text: fmt.Sprintf("group %s has no rules: `drydock lock apply FILE` writes them", o.Group)}}
	}
	return out, nil
}

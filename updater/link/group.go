package link

import (
	"context"
	"fmt"
	"sync"

	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/updater"
)

// A Voter is a member of etcd that runs on this machine, and goes down with it.
type Voter interface {
	// Preflight says why the etcd cluster cannot do without this member now.
	Preflight(ctx context.Context) error
	// HandOver gives the cluster's leadership to another member. Not to have it is
	// success.
	HandOver(ctx context.Context) error
	// CaughtUp says why this member is not, or not yet, a healthy voter again.
	CaughtUp(ctx context.Context) error
}

// Group is one machine's side of its group's lock in the cluster.
type Group struct {
	Client *rebootlock.Client
	Voter  Voter // nil: no member of etcd runs here
	// Unready says why this machine is not yet to be put into the queue: its zone is
	// to be known first; nil, or returning nil: it may be.
	Unready func() error

	mu      sync.Mutex
	refused *updater.Reason // why it was not asked for a permit last
}

// Standing implements updater.RebootLock.
func (g *Group) Standing(ctx context.Context) (updater.Standing, error) {
	s, err := g.Client.Standing(ctx)
	if err != nil {
		return updater.Standing{}, err
	}
	out := updater.Standing{Permit: permits[s.Standing], Stopped: reasons(s.Stops), Waits: reasons(s.Waits)}
	out.Begun = s.Standing == rebootlock.Holding && s.Phase != rebootlock.PhaseGranted
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.refused != nil && s.Standing == rebootlock.None {
		out.Waits = append(out.Waits, *g.refused)
	}
	return out, nil
}

func reasons(obstacles []rebootlock.Obstacle) (out []updater.Reason) {
	for _, o := range obstacles {
		out = append(out, updater.Reason(o))
	}
	return out
}

// refuse remembers why the lock was not asked; nil: it was.
func (g *Group) refuse(kind string, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.refused = nil; err != nil {
		g.refused = &updater.Reason{Kind: kind, Text: "no permit is asked for: " + err.Error()}
	}
}

// Acquire implements updater.RebootLock. A machine that etcd cannot do without
// is not put into the queue: it would hold the others up.
func (g *Group) Acquire(ctx context.Context, i updater.Intent) (updater.Permit, error) {
	if g.Unready != nil {
		if err := g.Unready(); err != nil {
			g.refuse("platform", err)
			return updater.NoPermit, nil
		}
	}
	if g.Voter != nil {
		if err := g.Voter.Preflight(ctx); err != nil {
			g.refuse("etcd", err)
			return updater.NoPermit, nil
		}
	}
	g.refuse("", nil)
	s, err := g.Client.Acquire(ctx, rebootlock.Request{Reason: i.Reason, From: i.From, To: i.To})
	if err != nil {
		return updater.PermitUnknown, err
	}
	return permits[s], nil
}

// Fence implements updater.RebootLock. Of a member of etcd, the others must be
// well: it may have waited in the queue while one of them died, and no work is to
// be moved for a reboot that will be refused. Before the flags are set and before
// the reboot it hands its leadership over. The fence itself comes last, right
// before what it guards.
func (g *Group) Fence(ctx context.Context, phase string) error {
	if g.Voter != nil {
		if phase != updater.PhaseDraining {
			if err := g.Voter.HandOver(ctx); err != nil {
				return fmt.Errorf("hand etcd's leadership over: %w", err)
			}
		}
		if err := g.Voter.Preflight(ctx); err != nil {
			return err
		}
	}
	return g.Client.Fence(ctx, phase)
}

var endings = map[updater.Ending]rebootlock.Ending{
	updater.EndUpdated: rebootlock.Updated, updater.EndRolledBack: rebootlock.RolledBack,
	updater.EndRebooted: rebootlock.Rebooted, updater.EndAborted: rebootlock.Aborted,
}

// Release implements updater.RebootLock. A member of etcd keeps its permit until
// it is a voter that has caught up: the next one must not go down before.
func (g *Group) Release(ctx context.Context, ending updater.Ending, detail string) error {
	if g.Voter != nil {
		s, err := g.Client.Standing(ctx)
		if err != nil {
			return err
		}
		if s.Standing == rebootlock.Holding {
			if err := g.Voter.CaughtUp(ctx); err != nil {
				return fmt.Errorf("etcd on this machine has not caught up: %w", err)
			}
		}
	}
	return g.Client.Release(ctx, endings[ending], detail)
}

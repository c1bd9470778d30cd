package link

import (
	"context"
	"errors"
	"fmt"

	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/policy"
)

// ErrNoLock says that a machine is to be coordinated and no lock is there to
// do it. It allows nothing: better a machine that does not reboot than two
// that do so at once.
var ErrNoLock = errors.New("strategy coordinated needs a reboot lock, and none is configured; a machine that stands alone has strategy immediate")

// ByStrategy is the lock that a policy's strategy asks for: the group's where
// machines are coordinated, and this machine's own elsewhere. A permit or a
// ticket of the group is given back to the group, whatever the strategy has
// become since.
type ByStrategy struct {
	Strategy func() policy.Strategy
	Group    func() updater.RebootLock // nil, or returning nil: none is configured
	Alone    updater.RebootLock
}

// lock returns the lock that answers now.
func (b ByStrategy) lock(ctx context.Context) (updater.RebootLock, error) {
	var group updater.RebootLock
	if b.Group != nil {
		group = b.Group()
	}
	coordinated := b.Strategy() == policy.Coordinated
	switch {
	case coordinated && group == nil:
		return nil, ErrNoLock
	case coordinated:
		return group, nil
	case group == nil:
		return b.Alone, nil
	}
	s, err := group.Standing(ctx)
	if err != nil {
		return nil, fmt.Errorf("the group may still hold a permit of this machine: %w", err)
	}
	if s.Permit == updater.Held || s.Permit == updater.Queued {
		return group, nil
	}
	return b.Alone, nil
}

// Standing implements updater.RebootLock.
func (b ByStrategy) Standing(ctx context.Context) (updater.Standing, error) {
	l, err := b.lock(ctx)
	if err != nil {
		return updater.Standing{}, err
	}
	return l.Standing(ctx)
}

// Acquire implements updater.RebootLock.
func (b ByStrategy) Acquire(ctx context.Context, i updater.Intent) (updater.Permit, error) {
	l, err := b.lock(ctx)
	if err != nil {
		return updater.PermitUnknown, err
	}
	return l.Acquire(ctx, i)
}

// Fence implements updater.RebootLock.
func (b ByStrategy) Fence(ctx context.Context, phase string) error {
	l, err := b.lock(ctx)
	if err != nil {
		return err
	}
	return l.Fence(ctx, phase)
}

// Release implements updater.RebootLock.
func (b ByStrategy) Release(ctx context.Context, ending updater.Ending, detail string) error {
	l, err := b.lock(ctx)
	if err != nil {
		return err
	}
	return l.Release(ctx, ending, detail)
}

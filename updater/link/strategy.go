package link

import (
	"context"
	"errors"

	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/policy"
)

// ErrNoLock says that a machine is to be coordinated and no lock is there to
// do it. It allows nothing: better a machine that does not reboot than two
// that do so at once.
var ErrNoLock = errors.New("strategy coordinated needs a reboot lock, and none is configured; a machine that stands alone has strategy immediate")

// ByStrategy is the lock that a policy's strategy asks for: the group's where
// machines are coordinated, and this machine's own elsewhere.
type ByStrategy struct {
	Strategy func() policy.Strategy
	Group    updater.RebootLock // nil: none is configured
	Alone    updater.RebootLock
}

func (b ByStrategy) lock() (updater.RebootLock, error) {
	if b.Strategy() != policy.Coordinated {
		return b.Alone, nil
	}
	if b.Group == nil {
		return nil, ErrNoLock
	}
	return b.Group, nil
}

// Standing implements updater.RebootLock.
func (b ByStrategy) Standing(ctx context.Context) (updater.Standing, error) {
	l, err := b.lock()
	if err != nil {
		return updater.Standing{}, err
	}
	return l.Standing(ctx)
}

// Acquire implements updater.RebootLock.
func (b ByStrategy) Acquire(ctx context.Context, reason string) (updater.Permit, error) {
	l, err := b.lock()
	if err != nil {
		return updater.PermitUnknown, err
	}
	return l.Acquire(ctx, reason)
}

// Fence implements updater.RebootLock.
func (b ByStrategy) Fence(ctx context.Context, phase string) error {
	l, err := b.lock()
	if err != nil {
		return err
	}
	return l.Fence(ctx, phase)
}

// Release implements updater.RebootLock.
func (b ByStrategy) Release(ctx context.Context, ending updater.Ending) error {
	l, err := b.lock()
	if err != nil {
		return err
	}
	return l.Release(ctx, ending)
}

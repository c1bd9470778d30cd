// Package link fits the reboot lock to what the updater asks of it.
package link

import (
	"context"

	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/updater"
)

// Lock is one machine's side of a lock in memory.
type Lock struct {
	Group   *rebootlock.Alone
	Machine string
}

var permits = map[rebootlock.Standing]updater.Permit{
	rebootlock.None: updater.NoPermit, rebootlock.Queued: updater.Queued, rebootlock.Holding: updater.Held,
}

// Standing implements updater.RebootLock.
func (l Lock) Standing(ctx context.Context) (updater.Standing, error) {
	s, err := l.Group.Standing(ctx, l.Machine)
	standing := updater.Standing{Permit: permits[s]}
	if why := l.Group.Frozen(); why != "" {
		standing.Stopped = []updater.Reason{{Kind: "freeze", Text: "the group is frozen: " + why}}
	}
	return standing, err
}

// Acquire implements updater.RebootLock.
func (l Lock) Acquire(ctx context.Context, _ updater.Intent) (updater.Permit, error) {
	s, err := l.Group.Acquire(ctx, l.Machine)
	return permits[s], err
}

// Fence implements updater.RebootLock.
func (l Lock) Fence(ctx context.Context, phase string) error {
	return l.Group.Fence(ctx, l.Machine, phase)
}

// Release implements updater.RebootLock.
func (l Lock) Release(ctx context.Context, _ updater.Ending, _ string) error {
	return l.Group.Release(ctx, l.Machine)
}

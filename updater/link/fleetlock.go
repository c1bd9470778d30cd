package link

import (
	"context"

	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/rebootlock/fleetlock"
	"github.com/drydock-os/drydock/updater"
)

// FleetLock is one machine's side of the lock that a FleetLock server keeps. The
// protocol has a question and an answer, and no more: no phases, no reasons.
type FleetLock struct{ Lock *fleetlock.Lock }

// Standing implements updater.RebootLock.
func (f FleetLock) Standing(context.Context) (updater.Standing, error) {
	s, stops := f.Lock.Standing()
	out := updater.Standing{Permit: permits[s], Perhaps: !f.Lock.Sure(), Stopped: reasons(stops)}
	if why := f.Lock.Why(); why != "" && s != rebootlock.Holding {
		out.Waits = []updater.Reason{{Kind: "fleetlock", Text: "the FleetLock server says: " + why}}
	}
	return out, nil
}

// Acquire implements updater.RebootLock.
func (f FleetLock) Acquire(ctx context.Context, _ updater.Intent) (updater.Permit, error) {
	s, err := f.Lock.Acquire(ctx)
	return permits[s], err
}

// Fence implements updater.RebootLock.
func (f FleetLock) Fence(ctx context.Context, _ string) error { return f.Lock.Fence(ctx) }

// Release implements updater.RebootLock.
func (f FleetLock) Release(ctx context.Context, _ updater.Ending, _ string) error {
	return f.Lock.Release(ctx)
}

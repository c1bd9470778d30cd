package updater

import (
	"context"
	"sync"
	"time"
)

// A Clock is how time passes for an Updater. An Updater without one goes by the
// machine's own; a simulation brings one whose time passes when nothing is left
// to be done.
type Clock interface {
	// Pause returns after d, when ctx ends, or when it received from wake.
	Pause(ctx context.Context, d time.Duration, wake <-chan struct{})
	// Within is context.WithTimeout.
	Within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc)
	// Beside runs f beside its caller, and returns what waits for f's end.
	Beside(f func()) (wait func())
}

// wallClock is the machine's own time.
type wallClock struct{}

// Pause implements Clock.
func (wallClock) Pause(ctx context.Context, d time.Duration, wake <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-wake:
	}
}

// Within implements Clock.
func (wallClock) Within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, d)
}

// Beside implements Clock.
func (wallClock) Beside(f func()) (wait func()) {
	var group sync.WaitGroup
	group.Go(f)
	return group.Wait
}

func (u *Updater) clock() Clock {
	if u.Clock == nil {
		return wallClock{}
	}
	return u.Clock
}

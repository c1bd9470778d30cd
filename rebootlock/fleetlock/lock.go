package fleetlock

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync"

	"github.com/drydock-os/drydock/rebootlock"
)

// A Lock is a FleetLock server as one machine's reboot lock. The protocol has no
// question after the standing, so it is remembered for as long as the process
// lives; before the server was asked, this machine may hold a permit from
// before (PROTOCOL.md, section 6).
type Lock struct {
	Client Client

	mu       sync.Mutex
	sure     bool // the server answered since the start
	standing rebootlock.Standing
	refused  string // what the server said at the last fence, if that was no
	said     string // what it said last, if that was no
}

// Standing says where this machine stands as far as is known, and what forbids
// to go on. Before anything was asked it is Holding with an obstacle: nothing
// begins, and Release is called once this machine is well and its work is back.
func (l *Lock) Standing() (rebootlock.Standing, []rebootlock.Obstacle) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case !l.sure:
		return rebootlock.Holding, []rebootlock.Obstacle{{Kind: "fleetlock", Text: "this machine may hold a permit of the FleetLock server from before: it is given back first, once this machine is well"}}
	case l.standing == rebootlock.Holding && l.refused != "":
		return rebootlock.Holding, []rebootlock.Obstacle{{Kind: "fleetlock", Text: "the FleetLock server no longer lets this machine reboot: " + l.refused}}
	}
	return l.standing, nil
}

// Sure reports whether the server was heard since the start. Until then Holding
// is only what must be feared.
func (l *Lock) Sure() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sure
}

// Why is what the server said when it last said no; "" where it said yes.
func (l *Lock) Why() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.said
}

// Acquire asks for a permit: Holding, or Queued where the server grants none
// now. After an error the server may have granted one: it is asked again, or
// Release gives it back.
func (l *Lock) Acquire(ctx context.Context) (rebootlock.Standing, error) {
	err := l.Client.PreReboot(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.said = said(err)
	switch {
	case err == nil:
		l.sure, l.standing, l.refused = true, rebootlock.Holding, ""
		return rebootlock.Holding, nil
	case !l.sure || l.standing == rebootlock.Holding: // what it may hold, it still may
		return rebootlock.Holding, err
	}
	l.standing = rebootlock.Queued
	if full(err) {
		err = nil
	}
	return rebootlock.Queued, err
}

// Fence asks again for the permit that this machine holds, which the server
// grants again. Any other answer, and none, forbids to go on.
func (l *Lock) Fence(ctx context.Context) error {
	l.mu.Lock()
	standing, sure := l.standing, l.sure
	l.mu.Unlock()
	if !sure || standing != rebootlock.Holding {
		return rebootlock.ErrNotHolder
	}
	err := l.Client.PreReboot(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.said = said(err)
	var no *Error
	if errors.As(err, &no) {
		l.refused = no.Error()
	}
	return err
}

// Release gives permit or ticket back. After an error this machine may still
// hold it, and Release is called again.
func (l *Lock) Release(ctx context.Context) error {
	err := l.Client.SteadyState(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.said = said(err)
	if err == nil {
		l.sure, l.standing, l.refused = true, rebootlock.None, ""
	}
	return err
}

func said(err error) string {
	var no *Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &no):
		return no.Value
	}
	return err.Error()
}

// fullKinds are the kinds with which servers say that all permits are held:
// ours, poseidon/fleetlock, airlock, and the protocol's own example.
var fullKinds = []string{kindQueued, "lock_held", "failed_lock", "failed_lock_semaphore_full"}

// full reports whether an answer says that there is no permit now. airlock says
// it with status 500.
func full(err error) bool {
	var no *Error
	return errors.As(err, &no) && (no.Status == http.StatusLocked || no.Status == http.StatusConflict && no.Kind != kindOtherWay ||
		no.Status == http.StatusTooManyRequests || no.Status == http.StatusServiceUnavailable || slices.Contains(fullKinds, no.Kind))
}

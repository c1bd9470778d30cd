package updater

import (
	"slices"
	"sync"
	"time"

	"github.com/drydock-os/drydock/updater/policy"
)

// front is what everybody may ask and tell at any time, of who keeps a machine
// and of who watches one.
type front struct {
	mu      sync.Mutex
	alive   time.Time
	policy  policy.Policy
	status  Status
	trouble []Reason // what the edges cannot do, said with every status
	wake    chan struct{}
}

// Policy returns the policy in force.
func (f *front) Policy() policy.Policy {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.policy
}

// Status returns the present status.
func (f *front) Status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status
}

// Trouble says with every status that something of that kind went wrong
// outside, until err is nil.
func (f *front) Trouble(kind string, err error) {
	f.mu.Lock()
	f.trouble = slices.DeleteFunc(slices.Clone(f.trouble), func(r Reason) bool { return r.Kind == kind })
	if err != nil {
		f.trouble = append(f.trouble, Reason{Kind: kind, Text: err.Error()})
	}
	f.mu.Unlock()
	f.Wake()
}

// Wake has the machine looked at again at once: something that is waited for may
// have changed.
func (f *front) Wake() {
	select {
	case f.woken() <- struct{}{}:
	default:
	}
}

// woken is the channel that ends a wait.
func (f *front) woken() chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.wake == nil {
		f.wake = make(chan struct{}, 1)
	}
	return f.wake
}

// lived notes a sign of life.
func (f *front) lived(now time.Time) {
	f.mu.Lock()
	f.alive = now
	f.mu.Unlock()
}

// Beat returns the last sign of life: a look, a step that began or got on.
// Between two signs a step may be silent for as long as a drain, a hook or a
// health check may take.
func (f *front) Beat() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.alive
}

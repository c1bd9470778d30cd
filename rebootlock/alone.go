package rebootlock

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// Alone is a group's lock in the memory of one process: for a machine that
// stands alone, and for many machines in one process. Permits are granted
// strictly first come, first served.
type Alone struct {
	Max int // permits that there are; 0 counts as one

	mu      sync.Mutex
	freeze  string
	holders map[string]string // machine: phase
	queue   []string
}

// Standing says where a machine stands.
func (l *Alone) Standing(_ context.Context, machine string) (Standing, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.standing(machine), nil
}

func (l *Alone) standing(machine string) Standing {
	if _, held := l.holders[machine]; held {
		return Holding
	}
	if slices.Contains(l.queue, machine) {
		return Queued
	}
	return None
}

// Acquire queues a machine, grants what can be granted, and says where the
// machine stands now.
func (l *Alone) Acquire(_ context.Context, machine string) (Standing, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.standing(machine) == None {
		l.queue = append(l.queue, machine)
	}
	l.grant()
	return l.standing(machine), nil
}

// grant gives free permits to the head of the queue.
func (l *Alone) grant() {
	for l.freeze == "" && len(l.queue) > 0 && len(l.holders) < max(l.Max, 1) {
		if l.holders == nil {
			l.holders = map[string]string{}
		}
		l.holders[l.queue[0]] = "granted"
		l.queue = l.queue[1:]
	}
}

// Fence moves a holder's phase on. It refuses a machine that holds no permit,
// and everything while the group is frozen.
func (l *Alone) Fence(_ context.Context, machine, phase string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.freeze != "" {
		return fmt.Errorf("group is frozen: %s", l.freeze)
	}
	if l.standing(machine) != Holding {
		return ErrNotHolder
	}
	l.holders[machine] = phase
	return nil
}

// Release gives back a permit or a ticket. Giving back what one does not have
// is success.
func (l *Alone) Release(_ context.Context, machine string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.holders, machine)
	l.queue = slices.DeleteFunc(l.queue, func(m string) bool { return m == machine })
	l.grant()
	return nil
}

// Freeze stops grants and phases for a reason, until it is called with "".
func (l *Alone) Freeze(reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.freeze = reason
	l.grant()
}

// Frozen returns the reason of a freeze, "" if there is none.
func (l *Alone) Frozen() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.freeze
}

// Holders returns the machines that hold a permit, sorted.
func (l *Alone) Holders() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	names := make([]string, 0, len(l.holders))
	for name := range l.holders {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

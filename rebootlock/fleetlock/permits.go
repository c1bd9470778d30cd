package fleetlock

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
)

// Permits are the permits of a cluster's reboot lock, for machines that speak
// FleetLock. They are all in the store: a machine may ask another server each
// time, and a server may be restarted between.
type Permits struct {
	Store rebootlock.Store
	Keys  rebootlock.Keys
	Now   func() time.Time
	TTL   time.Duration // of a ticket, since its machine last asked; 0: DefaultTTL

	mu       sync.Mutex
	known    map[string]string // machine, by each id that names it
	machines int               // in known
	read     time.Time         // when known was; zero: never
	failed   time.Time         // when it could last not be read
	err      error             // why
}

// DefaultTTL outlives two questions of zincati, which asks every 5 minutes and
// up to 30 seconds, one lost, and its answer.
const DefaultTTL = 15 * time.Minute

// The members are read again after staleTime, and, for an id that is not known,
// after unknownTime: ids that somebody makes up cost little.
const (
	staleTime   = time.Minute
	unknownTime = 10 * time.Second
)

// maxMachines bounds the members of a cluster that FleetLock's clients may make
// it: anybody who reaches a server without client certificates can name himself
// anew each time, and etcd has 2 GiB.
const maxMachines = 20000

func (p *Permits) proxy() rebootlock.Proxy {
	ttl := p.TTL
	if ttl == 0 {
		ttl = DefaultTTL
	}
	return rebootlock.Proxy{Store: p.Store, Keys: p.Keys, Now: p.Now, TTL: ttl}
}

// Lock implements Locks.
func (p *Permits) Lock(ctx context.Context, group, id string, wait time.Duration) (granted bool, why string, err error) {
	machine, err := p.machine(ctx, id)
	if err != nil {
		return false, "", err
	}
	a, err := p.proxy().Ask(ctx, group, machine, wait)
	texts := make([]string, len(a.Why))
	for i, o := range a.Why {
		texts[i] = o.Text
	}
	return a.Granted && err == nil, strings.Join(texts, "; "), err
}

// Unlock implements Locks. What the machine got before the cluster knew it by
// its machine-id goes back as well.
func (p *Permits) Unlock(ctx context.Context, group, id string) error {
	machine, err := p.machine(ctx, id)
	if err != nil {
		return err
	}
	for _, name := range []string{machine, id} {
		if err := p.proxy().Return(ctx, group, name); err != nil {
			return err
		}
		if machine == id {
			break
		}
	}
	if err := p.proxy().Join(ctx, group, machine); err != nil && !errors.Is(err, rebootlock.ErrOtherWay) {
		return err
	}
	return nil
}

// machine returns the name that the cluster has for the machine with an id: that
// of the member whose machine-id it is, or of whose machine-id zincati makes it;
// else the id.
func (p *Permits) machine(ctx context.Context, id string) (string, error) {
	came := p.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	machine, known := p.known[id]
	age := p.Now().Sub(p.read)
	fresh := !p.read.IsZero() && age >= 0 && (age < unknownTime || known && age < staleTime)
	if !fresh {
		if p.failed.After(came) { // tried while this one waited: not each waits in turn
			return "", p.err
		}
		if p.err = p.index(ctx); p.err != nil {
			p.failed = p.Now()
			return "", p.err
		}
		machine, known = p.known[id]
	}
	switch {
	case known:
		return machine, nil
	case p.machines >= maxMachines:
		return "", refuse(http.StatusServiceUnavailable, kindTooMany, "the cluster has its %d machines, and %.40q is none of them (`drydock fleet remove` removes those that are gone)", maxMachines, id)
	}
	p.known[id], p.machines = id, p.machines+1 // about to join, or gone with the next index
	return id, nil
}

// index reads the members.
func (p *Permits) index(ctx context.Context) error {
	members, err := p.proxy().Members(context.WithoutCancel(ctx)) // for those who wait as well
	if err != nil {
		return fmt.Errorf("find machine: %w", err)
	}
	p.known, p.machines, p.read = make(map[string]string, len(members)), len(members), p.Now()
	for machine := range members {
		p.known[machine] = machine
	}
	for machine, guest := range members {
		if app, err := AppID(machine); err == nil && !guest {
			p.known[app] = machine // also where it was a member of its own before
		}
	}
	return nil
}

// Package host is a fleetlink.Link for machines without a scheduler: what the
// policy names of this host's own systemd units and containers is stopped in
// order before a reboot, and started again after.
package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
)

// A Keeper has workloads run on this host: systemd its units, Docker or Podman
// containers. Every call ends soon after its context; what was begun may go on.
type Keeper interface {
	// Running lists what runs of what the policy names, in the order in which it is
	// to be stopped.
	Running(ctx context.Context) ([]Unit, error)
	// Look reads one workload.
	Look(ctx context.Context, name string) (Unit, error)
	// Stop has a workload end, by force at once, and returns nil when it does not
	// run any more.
	Stop(ctx context.Context, name string, force bool) error
	// Start has a workload run, and returns nil when it does.
	Start(ctx context.Context, name string) error
}

// A Unit is one workload of a Keeper.
type Unit struct {
	Name  string
	State State
	What  string // the state in the keeper's own words: "failed (exit-code)"
	Kept  string // why it cannot be stopped but by force; "": it can
	Once  bool   // it ends by itself, and is not started again: a job
}

// State is how far a workload runs.
type State int

// The states. What is Starting, Up or Ending runs.
const (
	Absent   State = iota // there is none of that name
	Off                   // somebody decided that it is not to run (a masked unit)
	Down                  // it does not run
	Starting              // it is not up yet, or on its way from a failure to another try
	Up
	Ending
)

// Runs reports whether there is something to stop.
func (s State) Runs() bool { return s == Starting || s == Up || s == Ending }

// A Link stops and starts workloads of this host. The zero value, with a Record,
// has none, and keeps the contract all the same. What it stopped is in Record
// before it is stopped.
type Link struct {
	Units      Keeper // first to stop, last to start; nil: none
	Containers Keeper // nil: none
	Record     fleetlink.Record
	Machine    fleetlink.Machine
	Grace      time.Duration    // how long a workload may take to end in a drain by force; zero: DefaultGrace
	Each       time.Duration    // how long one may take to start; zero: DefaultEach
	Pause      time.Duration    // before it is looked again at what could not be stopped; zero: DefaultPause
	Now        func() time.Time // nil: time.Now
}

// What zero values of a Link mean. DefaultGrace and DefaultEach are systemd's own
// DefaultTimeoutStopSec and DefaultTimeoutStartSec.
const (
	DefaultGrace = 90 * time.Second
	DefaultEach  = 90 * time.Second
	DefaultPause = 2 * time.Second
)

// Preflight implements fleetlink.Link.
func (l *Link) Preflight(ctx context.Context) (held []fleetlink.Workload, err error) {
	if _, err := l.load(); err != nil {
		return nil, err
	}
	running, err := l.running(ctx)
	for _, u := range running {
		if u.Kept != "" { // a job that ends by itself is waited for
			held = append(held, fleetlink.Workload{Name: u.Name, Why: u.Kept})
		}
	}
	return held, err
}

// Standing implements fleetlink.Link. A host has nobody who gives it new work:
// what is started on it all the same is left.
func (l *Link) Standing(ctx context.Context) (fleetlink.Standing, error) {
	r, err := l.load()
	if err != nil {
		return fleetlink.Standing{}, err
	}
	running, err := l.running(ctx)
	if err != nil || !r.Ours {
		return fleetlink.Standing{}, err
	}
	s := fleetlink.Standing{Ours: true}
	for _, u := range running {
		s.Left = append(s.Left, u.workload())
	}
	return s, nil
}

// Cordon implements fleetlink.Link: it is remembered that what runs is to leave.
func (l *Link) Cordon(ctx context.Context, why string) error {
	r, err := l.load()
	if err != nil {
		return err
	}
	if _, err := l.running(ctx); err != nil {
		return err
	}
	next := record{Ours: true, Why: why}
	if r.Ours {
		next.Stopped = r.Stopped
	}
	return l.save(next)
}

// Resume implements fleetlink.Link. It starts what it can of what was stopped and
// does not run already, the last first, and ends well when all of it runs.
func (l *Link) Resume(ctx context.Context) error {
	r, err := l.load()
	if err != nil {
		return err
	}
	if _, err := l.running(ctx); err != nil || !r.Ours {
		return err
	}
	var errs []error
	for _, s := range slices.Backward(r.Stopped) {
		if err := l.start(ctx, s); err != nil {
			errs = append(errs, err)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("start what was stopped for the reboot: %w", errors.Join(append(errs, ctx.Err())...))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	if r.Boot, err = l.boot(); err != nil {
		return err
	}
	r.Ours, r.Why = false, ""
	return l.save(r)
}

// start has a workload run that was stopped. One that is gone is an error: a
// release in which it got lost must not take it from the next machine as well.
func (l *Link) start(ctx context.Context, s stopped) error {
	k, err := l.keeper(s)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, or(l.Each, DefaultEach))
	defer cancel()
	u, err := k.Look(ctx, s.Name)
	switch {
	case err != nil:
		return fmt.Errorf("look at %s: %w", s.Name, err)
	case u.State == Off, u.State == Up:
		return nil
	case u.State == Absent:
		return fmt.Errorf("%s was stopped for the reboot and is not on this machine any more: bring it back, or mask it if it is a unit that is not to run", s.Name)
	}
	if err := k.Start(ctx, s.Name); err != nil {
		return fmt.Errorf("start %s again: %w", s.Name, err)
	}
	return nil
}

// Ailments implements fleetlink.Link: after Resume, in the same boot, what was
// stopped and does not run. Before, that it can be asked is all that can be told.
func (l *Link) Ailments(ctx context.Context) (ails []fleetlink.Workload, err error) {
	r, err := l.load()
	if err != nil {
		return nil, err
	}
	if _, err := l.running(ctx); err != nil || r.Ours {
		return nil, err
	}
	if boot, err := l.boot(); err != nil || boot != r.Boot {
		return nil, err // what was so in another boot says nothing of this one
	}
	for _, s := range r.Stopped {
		k, err := l.keeper(s)
		if err != nil {
			return nil, err
		}
		u, err := k.Look(ctx, s.Name)
		switch {
		case err != nil:
			return nil, fmt.Errorf("look at %s: %w", s.Name, err)
		case u.State == Absent:
			ails = append(ails, fleetlink.Workload{Name: s.Name, Why: "it is not on this machine any more"})
		case u.State != Up && u.State != Off:
			ails = append(ails, fleetlink.Workload{Name: s.Name, Why: "it is " + u.What})
		}
	}
	return ails, nil
}

// workload is a unit as status shows it.
func (u Unit) workload() fleetlink.Workload {
	w := fleetlink.Workload{Name: u.Name, Why: u.Kept}
	if u.Once && w.Why == "" {
		w.Why = "it ends by itself"
	}
	return w
}

// kept is a unit and whose it is.
type kept struct {
	Unit
	of string
}

// running lists what runs of all keepers, in the order in which it is stopped.
func (l *Link) running(ctx context.Context) (all []kept, err error) {
	for _, of := range []string{units, containers} {
		k, err := l.keeper(stopped{Of: of})
		if errors.Is(err, errNoKeeper) {
			continue
		}
		running, err := k.Running(ctx)
		if err != nil {
			return nil, fmt.Errorf("list the %s of this machine: %w", of, err)
		}
		for _, u := range running {
			all = append(all, kept{u, of})
		}
	}
	return all, ctx.Err()
}

// errNoKeeper says that the policy names nothing of a kind.
var errNoKeeper = errors.New("the policy names no workload of its kind any more, and nothing but that can start it")

// keeper finds who keeps a workload.
func (l *Link) keeper(s stopped) (Keeper, error) {
	k := l.Units
	if s.Of == containers {
		k = l.Containers
	}
	if k == nil {
		return nil, fmt.Errorf("%s: %w", s.Name, errNoKeeper)
	}
	return k, nil
}

func (l *Link) boot() (string, error) {
	if l.Machine.BootID == nil {
		return "", nil
	}
	return l.Machine.BootID()
}

func (l *Link) now() time.Time {
	if l.Now == nil {
		return time.Now()
	}
	return l.Now()
}

func or(d, otherwise time.Duration) time.Duration {
	if d <= 0 {
		return otherwise
	}
	return d
}

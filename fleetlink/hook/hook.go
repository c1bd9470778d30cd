// Package hook is a fleetlink.Link of executables in a directory, for schedulers
// that have no package of their own. HOOKS.md is what they are told and what they
// may answer.
package hook

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
)

// A Link calls the hooks of a directory in the order of their names, and in the
// reverse one to resume. It keeps in Record which of them it had cordon; a hook
// need remember nothing.
//
// Preflight, Standing and Ailments may run beside each other and beside the rest;
// of Cordon, Drain and Resume one runs at a time.
type Link struct {
	Dir     string // of the hooks, all of them root's; one that is empty is an error
	Record  fleetlink.Record
	Machine fleetlink.Machine
	Ask     time.Duration     // how long preflight, standing and ailments of one hook may take; zero: DefaultAsk
	Act     time.Duration     // and cordon and resume; zero: DefaultAct; a drain lasts as long as it is let
	Pause   time.Duration     // before a hook that answered "not yet" is called again; zero: DefaultPause
	Log     func(line string) // hears what hooks write to standard error, from several goroutines; nil: nobody
}

// What zero values of a Link mean. DefaultAsk leaves time for a second hook
// before the updater's look at the machine (20 s) is over.
const (
	DefaultAsk   = 8 * time.Second
	DefaultAct   = 2 * time.Minute
	DefaultPause = 5 * time.Second
)

// The verbs of HOOKS.md, section 2.
const (
	preflight = "preflight"
	standing  = "standing"
	cordon    = "cordon"
	drain     = "drain"
	resume    = "resume"
	ailments  = "ailments"
	gate      = "gate"
)

// Preflight implements fleetlink.Link.
func (l *Link) Preflight(ctx context.Context) ([]fleetlink.Workload, error) {
	return l.survey(ctx, preflight, "it says that this machine could not be drained now, and not why")
}

// Ailments implements fleetlink.Link.
func (l *Link) Ailments(ctx context.Context) ([]fleetlink.Workload, error) {
	return l.survey(ctx, ailments, "it says that not all is well, and not what")
}

// survey asks every hook for a list. One that answers "not yet" and names
// nothing is itself what is named.
func (l *Link) survey(ctx context.Context, verb, mute string) (all []fleetlink.Workload, err error) {
	r, err := l.load()
	if err != nil {
		return nil, err
	}
	hooks, err := l.hooks()
	for _, h := range hooks {
		a, err := l.call(ctx, h, request{Verb: verb, Reason: r.Why})
		if err != nil {
			return nil, err
		}
		if a.notYet && len(a.list) == 0 {
			a.list = []fleetlink.Workload{{Name: h.name, Why: mute}}
		}
		all = append(all, a.list...)
	}
	return all, err
}

// Standing implements fleetlink.Link. No hook is called for a machine that none
// was to cordon.
func (l *Link) Standing(ctx context.Context) (fleetlink.Standing, error) {
	r, err := l.load()
	if err != nil || len(r.Hooks) == 0 {
		return fleetlink.Standing{}, err
	}
	hooks, err := l.recorded(r)
	if err != nil {
		return fleetlink.Standing{}, err
	}
	s := fleetlink.Standing{Ours: true}
	for i, h := range hooks {
		a, err := l.call(ctx, h, request{Verb: standing, Reason: r.Why})
		if err != nil {
			return fleetlink.Standing{}, err
		}
		s.Open = s.Open || a.notYet
		s.Left = append(s.Left, r.Hooks[i].left(a.list)...)
	}
	return s, nil
}

// Cordon implements fleetlink.Link. That hooks are called is on the disk before
// the first of them is: one that was killed in its middle is resumed as well.
func (l *Link) Cordon(ctx context.Context, why string) error {
	r, err := l.load()
	if err != nil {
		return err
	}
	hooks, err := l.hooks()
	if err != nil {
		return err
	}
	r = r.cordoned(why, hooks)
	if hooks, err = l.recorded(r); err != nil {
		return err
	}
	if err = l.save(r); err != nil {
		return err
	}
	for _, h := range hooks {
		if err = l.until(ctx, h, request{Verb: cordon, Reason: why}, nil); err != nil {
			return err
		}
	}
	return nil
}

// errNotCordoned says that a drain was asked for too early.
var errNotCordoned = errors.New("drain: no hook was told to cordon this machine")

// Drain implements fleetlink.Link. The hooks drain one after the other: work of
// the next one is there until that of the one before has left.
func (l *Link) Drain(ctx context.Context, o fleetlink.Order) error {
	r, err := l.load()
	if err != nil {
		return err
	}
	if len(r.Hooks) == 0 {
		return errNotCordoned
	}
	hooks, err := l.recorded(r)
	if err != nil {
		return err
	}
	d := draining{order: o, left: make([][]fleetlink.Workload, len(hooks)), spoke: make([]bool, len(hooks))}
	for i, h := range hooks {
		a, err := l.call(ctx, h, request{Verb: standing, Reason: o.Why})
		if err != nil {
			return fleetlink.Unfinished{Left: d.all(), Err: err}
		}
		d.spoke[i] = len(a.list) > 0
		d.left[i] = r.Hooks[i].left(a.list)
	}
	d.tell()
	if len(fleetlink.Forbidding(d.all())) > 0 {
		return fleetlink.Unfinished{Left: d.all(), Err: fleetlink.ErrForbidden}
	}
	ctx, forbid := context.WithCancelCause(ctx)
	defer forbid(nil)
	for i, h := range hooks {
		req := request{Verb: drain, Reason: o.Why, Force: o.Force, Deadline: o.Deadline}
		heard := func(list []fleetlink.Workload) {
			if d.spoke[i] = d.spoke[i] || len(list) > 0; d.spoke[i] {
				d.left[i] = list
				d.tell()
			}
			if len(fleetlink.Forbidding(list)) > 0 {
				forbid(fleetlink.ErrForbidden)
			}
		}
		if err := l.until(ctx, h, req, heard); err != nil {
			if context.Cause(ctx) == fleetlink.ErrForbidden {
				err = fleetlink.ErrForbidden
			}
			return fleetlink.Unfinished{Left: d.all(), Err: err}
		}
		r.Hooks[i].Drained = true
		if err := l.save(r); err != nil {
			return fleetlink.Unfinished{Left: d.all(), Err: err}
		}
		d.left[i] = nil
		d.tell()
	}
	return nil
}

// Resume implements fleetlink.Link. It ends at the first hook that fails: those
// that cordoned before it are not to give work to what is not up.
func (l *Link) Resume(ctx context.Context) error {
	r, err := l.load()
	if err != nil || len(r.Hooks) == 0 {
		return err
	}
	hooks, err := l.recorded(r)
	if err != nil {
		return err
	}
	for _, h := range slices.Backward(hooks) {
		if err := l.until(ctx, h, request{Verb: resume, Reason: r.Why}, nil); err != nil {
			return err
		}
	}
	return l.Record.Save(nil)
}

// until calls a hook until it is done, fails, or ctx ends. heard, if it is not
// nil, is told each list of what is left.
func (l *Link) until(ctx context.Context, h hook, r request, heard func([]fleetlink.Workload)) error {
	for r.Attempt = 1; ; r.Attempt++ {
		r.heard = heard
		a, err := l.call(ctx, h, r)
		if err != nil || !a.notYet {
			return err
		}
		if heard != nil {
			heard(a.list)
		}
		pause := time.NewTimer(or(l.Pause, DefaultPause))
		select {
		case <-ctx.Done():
			pause.Stop()
			return fmt.Errorf("hook %s: %s: it asks for more time: %w", h.name, r.Verb, ctx.Err())
		case <-pause.C:
		}
	}
}

// draining is what a drain has left, hook by hook.
type draining struct {
	order fleetlink.Order
	left  [][]fleetlink.Workload
	spoke []bool // a hook named workloads: where it names none, there are none
	told  []fleetlink.Workload
	began bool
}

func (d *draining) all() []fleetlink.Workload { return slices.Concat(d.left...) }

// tell tells what is left, if it is not what was told last.
func (d *draining) tell() {
	if all := d.all(); !d.began || !slices.Equal(all, d.told) {
		d.began, d.told = true, all
		d.order.Tell(all)
	}
}

func or(d, otherwise time.Duration) time.Duration {
	if d <= 0 {
		return otherwise
	}
	return d
}

package host

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
)

// errNotCordoned says that a drain was asked for too early.
var errNotCordoned = errors.New("drain: this machine is not out of service")

// Drain implements fleetlink.Link. It stops one workload after the other, in
// order; what cannot be stopped now is passed over and tried again. Jobs that end
// by themselves are waited for, unless by force.
func (l *Link) Drain(ctx context.Context, o fleetlink.Order) error {
	r, err := l.load()
	if err != nil {
		return err
	}
	if !r.Ours {
		return errNotCordoned
	}
	d := draining{Link: l, order: o, record: r, troubles: map[string]string{}, tried: map[string]bool{}}
	for {
		done, err := d.round(ctx)
		if err != nil {
			return fleetlink.Unfinished{Left: d.left, Err: err}
		}
		if done {
			return nil
		}
	}
}

// draining is a drain under way.
type draining struct {
	*Link
	order    fleetlink.Order
	record   record
	left     []fleetlink.Workload
	told     bool
	troubles map[string]string // why a workload did not stop, by its name
	tried    map[string]bool   // those that were not stopped since the last pause
}

// round looks at what runs and stops the first workload that can be, or waits.
func (d *draining) round(ctx context.Context) (done bool, err error) {
	running, err := d.running(ctx)
	if err != nil {
		return false, err
	}
	next := slices.IndexFunc(running, d.ready)
	d.tell(running, next)
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case len(running) == 0:
		return true, nil
	case next >= 0:
		return false, d.stop(ctx, running[next])
	}
	clear(d.tried)
	pause := time.NewTimer(or(d.Pause, DefaultPause))
	defer pause.Stop()
	select {
	case <-ctx.Done():
		return false, ctx.Err()
	case <-pause.C:
		return false, nil
	}
}

// ready reports whether a workload can be stopped now.
func (d *draining) ready(k kept) bool {
	return !d.tried[k.Name] && (d.order.Force || k.Kept == "" && !k.Once)
}

// stop stops one workload. That it does not stop is no error of the drain: what
// is left is looked at anew, and it is told why.
func (d *draining) stop(ctx context.Context, k kept) error {
	// What others are stopping is not ours to start again; nor is a job.
	if k.State != Ending && !k.Once {
		if r, news := d.record.with(stopped{k.of, k.Name}); news {
			if err := d.save(r); err != nil {
				return err
			}
			d.record = r
		}
	}
	d.tried[k.Name] = true
	err := d.end(ctx, k)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if delete(d.troubles, k.Name); err != nil {
		d.troubles[k.Name] = err.Error()
	}
	return nil
}

// end has one workload end. By force it has its grace, and is killed after: one
// that nobody may stop says so at once, and one that only could not be started
// again ends as well as any.
func (d *draining) end(ctx context.Context, k kept) error {
	keeper, err := d.keeper(stopped{k.of, k.Name})
	if err != nil {
		return err
	}
	if !d.order.Force {
		return keeper.Stop(ctx, k.Name, false)
	}
	gentle, cancel := context.WithTimeout(ctx, d.grace())
	err = keeper.Stop(gentle, k.Name, false)
	cancel()
	if err == nil || ctx.Err() != nil {
		return err
	}
	return keeper.Stop(ctx, k.Name, true)
}

// grace is how long one workload may take to end in a drain by force: no more
// than half of what is left until the deadline, so that there is time to kill it.
func (d *draining) grace() time.Duration {
	grace := or(d.Grace, DefaultGrace)
	if !d.order.Deadline.IsZero() {
		grace = min(grace, max(d.order.Deadline.Sub(d.now())/2, 0))
	}
	return grace
}

// tell tells what is left, if that has changed, and which is stopped next.
func (d *draining) tell(running []kept, next int) {
	left := make([]fleetlink.Workload, 0, len(running))
	for i, k := range running {
		w := k.workload()
		switch trouble := d.troubles[k.Name]; {
		case i == next:
			w.Why = "it is being stopped"
		case trouble != "":
			w.Why = trouble
		}
		left = append(left, w)
	}
	if !d.told || !slices.Equal(left, d.left) {
		d.told, d.left = true, left
		d.order.Tell(left)
	}
}

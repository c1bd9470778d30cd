package rollout

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/partition/powercut"
	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/policy"
	"github.com/drydock-os/drydock/updater/sim"
)

// The edges of a machine: each does nothing once its power is off, so that code
// which ends with the machine changes nothing any more.

// wire is the store as one machine reaches it.
type wire struct{ m *machine }

var _ rebootlock.Store = wire{}

// Read implements rebootlock.Store.
func (w wire) Read(ctx context.Context, ranges ...rebootlock.Range) (rebootlock.Snapshot, error) {
	if !w.m.on() {
		return rebootlock.Snapshot{}, errOff
	}
	s, err := w.m.s.store.Read(ctx, ranges...)
	w.m.missed = w.m.missed || err != nil
	if spoil := w.m.s.config.sabotage.read; spoil != nil {
		for i := range s.KVs {
			spoil(&s.KVs[i])
		}
	}
	return s, err
}

// Commit implements rebootlock.Store.
func (w wire) Commit(ctx context.Context, t rebootlock.Txn) (rebootlock.Result, error) {
	if !w.m.on() {
		return rebootlock.Result{}, errOff
	}
	r, err := w.m.s.store.Commit(ctx, t)
	w.m.missed = w.m.missed || err != nil
	if r.Done {
		w.m.wrote = r.Revision
	}
	return r, err
}

// Watch implements rebootlock.Store. A Simulation tells its machines itself.
func (w wire) Watch(ctx context.Context, after int64, ranges ...rebootlock.Range) <-chan []rebootlock.Event {
	return w.m.s.store.Watch(ctx, after, ranges...)
}

// Session implements rebootlock.Store.
func (w wire) Session(ctx context.Context, ttl time.Duration) (rebootlock.Session, error) {
	if !w.m.on() {
		return nil, errOff
	}
	s, err := w.m.s.store.Session(ctx, ttl)
	if err == nil {
		w.m.session = s
	}
	w.m.missed = w.m.missed || err != nil
	return s, err
}

// network is the way to the update server.
type network struct{ m *machine }

// RoundTrip implements http.RoundTripper.
func (n network) RoundTrip(r *http.Request) (*http.Response, error) {
	if !n.m.on() {
		return nil, errOff
	}
	if r.Method == http.MethodGet {
		n.m.mark(writing)
		n.m.entered(writing)
	}
	return n.m.s.factory.ask(r), nil
}

// memory is what the machine remembers.
type memory struct{ m *machine }

// Load implements updater.Store.
func (s memory) Load() (updater.Memory, error) { return s.m.memory, nil }

// Save implements updater.Store.
func (s memory) Save(m updater.Memory) error {
	if !s.m.on() {
		return errOff
	}
	s.m.memory = m
	return nil
}

// slots is the machine's disk, as the updater has it.
type slots struct {
	*sim.Machine
	m *machine
}

// Booted implements updater.Disk.
func (s slots) Booted() (partition.Slot, error) {
	if !s.m.on() {
		return 0, errOff
	}
	return s.Machine.Booted()
}

// control is the boot flags; whoever selects the other slot is watched.
type control struct {
	partition.GPTPrio
	m *machine
}

// Table implements partition.Control. A disk that nothing was done to says what it
// said before.
func (c control) Table() (partition.Table, error) {
	m := c.m
	if !m.on() {
		return partition.Table{}, errOff
	}
	if r := &m.read; r.disk != m.disk || r.ops != m.disk.Ops() {
		t, err := c.GPTPrio.Table()
		if err != nil {
			return t, err
		}
		*r = reading{m.disk, m.disk.Ops(), t}
	}
	return m.read.flags, nil
}

// reading is what the boot flags of a disk were after so many operations on it.
type reading struct {
	disk  *powercut.Machine
	ops   int
	flags partition.Table
}

// SetTable implements partition.Control.
func (c control) SetTable(t partition.Table) error {
	if !c.m.on() {
		return errOff
	}
	booted, err := c.m.host.Booted()
	if next, ok := t.Next(); err == nil && ok && next != booted && t[booted].Successful {
		c.m.s.watch.allowed(c.m, rebootlock.PhaseStaging)
	}
	return c.GPTPrio.SetTable(t)
}

// scheduler is the cluster's, which takes its time.
type scheduler struct {
	fleetlink.Link
	m *machine
}

// Drain implements fleetlink.Link.
func (s scheduler) Drain(ctx context.Context, o fleetlink.Order) error {
	m := s.m
	if !m.on() {
		return errOff
	}
	m.s.watch.allowed(m, rebootlock.PhaseDraining)
	if now, err := s.Standing(ctx); now.Drained() || err != nil {
		return err
	}
	m.mark(draining)
	m.entered(draining)
	long := m.times.drain
	if m.fault.kind == slowDrain && !m.fault.happened {
		m.fault.happen(m.s)
		long = 2 * m.s.policy.Drain.Timeout
	}
	m.crew.Pause(ctx, long, nil)
	if ctx.Err() != nil {
		return fmt.Errorf("work is still there: %w", context.Cause(ctx))
	}
	return s.Link.Drain(ctx, o)
}

// Resume implements fleetlink.Link.
func (s scheduler) Resume(ctx context.Context) error {
	if !s.m.on() {
		return errOff
	}
	return s.Link.Resume(ctx)
}

// host is the running system.
type host struct {
	*sim.Machine
	m *machine
}

// Hook implements updater.Host.
func (h host) Hook(ctx context.Context, _ updater.HookRun, _ func(string)) error {
	h.m.mark(staging)
	h.m.crew.Pause(ctx, h.m.times.hook, nil)
	h.m.entered(staging)
	return ctx.Err()
}

// Reboot implements updater.Host.
func (h host) Reboot(_ context.Context, _ string, forced bool) error {
	m := h.m
	switch {
	case !m.on():
		return errOff
	case !forced: // a rejected release is left whatever has become of the permit
		m.s.watch.allowed(m, rebootlock.PhaseRebooting)
	}
	if m.fault.kind == refusedReboot && !m.fault.happened && !forced {
		m.fault.happen(m.s)
		return fmt.Errorf("%w: backup.service is running", updater.ErrRefused)
	}
	m.reboot()
	return nil
}

// Blockers implements updater.Host: nobody is logged in.
func (h host) Blockers(context.Context, policy.Policy) []updater.Reason { return nil }

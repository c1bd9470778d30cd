package rollout

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/partition/powercut"
	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/link"
	"github.com/drydock-os/drydock/updater/payload"
	"github.com/drydock-os/drydock/updater/policy"
	"github.com/drydock-os/drydock/updater/sim"
)

// group is the name of the only group.
const group = "default"

// End is how a machine's rollout ended.
type end uint8

const (
	running end = iota
	updated
	rolledBack
	overdue // it died with a permit
)

// A machine is one machine of the fleet, on or off.
type machine struct {
	s     *Simulation
	index int
	id    string
	zone  string
	rand  *rand.Rand
	crew  *crew
	fault fault
	times times

	disk    *powercut.Machine
	read    reading
	host    *sim.Machine
	boots   int
	memory  updater.Memory
	uid     string        // of the cluster that was joined
	skew    time.Duration // of its clock
	session rebootlock.Session

	system  context.Context // ends with this boot
	ctx     context.Context // ends with this run of the daemon; nil: it does not run
	kill    context.CancelFunc
	updater *updater.Updater
	wrote   int64 // last revision of the store that is its own
	missed  bool  // it asked for something while etcd was away
	dead    bool  // it is not coming back
	end     end
}

// times are how long a machine takes for what a permit is held for.
type times struct{ drain, hook, down time.Duration }

func newMachine(s *Simulation, index int) *machine {
	m := &machine{s: s, index: index, id: fmt.Sprintf("%032x", index+1), rand: rand.New(rand.NewPCG(s.config.Seed, uint64(index)+1))}
	m.crew = &crew{e: &s.engine, after: m.waited}
	if s.config.Zones > 0 {
		m.zone = fmt.Sprintf("zone-%d", index%s.config.Zones+1)
	}
	hold := s.config.Reboot
	m.times.drain = (hold/10 + time.Duration(m.rand.Int64N(int64(hold/5)))).Truncate(time.Millisecond)
	m.times.hook = hold / 20
	m.times.down = hold - m.times.drain - m.times.hook - s.policy.Health.Settle
	m.fault = s.drawFault(m.rand)
	return m
}

// install makes the machine's disk, as a factory does.
func (m *machine) install() {
	m.disk = m.s.factory.blank.Clone()
	m.host = &sim.Machine{ID: m.id, Ails: m.ails}
	m.s.cluster.Place(m.id, "work")
}

// on reports whether the daemon runs on a machine that has power.
func (m *machine) on() bool { return m.ctx != nil && m.ctx.Err() == nil && !m.disk.Stopped() }

// now is the time by the machine's clock.
func (m *machine) now() time.Time { return m.s.engine.now.Add(m.skew) }

// boot powers the machine on and starts its daemon.
func (m *machine) boot() {
	if m.disk == nil {
		m.install()
	}
	m.host.Disk = m.disk.Disk
	gpt := partition.GPTPrio{Disk: m.disk.Disk}
	m.host.Control, m.host.Firmware = control{gpt, m}, gpt
	if spoil := m.s.config.sabotage.boot; spoil != nil {
		spoil(m)
	}
	ctx, err := m.host.PowerOn(context.Background())
	if err != nil {
		m.s.watch.violate("machine %d does not boot any more: %v", m.index, err)
		m.dead = true
		return
	}
	m.boots++
	m.s.watch.booted(m)
	if m.s.watch.holds(m.id) {
		m.mark(validating)
	}
	m.start(ctx)
	if m.s.watch.holds(m.id) {
		m.entered(validating)
	}
}

// start starts the daemon, for as long as this boot lasts.
func (m *machine) start(boot context.Context) {
	ctx, kill := context.WithCancel(boot)
	m.system, m.ctx, m.kill = boot, ctx, kill
	m.updater = m.daemon()
	u := m.updater
	m.crew.start(func() {
		if err := u.Run(ctx); err != nil {
			m.s.watch.violate("machine %d: the updater ended: %v", m.index, err)
		}
	})
}

// restart kills the daemon, in the middle of whatever it does, and starts it
// again.
func (m *machine) restart() {
	if m.ctx == nil {
		return
	}
	m.kill()
	m.ctx = nil
	m.crew.poke(false)
	m.s.abandon(m)
	m.s.engine.after(time.Millisecond, func() {
		if m.ctx == nil && m.system != nil && m.system.Err() == nil && m.end == running {
			m.start(m.system)
		}
	})
}

// daemon is a fresh run of drydockd, wired as the real one is.
func (m *machine) daemon() *updater.Updater {
	client := &rebootlock.Client{Store: wire{m}, Keys: m.s.keys, Self: m.self, Now: m.now, Rand: m.rand.Int64N,
		Joined: func(uid string) error { m.uid = uid; return nil }}
	var lock updater.RebootLock = &link.Group{Client: client}
	if spoil := m.s.config.sabotage.lock; spoil != nil {
		lock = spoil(lock)
	}
	u := &updater.Updater{
		Disk: slots{m.host, m}, Control: m.host.Control, Lock: lock,
		Scheduler: scheduler{m.s.cluster.On(m.id), m}, Host: host{m.host, m},
		Store: memory{m}, Scratch: m.scratch(), Program: "drydock-simulated", Now: m.now,
		Keys: func(policy.Trust) (payload.Keys, error) { return m.s.factory.keys, nil },
		HTTP: func(policy.Policy) (*http.Client, error) { return &http.Client{Transport: network{m}}, nil },
		Rand: m.rand, Clock: m.crew, QueuePoll: m.s.queuePoll(),
	}
	if heard := m.s.config.heard; heard != nil {
		u.Observers = []updater.Observer{updater.ObserverFunc(func(e updater.Event) { heard(m.index, e) })}
	}
	u.SetPolicy(m.s.policy)
	return u
}

func (m *machine) self() rebootlock.Self {
	return rebootlock.Self{Machine: m.id, Instance: "instance-" + m.id[24:], Boot: fmt.Sprintf("boot-%d", m.boots), Group: group,
		Zone: m.zone, Program: "drydock-simulated", UID: m.uid}
}

// scratch is the directory of what the machine keeps in files.
func (m *machine) scratch() string {
	dir := filepath.Join(m.s.dir, m.id[24:])
	if err := os.MkdirAll(dir, 0o755); err != nil {
		m.s.fail(fmt.Errorf("make scratch directory: %w", err))
	}
	return dir
}

// wake has the machine look: the store told it of something.
func (m *machine) wake() {
	if !m.on() || m.index < m.s.config.sabotage.deaf {
		return
	}
	m.updater.Wake()
	m.crew.poke(true)
}

// waited follows whenever the machine's code waits or ends.
func (m *machine) waited() {
	if m.ctx != nil && m.disk.Stopped() { // the power failed inside an operation
		m.fails()
		return
	}
	m.s.learn()
	if m.on() {
		m.judge()
	}
}

// judge finds out whether the machine has come to its end: it is at rest, and
// its release is good, or back to the old one.
func (m *machine) judge() {
	st := m.updater.Status()
	if st.Step != updater.Wait || st.Permit != "none" || st.Drained || st.OnTrial || st.Staged {
		return
	}
	switch {
	case st.Release == newRelease:
		m.finish(updated)
	case len(st.Rejected) > 0:
		m.finish(rolledBack)
	}
}

// finish ends a machine's part; it stays there, and keeps its session.
func (m *machine) finish(e end) {
	m.s.watch.finished(m, e)
	m.end = e
	m.s.running--
	m.mark(map[end]step{updated: good, rolledBack: back, overdue: lost}[e])
	m.stop()
	os.RemoveAll(filepath.Join(m.s.dir, m.id[24:]))
	m.updater, m.memory, m.disk, m.read, m.host = nil, updater.Memory{}, nil, reading{}, nil
}

// stop ends what runs. What it still does on its way out reaches nothing.
func (m *machine) stop() {
	if m.system != nil {
		m.host.PowerOff()
		m.crew.poke(false)
		m.system, m.ctx = nil, nil
	}
}

// fails is what follows when the power is gone: what was not synced is gone, in
// part, and nobody keeps the leases alive.
func (m *machine) fails() {
	m.fault.happen(m.s)
	m.stop()
	m.disk = m.disk.Restart(powercut.Survival(2 + m.rand.Uint64N(1<<32)))
	m.s.abandon(m)
	m.mark(off)
	if m.fault.kind == dies {
		m.dead = true
		return
	}
	m.s.engine.after(m.fault.lasts, m.boot)
}

// reboot is an orderly one: the daemon says goodbye, everything is synced.
func (m *machine) reboot() {
	m.mark(rebooting)
	if m.session != nil {
		_ = m.session.Close(context.Background()) // what does not go now goes with the lease
	}
	m.s.abandon(m)
	m.stop()
	m.disk = m.disk.Restart(powercut.Everything)
	m.entered(rebooting)
	if !m.dead {
		m.s.engine.after(m.times.down+m.fault.delay(), m.boot)
	}
}

func (m *machine) ails(release string) []updater.Reason {
	if release == newRelease && m.fault.kind == badRelease {
		m.fault.happen(m.s)
		return []updater.Reason{{Kind: "unit", Text: "unit work.service is failed"}}
	}
	return nil
}

func (m *machine) mark(s step) { m.s.timeline.mark(m.index, s, m.s.engine.now) }

var errOff = errors.New("the machine is off")

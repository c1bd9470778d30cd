package rollout

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/updater/policy"
)

// A Simulation is a fleet, and what is around it.
type Simulation struct {
	config   Config
	engine   engine
	rand     *rand.Rand
	dir      string
	policy   policy.Policy
	factory  *factory
	store    *rebootlock.Memory
	keys     rebootlock.Keys
	root     rebootlock.Range
	cluster  *fleetlink.Memory
	machines []*machine
	byID     map[string]*machine
	office   *office
	operator *operator
	watch    *observer
	timeline *Timeline
	faults   map[string]int
	revision int64 // up to which the store's changes were told
	running  int   // machines that have not come to their end
	absent   int   // outages of etcd that overlap
	broken   error // what a simulation needs and has not
}

// start is when a simulated rollout begins. No time zone is in play.
var start = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

// errAway is what the store says while it is away.
var errAway = errors.New("etcd does not answer")

func newSimulation(ctx context.Context, c Config) (*Simulation, error) {
	s := &Simulation{config: c, rand: rand.New(rand.NewPCG(c.Seed, 0)), keys: rebootlock.Keys{Cluster: "simulated"},
		cluster: &fleetlink.Memory{}, byID: map[string]*machine{}, faults: map[string]int{}, running: c.Machines, timeline: newTimeline(c)}
	s.engine.now = start
	s.store = &rebootlock.Memory{Now: func() time.Time { return s.engine.now }}
	s.root = rebootlock.Range{Key: strings.TrimSuffix(s.keys.ClusterRecord(), "lock/cluster"), Prefix: true}
	s.policy = hostPolicy(c)
	err := error(nil)
	if s.dir, err = scratch(c.Scratch); err != nil {
		return nil, err
	}
	if s.factory, err = newFactory(ctx, s.dir); err != nil {
		os.RemoveAll(s.dir)
		return nil, err
	}
	s.watch = newObserver(s)
	s.office = &office{s: s}
	s.operator = newOperator(s)
	for i := range c.Machines {
		m := newMachine(s, i)
		s.machines = append(s.machines, m)
		s.byID[m.id] = m
	}
	return s, nil
}

// scratch makes a directory below dir or, with "", in memory where there is some:
// what machines sync there is thrown away, and need not wait for a disk.
func scratch(dir string) (string, error) {
	const pattern, inMemory = "drydock-simulate-", "/dev/shm"
	if dir == "" {
		if made, err := os.MkdirTemp(inMemory, pattern); err == nil {
			return made, nil
		}
	}
	made, err := os.MkdirTemp(dir, pattern)
	if err != nil {
		return "", fmt.Errorf("make scratch directory: %w", err)
	}
	return made, nil
}

// hostPolicy is the policy file of every machine. Its times are parts of a
// permit's hold time, so that a fleet of any speed shows the same.
func hostPolicy(c Config) policy.Policy {
	p := policy.Default()
	p.Server.URL = serverURL + "/v1/update/"
	p.Update.FirstCheck, p.Update.CheckJitter = c.Reboot/200, c.Reboot/100
	p.Update.CheckInterval = 1000 * time.Hour // one release is all that there is
	p.Slots.Kernel = false
	p.Reboot.RetryPause = c.Reboot / 4
	p.Trial.RetryBackoff = c.Reboot / 4
	p.Trial.Deadline = c.deadline()
	p.Health.Settle = min(45*time.Second, c.Reboot/10).Truncate(time.Second)
	p.Health.Timeout = max(2*p.Health.Settle, time.Second)
	p.Drain.Timeout = c.Reboot / 2
	return p
}

// horizon is how much longer than the bound a rollout may take before those that
// are left wait for ever.
func (s *Simulation) horizon() time.Time {
	least := bound(s.config.Machines, s.config.Machines, s.permits(), s.config.Reboot, s.config.deadline())
	return start.Add(4*least + time.Hour)
}

// queuePoll is how often a queued machine looks unasked: a net below the watch,
// which in a simulation has no holes.
func (s *Simulation) queuePoll() time.Duration {
	return max(time.Hour, bound(s.config.Machines, 0, s.permits(), s.config.Reboot, 0)/2)
}

func (s *Simulation) permits() int { return s.config.Max.Of(s.config.Machines) }

// run lets time pass until every machine has come to its end.
func (s *Simulation) run(ctx context.Context) error {
	if err := s.operator.prepare(ctx); err != nil {
		return err
	}
	for _, m := range s.machines {
		s.engine.at(start, m.boot)
	}
	s.office.stand()
	end, steps := s.horizon(), 0
	for s.running > 0 || s.watch.held() > 0 {
		if steps++; steps%1024 == 0 {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if s.config.Progress != nil {
				s.config.Progress(s.config.Machines-s.running, s.engine.now.Sub(start))
			}
		}
		if s.broken != nil {
			return s.broken
		}
		if !s.engine.step() || s.engine.now.After(end) {
			s.watch.waitsForEver()
			return nil
		}
	}
	return nil
}

// fail ends a simulation that cannot go on.
func (s *Simulation) fail(err error) { s.broken = errors.Join(s.broken, err) }

// end stops what still runs, and removes what was kept in files.
func (s *Simulation) end() {
	for _, m := range s.machines {
		m.stop()
	}
	for range 100 * len(s.machines) {
		busy := false
		for _, m := range s.machines {
			busy = busy || len(m.crew.threads) > 0
		}
		if !busy || !s.engine.step() {
			break
		}
	}
	os.RemoveAll(s.dir)
}

// learn tells everybody what has changed in the store.
func (s *Simulation) learn() {
	if s.absent > 0 {
		return // nothing can have
	}
	events, err := s.store.Since(s.revision, s.root)
	if err != nil {
		s.fail(fmt.Errorf("read what changed: %w", err))
		return
	}
	if len(events) == 0 {
		return
	}
	s.revision = events[len(events)-1].Modified
	s.watch.see(events)
	judge := false
	for _, e := range events {
		judge = s.tell(e) || judge
	}
	if judge {
		s.office.passSoon()
	}
}

// tell passes one change on to whom it concerns, and reports whether the
// coordinator is one of them.
func (s *Simulation) tell(e rebootlock.Event) bool {
	rest, ok := strings.CutPrefix(e.Key, s.root.Key+"lock/")
	if !ok {
		return false
	}
	kind, name, _ := strings.Cut(rest, "/")
	if kind == "tickets" || kind == "permits" {
		_, name, _ = strings.Cut(name, "/")
	}
	name, _, _ = strings.Cut(name, "/")
	if m := s.byID[name]; m != nil {
		m.told(kind, e)
		return true
	}
	if kind == "groups" || kind == "failures" || kind == "cluster" {
		s.operator.told(kind, e)
		for _, m := range s.machines {
			if m.end == running && m.ctx != nil && !s.watch.queues(m.id) {
				m.wake()
			}
		}
	}
	return kind != "ledgers"
}

// told is a change of one of the machine's own records.
func (m *machine) told(kind string, e rebootlock.Event) {
	switch {
	case kind == "tickets" && !e.Deleted && e.Created == e.Modified:
		m.mark(queued)
		m.entered(queued)
	case kind == "permits" && !e.Deleted && e.Created == e.Modified:
		m.s.operator.expect(m, e.Created)
	case kind == "permits" && e.Deleted && m.dead && m.end == running:
		m.end = overdue
		m.s.running--
		m.mark(lost)
	}
	if e.Modified > m.wrote {
		m.wake()
	}
}

// sessionTTL is how long a machine that died stays present, and queued; as
// rebootlock.Client has it.
const sessionTTL = time.Minute

// abandon is what a machine's death does to its leases.
func (s *Simulation) abandon(m *machine) {
	if m.session != nil {
		s.store.Abandon(m.session)
		m.session = nil
		s.lapse(sessionTTL)
	}
	s.office.left(m)
}

// lapse looks at the store when a lease has ended that was abandoned now.
func (s *Simulation) lapse(ttl time.Duration) {
	s.engine.after(ttl+time.Millisecond, s.learn)
}

// away makes the store unreachable for a while.
func (s *Simulation) away(long time.Duration) {
	s.learn()
	s.absent++
	s.store.Outage(errAway)
	s.engine.after(long, func() {
		if s.absent--; s.absent > 0 {
			return
		}
		s.store.Outage(nil)
		s.lapse(sessionTTL)
		s.learn()
		s.office.stand()
		s.office.passSoon()            // with a new watch everything is looked at again
		for _, m := range s.machines { // a client tries again by itself, within about ten seconds
			if m.missed && m.end == running {
				m.missed = false
				s.engine.after(time.Duration(m.rand.Int64N(int64(10*time.Second))), m.wake)
			}
		}
	})
}

func (s *Simulation) result() Result {
	r := Result{Machines: s.config.Machines, Permits: s.permits(), Seed: s.config.Seed, Violations: s.watch.told(), Faults: s.faults,
		Makespan: s.watch.makespan().Seconds(), Deadline: s.config.deadline().Seconds(), Reigns: s.office.reigns, Revisions: s.revision}
	for _, m := range s.machines {
		switch m.end {
		case updated:
			r.Updated++
		case rolledBack:
			r.RolledBack++
		case overdue:
			r.Overdue++
		}
	}
	r.Bound = bound(r.Machines, r.Overdue, r.Permits, s.config.Reboot, s.config.deadline()).Seconds()
	return r
}

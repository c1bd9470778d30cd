package rollout

import (
	"math/rand/v2"
	"time"
)

// A kind is what can go wrong with a machine, or happen while it is at work.
type kind string

const (
	noFault       kind = ""
	dies          kind = "dies"           // for good, in the middle of a step
	powerCut      kind = "power-cut"      // and comes back
	badRelease    kind = "bad-release"    // on this machine the new release is not healthy
	slowDrain     kind = "slow-drain"     // takes longer than it may
	refusedReboot kind = "refused-reboot" // an inhibitor, at the last moment
	clockStep     kind = "clock-step"     // by a day, for a while
	crash         kind = "crash"          // of the daemon, which starts again at once
	etcdAway      kind = "etcd-away"      // for everybody, for a while
	stall         kind = "stall"          // of the coordinator, which then goes on as if nothing had been
	freeze        kind = "freeze"         // of the group, or of the cluster, for a while
)

// kinds are drawn alike often, but for those that concern everybody.
var kinds = []kind{
	dies, dies, dies, powerCut, powerCut, powerCut, powerCut, badRelease, badRelease, badRelease, slowDrain, slowDrain, slowDrain,
	refusedReboot, refusedReboot, clockStep, clockStep, crash, crash, etcdAway, stall, freeze,
}

// A fault is what happens to one machine, and in which step. It happens once,
// but for a release that is bad every time.
type fault struct {
	kind     kind
	in       step
	armed    bool // it is on its way
	happened bool
	part     float64 // how far into the step, 0 to 1
	lasts    time.Duration
}

// drawFault draws a machine's fault, if it has one.
func (s *Simulation) drawFault(r *rand.Rand) fault {
	kinds := s.config.drawn()
	chance, which, where, part, long := r.Float64(), r.IntN(len(kinds)), r.IntN(1<<20), r.Float64(), r.Float64()
	if chance >= s.config.Faults {
		return fault{}
	}
	f := fault{kind: kinds[which], part: part}
	hold := float64(s.config.Reboot)
	f.lasts = time.Duration(hold/4 + long*hold/2).Truncate(time.Millisecond)
	switch f.kind {
	case dies: // a machine that dies before it has a permit comes back: it is a power cut
		f.in = []step{draining, staging, rebooting, validating}[where%4]
	case powerCut:
		f.in = []step{writing, queued, draining, staging, rebooting, validating}[where%6]
	case clockStep, crash:
		f.in = []step{writing, queued, draining, validating}[where%4]
	default:
		f.in = draining
	}
	switch f.kind {
	case etcdAway, stall:
		f.lasts = time.Duration(10+30*long) * time.Second
	case freeze: // as short as shows it: while it lasts nobody is granted anything
		f.lasts = time.Duration(5+10*long) * time.Second
	}
	return f
}

// drawn are the kinds that are drawn from.
func (c Config) drawn() []kind {
	if c.kinds != nil {
		return c.kinds
	}
	return kinds
}

// happen counts a fault, the first time.
func (f *fault) happen(s *Simulation) {
	if !f.happened {
		f.happened = true
		s.faults[string(f.kind)]++
	}
}

// delay is how much later than it should a machine comes up from a reboot.
func (f *fault) delay() time.Duration {
	if f.kind == powerCut && f.in == rebooting && f.armed {
		f.armed = false
		return f.lasts
	}
	return 0
}

// entered tells that the machine begins a step: its fault may be due.
func (m *machine) entered(in step) {
	f, s := &m.fault, m.s
	if f.kind == noFault || f.happened || f.armed || f.in != in {
		return
	}
	switch f.kind {
	case dies, powerCut:
		f.armed = true
		m.strike(in)
	case crash:
		f.armed = true
		m.later(in, func() {
			f.happen(s)
			m.restart()
		})
	case clockStep:
		f.armed = true
		m.later(in, func() { m.step(f.lasts) })
	case etcdAway:
		f.happen(s)
		s.away(f.lasts)
	case stall:
		f.happen(s)
		s.office.stall(f.lasts)
	case freeze:
		f.armed = true
		s.engine.after(time.Duration(f.part*float64(m.times.drain+m.times.hook)), func() { m.freeze() })
	}
}

// freeze has the operator freeze the group, or the cluster, somewhere in this
// machine's drain or in its hook; others drain, stage, reboot and wait meanwhile.
func (m *machine) freeze() {
	scope := group
	if m.index%2 == 0 {
		scope = ""
	}
	m.s.operator.freeze(scope, &m.fault)
}

// strike cuts the power somewhere in a step: after so many operations on the
// disk where the step writes, else after a part of its time.
func (m *machine) strike(in step) {
	f := &m.fault
	switch in {
	case writing, staging:
		m.disk.CutAfter(int(f.part * 6)) // and waited sees it
	case rebooting:
		f.happen(m.s)
		m.dead = f.kind == dies
	default:
		m.later(in, m.fails)
	}
}

// later has something happen to the daemon after a part of the time that a step
// takes.
func (m *machine) later(in step, do func()) {
	long := map[step]time.Duration{queued: m.s.config.Reboot, draining: m.times.drain, validating: m.s.policy.Health.Settle}[in]
	m.s.engine.after(time.Duration(m.fault.part*float64(long)), func() {
		if m.ctx != nil {
			do()
		}
	})
}

// step steps the clock by a day, for a while. Spans within one run of a daemon
// are measured by the monotonic clock, which no step touches and a simulation
// has not: so the daemon is killed, both times, and only what it kept is wrong.
func (m *machine) step(long time.Duration) {
	const day = 24 * time.Hour
	m.fault.happen(m.s)
	m.skew = day
	if m.index%2 == 0 {
		m.skew = -day
	}
	m.restart()
	m.s.engine.after(long, func() {
		m.skew = 0
		m.restart()
	})
}

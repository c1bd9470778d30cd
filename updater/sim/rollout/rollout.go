// Package rollout simulates how a release goes through a fleet: machines with
// their disks, firmware, lock, scheduler and server in one deterministic process.
//
// What is under test is the real code: each machine runs an updater.Updater on a
// disk whose power can be cut, with a rebootlock.Client of its own; the reigns of
// a rebootlock.Coordinator grant; a rebootlock.Operator takes away what is overdue.
// An observer holds the invariants against the store and the disks as they are.
// The rest is a model, on virtual time:
//
//   - Code and networks take no time. Time passes where a machine waits: a drain,
//     a hook, a reboot, a health check that must last, a pause. A healthy machine
//     spends a tenth to a third of its permit's time on the drain, a twentieth on
//     the hook and a tenth on settling, and the rest on the reboot: together
//     exactly Config.Reboot.
//   - Watches tell at once. What changes for a whole group is told to all machines
//     but those in the queue, who would do nothing about it. Polls that only guard
//     against holes in a watch come seldom.
//   - The office of coordinator passes to a machine picked at random as soon as the
//     last one's lease has ended. Its reign is told every change, and does not read
//     everything anew now and then.
//   - A clock that is stepped comes with a restart of the daemon: within one run a
//     real one measures by the monotonic clock, which a simulated one has not.
//   - A machine that dies for good does so while it holds a permit: one that goes
//     dark earlier comes back, or would be nothing but missing.
//
// Result.Bound counts what permits are held for at least: every reboot's hold time,
// and the deadlines of those that died. It does not count what other faults cost, so
// that these show as the makespan's distance from it (times measured with 2,000
// machines, 50 permits and reboots of 3 minutes, one kind of fault at a time):
//
//   - What stops everybody lengthens a rollout by as long as it lasts, and more. An
//     outage of etcd lasts 10 to 40 s, and it takes up to ten more until the clients try
//     again: 26 s apiece. A freeze lasts 5 to 15 s, and whoever was draining gives up:
//     the work comes back, must be healthy, and the permit is given back unused; also
//     26 s apiece. That is what the real code does, and no reaction of ours is in it.
//     A coordinator that stalls costs its lease of 25 s where a permit ends meanwhile.
//   - A failure stops its release until the operator lifts that, a second later.
//   - A machine that loses time with its permit (a power cut, a drain that takes too
//     long, a release that it rolls back) costs that time on one permit of many; but
//     where all permits were busy to the end, somebody is the last: up to one hold time
//     more, however many faults there were. With 200 reboots a permit that is 0.5 %.
//
// 10,000 machines, 50 permits and Faults 0.01 (seed 1: six freezes, an outage, five
// stalls, 23 failures, 13 of them deaths) are 458 s above 36,094 s: 1.3 %.
//
// One goroutine does everything, one event after the other in the order of time:
// the same Config gives the same Result, and the same Timeline.
package rollout

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/updater"
)

// Config says what is simulated.
type Config struct {
	Machines int            // 1 to MaxMachines
	Max      rebootlock.Max // permits of the group
	Reboot   time.Duration  // a permit's whole hold time, at least a second
	Faults   float64        // chance of a fault, per machine, 0 to 1
	Seed     uint64
	Zones    int           // failure domains that the machines are spread over; 0: none is named
	ZoneMax  int           // permits in one zone; 0: no limit
	OneZone  bool          // one zone at a time
	Deadline time.Duration // of a holder; 0: three times Reboot
	Scratch  string        // directory in which one is made for the machines' files, and removed; "": in memory, if there is any
	// Progress is told now and then how many machines have come to their end; it may be nil.
	Progress func(done int, at time.Duration)

	kinds    []kind // of faults that are drawn; nil: all
	sabotage sabotage
	heard    func(machine int, e updater.Event) // is told every event, if it is not nil
}

// sabotage breaks a part on purpose, so that tests see the observer notice.
type sabotage struct {
	rules func(*rebootlock.Rules)                     // that the coordinator goes by, and the observer does not
	lock  func(updater.RebootLock) updater.RebootLock // of every machine
	boot  func(*machine)                              // is done to a machine before it boots
	read  func(*rebootlock.KV)                        // is done to what machines and coordinators read of the store
	deaf  int                                         // so many machines are never told anything
}

// MaxMachines bounds a simulation: each machine takes about 100 KiB.
const MaxMachines = 100_000

// Check says why c cannot be simulated.
func (c Config) Check() error {
	var problems []error
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if c.Machines < 1 || c.Machines > MaxMachines {
		bad("machines is %d: it is 1 to %d", c.Machines, MaxMachines)
	}
	if c.Reboot < time.Second || c.Reboot > 24*time.Hour {
		bad("reboot is %s: it is 1s to 24h", c.Reboot)
	}
	if !(c.Faults >= 0 && c.Faults <= 1) {
		bad("faults is %v: it is a chance, 0 to 1", c.Faults)
	}
	if c.Zones < 0 || c.Deadline < 0 {
		bad("zones and deadline are not negative")
	}
	if c.Zones == 0 && (c.ZoneMax > 0 || c.OneZone) {
		bad("a rule for zones needs zones")
	}
	if c.Deadline > 0 && c.Deadline < c.Reboot {
		bad("deadline is %s, and no reboot would be done by then", c.Deadline)
	}
	if err := c.rules().Check(); err != nil {
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}

func (c Config) deadline() time.Duration {
	if c.Deadline > 0 {
		return c.Deadline
	}
	return 3 * c.Reboot
}

func (c Config) rules() rebootlock.Rules {
	return rebootlock.Rules{Version: 1, Max: c.Max, ZoneMax: c.ZoneMax, OneZone: c.OneZone, Deadline: rebootlock.Duration(c.deadline())}
}

// A Result is how a rollout went. Updated, RolledBack and Overdue are machines by
// how they ended; together they are all, unless somebody waits for ever.
type Result struct {
	Machines   int            `json:"machines"`
	Permits    int            `json:"permits"`
	Seed       uint64         `json:"seed"`
	Updated    int            `json:"updated"`
	RolledBack int            `json:"rolled_back"`
	Overdue    int            `json:"overdue"`          // died with a permit, which an operator took away
	Violations []string       `json:"violations"`       // of the invariants; at most maxViolations are told
	Makespan   float64        `json:"makespan_seconds"` // first grant to last release
	Bound      float64        `json:"bound_seconds"`    // no order of the same reboots is faster
	Deadline   float64        `json:"deadline_seconds"` // of a holder
	Faults     map[string]int `json:"faults"`           // that happened, by kind
	Reigns     int            `json:"reigns"`           // coordinators elected
	Revisions  int64          `json:"revisions"`        // of the store
}

// Run simulates a rollout until every machine has come to its end, or could
// have. An error says that c is none, or that ctx ended.
func Run(ctx context.Context, c Config) (Result, *Timeline, error) {
	if err := c.Check(); err != nil {
		return Result{}, nil, fmt.Errorf("simulate: %w", err)
	}
	s, err := newSimulation(ctx, c)
	if err != nil {
		return Result{}, nil, fmt.Errorf("simulate: %w", err)
	}
	defer s.end()
	if err := s.run(ctx); err != nil {
		return Result{}, nil, fmt.Errorf("simulate: %w", err)
	}
	return s.result(), s.timeline, nil
}

// bound is the least time in which so many machines can reboot with so many
// permits, of which some die and hold theirs for the deadline.
func bound(machines, dead, permits int, reboot, deadline time.Duration) time.Duration {
	waves := time.Duration((machines + permits - 1) / permits)
	least := waves * reboot
	if dead == 0 {
		return least
	}
	held := time.Duration(machines-dead)*reboot + time.Duration(dead)*deadline
	return max(least, held/time.Duration(permits), deadline)
}

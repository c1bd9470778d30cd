package updater

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"reflect"
	"slices"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/omaha"
	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/updater/payload"
	"github.com/drydock-os/drydock/updater/policy"
)

// Store keeps the machine's Memory. A missing or damaged one is the zero
// Memory with the error that says so.
type Store interface {
	Load() (Memory, error)
	Save(Memory) error // durable when it returns
}

// An Updater keeps one machine's operating system current. Its exported
// fields are set once, before Run.
type Updater struct {
	Disk      Disk
	Control   partition.Control
	Lock      RebootLock
	Scheduler fleetlink.Link
	Gates     Gates // nil: none
	Host      Host
	Store     Store
	Scratch   string // directory for checkpoints, the PCR policy and the server's last answer
	Program   string // what the server is told of this program, as "drydock-1.0"
	Observers []Observer
	Now       func() time.Time
	// Keys reads the trusted keys each time a release is verified.
	Keys func(policy.Trust) (payload.Keys, error)
	// HTTP builds the client for update server and downloads.
	HTTP func(policy.Policy) (*http.Client, error)
	// DownloadPause is how long a download that was cut waits before it goes on,
	// and CheckpointBytes how much of one is lost to a restart; 0: as fetch and
	// payload have it.
	DownloadPause   time.Duration
	CheckpointBytes int64
	// Rand spreads checks; nil: the program's own randomness.
	Rand *rand.Rand
	// Clock is how time passes; nil: as it does for the machine.
	Clock Clock
	// QueuePoll is how often a machine in the queue looks though nothing woke it; 0:
	// each half minute.
	QueuePoll time.Duration

	front         // its mu guards these, too:
	outdated bool // the policy that the last offer was asked under is no longer in force
	memory   Memory
	requests []*request
	asked    *request           // the check or update that somebody waits for
	busy     context.CancelFunc // ends the step that is being done, if it can be ended
	doing    Step               // what busy ends

	run running
}

// running is what one run of the daemon knows and a restart forgets: a look
// finds it again, or it costs a check.
type running struct {
	health      Health
	sick        string      // why, for Sick
	interrupted *checkpoint // the download that an earlier run did not end
	offer       *omaha.Offer
	failed      map[Step]Failure
	sickSince   time.Time
	last        Step      // the step that was done last and went well; Wait for none
	began       time.Time // when it began
	replies     []func()  // answers that wait for the next look
	late        bool      // a drain was not done in time, and the policy says force
	forced      bool      // that was done, and the machine reboots whatever is left
	begun       bool      // this run began a drain, and nothing resumed since
	mute        time.Time // since when the scheduler does not answer; zero: it does
	asked       time.Time // when the lock was last asked and granted nothing
	answer      Permit    // what it said then
	halt        string    // why a permit would be given back unused
	nextCheck   time.Time
}

// SetPolicy puts another policy in force, from the next look on.
func (u *Updater) SetPolicy(p policy.Policy) {
	u.mu.Lock()
	u.outdated = u.outdated || !reflect.DeepEqual(u.policy.Server, p.Server) || !reflect.DeepEqual(u.policy.Update, p.Update)
	u.policy = p
	u.mu.Unlock()
	u.Wake()
}

// History returns what happened to this machine's releases, newest first.
func (u *Updater) History() []HistoryEntry {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]HistoryEntry(nil), u.memory.History...)
}

// Run looks, decides and acts until ctx ends.
func (u *Updater) Run(ctx context.Context) error {
	u.start(ctx)
	for ctx.Err() == nil {
		u.serve(ctx)
		o := u.look(ctx)
		v := derive(o, u.recall(), u.Policy())
		step := Decide(v.Facts)
		u.run.halt = v.Halt
		u.note(o, v, step)
		u.deliver()
		u.satisfy(o, v, step)
		u.deliver()
		switch {
		case step == Wait || u.resting(o, step) || step == Lock && u.inLine(o):
			u.run.last = Wait
			u.rest(ctx, o, v)
		case step == u.run.last && o.Now.Sub(u.run.began) < again:
			u.run.last = Wait // it changed nothing that can be seen yet: no hurry
			u.pause(ctx, again)
		default:
			u.do(ctx, step, o)
		}
	}
	return nil
}

// start loads the memory and plans the first check.
func (u *Updater) start(ctx context.Context) {
	m, err := u.Store.Load()
	if err != nil {
		u.event(EventError, "", err, "%v (what is not remembered costs time: a written release is written again, a rejected one may be tried again)", err)
	}
	u.mu.Lock()
	u.memory = m
	u.mu.Unlock()
	p := u.Policy()
	u.run.nextCheck = policy.NextCheck(u.Now(), p.Update.FirstCheck, p.Update.CheckJitter, u.random)
	if u.run.interrupted = u.interruption(); u.run.interrupted != nil {
		u.run.nextCheck = policy.NextCheck(u.Now(), min(goOn, p.Update.FirstCheck), min(goOn, p.Update.FirstCheck), u.random)
	}
	if id, err := u.Host.Identity(); err == nil && m.Aleph == "" {
		m.Aleph = id.Release
	}
	u.Trouble("memory", u.remember(m)) // a full disk must not keep a bad release from being left
	o := u.look(ctx)
	u.survey(o, derive(o, u.recall(), p), Wait)
	u.event(EventStarted, "", nil, "drydock started")
}

// goOn is about when a daemon that finds a download interrupted asks again.
const goOn = 30 * time.Second

// beat notes a sign of life.
func (u *Updater) beat() { u.lived(u.Now()) }

// do carries a step out, and remembers what went wrong.
func (u *Updater) do(ctx context.Context, step Step, o Observed) {
	stepCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	u.mu.Lock()
	u.busy = nil
	if slices.ContainsFunc(u.requests, func(r *request) bool { return interrupts(r.Action, step) }) {
		u.mu.Unlock()
		return // somebody wants something else first
	}
	if step == Write || step == Drain || step == Check || step == Lock || step == Validate {
		u.busy, u.doing = cancel, step
	}
	u.mu.Unlock()
	u.run.last, u.run.began = Wait, o.Now
	err := u.act(stepCtx, step, o)
	u.mu.Lock()
	u.busy = nil
	u.mu.Unlock()
	switch {
	case err == nil:
		delete(u.run.failed, step)
		u.run.last = step
	case ctx.Err() != nil:
	case stepCtx.Err() != nil && step == Validate: // an operator has judged already
	case stepCtx.Err() != nil: // stopped on somebody's word
		u.operation(Idle)
		u.run.offer = nil // not taken up again before the next check
		u.settleUpdate(fmt.Errorf("%w: stopped by an operator", ErrRefused))
		u.event(EventOperator, "", nil, "%s was stopped", step)
	default:
		u.fail(step, err)
	}
}

// act is one step.
func (u *Updater) act(ctx context.Context, step Step, o Observed) error {
	switch step {
	case Check:
		return u.check(ctx, o)
	case Write:
		return u.write(ctx, o)
	case Lock:
		return u.lock(ctx, o)
	case Drain:
		return u.drain(ctx, o)
	case Stage:
		return u.stage(ctx, o)
	case Unstage:
		return u.unstage(o)
	case Reboot:
		return u.reboot(ctx, o)
	case Validate:
		return u.validate(ctx, o)
	case MarkGood:
		return u.markGood(o)
	case Reject:
		return u.reject(o)
	case Resume:
		return u.resume(ctx, o)
	case Release:
		return u.release(ctx, o)
	}
	return nil
}

// fail remembers an error, says it, and when the step may be tried again.
func (u *Updater) fail(step Step, err error) {
	pause := u.Policy().Reboot.RetryPause
	switch step {
	case Check, Write:
		pause = max(u.run.nextCheck.Sub(u.Now()), time.Minute)
	case Lock:
		pause = min(pause, time.Minute)
	case Resume, Release, MarkGood, Reject, Unstage, Validate:
		pause = 10 * time.Second // these bring the machine to rest: keep trying
	}
	if u.run.failed == nil {
		u.run.failed = map[Step]Failure{}
	}
	u.run.failed[step] = Failure{Step: step, Err: err, Until: u.Now().Add(pause)}
	if step == Stage {
		u.settleUpdate(err)
	}
	u.event(EventError, "", err, "%s: %v", step, err)
}

// resting reports whether the step went wrong so lately that it waits.
func (u *Updater) resting(o Observed, step Step) bool {
	f, ok := u.run.failed[step]
	return ok && o.Now.Before(f.Until) && !(step == Write && o.Asked)
}

// inLine reports whether the lock was asked lately, granted nothing, and its answer
// still stands: it wakes the updater when that changes, and is asked again now
// and then. A permit may have come and gone while the lock could not be read.
func (u *Updater) inLine(o Observed) bool {
	return !u.run.asked.IsZero() && o.Permit == u.run.answer && o.Now.Sub(u.run.asked) < u.queuePoll()
}

// poll is how often a waiting machine looks at what cannot wake it, at what it
// waits for in a queue, at its permit while it drains, and at the work that is not
// back: the lock wakes it when something has changed there, as far as it can. No
// scheduler does, and the next machine waits for the permit.
const (
	poll      = time.Minute
	pollQueue = 30 * time.Second
	pollDrain = 10 * time.Second
	pollBack  = 5 * time.Second
)

// rest waits until something may have changed.
func (u *Updater) rest(ctx context.Context, o Observed, v view) {
	wait := poll
	switch {
	case o.Permit == Queued, u.inLine(o):
		wait = u.queuePoll()
	case o.Silent && v.Facts.Permit == Held:
		wait = again
	case v.Facts.Permit == Held && !v.Facts.Back:
		wait = pollBack
	case v.Facts.Goal != NoGoal && v.Facts.Permit == Held:
		wait = pollQueue
	}
	for _, at := range append(times(v.Reasons), u.run.nextCheck) {
		if d := at.Sub(o.Now); d > 0 {
			wait = min(wait, d)
		}
	}
	u.pause(ctx, wait)
}

// again is how long a step that has just been done waits before it is done
// once more: what it changed may take a moment to be seen, and a lock or a
// scheduler that says one thing and shows another must not be asked without end.
const again = time.Second

// pause waits for a while, or until something happens.
func (u *Updater) pause(ctx context.Context, d time.Duration) {
	u.clock().Pause(ctx, d, u.woken())
}

func (u *Updater) queuePoll() time.Duration {
	if u.QueuePoll > 0 {
		return u.QueuePoll
	}
	return pollQueue
}

func times(reasons []Reason) (at []time.Time) {
	for _, r := range reasons {
		at = append(at, r.Until)
	}
	return at
}

func (u *Updater) recall() Memory {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.memory
}

// remember makes m the memory, durably, before anything is built on it.
func (u *Updater) remember(m Memory) error {
	m.Version = memoryVersion
	if err := u.Store.Save(m); err != nil {
		return fmt.Errorf("keep memory: %w", err)
	}
	u.mu.Lock()
	u.memory = m
	u.mu.Unlock()
	return nil
}

func (u *Updater) random(n int64) int64 {
	if u.Rand != nil {
		return u.Rand.Int64N(n)
	}
	return rand.Int64N(n)
}

// fuzz is a random number from 0 to 1.
func (u *Updater) fuzz() float64 { return float64(u.random(1<<53)) / (1 << 53) }

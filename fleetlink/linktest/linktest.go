// Package linktest tests that a fleetlink.Link keeps its contract.
package linktest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
)

// A Cluster is a scheduler with this machine in service, at least one other one
// that has room, and no workloads yet. A function that is nil is what the
// scheduler, or the place where it runs, cannot do: its tests are skipped.
type Cluster struct {
	// Open returns a link of this machine, a new one each time: what a former one
	// knew is lost, as after a restart of the daemon.
	Open func() fleetlink.Link
	// Place has a workload run on this machine, and returns when it does. It returns
	// what the link calls it.
	Place func(name string) string
	// Here lists the workloads that run on this machine, as Place called them.
	Here func() []string
	// Hold keeps a workload on this machine, as a budget does or a lack of room
	// elsewhere, until release is called.
	Hold func(workload string) (release func())
	// Bar has an operator say that this machine is left alone, until lift is called.
	Bar func() (lift func())
	// Closed reports whether the scheduler gives this machine no new work.
	Closed func() bool
	// Claim cordons this machine in the name of somebody else.
	Claim func()
	// Uncordon takes every cordon off, as a person does who knows nothing of us.
	Uncordon func()
	// Reboot has this machine go down and come up, with another boot-id.
	Reboot func()
	// Silence has the scheduler answer nothing, or only that it cannot, until speak
	// is called.
	Silence func() (speak func())
	// Pace is how long one workload may take to leave, and the scheduler to see what
	// was done.
	Pace time.Duration
}

// now is the tests' clock.
func now() time.Time { return time.Now() }

// why is the reason of the tests' orders.
const why = "linktest: a reboot"

// Test tests a link against a cluster, which open makes anew for each test. It
// is called by the tests of each package that has a Link.
func Test(t *testing.T, open func(t *testing.T) Cluster) {
	for name, test := range map[string]func(*yard){
		"preflight changes nothing":                    (*yard).testPreflight,
		"preflight names what could not leave":         (*yard).testPreflightHeld,
		"a cordon stops new work and moves none":       (*yard).testCordon,
		"work leaves":                                  (*yard).testDrain,
		"progress names what is left":                  (*yard).testProgress,
		"what cannot leave is named, and leaves later": (*yard).testHeld,
		"force ends what does not leave":               (*yard).testForce,
		"what forbids a drain no force passes by":      (*yard).testBar,
		"a drain cut off is resumed":                   (*yard).testCutOff,
		"a drain cut off goes on":                      (*yard).testGoesOn,
		"resume undoes nothing that was not done":      (*yard).testResumeAlone,
		"a foreign cordon stays":                       (*yard).testClaim,
		"a cordon that was taken off is seen":          (*yard).testUncordon,
		"the standing outlives a reboot":               (*yard).testReboot,
		"silence is an error":                          (*yard).testSilence,
	} {
		t.Run(name, func(t *testing.T) {
			c := open(t)
			if c.Pace == 0 {
				c.Pace = time.Second
			}
			test(&yard{T: t, Cluster: c})
		})
	}
}

// yard is a cluster in one test.
type yard struct {
	*testing.T
	Cluster
}

// within bounds a call that is to end by itself, with n workloads on its way.
func (y *yard) within(n int) context.Context {
	ctx, cancel := context.WithTimeout(y.Context(), time.Duration(n+10)*y.Pace)
	y.Cleanup(cancel)
	return ctx
}

// until waits until something is so.
func (y *yard) until(what string, ok func() bool) {
	y.Helper()
	for ctx := y.within(20); !ok(); {
		select {
		case <-ctx.Done():
			y.Fatalf("never: %s", what)
		case <-time.After(y.Pace / 20):
		}
	}
}

func (y *yard) must(what string, err error) {
	y.Helper()
	if err != nil {
		y.Fatalf("%s: %v", what, err)
	}
}

func (y *yard) standing() fleetlink.Standing {
	y.Helper()
	s, err := y.Open().Standing(y.within(0))
	y.must("standing", err)
	return s
}

func (y *yard) preflight() []fleetlink.Workload {
	y.Helper()
	held, err := y.Open().Preflight(y.within(0))
	y.must("preflight", err)
	return held
}

// place puts so many workloads here.
func (y *yard) place(n int) (names []string) {
	y.Helper()
	for i := range n {
		names = append(names, y.Place(fmt.Sprintf("work-%d", i)))
	}
	return names
}

// out takes the machine out of service.
func (y *yard) out(l fleetlink.Link, o fleetlink.Order) error {
	y.Helper()
	y.must("cordon", l.Cordon(y.within(0), why))
	o.Why = why
	return l.Drain(y.within(10), o)
}

// stays checks that all workloads are here.
func (y *yard) stays(names []string) {
	y.Helper()
	here := y.Here()
	for _, name := range names {
		if !slices.Contains(here, name) {
			y.Errorf("%s is not here any more: %v", name, here)
		}
	}
}

// inService checks that nothing of ours is left.
func (y *yard) inService() {
	y.Helper()
	if s := y.standing(); s.Ours {
		y.Errorf("after the resume: %+v", s)
	}
	if y.Closed != nil {
		y.until("it takes work again", func() bool { return !y.Closed() })
	}
}

// needs skips a test where something cannot be done.
func (y *yard) needs(what string, can bool) {
	y.Helper()
	if !can {
		y.Skipf("this scheduler, here, cannot %s", what)
	}
}

func (y *yard) testPreflight() {
	names := y.place(2)
	for range 2 {
		if held := y.preflight(); len(held) > 0 {
			y.Errorf("nothing stands in the way, and preflight says %v", held)
		}
	}
	if s := y.standing(); s.Ours || s.Drained() {
		y.Errorf("nobody asked for a drain: %+v", s)
	}
	y.inService()
	y.stays(names)
}

func (y *yard) testPreflightHeld() {
	y.needs("keep a workload from leaving", y.Hold != nil)
	names := y.place(2)
	release := y.Hold(names[1])
	y.until("preflight names "+names[1]+" and says why", func() bool {
		held := y.preflight()
		return len(held) == 1 && held[0].Name == names[1] && held[0].Why != ""
	})
	y.stays(names)
	release()
	y.until("nothing stands in the way any more", func() bool { return len(y.preflight()) == 0 })
}

func (y *yard) testCordon() {
	names := y.place(2)
	for range 2 {
		y.must("cordon", y.Open().Cordon(y.within(0), why))
	}
	if s := y.standing(); !s.Ours || s.Open || s.Drained() || len(s.Left) != 2 {
		y.Errorf("after the cordon: %+v, want it ours, closed, and 2 workloads left", s)
	}
	if y.Closed != nil {
		y.until("it gets no new work", y.Closed)
	}
	y.stays(names)
	y.must("resume", y.Open().Resume(y.within(2)))
	y.inService()
	y.stays(names)
}

func (y *yard) testDrain() {
	names := y.place(3)
	for range 2 {
		y.must("drain", y.out(y.Open(), fleetlink.Order{}))
		for _, name := range names {
			if here := y.Here(); slices.Contains(here, name) {
				y.Errorf("drained, and %s is still here: %v", name, here)
			}
		}
		if s := y.standing(); !s.Drained() {
			y.Errorf("after the drain: %+v", s)
		}
	}
	for range 2 {
		y.must("resume", y.Open().Resume(y.within(3)))
		y.inService()
	}
}

func (y *yard) testProgress() {
	names := y.place(3)
	var mu sync.Mutex
	seen, least, busy := map[string]bool{}, len(names), false
	err := y.out(y.Open(), fleetlink.Order{Progress: func(left []fleetlink.Workload) {
		if !mu.TryLock() {
			y.Error("two calls of Progress at a time")
			return
		}
		defer mu.Unlock()
		busy = true
		for _, w := range left {
			seen[w.Name] = true
		}
		least = min(least, len(left))
	}})
	y.must("drain", err)
	mu.Lock()
	defer mu.Unlock()
	if !busy || len(seen) != len(names) || least == len(names) {
		y.Errorf("progress named %v and was never below %d, want each of %v, fewer and fewer", seen, least, names)
	}
	y.must("resume", y.Open().Resume(y.within(3)))
}

func (y *yard) testHeld() {
	y.needs("keep a workload from leaving", y.Hold != nil)
	names := y.place(2)
	release := y.Hold(names[0])
	y.must("cordon", y.Open().Cordon(y.within(0), why))
	ctx, cancel := context.WithTimeout(y.Context(), 4*y.Pace)
	defer cancel()
	err := y.Open().Drain(ctx, fleetlink.Order{Why: why})
	unfinished := fleetlink.Unfinished{}
	if !errors.As(err, &unfinished) || !strings.Contains(err.Error(), names[0]) {
		y.Errorf("the drain of a workload that cannot leave: %v", err)
	}
	for _, w := range unfinished.Left {
		if w.Name == names[0] && w.Why == "" {
			y.Errorf("it is not said why %s is still here: %v", names[0], unfinished.Left)
		}
	}
	y.stays(names[:1])
	y.until(names[0]+" alone is left", func() bool {
		s := y.standing()
		return s.Ours && !s.Drained() && len(s.Left) == 1 && s.Left[0].Name == names[0]
	})
	release()
	y.must("drain again", y.Open().Drain(y.within(10), fleetlink.Order{Why: why}))
	if s := y.standing(); !s.Drained() {
		y.Errorf("after the second drain: %+v", s)
	}
	y.must("resume", y.Open().Resume(y.within(2)))
}

func (y *yard) testForce() {
	y.needs("keep a workload from leaving", y.Hold != nil)
	names := y.place(2)
	defer y.Hold(names[0])()
	y.must("drain by force", y.out(y.Open(), fleetlink.Order{Force: true}))
	if here := y.Here(); slices.Contains(here, names[0]) {
		y.Errorf("after a drain by force %v are here", here)
	}
	if s := y.standing(); !s.Drained() {
		y.Errorf("after a drain by force: %+v", s)
	}
	y.must("resume", y.Open().Resume(y.within(2)))
	y.inService()
}

func (y *yard) testBar() {
	y.needs("be left alone by an operator's word", y.Bar != nil)
	names := y.place(2)
	lift := y.Bar()
	var held []fleetlink.Workload
	y.until("preflight says that it is forbidden, and why", func() bool {
		held = fleetlink.Forbidding(y.preflight())
		return len(held) > 0 && held[0].Why != ""
	})
	for _, force := range []bool{false, true} {
		err := y.out(y.Open(), fleetlink.Order{Force: force})
		unfinished := fleetlink.Unfinished{}
		if !errors.Is(err, fleetlink.ErrForbidden) || !errors.As(err, &unfinished) || !slices.Contains(unfinished.Left, held[0]) {
			y.Errorf("by force %t: %v, want it forbidden by %v", force, err, held)
		}
		y.stays(names)
	}
	lift()
	y.until("nothing forbids it any more", func() bool { return len(fleetlink.Forbidding(y.preflight())) == 0 })
	y.must("drain", y.Open().Drain(y.within(10), fleetlink.Order{Why: why}))
	y.must("resume", y.Open().Resume(y.within(3)))
	y.inService()
}

// cutOff ends a drain as soon as it tells of any work, as a daemon that dies.
func (y *yard) cutOff() {
	y.Helper()
	ctx, cancel := context.WithCancel(y.within(10))
	defer cancel()
	l := y.Open()
	y.must("cordon", l.Cordon(ctx, why))
	began := now()
	err := l.Drain(ctx, fleetlink.Order{Why: why, Progress: func([]fleetlink.Workload) { cancel() }})
	if took := time.Since(began); took > 10*y.Pace {
		y.Errorf("the drain ended %s after it began, and was to end at once", took)
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		y.Errorf("a drain that is stopped: %v", err)
	}
}

func (y *yard) testCutOff() {
	y.place(3)
	y.cutOff()
	if s := y.standing(); !s.Ours {
		y.Errorf("nobody knows of the drain that was cut off: %+v", s)
	}
	y.must("resume", y.Open().Resume(y.within(3)))
	y.inService()
}

func (y *yard) testGoesOn() {
	y.place(3)
	y.cutOff()
	y.must("drain", y.Open().Drain(y.within(10), fleetlink.Order{Why: why}))
	if s := y.standing(); !s.Drained() || len(y.Here()) != 0 {
		y.Errorf("after the drain: %+v, here are %v", s, y.Here())
	}
	y.must("resume", y.Open().Resume(y.within(3)))
}

func (y *yard) testResumeAlone() {
	names := y.place(2)
	y.must("resume", y.Open().Resume(y.within(2)))
	y.stays(names)
	y.inService()
	if y.Claim == nil {
		return
	}
	y.Claim()
	y.must("resume", y.Open().Resume(y.within(2)))
	if y.Closed != nil && !y.Closed() {
		y.Error("resume took somebody else's cordon off")
	}
}

func (y *yard) testClaim() {
	y.needs("be cordoned by somebody else", y.Claim != nil && y.Closed != nil)
	y.place(2)
	y.Claim()
	if s := y.standing(); s.Ours {
		y.Errorf("somebody else's cordon counts as ours: %+v", s)
	}
	y.must("drain", y.out(y.Open(), fleetlink.Order{}))
	if s := y.standing(); !s.Drained() {
		y.Errorf("after the drain: %+v", s)
	}
	y.must("resume", y.Open().Resume(y.within(2)))
	if !y.Closed() {
		y.Error("resume took somebody else's cordon off")
	}
	if s := y.standing(); s.Ours {
		y.Errorf("after the resume: %+v", s)
	}
}

func (y *yard) testUncordon() {
	y.needs("be uncordoned by somebody else", y.Uncordon != nil)
	y.place(1)
	y.must("drain", y.out(y.Open(), fleetlink.Order{}))
	y.Uncordon()
	y.until("it is seen that the machine is open", func() bool { return !y.standing().Drained() })
	y.must("drain", y.out(y.Open(), fleetlink.Order{}))
	y.until("it is drained again", func() bool { return y.standing().Drained() })
	y.must("resume", y.Open().Resume(y.within(2)))
	y.inService()
}

func (y *yard) testReboot() {
	y.needs("be rebooted", y.Reboot != nil)
	y.place(2)
	y.must("drain", y.out(y.Open(), fleetlink.Order{}))
	y.Reboot()
	if s := y.standing(); !s.Ours {
		y.Errorf("after the reboot nobody knows that the machine is out of service: %+v", s)
	}
	well := func() bool {
		ails, err := y.Open().Ailments(y.within(0))
		return err == nil && len(ails) == 0
	}
	y.until("the machine is well before it is resumed", well)
	y.must("resume", y.Open().Resume(y.within(2)))
	y.until("it is well after", well)
	y.inService()
}

func (y *yard) testSilence() {
	y.needs("fall silent", y.Silence != nil)
	y.place(1)
	speak := y.Silence()
	l := y.Open()
	for name, call := range map[string]func(context.Context) error{
		"preflight": func(ctx context.Context) error { _, err := l.Preflight(ctx); return err },
		"standing":  func(ctx context.Context) error { _, err := l.Standing(ctx); return err },
		"cordon":    func(ctx context.Context) error { return l.Cordon(ctx, why) },
		"drain":     func(ctx context.Context) error { return l.Drain(ctx, fleetlink.Order{Why: why}) },
		"resume":    l.Resume,
		"ailments":  func(ctx context.Context) error { _, err := l.Ailments(ctx); return err },
	} {
		ctx, cancel := context.WithTimeout(y.Context(), 2*y.Pace)
		began := now()
		err := call(ctx)
		cancel()
		if err == nil {
			y.Errorf("%s of a scheduler that does not answer: no error", name)
		}
		if took := time.Since(began); took > 8*y.Pace {
			y.Errorf("%s of a scheduler that does not answer ended %s after its context", name, took-2*y.Pace)
		}
	}
	speak()
	y.until("it answers again", func() bool { _, err := y.Open().Standing(y.within(0)); return err == nil })
	y.must("resume", y.Open().Resume(y.within(2)))
}

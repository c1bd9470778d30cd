package locktest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
)

// patience bounds every wait: what takes longer than this does not come.
const patience = 20 * time.Second

// group is the group that the tests use.
const group = "web"

// now is the tests' clock: leases run by the store's own.
func now() time.Time { return time.Now() }

// Test shows that a whole lock works over a store: machines that come and go,
// coordinators that are elected, an operator who intervenes, all at once and
// by their watches. It is called for each store by that store's own tests.
func Test(t *testing.T, open func(t *testing.T) rebootlock.Store) {
	for name, test := range map[string]func(*fleet){
		"permits are granted in the order of asking": (*fleet).testOrder,
		"asking twice is asking once":                (*fleet).testTwice,
		"a permit outlives its machine":              (*fleet).testPermitStays,
		"a ticket does not":                          (*fleet).testTicketGoes,
		"a permit outlives its coordinator":          (*fleet).testCoordinatorDies,
		"a freeze stops the next phase":              (*fleet).testFreeze,
		"what was taken away passes no fence":        (*fleet).testTakeAway,
		"nobody fences without a permit":             (*fleet).testFence,
		"two clusters share nothing":                 (*fleet).testClusters,
		"many machines take turns":                   (*fleet).testTurns,
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, open(t), strings.ReplaceAll(t.Name(), " ", "-"))
			defer f.stop()
			f.rules(rebootlock.Rules{Version: 1, Max: rebootlock.Max{Count: 1}})
			test(f)
		})
	}
}

// fleet is a cluster with its coordinators and machines, all running.
type fleet struct {
	*testing.T
	store    rebootlock.Store
	keys     rebootlock.Keys
	operator rebootlock.Operator
	wg       sync.WaitGroup
	stop     func()
	ctx      context.Context
	reigns   []context.CancelFunc
}

func newFleet(t *testing.T, store rebootlock.Store, cluster string) *fleet {
	t.Helper()
	keys := rebootlock.Keys{Cluster: cluster}
	f := &fleet{T: t, store: store, keys: keys, operator: rebootlock.Operator{Store: store, Keys: keys, Who: "operator test", Now: now}}
	ctx, cancel := context.WithCancel(context.Background())
	f.ctx, f.stop = ctx, func() { cancel(); f.wg.Wait() }
	for i := range 2 {
		ctx, cancel := context.WithCancel(ctx)
		f.reigns = append(f.reigns, cancel)
		c := &rebootlock.Coordinator{Store: store, Keys: keys, Machine: fmt.Sprintf("coordinator-%d", i), Now: now, Spread: 10 * time.Millisecond}
		f.wg.Go(func() { _ = c.Run(ctx) })
	}
	return f
}

func (f *fleet) rules(r rebootlock.Rules) {
	f.Helper()
	if _, _, err := f.operator.Apply(f.ctx, group, r); err != nil {
		f.Fatal(err)
	}
}

// machine is one of a fleet, running until it stops.
type machine struct {
	*rebootlock.Client
	id   string
	stop func()
}

// machine starts the nth machine.
func (f *fleet) machine(n int) *machine {
	f.Helper()
	m := &machine{id: fmt.Sprintf("%032x", n+1)}
	m.Client = &rebootlock.Client{Store: f.store, Keys: f.keys, Now: now, Self: func() rebootlock.Self {
		return rebootlock.Self{Machine: m.id, Instance: "instance-" + m.id, Boot: "boot-" + m.id, Group: group, Hostname: fmt.Sprintf("host-%d", n)}
	}}
	ctx, cancel := context.WithCancel(f.ctx)
	var wg sync.WaitGroup
	wg.Go(func() { _ = m.Run(ctx) })
	m.stop = func() { cancel(); wg.Wait() }
	f.Cleanup(m.stop)
	f.await("the machine joins", func() bool { _, err := m.Standing(f.ctx); return err == nil })
	return m
}

// await polls for what watches bring about.
func (f *fleet) await(what string, cond func() bool) {
	f.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := now().Add(patience); !cond(); <-tick.C {
		if now().After(deadline) {
			v, err := f.operator.Look(f.ctx)
			f.Fatalf("%s: it did not come to pass within %s; %+v, %v", what, patience, v, err)
		}
	}
}

func (f *fleet) ask(m *machine) {
	f.Helper()
	if _, err := m.Acquire(f.ctx, rebootlock.Request{Reason: "test", From: "1", To: "2"}); err != nil {
		f.Fatal(err)
	}
}

func (m *machine) standing(ctx context.Context) rebootlock.Standing {
	s, err := m.Standing(ctx)
	if err != nil {
		return rebootlock.None
	}
	return s.Standing
}

func (f *fleet) holds(m *machine) {
	f.Helper()
	f.await("the permit", func() bool { return m.standing(f.ctx) == rebootlock.Holding })
}

func (f *fleet) release(m *machine, e rebootlock.Ending) {
	f.Helper()
	if err := m.Release(f.ctx, e, ""); err != nil {
		f.Fatal(err)
	}
}

func (f *fleet) holders() (machines []string) {
	f.Helper()
	v, err := f.operator.Look(f.ctx)
	if err != nil {
		f.Fatal(err)
	}
	for _, g := range v.Groups {
		for _, h := range g.Holders {
			machines = append(machines, h.Machine)
		}
	}
	slices.Sort(machines)
	return machines
}

func (f *fleet) testOrder() {
	a, b, c := f.machine(0), f.machine(1), f.machine(2)
	f.ask(b)
	f.holds(b)
	f.ask(c)
	f.ask(a)
	f.release(b, rebootlock.Updated)
	f.ask(b) // behind the others again
	for _, m := range []*machine{c, a, b} {
		f.holds(m)
		if got := f.holders(); !slices.Equal(got, []string{m.id}) {
			f.Fatalf("holders %v, want %s alone", got, m.id)
		}
		f.release(m, rebootlock.Updated)
	}
}

func (f *fleet) testTwice() {
	a := f.machine(0)
	for range 3 {
		f.ask(a)
	}
	f.holds(a)
	f.ask(a)
	if a.standing(f.ctx) != rebootlock.Holding {
		f.Error("a holder that asks again no longer holds")
	}
	for range 3 {
		f.release(a, rebootlock.Updated)
	}
	f.await("the booking", func() bool { return len(f.holders()) == 0 })
}

func (f *fleet) testPermitStays() {
	a, b := f.machine(0), f.machine(1)
	f.ask(a)
	f.holds(a)
	for _, phase := range []string{rebootlock.PhaseDraining, rebootlock.PhaseStaging, rebootlock.PhaseRebooting} {
		if err := a.Fence(f.ctx, phase); err != nil {
			f.Fatal(err)
		}
	}
	f.ask(b)
	a.stop()
	f.await("its absence is seen", func() bool {
		v, err := f.operator.Look(f.ctx)
		return err == nil && slices.ContainsFunc(v.Machines, func(m rebootlock.MachineView) bool { return m.Machine == a.id && !m.Present })
	})
	if got := f.holders(); !slices.Equal(got, []string{a.id}) {
		f.Errorf("holders %v, want %s, which is down", got, a.id)
	}
	again := f.machine(0)
	f.holds(again)
	f.release(again, rebootlock.Updated)
	f.holds(b)
}

func (f *fleet) testTicketGoes() {
	a, b, c := f.machine(0), f.machine(1), f.machine(2)
	f.ask(a)
	f.holds(a)
	f.ask(b)
	f.ask(c)
	b.stop()
	if err := f.operator.Remove(f.ctx, b.id, "gone for good", true); err != nil { // else its absence uses up the permit
		f.Fatal(err)
	}
	f.release(a, rebootlock.Updated)
	f.holds(c)
}

func (f *fleet) testCoordinatorDies() {
	a, b := f.machine(0), f.machine(1)
	f.ask(a)
	f.holds(a)
	v, err := f.operator.Look(f.ctx)
	if err != nil {
		f.Fatal(err)
	}
	var n int
	if _, err := fmt.Sscanf(v.Coordinator.Machine, "coordinator-%d", &n); err != nil {
		f.Fatalf("coordinator %+v: %v", v.Coordinator, err)
	}
	f.reigns[n]()
	f.ask(b)
	if got := f.holders(); !slices.Equal(got, []string{a.id}) {
		f.Errorf("holders %v, want %s", got, a.id)
	}
	f.release(a, rebootlock.Updated)
	f.holds(b)
}

func (f *fleet) testFreeze() {
	a, b := f.machine(0), f.machine(1)
	f.ask(a)
	f.holds(a)
	if err := a.Fence(f.ctx, rebootlock.PhaseDraining); err != nil {
		f.Fatal(err)
	}
	f.ask(b)
	for _, scope := range []string{group, ""} {
		if err := f.operator.Freeze(f.ctx, scope, "incident"); err != nil {
			f.Fatal(err)
		}
		if err := a.Fence(f.ctx, rebootlock.PhaseStaging); err == nil {
			f.Fatalf("scope %q: the fence let a frozen machine pass", scope)
		}
		f.await("the freeze is shown", func() bool {
			s, err := a.Standing(f.ctx)
			return err == nil && len(s.Stops) > 0
		})
		if err := f.operator.Thaw(f.ctx, scope); err != nil {
			f.Fatal(err)
		}
	}
	if err := a.Fence(f.ctx, rebootlock.PhaseStaging); err != nil {
		f.Errorf("after the thaw: %v", err)
	}
	f.release(a, rebootlock.Updated)
	f.holds(b)
}

func (f *fleet) testTakeAway() {
	a, b := f.machine(0), f.machine(1)
	f.ask(a)
	f.holds(a)
	f.ask(b)
	if err := f.operator.TakeAway(f.ctx, group, a.id, "it hangs", false); err != nil {
		f.Fatal(err)
	}
	if err := a.Fence(f.ctx, rebootlock.PhaseRebooting); !errors.Is(err, rebootlock.ErrNotHolder) {
		f.Errorf("fence: %v, want %v", err, rebootlock.ErrNotHolder)
	}
	f.holds(b)
	if err := b.Fence(f.ctx, rebootlock.PhaseRebooting); err != nil {
		f.Fatal(err)
	}
	if err := f.operator.TakeAway(f.ctx, group, b.id, "it hangs", false); err == nil {
		f.Error("the permit of a machine that reboots was taken away without evidence or force")
	}
}

func (f *fleet) testFence() {
	a, b := f.machine(0), f.machine(1)
	if err := a.Fence(f.ctx, rebootlock.PhaseDraining); !errors.Is(err, rebootlock.ErrNotHolder) {
		f.Errorf("with nothing: %v", err)
	}
	f.ask(b)
	f.holds(b)
	f.ask(a)
	if err := a.Fence(f.ctx, rebootlock.PhaseDraining); !errors.Is(err, rebootlock.ErrNotHolder) {
		f.Errorf("with a ticket: %v", err)
	}
	f.release(b, rebootlock.Aborted)
	if err := b.Fence(f.ctx, rebootlock.PhaseRebooting); !errors.Is(err, rebootlock.ErrNotHolder) {
		f.Errorf("after the release: %v", err)
	}
}

func (f *fleet) testClusters() {
	other := newFleet(f.T, f.store, f.keys.Cluster+"-other")
	defer other.stop()
	other.rules(rebootlock.Rules{Version: 1, Max: rebootlock.Max{Count: 1}})
	a, b := f.machine(0), other.machine(1)
	f.ask(a)
	other.ask(b)
	f.holds(a)
	other.holds(b)
	for _, fl := range []*fleet{f, other} {
		v, err := fl.operator.Look(fl.ctx)
		if err != nil || len(v.Machines) != 1 {
			f.Errorf("%d machines are seen, want its own one; %v", len(v.Machines), err)
		}
	}
}

// turn is one machine's whole way through the lock.
func (f *fleet) turn(m *machine, count func(int)) error {
	ctx, cancel := context.WithTimeout(f.ctx, patience)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for s := rebootlock.None; s != rebootlock.Holding; <-tick.C {
		var err error
		if s, err = m.Acquire(ctx, rebootlock.Request{Reason: "test", From: "1", To: "2"}); err != nil {
			return fmt.Errorf("%s: %w", m.id, err)
		}
	}
	count(1)
	err := m.Fence(ctx, rebootlock.PhaseRebooting)
	count(-1)
	return errors.Join(err, m.Release(ctx, rebootlock.Updated, ""))
}

func (f *fleet) testTurns() {
	f.rules(rebootlock.Rules{Version: 1, Max: rebootlock.Max{Count: 3}})
	machines := make([]*machine, 12)
	for i := range machines {
		machines[i] = f.machine(i)
	}
	var mu sync.Mutex
	held, most := 0, 0
	count := func(d int) {
		mu.Lock()
		defer mu.Unlock()
		held += d
		most = max(most, held)
	}
	var wg sync.WaitGroup
	for _, m := range machines {
		wg.Go(func() {
			for range 3 {
				if err := f.turn(m, count); err != nil {
					f.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if most > 3 {
		f.Errorf("%d held at once, 3 may", most)
	}
}

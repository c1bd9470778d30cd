package host_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/fleetlink/host"
	"github.com/drydock-os/drydock/fleetlink/linktest"
)

// note is a fleetlink.Record in memory.
type note struct {
	mu   sync.Mutex
	data []byte
	err  error
}

func (n *note) Load() ([]byte, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.data, n.err
}

func (n *note) Save(data []byte) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.err == nil {
		n.data = slices.Clone(data)
	}
	return n.err
}

// quay is a host.Keeper in memory. Its workloads stop in the order in which they
// were placed.
type quay struct {
	mu       sync.Mutex
	units    []*host.Unit
	stubborn map[string]bool // ends by force only
	broken   map[string]bool // does not start
	boots    map[string]bool // starts with the host
	silent   bool
	log      []string // of what was done
}

func (q *quay) unit(name string) *host.Unit {
	for _, u := range q.units {
		if u.Name == name {
			return u
		}
	}
	return nil
}

func (q *quay) place(name string) *host.Unit {
	q.mu.Lock()
	defer q.mu.Unlock()
	u := q.unit(name)
	if u == nil {
		u = &host.Unit{Name: name}
		q.units = append(q.units, u)
	}
	u.State, u.What = host.Up, "active (running)"
	return u
}

// change changes a unit.
func (q *quay) change(name string, f func(u *host.Unit)) {
	q.mu.Lock()
	defer q.mu.Unlock()
	f(q.unit(name))
}

// reboot has all units down but those that the boot starts.
func (q *quay) reboot() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, u := range q.units {
		u.State, u.What = host.Down, "inactive (dead)"
		if q.boots[u.Name] {
			u.State, u.What = host.Up, "active (running)"
		}
	}
}

// enter waits for ever where the keeper is silent, as a bus does.
func (q *quay) enter(ctx context.Context) error {
	q.mu.Lock()
	silent := q.silent
	q.mu.Unlock()
	if silent {
		<-ctx.Done()
	}
	return ctx.Err()
}

func (q *quay) Running(ctx context.Context) (running []host.Unit, err error) {
	if err := q.enter(ctx); err != nil {
		return nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, u := range q.units {
		if u.State.Runs() {
			running = append(running, *u)
		}
	}
	return running, nil
}

func (q *quay) Look(ctx context.Context, name string) (host.Unit, error) {
	if err := q.enter(ctx); err != nil {
		return host.Unit{}, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if u := q.unit(name); u != nil {
		return *u, nil
	}
	return host.Unit{Name: name}, nil
}

func (q *quay) Stop(ctx context.Context, name string, force bool) error {
	if err := q.enter(ctx); err != nil {
		return err
	}
	q.mu.Lock()
	u := q.unit(name)
	refused, deaf := u.Kept != "" && !u.Once && !force, q.stubborn[name] && !force
	q.log = append(q.log, map[bool]string{false: "stop ", true: "kill "}[force]+name)
	q.mu.Unlock()
	switch {
	case refused:
		return errors.New("refused")
	case deaf:
		q.change(name, func(u *host.Unit) { u.State = host.Ending })
		<-ctx.Done()
		return ctx.Err()
	}
	q.change(name, func(u *host.Unit) { u.State, u.What = host.Down, "inactive (dead)" })
	return nil
}

func (q *quay) Start(ctx context.Context, name string) error {
	if err := q.enter(ctx); err != nil {
		return err
	}
	q.mu.Lock()
	q.log = append(q.log, "start "+name)
	broken := q.broken[name]
	q.mu.Unlock()
	if broken {
		q.change(name, func(u *host.Unit) { u.State, u.What = host.Down, "failed (exit-code)" })
		return errors.New("it is failed (exit-code)")
	}
	q.change(name, func(u *host.Unit) { u.State, u.What = host.Up, "active (running)" })
	return nil
}

// TestTheContract, against a keeper in memory; TestRealSystemd has one that is
// not.
func TestTheContract(t *testing.T) {
	linktest.Test(t, func(*testing.T) linktest.Cluster {
		q, record := &quay{}, &note{}
		return linktest.Cluster{
			Open: func() fleetlink.Link {
				return &host.Link{Units: q, Record: record, Pause: 10 * time.Millisecond, Grace: 50 * time.Millisecond}
			},
			Place: func(name string) string { q.place(name); return name },
			Here: func() (names []string) {
				running, _ := q.Running(context.Background())
				for _, u := range running {
					names = append(names, u.Name)
				}
				return names
			},
			Hold: func(name string) func() {
				q.change(name, func(u *host.Unit) { u.Kept = "its unit has RefuseManualStop=yes" })
				return func() { q.change(name, func(u *host.Unit) { u.Kept = "" }) }
			},
			Reboot: q.reboot,
			Silence: func() func() {
				set := func(silent bool) { q.mu.Lock(); q.silent = silent; q.mu.Unlock() }
				set(true)
				return func() { set(false) }
			},
			Pace: 100 * time.Millisecond,
		}
	})
}

// TestNothingNamed: a link without any work keeps the contract all the same.
func TestNothingNamed(t *testing.T) {
	ctx, record := t.Context(), &note{}
	l := func() *host.Link { return &host.Link{Record: record} }
	if err := l().Drain(ctx, fleetlink.Order{}); err == nil {
		t.Error("drained without a cordon")
	}
	told := 0
	err := errors.Join(l().Resume(ctx), l().Cordon(ctx, "a reboot"), l().Drain(ctx, fleetlink.Order{Progress: func(left []fleetlink.Workload) { told += 1 + len(left) }}))
	if s, standing := l().Standing(ctx); err != nil || standing != nil || !s.Drained() || told != 1 {
		t.Errorf("drained: %+v, %v, %v, told %d", s, err, standing, told)
	}
	err = l().Resume(ctx)
	ails, ailing := l().Ailments(ctx)
	held, preflight := l().Preflight(ctx)
	if s, standing := l().Standing(ctx); errors.Join(err, standing, ailing, preflight) != nil || s.Ours || len(ails)+len(held) > 0 {
		t.Errorf("resumed: %+v, %v, %v, %v", s, err, ails, held)
	}
	record.data = []byte("{")
	_, standing := l().Standing(ctx)
	_, preflight = l().Preflight(ctx)
	_, ailing = l().Ailments(ctx)
	for what, err := range map[string]error{"standing": standing, "preflight": preflight, "ailments": ailing, "cordon": l().Cordon(ctx, ""), "drain": l().Drain(ctx, fleetlink.Order{}), "resume": l().Resume(ctx)} {
		if err == nil {
			t.Errorf("%s of a torn record: no error", what)
		}
	}
}

// TestInOrder: units before containers, each in its order, and back in the
// reverse one; what the boot started, a person masked or stopped before is left
// alone.
func TestInOrder(t *testing.T) {
	ctx := t.Context()
	boot := "one"
	u, c, record := &quay{boots: map[string]bool{"b": true}}, &quay{}, &note{}
	l := &host.Link{Units: u, Containers: c, Record: record, Machine: fleetlink.Machine{BootID: func() (string, error) { return boot, nil }}}
	for _, name := range []string{"a", "b", "c", "down"} {
		u.place(name)
	}
	u.change("down", func(u *host.Unit) { u.State = host.Down })
	c.place("web")
	var told []string
	err := errors.Join(l.Cordon(ctx, ""), l.Drain(ctx, fleetlink.Order{Progress: func(left []fleetlink.Workload) { told = append(told, fmt.Sprint(left)) }}))
	if want := "[a: it is being stopped b c web] [b: it is being stopped c web] [c: it is being stopped web] [web: it is being stopped] []"; err != nil || strings.Join(told, " ") != want {
		t.Errorf("%v: told %q", err, told)
	}
	u.reboot()
	c.reboot()
	boot = "two"
	u.change("c", func(u *host.Unit) { u.State = host.Off })
	u.log, c.log = nil, nil
	if ails, err := l.Ailments(ctx); err != nil || ails != nil {
		t.Errorf("before the resume: %v, %v", ails, err)
	}
	if err := l.Resume(ctx); err != nil {
		t.Error(err)
	}
	if !slices.Equal(c.log, []string{"start web"}) || !slices.Equal(u.log, []string{"start a"}) {
		t.Errorf("resumed by %v, %v", c.log, u.log)
	}
	u.change("a", func(u *host.Unit) { u.State, u.What = host.Down, "failed (exit-code)" })
	if ails, err := l.Ailments(ctx); err != nil || fmt.Sprint(ails) != "[a: it is failed (exit-code)]" {
		t.Errorf("after the resume: %v, %v", ails, err)
	}
	boot = "three"
	if ails, err := l.Ailments(ctx); err != nil || ails != nil {
		t.Errorf("in another boot: %v, %v", ails, err)
	}
}

// TestWhatDoesNotComeBackIsNamed: the rest is started, and the machine stays out
// of service on our word until all of it is back.
func TestWhatDoesNotComeBackIsNamed(t *testing.T) {
	ctx := t.Context()
	q, record := &quay{broken: map[string]bool{"b": true}}, &note{}
	l := &host.Link{Units: q, Record: record}
	for _, name := range []string{"a", "b", "c"} {
		q.place(name)
	}
	if err := errors.Join(l.Cordon(ctx, ""), l.Drain(ctx, fleetlink.Order{})); err != nil {
		t.Fatal(err)
	}
	q.units = q.units[:2]
	err := l.Resume(ctx)
	if err == nil || !strings.Contains(err.Error(), "start b again: it is failed") || !strings.Contains(err.Error(), "c was stopped for the reboot and is not on this machine any more") {
		t.Errorf("resume: %v", err)
	}
	if s, err := l.Standing(ctx); err != nil || !s.Ours || len(s.Left) != 1 || s.Left[0].Name != "a" {
		t.Errorf("after it: %+v, %v", s, err)
	}
	q.broken = nil
	q.place("c")
	if err := l.Resume(ctx); err != nil {
		t.Error(err)
	}
	gone := &host.Link{Record: record}
	if err := errors.Join(l.Cordon(ctx, ""), l.Drain(ctx, fleetlink.Order{})); err != nil {
		t.Fatal(err)
	}
	if err := gone.Resume(ctx); err == nil || !strings.Contains(err.Error(), "the policy names no workload of its kind any more") {
		t.Errorf("resume without a keeper: %v", err)
	}
}

// TestForceGivesTime: what does not end is killed, in time before the deadline;
// until then, and without force, it is waited for. A job is let run, is not
// started again, and ends by force.
func TestForceGivesTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &quay{stubborn: map[string]bool{"deaf": true}}
		l := &host.Link{Units: q, Record: &note{}}
		q.place("job").Once = true
		q.place("deaf")
		q.place("kept").Kept = "RefuseManualStop=yes"
		passing := q.place("passing")
		passing.Once, passing.Kept = true, "it is run with --rm"
		if held, err := l.Preflight(t.Context()); err != nil || fmt.Sprint(held) != "[kept: RefuseManualStop=yes passing: it is run with --rm]" {
			t.Errorf("preflight: %v, %v", held, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := errors.Join(l.Cordon(ctx, ""), l.Drain(ctx, fleetlink.Order{}))
		if want := "4 workloads are still here: job (it ends by itself), deaf (it is being stopped), kept (RefuseManualStop=yes), passing (it is run with --rm)"; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
		q.log = nil
		began := time.Now()
		ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := l.Drain(ctx, fleetlink.Order{Force: true, Deadline: began.Add(time.Minute)}); err != nil {
			t.Error(err)
		}
		if want := []string{"stop job", "stop deaf", "kill deaf", "stop kept", "kill kept", "stop passing"}; !slices.Equal(q.log, want) {
			t.Errorf("%v, want %v", q.log, want)
		}
		if took := time.Since(began); took != 30*time.Second {
			t.Errorf("it took %s", took)
		}
		q.log = nil
		if err := l.Resume(t.Context()); err != nil || !slices.Equal(q.log, []string{"start kept", "start deaf"}) {
			t.Errorf("resumed: %v, %v", q.log, err)
		}
	})
}

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/drydock-os/drydock/rebootlock"
)

// drydock is the real lock: a Client for each machine, with its lease, its
// watches and its member record, and two coordinators of which one is elected.
type drydock struct {
	keys     rebootlock.Keys
	operator rebootlock.Operator
	stores   []*rebootlock.Etcd
	count    atomic.Int64
	machines []*machine
	stop     func()
	phases   []string // fenced by each holder

	mu     sync.Mutex
	order  []string        // machines, as their tickets came
	grants []rebootlock.KV // permits, as they came
}

const group = "bench"

// openFencing is a fleet whose holders do what an updater does with a permit:
// staging is fenced before the release's hook, and after it.
func openFencing(ctx context.Context, s *server, l load_) (fleet, error) {
	f, err := openDrydock(ctx, s, l)
	if d, ok := f.(*drydock); ok && d != nil {
		d.phases = []string{rebootlock.PhaseDraining, rebootlock.PhaseStaging, rebootlock.PhaseStaging, rebootlock.PhaseRebooting}
	}
	return f, err
}

// machine is one client, and a channel that says that something changed.
type machine struct {
	*rebootlock.Client
	changed chan struct{}
	leave   func() // takes its goodbye; set once it runs
}

func openDrydock(ctx context.Context, s *server, l load_) (fleet, error) {
	d := &drydock{keys: rebootlock.Keys{Cluster: fmt.Sprintf("bench-%d", rand.Int64())}}
	for range min(connections, l.machines) {
		c, err := s.dial(&d.count)
		if err != nil {
			return nil, err
		}
		d.stores = append(d.stores, &rebootlock.Etcd{Client: c})
	}
	c, err := s.dial(nil)
	if err != nil {
		return nil, err
	}
	own := &rebootlock.Etcd{Client: c}
	d.stores = append(d.stores, own)
	d.operator = rebootlock.Operator{Store: own, Keys: d.keys, Who: "operator bench", Now: time.Now}
	if _, _, err := d.operator.Apply(ctx, group, rebootlock.Rules{Version: 1, Max: rebootlock.Max{Count: l.permits}}); err != nil {
		return nil, err
	}
	if err := d.operator.Freeze(ctx, group, "until all have asked"); err != nil {
		return nil, err
	}
	running, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	d.stop = func() { cancel(); wg.Wait() }
	wg.Go(func() { _ = d.witness(running, own) })
	for i := range 2 {
		coordinator, err := s.dial(&d.count)
		if err != nil {
			return nil, err
		}
		store := &rebootlock.Etcd{Client: coordinator}
		d.stores = append(d.stores, store)
		co := rebootlock.Coordinator{Store: store, Keys: d.keys, Machine: fmt.Sprintf("coordinator-%d", i), Now: time.Now}
		wg.Go(func() { _ = co.Run(running) })
	}
	for i := range l.machines {
		d.machines = append(d.machines, d.machine(i))
	}
	joining, _ := errgroup.WithContext(ctx)
	joining.SetLimit(200) // machines of a fleet do not come up in one millisecond
	for _, m := range d.machines {
		joining.Go(func() error {
			here, leave := context.WithCancel(running)
			var run sync.WaitGroup
			m.leave = func() { leave(); run.Wait() }
			run.Go(func() { _ = m.Run(here) })
			return m.joined(ctx)
		})
	}
	return d, joining.Wait()
}

// joined waits until the machine is a member, and has its watches.
func (m *machine) joined(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for {
		if _, err := m.Standing(ctx); err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		if err := wait(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

func (d *drydock) machine(i int) *machine {
	m := &machine{changed: make(chan struct{}, 1)}
	m.Client = &rebootlock.Client{
		Store: d.stores[i%min(connections, len(d.stores)-1)], Keys: d.keys, Now: time.Now,
		Self: func() rebootlock.Self {
			return rebootlock.Self{Machine: fmt.Sprintf("%032x", i+1), Instance: fmt.Sprint(i), Boot: fmt.Sprint(i), Group: group}
		},
		Changed: func() {
			select {
			case m.changed <- struct{}{}:
			default:
			}
		},
	}
	return m
}

// open lets the grants begin, when all have asked.
func (d *drydock) open(ctx context.Context, n int) time.Time {
	for ctx.Err() == nil {
		s, err := d.operator.Store.Read(ctx, rebootlock.Range{Key: "/drydock/" + d.keys.Cluster + "/lock/tickets/", Prefix: true})
		if err == nil && len(s.KVs) == n {
			slices.SortFunc(s.KVs, func(a, b rebootlock.KV) int { return int(a.Created - b.Created) })
			d.mu.Lock()
			for _, kv := range s.KVs {
				d.order = append(d.order, path.Base(kv.Key))
			}
			d.mu.Unlock()
			break
		}
		_ = wait(ctx, 100*time.Millisecond)
	}
	began := time.Now()
	_ = d.operator.Thaw(ctx, group)
	return began
}

func (d *drydock) acquire(ctx context.Context, i int) error {
	m := d.machines[i]
	standing, err := m.Acquire(ctx, rebootlock.Request{Reason: "bench", From: "1", To: "2"})
	for {
		for err != nil { // as drydockd does: an answer that did not come is asked for again
			if err := wait(ctx, time.Second+rand.N(time.Second)); err != nil {
				return err
			}
			standing, err = m.Acquire(ctx, rebootlock.Request{Reason: "bench", From: "1", To: "2"})
		}
		if standing == rebootlock.Holding {
			return d.fence(ctx, m)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-m.changed:
		}
		var s rebootlock.State
		if s, err = m.Standing(ctx); err == nil {
			standing = s.Standing
		}
	}
}

func (d *drydock) fence(ctx context.Context, m *machine) error {
	for _, phase := range d.phases {
		if err := m.Fence(ctx, phase); err != nil {
			return err
		}
	}
	return nil
}

func (d *drydock) release(ctx context.Context, i int) error {
	return d.machines[i].Release(ctx, rebootlock.Updated, "")
}

// disorder compares, by the store's revisions, the order in which the tickets
// came with that in which permits did.
func (d *drydock) disorder(context.Context) (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	place := map[string]int{}
	for i, name := range d.order {
		place[name] = i
	}
	last, highest, before := int64(0), -1, -1 // before: the highest place of earlier revisions
	for _, g := range d.grants {
		if g.Created != last {
			last, before = g.Created, highest
		}
		at := place[path.Base(g.Key)]
		if at < before {
			n++
		}
		highest = max(highest, at)
	}
	return n
}

// witness notes every permit that comes to be.
func (d *drydock) witness(ctx context.Context, own *rebootlock.Etcd) error {
	at := rebootlock.Range{Key: "/drydock/" + d.keys.Cluster + "/lock/permits/", Prefix: true}
	s, err := own.Read(ctx, at)
	if err != nil {
		return err
	}
	for batch := range own.Watch(ctx, s.Revision, at) {
		d.mu.Lock()
		for _, e := range batch {
			if !e.Deleted && e.Created == e.Modified {
				d.grants = append(d.grants, e.KV)
			}
		}
		d.mu.Unlock()
	}
	return nil
}

func (d *drydock) requests() int64 { return d.count.Load() }

func (d *drydock) close() {
	leaving := errgroup.Group{}
	leaving.SetLimit(200)
	for _, m := range d.machines {
		leaving.Go(func() error { m.leave(); return nil })
	}
	_ = leaving.Wait()
	d.stop()
	for _, s := range d.stores {
		_ = s.Close()
	}
}

package link_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/rebootlock/fleetlock"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/link"
)

var (
	keys    = rebootlock.Keys{Cluster: "harbour"}
	machine = strings.Repeat("0123456789abcdef", 2)
)

// grouped is a machine's side of a group in memory, with a coordinator.
func grouped(t *testing.T) (*link.Group, rebootlock.Operator) {
	t.Helper()
	store := &rebootlock.Memory{Now: time.Now}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(running.Wait)
	t.Cleanup(cancel)
	coordinator := &rebootlock.Coordinator{Store: store, Keys: keys, Machine: "coordinator", Now: time.Now, Spread: time.Millisecond}
	client := &rebootlock.Client{Store: store, Keys: keys, Now: time.Now,
		Self: func() rebootlock.Self {
			return rebootlock.Self{Machine: machine, Instance: "i", Boot: "b", Group: "default"}
		},
		Seed: func() *rebootlock.Rules { return &rebootlock.Rules{Max: rebootlock.Max{Count: 1}} }}
	running.Go(func() { coordinator.Run(ctx) })
	running.Go(func() { client.Run(ctx) })
	return &link.Group{Client: client}, rebootlock.Operator{Store: store, Keys: keys, Who: "operator test", Now: time.Now}
}

// eventually waits for what the coordinator does.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-deadline.C:
			t.Fatalf("never: %s", what)
		case <-tick.C:
		}
	}
}

func held(t *testing.T, g *link.Group) {
	t.Helper()
	eventually(t, "the permit", func() bool {
		p, err := g.Acquire(t.Context(), updater.Intent{Reason: "update", From: "1", To: "2"})
		return err == nil && p == updater.Held
	})
}

func TestGroup(t *testing.T) {
	g, o := grouped(t)
	ctx := t.Context()
	if s := standing(t, g); s.Permit != updater.NoPermit || s.Begun {
		t.Errorf("at first: %+v", s)
	}
	held(t, g)
	if s := standing(t, g); s.Permit != updater.Held || s.Begun {
		t.Errorf("granted: %+v", s)
	}
	if err := g.Fence(ctx, updater.PhaseDraining); err != nil {
		t.Fatal(err)
	}
	if s := standing(t, g); !s.Begun {
		t.Errorf("draining: %+v", s)
	}
	if err := o.Freeze(ctx, "default", "incident"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the freeze", func() bool { return len(standing(t, g).Stopped) == 1 })
	if err := g.Fence(ctx, updater.PhaseStaging); err == nil {
		t.Error("the fence was passed under a freeze")
	}
	if err := o.Thaw(ctx, "default"); err != nil {
		t.Fatal(err)
	}
	for ending, what := range map[updater.Ending]string{updater.EndUpdated: "updated", updater.EndRolledBack: "rolled-back", updater.EndRebooted: "rebooted", updater.EndAborted: "aborted"} {
		if err := o.Forgive(ctx, "default", "2"); err != nil {
			t.Fatal(err)
		}
		held(t, g)
		if err := g.Release(ctx, ending, "because "+what); err != nil {
			t.Fatal(err)
		}
		eventually(t, what+" in the journal", func() bool {
			entries, err := o.Journal(ctx, "default", 0)
			return err == nil && slices.ContainsFunc(entries, func(e rebootlock.Entry) bool {
				return e.What == what && strings.Contains(e.Why, "because "+what)
			})
		})
	}
}

// voter is a member of etcd that is as a test wants it.
type voter struct {
	preflight, caughtUp error
	calls               []string
}

func (v *voter) Preflight(context.Context) error {
	v.calls = append(v.calls, "preflight")
	return v.preflight
}
func (v *voter) HandOver(context.Context) error { v.calls = append(v.calls, "hand over"); return nil }
func (v *voter) CaughtUp(context.Context) error {
	v.calls = append(v.calls, "caught up")
	return v.caughtUp
}

// TestMemberOfEtcd: it queues only when the others are well, hands over before
// each phase that ends in a reboot, and keeps its permit until it has caught up.
func TestMemberOfEtcd(t *testing.T) {
	g, _ := grouped(t)
	v := &voter{preflight: errors.New("2 of 3 voters are well")}
	g.Voter = v
	ctx := t.Context()
	if p, err := g.Acquire(ctx, updater.Intent{}); p != updater.NoPermit || err != nil {
		t.Errorf("with etcd not well: %v, %v", p, err)
	}
	if s := standing(t, g); s.Permit != updater.NoPermit || len(s.Waits) == 0 || s.Waits[len(s.Waits)-1].Kind != "etcd" || len(s.Stopped) > 0 {
		t.Errorf("with etcd not well: %+v", s)
	}
	v.preflight = nil
	held(t, g)
	v.preflight = errors.New("one died while this one waited")
	if err := g.Fence(ctx, updater.PhaseDraining); !errors.Is(err, v.preflight) {
		t.Errorf("drain with etcd not well: %v", err)
	}
	v.preflight, v.calls = nil, nil
	if err := g.Fence(ctx, updater.PhaseDraining); err != nil || !slices.Equal(v.calls, []string{"preflight"}) {
		t.Errorf("drain: %v, %v", err, v.calls)
	}
	for _, phase := range []string{updater.PhaseStaging, updater.PhaseRebooting} {
		v.calls = nil
		if err := g.Fence(ctx, phase); err != nil || !slices.Equal(v.calls, []string{"hand over", "preflight"}) {
			t.Errorf("%s: %v, %v", phase, err, v.calls)
		}
	}
	v.preflight = errors.New("2 of 3 voters are well")
	if err := g.Fence(ctx, updater.PhaseRebooting); err == nil {
		t.Error("the fence was passed with etcd not well")
	}
	v.caughtUp = errors.New("120 entries behind")
	if err := g.Release(ctx, updater.EndUpdated, ""); err == nil || standing(t, g).Permit != updater.Held {
		t.Errorf("released before it caught up: %v, %+v", err, standing(t, g))
	}
	v.caughtUp = nil
	if err := g.Release(ctx, updater.EndUpdated, ""); err != nil || standing(t, g).Permit != updater.NoPermit {
		t.Errorf("released: %v, %+v", err, standing(t, g))
	}
}

// TestZoneComesFirst: a limit per zone would not count a machine whose zone is
// still to be found out.
func TestZoneComesFirst(t *testing.T) {
	g, _ := grouped(t)
	unknown := errors.New("the zone is not known yet")
	g.Unready = func() error { return unknown }
	if p, err := g.Acquire(t.Context(), updater.Intent{}); p != updater.NoPermit || err != nil || standing(t, g).Permit != updater.NoPermit {
		t.Errorf("%v, %v", p, err)
	}
	if s := standing(t, g); len(s.Waits) == 0 || !strings.Contains(s.Waits[len(s.Waits)-1].Text, unknown.Error()) {
		t.Errorf("it says %+v", s.Waits)
	}
	unknown = nil
	held(t, g)
}

// TestFleetLockServerAsALock goes against our own server over HTTP.
func TestFleetLockServerAsALock(t *testing.T) {
	g, _ := grouped(t) // for its coordinator
	store := g.Client.Store
	if err := g.Client.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer((&fleetlock.Server{Locks: &fleetlock.Permits{Store: store, Keys: keys, Now: time.Now}}).Handler())
	defer server.Close()
	lock := func(id string) link.FleetLock {
		return link.FleetLock{Lock: &fleetlock.Lock{Client: fleetlock.Client{URL: server.URL, Group: "default", ID: id, HTTP: server.Client()}}}
	}
	a, b, ctx := lock("a"), lock("b"), t.Context()
	if s := standing(t, a); s.Permit != updater.Held || len(s.Stopped) == 0 {
		t.Errorf("before the server was asked: %+v", s)
	}
	for _, l := range []link.FleetLock{a, b} {
		eventually(t, "the first release", func() bool { return l.Release(ctx, updater.EndAborted, "") == nil })
	}
	eventually(t, "a's permit", func() bool { p, err := a.Acquire(ctx, updater.Intent{}); return err == nil && p == updater.Held })
	if err := a.Fence(ctx, updater.PhaseRebooting); err != nil {
		t.Error(err)
	}
	if p, err := b.Acquire(ctx, updater.Intent{}); p != updater.Queued || err != nil {
		t.Errorf("b: %v, %v", p, err)
	}
	if s := standing(t, b); s.Permit != updater.Queued || len(s.Waits) == 0 {
		t.Errorf("b: %+v", s)
	}
	if err := b.Fence(ctx, updater.PhaseRebooting); !errors.Is(err, rebootlock.ErrNotHolder) {
		t.Errorf("b's fence: %v", err)
	}
	if err := a.Release(ctx, updater.EndUpdated, ""); err != nil {
		t.Fatal(err)
	}
	eventually(t, "b's permit", func() bool { p, err := b.Acquire(ctx, updater.Intent{}); return err == nil && p == updater.Held })
}

// TestPublisher: what changes is told soon and together, what does not every few
// minutes, and of what could not be told the latest is kept.
func TestPublisher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []rebootlock.Status
		var away error
		var mu sync.Mutex
		locked := func(f func()) { mu.Lock(); defer mu.Unlock(); f() }
		heard := func() (all []rebootlock.Status) { locked(func() { all = slices.Clone(told) }); return all }
		p := &link.Publisher{To: func(_ context.Context, s rebootlock.Status) error {
			mu.Lock()
			defer mu.Unlock()
			if away == nil {
				told = append(told, s)
			}
			return away
		}}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		defer running.Wait()
		defer cancel()
		running.Go(func() { p.Run(ctx) })
		say := func(s updater.Status) { p.Observe(updater.Event{Status: s}) }
		pass := func(d time.Duration) { <-time.After(d); synctest.Wait() }
		for i := range 50 { // progress alone is no news, but for each tenth
			say(updater.Status{Release: "1", StepName: "write", Progress: float64(i) / 1000})
		}
		pass(10 * time.Second)
		if all := heard(); len(all) != 1 || all[0].Step != "write" {
			t.Fatalf("told %+v", all)
		}
		for _, step := range []string{"lock", "drain", "stage"} {
			say(updater.Status{Release: "1", StepName: step})
		}
		pass(10 * time.Second)
		if all := heard(); len(all) > 3 || all[len(all)-1].Step != "stage" {
			t.Fatalf("told %+v", all)
		}
		before := len(heard())
		pass(10 * time.Minute)
		if n := len(heard()) - before; n < 1 || n > 3 {
			t.Errorf("told %d times in ten minutes without news", n)
		}
		locked(func() { away, before = errors.New("etcd is away"), len(told) })
		for _, step := range []string{"reboot", "unstage", "wait"} {
			say(updater.Status{Release: "1", StepName: step, Reasons: []updater.Reason{{Kind: "lock", Text: "away"}}})
			pass(time.Minute)
		}
		locked(func() { away = nil })
		pass(2 * time.Minute)
		if all := heard()[before:]; len(all) == 0 || all[0].Step != "wait" || len(all[0].Waits) != 1 {
			t.Errorf("when etcd was back: %+v", all)
		}
	})
}

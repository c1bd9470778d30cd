package updater_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/rebootlock/etcdtest"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/link"
)

// together puts the machine into a group of a real etcd, with a coordinator.
// What the lock says of the machine is in the operator's hands.
func (b *bench) together() rebootlock.Operator {
	b.t.Helper()
	etcd := etcdtest.Start(b.t, etcdtest.Options{})
	store, err := rebootlock.DialEtcd(rebootlock.EtcdOptions{Endpoints: etcd.Endpoints()})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { store.Close() })
	keys := rebootlock.Keys{Cluster: "harbour"}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	b.t.Cleanup(running.Wait)
	b.t.Cleanup(cancel)
	running.Go(func() {
		c := &rebootlock.Coordinator{Store: store, Keys: keys, Machine: "coordinator", Now: time.Now, Spread: time.Millisecond}
		c.Run(ctx)
	})
	var current atomic.Pointer[updater.Updater]
	client := &rebootlock.Client{Store: store, Keys: keys, Now: time.Now, Self: b.self,
		Seed:    func() *rebootlock.Rules { return &rebootlock.Rules{Max: rebootlock.Max{Count: 1}} },
		Changed: func() { current.Load().Wake() }}
	b.adjust = func(u *updater.Updater) {
		current.Store(u)
		u.Lock = &link.Group{Client: client}
	}
	current.Store(b.daemon())
	running.Go(func() { client.Run(ctx) })
	return rebootlock.Operator{Store: store, Keys: keys, Who: "operator test", Now: time.Now}
}

func (b *bench) self() rebootlock.Self {
	return rebootlock.Self{Machine: b.machine.ID, Instance: strings.Repeat("a", 32), Boot: "one", Group: "default", Program: "drydock-test"}
}

// journal waits for an entry of what happened to the machine.
func (b *bench) journal(o rebootlock.Operator, what string) (found rebootlock.Entry) {
	b.t.Helper()
	has := func() bool {
		entries, err := o.Journal(b.t.Context(), "default", 0)
		i := slices.IndexFunc(entries, func(e rebootlock.Entry) bool { return e.Machine == b.machine.ID && e.What == what })
		if err == nil && i >= 0 {
			found = entries[i]
		}
		return err == nil && i >= 0
	}
	if b.bounded(has); !has() {
		b.t.Fatalf("the journal never says %q", what)
	}
	return found
}

// TestFreezeInTheMiddleOfADrainOnEtcd: an operator freezes the group while one
// of its machines drains. The watch wakes it, the drain ends, work comes back,
// and the permit ends as aborted; nothing was staged. After the thaw it goes on.
func TestFreezeInTheMiddleOfADrainOnEtcd(t *testing.T) {
	b := ready(t)
	b.stuck, b.drainsNeeded = true, 2
	b.policy.Reboot.RetryPause = 100 * time.Millisecond
	o := b.together()
	u, _ := b.up()
	b.draining(u)
	if err := o.Freeze(t.Context(), "default", "incident 7"); err != nil {
		t.Fatal(err)
	}
	b.until(u, func(s updater.Status) bool { return waiting(s) && s.Permit == "none" && !s.Drained })
	if s := u.Status(); s.Staged || len(b.cluster.Workloads("m")) != 2 {
		t.Errorf("frozen: %+v, workloads %v", s, b.cluster.Workloads("m"))
	}
	if e := b.journal(o, "aborted"); !strings.Contains(e.Why, "incident 7") {
		t.Errorf("the journal says %+v", e)
	}
	if got := b.steps(); slices.Contains(got, "stage") || !slices.Contains(got, "resume") {
		t.Errorf("steps %v", got)
	}
	if err := o.Thaw(t.Context(), "default"); err != nil {
		t.Fatal(err)
	}
	b.left()
}

// TestTakenAwayWhileStagedOnEtcd: the permit is taken away between the flags and
// the reboot, and the machine that cannot hear of it yet learns it at the last
// fence: the flags go back, and the running system stays.
func TestTakenAwayWhileStagedOnEtcd(t *testing.T) {
	b := ready(t)
	b.policy.Reboot.RetryPause = time.Hour
	o := b.together()
	group, fences := b.adjust, 0
	b.adjust = func(u *updater.Updater) {
		group(u)
		inner := u.Lock
		u.Lock = fenced{inner, func(phase string) {
			if phase != updater.PhaseStaging {
				return
			}
			if fences++; fences == 2 { // the one after the hook, right before the flags
				if err := o.TakeAway(context.Background(), "default", b.machine.ID, "test", true); err != nil {
					t.Error(err)
				}
			}
		}}
	}
	u, _ := b.up()
	b.until(u, func(s updater.Status) bool {
		return waiting(s) && s.Permit == "none" && slices.Contains(b.steps(), "unstage")
	})
	if s := u.Status(); s.Staged || s.Drained || b.boot.Err() != nil {
		t.Errorf("after the permit was taken away: %+v", s)
	}
	b.journal(o, "taken-away")
}

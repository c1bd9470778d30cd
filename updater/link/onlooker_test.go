package link_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/rebootlock/window"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/link"
)

// TestOnlookerSeesTheGroupAndIsNotInIt: what keeps the group's machines from a
// permit is seen, and nothing in the store changes for it.
func TestOnlookerSeesTheGroupAndIsNotInIt(t *testing.T) {
	ctx := context.Background()
	store := &rebootlock.Memory{Now: time.Now}
	keys := rebootlock.Keys{Cluster: "test"}
	o := link.Onlooker{Store: store, Keys: keys, Group: "web", Now: time.Now}
	operator := rebootlock.Operator{Store: store, Keys: keys, Who: "ann", Now: time.Now}
	kinds := func(o link.Onlooker) (kinds []string) {
		t.Helper()
		before, err := store.Read(ctx, rebootlock.Range{Prefix: true})
		if err != nil {
			t.Fatal(err)
		}
		s, err := o.Standing(ctx)
		if err != nil || s.Permit != updater.NoPermit {
			t.Fatalf("standing %+v, %v", s, err)
		}
		if after, err := store.Read(ctx, rebootlock.Range{Prefix: true}); err != nil || after.Revision != before.Revision {
			t.Errorf("looking changed the store: revision %d, then %d (%v)", before.Revision, after.Revision, err)
		}
		for _, r := range s.Stopped {
			kinds = append(kinds, r.Kind)
		}
		return kinds
	}
	expect := func(o link.Onlooker, want ...string) {
		t.Helper()
		if got := kinds(o); !slices.Equal(got, want) {
			t.Errorf("in the way: %q, want %q", got, want)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	seeding := o
	seeding.Seeds = true
	expect(o, "rules")
	expect(seeding)

	// A machine joins the cluster, which makes its record, and the onlooker stays out.
	runs, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	member := &rebootlock.Client{Store: store, Keys: keys, Now: time.Now,
		Self: func() rebootlock.Self {
			return rebootlock.Self{Machine: "00000000000000000000000000000001", Instance: "i", Boot: "b", Group: "web"}
		},
		Seed: func() *rebootlock.Rules { return &rebootlock.Rules{Max: rebootlock.Max{Count: 1}} }}
	wg.Go(func() { member.Run(runs) })
	late := time.After(20 * time.Second)
	for {
		v, err := operator.Look(ctx)
		must(err)
		if len(v.Groups) == 1 && v.Groups[0].Rules != nil && v.Groups[0].Present == 1 {
			break
		}
		select {
		case <-late:
			t.Fatalf("never joined: %+v", v)
		case <-time.After(10 * time.Millisecond):
		}
	}
	expect(o)
	must(operator.Freeze(ctx, "web", "exams"))
	expect(o, "freeze")
	must(operator.Thaw(ctx, "web"))
	shut, err := window.Parse(time.Now().UTC().Add(12*time.Hour).Format("15:04"), "1h")
	must(err)
	_, _, err = operator.Apply(ctx, "web", rebootlock.Rules{Max: rebootlock.Max{Count: 1}, Windows: []window.Window{shut}, Timezone: "UTC"})
	must(err)
	if got := kinds(o); !slices.Contains(got, "window") {
		t.Errorf("in the way: %q, want the window", got)
	}
	if v, err := operator.Look(ctx); err != nil || len(v.Machines) != 1 {
		t.Errorf("%d members, %v", len(v.Machines), err)
	}
}

// TestOnlookersOperatorIsRefused: every change ends in the store's refusal.
func TestOnlookersOperatorIsRefused(t *testing.T) {
	ctx := context.Background()
	store := &rebootlock.Memory{Now: time.Now}
	keys := rebootlock.Keys{Cluster: "test"}
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	real := rebootlock.Operator{Store: store, Keys: keys, Now: time.Now}
	_, _, err := real.Apply(ctx, "web", rebootlock.Rules{Max: rebootlock.Max{Count: 1}})
	must(err)
	before, err := store.Read(ctx, rebootlock.Range{Prefix: true})
	must(err)
	o := link.Onlooker{Store: store, Keys: keys, Group: "web", Now: time.Now}.Operator()
	if err := o.Freeze(ctx, "web", "why"); !errors.Is(err, rebootlock.ErrRefused) {
		t.Errorf("freeze: %v", err)
	}
	if _, err := (link.ReadOnly{Store: store}).Session(ctx, time.Minute); !errors.Is(err, rebootlock.ErrRefused) {
		t.Errorf("session: %v", err)
	}
	if after, err := store.Read(ctx, rebootlock.Range{Prefix: true}); err != nil || after.Revision != before.Revision {
		t.Errorf("revision %d, then %d, %v", before.Revision, after.Revision, err)
	}
}

package link_test

import (
	"context"
	"errors"
	"testing"

	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/link"
	"github.com/drydock-os/drydock/updater/policy"
)

func standing(t *testing.T, l updater.RebootLock) updater.Standing {
	t.Helper()
	s, err := l.Standing(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestLock(t *testing.T) {
	ctx, group := context.Background(), &rebootlock.Alone{Max: 1}
	a, b := link.Lock{Group: group, Machine: "a"}, link.Lock{Group: group, Machine: "b"}
	if p, err := a.Acquire(ctx, updater.Intent{Reason: "update"}); p != updater.Held || err != nil {
		t.Errorf("a: %v, %v", p, err)
	}
	if p, err := b.Acquire(ctx, updater.Intent{Reason: "update"}); p != updater.Queued || err != nil {
		t.Errorf("b: %v, %v", p, err)
	}
	if err := b.Fence(ctx, "staging"); err == nil {
		t.Error("b passed the fence without a permit")
	}
	group.Freeze("incident")
	if s := standing(t, a); len(s.Stopped) != 1 || a.Fence(ctx, "staging") == nil {
		t.Errorf("frozen: %+v", s)
	}
	group.Freeze("")
	if err := a.Release(ctx, updater.EndUpdated, ""); err != nil || standing(t, b).Permit != updater.Held {
		t.Errorf("after the release: %v, b %+v", err, standing(t, b))
	}
}

func TestCoordinatedWithoutALockAllowsNothing(t *testing.T) {
	l := link.ByStrategy{Strategy: func() policy.Strategy { return policy.Coordinated }, Alone: link.Lock{Group: &rebootlock.Alone{}, Machine: "a"}}
	if _, err := l.Standing(context.Background()); !errors.Is(err, link.ErrNoLock) {
		t.Errorf("standing: %v", err)
	}
	if p, err := l.Acquire(context.Background(), updater.Intent{}); p == updater.Held || !errors.Is(err, link.ErrNoLock) {
		t.Errorf("acquire: %v, %v", p, err)
	}
	if err := l.Fence(context.Background(), "staging"); !errors.Is(err, link.ErrNoLock) {
		t.Errorf("fence: %v", err)
	}
}

// TestPermitOfTheGroupIsGivenBackAfterTheStrategyChanged: nobody else would.
func TestPermitOfTheGroupIsGivenBackAfterTheStrategyChanged(t *testing.T) {
	ctx, strategy := context.Background(), policy.Coordinated
	group, alone := &rebootlock.Alone{}, &rebootlock.Alone{}
	l := link.ByStrategy{Strategy: func() policy.Strategy { return strategy },
		Group: func() updater.RebootLock { return link.Lock{Group: group, Machine: "a"} }, Alone: link.Lock{Group: alone, Machine: "a"}}
	if p, err := l.Acquire(ctx, updater.Intent{Reason: "update"}); p != updater.Held || err != nil {
		t.Fatalf("%v, %v", p, err)
	}
	strategy = policy.Immediate
	if s := standing(t, l); s.Permit != updater.Held {
		t.Errorf("standing %+v: the group's permit is forgotten", s)
	}
	if err := l.Release(ctx, updater.EndAborted, ""); err != nil || len(group.Holders()) != 0 {
		t.Errorf("%v, holders %v", err, group.Holders())
	}
	if p, err := l.Acquire(ctx, updater.Intent{Reason: "update"}); p != updater.Held || err != nil || len(group.Holders()) != 0 {
		t.Errorf("%v, %v: the next permit is the machine's own", p, err)
	}
}

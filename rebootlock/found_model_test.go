package rebootlock

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// parked keeps requests that write under way, for as long as it is on.
type parked struct {
	Store
	mu   sync.Mutex
	on   bool
	kept []Txn
}

func (p *parked) Commit(ctx context.Context, t Txn) (Result, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.on && len(t.Then) > 0 {
		p.kept = append(p.kept, t)
		return Result{}, errors.New("timed out")
	}
	return p.Store.Commit(ctx, t)
}

// TestReleaseUnderWayEndsNoPermitThatWasFencedSince: the model's mutant
// FENCE_WITHOUT_WRITE.
func TestReleaseUnderWayEndsNoPermitThatWasFencedSince(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarbour(t, Rules{Max: Max{Count: 1}})
		defer h.end()
		c := h.client(1)
		park := &parked{Store: c.Store}
		c.Store = park
		h.run(c)
		if _, err := c.Acquire(t.Context(), Request{To: "2"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if err := c.Fence(t.Context(), PhaseDraining); err != nil {
			t.Fatal(err)
		}
		park.on = true
		if err := c.Release(t.Context(), Aborted, "the drain failed"); err == nil {
			t.Fatal("a release that timed out says that it is done")
		}
		park.on = false
		if err := c.Fence(t.Context(), PhaseDraining); err != nil {
			t.Fatal(err)
		}
		for _, late := range park.kept {
			if r, err := park.Store.Commit(t.Context(), late); r.Done || err != nil {
				t.Errorf("the old release ends the permit of a machine that drains: %+v, %v", r, err)
			}
		}
	})
}

// TestBootBetweenGrantAndFenceIsNoEvidenceOfTheReboot: the model's mutant
// BOOT_OF_THE_GRANT.
func TestBootBetweenGrantAndFenceIsNoEvidenceOfTheReboot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarbour(t, Rules{Max: Max{Count: 1}})
		defer h.end()
		old := h.client(1)
		ctx, stop := context.WithCancel(t.Context())
		var gone sync.WaitGroup
		gone.Go(func() { old.Run(ctx) })
		synctest.Wait()
		if _, err := old.Acquire(t.Context(), Request{To: "2"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		stop()
		gone.Wait()
		c := h.client(1)
		self := c.Self()
		self.Boot = "after-a-crash"
		c.Self = func() Self { return self }
		h.run(c)
		synctest.Wait()
		if err := c.Fence(t.Context(), PhaseRebooting); err != nil {
			t.Fatal(err)
		}
		o := Operator{Store: h.asked, Keys: h.keys, Now: time.Now, Who: "operator ann@laptop"}
		if err := o.TakeAway(t.Context(), testGroup, self.Machine, "why not", false); err == nil {
			t.Error("the permit of a machine that is about to go down was taken away without force")
		}
	})
}

// TestPresenceThatOnlyLingersIsNoEvidenceOfTheReboot: it is older than the fence.
func TestPresenceThatOnlyLingersIsNoEvidenceOfTheReboot(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	y.join("", "a")
	y.ask("a")
	y.want("a")
	p := y.permit("a")
	p.Phase, p.Boot = PhaseRebooting, "second"
	y.write(y.keys.Permit(testGroup, "a"), encode(p, nil))
	o := Operator{Store: y.store, Keys: y.keys, Now: func() time.Time { return y.now }, Who: "operator ann@laptop"}
	if err := o.TakeAway(t.Context(), testGroup, "a", "it hangs", false); err == nil {
		t.Error("taken away on the word of a boot from before the fence")
	}
	y.write(y.keys.Presence("a", "third"), encode(Presence{Version: 1, Machine: "a", Boot: "third"}, nil))
	if err := o.TakeAway(t.Context(), testGroup, "a", "it is back", false); err != nil {
		t.Errorf("it is back: %v", err)
	}
}

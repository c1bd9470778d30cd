package main

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// A rollout: machines on permits, each down for hold; killed of them never come
// back, and an operator takes their permits away at the deadline.
const (
	rolloutMachines = 1000
	rolloutPermits  = 10
	rolloutHold     = time.Second
	rolloutDeadline = 2 * time.Second
)

func rollouts(ctx context.Context, s *server) error {
	fmt.Printf("\n| rollout of %d machines on %d permits, %s each | bound, s | took, s | over the bound |\n|---|---|---|---|\n", rolloutMachines, rolloutPermits, rolloutHold)
	for _, killed := range []int{0, rolloutMachines / 100} {
		l := load_{rolloutMachines, rolloutPermits, rolloutHold}
		f, err := openDrydock(ctx, s, l)
		if err != nil {
			return err
		}
		took, err := rollOut(ctx, f.(*drydock), killed)
		f.close()
		if err != nil {
			return err
		}
		bound := (time.Duration(rolloutMachines-killed)*rolloutHold + time.Duration(killed)*rolloutDeadline) / rolloutPermits
		fmt.Printf("| %d holders killed | %.1f | %.2f | %.2f %% |\n", killed, bound.Seconds(), took.Seconds(), 100*(took.Seconds()/bound.Seconds()-1))
	}
	return nil
}

// rollOut returns the time from the thaw to the last release.
func rollOut(ctx context.Context, d *drydock, killed int) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var last time.Time
	var failed error
	for i := range d.machines {
		wg.Go(func() {
			err := d.reboot(ctx, i, killed > 0 && i%(rolloutMachines/killed) == 7)
			mu.Lock()
			defer mu.Unlock()
			last = time.Now()
			if err != nil {
				failed = err
			}
		})
	}
	began := d.open(ctx, len(d.machines))
	wg.Wait()
	return last.Sub(began), failed
}

// reboot is one machine's turn. One that dies is taken from by the operator.
func (d *drydock) reboot(ctx context.Context, i int, dies bool) error {
	if err := d.acquire(ctx, i); err != nil {
		return err
	}
	if !dies {
		if err := wait(ctx, rolloutHold); err != nil {
			return err
		}
		return d.release(ctx, i)
	}
	if err := wait(ctx, rolloutDeadline); err != nil {
		return err
	}
	machine := d.machines[i].Self().Machine
	if err := d.operator.TakeAway(ctx, group, machine, "it is past its deadline", true); err != nil {
		return err
	}
	return d.operator.Remove(ctx, machine, "it is dead", true)
}

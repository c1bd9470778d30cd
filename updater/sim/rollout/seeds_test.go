package rollout

import (
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
)

// TestManySeeds looks for a seed that finds something: DRYDOCK_SEEDS says how
// many are tried, from DRYDOCK_FIRST_SEED on.
func TestManySeeds(t *testing.T) {
	n, err := strconv.ParseUint(os.Getenv("DRYDOCK_SEEDS"), 10, 64)
	if err != nil {
		t.Skip("DRYDOCK_SEEDS is not set: the seeds of TestFaults are enough")
	}
	first, _ := strconv.ParseUint(os.Getenv("DRYDOCK_FIRST_SEED"), 10, 64)
	for seed := first; seed < first+n; seed++ {
		c := Config{Machines: 5 + int(seed%37), Max: permits(1 + int(seed%5)), Seed: seed, Faults: []float64{0.1, 0.5, 1}[seed%3]}
		c.Reboot = []time.Duration{time.Second, 20 * time.Second, 3 * time.Minute, time.Hour}[seed/3%4]
		switch seed % 7 {
		case 1, 2:
			c.Zones, c.ZoneMax = 3, 1+int(seed%2)
		case 3:
			c.Zones, c.OneZone = 3, true
		case 4:
			c.Max = rebootlock.Max{Percent: 20}
		case 5:
			c.Deadline = c.Reboot
		}
		r, _ := simulate(t, c)
		sound(t, r)
		if t.Failed() {
			t.Fatalf("%+v", c)
		}
	}
}

// once are the kinds that there were when a seed found something: with others it
// draws another rollout.
var once = kinds[:slices.Index(kinds, freeze)]

// TestPermitThatNobodySaw: while etcd was away, machines were granted permits
// that were taken away again before they could look; they believed themselves in
// the queue, where they were not.
func TestPermitThatNobodySaw(t *testing.T) {
	for _, c := range []Config{
		{Machines: 17, Max: permits(3), Reboot: time.Second, Deadline: time.Second, Faults: 0.1, Seed: 12},
		{Machines: 19, Max: permits(5), Reboot: time.Second, Faults: 1, Seed: 14},
	} {
		c.kinds = once
		r, _ := simulate(t, c)
		if sound(t, r); r.Makespan > 300 {
			t.Errorf("seed %d: it took %v s", c.Seed, r.Makespan)
		}
	}
}

// TestPermitGoneDuringTheHook: a post-install hook takes its time, in which a
// permit can be taken away; the boot flags were set all the same.
func TestPermitGoneDuringTheHook(t *testing.T) {
	r, _ := simulate(t, Config{Machines: 15, Max: permits(3), Reboot: time.Hour, Deadline: time.Hour, Faults: 1, Seed: 47, kinds: once})
	sound(t, r)
}

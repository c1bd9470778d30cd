package rollout

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
)

func permits(n int) rebootlock.Max { return rebootlock.Max{Count: n} }

// simulate runs c, and says which seed it had.
func simulate(t *testing.T, c Config) (Result, *Timeline) {
	t.Helper()
	if c.Reboot == 0 {
		c.Reboot = 3 * time.Minute
	}
	r, line, err := Run(context.Background(), c)
	if err != nil {
		t.Fatalf("seed %d: %v", c.Seed, err)
	}
	text, _ := json.MarshalIndent(r, "", " ")
	t.Logf("%s", text)
	return r, line
}

func TestTen(t *testing.T) {
	simulate(t, Config{Machines: 10, Max: permits(2), Seed: 1})
}

func TestBig(t *testing.T) {
	simulate(t, Config{Machines: 1000, Max: permits(10), Seed: 1, Scratch: "/dev/shm"})
}
func TestBigFaults(t *testing.T) {
	simulate(t, Config{Machines: 1000, Max: permits(10), Seed: 1, Faults: 0.05, Scratch: "/dev/shm"})
}

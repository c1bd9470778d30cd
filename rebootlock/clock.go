package rebootlock

import (
	"errors"
	"fmt"
	"time"
)

// errClock ends the reign of a coordinator whose clock is not the fleet's.
var errClock = errors.New("this machine's clock is not the fleet's")

// witnesses is how many machines in a row must contradict the coordinator's
// clock: one of them may be the one that is wrong.
const witnesses = 3

// clock is what a coordinator learns of its own clock from those who write: a
// record that came to be a moment ago tells the time at which it was written.
// Windows and deadlines of the whole fleet hang on it.
type clock struct {
	against map[string]time.Duration // by machine: how much later it is by this clock
}

// hear takes one machine's word, written a moment ago.
func (c *clock) hear(machine string, now, its time.Time) {
	if its.IsZero() {
		return
	}
	off := now.Sub(its)
	if off.Abs() <= maxSkew {
		c.against = nil
		return
	}
	if c.against == nil {
		c.against = map[string]time.Duration{}
	}
	c.against[machine] = off
}

// wrong says that too many machines have another time.
func (c *clock) wrong() error {
	if len(c.against) < witnesses {
		return nil
	}
	for machine, off := range c.against {
		return fmt.Errorf("%w: the last %d machines that wrote have another time (%s by %s); set this machine's clock (timedatectl)", errClock, len(c.against), short(machine), (-off).Round(time.Second))
	}
	return nil
}

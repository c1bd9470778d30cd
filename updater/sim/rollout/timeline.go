package rollout

import "time"

// A step is what a machine is at, as a timeline shows it.
type step uint8

const (
	idle step = iota // has not asked for anything yet
	writing
	queued
	draining
	staging
	rebooting
	validating
	off  // without power
	good // updated, and at rest
	back // rolled back, and at rest
	lost // died with a permit
)

// A Timeline is what each machine was at, and since when.
type Timeline struct {
	config Config
	end    time.Duration
	lines  [][]mark // by machine
}

// mark is the beginning of a step.
type mark struct {
	at   time.Duration
	step step
}

func newTimeline(c Config) *Timeline { return &Timeline{config: c, lines: make([][]mark, c.Machines)} }

func (t *Timeline) mark(machine int, s step, now time.Time) {
	at := now.Sub(start)
	t.end = max(t.end, at)
	line := t.lines[machine]
	if n := len(line); n > 0 && line[n-1].step == s {
		return
	}
	t.lines[machine] = append(line, mark{at, s})
}

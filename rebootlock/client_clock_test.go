package rebootlock

import (
	"context"
	"strings"
	"testing"
	"time"
)

// later lets time pass, and the coordinator work.
func (y *yard) later(d time.Duration) {
	y.now = y.now.Add(d)
	y.held()
}

func TestClockThatIsADayWrong(t *testing.T) {
	for name, off := range map[string]time.Duration{"ahead": 24 * time.Hour, "behind": -24 * time.Hour, "7 minutes ahead": 7 * time.Minute, "6 minutes behind": -6 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			y := newYard(t, Rules{Max: Max{Count: 1}})
			a, b := y.ship(1), y.ship(2)
			y.held()
			a.off = off
			a.is(None)
			b.is(None)
			y.later(time.Minute)
			a.stopped("clock")
			if _, err := a.Acquire(context.Background(), Request{}); err == nil {
				t.Error("it asks for a permit that it may not use")
			}
			b.hold()
			b.fence(PhaseStaging)
			b.release(Aborted)
			a.off = 0
			a.stopped("clock") // until a newer word
			y.later(time.Minute)
			a.hold()
			a.fence(PhaseStaging)
		})
	}
}

// TestGrantTellsTheTime: a machine that has heard of no stamp since it came up
// sees by its permit that its clock is wrong.
func TestGrantTellsTheTime(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	y.held() // a stamp; the next one is not due before the grant
	a := y.ship(1)
	a.off = 25 * time.Hour
	a.ask()
	y.held()
	a.is(Holding)
	a.stopped("clock")
	if s := a.state(); !strings.Contains(s.Stops[0].Text, "25h0m0s ahead") {
		t.Errorf("%v", s.Stops)
	}
}

// TestOldStampIsNoClock: the coordinator was away for hours, and so was the
// store; nothing of that is this machine's clock.
func TestOldStampIsNoClock(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	y.held()
	y.now = y.now.Add(5 * time.Hour)
	a := y.ship(1)
	a.is(None)
	y.now = y.now.Add(3 * time.Hour)
	if s := a.state(); len(s.Stops) > 0 || !has(s.Waits, "coordinator") {
		t.Errorf("%+v", s)
	}
	y.held() // it is back, and then goes again
	y.now = y.now.Add(2 * time.Hour)
	if s := a.state(); len(s.Stops) > 0 || has(s.Waits, "coordinator") {
		t.Errorf("%+v", s)
	}
	y.now = y.now.Add(59 * time.Second)
	if s := a.state(); has(s.Waits, "coordinator") {
		t.Errorf("stalled after a minute less a second: %v", s.Waits)
	}
	y.now = y.now.Add(time.Second)
	if s := a.state(); !has(s.Waits, "coordinator") {
		t.Errorf("not stalled after a minute: %v", s.Waits)
	}
	a.ask()
	a.is(Queued)
}

func TestNobodyCoordinates(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	y.write(y.keys.Stamp(), nil)
	a := y.ship(1)
	if s := a.state(); !has(s.Waits, "coordinator") || len(s.Stops) > 0 {
		t.Errorf("%+v", s)
	}
	y.write(y.keys.Stamp(), encode(Stamp{Version: 1, Coordinator: "c", At: y.now, Trouble: "a record cannot be read"}, nil))
	if s := a.state(); !strings.Contains(s.Waits[0].Text, "a record cannot be read") {
		t.Errorf("%+v", s.Waits)
	}
	y.write(y.keys.Stamp(), []byte("?"))
	if s := a.state(); !has(s.Waits, "coordinator") {
		t.Errorf("%+v", s.Waits)
	}
}

// TestFailureOfNoReleaseStopsNoMachine: one that asks for nothing has no release
// that could be stopped.
func TestFailureOfNoReleaseStopsNoMachine(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	y.write(y.keys.Failures(testGroup), encode(Failures{Version: 1, Failed: []Failure{{Machine: "m"}}}, nil))
	a := y.ship(1)
	if s := a.state(); len(s.Stops) > 0 {
		t.Errorf("%v", s.Stops)
	}
	a.ask()
	if s := a.state(); len(s.Stops) > 0 {
		t.Errorf("%v", s.Stops)
	}
}

func TestOverdueAndBlockedAreToldToPeople(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}, Deadline: Duration(time.Hour)})
	a, b := y.ship(1), y.ship(2)
	a.hold()
	a.fence(PhaseRebooting)
	b.ask()
	y.later(time.Minute)
	if s := b.state(); s.Queue != 1 || !has(s.Waits, "full") || s.Ticket == nil || s.Ticket.To != "2" {
		t.Errorf("queued: %+v", s)
	}
	y.later(time.Hour)
	if s := a.state(); !has(s.Waits, "overdue") {
		t.Errorf("overdue: %+v", s.Waits)
	}
	a.stopped("stopped") // it failed its release by that
	a.release(Updated)
}

package policy

import "time"

// MaxPoll is the longest time between two checks that a server can ask for or
// bring about by its failures (update_engine, update_check_scheduler.cc).
const MaxPoll = 4 * time.Hour

// A Random returns a uniform number from 0 to n-1, for n above 0, as
// math/rand/v2's Int64N does.
type Random func(n int64) int64

// NextCheck returns when to check after last: interval later, spread uniformly
// over jitter around it, from interval-jitter/2 to interval+jitter-jitter/2, to
// the whole second, as upstream spreads them, and never before last.
func NextCheck(last time.Time, interval, jitter time.Duration, random Random) time.Time {
	width := max(int64(jitter/time.Second), 0)
	start := int64(interval/time.Second) - width/2
	return last.Add(time.Duration(max(start+random(width+1), 0)) * time.Second)
}

// An Answer is what the last update check says about the next one.
type Answer struct {
	Poll       time.Duration // the server's PollInterval; 0: it named none
	Overloaded bool          // HTTP status 500 or 503
	Interval   time.Duration // that was waited for before it, without its jitter
}

// NextInterval returns the interval to the next check and its jitter, for
// NextCheck. A server's PollInterval comes first, then twice the last interval
// for an overloaded one, both at most MaxPoll and never below CheckInterval,
// which is also what holds otherwise: a server can slow a machine down and
// cannot speed it up. Any interval but CheckInterval is spread over its own
// width, by half of it each way.
func (u Update) NextInterval(last Answer) (interval, jitter time.Duration) {
	switch {
	case last.Poll > 0:
		interval = last.Poll
	case last.Overloaded:
		interval = min(last.Interval, MaxPoll) * 2
	}
	interval = min(interval, MaxPoll)
	if interval <= u.CheckInterval {
		return u.CheckInterval, u.CheckJitter
	}
	return interval, interval
}

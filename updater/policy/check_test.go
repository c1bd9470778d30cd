package policy

import (
	"math/rand/v2"
	"testing"
	"time"
)

// The bounds of upstream's spread: 40 to 50 minutes in the usual case, 2 to 12
// for the first check, half the interval each way for any other.
func TestNextCheckSpread(t *testing.T) {
	last := time.Unix(1e9, 0)
	for _, tt := range []struct{ interval, jitter, low, high time.Duration }{
		{45 * time.Minute, 10 * time.Minute, 40 * time.Minute, 50 * time.Minute},
		{7 * time.Minute, 10 * time.Minute, 2 * time.Minute, 12 * time.Minute},
		{4 * time.Hour, 4 * time.Hour, 2 * time.Hour, 6 * time.Hour},
		{time.Minute, 3 * time.Second, 59 * time.Second, 62 * time.Second},
		{time.Minute, 0, time.Minute, time.Minute},
		{time.Minute, -time.Hour, time.Minute, time.Minute},
		{time.Second, time.Hour, 0, time.Second + 30*time.Minute},
	} {
		least := NextCheck(last, tt.interval, tt.jitter, func(int64) int64 { return 0 }).Sub(last)
		most := NextCheck(last, tt.interval, tt.jitter, func(n int64) int64 { return n - 1 }).Sub(last)
		if least != tt.low || most != tt.high {
			t.Errorf("%v spread over %v: %v to %v, want %v to %v", tt.interval, tt.jitter, least, most, tt.low, tt.high)
		}
		for range 100 {
			if got := NextCheck(last, tt.interval, tt.jitter, rand.Int64N).Sub(last); got < tt.low || got > tt.high {
				t.Errorf("%v spread over %v: %v", tt.interval, tt.jitter, got)
			}
		}
	}
}

func TestNextInterval(t *testing.T) {
	usual := Default().Update
	daily := Update{CheckInterval: 24 * time.Hour, CheckJitter: time.Hour}
	for _, tt := range []struct {
		name             string
		update           Update
		last             Answer
		interval, jitter time.Duration
	}{
		{"nothing said", usual, Answer{Interval: time.Hour}, 45 * time.Minute, 10 * time.Minute},
		{"PollInterval below the floor", usual, Answer{Poll: 120 * time.Second}, 45 * time.Minute, 10 * time.Minute},
		{"PollInterval", usual, Answer{Poll: 2 * time.Hour}, 2 * time.Hour, 2 * time.Hour},
		{"PollInterval past the ceiling", usual, Answer{Poll: 90 * time.Hour}, 4 * time.Hour, 4 * time.Hour},
		{"PollInterval below nothing", usual, Answer{Poll: -time.Hour}, 45 * time.Minute, 10 * time.Minute},
		{"overloaded", usual, Answer{Overloaded: true, Interval: 45 * time.Minute}, 90 * time.Minute, 90 * time.Minute},
		{"overloaded again", usual, Answer{Overloaded: true, Interval: 90 * time.Minute}, 3 * time.Hour, 3 * time.Hour},
		{"overloaded for long", usual, Answer{Overloaded: true, Interval: 3 * time.Hour}, 4 * time.Hour, 4 * time.Hour},
		{"overloaded at the first check", usual, Answer{Overloaded: true, Interval: 7 * time.Minute}, 45 * time.Minute, 10 * time.Minute},
		{"overloaded after for ever", usual, Answer{Overloaded: true, Interval: 1<<63 - 1}, 4 * time.Hour, 4 * time.Hour},
		{"PollInterval of an overloaded server", usual, Answer{Overloaded: true, Poll: time.Hour, Interval: 2 * time.Hour}, time.Hour, time.Hour},
		{"the operator is slower than the ceiling", daily, Answer{Poll: time.Hour}, 24 * time.Hour, time.Hour},
	} {
		interval, jitter := tt.update.NextInterval(tt.last)
		if interval != tt.interval || jitter != tt.jitter {
			t.Errorf("%s: %v, %v, want %v, %v", tt.name, interval, jitter, tt.interval, tt.jitter)
		}
	}
}

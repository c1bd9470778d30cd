// Package window says when reboots and downloads are allowed: spans of time that come back, by the clock of a zone.
package window

import (
	"slices"
	"time"
)

// A Schedule is when something is allowed: in any of several windows, by the
// clock of one zone.
type Schedule struct {
	Windows  []Window       // empty: always
	Location *time.Location // nil: UTC
}

// horizon is how far Until and Next look. Every window opens at least once in
// eight days; a fortnight leaves room for a zone that skips a day.
const horizon = 14 * 24 * time.Hour

// Open reports whether s allows it at now.
func (s Schedule) Open(now time.Time) bool {
	return len(s.Windows) == 0 || slices.ContainsFunc(s.spans(now, now), func(o span) bool { return o.contains(now) })
}

// Until returns when s, open at now, closes: windows that touch or overlap
// count as one. It is now for a schedule that is closed, and the zero time for
// one that stays open for a fortnight or longer.
func (s Schedule) Until(now time.Time) (closes time.Time) {
	if len(s.Windows) == 0 {
		return time.Time{}
	}
	closes = now
	for _, o := range s.spans(now, now.Add(horizon)) {
		if o.contains(closes) {
			closes = o.closes
		}
	}
	if closes.Sub(now) >= horizon {
		return time.Time{}
	}
	return closes
}

// Next returns when s opens next: now, if it is open. It is false where no
// window ever opens.
func (s Schedule) Next(now time.Time) (opens time.Time, ok bool) {
	if s.Open(now) {
		return now, true
	}
	for _, o := range s.spans(now, now.Add(horizon)) {
		if o.opens.After(now) {
			return o.opens, true
		}
	}
	return time.Time{}, false
}

// spans returns the openings of all windows between from and to, by their
// opening.
func (s Schedule) spans(from, to time.Time) []span {
	loc := s.Location
	if loc == nil {
		loc = time.UTC
	}
	var all []span
	for _, w := range s.Windows {
		all = append(all, w.spans(from, to, loc)...)
	}
	slices.SortFunc(all, func(a, b span) int { return a.opens.Compare(b.opens) })
	return all
}

package window

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Window is a span of time that comes back every day, or on some days of the
// week. It opens at Start by the clock of a zone and closes when Length has
// elapsed; the closing instant is outside. What begins on a day belongs to that
// day, also past midnight: "Fri 22:00" for 4h is open on Saturday at 01:00.
//
// Where clocks change, Length is still elapsed time, so that a window of four
// hours is open for four hours on every day of the year; by the clock it then
// closes an hour later in spring and an hour earlier in autumn. A Start in the
// hour that spring skips opens when the clocks jump. A Start in the hour that
// autumn shows twice opens at the first of the two, and once.
type Window struct {
	Start  Start         `mapstructure:"start"`
	Length time.Duration `mapstructure:"length"`
}

// Longest windows, both exclusive, as in locksmith (pkg/timeutil/periodic.go):
// one that reached its own next opening would never close.
const (
	maxDaily  = 24 * time.Hour
	maxWeekly = 7 * 24 * time.Hour
)

// Parse reads a start as ParseStart does, and a length like "1h30m". It
// takes what locksmith takes as REBOOT_WINDOW_START and REBOOT_WINDOW_LENGTH,
// but for trailing garbage and an empty length.
func Parse(start, length string) (Window, error) {
	s, err := ParseStart(start)
	if err != nil {
		return Window{}, err
	}
	d, err := time.ParseDuration(length)
	if err != nil {
		return Window{}, fmt.Errorf("parse length: %w", err)
	}
	w := Window{Start: s, Length: d}
	return w, w.Check()
}

// MarshalJSON returns w as {"start": "Sat 02:00", "length": "4h0m0s"}.
func (w Window) MarshalJSON() ([]byte, error) {
	return json.Marshal(text{Start: w.Start, Length: w.Length.String()})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (w *Window) UnmarshalJSON(data []byte) error {
	var t text
	if err := json.Unmarshal(data, &t); err != nil {
		return err
	}
	d, err := time.ParseDuration(t.Length)
	if err != nil {
		return fmt.Errorf("parse length: %w", err)
	}
	*w = Window{Start: t.Start, Length: d}
	return w.Check()
}

// text is a Window as JSON has it.
type text struct {
	Start  Start  `json:"start"`
	Length string `json:"length"`
}

// Contains reports whether w is open at t by the clock of loc.
func (w Window) Contains(t time.Time, loc *time.Location) bool {
	return slices.ContainsFunc(w.spans(t, t, loc), func(s span) bool { return s.contains(t) })
}

// String returns w as "Sat 02:00 for 4h0m0s".
func (w Window) String() string { return w.Start.String() + " for " + w.Length.String() }

// Check says why w is no window: it opens for no time, or for too long.
func (w Window) Check() error {
	limit, kind := maxDaily, "a daily window must be shorter than 24h"
	if w.Start.Days != 0 {
		limit, kind = maxWeekly, "a weekly window must be shorter than 168h"
	}
	switch {
	case w.Length <= 0:
		return fmt.Errorf("%v is not a length: a window is open for more than 0s", w.Length)
	case w.Length >= limit:
		return fmt.Errorf("%v is too long: %s; for always, leave windows out", w.Length, kind)
	}
	return nil
}

// spans returns the openings of w that can touch the time between from and to,
// in the order of their days, and perhaps a few before and after.
func (w Window) spans(from, to time.Time, loc *time.Location) []span {
	if w.Length <= 0 {
		return nil
	}
	var out []span
	// A day past the last: clocks that are put back over midnight show the day
	// before again.
	last := date(to, loc).AddDate(0, 0, 1)
	for day := date(from.Add(-w.Length), loc); !day.After(last); day = day.AddDate(0, 0, 1) {
		if w.Start.Days.Has(day.Weekday()) {
			opens := w.Start.on(day, loc)
			out = append(out, span{opens, opens.Add(w.Length)})
		}
	}
	return out
}

// date returns the midnight of UTC that has the date that t has in loc.
func date(t time.Time, loc *time.Location) time.Time {
	y, m, d := t.In(loc).Date()
	return time.Date(y, m, d, 0, 0, 0, 0, time.UTC)
}

// A span is one opening of a window.
type span struct{ opens, closes time.Time }

func (s span) contains(t time.Time) bool { return !t.Before(s.opens) && t.Before(s.closes) }

// A Start is a time of day, on some days of the week.
type Start struct {
	Days   Days // none: every day
	Hour   int  // 0 to 23
	Minute int  // 0 to 59
}

// ParseStart reads "02:00" (every day) or days before it: "Sat 02:00",
// "Mon-Fri 22:00", "Mon-Wed,Sat 04:30". Days are English, short or in full, in
// any case; a range may go over the week's end, as in "Fri-Mon".
func ParseStart(s string) (Start, error) {
	fields := strings.Fields(s)
	var start Start
	var err error
	switch len(fields) {
	case 1:
	case 2:
		if start.Days, err = parseDays(fields[0]); err != nil {
			return Start{}, fmt.Errorf("%q is no start: %w", s, err)
		}
	default:
		return Start{}, fmt.Errorf("%q is no start: write a time of day, with or without days: \"02:00\", \"Sat 02:00\" or \"Mon-Fri 22:00\"", s)
	}
	hour, minute, _ := strings.Cut(fields[len(fields)-1], ":")
	var okHour, okMinute bool
	start.Hour, okHour = clockNumber(hour, 1, 23)
	start.Minute, okMinute = clockNumber(minute, 2, 59)
	if !okHour || !okMinute {
		return Start{}, fmt.Errorf("%q is no start: the time of day is \"00:00\" to \"23:59\"", s)
	}
	return start, nil
}

// clockNumber reads a number of width to two digits, up to limit.
func clockNumber(s string, width, limit int) (int, bool) {
	if len(s) < width || len(s) > 2 || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.Atoi(s)
	return n, err == nil && n <= limit
}

// String returns s in a form that ParseStart reads back.
func (s Start) String() string {
	clock := fmt.Sprintf("%02d:%02d", s.Hour, s.Minute)
	if s.Days == 0 {
		return clock
	}
	return s.Days.String() + " " + clock
}

// UnmarshalText reads what ParseStart reads.
func (s *Start) UnmarshalText(text []byte) (err error) {
	*s, err = ParseStart(string(text))
	return err
}

// MarshalText returns what String does.
func (s Start) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// on returns the first instant at which the clock of loc shows s on the date of
// day, a midnight of UTC, or the instant of the jump that skips it.
func (s Start) on(day time.Time, loc *time.Location) time.Time {
	wall := day.Add(time.Duration(s.Hour)*time.Hour + time.Duration(s.Minute)*time.Minute)
	y, m, d := day.Date()
	t := time.Date(y, m, d, s.Hour, s.Minute, 0, 0, loc)
	opens, closes := t.ZoneBounds()
	switch shown := clockAsUTC(t); {
	case shown.After(wall): // the jump is behind t
		return opens
	case shown.Before(wall): // the jump is ahead of t
		return closes
	}
	if opens.IsZero() {
		return t
	}
	// The same clock reading may have been shown before the last change too.
	_, before := opens.Add(-1).Zone()
	if earlier := wall.Add(-time.Duration(before) * time.Second); earlier.Before(opens) {
		return earlier.In(loc)
	}
	return t
}

// clockAsUTC returns what the clock shows at t as if it were UTC, so that two
// readings can be compared.
func clockAsUTC(t time.Time) time.Time {
	_, offset := t.Zone()
	return t.UTC().Add(time.Duration(offset) * time.Second)
}

package rebootlock

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/drydock-os/drydock/rebootlock/window"
)

// Rules are what a group's lock goes by (RECORDS.md, section 6). One record in
// the store holds them; nothing else does.
type Rules struct {
	Version   int             `json:"version"`
	Max       Max             `json:"max"`                  // permits that there are
	ZoneMax   int             `json:"zone_max,omitempty"`   // of them in one zone; 0: no limit
	OneZone   bool            `json:"one_zone,omitempty"`   // all holders are in one zone
	Pause     Duration        `json:"pause,omitempty"`      // between the end of a reboot and the next grant
	Windows   []window.Window `json:"windows,omitempty"`    // when permits are granted; empty: always
	Timezone  string          `json:"timezone,omitempty"`   // of Windows: IANA name; empty: UTC
	Deadline  Duration        `json:"deadline,omitempty"`   // for a holder, from the grant; 0: DefaultDeadline
	OnOverdue OnOverdue       `json:"on_overdue,omitempty"` // "": stop
	StopAfter *int            `json:"stop_after,omitempty"` // failures of one release that stop it; nil: 1; 0: never
	Freeze    *Freeze         `json:"freeze,omitempty"`
	Extra     Extra           `json:"-"`
}

// DefaultDeadline is how long a holder has where the rules do not say: a drain
// of half an hour, a reboot, and a trial of a quarter.
const DefaultDeadline = 2 * time.Hour

// OnOverdue says what follows when a holder is past its deadline.
type OnOverdue string

// What follows. The permit stays with its holder but for TakeAwayOverdue.
const (
	StopOverdue     OnOverdue = "stop"      // it counts as failed: the release stops after Rules.StopAfter of them
	WaitOverdue     OnOverdue = "wait"      // it is said, and nothing else
	TakeAwayOverdue OnOverdue = "take-away" // as stop, and the permit is taken away: the next may reboot while this one may be down
)

// Max is a number of permits, or a share of the group's members.
type Max struct {
	Count   int // permits; 0 where Percent is set
	Percent int // of the members, rounded down, at least one
}

// ParseMax reads "2" or "25%".
func ParseMax(s string) (Max, error) {
	number, percent := strings.CutSuffix(s, "%")
	n, err := strconv.Atoi(number)
	if err != nil {
		return Max{}, fmt.Errorf("%q is no number of permits: write \"2\" or \"25%%\"", s)
	}
	m := Max{Count: n}
	if percent {
		m = Max{Percent: n}
		if n == 0 {
			return Max{}, m.refuse()
		}
	}
	return m, m.check()
}

func (m Max) refuse() error {
	return fmt.Errorf("max is %s: it is at least 1, or 1%% to 100%% (to let nothing reboot, freeze the group)", m)
}

func (m Max) check() error {
	if m.Percent != 0 && m.Count != 0 || m.Percent < 0 || m.Percent > 100 || m.Percent == 0 && m.Count < 1 {
		return m.refuse()
	}
	return nil
}

// Of returns the permits of a group with so many members.
func (m Max) Of(members int) int {
	if m.Percent > 0 {
		return max(1, members*m.Percent/100)
	}
	return m.Count
}

// String returns "2" or "25%".
func (m Max) String() string {
	if m.Percent != 0 {
		return strconv.Itoa(m.Percent) + "%"
	}
	return strconv.Itoa(m.Count)
}

// MarshalJSON writes 2 or "25%".
func (m Max) MarshalJSON() ([]byte, error) {
	if m.Percent != 0 {
		return json.Marshal(m.String())
	}
	return json.Marshal(m.Count)
}

// UnmarshalJSON reads 2, "2" or "25%".
func (m *Max) UnmarshalJSON(data []byte) (err error) {
	var n int
	if json.Unmarshal(data, &n) == nil {
		*m = Max{Count: n}
		return m.check()
	}
	var s string
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("max: %w", err)
	}
	*m, err = ParseMax(s)
	return err
}

// UnmarshalText reads what ParseMax reads.
func (m *Max) UnmarshalText(text []byte) (err error) {
	*m, err = ParseMax(string(text))
	return err
}

// maxWindows bounds a group's windows: each is looked at with every grant.
const maxWindows = 100

// Check says why r cannot be a group's rules.
func (r Rules) Check() error {
	var problems []error
	if err := r.Max.check(); err != nil {
		problems = append(problems, err)
	}
	if r.ZoneMax < 0 {
		problems = append(problems, fmt.Errorf("zone_max is %d: it is 0 for no limit, or more", r.ZoneMax))
	}
	if r.Pause < 0 || r.Deadline < 0 {
		problems = append(problems, errors.New("pause and deadline are not negative"))
	}
	if r.StopAfter != nil && *r.StopAfter < 0 {
		problems = append(problems, fmt.Errorf("stop_after is %d: it is 0 for never, or more", *r.StopAfter))
	}
	switch r.OnOverdue {
	case "", StopOverdue, WaitOverdue, TakeAwayOverdue:
	default:
		problems = append(problems, fmt.Errorf("on_overdue is %q: it is %q, %q or %q", r.OnOverdue, StopOverdue, WaitOverdue, TakeAwayOverdue))
	}
	if len(r.Windows) > maxWindows {
		problems = append(problems, fmt.Errorf("%d windows: %d are the most", len(r.Windows), maxWindows))
	}
	for i, w := range r.Windows {
		if err := w.Check(); err != nil {
			problems = append(problems, fmt.Errorf("windows[%d]: %w", i, err))
		}
	}
	if _, err := r.schedule(); err != nil {
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}

// schedule is when permits are granted.
func (r Rules) schedule() (window.Schedule, error) {
	if r.Timezone == "Local" {
		return window.Schedule{}, errors.New("timezone is \"Local\": every coordinator would have its own; name one, like \"Europe/Berlin\"")
	}
	loc, err := time.LoadLocation(r.Timezone)
	if err != nil {
		return window.Schedule{}, fmt.Errorf("timezone is %q, which is no time zone: write a name of the IANA database, like \"Europe/Berlin\", or \"UTC\": %w", r.Timezone, err)
	}
	return window.Schedule{Windows: r.Windows, Location: loc}, nil
}

// deadline is how long a holder has.
func (r Rules) deadline() time.Duration {
	if r.Deadline == 0 {
		return DefaultDeadline
	}
	return time.Duration(r.Deadline)
}

// stopAfter is how many failures stop a release; 0: none does.
func (r Rules) stopAfter() int {
	if r.StopAfter == nil {
		return 1
	}
	return *r.StopAfter
}

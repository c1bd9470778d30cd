package window

import (
	"fmt"
	"strings"
	"time"
)

// Days is a set of days of the week: bit 0 is Sunday, as in time.Weekday. The
// empty set stands for every day.
type Days uint8

// Has reports whether d holds day.
func (d Days) Has(day time.Weekday) bool { return d == 0 || d&(1<<day) != 0 }

// String lists the days from Monday on, "Mon,Tue,Sat", and is "" for every day.
func (d Days) String() string {
	var names []string
	for i := range 7 {
		day := time.Weekday((i + 1) % 7)
		if d != 0 && d.Has(day) {
			names = append(names, day.String()[:3])
		}
	}
	return strings.Join(names, ",")
}

// parseDays reads a list of days and of ranges of days.
func parseDays(s string) (Days, error) {
	var days Days
	for part := range strings.SplitSeq(s, ",") {
		first, last, ranged := strings.Cut(part, "-")
		from, err := parseDay(first)
		if err != nil {
			return 0, err
		}
		to := from
		if ranged {
			if to, err = parseDay(last); err != nil {
				return 0, err
			}
		}
		for day := from; ; day = (day + 1) % 7 {
			days |= 1 << day
			if day == to {
				break
			}
		}
	}
	return days, nil
}

func parseDay(s string) (time.Weekday, error) {
	for day := time.Sunday; day <= time.Saturday; day++ {
		if name := day.String(); strings.EqualFold(s, name) || strings.EqualFold(s, name[:3]) {
			return day, nil
		}
	}
	return 0, fmt.Errorf("%q is no day: days are Mon, Tue, Wed, Thu, Fri, Sat, Sun", s)
}

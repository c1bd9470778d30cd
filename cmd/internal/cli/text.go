package cli

import (
	"fmt"
	"time"
)

// stamp is a time for people: local, to the minute, with its zone.
func stamp(t time.Time) string { return t.Local().Format("Mon 2006-01-02 15:04 MST") }

// size is a number of bytes for people, and exact.
func size(n int64) string {
	if n < 10e3 {
		return fmt.Sprintf("%d bytes", n)
	}
	return fmt.Sprintf("%s (%d bytes)", amount(n), n)
}

// amount is a number of bytes for people, short.
func amount(n int64) string {
	switch {
	case n < 1e3:
		return fmt.Sprintf("%d B", n)
	case n < 1e6:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	case n < 1e9:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.2f GB", float64(n)/1e9)
}

// span is a duration for people, two units at most.
func span(d time.Duration) string {
	d = d.Abs()
	switch {
	case d < time.Minute:
		return "less than a minute"
	case d < time.Hour:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %02d min", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%d days %d h", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

package policy

import "time"

// A Window is a span of time that comes back every day or on some days of the
// week. It opens at Start by the clock of a zone and stays open for Length.
type Window struct {
	Start  Start         `mapstructure:"start"`
	Length time.Duration `mapstructure:"length"`
}

// A Start is a time of day, on some days of the week.
type Start struct {
	Days   Days // none: every day
	Hour   int  // 0 to 23
	Minute int  // 0 to 59
}

// Days is a set of days of the week: bit 0 is Sunday, as in time.Weekday.
type Days uint8

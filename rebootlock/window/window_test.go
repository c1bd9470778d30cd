package window

import (
	"bufio"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	_ "time/tzdata"

	"github.com/drydock-os/drydock/testdata/real"
)

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

func window(t testing.TB, start, length string) Window {
	t.Helper()
	w, err := Parse(start, length)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func utc(t testing.TB, s string) time.Time {
	t.Helper()
	at, err := time.Parse("2006-01-02 15:04", s)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func TestParseStart(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"02:00", "02:00"},
		{"9:05", "09:05"},
		{"Sat 02:00", "Sat 02:00"},
		{"  sat\t02:00 ", "Sat 02:00"},
		{"SATURDAY 02:00", "Sat 02:00"},
		{"Mon-Fri 22:00", "Mon,Tue,Wed,Thu,Fri 22:00"},
		{"Fri-Mon 22:00", "Mon,Fri,Sat,Sun 22:00"},
		{"Mon-Wed,Sat 04:30", "Mon,Tue,Wed,Sat 04:30"},
		{"Sun,Sun 23:59", "Sun 23:59"},
		{"Tue-Tue 00:00", "Tue 00:00"},
		{"Mon-Sun 01:00", "Mon,Tue,Wed,Thu,Fri,Sat,Sun 01:00"},
	} {
		got, err := ParseStart(tt.in)
		if err != nil || got.String() != tt.want {
			t.Errorf("ParseStart(%q) = %q, %v, want %q", tt.in, got, err, tt.want)
		}
		if again, err := ParseStart(got.String()); err != nil || again != got {
			t.Errorf("ParseStart(%q) = %v, %v, want %v", got, again, err, got)
		}
	}
	for _, in := range []string{"", " ", "14", "sat", "25:00", "24:00", "23:61", "23:5", "foo 14:00", "sat 14:00 1234",
		"09:00x", "-1:00", "+1:00", "1:+1", "Mon- 02:00", "-Fri 02:00", ",Mon 02:00", "Mon, Tue 02:00", "M 02:00", "02:00:00", "002:00"} {
		if got, err := ParseStart(in); err == nil {
			t.Errorf("ParseStart(%q) = %v, want an error", in, got)
		}
	}
}

// What locksmith takes for a window is one here, and opens when it opens there.
func TestWindowsOfLocksmith(t *testing.T) {
	f, err := os.Open(filepath.Join(real.Module(t), "testdata", "window", "locksmith-windows.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cases := 0
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Split(lines.Text(), "\t")
		if strings.HasPrefix(lines.Text(), "#") || len(fields) != 4 {
			continue
		}
		cases++
		start, length, want := fields[0], fields[1], fields[3]
		w, err := Parse(start, length)
		if want == "error" {
			if err == nil {
				t.Errorf("Parse(%q, %q) = %v, want an error", start, length, w)
			}
			continue
		}
		if err != nil {
			t.Errorf("Parse(%q, %q): %v", start, length, err)
			continue
		}
		now := utc(t, fields[2][:16]).Add(seconds(t, fields[2][17:]))
		opens, ok := Schedule{Windows: []Window{w}}.Next(now)
		got := opens.Sub(now).String()
		if !ok || got != want {
			t.Errorf("%v at %v: opens in %v, %t, want %v", w, now, got, ok, want)
		}
		if open := want == "0s"; w.Contains(now, time.UTC) != open {
			t.Errorf("%v.Contains(%v) = %t, want %t", w, now, !open, open)
		}
	}
	if cases < 15 {
		t.Errorf("%d cases read, want all", cases)
	}
}

func seconds(t testing.TB, s string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(s + "s")
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestNightBelongsToTheDayItBegins(t *testing.T) {
	w := window(t, "Fri 22:00", "4h")
	for _, tt := range []struct {
		at   string
		want bool
	}{
		{"2026-11-20 21:59", false}, // Friday
		{"2026-11-20 22:00", true},
		{"2026-11-21 01:59", true}, // Saturday
		{"2026-11-21 02:00", false},
		{"2026-11-21 22:30", false},
		{"2026-11-20 01:00", false}, // the night to Friday is Thursday's
	} {
		if got := w.Contains(utc(t, tt.at), time.UTC); got != tt.want {
			t.Errorf("%v at %s: %t, want %t", w, tt.at, got, tt.want)
		}
	}
}

// Openings and closings, in UTC, across the changes of clocks. In Lord Howe it
// is half an hour that is skipped or doubled.
func TestClockChanges(t *testing.T) {
	for _, tt := range []struct {
		name, zone, start, length string
		from                      string // a time before the opening
		opens, closes             string
	}{
		{"spring, whole night", "Europe/Berlin", "22:00", "8h", "2026-03-28 12:00", "2026-03-28 21:00", "2026-03-29 05:00"},
		{"spring, start skipped", "Europe/Berlin", "02:30", "30m", "2026-03-28 12:00", "2026-03-29 01:00", "2026-03-29 01:30"},
		{"spring, start at the jump", "Europe/Berlin", "02:00", "1h", "2026-03-28 12:00", "2026-03-29 01:00", "2026-03-29 02:00"},
		{"spring, start after the jump", "Europe/Berlin", "03:00", "1h", "2026-03-28 12:00", "2026-03-29 01:00", "2026-03-29 02:00"},
		{"spring, over the jump", "Europe/Berlin", "01:30", "1h", "2026-03-28 12:00", "2026-03-29 00:30", "2026-03-29 01:30"},
		{"autumn, whole night", "Europe/Berlin", "22:00", "8h", "2026-10-24 12:00", "2026-10-24 20:00", "2026-10-25 04:00"},
		{"autumn, start doubled", "Europe/Berlin", "02:30", "45m", "2026-10-24 12:00", "2026-10-25 00:30", "2026-10-25 01:15"},
		{"autumn, over both hours", "Europe/Berlin", "02:00", "2h", "2026-10-24 12:00", "2026-10-25 00:00", "2026-10-25 02:00"},
		{"autumn, start after", "Europe/Berlin", "03:00", "1h", "2026-10-24 12:00", "2026-10-25 02:00", "2026-10-25 03:00"},
		{"spring, start skipped", "America/New_York", "Sun 02:15", "1h", "2026-03-05 12:00", "2026-03-08 07:00", "2026-03-08 08:00"},
		{"spring, whole night", "America/New_York", "Sat 23:00", "6h", "2026-03-05 12:00", "2026-03-08 04:00", "2026-03-08 10:00"},
		{"autumn, start doubled", "America/New_York", "Sun 01:30", "1h", "2026-10-29 12:00", "2026-11-01 05:30", "2026-11-01 06:30"},
		{"autumn, the week after", "America/New_York", "Sun 01:30", "1h", "2026-11-01 06:30", "2026-11-08 06:30", "2026-11-08 07:30"},
		{"spring, start skipped", "Australia/Lord_Howe", "02:15", "1h", "2026-10-03 12:00", "2026-10-03 15:30", "2026-10-03 16:30"},
		{"spring, start after", "Australia/Lord_Howe", "02:30", "1h", "2026-10-03 12:00", "2026-10-03 15:30", "2026-10-03 16:30"},
		{"autumn, start doubled", "Australia/Lord_Howe", "01:45", "1h", "2026-04-04 12:00", "2026-04-04 14:45", "2026-04-04 15:45"},
		{"autumn, back over midnight", "America/St_Johns", "Sun 00:00", "1h", "2010-11-05 12:00", "2010-11-07 02:30", "2010-11-07 03:30"},
		{"spring at midnight", "Africa/Cairo", "Fri 00:30", "1h", "2026-04-22 12:00", "2026-04-23 22:00", "2026-04-23 23:00"},
	} {
		t.Run(tt.zone+" "+tt.name, func(t *testing.T) {
			s := Schedule{Windows: []Window{window(t, tt.start, tt.length)}, Location: zone(t, tt.zone)}
			opens, ok := s.Next(utc(t, tt.from))
			if !ok || !opens.Equal(utc(t, tt.opens)) {
				t.Fatalf("Next = %v, %t, want %s", opens.UTC(), ok, tt.opens)
			}
			if closes := s.Until(opens); !closes.Equal(utc(t, tt.closes)) {
				t.Errorf("Until = %v, want %s", closes.UTC(), tt.closes)
			}
			for at, want := range map[time.Time]bool{
				opens.Add(-1): false, opens: true, s.Until(opens).Add(-1): true, s.Until(opens): false,
			} {
				if s.Open(at) != want {
					t.Errorf("Open(%v) = %t, want %t", at.UTC(), !want, want)
				}
			}
		})
	}
}

// Schedule agrees with a walk, minute by minute, through the clock of the zone:
// a window opens at the first minute that shows its start or a later time.
func TestScheduleAgainstMinuteWalk(t *testing.T) {
	changes := []struct{ zone, near string }{
		{"UTC", "2026-06-01 00:00"},
		{"Europe/Berlin", "2026-03-29 00:00"}, {"Europe/Berlin", "2026-10-25 00:00"},
		{"America/New_York", "2026-03-08 00:00"}, {"America/New_York", "2026-11-01 00:00"},
		{"Australia/Lord_Howe", "2026-10-03 00:00"}, {"Australia/Lord_Howe", "2026-04-04 00:00"},
		{"America/Havana", "2026-11-01 00:00"}, {"Africa/Cairo", "2026-04-24 00:00"},
		{"America/St_Johns", "2010-11-07 00:00"}, {"America/Santiago", "2026-09-06 00:00"}, {"Asia/Kathmandu", "2026-01-01 00:00"},
	}
	const seed = 7
	random := rand.New(rand.NewPCG(seed, seed))
	for n := range 36 {
		c := changes[n%len(changes)]
		s := Schedule{Location: zone(t, c.zone)}
		for range 1 + random.IntN(3) {
			s.Windows = append(s.Windows, randomWindow(random))
		}
		checkAgainstWalk(t, s, utc(t, c.near), random)
		if t.Failed() {
			t.Fatalf("seed %d, schedule %d: %v in %s", seed, n, s.Windows, c.zone)
		}
	}
}

func randomWindow(random *rand.Rand) Window {
	w := Window{Start: Start{Hour: random.IntN(24), Minute: random.IntN(60)}}
	if random.IntN(2) == 0 {
		w.Start.Hour = random.IntN(4) // where clocks change
	}
	limit := maxDaily
	if random.IntN(2) == 0 {
		w.Start.Days = Days(1 + random.IntN(127))
		limit = []time.Duration{maxDaily, maxWeekly}[random.IntN(2)]
	}
	w.Length = time.Minute * time.Duration(1+random.Int64N(int64(limit/time.Minute)-1))
	return w
}

func checkAgainstWalk(t *testing.T, s Schedule, near time.Time, random *rand.Rand) {
	t.Helper()
	const before, after = 4 * 24 * 60, 24 * 24 * 60 // minutes; what is asked stays a horizon away from the end
	from := near.Add(-before * time.Minute)
	open := walk(s, from, before+after)
	for i := 0; i < 2*before; i++ {
		if edge := i > 0 && open[i] != open[i-1]; !edge && i%61 != 0 && random.IntN(40) != 0 {
			continue
		}
		now := from.Add(time.Duration(i) * time.Minute)
		if s.Open(now) != open[i] {
			t.Errorf("Open(%v) = %t", now, !open[i])
		}
		next, closes := i, i
		for next < len(open) && !open[next] {
			next++
		}
		for closes < len(open) && open[closes] {
			closes++
		}
		if got, ok := s.Next(now); !ok || !got.Equal(from.Add(time.Duration(next)*time.Minute)) {
			t.Errorf("Next(%v) = %v, %t, want in %d minutes", now, got, ok, next-i)
		}
		want := from.Add(time.Duration(closes) * time.Minute)
		if want.Sub(now) >= horizon {
			want = time.Time{}
		}
		if got := s.Until(now); !got.Equal(want) {
			t.Errorf("Until(%v) = %v, want %v", now, got, want)
		}
		if t.Failed() {
			return
		}
	}
}

// walk returns, for each minute from a time on, whether s is open in it.
func walk(s Schedule, from time.Time, minutes int) []bool {
	const lead = 9 * 24 * 60
	start := from.Add(-lead * time.Minute)
	shown := make([]time.Time, lead+minutes) // by the clock, written as UTC
	for i := range shown {
		at := start.Add(time.Duration(i) * time.Minute).In(s.Location)
		shown[i] = time.Date(at.Year(), at.Month(), at.Day(), at.Hour(), at.Minute(), 0, 0, time.UTC)
	}
	open := make([]bool, lead+minutes)
	for _, w := range s.Windows {
		next := start.Truncate(24*time.Hour).AddDate(0, 0, 1)
		next = next.Add(time.Duration(w.Start.Hour)*time.Hour + time.Duration(w.Start.Minute)*time.Minute)
		for i, clock := range shown {
			if clock.Before(next) {
				continue
			}
			for j := i; w.Start.Days.Has(next.Weekday()) && j < min(i+int(w.Length/time.Minute), len(open)); j++ {
				open[j] = true
			}
			next = next.AddDate(0, 0, 1)
		}
	}
	return open[lead:]
}

func FuzzParseStart(f *testing.F) {
	for _, s := range []string{"02:00", "Sat 02:00", "Mon-Fri,Sun 22:00", "Fri-Mon 9:59", "x", "Mon- 1:00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		start, err := ParseStart(s)
		if err != nil {
			return
		}
		again, err := ParseStart(start.String())
		if err != nil || again != start {
			t.Errorf("ParseStart(%q) = %v, printed %q, read back as %v, %v", s, start, start, again, err)
		}
	})
}

func TestScheduleWithoutWindows(t *testing.T) {
	now := time.Unix(0, 0)
	if s := (Schedule{}); !s.Open(now) || !s.Until(now).IsZero() {
		t.Errorf("no windows: open %t until %v, want always", s.Open(now), s.Until(now))
	}
	never := Schedule{Windows: []Window{{}}}
	if at, ok := never.Next(now); ok || never.Open(now) || !never.Until(now).Equal(now) {
		t.Errorf("a window of no length opens at %v, %t, want never", at, ok)
	}
}

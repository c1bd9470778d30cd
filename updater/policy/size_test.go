package policy

import (
	"math"
	"testing"
)

func TestParseSize(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want Size
	}{
		{"0B", 0}, {"1B", 1}, {"500kB", 500_000}, {"10MiB", 10 << 20}, {"10 MiB", 10 << 20}, {"1.5MiB", 3 << 19},
		{"1GB", 1e9}, {"2TiB", 2 << 40}, {"0.5B", 0}, {"8388607TiB", math.MaxInt64 - (1<<40 - 1)},
	} {
		got, err := ParseSize(tt.in)
		if err != nil || got != tt.want {
			t.Errorf("ParseSize(%q) = %d, %v, want %d", tt.in, got, err, tt.want)
		}
		if again, err := ParseSize(got.String()); err != nil || again != got {
			t.Errorf("ParseSize(%q) = %d, %v, want %d", got, again, err, got)
		}
	}
	for _, in := range []string{"", "0", "10", "10M", "10mib", "MiB", "-1B", "+1B", "1e3B", "0x1B", "1_0B", "1,5MiB", "1..5MiB", ".MiB",
		"InfB", "NaNB", "8388608TiB", "99999999999999999999B", "10MiB "} {
		if got, err := ParseSize(in); err == nil {
			t.Errorf("ParseSize(%q) = %d, want an error", in, got)
		}
	}
}

func TestSizeString(t *testing.T) {
	for s, want := range map[Size]string{0: "0B", 1: "1B", 1024: "1KiB", 1000: "1kB", 5 << 20: "5MiB", 5_000_000: "5MB", 1025: "1025B", -1024: "-1KiB"} {
		if s.String() != want {
			t.Errorf("Size(%d) = %q, want %q", int64(s), s, want)
		}
	}
}

package policy

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// A Size is a number of bytes, or of bytes a second. In text it carries a
// unit: B, the binary KiB, MiB, GiB, TiB or the decimal kB, MB, GB, TB.
type Size int64

// units from the largest to the smallest, so that String finds the shortest
// exact form first; the binary ones come first in parsing and in printing.
var units = []struct {
	name  string
	bytes int64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3},
	{"B", 1},
}

// ParseSize reads a number with a unit, as in "10MiB" or "1.5 GB". A bare
// number is an error, and so is a size below 0 or past 2^63-1.
func ParseSize(s string) (Size, error) {
	for _, u := range units {
		number, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		number = strings.TrimRight(number, " ")
		if number == "" || strings.Trim(number, "0123456789.") != "" {
			break
		}
		if n, err := strconv.ParseInt(number, 10, 64); err == nil {
			if n > math.MaxInt64/u.bytes {
				return 0, fmt.Errorf("size %q is too large", s)
			}
			return Size(n * u.bytes), nil
		}
		f, err := strconv.ParseFloat(number, 64)
		if err != nil {
			break
		}
		if f*float64(u.bytes) >= math.MaxInt64 {
			return 0, fmt.Errorf("size %q is too large", s)
		}
		return Size(f * float64(u.bytes)), nil
	}
	return 0, fmt.Errorf("%q is no size: write a number and a unit, like \"10MiB\" or \"500kB\"", s)
}

// String returns s in the largest unit that divides it, in a form that
// ParseSize reads back.
func (s Size) String() string {
	for _, u := range units {
		if s != 0 && int64(s)%u.bytes == 0 {
			return strconv.FormatInt(int64(s)/u.bytes, 10) + u.name
		}
	}
	return "0B"
}

// UnmarshalText reads what ParseSize reads.
func (s *Size) UnmarshalText(text []byte) (err error) {
	*s, err = ParseSize(string(text))
	return err
}

// MarshalText returns what String does.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

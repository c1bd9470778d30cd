package policy

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/coreos/go-semver/semver"
)

// A Reason says in one word why a release is not taken.
type Reason string

const (
	Unreadable Reason = "unreadable" // a version that cannot be compared
	Same       Reason = "same"       // what runs already
	Older      Reason = "older"      // than what runs
	Pinned     Reason = "pinned"     // outside the pin
)

// A Refusal is the error of Accept.
type Refusal struct {
	Reason  Reason
	Running string // the running version
	Offered string // the offered one
	Detail  string // a sentence for the operator, which says what to do
}

// Error returns the versions and the detail in one line.
func (r *Refusal) Error() string {
	return fmt.Sprintf("release %q is not taken over %q: %s", r.Offered, r.Running, r.Detail)
}

// Accept returns nil where a machine that runs the version running may take
// the version offered, and otherwise a *Refusal.
//
// Versions are compared by semver's precedence, which ignores build metadata:
// "1.1.0+b" does not follow "1.1.0+a". A version of one or two numbers is filled
// up with zeros, as distributions write "41" or "12.1". Anything else, "1.2.3.4"
// or "v1.2.3", is unreadable, and an unreadable version is refused.
//
// With AllowDowngrade the order does not count, and neither does whether the
// running version can be read; what runs already is refused even then, for it
// would be installed again for ever. The pin holds in any case: "4459.2.1" is
// that version alone, with the pin's build metadata if it names any; "4459.*"
// and "4459.2.*" are all versions that begin with these numbers.
func (p Policy) Accept(running, offered string) error {
	refuse := func(why Reason, format string, args ...any) error {
		return &Refusal{Reason: why, Running: clip(running), Offered: clip(offered), Detail: fmt.Sprintf(format, args...)}
	}
	next, err := parseVersion(offered)
	if err != nil {
		return refuse(Unreadable, "the offered version cannot be compared: %v", err)
	}
	matches, err := parsePin(p.Update.Pin)
	if err != nil {
		return refuse(Pinned, "the pin cannot be read: %v", err)
	}
	if !matches(next) {
		return refuse(Pinned, "update.pin is %q", p.Update.Pin)
	}
	if running == offered {
		return refuse(Same, "it runs already")
	}
	if p.Update.AllowDowngrade {
		return nil
	}
	now, err := parseVersion(running)
	if err != nil {
		return refuse(Unreadable, "the running version cannot be compared: %v; update.allow_downgrade takes any release", err)
	}
	switch next.Compare(now) {
	case 0:
		return refuse(Same, "they have the same precedence, and build metadata does not count")
	case -1:
		return refuse(Older, "it is older; update.allow_downgrade permits that")
	}
	return nil
}

// maxVersion bounds a version's bytes: the longest in use have forty, and a
// version comes from the network, into messages and into a recursive compare.
const maxVersion = 128

// clip keeps a version that is too long out of messages.
func clip(s string) string {
	if len(s) > maxVersion {
		return s[:maxVersion] + "…"
	}
	return s
}

// parseVersion reads a version of one to three numbers with an optional
// pre-release and build metadata.
func parseVersion(s string) (semver.Version, error) {
	if len(s) > maxVersion {
		return semver.Version{}, fmt.Errorf("longer than %d bytes", maxVersion)
	}
	numbers, rest := s, ""
	if i := strings.IndexAny(s, "-+"); i >= 0 {
		numbers, rest = s[:i], s[i:]
	}
	fields := strings.Split(numbers, ".")
	if len(fields) > 3 {
		return semver.Version{}, fmt.Errorf("%q has more than three numbers", s)
	}
	for _, f := range fields {
		if _, err := parseNumber(f); err != nil {
			return semver.Version{}, fmt.Errorf("%q is not numbers between dots, like 4459.2.1", s)
		}
	}
	v, err := semver.NewVersion(numbers + strings.Repeat(".0", 3-len(fields)) + rest)
	if err != nil {
		return semver.Version{}, fmt.Errorf("%q has a pre-release or build metadata that semver does not know", s)
	}
	return *v, nil
}

// parseNumber reads one number of a version: digits, below 2^63.
func parseNumber(s string) (int64, error) {
	if strings.Trim(s, "0123456789") != "" {
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseInt(s, 10, 64)
}

// parsePin returns what a pin lets pass. An empty pin lets everything pass.
func parsePin(pin string) (func(semver.Version) bool, error) {
	if pin == "" {
		return func(semver.Version) bool { return true }, nil
	}
	prefix, ok := strings.CutSuffix(pin, ".*")
	if !ok {
		want, err := parseVersion(pin)
		if err != nil {
			return nil, fmt.Errorf("%w; a pin is a version or the beginning of one, like \"4459.2.1\" or \"4459.*\"", err)
		}
		return func(v semver.Version) bool {
			return v.Equal(want) && (want.Metadata == "" || v.Metadata == want.Metadata)
		}, nil
	}
	var want []int64
	for f := range strings.SplitSeq(prefix, ".") {
		n, err := parseNumber(f)
		if err != nil || len(want) == 2 {
			return nil, fmt.Errorf("%q is no pin: before the star stand one or two numbers, like \"4459.*\" or \"4459.2.*\"", clip(pin))
		}
		want = append(want, n)
	}
	return func(v semver.Version) bool {
		have := v.Slice()
		for i, n := range want {
			if have[i] != n {
				return false
			}
		}
		return true
	}, nil
}

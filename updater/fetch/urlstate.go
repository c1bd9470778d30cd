package fetch

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// Upstream's back-off (payload_state.cc): one day after the first attempt at
// a full payload, twice as long after each further one, at most 16 days,
// spread over 12 hours so that a fleet does not come back all at once.
const (
	backoffDay     = 24 * time.Hour
	maxBackoffDays = 16
	backoffSpread  = 12 * time.Hour
)

// defaultMaxFailures is how often a URL may fail in a row, if nobody says.
const defaultMaxFailures = 10

// Terms are what an update server says of a payload, as far as it bears on
// how often and from where the payload is fetched.
type Terms struct {
	URLs           []string
	Size           int64
	SHA256         []byte
	Delta          bool // never backed off: a full payload soon takes its place
	MaxFailures    int  // of one URL in a row before the next one's turn; 10 if 0
	DisableBackoff bool // attempts may follow each other at once
}

// id tells one payload's terms from another's.
func (t Terms) id() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %d %x %t %d %t",
		t.URLs, t.Size, t.SHA256, t.Delta, t.MaxFailures, t.DisableBackoff))
	return hex.EncodeToString(sum[:])
}

// A Failure says what a failed update means for the URL in use.
type Failure int

// Kinds of Failure.
const (
	NotTheURL Failure = iota // says nothing about the URL
	Passing                  // may pass: the URL's failures are counted
	WrongData                // the URL, or what is between, brings the wrong bytes: the next one's turn
)

// FailureOf returns the Failure that upstream sees in an error code of the
// Omaha protocol, without its flags (payload_state.cc, UpdateFailed).
func FailureOf(code int) Failure {
	switch code {
	case 10, 11, 12, 17, 18, 21, 22, 23, 24, 25, 26, 27, 28, 29, 32, 33, 38, 39:
		return WrongData
	case 1, 9, 14, 20, 37:
		return Passing
	}
	return NotTheURL
}

// URLState remembers, from one update check to the next, which URL of a
// payload to use and how long to leave it alone. It is a value that a caller
// keeps as JSON; losing it costs some politeness to servers, never safety.
//
// now is the current time of the wall clock. fuzz is a random number from 0
// to 1, which spreads the end of a back-off.
type URLState struct {
	Payload  string    `json:"payload,omitempty"`  // whose state this is
	URL      int       `json:"url,omitempty"`      // index of the URL to use
	Failures int       `json:"failures,omitempty"` // of that URL in a row
	Attempt  int       `json:"attempt,omitempty"`  // full downloads, and rounds through all URLs
	Until    time.Time `json:"until,omitzero"`     // end of the back-off, if the terms allow one
}

// For returns the state that goes with t: s itself if it is about the same
// payload, and otherwise a new one. What cannot be true, as after the clock
// or the file was tampered with, is put right.
func (s URLState) For(t Terms, now time.Time) URLState {
	if s.Payload != t.id() || s.URL < 0 || s.URL >= len(t.URLs) || s.Failures < 0 || s.Attempt < 0 {
		return URLState{Payload: t.id()}
	}
	if s.Until.After(now.Add(maxBackoffDays*backoffDay + backoffSpread/2)) {
		s.Until = now
	}
	return s
}

// BackoffUntil returns the time before which t's payload is not to be fetched;
// the zero time if there is none.
func (s URLState) BackoffUntil(t Terms) time.Time {
	if t.Delta || t.DisableBackoff {
		return time.Time{}
	}
	return s.Until
}

// URLs returns t's URLs in the order of use.
func (s URLState) URLs(t Terms) []string {
	n := len(t.URLs)
	if n == 0 {
		return nil
	}
	i := max(s.URL, 0) % n
	return append(append(make([]string, 0, n), t.URLs[i:]...), t.URLs[:i]...)
}

// Received notes that the URL in use brought at least one byte.
func (s URLState) Received() URLState {
	s.Failures = 0
	return s
}

// Succeeded notes that the whole payload came. That is no end: if the update
// fails later, the payload is not fetched again at once.
func (s URLState) Succeeded(t Terms, now time.Time, fuzz float64) URLState {
	if t.Delta {
		return s
	}
	s.Attempt++
	if t.DisableBackoff {
		s.Until = time.Time{}
		return s
	}
	days := maxBackoffDays
	if s.Attempt <= 5 {
		days = min(1<<(s.Attempt-1), maxBackoffDays)
	}
	spread := time.Duration((min(max(fuzz, 0), 1) - 0.5) * float64(backoffSpread))
	s.Until = now.Add(time.Duration(days)*backoffDay + spread).Round(time.Second).UTC()
	return s
}

// Failed notes that an update with t's payload failed.
func (s URLState) Failed(t Terms, f Failure, now time.Time, fuzz float64) URLState {
	limit := t.MaxFailures
	if limit <= 0 {
		limit = defaultMaxFailures
	}
	switch f {
	case NotTheURL:
		return s
	case Passing:
		if s.Failures+1 < limit {
			s.Failures++
			return s
		}
	}
	s.Failures = 0
	s.URL++
	if s.URL >= len(t.URLs) {
		s.URL = 0
		return s.Succeeded(t, now, fuzz) // a round through all URLs counts as an attempt
	}
	return s
}

// String describes the state for a log.
func (s URLState) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "URL %d, %d failures, %d attempts", s.URL, s.Failures, s.Attempt)
	if !s.Until.IsZero() {
		fmt.Fprintf(&b, ", backed off until %s", s.Until.Format(time.RFC3339))
	}
	return b.String()
}

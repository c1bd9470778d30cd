// Package fetch streams a payload over HTTP for a program that applies it while it arrives.
//
// What a server sends is checked for being the right bytes of the right file
// as far as HTTP can tell. That they are the right bytes is for the payload's
// hashes and signatures to say.
package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Defaults of a Source, which are upstream's (libcurl_http_fetcher.h).
const (
	defaultRetries = 20
	defaultPause   = 20 * time.Second
	defaultStall   = 90 * time.Second
)

// minRate is the least that a server may send, in bytes a second over
// Source.Stall, before it counts as hanging.
const minRate = 10

// maxSkip bounds the bytes that are read again and thrown away because a
// server ignores Range: more than this costs the network more than it saves.
const maxSkip = 16 << 20

// What can be wrong with a server's answer. A URL that answers so is not used
// again by the same Open.
var (
	// ErrSize: the payload is not as long as expected.
	ErrSize = errors.New("the server's file is not of the expected size")
	// ErrChanged: the file at a URL is not the one it was before. Another Open
	// takes it as it is now.
	ErrChanged = errors.New("the server's file has changed during the download")
	// ErrRangeIgnored: asked for the rest of a file, the server sends all of it
	// again. An Open at 0 will do.
	ErrRangeIgnored = errors.New("the server ignores Range")
	// ErrWrongRange: the server sends another part than the one asked for.
	ErrWrongRange = errors.New("the server sends the wrong range")
	// ErrStalled: the server sends next to nothing.
	ErrStalled = errors.New("the server hangs")
	// ErrInsecureCredentials: a URL with a password is not https.
	ErrInsecureCredentials = errors.New("credentials in a URL that is not https")
)

// A StatusError is an answer with an HTTP status that brings no payload.
type StatusError struct {
	URL  string // without a password
	HTTP int
}

// Error implements error.
func (e *StatusError) Error() string {
	return fmt.Sprintf("%s: HTTP %d %s", e.URL, e.HTTP, http.StatusText(e.HTTP))
}

// temporary reports whether the same request may well succeed a little later.
func (e *StatusError) temporary() bool {
	switch e.HTTP {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// Source is a payload at one or several URLs. Its fields are set before the
// first Open.
type Source struct {
	Client *http.Client // NewClient's; one with an empty Config if nil
	URLs   []string     // the first is preferred
	Size   int64        // of the whole payload in bytes; 0 if unknown

	Username, Password string // sent to https URLs alone, as HTTP Basic authentication

	Limit   *rate.Limiter // bytes a second (see NewLimit), shared by all that hold it; nil for none
	Retries int           // attempts in a row without progress before a reader gives up; 20 if 0, none if negative
	Pause   time.Duration // before another attempt once every URL had its turn; 20 seconds if 0
	Stall   time.Duration // how long a server may send less than 10 bytes a second; 90 seconds if 0

	OnRetry func(error)      // told why another attempt is made, if not nil
	Now     func() time.Time // time.Now if nil

	mu         sync.Mutex
	client     *http.Client
	validators map[string]validator // by URL, from the answers so far
}

// NewLimit returns a limit for Source.Limit. It spreads the bytes evenly:
// at most a tenth of a second's worth come at once.
func NewLimit(bytesPerSecond int64) *rate.Limiter {
	burst := min(max(bytesPerSecond/10, 1), 256<<10)
	return rate.NewLimiter(rate.Limit(bytesPerSecond), int(burst))
}

// Open returns the payload's bytes from offset to its end. It tries each URL
// once and then fails, so that a caller who has nothing yet decides what to
// do. The reader it returns is more patient: it survives a connection that is
// cut, a server that hangs and one that is overloaded by asking for the rest,
// until Retries attempts in a row have brought no progress. It never returns
// bytes of another offset or of another file as far as the server tells them
// apart.
//
// ctx bounds the reader's life. A Read fails soon after ctx is done, and then
// with ctx's error. The reader is for one goroutine.
//
// A server that ignores Range is put up with for the first 16 MiB of a
// payload, which are read again and dropped; beyond, the error is
// ErrRangeIgnored. Other errors wrap a *StatusError, ErrSize, ErrChanged,
// ErrWrongRange, ErrStalled, ErrInsecureRedirect, ErrTooManyRedirects,
// ErrInsecureCredentials or an error of the network.
func (s *Source) Open(ctx context.Context, offset int64) (io.ReadCloser, error) {
	switch {
	case len(s.URLs) == 0:
		return nil, errors.New("open payload: no URL")
	case offset < 0 || s.Size > 0 && offset > s.Size:
		return nil, fmt.Errorf("open payload at %d of %d: %w", offset, s.Size, ErrSize)
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &reader{
		s: s, ctx: ctx, cancel: cancel, offset: offset, total: unknown,
		bad: make([]error, len(s.URLs)),
	}
	if s.Size > 0 {
		r.total = s.Size
	}
	if r.offset == r.total {
		return r, nil
	}
	if err := r.open(); err != nil {
		cancel()
		return nil, fmt.Errorf("open payload: %w", err)
	}
	return r, nil
}

func (s *Source) retries() int {
	if s.Retries == 0 {
		return defaultRetries
	}
	return max(s.Retries, 0)
}

func (s *Source) pause() time.Duration { return orDuration(s.Pause, defaultPause) }
func (s *Source) stall() time.Duration { return orDuration(s.Stall, defaultStall) }

// enough is how many bytes within Stall a server must send that does not hang.
func (s *Source) enough() int { return max(int(minRate*s.stall().Seconds()), 1) }

func orDuration(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}

func (s *Source) now() time.Time {
	if s.Now == nil {
		return time.Now()
	}
	return s.Now()
}

// throttle waits until n bytes more are within the limit.
func (s *Source) throttle(ctx context.Context, n int) error {
	for n > 0 && s.Limit != nil {
		step := n
		if s.Limit.Limit() != rate.Inf {
			step = min(n, max(s.Limit.Burst(), 1)) // WaitN refuses more at a time
		}
		if err := s.Limit.WaitN(ctx, step); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("limit bandwidth: %w", err)
		}
		n -= step
	}
	return nil
}

// http returns the client, with the redirect rule if it has none of its own.
func (s *Source) http() *http.Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil {
		return s.client
	}
	if s.Client == nil {
		s.client = NewClient(Config{})
		return s.client
	}
	c := *s.Client
	if c.CheckRedirect == nil {
		c.CheckRedirect = checkRedirect
	}
	s.client = &c
	return s.client
}

// validator says which version of a file an answer is of (RFC 9110, 8.8).
type validator struct{ etag, modified string }

func validatorOf(h http.Header) validator {
	return validator{etag: h.Get("ETag"), modified: h.Get("Last-Modified")}
}

// differs reports whether both name a version, and not the same.
func (v validator) differs(w validator) bool {
	if v.etag != "" && w.etag != "" {
		return v.etag != w.etag
	}
	return v.modified != "" && w.modified != "" && v.modified != w.modified
}

// ifRange returns the value of If-Range, or nothing: a weak entity tag may not
// stand there (RFC 9110, 13.1.5).
func (v validator) ifRange() string {
	switch {
	case v.etag == "":
		return v.modified
	case len(v.etag) > 2 && v.etag[:2] == "W/":
		return ""
	}
	return v.etag
}

func (s *Source) validator(url string) validator {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.validators[url]
}

// same notes the version of an answer and reports whether it is the one that
// url had before. If not, the old one is forgotten.
func (s *Source) same(url string, v validator) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, known := s.validators[url]
	if known && old.differs(v) {
		delete(s.validators, url)
		return false
	}
	if !known {
		if s.validators == nil {
			s.validators = make(map[string]validator)
		}
		s.validators[url] = v
	}
	return true
}

package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// unknown is the length of a payload or an answer that nobody has told yet.
const unknown = -1

// A reader is the payload's bytes over as many answers as it takes.
type reader struct {
	s      *Source
	ctx    context.Context    // of Open: a Read has no other way to hear of a cancel
	cancel context.CancelFunc // of ctx
	busy   sync.Mutex         // held by Read
	offset int64              // of the next byte
	total  int64              // bytes of the whole payload, or unknown
	answer *answer            // where bytes come from, nil between two attempts
	err    error              // final, io.EOF included

	url    int     // index of the URL in use
	bad    []error // why a URL is not used any more, by index
	opened bool    // Open has returned: what may pass is now waited for
	tries  int     // failures in a row without progress
	fresh  int64   // bytes since the last failure
	rest   bool    // pause before the next attempt
}

// Read implements io.Reader. Large buffers are filled straight from the
// connection.
func (r *reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	r.busy.Lock()
	defer r.busy.Unlock()
	for r.err == nil {
		switch {
		case r.offset == r.total:
			r.err = r.end()
		case r.answer == nil:
			if err := r.connect(); err != nil {
				r.err = r.explain(err)
			}
		default:
			n, err := r.answer.read(r.clip(p))
			r.offset += int64(n)
			r.fresh += int64(n)
			if err != nil {
				r.cut(err)
			}
			if n > 0 {
				return n, r.throttle(n)
			}
		}
	}
	return 0, r.err
}

// Close implements io.Closer. It may be called during a Read, which it ends.
func (r *reader) Close() error {
	r.cancel()
	r.busy.Lock()
	defer r.busy.Unlock()
	r.drop()
	if r.err == nil {
		r.err = os.ErrClosed
	}
	return nil
}

func (r *reader) drop() {
	if r.answer != nil {
		r.answer.close()
		r.answer = nil
	}
}

// clip shortens p to what may be asked for at once: no byte past the end, and
// none that the limit would hold back for long.
func (r *reader) clip(p []byte) []byte {
	if r.total != unknown && int64(len(p)) > r.total-r.offset {
		p = p[:r.total-r.offset]
	}
	if l := r.s.Limit; l != nil && l.Limit() != rate.Inf {
		p = p[:min(len(p), max(l.Burst(), 1))]
	}
	return p
}

// throttle waits until n bytes more are within the limit.
func (r *reader) throttle(n int) error {
	if err := r.s.throttle(r.ctx, n); err != nil {
		r.drop()
		r.err = err
	}
	return r.err
}

// end is called once all bytes are there: an answer without a length may go on.
func (r *reader) end() error {
	if r.answer == nil || r.answer.length != unknown {
		r.drop()
		return io.EOF
	}
	var more [1]byte
	n, _ := r.answer.read(more[:]) // an error changes nothing about what is there
	r.drop()
	switch {
	case r.ctx.Err() != nil:
		return r.ctx.Err()
	case n > 0:
		return fmt.Errorf("fetch payload: more than %d bytes: %w", r.total, ErrSize)
	}
	return io.EOF
}

// cut is called when an answer ended, for whatever reason.
func (r *reader) cut(err error) {
	a := r.answer
	r.drop()
	switch {
	case r.ctx.Err() != nil:
		r.err = r.ctx.Err()
	case r.offset == r.total: // whatever is wrong now, the payload is complete
	case errors.Is(err, io.EOF) && r.total == unknown:
		r.total = r.offset
	case errors.Is(err, io.EOF) && a.part && a.got > 0:
		// The server sent what it announced, only less than asked for.
	default:
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err := r.failed(err); err != nil {
			r.err = r.explain(err)
		}
	}
}

// open connects for the first time: each URL gets one try.
func (r *reader) open() error {
	if err := r.connect(); err != nil {
		return err
	}
	r.opened = true
	for i, err := range r.bad {
		if err != nil && !permanent(err) {
			r.bad[i] = nil
		}
	}
	return nil
}

// connect asks for the rest of the payload until a URL answers well.
func (r *reader) connect() error {
	for {
		if r.rest {
			if err := sleep(r.ctx, r.s.pause()); err != nil {
				return err
			}
			r.rest = false
		}
		a, err := r.s.ask(r.ctx, r.s.URLs[r.url], r.offset, r.total)
		if err == nil {
			r.answer = a
			if r.total == unknown {
				r.total = a.total
			}
			return nil
		}
		if r.ctx.Err() != nil {
			return r.ctx.Err()
		}
		if !r.opened || permanent(err) {
			err = r.giveUp(err)
		} else {
			err = r.failed(err)
		}
		if err != nil {
			return err
		}
	}
}

// permanent reports whether a URL that answers so will answer so again.
func permanent(err error) bool {
	var status *StatusError
	if errors.As(err, &status) {
		return !status.temporary()
	}
	for _, e := range []error{ErrSize, ErrChanged, ErrRangeIgnored, ErrWrongRange,
		ErrInsecureRedirect, ErrTooManyRedirects, ErrInsecureCredentials} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// giveUp does without the URL in use. Without any other, it returns what was
// wrong with each.
func (r *reader) giveUp(err error) error {
	r.bad[r.url] = err
	if r.usable() == 0 {
		return errors.Join(r.bad...)
	}
	r.retry(err)
	r.next()
	return nil
}

// failed counts a failure that may pass and chooses what to try next. A URL
// that brought something is asked again after a pause; one that did not gives
// way to the next, with a pause once all had their turn. What counts as
// progress is as much as a server that does not hang sends within Stall, or a
// server could keep the download alive with a byte now and then.
func (r *reader) failed(err error) error {
	progress := r.fresh >= int64(r.s.enough())
	if progress {
		r.tries = 0
	}
	r.tries++
	r.fresh = 0
	if r.tries > r.s.retries() {
		return fmt.Errorf("%d attempts without progress, the last: %w", r.tries, err)
	}
	r.rest = progress || r.tries%r.usable() == 0
	if !progress {
		r.next()
	}
	r.retry(err)
	return nil
}

func (r *reader) retry(err error) {
	if r.s.OnRetry != nil {
		r.s.OnRetry(r.explain(err))
	}
}

func (r *reader) explain(err error) error {
	return fmt.Errorf("fetch payload at byte %d: %w", r.offset, err)
}

func (r *reader) usable() int {
	n := 0
	for _, err := range r.bad {
		if err == nil {
			n++
		}
	}
	return n
}

// next moves on to the next URL that is still in use, which may be the same.
func (r *reader) next() {
	for range r.bad {
		r.url = (r.url + 1) % len(r.bad)
		if r.bad[r.url] == nil {
			return
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

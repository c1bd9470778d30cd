package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// An answer is the body of one HTTP response, from the byte asked for on.
type answer struct {
	body   io.ReadCloser
	watch  *watch
	total  int64 // bytes of the whole file, or unknown
	length int64 // bytes of the body, or unknown
	part   bool  // the server announced less than the rest of the file
	got    int64
}

func (a *answer) read(p []byte) (int, error) {
	a.watch.begin()
	n, err := a.body.Read(p)
	a.watch.end(n)
	a.got += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		err = a.watch.explain(err)
	}
	return n, err
}

func (a *answer) close() {
	a.watch.stop(nil) // first, or closing waits for what nobody wants any more
	a.body.Close()
}

// ask sends one GET for the bytes of url from offset on, of a file of total
// bytes if that is known, and checks that the answer brings these.
func (s *Source) ask(ctx context.Context, url string, offset, total int64) (*answer, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := s.watch(ctx, cancel)
	a, err := s.answer(ctx, w, url, offset, total)
	if err != nil {
		w.stop(nil)
		return nil, err
	}
	return a, nil
}

func (s *Source) answer(ctx context.Context, w *watch, url string, offset, total int64) (*answer, error) {
	req, err := s.request(ctx, url, offset)
	if err != nil {
		return nil, err
	}
	w.begin()
	resp, err := s.http().Do(req)
	w.end(w.enough) // an answer is progress
	if err != nil {
		return nil, w.explain(err)
	}
	a := &answer{body: resp.Body, watch: w, length: resp.ContentLength}
	skip, err := a.check(resp, offset, total)
	bringsFile := resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusPartialContent
	if bringsFile && !s.same(url, validatorOf(resp.Header)) {
		err = ErrChanged // explains whatever else is wrong
	}
	for err == nil && skip > 0 {
		var n int
		n, err = a.skip(skip)
		skip -= int64(n)
		if err == nil {
			err = s.throttle(ctx, n)
		}
	}
	if err != nil {
		resp.Body.Close()
		return nil, fmt.Errorf("%s: %w", req.URL.Redacted(), err)
	}
	return a, nil
}

// request builds the GET as upstream's looks: no Range for the whole file, no
// User-Agent. It asks for no content encoding, so net/http undoes none.
func (s *Source) request(ctx context.Context, url string, offset int64) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("payload URL: %w", err)
	}
	secure := req.URL.Scheme == "https"
	if !secure && req.URL.Scheme != "http" || req.URL.Host == "" {
		return nil, fmt.Errorf("%s: not an http or https URL", req.URL.Redacted())
	}
	if req.URL.User != nil && !secure {
		return nil, fmt.Errorf("%s: %w", req.URL.Redacted(), ErrInsecureCredentials)
	}
	if s.Username != "" && secure {
		req.SetBasicAuth(s.Username, s.Password)
	}
	req.Header.Set("User-Agent", "")
	req.Header.Set("Accept", "*/*")
	req.Header.Set("Accept-Encoding", "identity")
	if offset > 0 {
		req.Header.Set("Range", "bytes="+strconv.FormatInt(offset, 10)+"-")
		if v := s.validator(url).ifRange(); v != "" {
			req.Header.Set("If-Range", v)
		}
	}
	return req, nil
}

// check compares an answer's status and lengths with what was asked for, and
// returns how many bytes stand before offset.
func (a *answer) check(resp *http.Response, offset, total int64) (skip int64, err error) {
	switch {
	case resp.StatusCode == http.StatusOK:
		a.total = a.length
		skip = offset
	case resp.StatusCode == http.StatusPartialContent && offset > 0:
		if err := a.checkRange(resp.Header.Get("Content-Range"), offset); err != nil {
			return 0, err
		}
	case resp.StatusCode == http.StatusPartialContent:
		return 0, fmt.Errorf("%w: a part, where all was asked for", ErrWrongRange)
	default:
		return 0, &StatusError{URL: resp.Request.URL.Redacted(), HTTP: resp.StatusCode}
	}
	if total != unknown && a.total != unknown && a.total != total {
		return 0, fmt.Errorf("%w: %d bytes, where %d are expected", ErrSize, a.total, total)
	}
	if skip > maxSkip {
		return 0, fmt.Errorf("%w, and %d bytes would have to be read again", ErrRangeIgnored, skip)
	}
	return skip, nil
}

// checkRange reads the Content-Range of the part that begins at offset.
func (a *answer) checkRange(header string, offset int64) error {
	start, end, total, ok := parseContentRange(header)
	if !ok || start != offset || end < start || total != unknown && end >= total {
		return fmt.Errorf("%w: %.64q, where byte %d on was asked for", ErrWrongRange, header, offset)
	}
	length := end - start + 1
	if a.length != unknown && a.length != length {
		return fmt.Errorf("%w: %.64q with %d bytes", ErrWrongRange, header, a.length)
	}
	a.total = total
	a.part = total != unknown && end+1 < total
	if a.length == unknown { // a chunked part: the header has its length
		a.length = length
		a.body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(a.body, length), a.body}
	}
	return nil
}

// parseContentRange reads "bytes START-END/TOTAL" (RFC 9110, 14.4), where
// TOTAL may be "*".
func parseContentRange(header string) (start, end, total int64, ok bool) {
	rest, found := strings.CutPrefix(header, "bytes ")
	span, size, found2 := strings.Cut(rest, "/")
	first, last, found3 := strings.Cut(span, "-")
	if !found || !found2 || !found3 {
		return 0, 0, 0, false
	}
	start, err1 := decimal(first)
	end, err2 := decimal(last)
	total, err3 := int64(unknown), error(nil)
	if size != "*" {
		total, err3 = decimal(size)
	}
	return start, end, total, err1 == nil && err2 == nil && err3 == nil
}

func decimal(text string) (int64, error) {
	n, err := strconv.ParseUint(text, 10, 63)
	return int64(n), err
}

// skip reads and drops some of the next n bytes of the body.
func (a *answer) skip(n int64) (int, error) {
	k, err := a.read(make([]byte, min(n, readBuffer)))
	a.got = 0
	switch {
	case int64(k) == n:
		err = nil
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	return k, err
}

// A watch ends a request during which the server sends fewer than enough
// bytes within a span of waiting for it. Time that the reader spends
// elsewhere does not count.
type watch struct {
	timer  *time.Timer
	ctx    context.Context
	cancel context.CancelCauseFunc
	now    func() time.Time
	span   time.Duration
	enough int

	left  time.Duration
	got   int
	since time.Time
}

func (s *Source) watch(ctx context.Context, cancel context.CancelCauseFunc) *watch {
	span := s.stall()
	w := &watch{
		ctx: ctx, cancel: cancel, now: s.now,
		span: span, left: span, enough: s.enough(),
	}
	w.timer = time.AfterFunc(span, func() { cancel(ErrStalled) })
	w.timer.Stop()
	return w
}

func (w *watch) begin() {
	w.since = w.now()
	w.timer.Reset(w.left)
}

func (w *watch) end(n int) {
	w.timer.Stop()
	w.left -= w.now().Sub(w.since)
	if w.got += n; w.got >= w.enough {
		w.left, w.got = w.span, 0
	}
}

// stop ends the request. err is its reason, if there is one.
func (w *watch) stop(err error) {
	w.timer.Stop()
	w.cancel(err)
}

// explain returns ErrStalled for an error that the watch itself caused.
func (w *watch) explain(err error) error {
	if errors.Is(context.Cause(w.ctx), ErrStalled) {
		return fmt.Errorf("fewer than %d bytes within %v: %w", w.enough, w.span, ErrStalled)
	}
	return err
}

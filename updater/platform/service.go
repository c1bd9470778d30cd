package platform

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// A service is a metadata service for the time of one Read.
type service struct {
	base    string
	client  *http.Client
	timeout time.Duration
	backoff time.Duration
}

// service returns the source's. It takes no proxy from the environment and
// follows no redirect: what it is told says where this machine is, and a token
// is for nobody else.
func (s Source) service() (*service, error) {
	base := s.Endpoint
	if base == "" {
		base = DefaultEndpoint
	}
	if u, err := url.Parse(base); err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("%q is no URL of a metadata service", base)
	}
	out := &service{base: strings.TrimRight(base, "/"), timeout: s.Timeout, backoff: s.Backoff}
	if out.timeout == 0 {
		out.timeout = defaultTimeout
	}
	if out.backoff == 0 {
		out.backoff = defaultBackoff
	}
	out.client = &http.Client{
		Transport: &http.Transport{
			DialContext:            (&net.Dialer{Timeout: out.timeout}).DialContext,
			DisableKeepAlives:      true, // one Read in the machine's life: nothing to keep
			DisableCompression:     true,
			MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return out, nil
}

// A statusError is an answer other than 200.
type statusError struct {
	what string // "GET http://169.254.169.254/…"
	code int
}

// Error says what was asked and answered.
func (e *statusError) Error() string {
	return fmt.Sprintf("%s: %d %s", e.what, e.code, http.StatusText(e.code))
}

// again reports whether another attempt may go better: nobody answered, or a
// service that is not ready yet did (404 before the machine is known to it, 401
// when a token is over).
func again(err error) bool {
	var status *statusError
	if !errors.As(err, &status) {
		return !errors.Is(err, errAnswer)
	}
	switch status.code {
	case http.StatusUnauthorized, http.StatusNotFound, http.StatusRequestTimeout, http.StatusTooManyRequests:
		return true
	}
	return status.code >= 500
}

// errAnswer is in the errors of answers that are wrong, and stay so.
var errAnswer = errors.New("this is no answer of such a service")

// try runs ask until it goes well, cannot, or was tried often enough.
func (s *service) try(ctx context.Context, ask func() error) error {
	pause := s.backoff
	for n := 1; ; n++ {
		err := ask()
		switch {
		case err == nil || !again(err):
			return err
		case ctx.Err() != nil:
			return fmt.Errorf("%w: %w", err, context.Cause(ctx))
		case n == attempts:
			return fmt.Errorf("%w (%d attempts)", err, n)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%w: %w", err, context.Cause(ctx))
		}
		pause *= 2
	}
}

// do sends one request and returns the body of a 200.
func (s *service) do(ctx context.Context, method, path string, header http.Header) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	what := method + " " + s.base + path
	req, err := http.NewRequestWithContext(ctx, method, s.base+path, nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	for key, values := range header {
		req.Header[key] = values
	}
	answer, err := s.client.Do(req)
	if err != nil {
		return nil, err // names method and URL
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, &statusError{what, answer.StatusCode}
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if len(body) > maxFile {
		return nil, fmt.Errorf("%s: %w: larger than %d bytes", what, errAnswer, maxFile)
	}
	return body, nil
}

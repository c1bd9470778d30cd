package omaha

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// roundTrip is a server without a network.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestCheckRetriesWithoutAnAnswer(t *testing.T) {
	for onDemand, want := range map[bool]time.Duration{false: 30 * time.Second, true: 10 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			calls := 0
			c := &Client{URL: "http://disabled/", HTTP: &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) {
				calls++
				return nil, errors.New("lookup disabled: no such host")
			})}}
			start := time.Now()
			_, err := c.Check(t.Context(), Machine{}, CheckQuery{OnDemand: onDemand})
			if !errors.Is(err, ErrNetwork) || time.Since(start) != want || calls != int(want/retryPause)+1 {
				t.Errorf("on demand %v: %v after %v and %d calls", onDemand, err, time.Since(start), calls)
			}
			if code, report := CodeOf(err); code != 2000 || !report {
				t.Errorf("code %v, reported %v", code, report)
			}
		})
	}
}

func TestReportDoesNotRetry(t *testing.T) {
	calls := 0
	c := &Client{URL: "http://disabled/", HTTP: &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) {
		calls++
		return nil, errors.New("no such host")
	})}}
	if err := c.Report(t.Context(), Machine{}, Event{Type: 3}, false); !errors.Is(err, ErrNetwork) || calls != 1 {
		t.Errorf("%v after %d calls", err, calls)
	}
}

// TestServerHangs: a server that takes a request and never answers costs a
// bounded time, and a caller that gives up is not kept waiting.
func TestServerHangs(t *testing.T) {
	hang := roundTrip(func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, r.Context().Err()
	})
	hangBody := roundTrip(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, ContentLength: -1, Body: io.NopCloser(slow{r.Context()})}, nil
	})
	for name, transport := range map[string]roundTrip{"headers": hang, "body": hangBody} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := &Client{URL: "http://h/", HTTP: &http.Client{Transport: transport}}
				start := time.Now()
				_, err := c.Check(t.Context(), Machine{}, CheckQuery{OnDemand: true})
				if want := 2*requestTimeout + retryPause; !errors.Is(err, ErrNetwork) || time.Since(start) != want {
					t.Errorf("%v after %v, want %v", err, time.Since(start), want)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				start = time.Now()
				_, err = c.Check(ctx, Machine{}, CheckQuery{})
				if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrNetwork) || time.Since(start) != 3*time.Second {
					t.Errorf("cancelled: %v after %v", err, time.Since(start))
				}
			})
		})
	}
}

// slow never brings a byte.
type slow struct{ ctx context.Context }

func (s slow) Read([]byte) (int, error) {
	<-s.ctx.Done()
	return 0, s.ctx.Err()
}

// TestHugeAnswer: an answer of 100 MB is refused unread if it says so, and
// after a megabyte if it does not.
func TestHugeAnswer(t *testing.T) {
	for _, announced := range []bool{true, false} {
		var sent atomic.Int64
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if announced {
				w.Header().Set("Content-Length", strconv.Itoa(100<<20))
			}
			chunk := []byte(strings.Repeat("<response>", 6400))
			for sent.Load() < 100<<20 {
				n, err := w.Write(chunk)
				sent.Add(int64(n))
				if err != nil {
					return
				}
			}
		}))
		c := &Client{URL: server.URL}
		_, err := c.Check(t.Context(), Machine{}, CheckQuery{})
		server.CloseClientConnections()
		server.Close()
		if !errors.Is(err, ErrInvalid) || sent.Load() > 20<<20 {
			t.Errorf("announced %v: %v, %d bytes sent", announced, err, sent.Load())
		}
	}
}

func TestAnswersToAReport(t *testing.T) {
	for _, tt := range []struct {
		status int
		body   string
		want   error
		code   Code
	}{
		{200, response(""), nil, 0},
		{204, "", ErrEmpty, CodeEmptyResponse},
		{200, "<html></html>", ErrInvalid, CodeResponseInvalid},
		{200, "<response></response>", ErrInvalid, CodeResponseInvalid},
		{200, "not XML", ErrXML, CodeXMLParse},
		{404, "", &StatusError{404}, 2404},
		{503, response(""), &StatusError{503}, 2503},
		{200, `<response><app status="error-unknownApplication"/></response>`, &Refused{}, CodeResponseInvalid},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(tt.status)
			_, _ = io.WriteString(w, tt.body)
		}))
		c := &Client{URL: server.URL}
		err := c.Report(t.Context(), Machine{}, Event{Type: EventUpdateComplete, Result: ResultSuccess}, false)
		server.Close()
		code, _ := CodeOf(err)
		var status *StatusError
		var refused *Refused
		switch want := tt.want.(type) {
		case *StatusError:
			if !errors.As(err, &status) || *status != *want {
				t.Errorf("%+v: %v", tt, err)
			}
		case *Refused:
			if !errors.As(err, &refused) {
				t.Errorf("%+v: %v", tt, err)
			}
		default:
			if !errors.Is(err, tt.want) {
				t.Errorf("%+v: %v", tt, err)
			}
		}
		if code != tt.code {
			t.Errorf("%+v: code %v", tt, code)
		}
	}
}

// TestHugeAnswerIsNotRead: what is announced as too long costs no byte.
func TestHugeAnswerIsNotRead(t *testing.T) {
	c := &Client{URL: "http://h/", HTTP: &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, ContentLength: 100 << 20, Body: unread{t}}, nil
	})}}
	if _, err := c.Check(t.Context(), Machine{}, CheckQuery{}); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
}

// unread is a body that nobody may read.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("the body was read")
	return 0, io.EOF
}

func (u unread) Close() error { return nil }

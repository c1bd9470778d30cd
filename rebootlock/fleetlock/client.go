package fleetlock

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"
)

// A Client asks a FleetLock server in the name of one machine.
type Client struct {
	URL   string // base; with or without a path, and a slash at its end
	Group string
	ID    string // of this machine; as zincati has it: AppID
	// HTTP carries the requests, with TLS as its Transport has it; nil: a plain one.
	// Redirects are never followed: they lose the body, and where they lead to was
	// not configured.
	HTTP *http.Client
	// Timeout is for a request and its answer; 0: DefaultTimeout.
	Timeout time.Duration
}

// DefaultTimeout lets a server hold a pre-reboot open while it drains, as
// zincati does (30 minutes), and a minute to answer then.
const DefaultTimeout = 31 * time.Minute

// PreReboot asks for a permit to reboot, and is success where this machine holds
// it already. *Error: the server says no.
func (c Client) PreReboot(ctx context.Context) error { return c.post(ctx, preReboot) }

// SteadyState gives the permit back, and is success where there is none.
func (c Client) SteadyState(ctx context.Context) error { return c.post(ctx, steadyState) }

// Check says why c cannot ask anybody.
func (c Client) Check() error {
	u, err := url.Parse(c.URL)
	switch {
	case err != nil:
		return fmt.Errorf("FleetLock server: %w", err)
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return fmt.Errorf("FleetLock server %q: it is http:// or https://, a host, and perhaps a path", c.URL)
	case u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("FleetLock server %q: a base URL has neither query nor fragment", c.URL)
	}
	return params{ID: c.ID, Group: c.Group}.check()
}

func (c Client) post(ctx context.Context, what string) error {
	if err := c.Check(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(c.Timeout, DefaultTimeout))
	defer cancel()
	data, err := json.Marshal(body{Params: params{ID: c.ID, Group: c.Group}})
	if err != nil {
		return fmt.Errorf("write request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimRight(c.URL, "/")+"/"+what, bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("ask FleetLock server: %w", err)
	}
	req.Header.Set(header, "true")
	req.Header.Set("Content-Type", "application/json")
	carrier := http.Client{}
	if c.HTTP != nil {
		carrier = *c.HTTP
	}
	carrier.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := carrier.Do(req)
	if err != nil {
		return fmt.Errorf("ask FleetLock server: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return nil
	}
	return answered(resp)
}

// maxValue bounds what a server says, in bytes: it goes into logs and statuses.
const maxValue = 1024

// answered reads an answer other than success. One without FleetLock's JSON has
// the kind that zincati gives it.
func answered(resp *http.Response) *Error {
	e := &Error{Status: resp.StatusCode}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err == nil {
		err = json.Unmarshal(data, e)
	}
	if err == nil && e.Kind == "" {
		err = errors.New("no kind")
	}
	if err != nil {
		e.Kind, e.Value = fmt.Sprintf("generic_http_%d", resp.StatusCode), http.StatusText(resp.StatusCode)
		if to := resp.Header.Get("Location"); to != "" {
			e.Value = "it redirects to " + to + "; put that into the configuration if it is right"
		}
	}
	e.Kind, e.Value = printable(e.Kind), printable(e.Value)
	return e
}

func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
	if len(s) > maxValue {
		s = strings.ToValidUTF8(s[:maxValue], "") + "…"
	}
	return s
}

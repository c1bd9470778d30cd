package omaha

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// DefaultUpdater is how a Client names itself if its UpdaterVersion is empty.
const DefaultUpdater = "drydock-1"

// Retries of an update check that got no answer at all, 10 seconds apart, as
// upstream has them: somebody who waits for the answer hears sooner.
const (
	retriesScheduled = 3
	retriesOnDemand  = 1
	retryPause       = 10 * time.Second
)

// requestTimeout bounds one exchange from the dial to the last byte: upstream
// gives up after 30 seconds without a connection, and after 90 seconds of next
// to nothing received.
const requestTimeout = 2 * time.Minute

// Client speaks to one update server. It may be used by several goroutines.
type Client struct {
	HTTP           *http.Client // http.DefaultClient if nil
	URL            string       // of the server, as ProductionURL
	UpdaterVersion string       // name and version that it gives; DefaultUpdater if empty
}

// CheckQuery says what goes with an update check.
type CheckQuery struct {
	OnDemand bool   // somebody waits for the answer
	Event    *Event // reported in the same request (see CheckEvent)
}

// Check asks the server for an update. Without an answer it tries again, up
// to three times. Its errors wrap ErrNetwork, ErrEmpty, ErrXML, ErrInvalid, or
// are a *StatusError or *Refused; CodeOf tells the code to report.
//
// The event of q is delivered once an Offer or a Refused says EventTaken.
func (c *Client) Check(ctx context.Context, m Machine, q CheckQuery) (*Offer, error) {
	r := c.request(m, q.OnDemand)
	app := &r.Apps[0]
	app.Ping, app.Check = &wirePing{Active: "1"}, &struct{}{}
	if q.Event != nil {
		app.Events = []wireEvent{q.Event.wire()}
	}
	retries := retriesScheduled
	if q.OnDemand {
		retries = retriesOnDemand
	}
	for {
		body, err := c.post(ctx, r)
		if err == nil {
			return parseOffer(body)
		}
		if retries == 0 || !errors.Is(err, ErrNetwork) {
			return nil, fmt.Errorf("check for update: %w", err)
		}
		retries--
		if err := pause(ctx, retryPause); err != nil {
			return nil, fmt.Errorf("check for update: %w", err)
		}
	}
}

// Ping tells the server that the machine is alive, without asking for
// anything. Its errors are those of Report.
func (c *Client) Ping(ctx context.Context, m Machine) error {
	r := c.request(m, false)
	r.Apps[0].Ping = &wirePing{Active: "1"}
	if err := c.tell(ctx, r); err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	return nil
}

// Report tells the server of one event. It returns nil only once the server
// has it: an Omaha response came that finds nothing wrong. It does not try
// again. Its errors wrap
// ErrNetwork, ErrEmpty, ErrXML, ErrInvalid, or are a *StatusError or *Refused.
func (c *Client) Report(ctx context.Context, m Machine, e Event, onDemand bool) error {
	r := c.request(m, onDemand)
	r.Apps[0].Events = []wireEvent{e.wire()}
	if err := c.tell(ctx, r); err != nil {
		return fmt.Errorf("report event %d/%d: %w", e.Type, e.Result, err)
	}
	return nil
}

func (c *Client) request(m Machine, onDemand bool) wireRequest {
	os, app := m.wire()
	source := sourceSchedule
	if onDemand {
		source = sourceOnDemand
	}
	version := or(c.UpdaterVersion, DefaultUpdater)
	return wireRequest{
		Protocol: protocol, Version: version, UpdaterVersion: version,
		InstallSource: source, IsMachine: "1", OS: os, Apps: []wireApp{app},
	}
}

// tell posts a request whose answer need only be an Omaha response: a captive
// portal's page is no acknowledgement.
func (c *Client) tell(ctx context.Context, r wireRequest) error {
	body, err := c.post(ctx, r)
	if err != nil {
		return err
	}
	var answer wireResponse
	if err := decode(body, &answer, "response"); err != nil {
		return err
	}
	if len(answer.Apps) == 0 {
		return fmt.Errorf("%w: no app", ErrInvalid)
	}
	app := answer.Apps[0]
	if err := app.refusal(); err != nil {
		return err
	}
	if !app.eventTaken() {
		return fmt.Errorf("%w: event status %.64q", ErrInvalid, app.Events[0].Status)
	}
	return nil
}

// post sends a request and returns the body of a 2xx answer.
func (c *Client) post(ctx context.Context, r wireRequest) ([]byte, error) {
	body, err := encode(r)
	if err != nil {
		return nil, err
	}
	short, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(short, http.MethodPost, c.URL, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("update server URL: %w", err)
	}
	req.Header.Set("Content-Type", "text/xml")
	req.Header.Set("Accept", "*/*")
	req.Header.Set("User-Agent", "") // upstream sends none
	client := c.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	answer, err := client.Do(req)
	if err != nil {
		return nil, networkError(ctx, err)
	}
	defer answer.Body.Close()
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		return nil, &StatusError{HTTP: answer.StatusCode}
	}
	return readBody(ctx, answer)
}

// readBody reads an answer of at most MaxMessage bytes, and not one byte of
// an answer that announces more.
func readBody(ctx context.Context, answer *http.Response) ([]byte, error) {
	tooLong := fmt.Errorf("%w: it is longer than %d bytes", ErrInvalid, MaxMessage)
	if answer.ContentLength > MaxMessage {
		return nil, tooLong
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, MaxMessage+1))
	if err != nil {
		return nil, networkError(ctx, err)
	}
	if len(body) > MaxMessage {
		return nil, tooLong
	}
	return body, nil
}

// networkError tells a caller that gave up from a server that did not answer.
func networkError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("%w: %w", ErrNetwork, err)
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

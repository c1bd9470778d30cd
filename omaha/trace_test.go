package omaha

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/drydock-os/drydock/testdata/real"
)

// An exchange is one POST of a recording and what the server answered.
type exchange struct {
	request, response string
	status            int
}

// readTrace reads a recording of the upstream client.
func readTrace(t *testing.T, path string) []exchange {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var list []exchange
	for part := range strings.SplitSeq("\n"+string(text), "\n=== ") {
		if !strings.HasPrefix(part, "POST") {
			continue
		}
		_, part, _ = strings.Cut(part, "\n")
		request, response, ok := strings.Cut(part, "\n-> ")
		if !ok {
			t.Fatalf("%s: a request without an answer", path)
		}
		x := exchange{request: request, response: strings.TrimSpace(response), status: 200}
		if x.response == "HTTP 500" {
			x.status, x.response = 500, ""
		}
		list = append(list, x)
	}
	return list
}

// traces returns the recordings by name: the project's own, and those of the
// reference material where that is.
func traces(t *testing.T) map[string][]exchange {
	t.Helper()
	all := map[string][]exchange{}
	own, err := filepath.Glob(filepath.Join(real.Module(t), "testdata", "omaha", "*.log"))
	if err != nil || len(own) == 0 {
		t.Fatal("no recordings", err)
	}
	shared, _ := filepath.Glob(filepath.Join(real.Module(t), "..", "shared", "vectors", "traces", "*", "http.log"))
	for _, path := range append(own, shared...) {
		name := strings.TrimSuffix(filepath.Base(path), ".log")
		if name == "http" {
			name = "shared/" + filepath.Base(filepath.Dir(path))
		}
		all[name] = readTrace(t, path)
	}
	return all
}

// malformed says whether a recording holds XML that upstream failed to escape.
// It is the one place where our requests must differ from upstream's.
func malformed(name string) bool { return filepath.Base(name) == "alias_quote" }

// A recorder answers as the recording does and keeps what was asked.
type recorder struct {
	x    exchange
	body []byte
	head http.Header
}

func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	r.head = req.Header
	var err error
	if r.body, err = io.ReadAll(req.Body); err != nil {
		return nil, err
	}
	return &http.Response{
		StatusCode: r.x.status, Request: req, ContentLength: int64(len(r.x.response)),
		Body: io.NopCloser(strings.NewReader(r.x.response)),
	}, nil
}

// say has a client say what app said, and returns the answer.
func say(c *Client, app App) (*Offer, error) {
	switch {
	case app.Check:
		q := CheckQuery{OnDemand: app.OnDemand}
		if len(app.Events) > 0 {
			q.Event = &app.Events[0]
		}
		return c.Check(context.Background(), app.Machine, q)
	case len(app.Events) > 0:
		return nil, c.Report(context.Background(), app.Machine, app.Events[0], app.OnDemand)
	}
	return nil, c.Ping(context.Background(), app.Machine)
}

// A request may differ from upstream's in the white space before a tag's end
// and between tags.
var beforeEnd, betweenTags = regexp.MustCompile(`\s+>`), regexp.MustCompile(`>\s+<`)

func flat(text string) string {
	text = beforeEnd.ReplaceAllString(strings.TrimSpace(text), ">")
	return betweenTags.ReplaceAllString(text, "><")
}

func TestTraceRequestsAreUpstreams(t *testing.T) {
	n := 0
	for name, exchanges := range traces(t) {
		for i, x := range exchanges {
			if malformed(name) {
				continue
			}
			apps, err := parseRequest([]byte(x.request))
			if err != nil {
				t.Fatalf("%s[%d]: %v", name, i, err)
			}
			rec := &recorder{x: x}
			c := &Client{HTTP: &http.Client{Transport: rec}, URL: "http://127.0.0.1:18080/v1/update/", UpdaterVersion: apps[0].Updater}
			_, _ = say(c, apps[0])
			if got, want := flat(string(rec.body)), flat(x.request); got != want {
				t.Errorf("%s[%d]: request\n%s\nwant\n%s", name, i, got, want)
			}
			if rec.head.Get("Content-Type") != "text/xml" || rec.head.Get("User-Agent") != "" {
				t.Errorf("%s[%d]: headers %v", name, i, rec.head)
			}
			n++
		}
	}
	t.Logf("%d requests", n)
}

// TestAliasWithQuote: upstream sends a quote in an alias as it is, which no
// server can read.
func TestAliasWithQuote(t *testing.T) {
	x := traces(t)["alias_quote"][0]
	if _, err := parseRequest([]byte(x.request)); err == nil {
		t.Error("upstream's malformed request was read")
	}
	rec := &recorder{x: x}
	c := &Client{HTTP: &http.Client{Transport: rec}, URL: "http://127.0.0.1:18080/v1/update/"}
	m := Machine{MachineAlias: "a\"b<c&d'e\x00\n\t>\u00e9", Track: "beta # trailing"}
	if _, err := c.Check(t.Context(), m, CheckQuery{}); err != nil {
		t.Fatal(err)
	}
	apps, err := parseRequest(rec.body)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := apps[0].MachineAlias, "a\"b<c&d'e\ufffd\n\t>\u00e9"; got != want || apps[0].Track != m.Track {
		t.Errorf("alias %q, track %q, want alias %q", got, apps[0].Track, want)
	}
}

// eventsSent are what upstream reported next in each trace.
func eventsSent(t *testing.T, x exchange) (events []Event) {
	apps, err := parseRequest([]byte(x.request))
	if err != nil {
		t.Fatal(err)
	}
	return apps[0].Events
}

// TestTraceAnswers: each recorded answer has the meaning that upstream's next
// report shows.
func TestTraceAnswers(t *testing.T) {
	for name, exchanges := range traces(t) {
		if malformed(name) {
			continue
		}
		for i, x := range exchanges {
			apps, err := parseRequest([]byte(x.request))
			if err != nil {
				t.Fatal(err)
			}
			c := &Client{HTTP: &http.Client{Transport: &recorder{x: x}}, URL: "http://127.0.0.1:18080/v1/update/"}
			offer, err := say(c, apps[0])
			if !apps[0].Check {
				if err != nil {
					t.Errorf("%s[%d]: report: %v", name, i, err)
				}
				continue
			}
			if err != nil {
				code, report := CodeOf(err)
				want := eventsSent(t, exchanges[i+1])[0].ErrorCode
				if got := code.Flagged(c.URL, false).Wire(); !report || got != want {
					t.Errorf("%s[%d]: %v has code %d (reported: %v), want %d", name, i, err, got, report, want)
				}
				continue
			}
			if offer.Update != strings.Contains(x.response, "<manifest") {
				t.Errorf("%s[%d]: update %v: %s", name, i, offer.Update, x.response)
			}
			if !offer.EventTaken || string(offer.Raw) != x.response {
				t.Errorf("%s[%d]: event taken %v, raw %q", name, i, offer.EventTaken, offer.Raw)
			}
			if offer.Update && (offer.Version != "1.1.0" || offer.Name != "update.gz" || len(offer.SHA256) != 32 ||
				!bytes.Contains(offer.Raw, []byte(offer.Name)) || offer.MaxFailures != 10 || len(offer.SHA1) != 20) {
				t.Errorf("%s[%d]: offer %+v", name, i, offer)
			}
		}
	}
}

// TestTraceResponsesAreReproduced: to each recorded request, a handler gives
// the recorded answer.
func TestTraceResponsesAreReproduced(t *testing.T) {
	for name, exchanges := range traces(t) {
		for i, x := range exchanges {
			if malformed(name) || x.status != 200 {
				continue
			}
			var want wireResponse
			if err := decode([]byte(x.response), &want, "response"); err != nil {
				t.Fatal(err)
			}
			slashes(want)
			var refused *Refused
			offer, err := parseOffer([]byte(x.response))
			if errors.As(err, &refused) || strings.Contains(name, "no_updatecheck") {
				continue // the test server's tricks: TestHandlerRefuses has ours
			}
			if !errors.Is(err, ErrInvalid) && err != nil {
				t.Fatal(err)
			}
			s := &Static{AppID: "e96281a6-d1af-4bde-9a0a-97b76e56dc57"}
			if offer != nil && offer.Update {
				s.Release(offer)
			}
			w := httptest.NewRecorder()
			(&Handler{Updates: pollHint{s, offer}, Server: "fake"}).ServeHTTP(w, httptest.NewRequest("POST", "/v1/update/", strings.NewReader(x.request)))
			var got wireResponse
			if err := decode(w.Body.Bytes(), &got, "response"); err != nil {
				t.Fatalf("%s[%d]: HTTP %d %v", name, i, w.Code, err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%s[%d]: answer\n%+v\nwant\n%+v", name, i, got, want)
			}
		}
	}
}

// slashes ends each codebase in a slash, which makes no difference to clients.
func slashes(r wireResponse) {
	for _, app := range r.Apps {
		for _, check := range app.Checks {
			for i := 0; check.URLs != nil && i < len(check.URLs.URLs); i++ {
				u := &check.URLs.URLs[i]
				u.Codebase = strings.TrimSuffix(u.Codebase, "/") + "/"
			}
		}
	}
}

// pollHint is a Static that also says how often it wants to be asked.
type pollHint struct {
	*Static
	hint *Offer
}

func (p pollHint) Offer(ctx context.Context, app App) (*Offer, error) {
	o, err := p.Static.Offer(ctx, app)
	if o == nil && p.hint != nil && p.hint.PollInterval > 0 {
		return &Offer{PollInterval: p.hint.PollInterval}, err
	}
	return o, err
}

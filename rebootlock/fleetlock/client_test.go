package fleetlock

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
)

// answers is a FleetLock server that answers as it is told.
type answers struct {
	status int
	body   string
	header http.Header
	path   string // of the last request
	got    string // its body
	asked  int
}

func (a *answers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	data, _ := io.ReadAll(r.Body)
	a.path, a.got, a.asked = r.URL.Path, string(data), a.asked+1
	if r.Method != "POST" || r.Header.Get("fleet-lock-protocol") != "true" {
		w.WriteHeader(http.StatusTeapot)
		return
	}
	for name, values := range a.header {
		w.Header()[name] = values
	}
	w.WriteHeader(a.status)
	_, _ = io.WriteString(w, a.body)
}

func TestClient(t *testing.T) {
	for _, c := range []struct {
		name, base  string
		status      int
		body        string
		kind, value string // of the error; "": success
	}{
		{name: "200", status: 200},
		{name: "204", status: 204},
		{name: "200 with poseidon's body", status: 200, body: "obtained reboot lease"},
		{name: "base with a slash", base: "/", status: 200},
		{name: "base with a path", base: "/base", status: 200},
		{name: "base with a path and a slash", base: "/base/", status: 200},
		{name: "ours", status: 423, body: `{"kind":"queued","value":"waits"}`, kind: "queued", value: "waits"},
		{name: "poseidon", status: 423, body: `{"kind":"lock_held","value":"held by b"}`, kind: "lock_held", value: "held by b"},
		{name: "airlock", status: 500, body: `{"kind":"failed_lock","value":"all 1 semaphore slots currently locked"}`, kind: "failed_lock", value: "all 1 semaphore slots currently locked"},
		{name: "no JSON", status: 502, body: "<html>bad gateway</html>", kind: "generic_http_502", value: "Bad Gateway"},
		{name: "other JSON", status: 404, body: `{"error":"x"}`, kind: "generic_http_404", value: "Not Found"},
		{name: "redirect", status: 307, kind: "generic_http_307", value: "it redirects to http://127.0.0.1:1/"},
		{name: "endless", status: 500, body: `{"kind":"x","value":"` + strings.Repeat("a", 1<<20), kind: "generic_http_500", value: "Internal"},
		{name: "long value", status: 500, body: `{"kind":"x","value":"` + strings.Repeat("ä", 2000) + `"}`, kind: "x", value: "ää"},
		{name: "escape sequence", status: 423, body: `{"kind":"x","value":"a\u001b[2Jb\nc"}`, kind: "x", value: "a [2Jb c"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := &answers{status: c.status, body: c.body}
			if c.status == 307 {
				a.header = http.Header{"Location": {"http://127.0.0.1:1/"}}
			}
			s := httptest.NewServer(a)
			defer s.Close()
			err := Client{URL: s.URL + c.base, Group: "g", ID: "a"}.PreReboot(t.Context())
			if want := strings.TrimSuffix(c.base, "/") + "/v1/pre-reboot"; a.path != want || a.asked != 1 {
				t.Errorf("%d requests, the last to %s, want one to %s", a.asked, a.path, want)
			}
			if a.got != `{"client_params":{"id":"a","group":"g"}}` {
				t.Errorf("sent %s", a.got)
			}
			var no *Error
			switch {
			case c.kind == "" && err != nil:
				t.Error(err)
			case c.kind != "" && (!errors.As(err, &no) || no.Kind != c.kind || !strings.HasPrefix(no.Value, c.value) || no.Status != c.status):
				t.Errorf("%v, want %s: %s", err, c.kind, c.value)
			case no != nil && len(no.Value) > maxValue+len("…"):
				t.Errorf("%d bytes of value", len(no.Value))
			}
		})
	}
}

func TestClientRefusesABadConfiguration(t *testing.T) {
	for _, c := range []Client{
		{}, {URL: "h:80", Group: "g", ID: "a"}, {URL: "ftp://h", Group: "g", ID: "a"}, {URL: "http://", Group: "g", ID: "a"}, {URL: "http://h?x", Group: "g", ID: "a"},
		{URL: "http://h", Group: "a b", ID: "a"}, {URL: "http://h", Group: "g"}, {URL: "http://h\x7f", Group: "g", ID: "a"},
	} {
		if err := c.PreReboot(t.Context()); err == nil || errors.As(err, new(*Error)) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestClientGivesUpInTime(t *testing.T) {
	hold := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hold:
		case <-r.Context().Done():
		}
	}))
	defer s.Close()
	defer close(hold)
	err := Client{URL: s.URL, Group: "g", ID: "a", Timeout: 100 * time.Millisecond}.PreReboot(t.Context())
	if err == nil || errors.As(err, new(*Error)) {
		t.Errorf("%v, want that no answer came", err)
	}
}

// TestLock takes a host through what a FleetLock server may answer.
func TestLock(t *testing.T) {
	a := &answers{status: 200}
	s := httptest.NewServer(a)
	defer s.Close()
	l := &Lock{Client: Client{URL: s.URL, Group: "g", ID: "a"}}
	is := func(when string, want rebootlock.Standing, obstacles int) {
		t.Helper()
		if got, why := l.Standing(); got != want || len(why) != obstacles {
			t.Errorf("%s: %v %v, want %v and %d obstacles", when, got, why, want, obstacles)
		}
	}
	no := func(status int, kind string) { a.status, a.body = status, `{"kind":"`+kind+`","value":"v"}` }
	yes := func() { a.status, a.body = 200, "" }

	is("at the start", rebootlock.Holding, 1)
	if err := l.Fence(t.Context()); !errors.Is(err, rebootlock.ErrNotHolder) || a.asked != 0 {
		t.Errorf("fence at the start: %v after %d requests", err, a.asked)
	}
	no(503, "store_unavailable")
	if err := l.Release(t.Context()); err == nil {
		t.Error("given back to a server that is away")
	}
	is("not given back", rebootlock.Holding, 1)
	yes()
	if err := l.Release(t.Context()); err != nil || a.path != "/v1/steady-state" {
		t.Errorf("%v, asked %s", err, a.path)
	}
	is("given back", rebootlock.None, 0)

	no(423, "lock_held")
	if got, err := l.Acquire(t.Context()); got != rebootlock.Queued || err != nil || l.Why() != "v" {
		t.Errorf("full: %v, %v, %q", got, err, l.Why())
	}
	no(400, "unknown_group")
	if got, err := l.Acquire(t.Context()); got != rebootlock.Queued || err == nil {
		t.Errorf("wrong group: %v, %v", got, err)
	}
	is("in the queue", rebootlock.Queued, 0)
	yes()
	if got, err := l.Acquire(t.Context()); got != rebootlock.Holding || err != nil || l.Why() != "" {
		t.Errorf("granted: %v, %v, %q", got, err, l.Why())
	}
	is("granted", rebootlock.Holding, 0)
	if err := l.Fence(t.Context()); err != nil || a.path != "/v1/pre-reboot" {
		t.Errorf("fence: %v, asked %s", err, a.path)
	}
	no(423, "queued")
	if err := l.Fence(t.Context()); err == nil {
		t.Error("the fence passed although the server said no")
	}
	is("refused at the fence", rebootlock.Holding, 1)
	yes()
	if err := l.Release(t.Context()); err != nil {
		t.Error(err)
	}
	is("given back again", rebootlock.None, 0)
}

// TestLockWithoutAnAnswer: whoever asked and heard nothing may hold a permit.
func TestLockWithoutAnAnswer(t *testing.T) {
	a := &answers{status: 200}
	s := httptest.NewServer(a)
	l := &Lock{Client: Client{URL: s.URL, Group: "g", ID: "a", Timeout: time.Second}}
	if err := l.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if got, err := l.Acquire(t.Context()); got != rebootlock.Queued || err == nil {
		t.Errorf("asked nobody: %v, %v", got, err)
	}
	if got, _ := l.Standing(); got != rebootlock.Queued {
		t.Errorf("%v, want queued: it is asked again, or given back", got)
	}
	held := &Lock{Client: l.Client, sure: true, standing: rebootlock.Holding}
	if err := held.Fence(t.Context()); err == nil {
		t.Error("the fence passed without an answer")
	}
	if got, why := held.Standing(); got != rebootlock.Holding || len(why) != 0 {
		t.Errorf("%v %v: an answer that did not come takes no permit away", got, why)
	}
}

func TestWhatOtherServersMeanByNo(t *testing.T) {
	for _, c := range []struct {
		status int
		kind   string
		full   bool
	}{
		{423, "lock_held", true}, {423, "queued", true}, {409, "conflict", true}, {500, "failed_lock", true}, {404, "failed_lock_semaphore_full", true}, {503, "store_unavailable", true},
		{429, "generic_http_429", true}, {409, "other_way", false}, {400, "unknown_group", false}, {403, "identity_mismatch", false}, {404, "generic_http_404", false}, {500, "failed_sem_init", false},
	} {
		if got := full(&Error{Status: c.status, Kind: c.kind}); got != c.full {
			t.Errorf("%d %s: %t", c.status, c.kind, got)
		}
	}
}

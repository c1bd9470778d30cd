package fleetlock

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
)

func jsonInto(data []byte, v any) error { return json.Unmarshal(data, v) }

// readAll takes the body off the connection, so that it may be closed.
func readAll(resp *http.Response) error {
	data, err := io.ReadAll(resp.Body)
	resp.Body = io.NopCloser(bytes.NewReader(data))
	return err
}

// TestRequestsOfBothClients replays what zincati and flatcar/fleetlock send,
// byte by byte, over a coordinator's permits.
func TestRequestsOfBothClients(t *testing.T) {
	for _, c := range []struct{ name, ask, giveBack string }{
		{"zincati", "zincati-pre-reboot.http", "zincati-steady-state.http"},
		{"zincati with a base path", "zincati-pre-reboot-base.http", "zincati-steady-state.http"},
		{"fleetlock", "fleetlock-pre-reboot.http", "fleetlock-steady-state.http"},
		{"fleetlock with a doubled slash", "fleetlock-pre-reboot-slash.http", "fleetlock-steady-state-base-slash.http"},
	} {
		t.Run(c.name, func(t *testing.T) {
			y := newYard(t, &rebootlock.Memory{Now: time.Now}, "workers")
			addr := y.serve(&Server{Hold: 10 * time.Second})
			for step, file := range []string{c.giveBack, c.ask, c.ask, c.giveBack, c.giveBack} {
				resp, err := send(addr, golden(t, file))
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(resp.Body)
				if resp.StatusCode != http.StatusOK || len(body) != 0 {
					t.Errorf("step %d, %s: %d %q, want 200 and nothing", step, file, resp.StatusCode, body)
				}
				if phase := y.phase("workers", vectorID); step < 3 && step > 0 && phase != rebootlock.PhaseRebooting {
					t.Errorf("step %d: phase %q, want rebooting", step, phase)
				}
			}
			eventually(t, "the permit is booked and gone", func() bool { return y.phase("workers", vectorID) == "" })
		})
	}
}

// TestZincatiPollsUntilItsTurn is what zincati sees that asks every 5 minutes of
// a server that answers at once.
func TestZincatiPollsUntilItsTurn(t *testing.T) {
	y := newYard(t, &rebootlock.Memory{Now: time.Now}, "workers")
	s := &Server{}
	addr := y.serve(s)
	holder := Client{URL: "http://" + addr, Group: "workers", ID: "holder"}
	eventually(t, "the first gets its permit", func() bool { return holder.PreReboot(t.Context()) == nil })
	resp, err := send(addr, golden(t, "zincati-pre-reboot.http"))
	if err != nil {
		t.Fatal(err)
	}
	var refused Error
	body, _ := io.ReadAll(resp.Body)
	if err := json.Unmarshal(body, &refused); err != nil || resp.StatusCode != http.StatusLocked || refused.Kind != "queued" || refused.Value == "" {
		t.Errorf("%d %s, want 423 queued", resp.StatusCode, body)
	}
	if ct := resp.Header.Get("Content-Type"); ct != "application/json" {
		t.Errorf("Content-Type %q", ct)
	}
	if resp, err = send(addr, golden(t, "zincati-steady-state.http")); err != nil || resp.StatusCode != 200 {
		t.Errorf("steady-state while another machine holds: %v, %v, want 200", resp, err)
	}
	if err := holder.SteadyState(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the second gets its permit", func() bool {
		resp, err := send(addr, golden(t, "zincati-pre-reboot.http"))
		return err == nil && resp.StatusCode == 200
	})
	if c := s.Counts(); c.Granted != 2 || c.Released != 2 || c.Errors["queued"] == 0 || c.Held != 0 {
		t.Errorf("counts %+v", c)
	}
}

// fixed is a lock that always answers the same.
type fixed struct {
	granted bool
	err     error
}

func (f fixed) Lock(context.Context, string, string, time.Duration) (bool, string, error) {
	return f.granted, "", f.err
}
func (f fixed) Unlock(context.Context, string, string) error { return f.err }

func TestProtocol(t *testing.T) {
	good := `{"client_params":{"id":"a","group":"g"}}`
	for _, c := range []struct {
		name, method, path, header, body string
		lock                             fixed
		status                           int
		kind                             string
	}{
		{name: "granted", lock: fixed{granted: true}, status: 200},
		{name: "not granted", status: 423, kind: "queued"},
		{name: "given back", path: "/v1/steady-state", status: 200},
		{name: "pretty", body: "\n{\n  \"client_params\": {\n    \"id\": \"a\",\n    \"group\": \"g\"\n  }\n}\n", lock: fixed{granted: true}, status: 200},
		{name: "other fields", body: `{"v":2,"client_params":{"id":"a","group":"g","x":[]}}`, lock: fixed{granted: true}, status: 200},
		{name: "any base", path: "/a/b//c/v1/pre-reboot", lock: fixed{granted: true}, status: 200},
		{name: "slashes everywhere", path: "//v1///pre-reboot/", lock: fixed{granted: true}, status: 200},
		{name: "odd group", body: `{"client_params":{"id":"a","group":"A-1.b"}}`, lock: fixed{granted: true}, status: 200},
		{name: "GET", method: "GET", status: 405, kind: "method_not_allowed"},
		{name: "PUT", method: "PUT", status: 405, kind: "method_not_allowed"},
		{name: "other path", path: "/v1/status", status: 404, kind: "not_found"},
		{name: "root", path: "/", status: 404, kind: "not_found"},
		{name: "version 2", path: "/v2/pre-reboot", status: 404, kind: "not_found"},
		{name: "no header", header: "-", status: 400, kind: "missing_header"},
		{name: "header false", header: "false", status: 400, kind: "missing_header"},
		{name: "no body", body: " ", status: 400, kind: "decode_error"},
		{name: "no JSON", body: "id=a", status: 400, kind: "decode_error"},
		{name: "cut off", body: good[:20], status: 400, kind: "decode_error"},
		{name: "two objects", body: good + good, status: 400, kind: "decode_error"},
		{name: "a list", body: "[" + good + "]", status: 400, kind: "decode_error"},
		{name: "not UTF-8", body: "{\"client_params\":{\"id\":\"a\xff\",\"group\":\"g\"}}", status: 400, kind: "decode_error"},
		{name: "id is a number", body: `{"client_params":{"id":1,"group":"g"}}`, status: 400, kind: "decode_error"},
		{name: "no id", body: `{"client_params":{"group":"g"}}`, status: 400, kind: "invalid_client_identity"},
		{name: "empty id", body: `{"client_params":{"id":"","group":"g"}}`, status: 400, kind: "invalid_client_identity"},
		{name: "long id", body: `{"client_params":{"id":"` + strings.Repeat("a", 129) + `","group":"g"}}`, status: 400, kind: "invalid_client_identity"},
		{name: "id with a line break", body: `{"client_params":{"id":"a\nb","group":"g"}}`, status: 400, kind: "invalid_client_identity"},
		{name: "no group", body: `{"client_params":{"id":"a"}}`, status: 400, kind: "invalid_client_identity"},
		{name: "group with a slash", body: `{"client_params":{"id":"a","group":"a/b"}}`, status: 400, kind: "invalid_client_identity"},
		{name: "group with a line break at its end", body: `{"client_params":{"id":"a","group":"g\n"}}`, status: 400, kind: "invalid_client_identity"},
		{name: "long group", body: `{"client_params":{"id":"a","group":"` + strings.Repeat("a", 129) + `"}}`, status: 400, kind: "invalid_client_identity"},
		{name: "too large", body: good[:1] + strings.Repeat(" ", maxBody) + good[1:], status: 413, kind: "too_large"},
		{name: "unknown group", lock: fixed{err: rebootlock.ErrUnknownGroup}, status: 400, kind: "unknown_group"},
		{name: "own daemon", lock: fixed{err: rebootlock.ErrOtherWay}, status: 409, kind: "other_way"},
		{name: "etcd is away", lock: fixed{err: errors.New("no route to host"), granted: true}, status: 503, kind: "store_unavailable"},
		{name: "etcd is away at the end", path: "/v1/steady-state", lock: fixed{err: errors.New("no route to host")}, status: 503, kind: "store_unavailable"},
	} {
		t.Run(c.name, func(t *testing.T) {
			or := func(s, otherwise string) string {
				if s == "" {
					return otherwise
				}
				return s
			}
			r := httptest.NewRequest(or(c.method, "POST"), "http://h"+or(c.path, "/v1/pre-reboot"), strings.NewReader(or(c.body, good)))
			if c.header != "-" {
				r.Header.Set("fleet-lock-protocol", or(c.header, "true"))
			}
			w := httptest.NewRecorder()
			s := &Server{Locks: c.lock}
			s.Handler().ServeHTTP(w, r)
			if w.Code != c.status {
				t.Fatalf("%d %s, want %d", w.Code, w.Body, c.status)
			}
			if c.kind == "" {
				if w.Body.Len() > 0 {
					t.Errorf("body %q, want none", w.Body)
				}
				return
			}
			var e map[string]string
			if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || len(e) != 2 || e["kind"] != c.kind || e["value"] == "" {
				t.Errorf("%s: %v, want kind %s and a value", w.Body, err, c.kind)
			}
			if s.Counts().Errors[c.kind] != 1 {
				t.Errorf("counts %+v", s.Counts())
			}
		})
	}
}

// TestClientThatIsGone ends what is held open for it, at once.
func TestClientThatIsGone(t *testing.T) {
	y := newYard(t, &rebootlock.Memory{Now: time.Now}, "g")
	s := &Server{Hold: time.Hour}
	c := Client{URL: "http://" + y.serve(s), Group: "g"}
	c.ID = "holder"
	if err := c.PreReboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.ID, c.Timeout = "waits", time.Second
	if err := c.PreReboot(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want it to have waited", err)
	}
	eventually(t, "nothing is held open", func() bool { return s.Counts().Held == 0 })
}

// TestHeldOpenBeyondReadTimeout: the server's ReadTimeout is for the request,
// and not for the wait after it.
func TestHeldOpenBeyondReadTimeout(t *testing.T) {
	y := newYard(t, &rebootlock.Memory{Now: time.Now}, "g")
	s := &Server{Hold: 2 * time.Second, Locks: &Permits{Store: y.store, Keys: y.keys, Now: time.Now}}
	server := s.HTTP()
	server.ReadTimeout = 200 * time.Millisecond
	c := Client{URL: "http://" + listen(t, server), Group: "g", ID: "holder"}
	if err := c.PreReboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.ID = "waits"
	var no *Error
	if err := c.PreReboot(t.Context()); !errors.As(err, &no) || no.Kind != "queued" {
		t.Errorf("%v, want queued, after the hold", err)
	}
}

// TestManyMachinesNeverTwoAtOnce lets 30 machines through one permit, over two
// servers.
func TestManyMachinesNeverTwoAtOnce(t *testing.T) {
	y := newYard(t, &rebootlock.Memory{Now: time.Now}, "g")
	addrs := []string{y.serve(&Server{Hold: time.Second}), y.serve(&Server{Hold: time.Second})}
	var down sync.Mutex
	var all sync.WaitGroup
	for i := range 30 {
		all.Go(func() {
			c := Client{URL: "http://" + addrs[i%2], Group: "g", ID: "m" + string(rune('A'+i))}
			for tries := 0; c.PreReboot(t.Context()) != nil; tries++ {
				if tries > 60 {
					t.Errorf("%s starves", c.ID)
					return
				}
				c.URL = "http://" + addrs[tries%2]
			}
			if !down.TryLock() {
				t.Errorf("%s is down beside another", c.ID)
				return
			}
			down.Unlock()
			if err := c.SteadyState(t.Context()); err != nil {
				t.Errorf("%s: %v", c.ID, err)
			}
		})
	}
	all.Wait()
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{`{"client_params":{"id":"a","group":"g"}}`, `{"client_params":{}}`, "null", "{\"client_params\":{\"id\":\"\xff\"}}", `{"client_params":{"id":"a","group":"."}}x`} {
		f.Add([]byte(seed), "/v1/pre-reboot")
	}
	f.Fuzz(func(t *testing.T, data []byte, path string) {
		p, refused := parse(data)
		if refused == nil {
			if err := p.check(); err != nil || rebootlock.CheckName("id", p.ID) != nil {
				t.Errorf("took %+v: %v", p, err)
			}
			if again, refused := parse([]byte(mustJSON(t, body{p}))); refused != nil || again != p {
				t.Errorf("%+v became %+v, %v", p, again, refused)
			}
		} else if refused.Kind == "" || refused.Value == "" || refused.Status != 400 {
			t.Errorf("refused with %+v", refused)
		}
		if what, ok := endpoint(path); ok && !strings.Contains(path, "pre-reboot") && !strings.Contains(path, "steady-state") {
			t.Errorf("path %q asks for %s", path, what)
		}
	})
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

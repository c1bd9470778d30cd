package nomad

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/fleetlink/nomad/nomadtest"
)

// calls are all of a link's, for tests of what each has to say.
func calls(l *Link) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"preflight": func(ctx context.Context) error { _, err := l.Preflight(ctx); return err },
		"standing":  func(ctx context.Context) error { _, err := l.Standing(ctx); return err },
		"cordon":    func(ctx context.Context) error { return l.Cordon(ctx, "test") },
		"drain":     func(ctx context.Context) error { return l.Drain(ctx, fleetlink.Order{Why: "test"}) },
		"resume":    l.Resume,
		"ailments":  func(ctx context.Context) error { _, err := l.Ailments(ctx); return err },
	}
}

// within is a context that is over soon.
func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func says(t *testing.T, what string, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error", what)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%s: %v, want it to say %q", what, err, w)
		}
	}
}

// out cordons and drains.
func out(t *testing.T, l *Link, o fleetlink.Order, d time.Duration) error {
	t.Helper()
	if err := l.Cordon(t.Context(), "test"); err != nil {
		t.Fatal(err)
	}
	o.Why = "test"
	return l.Drain(within(t, d), o)
}

func TestServerThatErrs(t *testing.T) {
	s, address := nomadtest.Open(t)
	s.Broken.Store(-1)
	for name, call := range calls(link(t, Options{Address: address}, &memory{})) {
		says(t, name, call(t.Context()), "500", "No cluster leader")
	}
}

// TestHang: a request ends by itself, where the caller sets no limit.
func TestHang(t *testing.T) {
	s, address := nomadtest.Open(t)
	s.Silent.Store(true)
	l := link(t, Options{Address: address, Timeout: 100 * time.Millisecond}, &memory{})
	for name, call := range calls(l) {
		says(t, name, call(t.Context()), "no answer within 100ms")
	}
}

// TestDrainOutlastsErrors: servers elect a leader in the middle of a drain.
func TestDrainOutlastsErrors(t *testing.T) {
	s, address := nomadtest.Open(t)
	name := s.Register(nomadtest.NewJob("service", "web", 1), "a").Name
	release := s.Hold(name)
	l := link(t, Options{Address: address}, &memory{})
	once := false
	err := out(t, l, fleetlink.Order{Progress: func(left []fleetlink.Workload) {
		if !once {
			once = true
			s.Broken.Store(4)
			release()
		}
	}}, 10*time.Second)
	if err != nil {
		t.Error(err)
	}
}

// TestIndexThatLies: the drain ends all the same, and no query follows on the
// heels of another.
func TestIndexThatLies(t *testing.T) {
	for name, lie := range map[string]func(*nomadtest.Server){
		"it goes back":               func(s *nomadtest.Server) { s.Back.Store(true) },
		"it goes on without changes": func(s *nomadtest.Server) { s.Onward.Store(true) },
	} {
		s, address := nomadtest.Open(t)
		release := s.Hold(s.Register(nomadtest.NewJob("service", "web", 1), "a").Name)
		lie(s)
		l := link(t, Options{Address: address}, &memory{})
		l.spacing = 100 * time.Millisecond
		err := out(t, l, fleetlink.Order{}, time.Second)
		if n := s.Asked.Load(); n > 40 {
			t.Errorf("%s: %d requests in a second of a drain without news", name, n)
		}
		says(t, name, err, "web.main[0]", "1 of the 2 in its group may be away")
		release()
		if err := out(t, l, fleetlink.Order{}, 10*time.Second); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDrainThatIsNone: what runs is here, whatever Nomad calls complete. By force
// it is ended one by one.
func TestDrainThatIsNone(t *testing.T) {
	s, address := nomadtest.Open(t)
	s.Register(nomadtest.NewJob("service", "web", 1), "a")
	s.Do(func() { s.Lies = true })
	l := link(t, Options{Address: address}, &memory{})
	says(t, "the drain", out(t, l, fleetlink.Order{}, 500*time.Millisecond), "web.main[0]")
	if n := s.Puts.Load(); n > 8 {
		t.Errorf("%d writes within half a second", n)
	}
	standing, err := l.Standing(t.Context())
	if err != nil || standing.Drained() || len(standing.Left) != 1 {
		t.Errorf("standing %+v, %v", standing, err)
	}
	if err := out(t, l, fleetlink.Order{Force: true}, 5*time.Second); err != nil {
		t.Error(err)
	}
}

func TestNodeGone(t *testing.T) {
	s, address := nomadtest.Open(t)
	s.Hold(s.Register(nomadtest.NewJob("service", "web", 1), "a").Name)
	l := link(t, Options{Address: address}, &memory{})
	gone := false
	err := out(t, l, fleetlink.Order{Progress: func([]fleetlink.Workload) {
		if !gone {
			gone = true
			s.Do(func() { s.Nodes = s.Nodes[1:]; s.Index++ })
		}
	}}, 10*time.Second)
	if errors.Is(err, context.DeadlineExceeded) {
		t.Error("waited for a node that is gone until the end")
	}
	says(t, "the drain", err, "node a0000000", "gone")
	for name, call := range calls(l) {
		says(t, name, call(t.Context()), "gone")
	}
}

// tokens serves a cluster with ACLs on, and returns a link whose token file holds
// one that has the rights, and the file.
func tokens(t *testing.T, is nomadtest.Rights) (*nomadtest.Server, *Link, string) {
	s, address := nomadtest.Open(t)
	s.Tokens = map[string]nomadtest.Rights{"secret": is}
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("secret\nnot read\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return s, link(t, Options{Address: address, TokenFile: file}, &memory{}), file
}

func TestTokenLacksARight(t *testing.T) {
	for right, is := range map[string]nomadtest.Rights{
		"node:write": {Node: "read", Agent: true, Read: []string{"*"}},
		"node:read":  {Agent: true, Read: []string{"*"}},
		"agent:read": {Node: "write", Read: []string{"*"}},
	} {
		s, l, _ := tokens(t, is)
		s.Register(nomadtest.NewJob("service", "web", 1), "a")
		_, err := l.Preflight(t.Context())
		says(t, "preflight", err, "lacks the right "+right)
		says(t, "cordon", l.Cordon(t.Context(), "test"), "lacks the right "+right)
		if err := l.Resume(t.Context()); right != "node:write" {
			says(t, "resume", err, right)
		}
		s.Do(func() {
			if s.Node("a").Closed() {
				t.Errorf("without %s the node is closed", right)
			}
		})
	}
}

// TestRightIsAskedOnce: and changes nothing.
func TestRightIsAskedOnce(t *testing.T) {
	s, l, _ := tokens(t, nomadtest.Rights{Node: "write", Agent: true, Read: []string{"*"}})
	for range 3 {
		if _, err := l.Preflight(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.Puts.Load(); n != 1 || s.Index != 10 {
		t.Errorf("%d writes, index %d", n, s.Index)
	}
}

// TestBlindToken: Nomad hides the allocations of a namespace without a word. A
// machine on which one runs is not drained.
func TestBlindToken(t *testing.T) {
	s, l, _ := tokens(t, nomadtest.Rights{Node: "write", Agent: true, Read: []string{"default"}})
	j := nomadtest.NewJob("service", "vault", 1)
	j.Namespace = "hidden"
	release := s.Hold(s.Register(j, "a").Name)
	says(t, "the drain", out(t, l, fleetlink.Order{}, 500*time.Millisecond), "node a", "read-job")
	if standing, err := l.Standing(t.Context()); err != nil || standing.Drained() {
		t.Errorf("standing %+v, %v", standing, err)
	}
	release()
	if err := out(t, l, fleetlink.Order{}, 5*time.Second); err != nil {
		t.Error(err)
	}
	if here := s.Here("a"); len(here) > 0 {
		t.Errorf("drained, and %v are here", here)
	}
}

// TestTokenIsReadAnew: tokens are renewed under the daemon's feet.
func TestTokenIsReadAnew(t *testing.T) {
	s, l, file := tokens(t, nomadtest.Rights{Node: "write", Agent: true, Read: []string{"*"}})
	if _, err := l.Standing(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.Do(func() { s.Tokens = map[string]nomadtest.Rights{"renewed": s.Tokens["secret"]} })
	_, err := l.Standing(t.Context())
	says(t, "an expired token", err, "ACL token not found", "token file")
	for text, words := range map[string]string{"": "is no token", "two words\n": "is no token", strings.Repeat("x", 5000): "is no token"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := l.Standing(t.Context())
		says(t, fmt.Sprintf("a token of %d bytes", len(text)), err, words)
	}
	if err := os.WriteFile(file, []byte("renewed"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Standing(t.Context()); err != nil {
		t.Error(err)
	}
	os.Remove(file)
	_, err = l.Standing(t.Context())
	says(t, "no token file", err, "no such file")
}

func TestTLS(t *testing.T) {
	s := nomadtest.New(t)
	srv, other := httptest.NewTLSServer(s), httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(srv.Close)
	t.Cleanup(other.Close)
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca.pem")
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if err := os.WriteFile(ca, cert, 0o600); err != nil {
		t.Fatal(err)
	}
	good := link(t, Options{Address: srv.URL, CAFile: ca, ServerName: "example.com"}, &memory{})
	if _, err := good.Standing(t.Context()); err != nil {
		t.Error(err)
	}
	_, err := link(t, Options{Address: srv.URL, CAFile: ca, ServerName: "server.global.nomad"}, &memory{}).Standing(t.Context())
	says(t, "a certificate of another name", err, "server.global.nomad")
	for name, call := range calls(link(t, Options{Address: srv.URL}, &memory{})) { // the system's vouch for none of ours
		says(t, name+" with the wrong CA", call(t.Context()), "certificate signed by unknown authority")
	}
	empty := filepath.Join(dir, "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for words, o := range map[string]Options{
		"holds no certificate": {Address: srv.URL, CAFile: empty},
		"no such file":         {Address: srv.URL, CAFile: filepath.Join(dir, "none.pem")},
		"this machine's":       {Address: srv.URL, CertFile: ca, KeyFile: empty},
	} {
		_, err := New(o, machine, &memory{})
		says(t, words, err, words)
	}
}

// TestUnixSocket: Nomad agents serve their API on a socket to tasks.
func TestUnixSocket(t *testing.T) {
	s := nomadtest.New(t)
	path := filepath.Join(t.TempDir(), "api.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &httptest.Server{Listener: listener, Config: &http.Server{Handler: s}}
	srv.Start()
	t.Cleanup(srv.Close)
	if _, err := link(t, Options{Address: "unix://" + path}, &memory{}).Standing(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{{}, {Address: "https://nomad:4646/", CAFile: "x"}, {Address: "unix:///run/api.sock"}, {Address: "https://n", CertFile: "c", KeyFile: "k"}} {
		if err := o.Validate(); err != nil {
			t.Errorf("%+v: %v", o, err)
		}
	}
	for _, o := range []Options{{Address: "nomad:4646"}, {Address: "ftp://n"}, {Address: "http://"}, {Address: "http://n/v1"}, {Address: "unix://x"}, {Address: "%"},
		{Address: "https://n", CertFile: "c"}, {CAFile: "x"}} {
		if err := o.Validate(); err == nil {
			t.Errorf("%+v is valid", o)
		}
	}
	if _, err := New(Options{}, machine, nil); err == nil {
		t.Error("a link without a record")
	}
}

// TestNonsense: answers that are none of Nomad's.
func TestNonsense(t *testing.T) {
	id := "a0000000-1111-2222-3333-444444444444"
	node := fmt.Sprintf(`{"ID":%q,"Name":"a","Status":"ready","SchedulingEligibility":"eligible"}`, id)
	for name, answers := range map[string][2]string{
		"another node":        {`{"ID":"b"}`, `[]`},
		"no JSON":             {`<html>`, `[]`},
		"a list cut off":      {node, `[{"ID":"1"}`},
		"no list":             {node, `{"ID":"1"}`},
		"one without an ID":   {node, `[{"Name":"web"}]`},
		"one that never ends": {node, `[{"ID":"1","Name":"` + strings.Repeat("x", maxValue+maxValue/2) + `"}]`},
		"a list without end":  {node, `[` + strings.Repeat(`{"ID":"1"},`, maxAllocs) + `{"ID":"1"}]`},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case strings.HasSuffix(r.URL.Path, "/allocations"):
				fmt.Fprint(w, answers[1])
			case strings.HasPrefix(r.URL.Path, "/v1/node/"):
				fmt.Fprint(w, answers[0])
			default:
				fmt.Fprintf(w, `{"stats":{"client":{"node_id":%q}}}`, id)
			}
		}))
		l := link(t, Options{Address: srv.URL}, &memory{})
		says(t, name, l.Cordon(t.Context(), "test"), "cordon")
		if data, _ := l.record.Load(); data != nil {
			t.Errorf("%s: something was remembered: %s", name, data)
		}
		srv.Close()
	}
}

// TestRecordThatFails: what cannot be remembered is not done.
func TestRecordThatFails(t *testing.T) {
	s, address := nomadtest.Open(t)
	r := &memory{err: errors.New("disk full")}
	l := link(t, Options{Address: address}, r)
	for name, call := range calls(l) {
		says(t, name, call(t.Context()), "disk full")
	}
	r.err, r.data = nil, []byte("{")
	says(t, "a torn record", l.Cordon(t.Context(), "test"), "JSON")
	if n := s.Puts.Load(); n != 0 {
		t.Errorf("%d writes", n)
	}
}

func FuzzAllocations(f *testing.F) {
	f.Add([]byte(`[{"ID":"1","Name":"web.main[0]","ClientStatus":"running","Job":{"Type":"service","TaskGroups":[{"Name":"main","Count":2,"Migrate":{"MaxParallel":1}}]}}]`))
	f.Add([]byte(`null`))
	f.Add([]byte(`[{"ID":"1","Job":null,"DeploymentStatus":{"Healthy":null}}]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		as, err := decodeAllocations(&limited{strings.NewReader(string(data)), maxValue}, func(allocation) bool { return true })
		if err == nil && slices.ContainsFunc(as, func(a allocation) bool { return a.ID == "" }) {
			t.Error("an allocation without an ID")
		}
		l := &Link{}
		for _, a := range as { // none of them panics
			_ = a.waits(node{DrainStrategy: &drainStrategy{}}) + l.obstacle(a, nil, nil)
		}
	})
}

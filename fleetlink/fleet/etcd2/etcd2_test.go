package etcd2

import (
	"context"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// node is an answer of etcd 3.4's v2 API.
const node = `{"action":"get","node":{"key":"/a","value":"1","modifiedIndex":7,"createdIndex":7}}`

// server answers as a member of etcd, and counts.
func server(t *testing.T, code int, body string) (url string, asked *int) {
	asked = new(int)
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		*asked++
		rw.Header().Set("X-Etcd-Index", "9")
		rw.WriteHeader(code)
		fmt.Fprint(rw, body)
	}))
	t.Cleanup(s.Close)
	return s.URL, asked
}

// TestMembers: a member that is not there, or has no leader, is passed over; what
// may have been done is not done again.
func TestMembers(t *testing.T) {
	good, _ := server(t, 200, node)
	leaderless, reads := server(t, 500, `{"errorCode":300,"message":"Raft Internal Error","cause":"etcdserver: no leader","index":0}`)
	missing, _ := server(t, 404, `{"errorCode":100,"message":"Key not found","cause":"/a","index":9}`)
	down := httptest.NewServer(nil)
	down.Close()
	for name, test := range map[string]struct {
		endpoints  []string
		read, swap string // what the error says; "": none
	}{
		"one":                {[]string{good}, "", ""},
		"one is down":        {[]string{down.URL, good}, "", ""},
		"one has no leader":  {[]string{leaderless, good}, "", "no leader"},
		"a no is a no":       {[]string{missing, good}, "Key not found", "Key not found"},
		"all are down":       {[]string{down.URL}, "refused", "refused"},
		"nobody is asked":    {nil, "no etcd endpoint", "no etcd endpoint"},
		"no v2 API is there": {[]string{plain(t)}, "--enable-v2", "--enable-v2"},
	} {
		c := &Client{Endpoints: test.endpoints}
		_, index, err := c.Get(t.Context(), "/a")
		if !fits(err, test.read) || err == nil && index != 9 {
			t.Errorf("%s: read: index %d, %v, want %q", name, index, err, test.read)
		}
		c = &Client{Endpoints: test.endpoints}
		if _, err := c.Swap(t.Context(), "/a", "2", Prev{Value: "1"}); !fits(err, test.swap) {
			t.Errorf("%s: write: %v, want %q", name, err, test.swap)
		}
	}
	if *reads != 2 {
		t.Errorf("the member without a leader was asked %d times", *reads)
	}
}

func plain(t *testing.T) string {
	s := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(s.Close)
	return s.URL
}

func fits(err error, want string) bool {
	return (err == nil) == (want == "") && (err == nil || strings.Contains(err.Error(), want))
}

// TestBadAnswers: what is no answer is an error.
func TestBadAnswers(t *testing.T) {
	for _, body := range []string{``, `{}`, `null`, `[]`, `{"node":null}`, `{"node":{"key":`} {
		url, _ := server(t, 200, body)
		c := &Client{Endpoints: []string{url}}
		if n, _, err := c.Get(t.Context(), "/a"); err == nil {
			t.Errorf("%q: %+v", body, n)
		}
		if n, err := c.Swap(t.Context(), "/a", "2", Prev{Value: "1"}); err == nil {
			t.Errorf("%q to a write: %+v", body, n)
		}
		if n, err := c.Wait(t.Context(), "/a", 7); (err == nil) != (body == "") || n.Key != "" { // a watch that etcd ended
			t.Errorf("%q to a watch: %+v, %v", body, n, err)
		}
	}
}

// TestHang: a member that does not answer costs the timeout, not the call.
func TestHang(t *testing.T) {
	stop := make(chan struct{})
	hanging := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		select {
		case <-stop:
		case <-req.Context().Done():
		}
	}))
	defer hanging.Close()
	defer close(stop)
	good, _ := server(t, 200, node)
	c := &Client{Endpoints: []string{hanging.URL, good}, Timeout: 50 * time.Millisecond}
	if n, _, err := c.Get(t.Context(), "/a"); err != nil || n.Value != "1" {
		t.Errorf("%+v, %v", n, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := (&Client{Endpoints: []string{hanging.URL}}).Wait(ctx, "/a", 1); err == nil {
		t.Error("a wait for nothing ended well")
	}
}

// TestTLS: a member is trusted by its CA, and a password file is read with each
// request.
func TestTLS(t *testing.T) {
	user := ""
	s := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		name, password, _ := req.BasicAuth()
		user = name + ":" + password
		rw.Header().Set("X-Etcd-Index", "9")
		fmt.Fprint(rw, node)
	}))
	defer s.Close()
	dir := t.TempDir()
	ca, secret := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "secret")
	os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600)
	os.WriteFile(secret, []byte("old\n"), 0o600)
	c, err := Open(Options{Endpoints: []string{s.URL}, CAFile: ca, User: "drydock", PasswordFile: secret})
	if err != nil {
		t.Fatal(err)
	}
	os.WriteFile(secret, []byte("new\n"), 0o600)
	if _, _, err := c.Get(t.Context(), "/a"); err != nil || user != "drydock:new" {
		t.Errorf("as %q: %v", user, err)
	}
	strange, err := Open(Options{Endpoints: []string{s.URL}})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := strange.Get(t.Context(), "/a"); err == nil {
		t.Error("a member was trusted that nobody vouched for")
	}
	for _, o := range []Options{
		{}, {Endpoints: []string{"127.0.0.1:2379"}}, {Endpoints: []string{"http://a:b@h:1"}}, {Endpoints: []string{"https://h:1"}, CertFile: "x"},
		{Endpoints: []string{"http://h:1"}, CAFile: ca}, {Endpoints: []string{"https://h:1"}, CAFile: secret}, {Endpoints: []string{"https://h:1"}, User: "x"},
		{Endpoints: []string{"https://h:1"}, CertFile: ca, KeyFile: secret}, {Endpoints: make([]string, 65)},
	} {
		if _, err := Open(o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}

package fleettest

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/drydock-os/drydock/fleetlink/fleet/etcd2"
	"github.com/drydock-os/drydock/testdata/real"
)

// Etcd is a real etcd that serves the v2 API: Debian's etcd-server 3.4, the
// last line of releases that Debian ships with it.
type Etcd struct {
	cmd *exec.Cmd
	URL string
}

// StartEtcd runs an etcd until the test ends.
func StartEtcd(t testing.TB) *Etcd {
	t.Helper()
	program := real.Program(t, "etcd")
	version, err := exec.Command(program, "--version").Output()
	if m := regexp.MustCompile(`etcd Version: 3\.([0-9]+)\.`).FindSubmatch(version); err != nil || m == nil || string(m[1]) > "5" || len(m[1]) > 1 {
		real.Missing(t, fmt.Sprintf("%s has no v2 API (etcd 3.4 or 3.5 has): %.60q", program, version))
	}
	dir, err := os.MkdirTemp("", "fleet-etcd")
	if err != nil {
		t.Fatal(err)
	}
	client, peer := "http://"+freeAddress(t), "http://"+freeAddress(t)
	cmd := exec.Command(program, "--enable-v2", "--data-dir", dir, "--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer,
		"--heartbeat-interval", "200", "--election-timeout", "2000", "--log-level", "error")
	cmd.Env = append(os.Environ(), "ETCD_UNSUPPORTED_ARCH=")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	e := &Etcd{cmd, client}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		os.RemoveAll(dir)
	})
	for deadline := now().Add(60 * time.Second); ; {
		resp, err := http.Get(client + "/v2/keys/?quorum=true")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return e
			}
		}
		if now().After(deadline) {
			t.Fatalf("etcd does not answer: %v", err)
		}
		<-time.After(50 * time.Millisecond)
	}
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Freeze has etcd answer nothing until thaw is called.
func (e *Etcd) Freeze() (thaw func()) {
	e.cmd.Process.Signal(syscall.SIGSTOP)
	for range 1000 { // the signal takes its time to reach all threads
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", e.cmd.Process.Pid))
		if err != nil || strings.Contains(string(stat), ") T ") {
			break
		}
		<-time.After(time.Millisecond)
	}
	return func() { e.cmd.Process.Signal(syscall.SIGCONT) }
}

// Client returns a client of it.
func (e *Etcd) Client(t testing.TB) *etcd2.Client {
	t.Helper()
	c, err := etcd2.Open(etcd2.Options{Endpoints: []string{e.URL}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// raw writes as fleet itself does, without conditions, which etcd2 does not offer.
func (e *Etcd) raw(method, key string, form url.Values) error {
	query := ""
	if method == http.MethodDelete {
		query = "?recursive=true"
	}
	u := e.URL + "/v2/keys" + (&url.URL{Path: key}).EscapedPath() + query
	req, err := http.NewRequest(method, u, strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode/100 != 2 && resp.StatusCode != http.StatusNotFound {
		return fmt.Errorf("%s %s: %s", method, key, resp.Status)
	}
	return nil
}

// Set writes a key as fleet itself does, without conditions.
func (e *Etcd) Set(key, value string) error {
	return e.raw(http.MethodPut, key, url.Values{"value": {value}})
}

// Remove removes a key, and what is below it, if it is there.
func (e *Etcd) Remove(key string) error { return e.raw(http.MethodDelete, key, nil) }

// A Request is one that etcd answered.
type Request struct {
	At     time.Time
	Method string // "GET", "PUT" or "DELETE"
	Key    string
	Well   bool // with what was asked for; else that there is no such key, or that a condition does not hold
}

// Watched serves etcd at another address, until the test ends, and keeps a record
// of what it is asked for there.
func (e *Etcd) Watched(t testing.TB) (address string, requests func() []Request) {
	t.Helper()
	behind, err := url.Parse(e.URL)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var done []Request
	proxy := httputil.NewSingleHostReverseProxy(behind)
	proxy.ModifyResponse = func(r *http.Response) error {
		mu.Lock()
		defer mu.Unlock()
		done = append(done, Request{now(), r.Request.Method, strings.TrimPrefix(r.Request.URL.Path, "/v2/keys"), r.StatusCode/100 == 2})
		return nil
	}
	proxy.ErrorHandler = func(rw http.ResponseWriter, _ *http.Request, err error) {
		http.Error(rw, err.Error(), http.StatusBadGateway)
	}
	server := httptest.NewServer(proxy)
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections)
	return server.URL, func() []Request {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(done)
	}
}

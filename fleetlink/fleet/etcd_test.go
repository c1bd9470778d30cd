package fleet

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drydock-os/drydock/fleetlink/fleet/etcd2"
	"github.com/drydock-os/drydock/testdata/real"
)

// etcdProcess is a real etcd that serves the v2 API: Debian's etcd-server 3.4, the
// last line of releases that Debian ships with it.
type etcdProcess struct {
	cmd *exec.Cmd
	url string
}

// startEtcd runs an etcd until the test ends.
func startEtcd(t *testing.T) *etcdProcess {
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
	e := &etcdProcess{cmd, client}
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

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// freeze has etcd answer nothing until thaw is called.
func (e *etcdProcess) freeze() (thaw func()) {
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

func (e *etcdProcess) client(t *testing.T) *etcd2.Client {
	t.Helper()
	c, err := etcd2.Open(etcd2.Options{Endpoints: []string{e.url}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// raw writes as fleet itself does, without conditions, which etcd2 does not offer.
func (e *etcdProcess) raw(method, key string, form url.Values) error {
	query := ""
	if method == http.MethodDelete {
		query = "?recursive=true"
	}
	u := e.url + "/v2/keys" + (&url.URL{Path: key}).EscapedPath() + query
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

func (e *etcdProcess) set(key, value string) error {
	return e.raw(http.MethodPut, key, url.Values{"value": {value}})
}

func (e *etcdProcess) remove(key string) error { return e.raw(http.MethodDelete, key, nil) }

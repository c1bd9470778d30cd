package metrics

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drydock-os/drydock/updater"
)

// served is an exporter on loopback until the test ends.
func served(t *testing.T, e *Exporter) (address string, stop func() error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var failed error
	wg.Go(func() { failed = e.Serve(ctx, l) })
	stop = func() error {
		cancel()
		wg.Wait()
		return failed
	}
	t.Cleanup(func() { stop() })
	return l.Addr().String(), stop
}

func get(t *testing.T, address, path string) (int, string, http.Header) {
	t.Helper()
	client := http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get("http://" + address + path)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(body), answer.Header
}

func TestServe(t *testing.T) {
	address, stop := served(t, full())
	code, body, header := get(t, address, "/metrics")
	if code != 200 || !strings.Contains(body, "\ndrydock_release_info{release=\"1.0.0\",slot=\"A\"} 1\n") || !strings.HasPrefix(header.Get("Content-Type"), "text/plain; version=0.0.4") {
		t.Errorf("%d, %s: %.300s", code, header.Get("Content-Type"), body)
	}
	if code, _, _ := get(t, address, "/debug/pprof/"); code != 404 {
		t.Errorf("another path: %d", code)
	}
	answer, err := http.Post("http://"+address+"/metrics", "text/plain", strings.NewReader("x"))
	if err != nil || answer.StatusCode != 405 {
		t.Errorf("POST: %v, %v", answer, err)
	}
	if err := stop(); err != nil {
		t.Errorf("at the end: %v", err)
	}
	if c, err := net.Dial("tcp", address); err == nil {
		c.Close()
		t.Error("it is served after the end")
	}
}

// TestHostileScrapers: those who say nothing, send without end, never read, or are
// many, are cut, and whoever asks properly is answered after them.
func TestHostileScrapers(t *testing.T) {
	t.Parallel()
	address, stop := served(t, full())
	dial := func() net.Conn {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	long := dial()
	fmt.Fprintf(long, "GET /metrics HTTP/1.1\r\nHost: a\r\n")
	for range 3 {
		fmt.Fprintf(long, "X: %s\r\n", strings.Repeat("x", maxHeader))
	}
	fmt.Fprintf(long, "\r\n")
	long.SetReadDeadline(time.Now().Add(readTime))
	if answer, err := http.ReadResponse(bufio.NewReader(long), nil); err == nil && answer.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("a header of %d bytes: %v", 3*maxHeader, answer.Status)
	}
	began := time.Now()
	for i := range 3 * maxConnections {
		if c := dial(); i%2 == 0 {
			fmt.Fprintf(c, "GET /met")
		}
	}
	if code, _, _ := get(t, address, "/metrics"); code != 200 {
		t.Errorf("after them: %d", code)
	}
	if took := time.Since(began); took > 5*readTime {
		t.Errorf("after %s", took)
	}
	reader := dial() // asks again and again, and reads nothing
	for range 2000 {
		reader.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		if _, err := fmt.Fprintf(reader, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			break
		}
	}
	if code, _, _ := get(t, address, "/metrics"); code != 200 {
		t.Errorf("beside one that does not read: %d", code)
	}
	began = time.Now()
	if err := stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 2*farewell {
		t.Errorf("the end took %s", took)
	}
}

// TestWriteFile: whole or not at all, readable by others, and through nobody's
// link.
func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path, precious := filepath.Join(dir, "drydock.prom"), filepath.Join(dir, "shadow")
	if err := os.WriteFile(precious, []byte("root:x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{".drydock.prom.part", "drydock.prom"} { // by whoever owns the directory
		if err := os.Symlink(precious, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := full().WriteFile(path); err != nil {
			t.Fatal(err)
		}
	}
	if data, err := os.ReadFile(precious); err != nil || string(data) != "root:x" {
		t.Errorf("what a link led to: %q, %v", data, err)
	}
	data, err := os.ReadFile(path)
	info, _ := os.Lstat(path)
	if err != nil || !strings.HasSuffix(string(data), "\n") || !strings.Contains(string(data), "drydock_info") || info.Mode() != 0o644 {
		t.Errorf("%v, %v: %.200s", err, info.Mode(), data)
	}
	if left, _ := os.ReadDir(dir); len(left) != 2 {
		t.Errorf("left behind: %v", left)
	}
	promtool(t, string(data), "check", "metrics")
	if err := full().WriteFile(filepath.Join(dir, "missing", "a.prom")); err == nil {
		t.Error("a directory that is not there")
	}
}

// TestScrapesWhileEventsCome is for the race detector, and for the lock: an event
// must not wait for a scrape.
func TestScrapesWhileEventsCome(t *testing.T) {
	e := full()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				if _, err := e.registered().Gather(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 2000 {
		e.Observe(updater.Event{Type: updater.EventChecked, Status: status(updater.Check)})
	}
	wg.Wait()
}

package daemon_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drydock-os/drydock/partition"
)

// TestMetricsOfAWholeUpdate: the process that updates a machine and the one that
// finds the new release good are not the same, and the one after knows of both.
func TestMetricsOfAWholeUpdate(t *testing.T) {
	h := newHost(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	h.more = fmt.Sprintf("[metrics]\nlisten = %q\n", address)
	h.policy(partition.A)
	h.publish("1.1.0")
	h.start()
	scrape := func() string {
		client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
		answer, err := client.Get("http://" + address + "/metrics")
		if err != nil {
			return ""
		}
		defer answer.Body.Close()
		body, _ := io.ReadAll(answer.Body)
		return string(body)
	}
	restart := func() {
		h.daemon.Process.Signal(syscall.SIGTERM) // as systemd ends it
		h.daemon.Wait()
		h.daemon = nil
	}
	h.until("the machine reboots", func() bool { return len(h.rebooted) > 0 })
	<-h.rebooted
	restart()
	h.powerOn()
	h.start()
	want := []string{
		`drydock_release_info{release="1.1.0",slot="B"} 1`, `drydock_results_total{result="written"} 1`, `drydock_results_total{result="updated"} 1`,
		`drydock_results_total{result="rejected"} 0`, "drydock_reboots_total 1", `drydock_checks_total{result="offered"} 1`, "drydock_on_trial 0",
		"drydock_drain_duration_seconds_count 1",
	}
	missing := func() (lines []string) {
		now := scrape()
		for _, line := range want {
			if !strings.Contains(now, "\n"+line+"\n") {
				lines = append(lines, line)
			}
		}
		return lines
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("never: %s", strings.Join(missing(), "\n"))
		}
	})
	h.until("the new release is good", func() bool { return len(missing()) == 0 })
	for _, line := range strings.Split(scrape(), "\n") {
		if strings.HasPrefix(line, "drydock_downloaded_bytes_total ") && strings.HasSuffix(line, " 0") {
			t.Error(line)
		}
	}
	restart()
	h.start()
	h.until("it is known after another start", func() bool { return len(missing()) == 0 })
}

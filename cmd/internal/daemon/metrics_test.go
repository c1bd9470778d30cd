package daemon

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/rebootlock/etcdtest"
	"github.com/drydock-os/drydock/testdata/real"
)

// freeAddress is a loopback address that nobody has.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// scrape is what Prometheus would get; "" for no answer.
func scrape(address string) string {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get("http://" + address + "/metrics")
	if err != nil {
		return ""
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != 200 {
		return ""
	}
	return string(body)
}

// promtool has a scrape judged by Prometheus' own checker.
func promtool(t *testing.T, scraped string) {
	t.Helper()
	cmd := exec.Command(real.Program(t, "promtool"), "check", "metrics")
	cmd.Stdin = strings.NewReader(scraped)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}

// TestMetricsOfADaemonInACluster: what a coordinator on a real etcd shows follows
// the lock: a member, a freeze, a permit.
func TestMetricsOfADaemonInACluster(t *testing.T) {
	etcd, address := etcdtest.Start(t, etcdtest.Options{}), freeAddress(t)
	c := member(t, etcd, "numbers", fmt.Sprintf("zone = \"rack-1\"\n[metrics]\nlisten = %q\n", address))
	c.run()
	shows := func(line string) func() bool {
		return func() bool { return strings.Contains(scrape(address), "\n"+line+"\n") }
	}
	c.until("it is the coordinator", shows(`drydock_lock_coordinates{cluster="numbers"} 1`))
	group := `{cluster="numbers",group="default"}`
	c.until("the group is counted", shows("drydock_lock_group_members"+group+" 1"))
	if err := c.operator.Freeze(t.Context(), "default", "fair"); err != nil {
		t.Fatal(err)
	}
	c.until("the freeze shows", shows("drydock_lock_group_frozen"+group+" 1"))
	c.wishes()
	c.until("a reboot is wanted, and why it does not come", func() bool {
		return shows(`drydock_reboot_wanted{for="reboot"} 1`)() && shows(`drydock_waiting{reason="freeze"} 1`)() && shows(`drydock_permit{state="none"} 1`)() &&
			shows(`drydock_lock_group_blocked{cluster="numbers",group="default",reason="freeze"} 1`)()
	})
	all := scrape(address)
	for _, line := range []string{
		`drydock_info{version="test"} 1`, `drydock_cluster_info{cluster="numbers",group="default",zone="rack-1"} 1`,
		`drydock_strategy_info{strategy="coordinated"} 1`, `drydock_lock_coordinator_trouble{cluster="numbers"} 0`, "drydock_lock_group_max" + group + " 1",
	} {
		if !strings.Contains(all, "\n"+line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
	promtool(t, all)
	if err := c.operator.Thaw(t.Context(), "default"); err != nil {
		t.Fatal(err)
	}
	c.until("a permit shows, or that it was used", func() bool {
		now := scrape(address)
		return strings.Contains(now, "\ndrydock_lock_granted_timestamp_seconds ") || strings.Contains(now, "drydock_reboots_total 1")
	})
}

// TestMetricsComeAndGoWithThePolicy: off unless the policy says so; a reload moves
// them; an address that somebody has, or a directory that cannot be, is said with
// every status and holds nothing up.
func TestMetricsComeAndGoWithThePolicy(t *testing.T) {
	p := prepare(t, noServer).build()
	p.numbers.pause = soon
	file, address := filepath.Join(p.dir, "text", "drydock.prom"), freeAddress(t)
	stop := p.run()
	p.until("it is up", func() bool { return !p.updater.Beat().IsZero() })
	policy := func(lines string) {
		p.policy(noServer + lines)
		p.reload <- os.Interrupt
	}
	taken, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	policy(fmt.Sprintf("[metrics]\nlisten = %q\n", address))
	p.until("the status says that the address is taken", func() bool { return strings.Contains(p.trouble("metrics"), "address already in use") })
	taken.Close()
	p.until("they are served after all", func() bool { return strings.Contains(scrape(address), "drydock_info") && p.trouble("metrics") == "" })

	policy(fmt.Sprintf("[metrics]\ntextfile = %q\n", file))
	p.until("they are in the file", func() bool {
		data, _ := os.ReadFile(file)
		return strings.Contains(string(data), "\ndrydock_time_seconds ")
	})
	p.until("they are no longer served", func() bool { return scrape(address) == "" })
	if data, err := os.ReadFile(file); err == nil {
		promtool(t, string(data))
	}

	p.write("in-the-way", "")
	policy(fmt.Sprintf("[metrics]\ntextfile = %q\n", filepath.Join(p.dir, "in-the-way", "drydock.prom")))
	p.until("the status says that the file cannot be written", func() bool { return strings.Contains(p.trouble("metrics"), "metrics.textfile") })
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("the old file is still collected: %v", err)
	}

	policy("")
	p.until("nothing is wrong any more", func() bool { return p.trouble("metrics") == "" })
	policy(fmt.Sprintf("[metrics]\nlisten = %q\n", address))
	p.until("they are served again", func() bool { return scrape(address) != "" })
	if err := stop(); err != nil {
		t.Errorf("at the end: %v", err)
	}
	if scrape(address) != "" {
		t.Error("they are served after the end")
	}
}

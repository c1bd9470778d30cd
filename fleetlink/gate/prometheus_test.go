package gate

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/testdata/real"
)

// rules has one alert that fires from the first evaluation on, and one that is
// pending for long.
const rules = `groups:
- name: test
  interval: 200ms
  rules:
  - alert: DiskFull
    expr: label_replace(vector(1), "instance", "db-2", "", "")
  - alert: Slow
    expr: vector(1)
    for: 1h
`

// startPrometheus starts a Prometheus of this test's own and returns its URL.
func startPrometheus(t *testing.T) string {
	t.Helper()
	program, dir := real.Program(t, "prometheus"), t.TempDir()
	for name, text := range map[string]string{"prometheus.yml": "rule_files: [rules.yml]\n", "rules.yml": rules} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := port.Addr().String()
	port.Close()
	said := new(bytes.Buffer)
	cmd := exec.Command(program, "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+address)
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Log(said)
		}
	})
	return "http://" + address
}

// TestRealPrometheus: an alert that fires shuts the gate, one that is pending
// does where the policy says so, and a query that is none always does.
func TestRealPrometheus(t *testing.T) {
	url := startPrometheus(t)
	gate := Alerts{URL: url}
	fires := fmt.Sprintf("alert DiskFull fires (instance db-2), %s", url)
	var got string
	for deadline := time.Now().Add(time.Minute); got != fires; {
		if time.Now().After(deadline) {
			t.Fatalf("it never fired: %q", got)
		}
		if got = strings.Join(gate.Shut(t.Context()), "; "); got != fires {
			<-time.After(100 * time.Millisecond)
		}
	}
	for name, tt := range map[string]struct {
		gate Alerts
		want string
	}{
		"ignored":                 {Alerts{Ignore: regexp.MustCompile("^Disk")}, ""},
		"another is looked for":   {Alerts{Match: regexp.MustCompile("^Raid")}, ""},
		"pending":                 {Alerts{Pending: true, Ignore: regexp.MustCompile("Disk")}, "alert Slow is pending, " + url},
		"a query that is empty":   {Alerts{Query: `ALERTS{alertname="Raid"}`}, ""},
		"a query of one":          {Alerts{Query: `ALERTS{alertstate="firing"} unless ALERTS{alertname="Slow"}`}, fires},
		"a query without a name":  {Alerts{Query: `vector(0)`}, "the query has an answer, " + url},
		"a query that is a value": {Alerts{Query: `1`}, `the query gives a "scalar", not a vector`},
		"a query that is none":    {Alerts{Query: `ALERTS{`}, "it answers 400: it says bad_data: "},
	} {
		tt.gate.URL = url
		got := strings.Join(tt.gate.Shut(t.Context()), "; ")
		if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
	if got := (HTTP{URL: url + "/-/ready"}).Shut(t.Context()); got != nil {
		t.Errorf("its own readiness: %q", got)
	}
}

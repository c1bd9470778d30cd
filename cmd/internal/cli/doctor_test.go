package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drydock-os/drydock/cmd/internal/doctor"
)

const chartPage = `Thu 2026-01-01 00:00 UTC, by /etc/drydock/drydock.toml

Policy and keys       1 of 2 ok
  ! warning  policy.sense         update.allow_downgrade is true
               it means           the update server can bring back an old release, with its old holes, and
                                  nobody notices it before it is too late
               to mend            set it to false

Slots                 0 of 3 ok
  X WRONG    slots.disk           no disk
               it means           nothing
               to mend            buy one
  ? unknown  slots.table, slots.labels
                                  not looked at before slots.disk is well

1 ok, 1 warning, 1 wrong, 2 unknown. This host is not well: mend what is wrong, from the top down.
`

func chartReport() doctor.Report {
	return doctor.Report{Version: 1, At: clock().UTC(), Config: "/etc/drydock/drydock.toml",
		Counts: map[doctor.Verdict]int{doctor.OK: 1, doctor.Warning: 1, doctor.Wrong: 1, doctor.Unknown: 2},
		Checks: []doctor.Finding{
			{ID: "policy.file", Verdict: doctor.OK, Seen: "it reads"},
			{ID: "policy.sense", Verdict: doctor.Warning, Seen: "update.allow_downgrade is true",
				Means: "the update server can bring back an old release, with its old holes, and nobody notices it before it is too late", Mend: "set it to false"},
			{ID: "slots.disk", Verdict: doctor.Wrong, Seen: "no \x1b[31mdisk", Means: "nothing", Mend: "buy one"},
			{ID: "slots.table", Verdict: doctor.Unknown, Seen: "not looked at", Because: "slots.disk"},
			{ID: "slots.labels", Verdict: doctor.Unknown, Seen: "not looked at", Because: "slots.table"},
		}}
}

// Only what is not ok is told at length, and what waits for another check in one
// line.
func TestDoctorsPage(t *testing.T) {
	t.Setenv("TZ", "UTC")
	r := chartReport()
	var out bytes.Buffer
	chart{w: &out}.write(r)
	_, got, _ := strings.Cut(out.String(), ", by ")
	_, want, _ := strings.Cut(chartPage, ", by ")
	if got = strings.Replace(got, "no [31mdisk", "no disk", 1); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	out.Reset()
	chart{w: &out, every: true}.write(r)
	if !strings.Contains(out.String(), "+ ok       policy.file          it reads\n") {
		t.Errorf("--all:\n%s", out.String())
	}
	if len(r.Checks) != 5 {
		t.Error("the page ate the report")
	}
}

func TestDoctorExitsOneWhereSomethingIsWrong(t *testing.T) {
	root := t.TempDir() // an image with nothing in it
	code, out, errs := run(t.Context(), "doctor", "--json", "--root", root)
	var r struct {
		Version int
		Image   bool
		Healthy *bool
		Root    string
		Config  string
		Counts  map[string]int
		Checks  []map[string]any
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 1 || errs != "" {
		t.Fatalf("exit %d, %v: %s%s", code, err, out, errs)
	}
	if r.Version != 1 || !r.Image || r.Healthy == nil || *r.Healthy || r.Root != root || r.Config != filepath.Join(root, "etc/drydock/drydock.toml") || r.Counts["wrong"] == 0 {
		t.Errorf("%s", out)
	}
	first := r.Checks[0]
	for _, field := range []string{"id", "verdict", "seen", "means", "mend"} {
		if text, _ := first[field].(string); text == "" {
			t.Errorf("the first check has no %s: %v", field, first)
		}
	}
	if first["id"] != "policy.file" || first["verdict"] != "wrong" {
		t.Errorf("%v", first)
	}
	if code, out, errs := run(t.Context(), "doctor", "--root", root); code != 1 || errs != "" || !strings.Contains(out, "only its files were looked at") || !strings.Contains(out, "X WRONG    policy.file") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	if code, _, _ := run(t.Context(), "doctor", "--nonsense"); code != 2 {
		t.Errorf("exit %d", code)
	}
	if _, err := os.Stat(filepath.Join(root, "var")); err == nil {
		t.Error("the doctor made something")
	}
}

package daemon

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drydock-os/drydock/testdata/real"
)

// surveyed makes a host with a policy, and answers what a survey of it says.
type surveyed struct {
	*testing.T
	root string
}

func newSurveyed(t *testing.T, policy string) surveyed {
	t.Helper()
	s := surveyed{t, t.TempDir()}
	s.write("etc/machine-id", "0123456789abcdef0123456789abcdef\n", 0o644)
	s.write("proc/sys/kernel/random/boot_id", "boot-1\n", 0o644)
	s.write("drydock.toml", fmt.Sprintf("state = %q\n[server]\nurl = \"http://127.0.0.1:9/\"\n%s", filepath.Join(s.root, "state"), strings.ReplaceAll(policy, "ROOT", s.root)), 0o644)
	return s
}

func (s surveyed) write(name, text string, mode os.FileMode) {
	s.Helper()
	path := filepath.Join(s.root, name)
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, []byte(text), mode)
	}
	if err != nil {
		s.Fatal(err)
	}
}

func (s surveyed) options() Options {
	return Options{Config: filepath.Join(s.root, "drydock.toml"), Root: s.root, Log: slog.New(slog.DiscardHandler)}
}

const surveyedPolicy = `
[scheduler]
kind = "hook"
[scheduler.hook]
directory = "ROOT/drain.d"
[gates]
http = [{ url = "http://127.0.0.1:9/one" }, { url = "http://127.0.0.1:9/two" }]
exec = [{ path = "ROOT/gate" }]
`

// TestSurveyAsksAndChangesNothing: hooks hear questions and no orders, each gate
// has its key, and nothing is written.
func TestSurveyAsksAndChangesNothing(t *testing.T) {
	real.Program(t, "sh")
	s := newSurveyed(t, surveyedPolicy)
	s.write("drain.d/10-app", "#!/bin/sh\necho \"$DRYDOCK_VERB $DRYDOCK_MACHINE_ID $DRYDOCK_BOOT_ID\" >>"+s.root+"/asked\n[ $DRYDOCK_VERB != preflight ] || echo '{\"name\":\"db\",\"why\":\"a backup runs\"}'\n", 0o755)
	s.write("gate", "#!/bin/sh\nexit 0\n", 0o755)
	got, err := Survey(t.Context(), s.options())
	if err != nil {
		t.Fatal(err)
	}
	if held := got.Scheduler.Held; got.Scheduler.Opened != "" || held.Err != "" || len(held.Value) != 1 || held.Value[0].String() != "db: a backup runs" {
		t.Errorf("%+v", got.Scheduler)
	}
	for i, want := range []struct {
		name  string
		unfit bool
	}{{"gates.http[0]", true}, {"gates.http[1]", true}, {"gates.exec[0]", false}} {
		if g := got.Gates[i]; g.Name != want.name || g.Unfit != want.unfit || strings.Contains(g.Name, "http[0]") != strings.Contains(strings.Join(g.Shut, ""), "/one") {
			t.Errorf("%+v, want %+v", g, want)
		}
	}
	asked, err := os.ReadFile(filepath.Join(s.root, "asked"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(asked)) {
		if verb, who, _ := strings.Cut(strings.TrimSpace(line), " "); verb != "preflight" && verb != "ailments" && verb != "standing" || who != "0123456789abcdef0123456789abcdef boot-1" {
			t.Errorf("a hook was called with %q", line)
		}
	}
	if _, err := os.Stat(filepath.Join(s.root, "state")); err == nil {
		t.Error("a state directory was made")
	}
}

// TestSurveyOfALinkThatDoesNotOpen: fleet's needs an instance-id, which is read
// and not made, and a password, which is not there.
func TestSurveyOfALinkThatDoesNotOpen(t *testing.T) {
	s := newSurveyed(t, "[scheduler]\nkind = \"fleet\"\n[scheduler.fleet]\netcd = [\"http://127.0.0.1:9\"]\nuser = \"me\"\npassword_file = \"ROOT/password\"\n")
	got, err := Survey(t.Context(), s.options())
	if err != nil || !strings.Contains(got.Scheduler.Opened, "password") || got.Scheduler.Standing.Err != "" {
		t.Errorf("%+v, %v", got.Scheduler, err)
	}
	s.write("password", "secret\n", 0o600)
	if got, err = Survey(t.Context(), s.options()); err != nil || got.Scheduler.Opened != "" || !strings.Contains(got.Scheduler.Standing.Err, "connection refused") {
		t.Errorf("%+v, %v", got.Scheduler, err)
	}
	if _, err := os.Stat(filepath.Join(s.root, "state")); err == nil {
		t.Error("a state directory was made")
	}
}

// TestSurveyReadsTheInstance: as drydockd would, but for making it.
func TestSurveyReadsTheInstance(t *testing.T) {
	s := newSurveyed(t, "")
	if id, err := readInstance(s.root); id != "" || err != nil {
		t.Errorf("where there is none: %q, %v", id, err)
	}
	for text, want := range map[string]string{"0123456789abcdef0123456789abcdef\n": "0123456789abcdef0123456789abcdef", "torn": ""} {
		s.write("instance-id", text, 0o600)
		if id, err := readInstance(s.root); id != want || err != nil {
			t.Errorf("%q: %q, %v", text, id, err)
		}
	}
	if err := (readOnly{recordFile(filepath.Join(s.root, "x.record"))}).Save([]byte("x")); err == nil {
		t.Error("a survey writes")
	}
}

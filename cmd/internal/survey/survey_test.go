package survey

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/fleetlink/gate"
	"github.com/drydock-os/drydock/fleetlink/hook"
	"github.com/drydock-os/drydock/testdata/real"
)

// TestAskLink: what is known is a value and what is not an error, through JSON as
// well, and nothing is changed.
func TestAskLink(t *testing.T) {
	m := &fleetlink.Memory{}
	m.On("b")
	m.Place("a", "web", "db")
	m.Hold("db", "its budget")
	m.Ail("a", "logs")
	got := through(t, AskLink(t.Context(), m.On("a"), false))
	if got.Standing.Err != "" || got.Standing.Value.Ours || len(got.Held.Value) != 1 || got.Held.Value[0].Why != "its budget" || len(got.Ails.Value) != 1 || got.Lacking != nil {
		t.Errorf("%+v", got)
	}
	if m.Cordoned("a") || len(m.Workloads("a")) != 2 {
		t.Error("something was changed")
	}
	m.Silence(errors.New("no answer"))
	for what, err := range map[string]string{"standing": AskLink(t.Context(), m.On("a"), false).Standing.Err, "held": AskLink(t.Context(), m.On("a"), false).Held.Err} {
		if !strings.Contains(err, "no answer") {
			t.Errorf("%s: %q", what, err)
		}
	}
}

func through(t *testing.T, s Scheduler) (back Scheduler) {
	t.Helper()
	text, err := json.Marshal(s)
	if err == nil {
		err = json.Unmarshal(text, &back)
	}
	if err != nil || !reflect.DeepEqual(s, back) {
		t.Errorf("%+v is %s is %+v (%v)", s, text, back, err)
	}
	return back
}

// bounded is a link that knows which rights it lacks.
type bounded struct {
	fleetlink.Link
	lacking []string
	err     error
	force   bool
}

func (b *bounded) Lacking(_ context.Context, force bool) ([]string, error) {
	b.force = force
	return b.lacking, b.err
}

func TestAskLinkForRights(t *testing.T) {
	b := &bounded{Link: (&fleetlink.Memory{}).On("a"), lacking: []string{"patch nodes"}}
	if s := through(t, AskLink(t.Context(), b, true)); s.Lacking == nil || len(s.Lacking.Value) != 1 || !b.force {
		t.Errorf("%+v, force %t", s.Lacking, b.force)
	}
	b.err = errors.New("away")
	if s := through(t, AskLink(t.Context(), b, false)); s.Lacking == nil || s.Lacking.Err != "away" || s.Lacking.Value != nil {
		t.Errorf("%+v", s.Lacking)
	}
}

// TestAskGates: a gate that is shut was asked; one that says that it could not be
// is told apart, by what the gates themselves say.
func TestAskGates(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/busy":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "/firing/api/v1/query":
			w.Write([]byte(`{"status":"success","data":{"resultType":"vector","result":[{"metric":{"alertname":"DiskFull","alertstate":"firing"},"value":[1,"1"]}]}}`))
		case "/api/v1/query":
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer server.Close()
	real.Program(t, "sh")
	script := func(text string, mode os.FileMode) hook.Gate {
		path := filepath.Join(t.TempDir(), "gate")
		if err := errors.Join(os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), mode), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return hook.Gate{Path: path}
	}
	doors := []Door{
		{"well", gate.HTTP{URL: server.URL + "/well"}},
		{"busy", gate.HTTP{URL: server.URL + "/busy"}},
		{"firing", gate.Alerts{URL: server.URL + "/firing"}},
		{"closed", script("exit 75", 0o755)},
		{"no server", gate.HTTP{URL: "http://127.0.0.1:9/"}},
		{"no Prometheus", gate.Alerts{URL: "http://127.0.0.1:9"}},
		{"no right", gate.Alerts{URL: server.URL}},
		{"fails", script("exit 3", 0o755)},
		{"refused", script("", 0o644)},
		{"hangs", script("sleep 60", 0o755)},
	}
	unfit := map[string]bool{"no server": true, "no Prometheus": true, "no right": true, "fails": true, "refused": true, "hangs": true}
	for i, g := range AskGates(t.Context(), doors, 3*time.Second) {
		if g.Name != doors[i].Name || g.Unfit != unfit[g.Name] || (len(g.Shut) == 0) != (g.Name == "well") {
			t.Errorf("%+v", g)
		}
	}
}

// TestSurveyor: what a program prints is taken whole and of this release, or not
// at all.
func TestSurveyor(t *testing.T) {
	real.Program(t, "sh")
	for what, c := range map[string]struct{ script, want string }{
		"a survey":        {`echo '{"version":1,"gates":[{"name":"g","shut":["no"]}]}'`, ""},
		"another release": {`echo '{"version":2}'`, "another release"},
		"no survey":       {`echo nothing`, "read the survey"},
		"two":             {`echo '{"version":1}{"version":1}'`, "read the survey"},
		"it fails":        {"echo bad policy >&2; exit 1", "exit status 1: bad policy"},
		"too much":        {"head -c 9000000 /dev/zero", "more than 8388608 bytes"},
		"it hangs":        {`trap "" TERM; echo '{"version":1}'; while :; do sleep 1; done`, "did not end in its time"},
		"a proxy":         {`[ -z "$https_proxy" ] && [ "$1" = -config ] && [ "$3" = survey ] && echo '{"version":1}'`, ""},
	} {
		t.Run(what, func(t *testing.T) {
			t.Setenv("https_proxy", "http://127.0.0.1:9")
			program := filepath.Join(t.TempDir(), "drydockd")
			if err := os.WriteFile(program, []byte("#!/bin/sh\n"+c.script+"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			patience := time.Minute
			if what == "it hangs" {
				patience = time.Second
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			s, err := Surveyor{Program: program, Args: []string{"-config", "x"}}.Survey(ctx)
			if c.want == "" && (err != nil || s.Version != 1) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%+v, %v; want %q", s, err, c.want)
			}
		})
	}
	if _, err := (Surveyor{Program: "/nonexistent"}).Survey(t.Context()); err == nil || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no program: %v", err)
	}
}

package host_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/fleetlink/host"
)

// engine stands in for an engine that misbehaves: it answers each path as the
// test says. TestRealPodman has one that is real.
func engine(t *testing.T, answers map[string]string) host.Containers {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, known := answers[r.Method+" "+r.URL.Path]
		switch {
		case !known:
			w.WriteHeader(http.StatusNotFound)
			w.Write([]byte(`{"message":"No such container: x"}`))
		case answer == "hang":
			select {
			case <-stop:
			case <-r.Context().Done():
			}
		case strings.HasPrefix(answer, "!"):
			w.WriteHeader(http.StatusInternalServerError)
			w.Write([]byte(answer[1:]))
		default:
			w.Write([]byte(answer))
		}
	}))
	server.Listener = listener
	server.Start()
	t.Cleanup(func() { close(stop); server.Close() })
	return host.Containers{Socket: socket, Labels: []string{"drain=first", "drain"}}
}

// TestContainersAnswers: what an engine answers is read as it is meant, and what
// is none is an error.
func TestContainersAnswers(t *testing.T) {
	const list, one = "GET /containers/json", "GET /containers/web/json"
	for name, tt := range map[string]struct {
		answers map[string]string
		want    string // of Running: names and states, or a part of the error
	}{
		"none":             {map[string]string{list: "[]"}, ""},
		"one":              {map[string]string{list: `[{"Id":"1","Names":["/other/alias","/web"]}]`, one: `{"State":{"Status":"running"}}`}, "web running up"},
		"paused, --rm":     {map[string]string{list: `[{"Names":["/web"]}]`, one: `{"State":{"Status":"paused"},"HostConfig":{"AutoRemove":true}}`}, "web paused up once"},
		"gone since":       {map[string]string{list: `[{"Names":["/web"]}]`}, ""},
		"ended since":      {map[string]string{list: `[{"Names":["/web"]}]`, one: `{"State":{"Status":"exited","ExitCode":1}}`}, ""},
		"ended, listed":    {map[string]string{list: `[{"Names":["/web"],"State":"exited"}]`, one: "hang"}, ""},
		"stopping, listed": {map[string]string{list: `[{"Names":["/web"],"State":"stopping"}]`, one: `{"State":{"Status":"stopping"}}`}, "web stopping"},
		"a new status":     {map[string]string{list: `[{"Names":["/web"]}]`, one: `{"State":{"Status":"tomorrow"}}`}, "web tomorrow"},
		"no name":          {map[string]string{list: `[{"Names":null}]`}, "without a name"},
		"no state":         {map[string]string{list: `[{"Names":["/web"]}]`, one: `{}`}, "container web: the engine does not say in what state it is"},
		"null":             {map[string]string{list: "null"}, "containers with label drain=first: read the engine's answer: it is null"},
		"a page":           {map[string]string{list: "<html>"}, "invalid character"},
		"half":             {map[string]string{list: `[{"Names":`}, "unexpected end"},
		"500":              {map[string]string{list: `!{"message":"driver \u001b[1mfailed"}`}, "the engine answers 500: driver  [1mfailed"},
		"500 with a page":  {map[string]string{list: "!<html>"}, "the engine answers 500"},
		"huge":             {map[string]string{list: strings.Repeat(" ", 17<<20)}, "larger than 16 MiB"},
		"hangs":            {map[string]string{list: "hang"}, "deadline exceeded"},
		"hangs at the one": {map[string]string{list: `[{"Names":["/web"]}]`, one: "hang"}, "deadline exceeded"},
	} {
		t.Run(name, func(t *testing.T) {
			patience := 10 * time.Second
			if strings.HasPrefix(name, "hangs") {
				patience = 200 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			running, err := engine(t, tt.answers).Running(ctx)
			var got []string
			for _, u := range running {
				text := u.Name + " " + u.What
				if u.State == host.Up {
					text += " up"
				}
				if u.Once && u.Kept != "" {
					text += " once"
				}
				got = append(got, text)
			}
			if err != nil {
				got = append(got, err.Error())
			}
			if text := strings.Join(got, "; "); tt.want == "" && text != "" || !strings.Contains(text, tt.want) {
				t.Errorf("%q, want %q", text, tt.want)
			}
		})
	}
}

// TestAnEnginesWordIsNotItsDeed: a stop that the engine has agreed to, and whose
// container runs on, has not ended; one that it refuses for what has ended has.
func TestAnEnginesWordIsNotItsDeed(t *testing.T) {
	const runs, ended = `{"State":{"Status":"running"}}`, `{"State":{"Status":"exited"}}`
	for name, tt := range map[string]struct {
		stop, state string
		want        string
	}{
		"stopped":                 {"", ended, ""},
		"agreed, and runs on":     {"", runs, "deadline exceeded"},
		"refused":                 {`!{"message":"permission denied"}`, runs, "kill container web: the engine answers 500: permission denied"},
		"refused, as it has gone": {`!{"message":"can only kill running containers"}`, ended, ""},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		err := engine(t, map[string]string{"POST /containers/web/kill": tt.stop, "GET /containers/web/json": tt.state}).Stop(ctx, "web", true)
		cancel()
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	away := host.Containers{Socket: "/nonexistent"}
	_, running := away.Running(t.Context())
	if err := errors.Join(away.Stop(t.Context(), "x", false)); err == nil || running == nil || away.Start(t.Context(), "x") == nil {
		t.Error("an engine that is not there: no error")
	}
}

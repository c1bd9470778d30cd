package gate

import (
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// gateFunc is a gate that a test plays.
type gateFunc func(ctx context.Context) []string

func (f gateFunc) Shut(ctx context.Context) []string { return f(ctx) }

// TestGatesAreAskedAtOnceAndBounded: three that take their whole time take it
// together, and what they say keeps its order and holds for a while.
func TestGatesAreAskedAtOnceAndBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		hang := func(name string) gateFunc {
			return func(ctx context.Context) []string { <-ctx.Done(); return []string{name} }
		}
		g := &Gates{List: []Gate{hang("a"), hang("b"), gateFunc(func(context.Context) []string { asked++; return nil }), hang("c")}}
		for range 3 {
			began := time.Now()
			if got := g.Shut(t.Context()); !slices.Equal(got, []string{"a", "b", "c"}) {
				t.Errorf("%v", got)
			}
			if took := time.Since(began); took > DefaultPatience {
				t.Errorf("it took %s", took)
			}
		}
		if asked != 1 {
			t.Errorf("asked %d times within %s", asked, DefaultEvery)
		}
		<-time.After(DefaultEvery)
		g.Shut(t.Context())
		if asked != 2 {
			t.Errorf("asked %d times", asked)
		}
		<-time.After(DefaultEvery)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		g.Shut(ended)
		g.Shut(t.Context())
		if asked != 4 {
			t.Errorf("asked %d times: an answer that was cut off is kept", asked)
		}
		g.Now = func() time.Time { return time.Now().Add(-time.Hour) }
		g.Shut(t.Context())
		if asked != 5 {
			t.Errorf("asked %d times: an answer of the future is kept", asked)
		}
	})
	if got := new(Gates).Shut(t.Context()); got != nil {
		t.Errorf("no gates at all are shut: %v", got)
	}
}

// vector is an answer of the query API as Prometheus 2.42 gives it.
func vector(alerts ...string) string {
	for i, a := range alerts {
		f := strings.Fields(a)
		alerts[i] = fmt.Sprintf(`{"metric":{"__name__":"ALERTS","alertname":%q,"alertstate":%q,"instance":%q},"value":[1435781451.781,"1"]}`, f[0], f[1], f[2])
	}
	return `{"status":"success","data":{"resultType":"vector","result":[` + strings.Join(alerts, ",") + `]}}`
}

// TestAlerts: what answers stands in for a Prometheus; TestRealPrometheus asks
// one.
func TestAlerts(t *testing.T) {
	const disk, pend = "DiskFull firing db-2", "Slow pending db-1"
	many := []string{"F firing f", "E firing e", "D firing d", "C firing c", "B firing b", "A firing a", "G firing g"}
	for name, tt := range map[string]struct {
		status int
		body   string
		gate   Alerts
		want   string
	}{
		"none":                  {200, vector(), Alerts{}, ""},
		"one fires":             {200, vector(disk, pend), Alerts{}, "alert DiskFull fires (instance db-2), @"},
		"pending too":           {200, vector(disk, pend), Alerts{Pending: true}, "alert DiskFull fires (instance db-2), @; alert Slow is pending (instance db-1), @"},
		"match":                 {200, vector(disk, "Other firing x"), Alerts{Match: regexp.MustCompile("^Disk")}, "alert DiskFull fires (instance db-2), @"},
		"ignore":                {200, vector(disk, "Watchdog firing x"), Alerts{Ignore: regexp.MustCompile("^(Watchdog|InfoInhibitor)$")}, "alert DiskFull fires (instance db-2), @"},
		"many":                  {200, vector(many...), Alerts{}, "2 more alerts, @"},
		"no name, yet a match":  {200, `{"status":"success","data":{"resultType":"vector","result":[{"metric":{"job":"x"},"value":[1,"0"]}]}}`, Alerts{Match: regexp.MustCompile("y")}, "the query has an answer (job x), @"},
		"infos are no warnings": {200, strings.Replace(vector(), "{", `{"infos":["PromQL info: metric might not be a counter"],`, 1), Alerts{}, ""},
		"warnings":              {200, strings.Replace(vector(), "{", `{"warnings":["no store matched"],`, 1), Alerts{}, "it warns: no store matched"},
		"500":                   {500, "boom", Alerts{}, "it answers 500: read its answer"},
		"500 and a vector":      {500, vector(), Alerts{}, "it answers 500: its answer is none to a query"},
		"503 with its error":    {503, `{"status":"error","errorType":"timeout","error":"query timed out in expression evaluation"}`, Alerts{}, "it answers 503: it says timeout: query timed out"},
		"400":                   {400, `{"status":"error","errorType":"bad_data","error":"parse error"}`, Alerts{}, "it says bad_data: parse error"},
		"a page":                {200, "<html>log in</html>", Alerts{}, "read its answer: invalid character"},
		"nothing":               {200, "", Alerts{}, "read its answer: EOF"},
		"half":                  {200, vector(disk)[:60], Alerts{}, "read its answer: unexpected EOF"},
		"more":                  {200, vector() + "{}", Alerts{}, "more follows it"},
		"a scalar":              {200, `{"status":"success","data":{"resultType":"scalar","result":[1,"1"]}}`, Alerts{}, `the query gives a "scalar", not a vector`},
		"no data":               {200, `{"status":"success"}`, Alerts{}, `the query gives a "", not a vector`},
		"no vector":             {200, `{"status":"success","data":{"resultType":"vector"}}`, Alerts{}, "its vector is none"},
		"a vector that is null": {200, `{"status":"success","data":{"resultType":"vector","result":null}}`, Alerts{}, "its vector is none"},
		"huge":                  {200, strings.Replace(vector(), "{", `{"x":"`+strings.Repeat("x", maxAnswer)+`",`, 1), Alerts{}, "larger than 8 MiB"},
		"deep":                  {200, strings.Repeat("[", 100_000), Alerts{}, "exceeded max depth"},
		"a label with colours":  {200, vector("\\x1b[31mRed firing x"), Alerts{}, "fires (instance x)"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/prom/api/v1/query" || r.URL.Query().Get("query") != "ALERTS" {
					t.Errorf("asked for %s", r.URL)
				}
				w.WriteHeader(tt.status)
				w.Write([]byte(tt.body))
			}))
			defer server.Close()
			tt.gate.URL = strings.Replace(server.URL, "http://", "http://ada:secret@", 1) + "/prom/"
			got := strings.Join(tt.gate.Shut(t.Context()), "; ")
			want := strings.ReplaceAll(tt.want, "@", server.URL+"/prom/")
			if tt.want == "" && got != "" || !strings.Contains(got, want) || strings.Contains(got, "secret") || strings.Contains(got, "\x1b") {
				t.Errorf("%q, want %q", got, want)
			}
		})
	}
}

// TestAServerThatIsNotThereShutsTheGate, and so does one that never answers, or
// never ends.
func TestAServerThatIsNotThereShutsTheGate(t *testing.T) {
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	stop := make(chan struct{})
	mute := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte(`{"status":"succ`))
		w.(http.Flusher).Flush()
		select {
		case <-stop:
		case <-r.Context().Done():
		}
	}))
	defer mute.Close()
	defer close(stop)
	var hops atomic.Int32
	loop := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hops.Add(1)
		http.Redirect(w, r, r.URL.String(), http.StatusFound)
	}))
	defer loop.Close()
	for _, gate := range []Gate{
		Alerts{URL: gone.URL}, Alerts{URL: mute.URL}, Alerts{URL: loop.URL}, Alerts{URL: "::"}, Alerts{URL: "prometheus:9090"}, Alerts{},
		HTTP{URL: gone.URL}, HTTP{URL: loop.URL}, HTTP{URL: "::"}, HTTP{},
		HTTP{URL: gone.URL, Access: Access{TokenFile: "/no/such"}}, HTTP{URL: gone.URL, Access: Access{TokenFile: "/dev/null"}},
		HTTP{URL: gone.URL, Access: Access{CAFile: "/dev/null"}}, HTTP{URL: gone.URL, Access: Access{CertFile: "/dev/null"}}, HTTP{URL: gone.URL, Access: Access{TokenFile: "/dev/zero"}},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		began := time.Now()
		if got := gate.Shut(ctx); len(got) != 1 || got[0] == "" {
			t.Errorf("%+v: %q", gate, got)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("%+v took %s", gate, took)
		}
		cancel()
	}
	if n := hops.Load(); n > 10 {
		t.Errorf("%d redirects were followed", n)
	}
}

// TestHTTP: over TLS, with a token, and the status that is wanted.
func TestHTTP(t *testing.T) {
	dir := t.TempDir()
	ca, token := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "token")
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Authorization") != "Bearer s3cret":
			w.WriteHeader(http.StatusUnauthorized)
		case r.URL.Path == "/busy":
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprint(w, "the backup\nruns ", strings.Repeat("x", 10_000))
		default:
			w.WriteHeader(http.StatusNoContent)
		}
	}))
	defer server.Close()
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // it tells of the client that does not trust it
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	for path, data := range map[string]string{ca: string(block), token: "s3cret\n"} {
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	full := Access{CAFile: ca, TokenFile: token}
	for name, tt := range map[string]struct {
		gate HTTP
		want string
	}{
		"open":       {HTTP{full, server.URL, 204}, ""},
		"other code": {HTTP{full, server.URL, 0}, "@ answers 204, not 200"},
		"busy":       {HTTP{full, server.URL + "/busy", 204}, "@/busy answers 503, not 204: the backup runs xxx"},
		"no token":   {HTTP{Access{CAFile: ca}, server.URL, 204}, "@ answers 401, not 204"},
		"no CA":      {HTTP{Access{TokenFile: token}, server.URL, 204}, "@ cannot be asked: tls: failed to verify certificate"},
	} {
		got := strings.Join(tt.gate.Shut(t.Context()), "; ")
		if want := strings.ReplaceAll(tt.want, "@", server.URL); tt.want == "" && got != "" || !strings.Contains(got, want) || len(got) > 400 {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// FuzzParse: whatever a server answers, parse says what it is, and a sentence on
// it is short and on one line.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{vector("A firing b"), `{"status":"success","data":{"resultType":"vector","result":[]}}`, `{"status":"error"}`, `{"status":"success","warnings":[""]}`, "[", ""} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		samples, err := parse(body)
		if err != nil && (samples != nil || strings.ContainsAny(err.Error(), "\x1b\x00")) {
			t.Errorf("%v and %q", samples, err)
		}
		for _, s := range samples {
			if text := s.sentence(); len(text) > 400 || strings.ContainsAny(text, "\n\x1b") {
				t.Errorf("%q", text)
			}
		}
	})
}

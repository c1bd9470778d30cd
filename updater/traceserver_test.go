package updater_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drydock-os/drydock/updater/policy"
)

// scenario is what a recorded server was told to do.
type scenario struct {
	Payload     string   `json:"payload"`
	Attrs       *string  `json:"attrs"`
	CheckAttr   string   `json:"ucattr"`
	NoUpdate    bool     `json:"noupdate"`
	Raw         *string  `json:"raw"`
	HTTP        int      `json:"http"`
	GetHTTP     int      `json:"gethttp"`
	CorruptAt   int      `json:"corrupt_at"`
	CutAfter    int      `json:"cut_after"`
	Step        int      `json:"step"`
	Slow        float64  `json:"slow"`
	IgnoreRange bool     `json:"ignore_range"`
	URLs        []string `json:"urls"`
	SHA256      string   `json:"sha256"`
	Size        int      `json:"size"`
}

// traceServer answers as the recorded server did, and records what it was
// asked in the words of http.log.
type traceServer struct {
	*httptest.Server
	s       scenario
	payload []byte

	mu  sync.Mutex
	log []string
	cut bool
}

func newTraceServer(t *testing.T) *traceServer {
	srv := &traceServer{}
	srv.Server = httptest.NewServer(srv)
	t.Cleanup(srv.Close)
	return srv
}

// play makes the server behave as one trace wants it from now on.
func (srv *traceServer) play(s scenario, data []byte) {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	srv.s, srv.payload, srv.log, srv.cut = s, data, nil, false
}

func (srv *traceServer) note(format string, args ...any) {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	srv.log = append(srv.log, fmt.Sprintf(format, args...))
}

func (srv *traceServer) recorded() []string {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	return slices.Clone(srv.log)
}

func (srv *traceServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		srv.omaha(w, r)
		return
	}
	ranged := "None"
	if h := r.Header.Get("Range"); h != "" {
		ranged = h
	}
	srv.note("GET %s %s", r.URL.Path, ranged)
	if srv.s.GetHTTP != 0 {
		w.WriteHeader(srv.s.GetHTTP)
		return
	}
	if srv.s.IgnoreRange {
		r.Header.Del("Range")
	}
	srv.mu.Lock()
	cut := srv.s.CutAfter > 0 && !srv.cut
	srv.cut = true
	srv.mu.Unlock()
	if cut {
		w.Header().Set("Content-Length", strconv.Itoa(len(srv.payload)))
		w.Write(srv.payload[:srv.s.CutAfter])
		panic(http.ErrAbortHandler)
	}
	content := io.ReadSeeker(bytes.NewReader(srv.payload))
	if srv.s.Slow > 0 {
		content = &trickle{ReadSeeker: content, ctx: r.Context()}
	}
	http.ServeContent(w, r, "", time.Time{}, content)
}

// trickle hands out a payload so slowly that a daemon can be killed in it.
type trickle struct {
	io.ReadSeeker
	ctx context.Context
}

func (t *trickle) Read(p []byte) (int, error) {
	select {
	case <-t.ctx.Done():
		return 0, t.ctx.Err()
	case <-time.After(20 * time.Millisecond):
	}
	return t.ReadSeeker.Read(p[:min(len(p), 32768)])
}

var eventPattern = regexp.MustCompile(`<event ([^>]*)>`)

// words is the part of a request that traces are compared by.
func words(body string) string {
	var parts []string
	if strings.Contains(body, "<ping") {
		parts = append(parts, "ping")
	}
	if strings.Contains(body, "<updatecheck") {
		parts = append(parts, "check")
	}
	for _, m := range eventPattern.FindAllStringSubmatch(body, -1) {
		parts = append(parts, m[1])
	}
	return "POST " + strings.Join(parts, " ")
}

func (srv *traceServer) omaha(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	srv.note("%s", words(string(body)))
	s := srv.s
	if s.HTTP != 0 {
		w.WriteHeader(s.HTTP)
		return
	}
	answer := `<event status="ok"></event>`
	if strings.Contains(string(body), "<updatecheck") {
		answer = `<ping status="ok"></ping>` + srv.check() + answer
	}
	fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?>
<response protocol="3.0" server="trace"><daystart elapsed_seconds="0"></daystart><app appid="%s" status="ok">%s</app></response>`, policy.DefaultAppID, answer)
}

func (srv *traceServer) check() string {
	s := srv.s
	switch {
	case s.Raw != nil:
		return *s.Raw
	case s.NoUpdate:
		return `<updatecheck status="noupdate"` + s.CheckAttr + `></updatecheck>`
	}
	urls := `<url codebase="` + srv.URL + `/p/"></url>`
	if len(s.URLs) > 0 {
		urls = ""
		for _, u := range s.URLs {
			urls += `<url codebase="` + srv.URL + u[strings.Index(u[8:], "/")+8:] + `"></url>`
		}
	}
	sha, size, attrs := s.SHA256, s.Size, `DisablePayloadBackoff="true"`
	if sha == "" {
		sha = base64.StdEncoding.EncodeToString(sum(srv.clean()))
	}
	if size == 0 {
		size = len(srv.payload)
	}
	if s.Attrs != nil {
		attrs = *s.Attrs
	}
	return fmt.Sprintf(`<updatecheck status="ok"><urls>%s</urls><manifest version="1.1.0"><packages><package name="update.gz" size="%d" required="true"></package></packages><actions><action event="postinstall" sha256="%s" %s></action></actions></manifest></updatecheck>`, urls, size, sha, attrs)
}

// clean is the payload before the scenario damaged it.
func (srv *traceServer) clean() []byte {
	data := slices.Clone(srv.payload)
	if srv.s.CorruptAt > 0 {
		data[srv.s.CorruptAt] ^= 0xff
	}
	return data
}

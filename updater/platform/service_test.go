package platform

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// An imds answers as EC2's instance metadata service does (Amazon EC2 User
// Guide, "Use the Instance Metadata Service to access instance metadata"): PUT
// for a token with a lifetime of 1 to 21600 s, 400 without one; GET with a live
// token, 401 without; 403 for requests that came through a proxy.
type imds struct {
	document string
	absent   int           // so many requests are answered with 404 first
	busy     int           // and then so many with 503
	off      bool          // the endpoint is turned off
	lifetime time.Duration // of tokens, if shorter than asked for

	mu     sync.Mutex
	asked  []string
	tokens map[string]time.Time // their ends
}

func (i *imds) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.asked = append(i.asked, r.Method+" "+r.URL.Path)
	switch {
	case i.off || r.Header.Get("X-Forwarded-For") != "":
		w.WriteHeader(http.StatusForbidden)
	case i.absent > 0:
		i.absent--
		http.NotFound(w, r)
	case i.busy > 0:
		i.busy--
		w.WriteHeader(http.StatusServiceUnavailable)
	case r.URL.Path == "/latest/api/token":
		i.token(w, r)
	case time.Now().After(i.tokens[r.Header.Get("X-aws-ec2-metadata-token")]):
		w.WriteHeader(http.StatusUnauthorized)
	case r.Method == http.MethodGet && r.URL.Path == "/latest/dynamic/instance-identity/document":
		fmt.Fprint(w, i.document)
	default:
		http.NotFound(w, r)
	}
}

func (i *imds) token(w http.ResponseWriter, r *http.Request) {
	var seconds int
	fmt.Sscan(r.Header.Get("X-aws-ec2-metadata-token-ttl-seconds"), &seconds)
	switch {
	case r.Method != http.MethodPut:
		w.WriteHeader(http.StatusMethodNotAllowed)
	case seconds < 1 || seconds > 21600:
		w.WriteHeader(http.StatusBadRequest)
	default:
		life := time.Duration(seconds) * time.Second
		if i.lifetime != 0 {
			life, i.lifetime = i.lifetime, 0 // the next one lives
		}
		token := fmt.Sprintf("AQAEAAA-token-%d==", len(i.tokens))
		if i.tokens == nil {
			i.tokens = map[string]time.Time{}
		}
		i.tokens[token] = time.Now().Add(life)
		fmt.Fprint(w, token)
	}
}

// serve starts h on loopback and returns a source that asks it without patience.
func serve(t *testing.T, provider string, h http.Handler) Source {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return Source{Provider: provider, Endpoint: server.URL, ConfigDrive: filepath.Join(t.TempDir(), "none"), Timeout: 5 * time.Second, Backoff: time.Millisecond}
}

func TestEC2(t *testing.T) {
	want := m6i
	want.Provider = "ec2"
	for name, tt := range map[string]struct {
		server   *imds
		requests int
	}{
		"at once":                            {&imds{}, 2},
		"404 while it is not ready":          {&imds{absent: 3}, 5},
		"503 while it is busy":               {&imds{busy: 2}, 4},
		"a token that is over when it comes": {&imds{lifetime: -time.Second}, 4},
	} {
		t.Run(name, func(t *testing.T) {
			server := tt.server
			server.document = text(t, "identity.json")
			s := serve(t, "ec2", server)
			s.Endpoint += "/" // as people write it
			if got, err := s.Read(context.Background()); err != nil || got != want {
				t.Errorf("got %+v, %v", got, err)
			}
			if len(server.asked) != tt.requests {
				t.Errorf("%d requests, want %d: %q", len(server.asked), tt.requests, server.asked)
			}
		})
	}
}

// A proxy in the environment does not hear of it.
func TestNoProxy(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:9/")
	t.Setenv("http_proxy", "http://127.0.0.1:9/")
	server := &imds{document: text(t, "identity.json")}
	s := serve(t, "ec2", server)
	client, err := s.service()
	if err != nil {
		t.Fatal(err)
	}
	if client.client.Transport.(*http.Transport).Proxy != nil { // net/http spares loopback from proxies, so the request alone shows nothing
		t.Error("the environment's proxy is asked")
	}
	if _, err := s.Read(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestEC2Fails(t *testing.T) {
	answers := func(body string) http.Handler { return &imds{document: body} }
	for name, tt := range map[string]struct {
		server http.Handler
		want   string
		tries  int // requests, where that matters
	}{
		"turned off":            {&imds{off: true}, "turned off", 1},
		"never ready":           {&imds{absent: 99}, "4 attempts", 4},
		"always busy":           {&imds{busy: 99}, "503", 4},
		"tokens never live":     {always{&imds{}}, "401", 8},
		"a page of a portal":    {http.HandlerFunc(portal), "the token is not one", 0},
		"garbage":               {answers("\x00\x01"), "no answer of such a service", 2},
		"a list":                {answers("[]"), "no answer of such a service", 0},
		"null":                  {answers("null"), "names no instance", 0},
		"an empty document":     {answers("{}"), "names no instance", 0},
		"half a document":       {answers(`{"instanceId": "i-1", "availab`), "no answer of such a service", 0},
		"a number for a zone":   {answers(`{"instanceId": "i-1", "availabilityZone": 7}`), "no answer of such a service", 0},
		"no zone":               {answers(`{"instanceId": "i-1"}`), "stays unknown", 0},
		"a zone of 1000 bytes":  {answers(`{"instanceId": "i-1", "availabilityZone": "` + strings.Repeat("z", 1000) + `"}`), "1000 bytes", 0},
		"a huge document":       {answers(strings.Repeat(" ", maxFile) + "{}"), "larger than", 2},
		"a redirect":            {http.RedirectHandler("http://127.0.0.1:1/", http.StatusFound), "302 Found", 0},
		"no sessions":           {http.NotFoundHandler(), "is this EC2?", 4},
		"an endless token":      {http.HandlerFunc(endless), "larger than", 0},
		"a token of two lines":  {words("a\r\nX-Evil: 1"), "the token is not one", 0},
		"an empty token":        {words(""), "a token of 0 bytes", 0},
		"a token of a megabyte": {words(strings.Repeat("t", maxToken+1)), "a token of 1025 bytes", 0},
	} {
		t.Run(name, func(t *testing.T) {
			counted := &counter{Handler: tt.server}
			got, err := serve(t, "ec2", counted).Read(context.Background())
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "read platform ec2: ") {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if got.Zone != "" {
				t.Errorf("got zone %q", got.Zone)
			}
			if n := counted.count(); tt.tries != 0 && n != tt.tries {
				t.Errorf("%d requests, want %d", n, tt.tries)
			}
			if err != nil && len(err.Error()) > 1000 {
				t.Errorf("a message of %d bytes", len(err.Error()))
			}
		})
	}
}

type counter struct {
	http.Handler
	mu sync.Mutex
	n  int
}

func (c *counter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	c.n++
	c.mu.Unlock()
	c.Handler.ServeHTTP(w, r)
}

func (c *counter) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

// always has each token be over when it comes.
type always struct{ *imds }

func (a always) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.lifetime = -time.Second
	a.mu.Unlock()
	a.imds.ServeHTTP(w, r)
}

func words(s string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, s) })
}

func portal(w http.ResponseWriter, _ *http.Request) {
	io.WriteString(w, "<html><body>Please log in.</body></html>\n")
}

// endless sends until nobody reads any more.
func endless(w http.ResponseWriter, _ *http.Request) {
	chunk := []byte(strings.Repeat("t", 64<<10))
	for range 1024 {
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

// nova answers as OpenStack's metadata service does (nova, user/metadata.rst).
func nova(document string, flavour http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /openstack/latest/meta_data.json", words(document))
	if flavour != nil {
		mux.Handle("GET /latest/meta-data/instance-type", flavour)
	}
	return mux
}

var az2 = Facts{Provider: "openstack", Zone: "az 2", InstanceID: "d8e02d56-2648-49a3-bf97-6be8f1204f38", InstanceType: "m1.small"}

func TestOpenStackService(t *testing.T) {
	untyped := az2
	untyped.InstanceType = ""
	for name, tt := range map[string]struct {
		flavour http.Handler
		want    Facts
	}{
		"with a flavour":       {words("m1.small"), az2},
		"without":              {nil, untyped},
		"a portal's page":      {http.HandlerFunc(portal), untyped},
		"an endless flavour":   {http.HandlerFunc(endless), untyped},
		"a flavour with lines": {words("m1\nsmall"), untyped},
	} {
		got, err := serve(t, "openstack", nova(text(t, "meta_data.json"), tt.flavour)).Read(context.Background())
		if err != nil || got != tt.want {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
}

func TestOpenStackFails(t *testing.T) {
	for name, tt := range map[string]struct {
		server http.Handler
		want   string
	}{
		"not there":  {http.NotFoundHandler(), "404 Not Found (4 attempts)"},
		"a portal":   {http.HandlerFunc(portal), "404"},
		"garbage":    {nova("<html>", nil), "no answer of such a service"},
		"no uuid":    {nova(`{"availability_zone": "nova"}`, nil), "names no instance"},
		"no zone":    {nova(`{"uuid": "d8e02d56"}`, nil), "stays unknown"},
		"null zone":  {nova(`{"uuid": "d8e02d56", "availability_zone": null}`, nil), "stays unknown"},
		"a huge one": {http.HandlerFunc(endless), "larger than"},
		"EC2's":      {&imds{}, "401"},
	} {
		if name == "a portal" {
			tt.want = "no answer of such a service"
		}
		got, err := serve(t, "openstack", tt.server).Read(context.Background())
		if err == nil || !strings.Contains(err.Error(), tt.want) || got.Zone != "" {
			t.Errorf("%s: got %+v, %v, want %q", name, got, err, tt.want)
		}
	}
}

// The config drive comes first, and a broken one is not passed over.
func TestOpenStackConfigDrive(t *testing.T) {
	elsewhere := nova(`{"uuid": "other", "availability_zone": "other"}`, nil)
	s := serve(t, "openstack", elsewhere)
	s.ConfigDrive = file(t, "drive")
	if got, err := s.Read(context.Background()); err != nil || got != az2 {
		t.Errorf("got %+v, %v", got, err)
	}
	s.ConfigDrive = t.TempDir()
	if got, err := s.Read(context.Background()); err != nil || got.Zone != "other" {
		t.Errorf("no drive: got %+v, %v, want the service's", got, err)
	}
	latest := filepath.Join(s.ConfigDrive, "openstack", "latest")
	if err := os.MkdirAll(latest, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string]string{"torn": `{"uuid": "d8e0`, "huge": strings.Repeat(" ", maxFile+1)} {
		if err := os.WriteFile(filepath.Join(latest, "meta_data.json"), []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Read(context.Background()); err == nil || got.Zone != "" {
			t.Errorf("a %s drive: got %+v, %v, want an error", name, got, err)
		}
	}
}

// An answer that never comes ends with the request's time, and with the caller's.
func TestSlowServices(t *testing.T) {
	hang := make(chan struct{})
	silent := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	})
	drip := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { // headers, and then a byte now and then
		for range 1000 {
			io.WriteString(w, " ")
			w.(http.Flusher).Flush()
			select {
			case <-time.After(10 * time.Millisecond):
			case <-r.Context().Done():
				return
			}
		}
	})
	defer close(hang)
	for name, server := range map[string]http.Handler{"silent": silent, "dripping": drip} {
		for _, provider := range []string{"ec2", "openstack"} {
			s := serve(t, provider, server)
			s.Timeout = 50 * time.Millisecond
			start := time.Now()
			got, err := s.Read(context.Background())
			if took := time.Since(start); err == nil || got.Zone != "" || took > 5*time.Second {
				t.Errorf("%s %s: got %+v, %v after %v", name, provider, got, err, took)
			}
			s.Timeout, s.Backoff = time.Hour, time.Hour
			ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
			if _, err := s.Read(ctx); err == nil || time.Since(start) > 10*time.Second {
				t.Errorf("%s %s: got %v, want the caller's end", name, provider, err)
			}
			cancel()
		}
	}
}

func TestNobodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	endpoint := "http://" + l.Addr().String()
	l.Close()
	for _, provider := range []string{"ec2", "openstack"} {
		s := Source{Provider: provider, Endpoint: endpoint, ConfigDrive: t.TempDir(), Backoff: time.Millisecond}
		if _, err := s.Read(context.Background()); err == nil || !strings.Contains(err.Error(), "refused") || !strings.Contains(err.Error(), "4 attempts") {
			t.Errorf("%s: got %v", provider, err)
		}
	}
}

func TestSources(t *testing.T) {
	if got, err := (Source{}).Read(context.Background()); err != nil || got != (Facts{}) {
		t.Errorf("no provider: got %+v, %v", got, err)
	}
	for want, s := range map[string]Source{
		"is no provider":                  {Provider: "gce"},
		"is no URL of a metadata service": {Provider: "ec2", Endpoint: "169.254.169.254"},
	} {
		if _, err := s.Read(context.Background()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

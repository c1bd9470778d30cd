package fetch

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// serveFile is a real server of data at /f.
func serveFile(t testing.TB, data []byte) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(fileHandler(data))
	t.Cleanup(s.Close)
	return s
}

func fileHandler(data []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"1"`)
		http.ServeContent(w, r, "f", time.Time{}, bytes.NewReader(data))
	})
}

// TestRealServer: a connection that is really cut, again and again.
func TestRealServer(t *testing.T) {
	data := payload(3 << 20)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fileHandler(data).ServeHTTP(&cutter{ResponseWriter: w, left: 300 << 10}, r)
	}))
	defer server.Close()
	retries := 0
	s := &Source{
		URLs: []string{server.URL + "/f"}, Size: int64(len(data)), Pause: time.Millisecond,
		OnRetry: func(error) { retries++ },
	}
	got, err := read(s, 0)
	if err != nil || !bytes.Equal(got, data) || retries != 10 {
		t.Errorf("%d bytes, %v, %d retries", len(got), err, retries)
	}
}

// cutter closes the connection after some bytes.
type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Write(p []byte) (int, error) {
	if len(p) > c.left {
		_, _ = c.ResponseWriter.Write(p[:c.left])
		_ = http.NewResponseController(c.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	c.left -= len(p)
	return c.ResponseWriter.Write(p)
}

// TestRealHang: nothing keeps a caller waiting, also on a real connection.
func TestRealHang(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = w.Write(make([]byte, 10))
		_ = http.NewResponseController(w).Flush()
		<-release
	}))
	defer server.Close()
	defer close(release)
	s := &Source{URLs: []string{server.URL}, Size: 1000, Stall: 50 * time.Millisecond, Pause: time.Millisecond, Retries: 2}
	if got, err := read(s, 0); !errors.Is(err, ErrStalled) || len(got) > 10 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	s = &Source{URLs: []string{server.URL}, Size: 1000}
	r, err := s.Open(ctx, 0)
	if err == nil {
		_, err = io.Copy(io.Discard, r)
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func trust(server *httptest.Server) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	return pool
}

func TestRedirects(t *testing.T) {
	data := payload(1000)
	plain := serveFile(t, data)
	secure := httptest.NewTLSServer(nil)
	defer secure.Close()
	var loose *httptest.Server
	to := func(w http.ResponseWriter, r *http.Request) {
		switch target := r.URL.Query().Get("to"); {
		case target == "file":
			fileHandler(data).ServeHTTP(w, r)
		case target != "":
			http.Redirect(w, r, target, http.StatusFound)
		default:
			n, _ := strconv.Atoi(r.URL.Query().Get("n"))
			next := fmt.Sprintf("/?n=%d", n-1)
			if n == 1 {
				next = "/?to=file"
			}
			http.Redirect(w, r, next, http.StatusTemporaryRedirect)
		}
	}
	secure.Config.Handler = http.HandlerFunc(to)
	loose = httptest.NewServer(http.HandlerFunc(to))
	defer loose.Close()
	for name, tt := range map[string]struct {
		url string
		err error
	}{
		"ten in a row":         {loose.URL + "/?n=10", nil},
		"eleven in a row":      {loose.URL + "/?n=11", ErrTooManyRedirects},
		"https to https":       {secure.URL + "/?n=2", nil},
		"https to http":        {secure.URL + "/?to=" + url.QueryEscape(plain.URL), ErrInsecureRedirect},
		"http to https":        {loose.URL + "/?to=" + url.QueryEscape(secure.URL+"/?to=file"), nil},
		"there and back again": {loose.URL + "/?to=" + url.QueryEscape(secure.URL+"/?to="+url.QueryEscape(plain.URL)), ErrInsecureRedirect},
		"https to a file":      {secure.URL + "/?to=" + url.QueryEscape("file:///etc/passwd"), ErrInsecureRedirect},
	} {
		t.Run(name, func(t *testing.T) {
			for _, client := range []*http.Client{
				NewClient(Config{Roots: trust(secure)}),
				{Transport: secure.Client().Transport}, // a client without a rule of its own
			} {
				got, err := read(&Source{Client: client, URLs: []string{tt.url}, Size: 1000}, 0)
				checkError(t, err, tt.err)
				if tt.err == nil && !bytes.Equal(got, data) {
					t.Errorf("%d bytes", len(got))
				}
			}
		})
	}
}

func TestCredentials(t *testing.T) {
	var users []string
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		users = append(users, user+":"+password)
		_, _ = w.Write([]byte("x"))
	})
	plain, secure := httptest.NewServer(h), httptest.NewTLSServer(h)
	defer plain.Close()
	defer secure.Close()
	for _, u := range []string{plain.URL, secure.URL} {
		s := &Source{Client: NewClient(Config{Roots: trust(secure)}), URLs: []string{u}, Size: 1, Username: "u", Password: "p"}
		if _, err := read(s, 0); err != nil {
			t.Error(err)
		}
	}
	if fmt.Sprint(users) != "[: u:p]" {
		t.Errorf("sent %q", users)
	}
	s := &Source{URLs: []string{"http://u:secret@127.0.0.1:1/"}, Size: 1}
	if _, err := read(s, 0); !errors.Is(err, ErrInsecureCredentials) || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
}

func TestUntrustedServer(t *testing.T) {
	secure := httptest.NewTLSServer(fileHandler([]byte("x")))
	secure.Config.ErrorLog = nil
	defer secure.Close()
	var unknown x509.UnknownAuthorityError
	if _, err := read(&Source{URLs: []string{secure.URL}, Size: 1}, 0); !errors.As(err, &unknown) {
		t.Error(err)
	}
	pemFile := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
	if err := os.WriteFile(pemFile, block, 0o600); err != nil {
		t.Fatal(err)
	}
	roots, err := ReadRoots(pemFile)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := read(&Source{Client: NewClient(Config{Roots: roots}), URLs: []string{secure.URL}, Size: 1}, 0); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(pemFile, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pemFile, pemFile + "-absent"} {
		if _, err := ReadRoots(path); err == nil {
			t.Errorf("%s was read", path)
		}
	}
}

// TestNothingIsDecoded: the payload's bytes are the server's, whatever it says
// of their encoding.
func TestNothingIsDecoded(t *testing.T) {
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write(payload(1000))
	_ = z.Close()
	var asked string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.Header.Get("Accept-Encoding")
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(zipped.Bytes())
	}))
	defer server.Close()
	for _, c := range []*http.Client{NewClient(Config{}), {}} {
		got, err := read(&Source{Client: c, URLs: []string{server.URL}, Size: int64(zipped.Len())}, 0)
		if err != nil || !bytes.Equal(got, zipped.Bytes()) || asked != "identity" {
			t.Errorf("%d bytes, %v, Accept-Encoding %q", len(got), err, asked)
		}
	}
}

// TestProxies: through each kind of proxy, given or from the environment, to a
// host whose name only the proxy knows.
func TestProxies(t *testing.T) {
	data := payload(1000)
	plain := serveFile(t, data)
	secure := httptest.NewTLSServer(fileHandler(data))
	defer secure.Close()
	route := map[string]string{
		"plain.test:80": plain.Listener.Addr().String(), "example.com:443": secure.Listener.Addr().String(),
	}
	web, socks := webProxy(t, route), socksProxy(t, route)
	for name, tt := range map[string]struct {
		env   map[string]string
		proxy string
		url   string
		fails bool
	}{
		"http":                     {nil, "http://" + web, "http://plain.test/f", false},
		"https through http":       {nil, "http://" + web, "https://example.com/f", false},
		"socks5":                   {nil, "socks5://" + socks, "http://plain.test/f", false},
		"https through socks5":     {nil, "socks5h://" + socks, "https://example.com/f", false},
		"HTTP_PROXY":               {map[string]string{"HTTP_PROXY": "http://" + web}, "", "http://plain.test/f", false},
		"HTTPS_PROXY":              {map[string]string{"HTTPS_PROXY": "http://" + web}, "", "https://example.com/f", false},
		"ALL_PROXY":                {map[string]string{"ALL_PROXY": "socks5://" + socks}, "", "http://plain.test/f", false},
		"all_proxy for https":      {map[string]string{"all_proxy": "socks5://" + socks}, "", "https://example.com/f", false},
		"NO_PROXY":                 {map[string]string{"HTTP_PROXY": "http://" + web, "NO_PROXY": ".test"}, "", "http://plain.test/f", true},
		"given before environment": {map[string]string{"HTTP_PROXY": "http://127.0.0.1:1"}, "http://" + web, "http://plain.test/f", false},
		"proxy is down":            {nil, "http://127.0.0.1:1", "http://plain.test/f", true},
	} {
		t.Run(name, func(t *testing.T) {
			for _, key := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"} {
				t.Setenv(key, "")
				t.Setenv(strings.ToLower(key), "")
			}
			for key, value := range tt.env {
				t.Setenv(key, value)
			}
			c := Config{Roots: trust(secure)}
			if tt.proxy != "" {
				c.Proxy, _ = url.Parse(tt.proxy)
			}
			got, err := read(&Source{Client: NewClient(c), URLs: []string{tt.url}, Size: 1000}, 0)
			if (err != nil) != tt.fails || !tt.fails && !bytes.Equal(got, data) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	t.Run("direct", func(t *testing.T) {
		t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
		if _, err := read(&Source{Client: NewClient(Config{Direct: true}), URLs: []string{plain.URL}, Size: 1000}, 0); err != nil {
			t.Error(err)
		}
	})
}

// webProxy is a small HTTP proxy that knows the hosts of route.
func webProxy(t *testing.T, route map[string]string) string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodConnect {
			client, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			_, _ = io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n")
			join(client, route[r.Host])
			return
		}
		resp, err := http.Get("http://" + route[r.Host+":80"] + r.URL.Path)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		w.Header().Set("Content-Length", strconv.FormatInt(resp.ContentLength, 10))
		_, _ = io.Copy(w, resp.Body)
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// socksProxy is a small SOCKS5 proxy (RFC 1928) that knows the hosts of route.
func socksProxy(t *testing.T, route map[string]string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				head := make([]byte, 2)
				_, _ = io.ReadFull(c, head)
				_, _ = io.ReadFull(c, make([]byte, head[1]))
				_, _ = c.Write([]byte{5, 0})
				req := make([]byte, 5) // version, connect, reserved, domain name, its length
				_, _ = io.ReadFull(c, req)
				name := make([]byte, int(req[4])+2)
				_, _ = io.ReadFull(c, name)
				host, port := string(name[:len(name)-2]), int(name[len(name)-2])<<8|int(name[len(name)-1])
				_, _ = c.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
				join(c, route[net.JoinHostPort(host, strconv.Itoa(port))])
			}()
		}
	}()
	return l.Addr().String()
}

// join copies between client and the server at addr until either is done.
func join(client net.Conn, addr string) {
	defer client.Close()
	server, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer server.Close()
	go func() {
		_, _ = io.Copy(server, client)
		server.Close()
	}()
	_, _ = io.Copy(client, server)
}

// zeros is a server of a large file that costs no memory.
func zeros(t testing.TB, n int64) *httptest.Server {
	block := make([]byte, 1<<20)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		for left := n; left > 0; left -= int64(len(block)) {
			if _, err := w.Write(block[:min(left, int64(len(block)))]); err != nil {
				return
			}
		}
	}))
	t.Cleanup(server.Close)
	return server
}

// TestMemoryIsBounded: a payload's size costs no memory.
func TestMemoryIsBounded(t *testing.T) {
	const n = 256 << 20
	s := &Source{URLs: []string{zeros(t, n).URL}, Size: n}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r, err := s.Open(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	buf := make([]byte, 256<<10)
	got, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r, buf)
	runtime.ReadMemStats(&after)
	if allocated := after.TotalAlloc - before.TotalAlloc; err != nil || got != n || allocated > 8<<20 {
		t.Errorf("%d bytes, %v, %d bytes allocated", got, err, allocated)
	}
}

func BenchmarkRead(b *testing.B) {
	const n = 256 << 20
	s := &Source{URLs: []string{zeros(b, n).URL}, Size: n}
	buf := make([]byte, 256<<10)
	b.SetBytes(n)
	for b.Loop() {
		r, err := s.Open(b.Context(), 0)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r, buf); err != nil {
			b.Fatal(err)
		}
		r.Close()
	}
}

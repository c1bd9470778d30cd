package guest

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/drydock-os/drydock/omaha"
)

// A Server serves updates to guests, over the address that their network gives
// the host's loopback.
type Server struct {
	Updates *omaha.Static
	Bytes   atomic.Int64 // of payloads that were served
	port    int
	http    *http.Server
	files   string

	mu     sync.Mutex
	served []Served
}

// A Served is what one request got of a payload: the bytes [From, To).
type Served struct{ From, To int64 }

// Served is what every request for a payload got, the oldest first.
func (s *Server) Served() []Served {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.served)
}

const appID = "{e96281a6-d1af-4bde-9a0a-97b76e56dc57}"

// hostAddress is the host's loopback as QEMU's user network shows it.
const hostAddress = "10.0.2.2"

func serve(l *Lab) (*Server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Server{Updates: &omaha.Static{AppID: appID}, port: listener.Addr().(*net.TCPAddr).Port, files: l.Dir}
	mux := http.NewServeMux()
	mux.Handle("/v1/update/", &omaha.Handler{Updates: s.Updates, OnError: func(err error) { fmt.Fprintln(os.Stderr, "update server:", err) }})
	payloads := http.StripPrefix("/payloads/", http.FileServer(http.Dir(s.files)))
	mux.HandleFunc("/payloads/", func(w http.ResponseWriter, r *http.Request) {
		payloads.ServeHTTP(s.counted(w, r), r)
	})
	s.http = &http.Server{Handler: mux}
	go s.http.Serve(listener)
	return s, nil
}

// counted is the answer to one request.
type counted struct {
	http.ResponseWriter
	s       *Server
	request int
}

func (s *Server) counted(w http.ResponseWriter, r *http.Request) *counted {
	from := int64(0)
	fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from) // none: from the start
	s.mu.Lock()
	defer s.mu.Unlock()
	s.served = append(s.served, Served{from, from})
	return &counted{w, s, len(s.served) - 1}
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.s.Bytes.Add(int64(n))
	c.s.mu.Lock()
	c.s.served[c.request].To += int64(n)
	c.s.mu.Unlock()
	return n, err
}

// Server starts a server that ends with the test.
func (l *Lab) Server(t testing.TB) *Server {
	t.Helper()
	s, err := serve(l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.http.Close() })
	return s
}

func (s *Server) guestURL(path string) string {
	return fmt.Sprintf("http://%s:%d%s", hostAddress, s.port, path)
}

// Offer offers a release to every machine that runs an older one.
func (s *Server) Offer(t testing.TB, img Image) {
	t.Helper()
	f, err := os.Open(img.Payload)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	size, err := io.Copy(h, f)
	if err != nil {
		t.Fatal(err)
	}
	path, err := filepath.Rel(s.files, img.Payload)
	if err != nil {
		t.Fatal(err)
	}
	s.Updates.Release(&omaha.Offer{Version: img.Release.Version, Name: filepath.Base(path), URLs: []string{s.guestURL("/payloads/" + path)},
		Size: size, SHA256: h.Sum(nil), DisableBackoff: true})
}

// FreePort is a port of loopback that nobody listens on, below those that the
// kernel gives to connections (ip(7), ip_local_port_range): a guest that is off
// for a moment finds it free again.
func FreePort(t testing.TB) int {
	t.Helper()
	for range 100 {
		port := 10_000 + rand.IntN(20_000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no port of loopback is free")
	return 0
}

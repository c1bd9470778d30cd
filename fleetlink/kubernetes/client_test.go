package kubernetes

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

// config writes a kubeconfig of one cluster and one user, given in JSON.
func config(t *testing.T, cluster, user string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	rewrite(t, path, fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"c","clusters":[{"name":"k","cluster":%s}],
"contexts":[{"name":"c","context":{"cluster":"k","user":"u"}}],"users":[{"name":"u","user":%s}]}`, cluster, user))
	return path
}

// rewrite replaces a file, as programs do that write a new one beside it.
func rewrite(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// TestProxyKeepsConnections: with a proxy in its kubeconfig, a link that is asked
// again and again holds no more connections than one that is asked once.
func TestProxyKeepsConnections(t *testing.T) {
	a := newTwin(t)
	var mu sync.Mutex
	made := map[net.Conn]bool{}
	server := httptest.NewUnstartedServer(a)
	server.Config.ConnState = func(c net.Conn, s http.ConnState) {
		mu.Lock()
		defer mu.Unlock()
		if s == http.StateNew {
			made[c] = true
		}
	}
	server.Start()
	defer server.Close()
	// It is its own proxy: a request through one names its host as well.
	l := a.link(t, Options{Kubeconfig: config(t, fmt.Sprintf(`{"server":"http://api.example.com","proxy-url":%q}`, server.URL), `{"token":"t"}`), Node: nodeName})
	for range 30 {
		if _, err := l.Ailments(soon(t)); err != nil {
			t.Fatal(err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(made) == 0 || len(made) > 3 {
		t.Errorf("%d connections were made", len(made))
	}
}

// TestRotation: a kubeconfig, a token or a CA that is written anew is used by the
// next call.
func TestRotation(t *testing.T) {
	a := newTwin(t)
	var mu sync.Mutex
	var tokens []string
	a.obstruct(func(_ http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		tokens = append(tokens, r.Header.Get("Authorization"))
		return false
	})
	file := filepath.Join(t.TempDir(), "token")
	rewrite(t, file, "first")
	server := httptest.NewTLSServer(a) // without TLS client-go sends no token
	defer server.Close()
	cluster := fmt.Sprintf(`{"server":%q,"insecure-skip-tls-verify":true}`, server.URL)
	path := config(t, cluster, fmt.Sprintf(`{"tokenFile":%q}`, file))
	l := a.link(t, Options{Kubeconfig: path, Node: nodeName})
	ask := func() {
		t.Helper()
		if _, err := l.Standing(soon(t)); err != nil {
			t.Fatal(err)
		}
	}
	ask()
	rewrite(t, file, "other")
	ask()
	data, err := os.ReadFile(config(t, cluster, `{"token":"third"}`))
	if err != nil {
		t.Fatal(err)
	}
	rewrite(t, path, string(data))
	ask()
	if want := []string{"Bearer first", "Bearer other", "Bearer third"}; !slices.Equal(slices.Compact(tokens), want) {
		t.Errorf("it came with %q, want %q", tokens, want)
	}
}

// keyPair writes a certificate of its own and its key.
func keyPair(t *testing.T, name, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	rewrite(t, certFile, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	rewrite(t, keyFile, string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private})))
}

// TestCertificates: a client certificate that is renewed on the disk, as kubelets
// do, is shown on the next connection; and a CA that changes is believed.
func TestCertificates(t *testing.T) {
	a := newTwin(t)
	var mu sync.Mutex
	var shown []string
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		shown = append(shown, r.TLS.PeerCertificates[0].Subject.CommonName)
		mu.Unlock()
		a.ServeHTTP(w, r)
	}))
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	server.StartTLS()
	defer server.Close()
	dir := t.TempDir()
	ca, cert, key := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "client.pem"), filepath.Join(dir, "key.pem")
	keyPair(t, "another CA", ca, key)
	keyPair(t, "system:node:web-1", cert, key)
	l := a.link(t, Options{Kubeconfig: config(t, fmt.Sprintf(`{"server":%q,"certificate-authority":%q}`, server.URL, ca),
		fmt.Sprintf(`{"client-certificate":%q,"client-key":%q}`, cert, key))})
	if _, err := l.Standing(soon(t)); err == nil {
		t.Error("a server with a certificate of no CA is believed")
	}
	rewrite(t, ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	for range 2 {
		_, err := l.Standing(soon(t))
		for tries := 0; err != nil && tries < 3; tries++ { // client-go closes all connections when it sees another certificate, the new one as well
			_, err = l.Standing(soon(t))
		}
		if err != nil {
			t.Fatal(err)
		}
		server.CloseClientConnections()
		keyPair(t, "renewed", cert, key)
		<-time.After(1200 * time.Millisecond) // client-go looks at the files once a second
	}
	if want := []string{"system:node:web-1", "renewed"}; !slices.Equal(slices.Compact(shown), want) {
		t.Errorf("shown were %q, want %q", shown, want)
	}
}

// TestWhereKubeletsKeepIt: the first credential that exists is used.
func TestWhereKubeletsKeepIt(t *testing.T) {
	if !slices.Contains(Kubeconfigs, "/var/lib/rancher/rke2/agent/kubelet.kubeconfig") || !slices.Contains(Kubeconfigs, "/var/lib/rancher/k3s/agent/kubelet.kubeconfig") {
		t.Errorf("%v", Kubeconfigs)
	}
	a := newTwin(t)
	saved := Kubeconfigs
	defer func() { Kubeconfigs = saved }()
	Kubeconfigs = []string{filepath.Join(t.TempDir(), "none"), a.kubeconfig(t)}
	l := a.link(t, Options{Kubeconfig: "", Node: nodeName})
	l.Kubeconfig = ""
	if _, err := l.Standing(soon(t)); err != nil {
		t.Error(err)
	}
}

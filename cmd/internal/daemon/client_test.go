package daemon

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drydock-os/drydock/updater/payload"
	"github.com/drydock-os/drydock/updater/policy"
)

func file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func serverPolicy(s policy.Server) policy.Policy { return policy.Policy{Server: s} }

func TestClientGoesThroughTheProxy(t *testing.T) {
	var asked string
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { asked = r.URL.String() }))
	defer proxy.Close()
	c, err := HTTPClient(serverPolicy(policy.Server{Proxy: proxy.URL}))
	if err != nil {
		t.Fatal(err)
	}
	const url = "http://updates.invalid/v1/update/"
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if asked != url {
		t.Errorf("the proxy was asked for %q, want %q", asked, url)
	}
}

func TestClientTrustsTheNamedCertificatesAlone(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // the refusal is wanted
	server.StartTLS()
	defer server.Close()
	own := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	for _, trusted := range []bool{true, false} {
		s := policy.Server{}
		if trusted {
			s.CAFile = file(t, own)
		}
		c, err := HTTPClient(serverPolicy(s))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Get(server.URL)
		if err == nil {
			resp.Body.Close()
		}
		var unknown x509.UnknownAuthorityError
		if trusted && err != nil || !trusted && !errors.As(err, &unknown) {
			t.Errorf("trusted %t: %v", trusted, err)
		}
	}
}

func TestClientThatCannotBeBuiltNamesTheKey(t *testing.T) {
	for key, s := range map[string]policy.Server{
		"server.proxy":   {Proxy: "http://a b"},
		"server.ca_file": {CAFile: file(t, "no certificate")},
	} {
		if c, err := HTTPClient(serverPolicy(s)); c != nil || err == nil || !strings.HasPrefix(err.Error(), key) {
			t.Errorf("%s: %v", key, err)
		}
	}
	if _, err := HTTPClient(serverPolicy(policy.Server{CAFile: "/nonexistent"})); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no ca_file: %v", err)
	}
}

// Connections are used again for as long as the server stays the same.
func TestClientIsKeptUntilTheServerChanges(t *testing.T) {
	var c clients
	first, err := c.get(serverPolicy(policy.Server{Group: "a"}))
	if err != nil {
		t.Fatal(err)
	}
	p := serverPolicy(policy.Server{Group: "a"})
	p.Reboot.Strategy = policy.Off
	if again, err := c.get(p); err != nil || again != first {
		t.Errorf("another client for the same server (%v)", err)
	}
	if _, err := c.get(serverPolicy(policy.Server{CAFile: "/nonexistent"})); err == nil {
		t.Error("a client without its certificates")
	}
	if other, err := c.get(serverPolicy(policy.Server{Proxy: "http://p:1"})); err != nil || other == first {
		t.Errorf("the same client for another server (%v)", err)
	}
}

func publicKey(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func TestReadKeys(t *testing.T) {
	good := file(t, publicKey(t))
	for _, c := range []struct {
		name  string
		files []string
		want  string // in the error; "" for none
	}{
		{"one", []string{good}, ""},
		{"two", []string{good, file(t, publicKey(t))}, ""},
		{"none named", nil, "trust.keys names no key"},
		{"one missing", []string{good, "/nonexistent"}, "/nonexistent"},
		{"too large", []string{file(t, strings.Repeat("x", maxSecret+1))}, "more than 65536 bytes"},
		{"without end", []string{"/dev/zero"}, "more than 65536 bytes"},
		{"no key", []string{file(t, "hello")}, "key"},
	} {
		keys, err := ReadKeys(policy.Trust{Keys: c.files})
		switch {
		case c.want == "" && (err != nil || len(keys) != len(c.files)):
			t.Errorf("%s: %d keys, %v", c.name, len(keys), err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || len(keys) != 0):
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && c.name != "no key" && !errors.Is(err, payload.ErrNoKey):
			t.Errorf("%s: %v is not ErrNoKey", c.name, err)
		}
	}
}

func TestPasswordIsTheFirstLine(t *testing.T) {
	for _, c := range []struct{ content, want string }{
		{"secret", "secret"}, {"secret\n", "secret"}, {"sec ret \r\nnotes", "sec ret "}, {"", ""}, {strings.Repeat("x", maxSecret+1), ""},
	} {
		p := withPassword(serverPolicy(policy.Server{PasswordFile: file(t, c.content)}))
		if got := string(p.Server.Password); got != c.want {
			t.Errorf("%.20q: password %.20q, want %q", c.content, got, c.want)
		}
	}
	own := policy.Server{Password: "update.conf's"}
	if got := withPassword(serverPolicy(own)).Server.Password; got != own.Password {
		t.Errorf("no file named: %q", string(got))
	}
	if got := withPassword(serverPolicy(policy.Server{PasswordFile: "/nonexistent"})).Server.Password; got != "" {
		t.Errorf("missing file: %q", string(got))
	}
}

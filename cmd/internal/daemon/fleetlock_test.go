package daemon

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/rebootlock/etcdtest"
	"github.com/drydock-os/drydock/rebootlock/fleetlock"
)

// guest is a FleetLock client with a certificate, nil for none.
func guest(t *testing.T, etcd *etcdtest.Cluster, url, id string, cert *tls.Certificate) fleetlock.Client {
	t.Helper()
	ca, err := os.ReadFile(etcd.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	config.RootCAs.AppendCertsFromPEM(ca)
	if cert != nil { // shown whoever the server says that it trusts
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	transport := &http.Transport{TLSClientConfig: config}
	t.Cleanup(transport.CloseIdleConnections)
	return fleetlock.Client{URL: url, Group: "default", ID: id, HTTP: &http.Client{Transport: transport}, Timeout: time.Minute}
}

// named is a certificate that the CA of etcd gave somebody.
func named(t *testing.T, etcd *etcdtest.Cluster, name string) *tls.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(etcd.Certificate(name))
	if err != nil {
		t.Fatal(err)
	}
	return &pair
}

// answer is the server's answer other than success; 0 and "" for success.
func answer(t *testing.T, err error) (int, string) {
	t.Helper()
	var no *fleetlock.Error
	if err != nil && !errors.As(err, &no) {
		t.Fatalf("no answer: %v", err)
	}
	if no == nil {
		return 0, ""
	}
	return no.Status, no.Kind + ": " + no.Value
}

// TestFleetLockIsServed: a daemon on etcd serves FleetLock to those whose
// certificate names them, by the rules of its cluster, from when its address is
// free until it ends.
func TestFleetLockIsServed(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.Options{TLS: etcdtest.Mutual})
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	address := busy.Addr().String()
	certFile, keyFile := etcd.Certificate("server")
	trusted, err := os.ReadFile(etcd.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	clients := filepath.Join(t.TempDir(), "clients.pem")
	if err := os.WriteFile(clients, trusted, 0o600); err != nil {
		t.Fatal(err)
	}
	serve := fmt.Sprintf("[fleetlock]\nlisten = %q\ncert_file = %q\nkey_file = %q\nclient_ca_file = %q\n", address, certFile, keyFile, clients)
	c := member(t, etcd, "harbour", serve+"hold = \"0s\"\n")
	stop := c.run()
	c.until("an address that is taken is said", c.because("fleetlock", "FleetLock is not served: listen tcp "+address))
	busy.Close()
	c.until("it serves when the address is free", func() bool {
		return strings.Contains(c.log.String(), "FleetLock is served") && !c.because("fleetlock", "")()
	})

	base := "https://" + address
	c.knowsItsClients(base, clients)
	c.untouched()
	c.until("the log says that three were refused", func() bool { return strings.Count(c.log.String(), "TLS handshake error") == 3 })

	one, two := guest(t, etcd, base, "web1", named(t, etcd, "web1")), guest(t, etcd, base, "web2", named(t, etcd, "web2"))
	c.until("the permit is granted", func() bool { status, _ := answer(t, one.PreReboot(t.Context())); return status == 0 })
	if g := c.group(); len(g.Holders) != 1 || g.Holders[0].Machine != "web1" || g.Holders[0].Via != "fleetlock" {
		t.Errorf("holders %+v", g.Holders)
	}
	if status, text := answer(t, two.PreReboot(t.Context())); status != http.StatusLocked {
		t.Errorf("the second, of one permit: %d %s", status, text)
	}
	if err := one.SteadyState(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.until("the permit went to the next", func() bool {
		g := c.group()
		return len(g.Holders) == 1 && g.Holders[0].Machine == "web2"
	})
	if err := c.operator.Freeze(t.Context(), "default", "incident 7"); err != nil {
		t.Fatal(err)
	}
	for name, g := range map[string]fleetlock.Client{"waiting": one, "holding": two} {
		status, text := answer(t, g.PreReboot(t.Context()))
		if told := strings.Contains(text, "incident 7"); status != http.StatusLocked || name == "holding" && !told { // who waits may be told later
			t.Errorf("%s, frozen: %d %s", name, status, text)
		}
	}
	for _, g := range []fleetlock.Client{one, two} {
		if err := g.SteadyState(t.Context()); err != nil {
			t.Errorf("a frozen group takes nothing back: %v", err)
		}
	}
	c.until("all is given back", func() bool { g := c.group(); return len(g.Holders) == 0 && len(g.Queue) == 0 })

	c.resays(serve + "hold = \"10m\"\n")
	c.until("another policy is served under", func() bool { return strings.Count(c.log.String(), "FleetLock is served") == 2 })
	c.holdsOpen(one, stop)
}

// knowsItsClients: a certificate must be of a CA that a file names, as that is
// now, and name its client.
func (c *clustered) knowsItsClients(base, file string) {
	t, etcd := c.t, c.etcd
	for name, cert := range map[string]*tls.Certificate{"none": nil, "of another CA": foreign(t)} {
		var no *fleetlock.Error
		if err := guest(t, etcd, base, "web1", cert).PreReboot(t.Context()); err == nil || errors.As(err, &no) {
			t.Errorf("certificate %s: %v, want no connection", name, err)
		}
	}
	if status, text := answer(t, guest(t, etcd, base, "web1", named(t, etcd, "web2")).PreReboot(t.Context())); status != http.StatusForbidden {
		t.Errorf("another machine's certificate: %d %s", status, text)
	}
	other := foreign(t)
	trusted, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	c.vouches(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: other.Certificate[0]}))
	if status, text := answer(t, guest(t, etcd, base, "web1", other).PreReboot(t.Context())); status != http.StatusForbidden {
		t.Errorf("of a CA that is trusted now, and another's: %d %s", status, text)
	}
	var no *fleetlock.Error
	if err := guest(t, etcd, base, "web1", named(t, etcd, "web1")).PreReboot(t.Context()); err == nil || errors.As(err, &no) {
		t.Errorf("of a CA that is trusted no more: %v, want no connection", err)
	}
	c.vouches(file, trusted)
}

func (c *clustered) vouches(file string, ca []byte) {
	c.t.Helper()
	if err := os.WriteFile(file, ca, 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// holdsOpen: what is held open when the daemon ends is ended, and soon.
func (c *clustered) holdsOpen(g fleetlock.Client, stop func() error) {
	c.t.Helper()
	answered := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { answered <- g.PreReboot(ctx) }()
	c.until("the request waits", func() bool { return len(c.group().Queue) == 1 })
	began := time.Now()
	if err := stop(); err != nil {
		c.t.Error(err)
	}
	if took := time.Since(began); took > farewell {
		c.t.Errorf("the daemon took %s to end", took)
	}
	if status, text := answer(c.t, <-answered); status != http.StatusServiceUnavailable {
		c.t.Errorf("held open when the daemon ended: %d %s", status, text)
	}
	if _, err := net.Dial("tcp", strings.TrimPrefix(g.URL, "https://")); err == nil {
		c.t.Error("the address is still listened on")
	}
	if !slices.ContainsFunc(c.look().Machines, func(m rebootlock.MachineView) bool { return m.Machine == g.ID }) {
		c.t.Errorf("%s is no member", g.ID)
	}
}

// foreign is a certificate that vouches for itself, and is nobody's here.
func foreign(t *testing.T) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "stranger"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

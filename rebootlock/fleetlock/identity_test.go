package fleetlock

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net/http"
	"testing"
	"time"
)

// authority signs certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t}
	leaf := a.sign(x509.Certificate{Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	a.cert, a.key = leaf.Leaf, leaf.PrivateKey.(*ecdsa.PrivateKey)
	return a
}

func (a *authority) sign(template x509.Certificate) tls.Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := &template, key
	if a.cert != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

func (a *authority) client(name string, dns ...string) tls.Certificate {
	return a.sign(x509.Certificate{Subject: pkix.Name{CommonName: name}, DNSNames: dns, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
}

// TestCertificatesNameTheMachine runs both ends over HTTPS.
func TestCertificatesNameTheMachine(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	lock := &Server{Locks: fixed{granted: true}, Identity: true}
	server := lock.HTTP()
	server.TLSConfig = &tls.Config{
		Certificates: []tls.Certificate{ours.sign(x509.Certificate{DNSNames: []string{"localhost"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})},
		ClientCAs:    ours.pool(), ClientAuth: tls.VerifyClientCertIfGiven,
	}
	addr := listen(t, server)
	for _, c := range []struct {
		name  string
		certs []tls.Certificate
		id    string
		kind  string // of the refusal; "-": no connection
	}{
		{name: "common name", certs: []tls.Certificate{ours.client("a")}, id: "a"},
		{name: "DNS name", certs: []tls.Certificate{ours.client("fleet host", "x", "a")}, id: "a"},
		{name: "machine-id for zincati's id", certs: []tls.Certificate{ours.client(vectorMachine)}, id: vectorID},
		{name: "zincati's id for the machine-id", certs: []tls.Certificate{ours.client("", vectorID)}, id: vectorMachine},
		{name: "another machine", certs: []tls.Certificate{ours.client("b", "c")}, id: "a", kind: "identity_mismatch"},
		{name: "no name at all", certs: []tls.Certificate{ours.client("")}, id: "a", kind: "identity_mismatch"},
		{name: "none", id: "a", kind: "identity_mismatch"},
		{name: "of another authority", certs: []tls.Certificate{theirs.client("a")}, id: "a", kind: "-"},
	} {
		t.Run(c.name, func(t *testing.T) {
			transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ours.pool(), ServerName: "localhost", GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				if len(c.certs) == 0 {
					return &tls.Certificate{}, nil
				}
				return &c.certs[0], nil
			}}}
			defer transport.CloseIdleConnections()
			client := Client{URL: "https://" + addr + "/", Group: "g", ID: c.id, HTTP: &http.Client{Transport: transport}}
			for _, ask := range []func() error{func() error { return client.PreReboot(t.Context()) }, func() error { return client.SteadyState(t.Context()) }} {
				err := ask()
				var no *Error
				switch refused := errors.As(err, &no); {
				case c.kind == "" && err != nil:
					t.Error(err)
				case c.kind == "-" && (err == nil || refused):
					t.Errorf("%v, want no connection", err)
				case c.kind != "" && c.kind != "-" && (!refused || no.Kind != c.kind || no.Status != 403):
					t.Errorf("%v, want %s", err, c.kind)
				}
			}
		})
	}
	if err := (Client{URL: "http://" + addr, Group: "g", ID: "a"}).PreReboot(t.Context()); err == nil {
		t.Error("plain HTTP to the TLS port")
	}
}

// TestUnverifiedCertificateNamesNobody: a listener may ask for certificates
// without checking them.
func TestUnverifiedCertificateNamesNobody(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	forged := theirs.client("a")
	s := &Server{Identity: true}
	if no := s.identify(&tls.ConnectionState{PeerCertificates: []*x509.Certificate{forged.Leaf}}, "a"); no == nil {
		t.Error("a certificate that nobody verified was believed")
	}
	s.Identity = false
	wrong := ours.client("b")
	if no := s.identify(&tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{wrong.Leaf, ours.cert}}}, "a"); no == nil {
		t.Error("a verified certificate of another machine was passed over")
	}
}

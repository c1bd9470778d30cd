package kubetest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// A pki is the cluster's CA. Its key signs service accounts' tokens as well.
type pki struct {
	dir                       string
	ca                        *x509.Certificate
	key                       *ecdsa.PrivateKey
	caFile, caKeyFile         string
	serverFile, serverKeyFile string

	mu     sync.Mutex
	serial int64
}

// The certificates hold from long ago until far away: no clock is asked.
var notBefore, notAfter = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2120, 1, 1, 0, 0, 0, 0, time.UTC)

func newPKI(dir string) (*pki, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	p := &pki{dir: dir, key: key, serial: 1, caFile: filepath.Join(dir, "ca.pem"), caKeyFile: filepath.Join(dir, "ca.key.pem")}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kubetest"}, NotBefore: notBefore, NotAfter: notAfter,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	if p.ca, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	if err := write(p.caFile, "CERTIFICATE", der, nil); err != nil {
		return nil, err
	}
	if err := writeKey(p.caKeyFile, key); err != nil {
		return nil, err
	}
	p.serverFile, p.serverKeyFile, err = p.issue("kube-apiserver", nil)
	return p, err
}

// issue makes a certificate for both ends of a connection on loopback.
func (p *pki) issue(name string, groups []string) (certFile, keyFile string, err error) {
	p.mu.Lock()
	p.serial++
	serial := p.serial
	p.mu.Unlock()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name, Organization: groups}, NotBefore: notBefore, NotAfter: notAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, template, p.ca, &key.PublicKey, p.key)
	if err != nil {
		return "", "", err
	}
	certFile, keyFile = filepath.Join(p.dir, fmt.Sprintf("%d.pem", serial)), filepath.Join(p.dir, fmt.Sprintf("%d.key.pem", serial))
	return certFile, keyFile, write(certFile, "CERTIFICATE", der, writeKey(keyFile, key))
}

func writeKey(name string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	return write(name, "EC PRIVATE KEY", der, err)
}

// write writes a PEM file, unless there is an error already.
func write(name, kind string, der []byte, err error) error {
	if err != nil {
		return err
	}
	return os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

package etcd2

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

const (
	// maxEndpoints is more than any etcd cluster has members.
	maxEndpoints = 64
	// maxPemBytes bounds a certificate or key file: a bundle of all public CAs has
	// 0.3 MiB.
	maxPemBytes = 4 << 20
	// idleConns is how many connections stay open: one for requests, one for a watch.
	idleConns = 2
)

// Options say where an etcd is, and who asks.
type Options struct {
	// Endpoints are URLs of members, http:// or https://.
	Endpoints []string
	// CAFile is who signs the members' certificates, PEM; "": who the system trusts.
	CAFile string
	// CertFile and KeyFile name the client; both or none. They are read with each
	// connection, so that renewed ones are used.
	CertFile, KeyFile string
	// User and PasswordFile, both or none. The file is read with each request; a
	// line end behind the password does not count.
	User, PasswordFile string
	// Timeout is for one request to one member; 0: 5 s.
	Timeout time.Duration
}

// Check says what does not fit.
func (o Options) Check() error {
	switch {
	case len(o.Endpoints) == 0:
		return errors.New("no etcd endpoint is given")
	case len(o.Endpoints) > maxEndpoints:
		return fmt.Errorf("%d etcd endpoints, %d are the most", len(o.Endpoints), maxEndpoints)
	case (o.CertFile == "") != (o.KeyFile == ""):
		return errors.New("a client certificate needs both its file and its key's file")
	case (o.User == "") != (o.PasswordFile == ""):
		return errors.New("a user needs a password file, and a password file a user")
	case o.Timeout < 0:
		return errors.New("the timeout is negative")
	}
	for _, e := range o.Endpoints {
		u, err := url.Parse(e)
		switch {
		case err != nil:
			return fmt.Errorf("etcd endpoint: %w", err)
		case u.User != nil:
			return fmt.Errorf("etcd endpoint %s holds a user: name the user and its password file beside the endpoints", u.Redacted())
		case u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "":
			return fmt.Errorf("etcd endpoint %q is not like http://host:2379", e)
		case u.Scheme == "http" && (o.CAFile != "" || o.CertFile != ""):
			return fmt.Errorf("etcd endpoint %q is http, but a CA or client certificate is given: without https nobody would look at it, so write https://", e)
		}
	}
	return nil
}

// Open makes a Client, and reads all files once. It does not ask etcd.
func Open(o Options) (*Client, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CAFile != "" {
		pem, err := readPem(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read CA file: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read CA file: %s holds no PEM certificate", o.CAFile)
		}
	}
	if o.CertFile != "" {
		if _, err := o.pair(); err != nil {
			return nil, err
		}
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return o.pair() }
	}
	if o.User != "" {
		if _, err := readPassword(o.PasswordFile); err != nil {
			return nil, err
		}
	}
	// No proxy: members are asked where they are. No redirect: it leads where nobody
	// configured, and etcd sends none.
	transport := &http.Transport{TLSClientConfig: config, MaxIdleConnsPerHost: idleConns, IdleConnTimeout: time.Minute}
	return &Client{
		Endpoints: o.Endpoints, User: o.User, PasswordFile: o.PasswordFile, Timeout: o.Timeout,
		HTTP: &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}, nil
}

func (o Options) pair() (*tls.Certificate, error) {
	cert, err := readPem(o.CertFile)
	if err != nil {
		return nil, fmt.Errorf("read client certificate: %w", err)
	}
	key, err := readPem(o.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("read client key: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("read client certificate %s with key %s: %w", o.CertFile, o.KeyFile, err)
	}
	return &pair, nil
}

func readPem(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxPemBytes+1))
	if err == nil && len(data) > maxPemBytes {
		err = fmt.Errorf("%s has more than %d MiB", file, maxPemBytes>>20)
	}
	return data, err
}

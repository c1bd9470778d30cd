package fetch

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"golang.org/x/net/http/httpproxy"
)

// Times and bounds of upstream's HTTP, where it has them.
const (
	connectTimeout = 30 * time.Second
	headerTimeout  = 90 * time.Second // a server that says nothing for so long hangs
	maxRedirects   = 10
	// readBuffer is what one read of the socket may bring to a caller that
	// reads less at a time; larger reads go past it.
	readBuffer = 64 << 10
)

// Errors of redirects.
var (
	// ErrInsecureRedirect: an https URL led to one that is not.
	ErrInsecureRedirect = errors.New("redirect from https to an insecure URL")
	// ErrTooManyRedirects: more than ten in a row.
	ErrTooManyRedirects = errors.New("too many redirects")
)

// Config says how to reach servers. Its zero value goes by the environment
// and the system's certificates.
type Config struct {
	// Proxy for every URL: http, https, socks5 or socks5h. nil means the
	// environment's HTTP_PROXY, HTTPS_PROXY, NO_PROXY, and ALL_PROXY for what
	// the first two leave open.
	Proxy *url.URL
	// Direct goes past all proxies.
	Direct bool
	// Roots are the only certificates to trust; the system's if nil.
	Roots *x509.CertPool
}

// ReadRoots reads the certificates of a PEM file, for a Config.
func ReadRoots(path string) (*x509.CertPool, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read certificates: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("read certificates: %s holds none", path)
	}
	return pool, nil
}

// NewClient returns a client for update servers: it decodes no content
// encoding, follows at most ten redirects and none from https to http, and
// gives up on a server that does not connect or answer. It bounds neither the
// time nor the size of a body.
func NewClient(c Config) *http.Client {
	proxy := environmentProxy()
	switch {
	case c.Direct:
		proxy = nil
	case c.Proxy != nil:
		proxy = http.ProxyURL(c.Proxy)
	}
	http1 := new(http.Protocols)
	http1.SetHTTP1(true) // one bulk stream gains nothing from HTTP/2's windows and copies
	return &http.Client{
		CheckRedirect: checkRedirect,
		Transport: &http.Transport{
			Proxy:                 proxy,
			DialContext:           (&net.Dialer{Timeout: connectTimeout, KeepAlive: 30 * time.Second}).DialContext,
			TLSClientConfig:       &tls.Config{RootCAs: c.Roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:   connectTimeout,
			ResponseHeaderTimeout: headerTimeout,
			IdleConnTimeout:       headerTimeout,
			MaxIdleConnsPerHost:   2,
			ReadBufferSize:        readBuffer,
			DisableCompression:    true,
			Protocols:             http1,
		},
	}
}

// environmentProxy reads the environment as curl does, which upstream uses:
// net/http's own reading knows no ALL_PROXY.
func environmentProxy() func(*http.Request) (*url.URL, error) {
	c := httpproxy.FromEnvironment()
	all := os.Getenv("ALL_PROXY")
	if all == "" {
		all = os.Getenv("all_proxy")
	}
	if c.HTTPProxy == "" {
		c.HTTPProxy = all
	}
	if c.HTTPSProxy == "" {
		c.HTTPSProxy = all
	}
	choose := c.ProxyFunc()
	return func(r *http.Request) (*url.URL, error) { return choose(r.URL) }
}

// checkRedirect allows a step from http to https, which upstream refuses:
// it only ever makes a transfer safer.
func checkRedirect(next *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return ErrTooManyRedirects
	}
	if via[len(via)-1].URL.Scheme == "https" && next.URL.Scheme != "https" {
		return ErrInsecureRedirect
	}
	return nil
}

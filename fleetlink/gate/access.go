package gate

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"unicode"
)

// Access is how a server is reached. Its files are read at each question, so
// that a token or certificate may be replaced.
type Access struct {
	CAFile    string // certificates that vouch for the server (PEM); "": the system's
	CertFile  string // this machine's own (PEM), with KeyFile; "": none
	KeyFile   string
	TokenFile string // holds a bearer token; "": none
}

const (
	// maxFile bounds a token or a certificate file, in bytes.
	maxFile = 1 << 20
	// maxHeader bounds an answer's headers, in bytes.
	maxHeader = 64 << 10
	// maxRedirects is for a server that moved below another path or to https.
	maxRedirects = 3
)

// get asks for a document and reads at most most bytes of it, and one more to
// show that there are more. It follows redirects where follow says so.
func (a Access) get(ctx context.Context, from string, most int, follow bool) (status int, body []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return 0, nil, errors.New("it is no URL")
	}
	if a.TokenFile != "" {
		token, err := readFile(a.TokenFile)
		if err != nil {
			return 0, nil, fmt.Errorf("read the token: %w", err)
		}
		text := strings.TrimSpace(string(token))
		if text == "" || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return 0, nil, fmt.Errorf("read the token: %s holds none", a.TokenFile)
		}
		request.Header.Set("Authorization", "Bearer "+text)
	}
	config, err := a.tls()
	if err != nil {
		return 0, nil, err
	}
	client := http.Client{
		Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: config, DisableKeepAlives: true, ForceAttemptHTTP2: true, MaxResponseHeaderBytes: maxHeader},
		CheckRedirect: func(_ *http.Request, via []*http.Request) error {
			switch {
			case !follow:
				return http.ErrUseLastResponse
			case len(via) > maxRedirects:
				return fmt.Errorf("more than %d redirects", maxRedirects)
			}
			return nil
		},
	}
	defer client.CloseIdleConnections()
	response, err := client.Do(request)
	if err != nil {
		if wrapped := (*url.Error)(nil); errors.As(err, &wrapped) {
			err = wrapped.Err // it repeats the URL, which may hold a password
		}
		return 0, nil, err
	}
	defer response.Body.Close()
	body, err = io.ReadAll(io.LimitReader(response.Body, int64(most)+1))
	return response.StatusCode, body, err
}

func (a Access) tls() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if a.CAFile != "" {
		pem, err := readFile(a.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read the CA's certificates: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read the CA's certificates: %s holds none", a.CAFile)
		}
	}
	if a.CertFile != "" || a.KeyFile != "" {
		pair, err := tls.LoadX509KeyPair(a.CertFile, a.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("read this machine's certificate: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// readFile reads a file that is to be small.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return data, err
}

// shown is a URL without what it may hold of secrets: user, password, query.
func shown(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return "a URL that cannot be read"
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return clip(u.String(), maxURL)
}

const (
	maxURL  = 200 // bytes of a URL in a sentence
	maxWord = 100 // and of what a server says
)

// clip is text from outside that a sentence can hold: on one line, short.
func clip(text string, most int) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsGraphic(r) || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, text)
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most-len("…")], "") + "…"
	}
	return strings.TrimSpace(text)
}

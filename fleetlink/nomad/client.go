package nomad

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// Limits of what Nomad answers. An allocation holds its whole job, whose files
// and templates Nomad bounds to about 1 MB each.
const (
	maxValue  = 8 << 20 // bytes of one JSON value: a node, an allocation, a job
	maxSaid   = 1 << 10 // bytes that are read of an error
	maxAllocs = 20_000  // of a node, or of a job; a node runs some hundreds
	maxNodes  = 20_000
	maxToken  = 4 << 10 // bytes of an ACL token; a JWT is about one thousand

	wait    = time.Minute      // that Nomad holds a blocking query for
	slack   = 20 * time.Second // on top: Nomad adds a sixteenth, and the answer has to come
	timeout = 10 * time.Second // of other requests
)

// A client speaks HTTP to a Nomad agent.
type client struct {
	base      *url.URL
	region    string
	tokenFile string
	timeout   time.Duration
	http      *http.Client
	unix      bool
}

func newClient(o Options) (*client, error) {
	base, err := url.Parse(cmp.Or(o.Address, Address))
	if err != nil {
		return nil, fmt.Errorf("read the address of Nomad: %w", err)
	}
	c := &client{base: base, region: o.Region, tokenFile: o.TokenFile, timeout: cmp.Or(o.Timeout, timeout)}
	conf := &tls.Config{ServerName: o.ServerName, MinVersion: tls.VersionTLS12}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read the certificates that vouch for Nomad: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate (PEM) that could vouch for Nomad", o.CAFile)
		}
	}
	if o.CertFile != "" {
		load := func() (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
			return &pair, err
		}
		if _, err := load(); err != nil {
			return nil, fmt.Errorf("read this machine's certificate for Nomad: %w", err)
		}
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	dialer := &net.Dialer{Timeout: c.timeout}
	tr := &http.Transport{TLSClientConfig: conf, TLSHandshakeTimeout: c.timeout, DialContext: dialer.DialContext,
		MaxIdleConnsPerHost: 2, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true}
	if c.unix = base.Scheme == "unix"; c.unix {
		path := base.Path
		tr.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return dialer.DialContext(ctx, "unix", path) }
		c.base = &url.URL{Scheme: "http", Host: "nomad"}
	}
	c.http = &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return c, nil
}

// local reports whether the agent is one of this machine.
func (c *client) local() bool {
	host := c.base.Hostname()
	addr, err := netip.ParseAddr(host)
	return c.unix || host == "localhost" || err == nil && addr.IsLoopback()
}

// token reads the ACL token: it may be renewed at any time.
func (c *client) token() (string, error) {
	if c.tokenFile == "" {
		return "", nil
	}
	f, err := os.Open(c.tokenFile)
	if err != nil {
		return "", fmt.Errorf("read the token for Nomad: %w", err)
	}
	defer f.Close()
	line, err := bufio.NewReader(io.LimitReader(f, maxToken)).ReadString('\n')
	if err != nil && err != io.EOF {
		return "", fmt.Errorf("read the token for Nomad: %w", err)
	}
	token := strings.TrimSpace(line)
	if token == "" || len(line) == maxToken || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("the first line of %s is no token for Nomad: want one word, at most %d bytes", c.tokenFile, maxToken-1)
	}
	return token, nil
}

// A request is one of Nomad.
type request struct {
	path  string
	query url.Values
	right string // that an ACL token needs for it
	index uint64 // answer when something has changed since; 0: at once
	body  any    // of a write
}

// A refusal is an answer of Nomad that is none.
type refusal struct {
	code  int
	said  string
	right string
}

// Error is what was said, and what to do about it.
func (r refusal) Error() string {
	switch {
	case r.code == http.StatusForbidden && strings.Contains(r.said, "Permission denied"):
		return fmt.Sprintf("Nomad refuses this machine's token: it lacks the right %s; nothing was changed. Give it a policy that has it", r.right)
	case r.code == http.StatusForbidden:
		return fmt.Sprintf("Nomad refuses this machine's token (%s): it has expired, or never was; put a new one into the token file", cmp.Or(r.said, "403"))
	}
	return fmt.Sprintf("Nomad answers %d: %s", r.code, cmp.Or(r.said, http.StatusText(r.code)))
}

// settled reports whether asking again is of no use until a person did something.
func settled(err error) bool {
	r := refusal{}
	return errors.As(err, &r) && (r.code == http.StatusForbidden || r.code == http.StatusNotFound || r.code == http.StatusBadRequest)
}

// missing reports whether Nomad says that there is no such thing.
func missing(err error) bool {
	r := refusal{}
	return errors.As(err, &r) && r.code == http.StatusNotFound
}

// get asks, has read take the answer, and returns Nomad's index of it. The index
// of an answer to a blocking query may go back, as after Nomad was restored from
// a snapshot; whoever waits for a change then begins anew, from 0.
func (c *client) get(ctx context.Context, r request, read func(*limited) error) (index uint64, err error) {
	resp, done, err := c.do(ctx, http.MethodGet, r)
	if err != nil {
		return 0, err
	}
	defer done()
	if err := read(&limited{r: resp.Body, left: maxValue}); err != nil {
		return 0, fmt.Errorf("read Nomad's answer to %s: %w", r.path, err)
	}
	index, _ = strconv.ParseUint(resp.Header.Get("X-Nomad-Index"), 10, 64)
	if index < r.index {
		index = 0
	}
	return index, nil
}

// value asks for one JSON value.
func (c *client) value(ctx context.Context, r request, to any) (index uint64, err error) {
	return c.get(ctx, r, func(from *limited) error { return json.NewDecoder(from).Decode(to) })
}

// put writes.
func (c *client) put(ctx context.Context, r request) error {
	_, done, err := c.do(ctx, http.MethodPut, r)
	if err == nil {
		done()
	}
	return err
}

// do sends a request, with the time that it may take. Where there is no error,
// done is to be called after the answer was read.
func (c *client) do(ctx context.Context, method string, r request) (_ *http.Response, done func(), err error) {
	limit := c.timeout
	query := url.Values{}
	for k, v := range r.query {
		query[k] = v
	}
	if c.region != "" {
		query.Set("region", c.region)
	}
	if r.index > 0 {
		query.Set("index", strconv.FormatUint(r.index, 10))
		query.Set("wait", wait.String())
		limit = wait + slack
	}
	var body io.Reader
	if r.body != nil {
		data, err := json.Marshal(r.body)
		if err != nil {
			return nil, nil, fmt.Errorf("write a request of Nomad: %w", err)
		}
		body = bytes.NewReader(data)
	}
	token, err := c.token()
	if err != nil {
		return nil, nil, err
	}
	bounded, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer within %s", limit))
	req, err := http.NewRequestWithContext(bounded, method, c.base.Scheme+"://"+c.base.Host+r.path+"?"+query.Encode(), body)
	if err != nil {
		cancel()
		return nil, nil, fmt.Errorf("write a request of Nomad: %w", err)
	}
	if token != "" {
		req.Header.Set("X-Nomad-Token", token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if bounded.Err() != nil && ctx.Err() == nil {
			err = context.Cause(bounded)
		}
		cancel()
		return nil, nil, fmt.Errorf("ask Nomad: %w", err)
	}
	done = func() { resp.Body.Close(); cancel() }
	if resp.StatusCode != http.StatusOK {
		defer done()
		said, _ := io.ReadAll(io.LimitReader(resp.Body, maxSaid))
		return nil, nil, refusal{resp.StatusCode, strings.Join(strings.Fields(string(said)), " "), r.right}
	}
	return resp, done, nil
}

// A limited reader gives out no more than is left.
type limited struct {
	r    io.Reader
	left int
}

// Read implements io.Reader.
func (l *limited) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, fmt.Errorf("it is larger than the %d MiB that one value may have", maxValue>>20)
	}
	n, err := l.r.Read(p[:min(len(p), l.left)])
	l.left -= n
	return n, err
}

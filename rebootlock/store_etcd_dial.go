package rebootlock

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/status"
)

const (
	defaultDialTimeout = 5 * time.Second
	// keepAliveTime and keepAliveTimeout find a member that has stopped without
	// closing its connections. 10 s is the least that gRPC pings at, and twice
	// what etcd allows.
	keepAliveTime    = 10 * time.Second
	keepAliveTimeout = 3 * time.Second
	// maxRedial is the longest pause between two attempts to connect (gRPC's own
	// is two minutes), so that a fleet is back soon after its etcd is. It has a
	// jitter of a fifth.
	maxRedial = 15 * time.Second
	// maxPemBytes bounds a certificate or key file: a bundle of all public CAs
	// has 0.3 MiB.
	maxPemBytes = 4 << 20
	// maxPasswordBytes bounds a password file.
	maxPasswordBytes = 4 << 10
	// maxEndpoints is more than any etcd cluster has members.
	maxEndpoints = 64
)

// EtcdOptions say where an etcd is, and who asks.
type EtcdOptions struct {
	// Endpoints are URLs of members, http:// or https://, all of one kind. Without
	// a scheme they are https with a CAFile or a CertFile, else http.
	Endpoints []string
	// CAFile is who signs the members' certificates; "": who the system trusts. It
	// is read once.
	CAFile string
	// CertFile and KeyFile name the client; both or none. They are read with
	// each connection, so that renewed ones are used.
	CertFile, KeyFile string
	// User and PasswordFile, both or none. The file is read with each login; a
	// line end behind the password does not count.
	User, PasswordFile string
	// DialTimeout is how long one connection may take to be made; 0: 5 s.
	DialTimeout time.Duration
}

// DialEtcd makes a Store of an etcd cluster. It reads all files, and does not
// wait for etcd: an etcd that is away, or refuses, shows with the first call.
func DialEtcd(o EtcdOptions) (*Etcd, error) {
	secure, err := o.check()
	if err != nil {
		return nil, fmt.Errorf("connect to etcd: %w", err)
	}
	endpoints := make([]string, len(o.Endpoints))
	for i, e := range o.Endpoints {
		endpoints[i] = withScheme(e, secure)
	}
	timeout := o.DialTimeout
	if timeout == 0 {
		timeout = defaultDialTimeout
	}
	wire := &etcdWire{passwordFile: o.PasswordFile}
	config := clientv3.Config{
		Endpoints: endpoints, DialTimeout: timeout,
		DialKeepAliveTime: keepAliveTime, DialKeepAliveTimeout: keepAliveTimeout,
		Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{
			grpc.WithChainUnaryInterceptor(wire.intercept),
			grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: timeout,
				Backoff: backoff.Config{BaseDelay: time.Second / 4, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxRedial}}),
		},
	}
	if secure {
		if config.TLS, err = o.tls(); err != nil {
			return nil, fmt.Errorf("connect to etcd: %w", err)
		}
	}
	if o.User != "" {
		config.Username = o.User
		if config.Password, err = readPassword(o.PasswordFile); err != nil {
			return nil, fmt.Errorf("connect to etcd: %w", err)
		}
	}
	client, err := clientv3.New(config)
	if err != nil {
		return nil, fmt.Errorf("connect to etcd: %w", err)
	}
	wire.dialled.Store(true)
	return &Etcd{Client: client}, nil
}

// check says whether the connections are encrypted, and what does not fit.
func (o EtcdOptions) check() (secure bool, err error) {
	switch {
	case len(o.Endpoints) == 0:
		return false, errors.New("no endpoint is given")
	case len(o.Endpoints) > maxEndpoints:
		return false, fmt.Errorf("%d endpoints, %d are the most", len(o.Endpoints), maxEndpoints)
	case (o.CertFile == "") != (o.KeyFile == ""):
		return false, errors.New("a client certificate needs both its file and its key's file")
	case (o.User == "") != (o.PasswordFile == ""):
		return false, errors.New("a user needs a password file, and a password file a user")
	case o.DialTimeout < 0:
		return false, errors.New("the dial timeout is negative")
	}
	files := o.CAFile != "" || o.CertFile != ""
	for i, e := range o.Endpoints {
		u, err := url.Parse(withScheme(e, files))
		switch {
		case err != nil:
			return false, fmt.Errorf("endpoint %q: %w", e, err)
		case u.User != nil:
			return false, fmt.Errorf("endpoint %s holds a user: name the user and its password file beside the endpoints", u.Redacted())
		case u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "":
			return false, fmt.Errorf("endpoint %q is not like https://host:2379", e)
		case i > 0 && secure != (u.Scheme == "https"):
			return false, fmt.Errorf("endpoint %q: some endpoints are http and some https; one client speaks only one of them", e)
		}
		secure = u.Scheme == "https"
		if !secure && files {
			return false, fmt.Errorf("endpoint %q is http, but a CA or client certificate is given: without https nobody would look at it, so write https://", e)
		}
	}
	return secure, nil
}

func withScheme(endpoint string, secure bool) string {
	switch {
	case strings.Contains(endpoint, "://"):
		return endpoint
	case secure:
		return "https://" + endpoint
	}
	return "http://" + endpoint
}

func (o EtcdOptions) tls() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CAFile != "" {
		pem, err := readBounded(o.CAFile, maxPemBytes)
		if err != nil {
			return nil, fmt.Errorf("read CA file: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read CA file: %s holds no PEM certificate", o.CAFile)
		}
	}
	if o.CertFile != "" {
		pair := &clientPair{certFile: o.CertFile, keyFile: o.KeyFile}
		if _, err := pair.load(); err != nil {
			return nil, err
		}
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair.current(), nil }
	}
	return config, nil
}

// A clientPair is a certificate and its key, as the files last had them whole.
type clientPair struct {
	certFile, keyFile string

	mu   sync.Mutex
	last *tls.Certificate
}

func (p *clientPair) load() (*tls.Certificate, error) {
	cert, err := readBounded(p.certFile, maxPemBytes)
	if err != nil {
		return nil, fmt.Errorf("read client certificate: %w", err)
	}
	key, err := readBounded(p.keyFile, maxPemBytes)
	if err != nil {
		return nil, fmt.Errorf("read client key: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("read client certificate %s with key %s: %w", p.certFile, p.keyFile, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = &pair
	return p.last, nil
}

// current is what the files hold now; while they are being renewed, what they
// held last.
func (p *clientPair) current() *tls.Certificate {
	if pair, err := p.load(); err == nil {
		return pair
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

// readBounded reads a file of at most limit bytes. Its error names the file.
func readBounded(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s has more than %d bytes", name, limit)
	}
	return data, nil
}

func readPassword(name string) (string, error) {
	data, err := readBounded(name, maxPasswordBytes)
	if err != nil {
		return "", fmt.Errorf("read password file: %w", err)
	}
	password := strings.TrimRight(string(data), "\r\n")
	if password == "" {
		return "", fmt.Errorf("read password file: %s is empty", name)
	}
	return password, nil
}

// noToken is a token that no etcd gave: it asks for one with the first call.
// Without any, an etcd that knows users by their certificates would never ask,
// and take the user for the one that the certificate names.
const noToken = "none-yet"

// An etcdWire stands between etcd's client and its connections.
type etcdWire struct {
	passwordFile string
	dialled      atomic.Bool // the client has been made
}

// intercept does two things that the client does not: it logs in with the
// first call instead of when the client is made, which would need an etcd that
// is there, and with the password that the file has then; and it keeps what
// went wrong below a call that ran out of time.
func (w *etcdWire) intercept(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if login, ok := req.(*etcdserverpb.AuthenticateRequest); ok {
		if !w.dialled.Load() {
			if answer, ok := reply.(*etcdserverpb.AuthenticateResponse); ok {
				answer.Token = noToken
			}
			return nil
		}
		password, err := readPassword(w.passwordFile)
		if err != nil {
			return err
		}
		login.Password = password
	}
	err := invoke(ctx, method, req, reply, cc, opts...)
	if err != nil {
		if t, ok := ctx.Value(troubleKey{}).(*trouble); ok {
			t.why.Store(status.Convert(err).Message())
		}
	}
	return err
}

// A trouble is what last went wrong below one call.
type trouble struct{ why atomic.Value }

type troubleKey struct{}

func withTrouble(ctx context.Context) (context.Context, *trouble) {
	t := &trouble{}
	return context.WithValue(ctx, troubleKey{}, t), t
}

func (t *trouble) last() string {
	why, _ := t.why.Load().(string)
	return why
}

package daemon

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"

	"github.com/drydock-os/drydock/updater/fetch"
	"github.com/drydock-os/drydock/updater/payload"
	"github.com/drydock-os/drydock/updater/policy"
)

// maxSecret bounds key and password files: a PEM key takes under 1 KiB.
const maxSecret = 64 << 10

func readSecret(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err == nil && len(data) > maxSecret {
		err = fmt.Errorf("%s has more than %d bytes", path, maxSecret)
	}
	return data, err
}

// withPassword reads the password file that a policy names. One that cannot be
// read leaves the password empty, and the server says what it thinks of that.
func withPassword(p policy.Policy) policy.Policy {
	if p.Server.PasswordFile == "" {
		return p
	}
	if data, err := readSecret(p.Server.PasswordFile); err == nil {
		line, _, _ := strings.Cut(string(data), "\n")
		p.Server.Password = policy.Secret(strings.TrimSuffix(line, "\r"))
	}
	return p
}

// ReadKeys reads the trusted keys that a policy names.
func ReadKeys(t policy.Trust) (payload.Keys, error) {
	if len(t.Keys) == 0 {
		return nil, fmt.Errorf("%w: trust.keys names no key, so no release can be verified and none is taken", payload.ErrNoKey)
	}
	var pems [][]byte
	for _, path := range t.Keys {
		data, err := readSecret(path)
		if err != nil {
			return nil, fmt.Errorf("%w: every release is refused until the file is back and drydockd has read it (systemctl reload drydockd): read trusted key: %w", payload.ErrNoKey, err)
		}
		pems = append(pems, data)
	}
	return payload.ParseKeys(pems...)
}

// clients keeps the client of the last policy, so that its connections are
// used again and not left behind.
type clients struct {
	mu     sync.Mutex
	server policy.Server
	client *http.Client
}

func (c *clients) get(p policy.Policy) (*http.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.client != nil && c.server == p.Server {
		return c.client, nil
	}
	next, err := HTTPClient(p)
	if err != nil {
		return nil, err
	}
	if c.client != nil {
		c.client.CloseIdleConnections()
	}
	c.client, c.server = next, p.Server
	return next, nil
}

// forget has the next call build a client anew.
func (c *clients) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.client != nil {
		c.client.CloseIdleConnections()
	}
	c.client = nil
}

// HTTPClient builds the client that a policy describes.
func HTTPClient(p policy.Policy) (*http.Client, error) {
	var c fetch.Config
	if p.Server.Proxy != "" {
		u, err := url.Parse(p.Server.Proxy)
		if err != nil {
			return nil, fmt.Errorf("server.proxy: %w", err)
		}
		c.Proxy = u
	}
	if p.Server.CAFile != "" {
		roots, err := fetch.ReadRoots(p.Server.CAFile)
		if err != nil {
			return nil, fmt.Errorf("server.ca_file: %w", err)
		}
		c.Roots = roots
	}
	return fetch.NewClient(c), nil
}

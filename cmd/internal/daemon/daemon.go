// Package daemon puts drydockd together and runs it.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/drydock-os/drydock/cmd/internal/config"
	"github.com/drydock-os/drydock/cmd/internal/journal"
	"github.com/drydock-os/drydock/cmd/internal/machine"
	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/bus"
	"github.com/drydock-os/drydock/updater/fetch"
	"github.com/drydock-os/drydock/updater/link"
	"github.com/drydock-os/drydock/updater/payload"
	"github.com/drydock-os/drydock/updater/policy"
)

// Options are drydockd's flags.
type Options struct {
	Config  string // path of the policy file
	Root    string // what stands for "/" when the running system is looked at
	Bus     string // D-Bus address; "" for the system bus
	Version string // of this program
	Reload  <-chan os.Signal
	Log     *slog.Logger
}

// Daemon is one run of drydockd.
type Daemon struct {
	Options
	updater *updater.Updater
	server  *bus.Server
}

// New reads the policy and opens disk and state. What it returns is not yet
// running.
func New(o Options) (*Daemon, error) {
	p, err := config.LoadHost(o.Config, rootOf(o.Root))
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(p.State, 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	slots, err := machine.OpenSlots(p.Slots, o.Root)
	if err != nil {
		return nil, err
	}
	d := &Daemon{Options: o}
	d.server = &bus.Server{Address: o.Bus, Trouble: func(err error) { o.Log.Warn("the bus is not to be had; updates go on without it", "error", err) }}
	d.updater = &updater.Updater{
		Disk:      slots,
		Control:   slots.Control,
		Lock:      link.ByStrategy{Strategy: d.strategy, Alone: link.Lock{Group: &rebootlock.Memory{}, Machine: "this"}},
		Scheduler: link.Scheduler{Cluster: &fleetlink.Memory{}, Machine: "this"},
		Host:      &machine.Host{Root: o.Root, Slots: slots, Now: time.Now, Login: bus.Login{Address: o.Bus}, Systemd: bus.Systemd{Address: o.Bus}},
		Store:     updater.MemoryFile{Path: filepath.Join(p.State, "memory.json")},
		Scratch:   p.State,
		Program:   "drydock-" + o.Version,
		Observers: []updater.Observer{journal.New(o.Log), newGoodMark(o), d.server},
		Now:       time.Now,
		Keys:      ReadKeys,
		HTTP:      new(clients).get,
	}
	d.server.Controller = d.updater
	d.force(p)
	return d, nil
}

func (d *Daemon) strategy() policy.Strategy { return d.updater.Policy().Reboot.Strategy }

func rootOf(root string) string {
	if root == "" {
		return "/"
	}
	return root
}

// Run runs the updater and serves the bus until ctx ends.
func (d *Daemon) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.updater.Run(ctx) })
	g.Go(func() error { return d.server.Run(ctx) })
	g.Go(func() error { return d.notify(ctx) })
	g.Go(func() error { return d.reload(ctx) })
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// reload reads the policy again on each signal. A bad file leaves the old
// policy in force, and every status says so.
func (d *Daemon) reload(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.Reload:
		}
		d.reloading()
		p, err := config.LoadHost(d.Config, rootOf(d.Root))
		if err == nil {
			err = d.unchangeable(p)
		}
		d.updater.Trouble("policy", err)
		if err == nil {
			d.force(p)
		}
		d.ready()
	}
}

// force puts a policy in force, and says with every status what it cannot do.
func (d *Daemon) force(p policy.Policy) {
	_, err := ReadKeys(p.Trust)
	d.updater.Trouble("keys", err)
	_, err = HTTPClient(p)
	d.updater.Trouble("http", err)
	d.updater.SetPolicy(withPassword(p))
}

// unchangeable refuses a new policy that needs a restart: disk and state are
// opened once.
func (d *Daemon) unchangeable(p policy.Policy) error {
	old := d.updater.Policy()
	if old.State != p.State || fmt.Sprint(old.Slots) != fmt.Sprint(p.Slots) {
		return errors.New("[slots] and state take a restart of drydockd")
	}
	return nil
}

// maxSecret bounds key and password files: a PEM key takes under 1 KiB.
const maxSecret = 64 << 10

// withPassword reads the password file that a policy names. One that cannot be
// read leaves the password empty, and the server says what it thinks of that.
func withPassword(p policy.Policy) policy.Policy {
	if p.Server.PasswordFile == "" {
		return p
	}
	data, err := os.ReadFile(p.Server.PasswordFile)
	if err == nil && len(data) <= maxSecret {
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
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("%w: read trusted key: %w", payload.ErrNoKey, err)
		}
		if len(data) > maxSecret {
			return nil, fmt.Errorf("%w: key file %s has %d bytes, at most %d are read", payload.ErrNoKey, path, len(data), maxSecret)
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

package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"sync"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/bus"
	"github.com/drydock-os/drydock/updater/platform"
	"github.com/drydock-os/drydock/updater/policy"
	"github.com/drydock-os/drydock/updater/state"
)

// A cluster is this machine's part in a reboot lock. It owns the lock's parts,
// and makes them anew when the policy says something else of them. Until they
// are made, and when they cannot be, the lock says why and allows nothing: the
// daemon runs, and releases are written, with etcd away or its files missing.
type cluster struct {
	root    string // what stands for "/"
	program string
	log     *slog.Logger
	policy  func() policy.Policy
	wake    func()                     // something that the updater waits for has changed
	holding func() bool                // this machine holds a permit
	trouble func(kind string, e error) // is said with every status
	pauses  pauses

	again chan struct{} // the policy may have changed

	mu    sync.Mutex
	parts parts
	facts platform.Facts
	asked policy.Platform // what facts are of
	uid   string          // of the cluster that was joined
}

// parts are what is there of the lock at one time.
type parts struct {
	lock   updater.RebootLock // nil: none is configured
	client *rebootlock.Client // nil: there is no cluster, or it cannot be reached by this policy
	view   bus.Cluster
	// coordinator is who stands for election here; nil: this machine does not
	coordinator *rebootlock.Coordinator
}

// newCluster returns a cluster whose parts are made by Run.
func newCluster(d *Daemon, p policy.Policy) *cluster {
	c := &cluster{root: rootOf(d.Root), program: "drydock-" + d.Version, log: d.Log, again: make(chan struct{}, 1),
		pauses: pauses{parts: 30 * time.Second, facts: time.Minute}}
	c.policy = func() policy.Policy { return d.keeper.Policy() }
	c.wake = func() { d.keeper.Wake() }
	c.holding = func() bool { return d.keeper.Status().Permit == "held" }
	c.trouble = func(kind string, err error) { d.keeper.Trouble(kind, err) }
	if p.Cluster.ID != "" || p.FleetLock.URL != "" {
		c.parts.lock = unavailable{errors.New("drydockd is starting")}
	}
	return c
}

// pauses are how long what could not be had waits to be tried again.
type pauses struct {
	parts time.Duration // of the lock: a certificate may still be on its way
	facts time.Duration // about this machine
}

// Run keeps the parts as the policy wants them until ctx ends.
func (c *cluster) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		c.term(ctx)
	}
	return nil
}

// term makes the parts and runs them until the policy wants others.
func (c *cluster) term(parent context.Context) {
	ctx, stop := context.WithCancel(parent)
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	want := wiringOf(c.policy())
	err := c.make(ctx, &running, want)
	if err != nil {
		c.log.Error("this machine takes no part in the cluster yet", "error", err)
		c.set(parts{lock: unavailable{err}})
	}
	var retry <-chan time.Time
	if err != nil {
		timer := time.NewTimer(c.pauses.parts)
		defer timer.Stop()
		retry = timer.C
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-retry:
			return
		case <-c.again:
		}
		if now := wiringOf(c.policy()); err != nil || !reflect.DeepEqual(now, want) {
			c.log.Info("the policy says something else of the cluster: it is joined anew", "cluster", now.Cluster.ID)
			c.set(parts{lock: unavailable{errors.New("it is joined anew under another policy")}})
			return
		}
		if client := c.now().client; client != nil { // of another group, zone or label
			c.refresh(ctx, client)
		}
	}
}

// refresh has the cluster hear now what this machine is, and not at the client's
// next poll.
func (c *cluster) refresh(ctx context.Context, client *rebootlock.Client) {
	bounded, cancel := context.WithTimeout(ctx, refreshTime)
	defer cancel()
	if err := client.Refresh(bounded); err != nil {
		c.log.Debug("the cluster hears later what this machine is", "error", err)
	}
}

// refreshTime bounds a refresh: an etcd that is away must not keep another
// policy waiting.
const refreshTime = 3 * time.Second

// consider has the policy compared with what runs.
func (c *cluster) consider() {
	select {
	case c.again <- struct{}{}:
	default:
	}
}

func (c *cluster) set(p parts) {
	c.mu.Lock()
	c.parts = p
	c.mu.Unlock()
	c.wake()
}

func (c *cluster) now() parts {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.parts
}

// group is the lock as link.ByStrategy asks for it.
func (c *cluster) group() updater.RebootLock { return c.now().lock }

// publish writes a status where there is a cluster to read it.
func (c *cluster) publish(ctx context.Context, s rebootlock.Status) error {
	if client := c.now().client; client != nil {
		return client.Publish(ctx, s)
	}
	return nil
}

// answering is the cluster as it can be asked now, or why it cannot.
func (c *cluster) answering() (bus.Cluster, error) {
	p := c.now()
	if u, ok := p.lock.(unavailable); ok {
		return nil, u.why
	}
	if p.view == nil {
		return nil, bus.ErrNoCluster
	}
	return p.view, nil
}

// Look implements bus.Cluster.
func (c *cluster) Look(ctx context.Context) ([]byte, error) {
	v, err := c.answering()
	if err != nil {
		return nil, err
	}
	return v.Look(ctx)
}

// Journal implements bus.Cluster.
func (c *cluster) Journal(ctx context.Context, group string, limit int) ([]byte, error) {
	v, err := c.answering()
	if err != nil {
		return nil, err
	}
	return v.Journal(ctx, group, limit)
}

// Change implements bus.Cluster.
func (c *cluster) Change(ctx context.Context, verb string, args []byte, who string) ([]byte, error) {
	v, err := c.answering()
	if err != nil {
		return nil, err
	}
	return v.Change(ctx, verb, args, who)
}

// unavailable is the lock of a machine that cannot ask it.
type unavailable struct{ why error }

// Standing implements updater.RebootLock.
func (u unavailable) Standing(context.Context) (updater.Standing, error) {
	return updater.Standing{}, u.why
}

// Acquire implements updater.RebootLock.
func (u unavailable) Acquire(context.Context, updater.Intent) (updater.Permit, error) {
	return updater.PermitUnknown, u.why
}

// Fence implements updater.RebootLock.
func (u unavailable) Fence(context.Context, string) error { return u.why }

// Release implements updater.RebootLock.
func (u unavailable) Release(context.Context, updater.Ending, string) error { return u.why }

// A membership is what the state directory keeps of the cluster that this
// machine belongs to.
type membership struct {
	Version int       `json:"version"`
	Cluster string    `json:"cluster"`
	UID     string    `json:"uid"`
	Joined  time.Time `json:"joined"`
}

func membershipFile(dir string) state.File[membership] {
	return state.File[membership]{Path: filepath.Join(dir, "cluster.json"), Limit: 64 << 10, Version: 1}
}

// belongs reads which cluster this machine joined, and refuses another one.
func (c *cluster) belongs(id, dir string) error {
	file := membershipFile(dir)
	m, err := file.Load()
	switch {
	case errors.Is(err, state.ErrCorrupt): // another etcd than before is not noticed then
		c.log.Error("which cluster this machine belonged to is forgotten", "error", err)
	case err != nil:
		return fmt.Errorf("read which cluster this machine belongs to: %w", err)
	case m.Cluster != "" && m.Cluster != id:
		return fmt.Errorf("%w: it joined %q on %s, and the policy says %q. Nothing reboots before that is settled: put cluster.id back, or leave %q for good (`drydock fleet remove` there, then remove %s and restart drydockd)",
			rebootlock.ErrOtherCluster, m.Cluster, m.Joined.Format(time.DateOnly), id, m.Cluster, file.Path)
	}
	c.mu.Lock()
	c.uid = m.UID
	c.mu.Unlock()
	return nil
}

// joined keeps the UID of the cluster that is joined.
func (c *cluster) joined(id, dir, uid string) error {
	if err := membershipFile(dir).Save(membership{Version: 1, Cluster: id, UID: uid, Joined: time.Now()}); err != nil {
		return fmt.Errorf("keep which cluster this machine belongs to: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.uid = uid
	return nil
}

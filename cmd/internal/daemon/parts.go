package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/drydock-os/drydock/cmd/internal/config"
	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/updater/host"
	"github.com/drydock-os/drydock/updater/link"
	"github.com/drydock-os/drydock/updater/platform"
	"github.com/drydock-os/drydock/updater/policy"
	"github.com/drydock-os/drydock/updater/state"
)

// wiring is what the lock's parts are made of. What a client asks for anew each
// time (group, zone, labels, the group's first rules) is not in it.
type wiring struct {
	Cluster   policy.Cluster
	FleetLock policy.FleetLock
	Platform  policy.Platform
	State     string
	CA        string // what is in Cluster.CAFile
}

func wiringOf(p policy.Policy) wiring {
	w := wiring{Cluster: p.Cluster, FleetLock: p.FleetLock, Platform: p.Platform, State: p.State}
	w.Cluster.Group, w.Cluster.Zone, w.Cluster.Labels = "", "", nil
	if w.FleetLock.URL != "" {
		w.Cluster.Group = p.Cluster.Group
	}
	if p.Cluster.CAFile != "" {
		ca, err := readSecret(p.Cluster.CAFile)
		w.CA = string(ca)
		if err != nil {
			w.CA = err.Error()
		}
	}
	return w
}

// make makes the parts that w describes, and runs them until ctx ends.
func (c *cluster) make(ctx context.Context, running *sync.WaitGroup, w wiring) error {
	c.trouble("fleetlock", nil)
	c.trouble("coordinator", nil)
	c.trouble("platform", nil)
	c.relocated(w.Platform)
	switch {
	case w.FleetLock.URL != "":
		lock, err := fleetLockOf(w, c.root)
		if err != nil {
			return err
		}
		c.set(parts{lock: lock})
		return nil
	case w.Cluster.ID == "":
		c.set(parts{})
		return nil
	}
	id, err := host.Identify(c.root)
	if err != nil {
		return err
	}
	if err := c.belongs(w.Cluster.ID, w.State); err != nil {
		return err
	}
	instance, err := state.InstanceID(w.State)
	if err != nil {
		return err
	}
	options := etcdOptions(w)
	store, err := rebootlock.DialEtcd(options)
	if err != nil {
		return err
	}
	keys := rebootlock.Keys{Cluster: w.Cluster.ID}
	client := &rebootlock.Client{
		Store: store, Keys: keys, Now: time.Now, Seed: c.seed, Changed: c.wake,
		Self:   func() rebootlock.Self { return c.self(id, instance) },
		Joined: func(uid string) error { return c.joined(w.Cluster.ID, w.State, uid) },
	}
	group := &link.Group{Client: client, Unready: c.unready}
	if len(w.Cluster.LocalEtcd) > 0 {
		options.Endpoints = w.Cluster.LocalEtcd
		local := &rebootlock.LocalEtcd{Options: options, AllowSingle: w.Cluster.AllowSingleEtcd}
		client.Etcd, group.Voter = local.Members, local
	}
	operator := rebootlock.Operator{Store: store, Keys: keys, Who: "drydockd on " + id.MachineID, Now: time.Now}
	c.set(parts{lock: group, client: client, view: link.ClusterOf(operator)})
	running.Go(func() { c.serve(ctx, w, store, client, id.MachineID) })
	return nil
}

func etcdOptions(w wiring) rebootlock.EtcdOptions {
	return rebootlock.EtcdOptions{
		Endpoints: w.Cluster.Endpoints, CAFile: w.Cluster.CAFile, CertFile: w.Cluster.CertFile, KeyFile: w.Cluster.KeyFile,
		User: w.Cluster.User, PasswordFile: w.Cluster.PasswordFile,
	}
}

// serve runs what belongs to a store, and closes it at the end.
func (c *cluster) serve(ctx context.Context, w wiring, store *rebootlock.Etcd, client *rebootlock.Client, machine string) {
	var running sync.WaitGroup
	running.Go(func() {
		if err := client.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
			c.log.Warn("the cluster was left without a goodbye", "error", err)
		}
	})
	if w.Platform.Provider != policy.NoPlatform {
		running.Go(func() { c.locate(ctx, w.Platform, client) })
	}
	if w.Cluster.Coordinate {
		coordinator := &rebootlock.Coordinator{Store: store, Keys: rebootlock.Keys{Cluster: w.Cluster.ID}, Machine: machine, Now: time.Now,
			May: func() bool { return !c.holding() }, Trouble: func(err error) { c.trouble("coordinator", err) }}
		c.coordinates(coordinator)
		running.Go(func() { _ = coordinator.Run(ctx) }) // ends with ctx, and with nothing else
	}
	if w.FleetLock.Listen != "" {
		running.Go(func() { c.serveFleetLock(ctx, w.FleetLock, store, rebootlock.Keys{Cluster: w.Cluster.ID}) })
	}
	running.Wait()
	if err := store.Close(); err != nil {
		c.log.Warn("the connection to etcd does not close", "error", err)
	}
}

// self is what this machine is to its cluster.
func (c *cluster) self(id host.Identity, instance string) rebootlock.Self {
	p := c.policy()
	c.mu.Lock()
	f, uid := c.facts, c.uid
	c.mu.Unlock()
	self := rebootlock.Self{
		Machine: id.MachineID, Instance: instance, Boot: id.BootID, Group: p.Cluster.Group, Zone: cmp.Or(p.Cluster.Zone, f.Zone),
		Program: c.program, Labels: p.Cluster.LabelValues(), Platform: factsOf(f), UID: uid,
	}
	self.Hostname, _ = os.Hostname() // a machine without a name has its machine-id
	return self
}

func factsOf(f platform.Facts) map[string]string {
	facts := map[string]string{"provider": f.Provider, "region": f.Region, "instance_id": f.InstanceID, "instance_type": f.InstanceType}
	for name, value := range facts {
		if value == "" {
			delete(facts, name)
		}
	}
	if len(facts) == 0 {
		return nil
	}
	return facts
}

// seed is what the policy says of the group, where it says anything.
func (c *cluster) seed() *rebootlock.Rules {
	p := c.policy()
	if p.Group.Max == "" {
		return nil
	}
	rules, err := config.GroupRules(p.Group)
	if err != nil {
		return nil // the policy was judged when it was read
	}
	return &rules
}

// unready keeps a machine out of the queue whose zone is to be known and is not
// yet: a limit per zone would not count it.
func (c *cluster) unready() error {
	p := c.policy()
	c.mu.Lock()
	known := c.facts.Zone
	c.mu.Unlock()
	asked := p.Platform.Provider != policy.NoPlatform && (p.Platform.Provider != policy.Afterburn || p.Platform.ZoneKey != "")
	if asked && p.Cluster.Zone == "" && known == "" {
		return fmt.Errorf("the zone of this machine is not known yet (platform.provider = %q); cluster.zone names it by hand", p.Platform.Provider)
	}
	return nil
}

// relocated forgets what another platform than p said.
func (c *cluster) relocated(p policy.Platform) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asked != p {
		c.facts, c.asked = platform.Facts{}, p
	}
}

// locate reads where this machine is until that is known.
func (c *cluster) locate(ctx context.Context, p policy.Platform, client *rebootlock.Client) {
	ticker := time.NewTicker(c.pauses.facts)
	defer ticker.Stop()
	for {
		facts, err := config.PlatformSource(p).Read(ctx)
		if ctx.Err() != nil {
			return
		}
		c.mu.Lock()
		c.facts = facts
		c.mu.Unlock()
		c.trouble("platform", err)
		if err == nil {
			c.refresh(ctx, client)
			c.wake()
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

package daemon

import (
	"context"
	"crypto"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/drydock-os/drydock/cmd/internal/config"
	"github.com/drydock-os/drydock/cmd/internal/journal"
	"github.com/drydock-os/drydock/cmd/internal/machine"
	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/bus"
	"github.com/drydock-os/drydock/updater/link"
	"github.com/drydock-os/drydock/updater/payload"
	"github.com/drydock-os/drydock/updater/policy"
)

// newShadow puts a drydockd together that only watches. There is no
// updater.Updater in it, nothing that a slot, a boot flag or the boot directory
// could be written by, no member of the cluster, no client of an update server,
// and nobody who makes /run/drydock/good.
func newShadow(o Options, conf conf) (*Daemon, error) {
	p := conf.whole
	slots, err := machine.ReadSlots(p.Slots, o.Root)
	if err != nil {
		return nil, err
	}
	d := &Daemon{Options: o, conf: conf}
	d.numbers = newNumbers(d, p)
	d.numbers.Lock = nil // it is in no group
	lock := &onlooker{policy: func() policy.Policy { return d.keeper.Policy() }}
	d.server = &bus.Server{Address: o.Bus, Shadow: true, Cluster: lock,
		Trouble: func(err error) { o.Log.Warn("the bus is not to be had", "error", err) }}
	running := &machine.Host{Root: o.Root, Slots: slots, Now: time.Now, Login: bus.Login{Address: o.Bus}, Systemd: bus.Systemd{Address: o.Bus}}
	d.who = running.Identity
	shadow := &updater.Shadow{
		Slots:     sight{slots},
		Host:      running,
		Lock:      lock,
		Scheduler: d.newScheduler(p),
		Beside:    func(p policy.Policy) []updater.Reason { return beside(p, rootOf(o.Root)) },
		Notes:     updater.NotesFile{Path: filepath.Join(p.State, "shadow.json")},
		Observers: []updater.Observer{journal.New(o.Log), d.server, d.numbers},
		Now:       time.Now,
	}
	d.keeper, d.pulse = shadow, shadow
	d.server.Controller = shadow
	upstream := &bus.Upstream{Address: o.Bus, Hear: shadow.Hear, Trouble: func(err error) { shadow.Trouble("bus", err) }}
	d.parts = []interface{ consider() }{d.numbers}
	d.tasks = []func(context.Context) error{shadow.Run, upstream.Run, d.server.Run, lock.Run, d.numbers.Run, d.notify, d.reload}
	d.force(p)
	return d, nil
}

// sight is slots as they can be looked at.
type sight struct{ slots *machine.Slots }

// Booted implements updater.Sight.
func (s sight) Booted() (partition.Slot, error) { return s.slots.Booted() }

// Table implements updater.Sight.
func (s sight) Table() (partition.Table, error) { return s.slots.Control.Table() }

// upstreamKey is the only key whose signature upstream takes (update_engine,
// delta_performer.cc).
const upstreamKey = "usr/share/update_engine/update-payload-key.pub.pem"

// beside says what of a policy is not as upstream has it on this machine.
func beside(p policy.Policy, root string) (reasons []updater.Reason) {
	say := func(kind, format string, args ...any) {
		reasons = append(reasons, updater.Reason{Kind: kind, Text: fmt.Sprintf(format, args...)})
	}
	f, err := config.ReadFlatcar(root)
	switch {
	case err != nil:
		say("server", "which server update_engine asks is not known: %v", err)
	case f.Server != p.Server.URL || f.Group != p.Server.Group:
		say("server", "update_engine asks %s for group %s, drydockd would ask %s for group %s", f.Server, f.Group, p.Server.URL, p.Server.Group)
	}
	theirs, err := ReadKeys(policy.Trust{Keys: []string{filepath.Join(root, upstreamKey)}})
	if err != nil {
		say("keys", "the key that update_engine trusts cannot be read, so whether drydockd trusts it is not known: %v", err)
		return reasons
	}
	ours, err := ReadKeys(p.Trust)
	if err != nil {
		return reasons // said already
	}
	for _, key := range theirs {
		if !trusts(ours, key) {
			say("keys", "update_engine trusts a key (/%s) that trust.keys does not name: drydockd would refuse releases signed with it", upstreamKey)
		}
	}
	return reasons
}

// trusts reports whether a key is among those that are trusted.
func trusts(keys payload.Keys, key crypto.PublicKey) bool {
	return slices.ContainsFunc(keys, func(k crypto.PublicKey) bool {
		one, ok := k.(interface{ Equal(crypto.PublicKey) bool })
		return ok && one.Equal(key)
	})
}

// onlooker reads the reboot lock that a policy names, without a part in it. It
// is the shadow's updater.Bystander, and the bus's cluster.
type onlooker struct {
	policy func() policy.Policy

	mu    sync.Mutex
	of    wiring // what store is of
	store *rebootlock.Etcd
}

// Run ends the connection to the store with ctx.
func (l *onlooker) Run(ctx context.Context) error {
	<-ctx.Done()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.close()
}

func (l *onlooker) close() error {
	store := l.store
	if l.store = nil; store == nil {
		return nil
	}
	return store.Close()
}

// look returns what reads the lock of the policy in force; bus.ErrNoCluster
// where it names none.
func (l *onlooker) look() (link.Onlooker, error) {
	p := l.policy()
	w := wiringOf(p)
	o := link.Onlooker{Keys: rebootlock.Keys{Cluster: p.Cluster.ID}, Group: p.Cluster.Group, Seeds: p.Group.Max != "", Now: time.Now}
	if p.Cluster.ID == "" {
		return o, bus.ErrNoCluster
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.store != nil && !reflect.DeepEqual(l.of, w) {
		_ = l.close() // of another policy: nothing is owed to it
	}
	if l.store == nil {
		store, err := rebootlock.DialEtcd(etcdOptions(w))
		if err != nil {
			return o, err
		}
		l.store, l.of = store, w
	}
	o.Store = l.store
	return o, nil
}

// Standing implements updater.Bystander.
func (l *onlooker) Standing(ctx context.Context) (updater.Standing, error) {
	p := l.policy()
	free := updater.Standing{Permit: updater.NoPermit}
	switch {
	case p.Reboot.Strategy != policy.Coordinated:
		return free, nil
	case p.FleetLock.URL != "": // to ask it is to take a permit
		free.Waits = []updater.Reason{{Kind: "fleetlock", Text: "whether the FleetLock server would grant a permit is not known: asking it takes one"}}
		return free, nil
	case p.Cluster.ID == "":
		return free, link.ErrNoLock
	}
	o, err := l.look()
	if err != nil {
		return free, err
	}
	return o.Standing(ctx)
}

// Look implements bus.Cluster.
func (l *onlooker) Look(ctx context.Context) ([]byte, error) {
	o, err := l.look()
	if err != nil {
		return nil, err
	}
	return link.ClusterOf(o.Operator()).Look(ctx)
}

// Journal implements bus.Cluster.
func (l *onlooker) Journal(ctx context.Context, group string, limit int) ([]byte, error) {
	o, err := l.look()
	if err != nil {
		return nil, err
	}
	return link.ClusterOf(o.Operator()).Journal(ctx, group, limit)
}

// Change implements bus.Cluster: it refuses.
func (l *onlooker) Change(context.Context, string, []byte, string) ([]byte, error) {
	return nil, fmt.Errorf("%w; `drydock lock --endpoints` goes without it", updater.ErrShadow)
}

// rivalTries and rivalPause are how long an engine that is just ending, or a
// drydockd before this one, has to leave the bus.
const (
	rivalTries = 10
	rivalPause = 500 * time.Millisecond
)

// rival says which other engine runs on this machine. An updater beside it
// would write the slot that the other one writes.
func rival(ctx context.Context, address string) (err error) {
	for range rivalTries {
		if err = bus.Rival(ctx, address, os.Getpid()); err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		wait := time.NewTimer(rivalPause)
		select {
		case <-ctx.Done():
		case <-wait.C:
		}
		wait.Stop()
	}
	return err
}

package demo

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/fetch"
	"github.com/drydock-os/drydock/updater/link"
	"github.com/drydock-os/drydock/updater/payload"
	"github.com/drydock-os/drydock/updater/policy"
	"github.com/drydock-os/drydock/updater/sim"
	"github.com/drydock-os/drydock/updater/state"
)

// host is one machine: a disk image, and on each boot of it the parts of
// drydockd, wired as drydockd wires them.
type host struct {
	fleet    *fleet
	name     string
	dir      string
	instance string
	machine  *sim.Machine

	mu      sync.Mutex
	updater *updater.Updater // of the present boot; nil while the machine is off
	uid     string           // of the cluster that was joined
	ran     []string         // releases, a boot each
}

// newHost makes a machine whose slot A holds img, marked good.
func newHost(f *fleet, number int, img string) (*host, error) {
	h := &host{fleet: f, name: fmt.Sprintf("dock-%d", number)}
	h.dir = filepath.Join(f.dir, h.name)
	if err := os.Mkdir(h.dir, 0o755); err != nil {
		return nil, err
	}
	var err error
	if h.instance, err = state.InstanceID(h.dir); err != nil {
		return nil, err
	}
	id := fmt.Sprintf("%s%04d", strings.Repeat("d0c4", 7), number)
	if h.machine, err = sim.NewMachine(h.dir, id, slotSize); err != nil {
		return nil, err
	}
	h.machine.Ails = func(release string) []updater.Reason {
		if release != badRelease {
			return nil
		}
		return []updater.Reason{{Kind: "unit", Text: "unit web.service is failed"}}
	}
	in, err := os.Open(img)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	if err := h.machine.Install(partition.A, in); err != nil {
		return nil, err
	}
	f.work.place(h.name, fmt.Sprintf("web-%d", number), fmt.Sprintf("db-%d", number))
	return h, nil
}

// live boots the machine, again and again, until ctx ends.
func (h *host) live(ctx context.Context) error {
	for {
		boot, err := h.machine.PowerOn(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", h.name, err)
		}
		if err := h.run(boot); err != nil {
			return fmt.Errorf("%s: %w", h.name, err)
		}
		if !nap(ctx, h.fleet.pace.off) {
			return nil
		}
	}
}

// run is drydockd for as long as one boot lasts.
func (h *host) run(boot context.Context) error {
	id, err := h.machine.Identity()
	if err != nil {
		return err
	}
	store, err := rebootlock.DialEtcd(rebootlock.EtcdOptions{Endpoints: []string{h.fleet.endpoint}})
	if err != nil {
		return err
	}
	client := &rebootlock.Client{Store: store, Keys: keys, Now: time.Now, Joined: h.joined,
		Self: func() rebootlock.Self { return h.self(id) }}
	publisher := &link.Publisher{To: client.Publish}
	u := h.daemon(client, publisher)
	client.Changed = u.Wake
	coordinator := &rebootlock.Coordinator{Store: store, Keys: keys, Machine: id.MachineID, Now: time.Now,
		May: func() bool { return u.Status().Permit != "held" }, Spread: spread}
	h.booted(id.Release, u)
	g, ctx := errgroup.WithContext(boot)
	g.Go(func() error { return u.Run(ctx) })
	g.Go(func() error { return client.Run(ctx) })
	g.Go(func() error { return publisher.Run(ctx) })
	g.Go(func() error { return coordinator.Run(ctx) })
	err = g.Wait()
	h.mu.Lock()
	h.updater = nil
	h.mu.Unlock()
	if boot.Err() != nil {
		err = nil
	}
	if closed := store.Close(); err == nil {
		err = closed
	}
	return err
}

// spread is how long at most a candidate waits before it stands for coordinator
// again: short, since somebody watches.
const spread = 300 * time.Millisecond

func (h *host) booted(release string, u *updater.Updater) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.updater, h.ran = u, append(h.ran, release)
}

func (h *host) joined(uid string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.uid = uid
	return nil
}

func (h *host) self(id updater.Identity) rebootlock.Self {
	h.mu.Lock()
	defer h.mu.Unlock()
	return rebootlock.Self{Machine: id.MachineID, Instance: h.instance, Boot: id.BootID, Group: group, Hostname: h.name,
		Program: "drydock-demo", UID: h.uid}
}

// daemon is the updater on this machine's disk, with the cluster's lock.
func (h *host) daemon(client *rebootlock.Client, publisher *link.Publisher) *updater.Updater {
	f := h.fleet
	u := &updater.Updater{
		Disk: h.machine, Control: h.machine.Control, Host: h.machine,
		Lock:      &link.Group{Client: client},
		Scheduler: pier{f.work.On(h.name), &f.work},
		Store:     updater.MemoryFile{Path: filepath.Join(h.dir, "memory.json")},
		Scratch:   h.dir, Program: "drydock-demo", Now: time.Now,
		Observers: []updater.Observer{publisher, updater.ObserverFunc(h.observe)},
		Keys:      func(policy.Trust) (payload.Keys, error) { return payload.Keys{f.key.Public()}, nil },
		HTTP:      func(policy.Policy) (*http.Client, error) { return fetch.NewClient(fetch.Config{Direct: true}), nil },
	}
	p := policy.Default()
	p.Server.URL, p.Server.AppID = f.server.url+"/v1/update/", appID
	p.Update.Bandwidth = f.pace.bandwidth // slow enough to be seen
	p.Health.Settle, p.Health.Timeout = f.pace.settle, f.pace.sick
	p.Trial.KeepPrevious = 0
	p.Reboot.RetryPause = f.pace.retry
	u.SetPolicy(p)
	return u
}

// observe tells what happens on this machine; the lock's part is told by its
// own records.
func (h *host) observe(e updater.Event) {
	say := func(format string, args ...any) { h.fleet.screen.tell(h.name, format, args...) }
	switch e.Type {
	case updater.EventWritten:
		say("%s is written into slot %s and verified; asks for a permit", e.Version, other(e.Status.Booted))
	case updater.EventRebooting:
		say("%s; reboots into slot %s", h.fleet.work.guests(h.name), other(e.Status.Booted))
	case updater.EventGood:
		say("%s is up from slot %s, healthy, and marked good", e.Version, e.Status.Booted)
	case updater.EventRolledBack:
		say("→ runs %s again", e.Version)
	case updater.EventRejected, updater.EventReturned:
		say("→ %s", e.Message)
	case updater.EventError:
		if e.Err != nil {
			say("→ %v", e.Err)
		}
	}
}

func other(slot string) string {
	if slot == partition.A.String() {
		return partition.B.String()
	}
	return partition.A.String()
}

// status is what the machine's updater says; false: the machine is off.
func (h *host) status() (updater.Status, bool) {
	h.mu.Lock()
	u := h.updater
	h.mu.Unlock()
	if u == nil {
		return updater.Status{}, false
	}
	return u.Status(), true
}

// queued reports whether the machine waits in the queue for a permit.
func (h *host) queued() bool {
	s, on := h.status()
	return on && s.Permit == "queued"
}

// rests reports whether the machine has nothing to do, holds nothing, and runs
// a release.
func (h *host) rests(release string) bool {
	s, on := h.status()
	return on && s.Release == release && s.Step == updater.Wait && s.Permit == "none" && !s.Drained && !s.OnTrial && !s.Staged
}

// boots returns what the machine ran, a boot each.
func (h *host) boots() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.ran...)
}

// look has the machine ask the update server now.
func (h *host) look(ctx context.Context) error {
	h.mu.Lock()
	u := h.updater
	h.mu.Unlock()
	if u == nil {
		return fmt.Errorf("%s is off", h.name)
	}
	if _, err := u.Do(ctx, updater.Request{Action: updater.ActCheck, OnDemand: true}); err != nil {
		return fmt.Errorf("%s: look for a release: %w", h.name, err)
	}
	return nil
}

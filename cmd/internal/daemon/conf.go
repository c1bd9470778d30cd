package daemon

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"time"

	"github.com/drydock-os/drydock/cmd/internal/config"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/payload"
	"github.com/drydock-os/drydock/updater/policy"
)

// confEvery is how often Flatcar's own files are read again, where the policy
// says flatcar.read_conf. Upstream reads them at every check
// (update_attempter.cc), and its tools that write them tell nobody.
const confEvery = time.Minute

// conf is the policy and what it was put together from.
type conf struct {
	mu    *sync.Mutex
	file  policy.Policy // what the policy file says by itself
	whole policy.Policy // with Flatcar's files, as it is in force
	wrong string        // what is wrong with Flatcar's files; "" for nothing
}

// readConf reads the policy file, and Flatcar's where it asks for them.
func readConf(path, root string) (conf, error) {
	c := conf{mu: new(sync.Mutex)}
	var err error
	if c.file, err = config.Load(path); err != nil {
		return c, err
	}
	c.whole, err = withFlatcar(c.file, root)
	return c, err
}

// withFlatcar fills in what a policy leaves to Flatcar's files, and judges both
// together.
func withFlatcar(p policy.Policy, root string) (policy.Policy, error) {
	if !p.Flatcar.ReadConf {
		return p, nil
	}
	f, err := config.ReadFlatcar(root)
	if err != nil {
		return p, err
	}
	p = config.Apply(p, f)
	if err := errors.Join(p.Validate()...); err != nil {
		return p, fmt.Errorf("apply Flatcar's configuration: %w", err)
	}
	return p, nil
}

// reload reads the policy file again on each signal, and Flatcar's files every
// minute. A bad file leaves the old policy in force, and every status says so.
func (d *Daemon) reload(ctx context.Context) error {
	ticker := time.NewTicker(confEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			d.refresh()
		case <-d.Reload:
			d.reloading()
			d.reread()
			d.ready()
		}
	}
}

// reread takes the policy file anew, with the keys and passwords that it names.
func (d *Daemon) reread() {
	p, err := config.Load(d.Config)
	if err == nil {
		err = d.unchangeable(p)
	}
	d.keeper.Trouble("policy", err)
	if err != nil {
		d.Log.Error("the policy file is not taken, the old policy stays in force", "error", err)
		return
	}
	d.conf.mu.Lock()
	d.conf.file, d.conf.whole = p, policy.Policy{} // whatever comes of it is in force anew
	d.conf.mu.Unlock()
	d.refresh()
}

// refresh takes Flatcar's files anew where they, or the policy file, say
// something else than what is in force.
func (d *Daemon) refresh() {
	c := &d.conf
	c.mu.Lock()
	defer c.mu.Unlock()
	p, err := withFlatcar(c.file, rootOf(d.Root))
	wrong := ""
	if err != nil {
		wrong = err.Error()
	}
	if wrong != c.wrong { // only then: each word of trouble wakes the updater
		c.wrong = wrong
		d.keeper.Trouble("flatcar", err)
		if err != nil {
			d.Log.Error("Flatcar's configuration is not taken, the old policy stays in force", "error", err)
		}
	}
	if err != nil || reflect.DeepEqual(p, c.whole) {
		return
	}
	c.whole = p
	d.Log.Info("another policy is in force", "server", p.Server.URL, "group", p.Server.Group, "enabled", p.Update.Enabled)
	d.force(p)
}

// keys reads the trusted keys, and says with every status when they cannot be
// read, until they can.
func (d *Daemon) keys(t policy.Trust) (payload.Keys, error) {
	keys, err := ReadKeys(t)
	d.keeper.Trouble("keys", err)
	return keys, err
}

// force puts a policy in force, and says with every status what it cannot do.
func (d *Daemon) force(p policy.Policy) {
	_, _ = d.keys(p.Trust) // said with every status
	d.clients.forget()     // the certificates in ca_file may be others
	_, err := d.clients.get(p)
	d.keeper.Trouble("http", err)
	d.keeper.SetPolicy(withPassword(p))
	for _, part := range d.parts {
		part.consider()
	}
}

// unchangeable refuses a new policy that needs a restart: disk and state are
// opened once.
func (d *Daemon) unchangeable(p policy.Policy) error {
	old := d.keeper.Policy()
	if old.Shadow != p.Shadow {
		return errors.New("shadow takes a restart of drydockd, and upstream's engine to be ended before or started after it; see shadow.md")
	}
	if old.State != p.State || fmt.Sprint(old.Slots) != fmt.Sprint(p.Slots) {
		return errors.New("[slots] and state take a restart of drydockd")
	}
	if !reflect.DeepEqual(old.Scheduler, p.Scheduler) {
		return errors.New("[scheduler] takes a restart of drydockd")
	}
	return nil
}

// attentive is the updater as the bus asks it: who writes update.conf and asks
// for a check at once, as Flatcar's tools do, is served by what was written.
type attentive struct {
	*updater.Updater
	conf interface{ refresh() }
}

// Do implements updater.Controller.
func (a attentive) Do(ctx context.Context, r updater.Request) (updater.Outcome, error) {
	if r.Action == updater.ActCheck || r.Action == updater.ActUpdate {
		a.conf.refresh()
	}
	return a.Updater.Do(ctx, r)
}

// Plan implements updater.Controller.
func (a attentive) Plan(ctx context.Context) (updater.Plan, error) {
	a.conf.refresh()
	return a.Updater.Plan(ctx)
}

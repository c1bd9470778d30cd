// Package daemon puts drydockd together and runs it.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/drydock-os/drydock/cmd/internal/journal"
	"github.com/drydock-os/drydock/cmd/internal/machine"
	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/bus"
	"github.com/drydock-os/drydock/updater/link"
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
	keeper  keeper
	updater *updater.Updater // the keeper; nil in shadow mode
	tasks   []func(context.Context) error
	parts   []interface{ consider() } // hear of another policy
	clients clients
	server  *bus.Server
	pulse   pulse
	conf    conf
	cluster *cluster
	who     func() (updater.Identity, error) // this machine, as its system says
	publish *link.Publisher
	numbers *numbers
}

// A keeper is who keeps this machine, or, in shadow mode, watches who does.
type keeper interface {
	updater.Controller
	Run(ctx context.Context) error
	Policy() policy.Policy
	SetPolicy(p policy.Policy)
	Trouble(kind string, err error)
	Wake()
	pulse
}

// New reads the policy and opens disk and state. What it returns is not yet
// running.
func New(o Options) (*Daemon, error) {
	conf, err := readConf(o.Config, rootOf(o.Root))
	if err != nil {
		return nil, err
	}
	p := conf.whole
	if err := os.MkdirAll(p.State, 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	if p.Shadow {
		return newShadow(o, conf)
	}
	slots, err := machine.OpenSlots(p.Slots, o.Root)
	if err != nil {
		return nil, err
	}
	d := &Daemon{Options: o, conf: conf}
	d.cluster = newCluster(d, p)
	d.publish = &link.Publisher{To: d.cluster.publish}
	d.numbers = newNumbers(d, p)
	d.server = &bus.Server{Address: o.Bus, Trouble: func(err error) { o.Log.Warn("the bus is not to be had; updates go on without it", "error", err) }}
	d.updater = &updater.Updater{
		Disk:      slots,
		Control:   slots.Control,
		Lock:      link.ByStrategy{Strategy: d.strategy, Group: d.cluster.group, Alone: link.Lock{Group: &rebootlock.Alone{}, Machine: "this"}},
		Scheduler: d.newScheduler(p),
		Gates:     &gates{d: d},
		Host: &machine.Host{Root: o.Root, Slots: slots, Now: time.Now, Login: bus.Login{Address: o.Bus}, Systemd: bus.Systemd{Address: o.Bus},
			Policy: func() policy.Policy { return d.updater.Policy() }},
		Store:     machine.Store{File: updater.MemoryFile{Path: filepath.Join(p.State, "memory.json")}},
		Scratch:   p.State,
		Program:   "drydock-" + o.Version,
		Observers: []updater.Observer{journal.New(o.Log), newGoodMark(o), d.server, d.publish, d.numbers},
		Now:       time.Now,
		Keys:      d.keys,
		HTTP:      d.clients.get,
	}
	d.keeper, d.pulse, d.who = d.updater, d.updater, d.updater.Host.Identity
	d.parts = []interface{ consider() }{d.cluster, d.numbers}
	d.tasks = []func(context.Context) error{d.keep, d.server.Run, d.cluster.Run, d.publish.Run, d.numbers.Run, d.notify, d.reload}
	d.server.Cluster = d.cluster
	d.server.Controller = attentive{Updater: d.updater, conf: d}
	slots.Now, slots.Damaged = time.Now, d.damaged()
	d.force(p)
	return d, nil
}

// keep runs the updater, where no other engine runs.
func (d *Daemon) keep(ctx context.Context) error {
	if err := rival(ctx, d.Bus); err != nil {
		return err
	}
	return d.updater.Run(ctx)
}

// damaged says in the log and with every status what is wrong with the
// partition table, and in the log when it is well again.
func (d *Daemon) damaged() func(error) {
	before := ""
	return func(err error) {
		d.keeper.Trouble("gpt", err)
		switch {
		case err == nil && before != "":
			d.Log.Warn("the partition table is whole again")
			before = ""
		case err != nil && err.Error() != before:
			d.Log.Error(err.Error())
			before = err.Error()
		}
	}
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
	for _, task := range d.tasks {
		g.Go(func() error { return task(ctx) })
	}
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

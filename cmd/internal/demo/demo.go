// Package demo shows a fleet of five machines that update in turn, with nothing but this program.
package demo

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/updater/policy"
)

// The releases of the story.
const (
	oldRelease   = "4459.2.0"
	newRelease   = "4459.2.1"
	badRelease   = "4502.0.0"
	fixedRelease = "4502.0.1"
)

const (
	machines = 5
	permits  = 2
	slotSize = 24 << 20
	group    = "hosts"
	appID    = "{d0c4d0c4-0000-4000-8000-d0c4d0c4d0c4}"
	patience = 110 * time.Second // for all of it: it takes about a minute
)

// errSlow ends a demo that nobody would wait for.
var errSlow = fmt.Errorf("the demo does not end within %s: this machine is slow, or busy with something else", patience)

var keys = rebootlock.Keys{Cluster: "demo"}

// pace is how large a release is, and how long things take that take no time
// in a demo.
type pace struct {
	image     int64         // bytes
	bandwidth policy.Size   // of one machine's download, a second
	move      time.Duration // one workload to another machine
	slow      time.Duration // the same where a drain is to be caught in its middle
	off       time.Duration // a machine between two boots
	settle    time.Duration // a boot must be well
	sick      time.Duration // until a boot that is not well is given up
	retry     time.Duration // what went wrong, or was not used, rests
	read      time.Duration // for the reader
}

// earnest is the pace at which one can follow.
var earnest = pace{
	image: 16 << 20, bandwidth: 5 << 19, move: 700 * time.Millisecond, slow: 30 * time.Second, off: 1200 * time.Millisecond,
	settle: time.Second, sick: 2 * time.Second, retry: time.Second, read: 3 * time.Second,
}

// fleet is the machines and what they share.
type fleet struct {
	pace     pace
	dir      string
	key      *ecdsa.PrivateKey
	endpoint string // of etcd
	server   *server
	operator rebootlock.Operator
	work     work
	hosts    []*host
	witness  *witness
	screen   *screen

	frozen, thawed int64 // revisions of etcd
}

// Run plays the demo and tells it on out. It needs no privilege and no
// network but loopback, and leaves nothing behind.
func Run(ctx context.Context, out io.Writer) error {
	_, err := play(ctx, out, earnest)
	return err
}

// play plays it at a pace, and returns what is to be seen of it afterwards.
func play(ctx context.Context, out io.Writer, p pace) (f *fleet, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errSlow)
	defer cancel()
	f = &fleet{pace: p, screen: newScreen(out)}
	if f.dir, err = os.MkdirTemp("", "drydock-demo-"); err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(f.dir)) }()
	if f.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return f, err
	}
	etcd, endpoint, err := startEtcd(ctx, f.dir)
	if err != nil {
		return f, err
	}
	defer etcd.Close()
	f.endpoint = endpoint
	if f.server, err = serve(f.dir); err != nil {
		return f, err
	}
	defer f.server.Close()
	return f, f.run(ctx)
}

// run makes the machines, and runs them for as long as the story goes.
func (f *fleet) run(ctx context.Context) error {
	store, err := rebootlock.DialEtcd(rebootlock.EtcdOptions{Endpoints: []string{f.endpoint}})
	if err != nil {
		return err
	}
	defer store.Close()
	f.operator = rebootlock.Operator{Store: store, Keys: keys, Who: "operator ann", Now: time.Now}
	if err := f.build(ctx); err != nil {
		return err
	}
	start, err := f.revision(ctx)
	if err != nil {
		return err
	}
	f.witness = &witness{name: f.nameOf, tell: f.screen.tell, permits: map[string]rebootlock.Permit{}}
	g, ctx := errgroup.WithContext(ctx)
	ctx, end := context.WithCancel(ctx)
	defer end()
	g.Go(func() error { return f.witness.watch(ctx, store, start) })
	for _, h := range f.hosts {
		g.Go(func() error { return h.live(ctx) })
	}
	g.Go(func() error { f.draw(ctx); return nil })
	g.Go(func() error {
		defer end()
		return f.story(ctx)
	})
	return g.Wait()
}

// build makes the machines with their running release, and the group's rules.
func (f *fleet) build(ctx context.Context) error {
	say := f.screen.say
	f.screen.title("Five machines, and an etcd between them")
	f.work.move.Store(int64(f.pace.move))
	img, err := makeImage(f.dir, oldRelease, f.pace.image)
	if err != nil {
		return err
	}
	for i := range machines {
		h, err := newHost(f, i+1, img)
		if err != nil {
			return fmt.Errorf("make machine %d: %w", i+1, err)
		}
		f.hosts = append(f.hosts, h)
	}
	stopAfter := 1
	if _, _, err := f.operator.Apply(ctx, group, rebootlock.Rules{Max: rebootlock.Max{Count: permits}, StopAfter: &stopAfter}); err != nil {
		return err
	}
	say("machines    dock-1 to dock-%d, a web and a db on each; slot A runs %s, slot B is empty", machines, oldRelease)
	say("disks       %s/dock-N/disk.img, GPT, slots of %d MiB", f.dir, slotSize>>20)
	say("etcd        %s, embedded; whichever machine is elected grants the permits", f.endpoint)
	say("group       %q: %d may be down at once, a release stops after %d failed reboot", group, permits, stopAfter)
	say("server      Omaha and payloads on %s", f.server.url)
	say("look on     go run ./cmd/drydock fleet status -w --cluster %s --endpoints %s", keys.Cluster, f.endpoint)
	return ctx.Err()
}

// revision is the one in which the group's rules were last changed.
func (f *fleet) revision(ctx context.Context) (int64, error) {
	s, err := f.operator.Store.Read(ctx, rebootlock.Range{Key: keys.Rules(group)})
	if err != nil {
		return 0, err
	}
	if len(s.KVs) != 1 {
		return 0, fmt.Errorf("group %s has no rules", group)
	}
	return s.KVs[0].Modified, nil
}

func (f *fleet) nameOf(machine string) string {
	for _, h := range f.hosts {
		if h.machine.ID == machine {
			return h.name
		}
	}
	return machine
}

// Package demo shows one machine updating itself, and going back from a release that is not well, with nothing but this program.
package demo

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/fetch"
	"github.com/drydock-os/drydock/updater/link"
	"github.com/drydock-os/drydock/updater/payload"
	"github.com/drydock-os/drydock/updater/policy"
	"github.com/drydock-os/drydock/updater/sim"
)

// The releases of the story.
const (
	oldRelease = "4459.2.0"
	newRelease = "4459.2.1"
	badRelease = "4502.0.0"
)

const (
	imageSize = 48 << 20
	slotSize  = 64 << 20
	machineID = "d0c4d0c4d0c4d0c4d0c4d0c4d0c4d0c4"
	patience  = 50 * time.Second // for all of it: two updates take some ten seconds
)

// stage is the machine, the server and what they share.
type stage struct {
	dir     string
	key     *ecdsa.PrivateKey
	machine *sim.Machine
	boot    context.Context // ends when the running system does
	group   *rebootlock.Alone
	cluster *fleetlink.Memory
	server  *server
	screen  *screen
}

// Run plays the demo and tells it on out. It needs no privilege and no
// network but loopback, and leaves nothing behind.
func Run(ctx context.Context, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	dir, err := os.MkdirTemp("", "drydock-demo-")
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	defer os.RemoveAll(dir)
	s := &stage{dir: dir, group: &rebootlock.Alone{Max: 1}, cluster: &fleetlink.Memory{}, screen: newScreen(out)}
	if err := s.build(ctx); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	defer s.server.Close()
	if err := s.play(ctx); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	return nil
}

// build makes the machine with its running release, and the server.
func (s *stage) build(ctx context.Context) (err error) {
	if s.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return err
	}
	s.screen.title("A machine with two slots")
	if s.machine, err = sim.NewMachine(s.dir, machineID, slotSize); err != nil {
		return err
	}
	img, err := makeImage(s.dir, oldRelease)
	if err != nil {
		return err
	}
	f, err := os.Open(img)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := s.machine.Install(partition.A, f); err != nil {
		return err
	}
	s.cluster.Place("this", "web", "api", "db")
	s.screen.say("disk image  %s, GPT with slots USR-A and USR-B of %d MiB", filepath.Join(s.dir, "disk.img"), slotSize>>20)
	s.screen.say("slot A      release %s, marked good; it runs web, api and db", oldRelease)
	s.screen.say("slot B      empty")
	if s.server, err = serve(s.dir); err != nil {
		return err
	}
	s.screen.say("server      Omaha and payloads on %s", s.server.url)
	return ctx.Err()
}

// play tells the two stories.
func (s *stage) play(ctx context.Context) error {
	s.screen.title("Release %s appears", newRelease)
	if err := s.publish(ctx, newRelease); err != nil {
		return err
	}
	if err := s.live(ctx, func(st updater.Status) bool { return st.Release == newRelease && atRest(st) }); err != nil {
		return err
	}
	s.slots("%s runs from slot B and is good. Nothing on the machine was cut off: its work was moved away first and is back.", newRelease)

	s.screen.title("Release %s appears, and its web.service will not start", badRelease)
	if err := s.publish(ctx, badRelease); err != nil {
		return err
	}
	s.machine.Ails = func(release string) []updater.Reason {
		if release != badRelease {
			return nil
		}
		return []updater.Reason{{Kind: "unit", Text: "unit web.service is failed"}}
	}
	err := s.live(ctx, func(st updater.Status) bool { return st.Release == newRelease && len(st.Rejected) > 0 && atRest(st) })
	if err != nil {
		return err
	}
	s.slots("%s was rejected and is not taken again; the machine went back to %s by itself.", badRelease, newRelease)
	s.screen.title("Where to look next")
	s.screen.say("dist/drydock.toml            the policy file, with every key explained")
	s.screen.say("dist/README.md               how to install drydockd on a host")
	s.screen.say("go run ./cmd/drydock --help  what an operator can ask and do")
	s.screen.say("DESIGN.md                    why it is built as it is")
	return nil
}

func atRest(s updater.Status) bool {
	return s.Step == updater.Wait && s.Permit == "none" && !s.Drained && !s.OnTrial && !s.LastChecked.IsZero()
}

// publish builds, signs and offers a release.
func (s *stage) publish(ctx context.Context, version string) error {
	img, err := makeImage(s.dir, version)
	if err != nil {
		return err
	}
	size, err := s.server.publish(ctx, version, img, s.key)
	if err != nil {
		return err
	}
	s.screen.say("a %d MiB image became a signed payload of %.1f MiB", imageSize>>20, float64(size)/(1<<20))
	return nil
}

// live runs the machine through as many boots as it takes.
func (s *stage) live(ctx context.Context, done func(updater.Status) bool) error {
	for {
		if s.boot == nil || s.boot.Err() != nil {
			boot, err := s.machine.PowerOn(ctx)
			if err != nil {
				return err
			}
			s.boot = boot
			s.screen.boot(s.machine)
		}
		u := s.updater()
		run, stop := context.WithCancel(s.boot)
		var wg sync.WaitGroup
		var failed error
		wg.Go(func() { failed = u.Run(run) })
		ok := wait(run, func() bool { return done(u.Status()) })
		stop()
		wg.Wait()
		switch {
		case failed != nil:
			return failed
		case ok:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("the machine did not come to rest in time: %+v", u.Status())
		}
	}
}

// wait polls until cond holds, and reports whether it did before ctx ended.
func wait(ctx context.Context, cond func() bool) bool {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
			if cond() {
				return true
			}
		}
	}
}

// updater is the real one, on the machine's disk image.
func (s *stage) updater() *updater.Updater {
	u := &updater.Updater{
		Disk: s.machine, Control: s.machine.Control, Host: s.machine,
		Lock:      link.Lock{Group: s.group, Machine: "this"},
		Scheduler: link.Scheduler{Cluster: s.cluster, Machine: "this"},
		Store:     updater.MemoryFile{Path: filepath.Join(s.dir, "memory.json")},
		Scratch:   s.dir, Program: "drydock-demo", Now: time.Now,
		Observers: []updater.Observer{s.screen},
		Keys:      func(policy.Trust) (payload.Keys, error) { return payload.Keys{s.key.Public()}, nil },
		HTTP:      func(policy.Policy) (*http.Client, error) { return fetch.NewClient(fetch.Config{Direct: true}), nil },
	}
	p := policy.Default()
	p.Server.URL = s.server.url + "/v1/update/"
	p.Server.AppID = appID
	p.Update.FirstCheck, p.Update.CheckJitter = 0, 0
	p.Update.Bandwidth = 24 << 20 // slow enough to be seen
	p.Health.Settle, p.Health.Timeout = time.Second, 3*time.Second
	p.Trial.KeepPrevious = 0
	u.SetPolicy(p)
	return u
}

// slots tells how a story ended.
func (s *stage) slots(format string, args ...any) {
	table, err := s.machine.Control.Table()
	if err != nil {
		return
	}
	for _, slot := range []partition.Slot{partition.A, partition.B} {
		release, err := s.machine.ImageRelease(slot)
		if err != nil {
			release = "(nothing that boots)"
		}
		f := table[slot]
		s.screen.say("slot %s  %-10s priority=%d tries=%d successful=%t", slot, release, f.Priority, f.Tries, f.Successful)
	}
	s.screen.say(format, args...)
}

const appID = "{d0c4d0c4-0000-4000-8000-d0c4d0c4d0c4}"

package daemon_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/drydock-os/drydock/omaha"
	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/testdata/real"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/bus"
	"github.com/drydock-os/drydock/updater/policy"
	"github.com/drydock-os/drydock/updater/sim"
)

// patience bounds every wait of these tests.
const patience = 60 * time.Second

// host is a machine around a real drydockd: a loop device with a real GPT, a
// real dbus-daemon, a real update server on loopback. What is stood in for:
// logind, whose Reboot lets the test take the loader's step and start the
// daemon again; the files of /etc, /proc and /usr that say who the machine is
// and what it runs, which are in a directory of the test; and what is booted,
// which the policy file says.
type host struct {
	t        *testing.T
	name     string // for people
	dir      string
	boot     string // stands for the mounted boot partition
	binary   string
	disk     string // the loop device
	address  string // of the bus
	server   *httptest.Server
	updates  *omaha.Static
	key      *ecdsa.PrivateKey
	releases map[string][]byte // image by version

	mu       sync.Mutex
	files    map[string][]byte
	daemon   *exec.Cmd
	output   *bytes.Buffer
	boots    int
	rebooted chan struct{}
	asked    func() // is called while logind is asked for a reboot; nil: nobody cares
	strategy policy.Strategy
	first    string // when the daemon checks by itself
	reboot   string // further lines of [reboot]
	more     string // tables of the policy beside those that every test has

	amend   func(policy string) string                     // the policy as it is written; nil: as it is
	command func(program string, args ...string) *exec.Cmd // how the daemon is run; nil: as it is
}

const slotSize = 8 << 20

func newHost(t *testing.T) *host {
	t.Helper()
	real.Root(t)
	boot, err := os.MkdirTemp("/dev/shm", "drydock-boot-") // no file system that is frozen
	if err != nil {
		real.Missing(t, "no /dev/shm: "+err.Error())
	}
	t.Cleanup(func() { os.RemoveAll(boot) })
	h := &host{t: t, dir: t.TempDir(), boot: boot, files: map[string][]byte{}, releases: map[string][]byte{}, rebooted: make(chan struct{}, 10),
		strategy: policy.Immediate, first: "0s"}
	h.binary = buildDaemon(t)
	h.makeDisk()
	h.startBus()
	h.login()
	h.serve()
	if h.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(h.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	h.write("key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
	h.write("root/etc/machine-id", strings.Repeat("0123456789abcdef", 2)+"\n")
	h.releases["1.0.0"] = h.image("1.0.0")
	h.install(partition.A, h.releases["1.0.0"])
	h.powerOn()
	return h
}

// programs is where this run of the tests has the daemon that it built.
var programs string

var buildDaemon = func() func(t *testing.T) string {
	var once sync.Once
	var failed error
	return func(t *testing.T) string {
		path := filepath.Join(programs, "drydockd")
		once.Do(func() {
			if out, err := exec.Command("go", "build", "-o", path, "github.com/drydock-os/drydock/cmd/drydockd").CombinedOutput(); err != nil {
				failed = fmt.Errorf("%w: %s", err, out)
			}
		})
		if failed != nil {
			t.Fatal(failed)
		}
		return path
	}
}()

func TestMain(m *testing.M) {
	if budget := os.Getenv("DRYDOCKD_BUDGET"); budget != "" {
		os.Exit(runScheduled(budget))
	}
	var err error
	if programs, err = os.MkdirTemp("", "drydockd-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(programs) // no other: tests of other checkouts run beside
	os.Exit(code)
}

func (h *host) write(name, content string) string {
	h.t.Helper()
	path := filepath.Join(h.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		h.t.Fatal(err)
	}
	return path
}

func (h *host) makeDisk() {
	entries := partition.Flatcar(1<<20, slotSize, 1<<20, 512)
	path := filepath.Join(h.dir, "disk.img")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Truncate(path, partition.FlatcarSize(entries, 512)); err != nil {
		h.t.Fatal(err)
	}
	d, err := partition.OpenDisk(path)
	if err != nil {
		h.t.Fatal(err)
	}
	if err := partition.Format(d, entries); err != nil {
		h.t.Fatal(err)
	}
	d.Close()
	h.disk = real.Loop(h.t, path)
}

// opened opens the disk for the test itself; the daemon may hold it too.
func (h *host) opened(f func(d *partition.Disk)) {
	h.t.Helper()
	d, err := partition.OpenDisk(h.disk)
	if err != nil {
		h.t.Fatal(err)
	}
	defer d.Close()
	f(d)
}

func (h *host) install(s partition.Slot, img []byte) {
	h.opened(func(d *partition.Disk) {
		slot, err := d.Slot(s)
		if err != nil {
			h.t.Fatal(err)
		}
		defer slot.Close()
		if _, err := slot.WriteAt(img, 0); err != nil {
			h.t.Fatal(err)
		}
		if err := slot.Sync(); err != nil {
			h.t.Fatal(err)
		}
	})
}

// powerOn lets the loader take its step and sets up what the booted system
// says about itself.
func (h *host) powerOn() (slot partition.Slot, version string) {
	h.t.Helper()
	h.opened(func(d *partition.Disk) {
		var err error
		if slot, err = (partition.GPTPrio{Disk: d}).Boot(); err != nil {
			h.t.Fatalf("the machine does not boot: %v", err)
		}
		version = h.whole(d, slot)
	})
	h.boots++
	h.write("root/usr/lib/os-release", sim.OSRelease(version))
	h.write("root/proc/sys/kernel/random/boot_id", fmt.Sprintf("00000000-0000-4000-8000-%012d\n", h.boots))
	os.RemoveAll(filepath.Join(h.dir, "root/run"))
	h.policy(slot)
	return slot, version
}

// whole fails the test unless a slot holds one of the releases, every byte,
// and returns which.
func (h *host) whole(d *partition.Disk, s partition.Slot) string {
	h.t.Helper()
	slot, err := partition.SlotOf(d, partition.Layout{}, s)
	if err != nil {
		h.t.Fatal(err)
	}
	for version, img := range h.releases {
		got := make([]byte, len(img))
		if _, err := slot.ReadAt(got, 0); err != nil {
			h.t.Fatal(err)
		}
		if bytes.Equal(got, img) {
			return version
		}
	}
	h.t.Fatalf("slot %s would be booted and holds no whole release", s)
	return ""
}

func (h *host) policy(booted partition.Slot) string {
	text := fmt.Sprintf(`
state = %q
[server]
url = "%s/v1/update/"
[trust]
keys = [%q]
[update]
first_check = %q
check_jitter = "0s"
extra_packages_dir = %q
[reboot]
strategy = %q
%s[trial]
keep_previous = "0s"
retry_backoff = "0s"
retries = 20
[health]
settle = "0s"
timeout = "2s"
directory = %q
[slots]
disk = %q
booted = %q
boot_directory = %q
%s`, filepath.Join(h.dir, "state"), h.server.URL, filepath.Join(h.dir, "key.pem"), h.first, filepath.Join(h.dir, "packages"),
		h.strategy, h.reboot, filepath.Join(h.dir, "health.d"), h.disk, booted, h.boot, h.more)
	if h.amend != nil {
		text = h.amend(text)
	}
	return h.write("drydock.toml", text)
}

// start runs drydockd.
func (h *host) start() {
	h.t.Helper()
	h.output = new(bytes.Buffer)
	run := exec.Command
	if h.command != nil {
		run = h.command
	}
	h.daemon = run(h.binary, "-config", filepath.Join(h.dir, "drydock.toml"), "-root", filepath.Join(h.dir, "root"), "-bus", h.address)
	h.daemon.Stderr = h.output
	if err := h.daemon.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(h.kill)
}

func (h *host) kill() {
	if h.daemon == nil {
		return
	}
	h.daemon.Process.Signal(syscall.SIGKILL)
	h.daemon.Wait()
	h.daemon = nil
}

func (h *host) until(what string, cond func() bool) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-ctx.Done():
			h.t.Fatalf("never: %s\n%s", what, h.output)
		case <-tick.C:
		}
	}
}

// live follows the machine through its reboots until done.
func (h *host) live(done func(updater.Status) bool) updater.Status {
	h.t.Helper()
	var last updater.Status
	h.start()
	h.until("the machine comes to rest", func() bool {
		select {
		case <-h.rebooted:
			h.kill()
			h.powerOn()
			h.start()
			return false
		default:
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		c, err := bus.Dial(ctx, h.address)
		if err != nil {
			return false
		}
		defer c.Close()
		s, err := c.Status(ctx)
		last = s
		return err == nil && done(s)
	})
	h.kill()
	return last
}

func rests(version string) func(updater.Status) bool {
	return func(s updater.Status) bool {
		return s.Release == version && !s.OnTrial && s.StepName == "wait" && s.Permit == "none" && !s.LastChecked.IsZero() && s.NewVersion == ""
	}
}

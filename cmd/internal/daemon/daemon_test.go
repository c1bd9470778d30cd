package daemon_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/drydock-os/drydock/omaha"
	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/testdata/real"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/bus"
	"github.com/drydock-os/drydock/updater/image"
	"github.com/drydock-os/drydock/updater/payload"
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
	extra    string // policy lines
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
	h := &host{t: t, dir: t.TempDir(), boot: boot, files: map[string][]byte{}, releases: map[string][]byte{}, rebooted: make(chan struct{}, 10)}
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

var buildDaemon = func() func(t *testing.T) string {
	var once sync.Once
	var path string
	var failed error
	return func(t *testing.T) string {
		once.Do(func() {
			dir, err := os.MkdirTemp("", "drydockd-test-")
			if err != nil {
				failed = err
				return
			}
			path = filepath.Join(dir, "drydockd")
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
	code := m.Run()
	matches, _ := filepath.Glob(filepath.Join(os.TempDir(), "drydockd-test-*"))
	for _, dir := range matches {
		os.RemoveAll(dir)
	}
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
	return h.write("drydock.toml", fmt.Sprintf(`
state = %q
[server]
url = "%s/v1/update/"
[trust]
keys = [%q]
[update]
first_check = "0s"
check_jitter = "0s"
extra_packages_dir = %q
[reboot]
strategy = "immediate"
[trial]
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
%s`, filepath.Join(h.dir, "state"), h.server.URL, filepath.Join(h.dir, "key.pem"), filepath.Join(h.dir, "packages"),
		filepath.Join(h.dir, "health.d"), h.disk, booted, h.boot, h.extra))
}

func (h *host) serve() {
	h.updates = &omaha.Static{AppID: policy.DefaultAppID}
	mux := http.NewServeMux()
	mux.Handle("/v1/update/", &omaha.Handler{Updates: h.updates})
	mux.HandleFunc("/p/", func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		data := h.files[filepath.Base(r.URL.Path)]
		h.mu.Unlock()
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	})
	h.server = httptest.NewServer(mux)
	h.t.Cleanup(h.server.Close)
}

// image is a release with a post-install hook that says on the test's disk
// what it was told.
func (h *host) image(version string) []byte {
	h.t.Helper()
	f, err := os.CreateTemp(h.t.TempDir(), "image")
	if err != nil {
		h.t.Fatal(err)
	}
	defer f.Close()
	filler := make([]byte, 3<<20)
	rand.Read(filler)
	hook := fmt.Sprintf("#!/bin/sh\necho \"$DRYDOCK_VERSION $DRYDOCK_SLOT $*\" >> %s\n", filepath.Join(h.dir, "hook.log"))
	err = image.Create(f, image.File{Name: "lib/os-release", Data: []byte(sim.OSRelease(version))},
		image.File{Name: "postinst", Mode: 0o755, Data: []byte(hook)}, image.File{Name: "filler", Data: filler})
	if err != nil {
		h.t.Fatal(err)
	}
	data, err := os.ReadFile(f.Name())
	if err != nil {
		h.t.Fatal(err)
	}
	return append(data, make([]byte, (4096-len(data)%4096)%4096)...)
}

// publish signs and offers a release.
func (h *host) publish(version string) {
	h.t.Helper()
	img := h.image(version)
	h.releases[version] = img
	kernel := strings.Repeat("kernel "+version+"\n", 5000)
	path := filepath.Join(h.t.TempDir(), version)
	f, err := os.Create(path)
	if err != nil {
		h.t.Fatal(err)
	}
	defer f.Close()
	spec := payload.Spec{Major: 2, Version: version, Signers: []crypto.Signer{h.key}, TempDir: h.dir, Partitions: []payload.Image{
		{Name: payload.Root, Image: bytes.NewReader(img), Size: int64(len(img))},
		{Name: payload.Kernel, Image: strings.NewReader(kernel), Size: int64(len(kernel))},
	}}
	if err := payload.Create(context.Background(), f, spec); err != nil {
		h.t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		h.t.Fatal(err)
	}
	h.mu.Lock()
	h.files[version] = data
	h.mu.Unlock()
	sum := sha256.Sum256(data)
	h.updates.Release(&omaha.Offer{Version: version, Name: version, URLs: []string{h.server.URL + "/p/" + version},
		Size: int64(len(data)), SHA256: sum[:], DisableBackoff: true})
}

const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=%s</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy>
</busconfig>`

func (h *host) startBus() {
	h.t.Helper()
	socket := filepath.Join(h.dir, "bus")
	config := h.write("bus.conf", fmt.Sprintf(busConfig, socket))
	cmd := exec.Command(real.Program(h.t, "dbus-daemon"), "--config-file="+config, "--nofork", "--nopidfile")
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	h.address = "unix:path=" + socket
	h.until("the bus is up", func() bool {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			return false
		}
		conn.Close()
		return true
	})
}

// login stands in for logind: nobody is logged in, nothing inhibits, and a
// reboot is agreed to.
func (h *host) login() {
	h.t.Helper()
	conn, err := dbus.Connect(h.address)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { conn.Close() })
	type inhibitor struct {
		What, Who, Why, Mode string
		UID, PID             uint32
	}
	type session struct {
		ID   string
		UID  uint32
		User string
		Seat string
		Path dbus.ObjectPath
	}
	err = conn.ExportMethodTable(map[string]any{
		"ListInhibitors": func() ([]inhibitor, *dbus.Error) { return nil, nil },
		"ListSessions":   func() ([]session, *dbus.Error) { return nil, nil },
		"RebootWithFlags": func(uint64) *dbus.Error {
			h.rebooted <- struct{}{}
			return nil
		},
	}, "/org/freedesktop/login1", "org.freedesktop.login1.Manager")
	if err != nil {
		h.t.Fatal(err)
	}
	if _, err := conn.RequestName("org.freedesktop.login1", dbus.NameFlagDoNotQueue); err != nil {
		h.t.Fatal(err)
	}
}

// start runs drydockd.
func (h *host) start() {
	h.t.Helper()
	h.output = new(bytes.Buffer)
	h.daemon = exec.Command(h.binary, "-config", filepath.Join(h.dir, "drydock.toml"), "-root", filepath.Join(h.dir, "root"), "-bus", h.address)
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

// TestDaemonUpdatesALoopDevice runs the whole job with the real daemon, the
// real bus, a real GPT and the release's own hook, A to B and B to A.
func TestDaemonUpdatesALoopDevice(t *testing.T) {
	h := newHost(t)
	for i, version := range []string{"1.1.0", "1.2.0"} {
		h.publish(version)
		s := h.live(rests(version))
		if want := []string{"B", "A"}[i]; s.Booted != want {
			t.Errorf("%s runs from slot %s, want %s", version, s.Booted, want)
		}
		if good, err := os.ReadFile(filepath.Join(h.dir, "root/run/drydock/good")); err != nil || strings.TrimSpace(string(good)) != version {
			t.Errorf("the mark of a good boot: %q, %v", good, err)
		}
	}
	log, err := os.ReadFile(filepath.Join(h.dir, "hook.log"))
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("1.1.0 B %sp4 KERNEL=%s/flatcar/vmlinuz-b\n1.2.0 A %sp3 KERNEL=%s/flatcar/vmlinuz-a\n", h.disk, h.boot, h.disk, h.boot)
	if string(log) != want {
		t.Errorf("hooks were told\n%swant\n%s", log, want)
	}
}

// TestDaemonKilledAtRandomMoments kills the daemon with SIGKILL again and again
// while it updates a real device, and now and then cuts the machine's power
// with it: what the firmware would boot is always a whole release, and the
// machine always ends on the new one.
func TestDaemonKilledAtRandomMoments(t *testing.T) {
	h := newHost(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := mathrand.New(mathrand.NewPCG(seed, 0))
	kills := 0
	for i := range 3 {
		version := fmt.Sprintf("1.%d.0", i+1)
		h.publish(version)
		for range 12 {
			h.start()
			wait := time.NewTimer(time.Duration(random.IntN(500)) * time.Millisecond)
			rebooted := false
			select {
			case <-wait.C:
			case <-h.rebooted:
				rebooted = true
			}
			h.kill()
			kills++
			h.opened(func(d *partition.Disk) {
				table, err := (partition.GPTPrio{Disk: d}).Table()
				if err != nil {
					t.Fatal(err)
				}
				next, ok := table.Next()
				if !ok {
					t.Fatalf("nothing to boot: %v", table)
				}
				h.whole(d, next)
			})
			if rebooted || random.IntN(4) == 0 {
				h.powerOn()
			}
		}
		h.live(rests(version))
	}
	t.Logf("%d kills, %d boots", kills, h.boots)
}

// TestReloadKeepsTheOldPolicy breaks the policy file under a running daemon:
// the old one stays in force and every status says so, until the file is well.
func TestReloadKeepsTheOldPolicy(t *testing.T) {
	h := newHost(t)
	good, err := os.ReadFile(filepath.Join(h.dir, "drydock.toml"))
	if err != nil {
		t.Fatal(err)
	}
	h.start()
	status := func() (s updater.Status) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		c, err := bus.Dial(ctx, h.address)
		if err != nil {
			return s
		}
		defer c.Close()
		s, _ = c.Status(ctx)
		return s
	}
	complaint := func() string {
		for _, r := range status().Reasons {
			if r.Kind == "policy" {
				return r.Text
			}
		}
		return ""
	}
	h.until("the daemon is up", func() bool { return !status().LastChecked.IsZero() })
	h.write("drydock.toml", strings.Replace(string(good), "strategy =", "stratgy =", 1))
	h.daemon.Process.Signal(syscall.SIGHUP)
	h.until("the status complains", func() bool { return complaint() != "" })
	if why := complaint(); !strings.Contains(why, "stratgy") || !strings.Contains(why, "reboot.strategy") {
		t.Errorf("complaint %q: want the wrong key and the nearest known one", why)
	}
	if s := status(); s.Strategy != "immediate" {
		t.Errorf("strategy %q: the old policy is no longer in force", s.Strategy)
	}
	h.write("drydock.toml", strings.Replace(string(good), `"immediate"`, `"off"`, 1))
	h.daemon.Process.Signal(syscall.SIGHUP)
	h.until("the new policy is in force", func() bool { return status().Strategy == "off" && complaint() == "" })
}

// TestFullBootPartitionIsSaid has the kernel not fit: the error says so, the
// running release is untouched, and nothing is staged.
func TestFullBootPartitionIsSaid(t *testing.T) {
	h := newHost(t)
	small := filepath.Join(h.dir, "small")
	if err := os.Mkdir(small, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=32k"); err != nil {
		real.Missing(t, "mount tmpfs: "+err.Error())
	}
	t.Cleanup(func() { syscall.Unmount(small, 0) })
	h.boot = small
	h.policy(partition.A)
	h.publish("1.1.0")
	s := h.live(func(s updater.Status) bool { return s.LastError != "" && s.StepName == "wait" })
	if !strings.Contains(s.LastError, "disk is full") || !strings.Contains(s.LastError, "make room") {
		t.Errorf("error %q", s.LastError)
	}
	h.opened(func(d *partition.Disk) {
		table, err := (partition.GPTPrio{Disk: d}).Table()
		if next, ok := table.Next(); err != nil || !ok || next != partition.A || table[partition.B].Bootable() {
			t.Errorf("flags %v, %v", table, err)
		}
	})
}

// TestCheckConfigJudgesTheFileAlone runs where nothing of a host is there.
func TestCheckConfigJudgesTheFileAlone(t *testing.T) {
	binary := buildDaemon(t)
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.toml")
	if err := os.WriteFile(bad, []byte("[reboot]\nstrategy = \"sometimes\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	example := filepath.Join(real.Module(t), "dist", "drydock.toml")
	for _, c := range []struct {
		file string
		exit int
		say  string
	}{{example, 0, ""}, {bad, 1, "reboot.strategy"}, {filepath.Join(dir, "none.toml"), 1, "none.toml"}} {
		cmd := exec.Command(binary, "--config", c.file, "--check-config")
		if os.Geteuid() == 0 { // and without any right
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
			os.Chmod(filepath.Dir(binary), 0o755)
			os.Chmod(dir, 0o755)
			os.Chmod(filepath.Dir(dir), 0o755)
		}
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != c.exit || !strings.Contains(string(out), c.say) {
			t.Errorf("%s: exit %d (%v), %s; want exit %d and %q", c.file, cmd.ProcessState.ExitCode(), err, out, c.exit, c.say)
		}
	}
}

// TestManPageNamesEveryFlag keeps drydockd(8) true.
func TestManPageNamesEveryFlag(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(real.Module(t), "dist", "man", "drydockd.8"))
	if err != nil {
		t.Fatal(err)
	}
	help, _ := exec.Command(buildDaemon(t), "-help").CombinedOutput()
	flags := 0
	for line := range strings.Lines(string(help)) {
		if name, ok := strings.CutPrefix(line, "  -"); ok {
			flags++
			name = strings.ReplaceAll(strings.Fields(name)[0], "-", `\-`)
			if !strings.Contains(string(page), `\-`+name) {
				t.Errorf("drydockd(8) does not name -%s", name)
			}
		}
	}
	if flags < 4 {
		t.Errorf("only %d flags in %s", flags, help)
	}
}

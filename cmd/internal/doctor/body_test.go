package doctor

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/rebootlock/etcdtest"
	"github.com/drydock-os/drydock/testdata/real"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/policy"
)

// A body is a healthy host to make ill: its files below a directory, a disk
// image with a real partition table, a boot partition that is really mounted, a
// real dbus-daemon with a real bus.Server on it, a real TLS server. What is stood
// in for are logind and systemd on the bus, and /proc and /sys.
type body struct {
	t       *testing.T
	root    string
	disk    string // image
	boot    string // mount point, below root
	server  *httptest.Server
	bus     *privateBus
	units   map[string]*unit
	fed     time.Duration // RuntimeWatchdogUSec
	status  updater.Status
	logind  bool
	etcd    *etcdtest.Cluster // nil: it is in no cluster
	cluster *cluster          // nil: it is no node
	control string
	lines   map[string]string // of the policy, by table; "" for those before the first
}

const machineID = "0123456789abcdef0123456789abcdef"

// newBody makes a host that control boots: "gptprio", "systemd-boot" or "grub".
func newBody(t *testing.T, control string) *body {
	t.Helper()
	real.Root(t)
	b := &body{t: t, root: t.TempDir(), control: control, fed: time.Minute, logind: true}
	b.boot = filepath.Join(b.root, "boot")
	b.system()
	b.makeDisk()
	b.mountBoot()
	b.server = httptest.NewUnstartedServer(nil)
	b.server.Config.ErrorLog = log.New(io.Discard, "", 0) // of who shakes hands and leaves
	b.server.StartTLS()
	t.Cleanup(b.server.Close)
	b.write("etc/drydock/server-ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b.server.Certificate().Raw})), 0o644)
	b.write("etc/drydock/keys/release.pem", publicKey(t), 0o644)
	b.lines = map[string]string{
		"server": fmt.Sprintf("url = %q\nca_file = \"/etc/drydock/server-ca.pem\"\n", b.server.URL+"/v1/update/"),
		"trust":  "keys = [\"/etc/drydock/keys/release.pem\"]\n",
		"reboot": "strategy = \"immediate\"\n",
		"health": "units = [\"app.service\"]\n",
		"slots":  fmt.Sprintf("control = %q\ndisk = %q\n", control, b.disk),
	}
	b.status = updater.Status{StepName: "wait", Booted: "A", Release: "1.0.0", Strategy: "immediate", LastChecked: time.Now()}
	b.units = healthyUnits()
	return b
}

func publicKey(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// system makes the files of a running system, and installs drydock's own.
func (b *body) system() {
	for name, text := range map[string]string{
		"etc/machine-id":                     machineID + "\n",
		"etc/fstab":                          "# <device> <directory> <type> <options> <dump> <pass>\nLABEL=BOOT /boot vfat umask=0077 0 2\n",
		"usr/lib/os-release":                 "ID=test\nVERSION_ID=1.0.0\n",
		"proc/sys/kernel/random/boot_id":     "00000000-0000-4000-8000-000000000001\n",
		"proc/sys/kernel/panic":              "30\n",
		"proc/uptime":                        "300.0 1.0\n",
		"proc/cmdline":                       "root=overlay panic=30 drydock.slot=A quiet\n",
		"proc/self/mountinfo":                "21 1 0:20 / / rw - overlay overlay rw\n",
		"sys/class/watchdog/watchdog0/state": "active\n",
		"dev/watchdog0":                      "",
		"var/lib/drydock/instance-id":        strings.Repeat("0123456789abcdef", 2) + "\n",
		"var/lib/drydock/memory.json":        "{\"version\": 1, \"report\": {}, \"poll\": {}}\n",
	} {
		b.write(name, text, 0o644)
	}
	for from, to := range map[string]string{
		"dbus-1/system.d/io.drydock.Drydock1.conf": "usr/share/dbus-1/system.d/io.drydock.Drydock1.conf",
		"dbus-1/system.d/com.coreos.update1.conf":  "usr/share/dbus-1/system.d/com.coreos.update1.conf",
		"polkit-1/actions/io.drydock.policy":       "usr/share/polkit-1/actions/io.drydock.policy",
		"systemd/system/drydockd.service":          "usr/lib/systemd/system/drydockd.service",
		"systemd/system/drydock-trial.timer":       "usr/lib/systemd/system/drydock-trial.timer",
		"systemd/system/drydock-trial.service":     "usr/lib/systemd/system/drydock-trial.service",
		"systemd/system/drydock-good.service":      "usr/lib/systemd/system/drydock-good.service",
		"lib/trial-guard":                          guardScript,
	} {
		data, err := os.ReadFile(filepath.Join(real.Module(b.t), "dist", from))
		if err != nil {
			b.t.Fatal(err)
		}
		b.write(to, string(data), 0o644)
	}
	b.mode(guardScript, 0o755)
	b.write(guardDaemon, "#!/bin/sh\n", 0o755)
	b.write("usr/sbin/fsck.vfat", "", 0o755)
	for _, link := range []string{"multi-user.target.wants/drydockd.service", "sysinit.target.wants/drydock-trial.timer", "boot-complete.target.requires/drydock-good.service"} {
		path := b.path("etc/systemd/system", link)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.Symlink("/usr/lib/systemd/system/"+filepath.Base(link), path)); err != nil {
			b.t.Fatal(err)
		}
	}
}

func (b *body) path(elem ...string) string {
	return filepath.Join(append([]string{b.root}, elem...)...)
}

func (b *body) write(name, text string, mode fs.FileMode) {
	b.t.Helper()
	path := b.path(name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), mode), os.Chmod(path, mode)); err != nil {
		b.t.Fatal(err)
	}
}

func (b *body) mode(name string, mode fs.FileMode) {
	b.t.Helper()
	if err := os.Chmod(b.path(name), mode); err != nil {
		b.t.Fatal(err)
	}
}

func (b *body) remove(name string) {
	b.t.Helper()
	if err := os.RemoveAll(b.path(name)); err != nil {
		b.t.Fatal(err)
	}
}

// set changes a table of the policy, or its first lines.
func (b *body) set(table, lines string) { b.lines[table] = lines }

// makeDisk makes a disk with a good slot A, which runs, and a good slot B.
func (b *body) makeDisk() {
	entries := partition.Flatcar(1<<20, 2<<20, 1<<20, 512)
	b.disk = b.path("disk.img")
	if err := errors.Join(os.WriteFile(b.disk, nil, 0o600), os.Truncate(b.disk, partition.FlatcarSize(entries, 512))); err != nil {
		b.t.Fatal(err)
	}
	b.format(entries)
	b.flags(partition.Table{{Priority: 2, Successful: true}, {Priority: 1, Successful: true}})
}

func (b *body) format(entries []partition.Entry) {
	b.t.Helper()
	b.onDisk(func(d *partition.Disk) error { return partition.Format(d, entries) })
}

func (b *body) flags(t partition.Table) {
	b.t.Helper()
	b.onDisk(func(d *partition.Disk) error { return partition.GPTPrio{Disk: d}.SetTable(t) })
}

func (b *body) onDisk(f func(d *partition.Disk) error) {
	b.t.Helper()
	d, err := partition.OpenDisk(b.disk)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := errors.Join(f(d), d.Close()); err != nil {
		b.t.Fatal(err)
	}
}

// mountBoot mounts a boot partition, and puts into it what the loader has.
func (b *body) mountBoot() {
	b.t.Helper()
	if err := os.MkdirAll(b.boot, 0o755); err != nil {
		b.t.Fatal(err)
	}
	if b.control == "gptprio" {
		b.mount("tmpfs", "tmpfs", 0, "size=1m,mode=755")
		b.write("boot/flatcar/vmlinuz-a", strings.Repeat("k", 64<<10), 0o644)
		return
	}
	kind, mkfs := "vfat", []string{"mkfs.vfat"}
	if known, err := os.ReadFile("/proc/filesystems"); b.control == "grub" || err != nil || !strings.Contains(string(known), "\tvfat\n") {
		kind, mkfs = "ext4", []string{"mkfs.ext4", "-q"}
	}
	if b.control == "systemd-boot" && kind != "vfat" { // this kernel has none: judgeBoot is tested apart
		before := bootKinds[policy.SystemdBoot]
		fat := fatKinds
		bootKinds[policy.SystemdBoot], fatKinds = []string{kind}, []string{kind}
		b.t.Cleanup(func() { bootKinds[policy.SystemdBoot], fatKinds = before, fat })
	}
	image := b.path("boot.img")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 4<<20)); err != nil {
		b.t.Fatal(err)
	}
	if out, err := exec.Command(real.Program(b.t, mkfs[0]), append(mkfs[1:], image)...).CombinedOutput(); err != nil {
		b.t.Fatalf("%s: %v: %s", mkfs[0], err, out)
	}
	b.mount(real.Loop(b.t, image), kind, 0, "")
	dir, err := partition.OpenPlainDir(b.boot)
	if err != nil {
		b.t.Fatal(err)
	}
	defer dir.Close()
	if b.control == "grub" {
		if err := (partition.GRUB{Dir: dir}).Init(partition.Table{}.Good(partition.A)); err != nil {
			b.t.Fatal(err)
		}
		b.write("boot/drydock/drydock.cfg", "# the fragment\n", 0o644)
		b.write("boot/grub/grub.cfg", "search --set=drydock_root --label BOOT\nsource ($drydock_root)/drydock/drydock.cfg\n", 0o644)
		b.write("boot/grub/i386-pc/modinfo.sh", "grub_version=\"2.06\"\n", 0o644)
		return
	}
	b.write("boot/EFI/Linux/drydock-a.efi", "no kernel", 0o644)
	b.write("boot/loader/loader.conf", "default drydock-a.efi\npreferred drydock-a.efi\n", 0o644)
	b.variable("LoaderInfo", "systemd-boot 257.7-1")
}

func (b *body) mount(source, kind string, flags uintptr, data string) {
	b.t.Helper()
	if err := syscall.Mount(source, b.boot, kind, flags, data); err != nil {
		real.Missing(b.t, fmt.Sprintf("mount %s: %v", kind, err))
	}
	b.t.Cleanup(func() { syscall.Unmount(b.boot, syscall.MNT_DETACH) })
}

// variable makes a variable of the firmware.
func (b *body) variable(name, text string) {
	data := []byte{6, 0, 0, 0}
	for _, r := range text {
		data = append(data, byte(r), 0)
	}
	b.write("sys/firmware/efi/efivars/"+name+"-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f", string(data), 0o644)
}

// policy writes the policy file.
func (b *body) policy() string {
	text := b.lines[""]
	for table, lines := range b.lines {
		if table != "" {
			text += "[" + table + "]\n" + lines
		}
	}
	path := b.path("etc/drydock/drydock.toml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil { // the mode of one that is there stays
		b.t.Fatal(err)
	}
	return path
}

// examine examines the host as it is now.
func (b *body) examine(change ...func(*Doctor)) Report {
	b.t.Helper()
	d := Doctor{Config: b.path("etc/drydock/drydock.toml"), Root: b.root, Now: time.Now}
	if _, there := b.lines["gone"]; !there {
		b.policy()
	}
	if b.bus == nil {
		b.bus = startBus(b)
	}
	d.Bus = b.bus.address
	for _, c := range change {
		c(&d)
	}
	return d.Examine(b.t.Context())
}

// finding is what a report says of a check.
func finding(t *testing.T, r Report, id string) Finding {
	t.Helper()
	for _, f := range r.Checks {
		if f.ID == id {
			return f
		}
	}
	t.Fatalf("no check %s", id)
	return Finding{}
}

// environment are the checks that tell of the machine on which the tests run,
// and nothing else.
var environment = map[string]bool{"clock.synchronised": true}

// healthy fails the test unless a host is.
func healthy(t *testing.T, r Report) {
	t.Helper()
	for _, f := range r.Checks {
		if f.Verdict != OK && !environment[f.ID] {
			t.Errorf("%+v", f)
		}
	}
}

package guest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/updater/image"
)

// A Spec is a machine to build.
type Spec struct {
	Name    string // its host name; unique in its test
	Release Image  // in slot A, good
	// Policy changes keys of the guests' policy file: `"reboot.strategy": "\"off\""`.
	// A value is TOML.
	Policy map[string]string
	// Files are put on the data partition, which holds var/ and etc/ (the upper
	// layer of /etc); see Release.Files for their form.
	Files  map[string]string
	Server *Server // of updates; nil: one of its own
	// Ports are the host's on loopback that lead to TCP ports of the guest, by the
	// guest's; see FreePort. Other guests reach them at the host's address.
	Ports map[int]int
	// AtBoot is called before each boot, with the machine off. It may read and change
	// the disk, and ask nothing else of the machine.
	AtBoot  func(*Machine)
	Options []string // more of QEMU
	CPUs    int      // 1 unless told otherwise
	Record  bool     // what is written to the disk is recorded; see Recordings
}

// ID is the machine-id.
func (s Spec) ID() string {
	sum := sha256.Sum256([]byte("drydock guest " + s.Name))
	return hex.EncodeToString(sum[:16])
}

// defaults are what the guests' policy says unless a test says otherwise.
var defaults = map[string]string{
	"server.group":          `"stable"`,
	"trust.keys":            `["/etc/drydock/keys/release.pem"]`,
	"update.check_interval": `"1m"`,
	"update.check_jitter":   `"0s"`,
	"update.first_check":    `"1s"`,
	"reboot.strategy":       `"immediate"`,
	"reboot.retry_pause":    `"5s"`,
	"trial.retry_backoff":   `"5s"`,
	"trial.keep_previous":   `"0s"`,
	"trial.deadline":        `"3m"`,
	"health.timeout":        `"1m30s"`,
	"health.settle":         `"2s"`,
	"slots.labels":          `["ROOT-A", "ROOT-B"]`,
}

// policy is the machine's policy file.
func (s Spec) policy(server *Server) string {
	keys := maps.Clone(defaults)
	keys["server.url"] = fmt.Sprintf("%q", server.guestURL("/v1/update/"))
	keys["slots.control"] = fmt.Sprintf("%q", string(s.Release.Release.Loader))
	maps.Copy(keys, s.Policy)
	tables := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		table, name, _ := strings.Cut(key, ".")
		tables[table] += name + " = " + keys[key] + "\n"
	}
	var out strings.Builder
	for _, table := range slices.Sorted(maps.Keys(tables)) {
		fmt.Fprintf(&out, "[%s]\n%s\n", table, tables[table])
	}
	return out.String()
}

// A Machine is a guest with its disk. It can be switched on and off, and its
// power can be cut.
type Machine struct {
	Spec
	Dir, Disk string
	t         testing.TB
	lab       *Lab

	mu         sync.Mutex
	process    *exec.Cmd // the QEMU that runs, or nil
	on         bool      // switched on
	ended      chan struct{}
	heard      chan struct{} // closed when this QEMU has told all
	halted     bool          // the guest switched itself off
	boots      int
	recordings []Recording
	events     map[string]int // that QEMU told, by name
	log        []string       // what happened to it, for a test that failed
}

// Machine builds a machine, off. When the test ends it is gone; of one that
// failed, console, journal and disk flags are kept.
func (l *Lab) Machine(t testing.TB, s Spec) *Machine {
	t.Helper()
	if s.Server == nil {
		s.Server = l.Server(t)
	}
	if s.CPUs == 0 {
		s.CPUs = 1
	}
	dir, err := os.MkdirTemp("", "guest-")
	if err != nil {
		t.Fatal(err)
	}
	m := &Machine{Spec: s, Dir: dir, Disk: filepath.Join(dir, "disk.img"), t: t, lab: l, events: map[string]int{}}
	t.Cleanup(func() {
		m.Cut()
		if t.Failed() {
			m.keep()
		}
		os.RemoveAll(dir)
	})
	withServer := *l
	withServer.server = s.Server
	if err := withServer.makeDisk(m.Disk, s); err != nil {
		t.Fatalf("build machine %s: %v", s.Name, err)
	}
	if s.Release.Release.Loader == SystemdBoot {
		if _, err := run("cp", "/usr/share/OVMF/OVMF_VARS_4M.fd", filepath.Join(dir, "vars.fd")); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// PowerOn switches the machine on. It stays on, through its own reboots, until
// Cut.
func (m *Machine) PowerOn() {
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.on {
		m.t.Fatalf("%s is on", m.Name)
	}
	if err := m.boot(); err != nil {
		m.t.Fatalf("boot %s: %v", m.Name, err)
	}
	m.on, m.ended = true, make(chan struct{})
	go m.supervise(m.process, m.ended)
}

// supervise waits for QEMU's end, and starts it again where the guest, or its
// watchdog, only wanted a reset: a QEMU told to end at a reset did. So each boot
// is a cold one. (After a warm reset QEMU 7.2 can need minutes for what a cold
// start does in seconds, where code that it translated before is overwritten.)
func (m *Machine) supervise(p *exec.Cmd, ended chan struct{}) {
	defer close(ended)
	for {
		heard := m.heard
		err := p.Wait()
		<-heard
		m.mu.Lock()
		m.process = nil
		if !m.on {
			m.mu.Unlock()
			return
		}
		m.note("qemu ended: %v", err)
		again := err == nil && !m.halted
		if again {
			if err := m.boot(); err != nil {
				m.note("boot: %v", err)
				again = false
			}
		}
		if !again {
			m.on = false
			m.mu.Unlock()
			return
		}
		p = m.process
		m.mu.Unlock()
	}
}

// On tells whether the machine runs.
func (m *Machine) On() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.on
}

// Cut takes the power away at this moment. What the guest had not handed to its
// disk is lost.
func (m *Machine) Cut() {
	m.mu.Lock()
	p, ended := m.process, m.ended
	wasOn := m.on
	m.on = false
	if p != nil {
		p.Process.Kill()
	}
	m.mu.Unlock()
	if wasOn {
		<-ended
	}
}

// Wait waits until the machine is off by itself.
func (m *Machine) Wait(limit time.Duration) {
	m.t.Helper()
	select {
	case <-m.ended:
	case <-time.After(limit):
		m.t.Fatalf("%s is still on after %v", m.Name, limit)
	}
}

// Boots counts how often the machine began to boot.
func (m *Machine) Boots() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.boots
}

func (m *Machine) note(format string, args ...any) {
	m.log = append(m.log, time.Now().Format("15:04:05 ")+fmt.Sprintf(format, args...))
}

// boot starts QEMU once. m.mu is held.
func (m *Machine) boot() error {
	if m.AtBoot != nil {
		m.AtBoot(m)
	}
	args := []string{"-name", m.Name, "-machine", "q35", "-cpu", "max", "-accel", "tcg,thread=multi", "-m", "768",
		"-smp", fmt.Sprint(m.CPUs), "-nodefaults", "-no-user-config", "-display", "none",
		"-chardev", "file,id=console,append=on,path=" + filepath.Join(m.Dir, "console"), "-serial", "chardev:console",
		"-chardev", "socket,id=agent,server=on,wait=off,path=" + filepath.Join(m.Dir, "agent"),
		"-device", "virtio-serial-pci", "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
		"-qmp", "unix:" + filepath.Join(m.Dir, "qmp") + ",server=on,wait=off",
		"-device", "virtio-rng-pci", "-device", "i6300esb", "-action", "watchdog=reset",
		"-netdev", "user,id=net" + m.forwards(), "-device", "virtio-net-pci,netdev=net,romfile=",
	}
	if !m.Record {
		// Nobody waits for the host's own disk: what the guest wrote outlives QEMU.
		args = append(args, "-blockdev", "driver=file,node-name=file,filename="+m.Disk+",cache.no-flush=on", "-blockdev", "driver=raw,node-name=disk,file=file", "-device", "virtio-blk-pci,drive=disk")
	}
	args = append(args, m.Options...)
	switch m.Release.Release.Loader {
	case SystemdBoot:
		args = append(args, "-drive", "if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
			"-drive", "if=pflash,format=raw,unit=1,file="+filepath.Join(m.Dir, "vars.fd"))
	case Modelled:
		more, err := m.firmware()
		if err != nil {
			return err
		}
		args = append(args, more...)
	}
	if m.Record { // what the firmware wrote is in the base
		more, err := m.record()
		if err != nil {
			return err
		}
		args = append(args, more...)
	}
	args = append(args, "-no-reboot")
	m.process = exec.Command("qemu-system-x86_64", args...)
	var stderr bytes.Buffer
	m.process.Stderr = &stderr
	// It ends with the test, also with one that is killed.
	m.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	m.boots++
	m.lab.count(m.t, "boots")
	if err := m.process.Start(); err != nil {
		m.process = nil
		return err
	}
	m.halted, m.heard = false, make(chan struct{})
	go m.listen(m.heard)
	return nil
}

func (m *Machine) forwards() string {
	var b strings.Builder
	for guest, host := range m.Ports {
		fmt.Fprintf(&b, ",hostfwd=tcp:127.0.0.1:%d-:%d", host, guest)
	}
	return b.String()
}

// firmware is the step of a firmware that goes by the GPT's priorities: it picks
// the slot, spends the try, and loads kernel and initrd out of the slot.
func (m *Machine) firmware() ([]string, error) {
	disk, err := partition.OpenDisk(m.Disk)
	if err != nil {
		return nil, err
	}
	defer disk.Close()
	slot, err := partition.GPTPrio{Disk: disk, Layout: Layout()}.Boot()
	if err != nil {
		return nil, err
	}
	label := "ROOT-" + slot.String()
	m.note("firmware picks slot %v", slot)
	kernel, initrd := filepath.Join(m.Dir, "vmlinuz"), filepath.Join(m.Dir, "initrd")
	part, err := disk.Slot(slot)
	if err != nil {
		return nil, err
	}
	defer part.Close()
	for file, to := range map[string]string{"boot/vmlinuz": kernel, "boot/initrd.img": initrd} {
		data, err := image.ReadFile(part, part.Size(), file, 64*mib)
		if err != nil {
			return nil, fmt.Errorf("load %s of slot %v: %w", file, slot, err)
		}
		if err := os.WriteFile(to, data, 0o644); err != nil {
			return nil, err
		}
	}
	flags, err := partition.GPTPrio{Disk: disk, Layout: Layout()}.Table()
	if err != nil {
		return nil, err
	}
	own, err := ownOptions(part)
	if err != nil {
		return nil, err
	}
	trial := 1
	if flags[slot].Successful {
		trial = 0
	}
	words := fmt.Sprintf("%s root=PARTLABEL=%s drydock.slot=%s drydock.trial=%d %s %s", commandLine, label, slot, trial, m.Release.Release.Options, own)
	return []string{"-kernel", kernel, "-initrd", initrd, "-append", words}, nil
}

// Flags reads the GPT's flags of a machine that is off.
func (m *Machine) Flags() partition.Table {
	m.t.Helper()
	disk, err := partition.ReadDisk(m.Disk)
	if err != nil {
		m.t.Fatal(err)
	}
	defer disk.Close()
	table, err := partition.GPTPrio{Disk: disk, Layout: Layout()}.Table()
	if err != nil {
		m.t.Fatal(err)
	}
	return table
}

// Console is what the machine printed since it was built.
func (m *Machine) Console() string {
	data, _ := os.ReadFile(filepath.Join(m.Dir, "console"))
	return string(data)
}

// Until waits until ok, which is asked every two seconds, and fails the test after
// limit: what is waited for is named.
func (m *Machine) Until(limit time.Duration, what string, ok func(context.Context) bool) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for {
		if ok(ctx) {
			return
		}
		select {
		case <-ctx.Done():
			m.t.Fatalf("%s: not within %v: %s", m.Name, limit, what)
		case <-time.After(2 * time.Second):
		}
		if !m.On() {
			m.t.Fatalf("%s went off while the test waited until: %s", m.Name, what)
		}
	}
}

// keep saves what a failed test's machine leaves: console, journal, flags.
func (m *Machine) keep() {
	root := os.Getenv("DRYDOCK_BOOT_LOGS")
	if root == "" {
		root = filepath.Join(m.lab.Dir, "failed")
	}
	dir := filepath.Join(root, strings.ReplaceAll(m.t.Name(), "/", "_"), m.Name)
	out, err := shell(`rm -rf "$1"; mkdir -p "$1/journal"; cp "$2/console" "$1/" || true
		debugfs -R "rdump /var/log/journal $1/journal" "$2/disk.img?offset=$3" >/dev/null 2>&1 || true
		journalctl -D "$1/journal/journal" -o short-monotonic --no-pager > "$1/journal.txt" 2>/dev/null || true
		tail -n 25 "$1/console" || true; echo "--- journal"; tail -n 60 "$1/journal.txt" || true`, dir, m.Dir, fmt.Sprint(offset("DATA")))
	if err != nil {
		out += err.Error()
	}
	m.t.Logf("%s:\n%s\n%s\nkept in %s", m.Name, strings.Join(m.log, "\n"), out, dir)
}

var errOff = errors.New("the machine is off")

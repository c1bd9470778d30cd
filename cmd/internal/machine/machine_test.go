package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/testdata/real"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/host"
	"github.com/drydock-os/drydock/updater/image"
	"github.com/drydock-os/drydock/updater/policy"
)

// diskImage makes a disk image with two slots, A chosen and good.
func diskImage(t *testing.T) string {
	t.Helper()
	entries := partition.Flatcar(1<<20, 2<<20, 1<<20, 512)
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, partition.FlatcarSize(entries, 512)); err != nil {
		t.Fatal(err)
	}
	d, err := partition.OpenDisk(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := partition.Format(d, entries); err != nil {
		t.Fatal(err)
	}
	return path
}

func openSlots(t *testing.T, disk, boot string) *Slots {
	t.Helper()
	p := policy.Default().Slots
	p.Disk, p.Booted, p.BootDirectory = disk, "A", boot
	s, err := OpenSlots(p, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.disk.Close() })
	return s
}

// fill writes an image with files into slot B.
func fill(t *testing.T, s *Slots, files ...image.File) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := image.Create(f, files...); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d, err := s.Slot(partition.B)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := d.WriteAt(data, 0); err != nil {
		t.Fatal(err)
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
}

// The policy's proxy did not reach the hook, and its "require" did nothing.
func TestHookHearsOfThePolicy(t *testing.T) {
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"} {
		t.Setenv(name, "")
		os.Unsetenv(name)
	}
	t.Setenv("https_proxy", "http://own:1")
	h := &Host{
		Slots:  openSlots(t, real.Loop(t, diskImage(t)), ""),
		Policy: func() policy.Policy { return policy.Policy{Server: policy.Server{Proxy: "http://p:3128"}} },
	}
	osRelease := image.File{Name: "lib/os-release", Data: []byte("VERSION_ID=2.0.0\n")}
	fill(t, h.Slots, osRelease, image.File{Name: "postinst", Mode: 0o755, Data: []byte("#!/bin/sh\nenv | grep -i _proxy= | sort\n")})
	run := updater.HookRun{Slot: partition.B, Version: "2.0.0", Policy: policy.Default().Hook}
	var lines []string
	if err := h.Hook(t.Context(), run, func(l string) { lines = append(lines, l) }); err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	want := []string{"ALL_PROXY=http://p:3128", "HTTP_PROXY=http://p:3128", "all_proxy=http://p:3128", "http_proxy=http://p:3128", "https_proxy=http://own:1"}
	if !slices.Equal(lines, want) {
		t.Errorf("the hook has %q, want %q", lines, want)
	}
	fill(t, h.Slots, osRelease)
	if err := h.Hook(t.Context(), run, func(string) {}); err != nil {
		t.Errorf("auto, no hook: %v", err)
	}
	run.Policy.Postinstall = policy.PostinstallRequire
	if err := h.Hook(t.Context(), run, func(string) {}); !errors.Is(err, host.ErrNoHook) {
		t.Errorf("required, no hook: %v", err)
	}
}

// The hook that stands in for a twin's was looked for at /postinst, where no
// Flatcar has it.
func TestRunningHookIsBelowUsr(t *testing.T) {
	for root, want := range map[string]string{"": "/usr/postinst", "/sysroot": "/sysroot/usr/postinst"} {
		if got := (&Host{Root: root}).runningHook("/postinst"); got != want {
			t.Errorf("root %q: %s, want %s", root, got, want)
		}
	}
}

func TestHookOfAnImageFileIsRefused(t *testing.T) {
	h := &Host{Slots: openSlots(t, diskImage(t), "")}
	err := h.Hook(t.Context(), updater.HookRun{Slot: partition.B, Policy: policy.Default().Hook}, nil)
	if !errors.Is(err, host.ErrNoMount) {
		t.Errorf("err = %v", err)
	}
}

// A kernel that does not fit said that some disk is full, and not which.
func TestKernelThatDoesNotFitNamesTheBootPartition(t *testing.T) {
	real.Root(t)
	boot := t.TempDir()
	if err := syscall.Mount("tmpfs", boot, "tmpfs", 0, "size=64k"); err != nil {
		real.Missing(t, "mount tmpfs: "+err.Error())
	}
	s := openSlots(t, diskImage(t), boot)
	t.Cleanup(func() { syscall.Unmount(boot, syscall.MNT_DETACH) })
	k, err := s.Control.CreateKernel(partition.B)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	_, err = k.WriteAt(make([]byte, 128<<10), 0)
	var space *host.SpaceError
	if !errors.As(err, &space) || !errors.Is(err, syscall.ENOSPC) || !strings.HasPrefix(err.Error(), boot+" is full") {
		t.Errorf("err = %v", err)
	}
	if _, err := s.Control.OpenKernel(partition.A); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("kernel of A: %v", err)
	}
}

// A full state directory, too.
func TestMemoryThatDoesNotFitNamesTheStateDirectory(t *testing.T) {
	real.Root(t)
	state := t.TempDir()
	if err := syscall.Mount("tmpfs", state, "tmpfs", 0, "size=16k"); err != nil {
		real.Missing(t, "mount tmpfs: "+err.Error())
	}
	t.Cleanup(func() { syscall.Unmount(state, syscall.MNT_DETACH) })
	s := Store{File: updater.MemoryFile{Path: filepath.Join(state, "memory.json")}}
	if err := s.Save(updater.Memory{Paused: "kept"}); err != nil {
		t.Fatal(err)
	}
	os.WriteFile(filepath.Join(state, "filler"), make([]byte, 64<<10), 0o600)
	var space *host.SpaceError
	if err := s.Save(updater.Memory{}); !errors.As(err, &space) || !strings.HasPrefix(err.Error(), state+" is full") {
		t.Errorf("err = %v", err)
	}
	if m, err := s.Load(); err != nil || m.Paused != "kept" {
		t.Errorf("memory %+v, %v: the old one must stay", m, err)
	}
}

func TestOpenSlotsRefuses(t *testing.T) {
	disk := diskImage(t)
	for what, change := range map[string]func(*policy.Slots){
		"control":  func(p *policy.Slots) { p.Control = "uboot" },
		"booted":   func(p *policy.Slots) { p.Booted = "C" },
		"no disk":  func(p *policy.Slots) { p.Disk = disk + ".none" },
		"no /boot": func(p *policy.Slots) { p.BootDirectory = disk + ".none" },
	} {
		p := policy.Default().Slots
		p.Disk, p.BootDirectory = disk, ""
		change(&p)
		if _, err := OpenSlots(p, t.TempDir()); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
}

func TestIdentityIsWhatTheSystemSays(t *testing.T) {
	root := system(t, "2.0.0")
	put(t, root, "proc/uptime", "90.5 1.0\n", 0o444)
	id, err := (&Host{Root: root}).Identity()
	if err != nil || id.Release != "2.0.0" || id.MachineID != strings.Repeat("0123456789abcdef", 2) || id.BootID == "" || id.Arch == "" || id.Up != 90500*time.Millisecond {
		t.Errorf("identity %+v, %v", id, err)
	}
	put(t, root, "usr/lib/os-release", "ID=test\nVERSION=\"2.1.0 (old style)\"\n", 0o644)
	if id, err := (&Host{Root: root}).Identity(); err != nil || id.Release != "2.1.0 (old style)" {
		t.Errorf("without VERSION_ID: %+v, %v", id, err)
	}
	if _, err := (&Host{Root: t.TempDir()}).Identity(); err == nil {
		t.Error("an empty system has an identity")
	}
}

func put(t *testing.T, dir, name, content string, mode fs.FileMode) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), mode), os.Chmod(path, mode)); err != nil {
		t.Fatal(err)
	}
}

// system makes the files of a running system.
func system(t *testing.T, version string) string {
	t.Helper()
	root := t.TempDir()
	put(t, root, "usr/lib/os-release", fmt.Sprintf("ID=test\nVERSION_ID=%s\n", version), 0o644)
	put(t, root, "etc/machine-id", strings.Repeat("0123456789abcdef", 2)+"\n", 0o444)
	put(t, root, "proc/sys/kernel/random/boot_id", "00000000-0000-4000-8000-000000000001\n", 0o444)
	return root
}

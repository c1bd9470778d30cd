package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drydock-os/drydock/testdata/real"
)

// put writes a file below dir, with the directories it needs.
func put(t *testing.T, dir, name, content string, mode fs.FileMode) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestIdentify(t *testing.T) {
	const machine, boot = "0123456789abcdef0123456789abcdef", "11111111-2222-3333-4444-555555555555"
	for _, tc := range []struct{ name, machine, boot string }{
		{"good", machine + "\n", boot + "\n"},
		{"first boot", "uninitialized\n", boot},
		{"short", machine[:31], boot},
		{"upper case", strings.ToUpper(machine), boot},
		{"empty boot id", machine, "\n"},
		{"huge", strings.Repeat("0", 1<<20), boot},
	} {
		root := t.TempDir()
		put(t, root, "etc/machine-id", tc.machine, 0o444)
		put(t, root, "proc/sys/kernel/random/boot_id", tc.boot, 0o444)
		id, err := Identify(root)
		if tc.name != "good" {
			if err == nil {
				t.Errorf("%s: accepted as %+v", tc.name, id)
			}
			continue
		}
		arch, _ := exec.Command("uname", "-m").Output()
		want := Identity{MachineID: machine, BootID: boot, Arch: strings.TrimSpace(string(arch))}
		if err != nil || id != want {
			t.Errorf("got %+v, %v; want %+v", id, err, want)
		}
	}
	if _, err := Identify(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("empty root: %v", err)
	}
}

// How long the machine runs was known to nobody, so a deadline that is counted
// from the boot could not pass.
func TestUptime(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"8136.21 15908.74\n": 8136210 * time.Millisecond, "": 0, "\n": 0, "-5.0 1\n": 0, "1e999 1": 0, "x y": 0,
	} {
		root := t.TempDir()
		put(t, root, "proc/uptime", text, 0o444)
		if got := uptime(root); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
	if got := uptime("/"); got <= 0 {
		t.Errorf("this very machine: %s", got)
	}
	if got := uptime(t.TempDir()); got != 0 {
		t.Errorf("no such file: %s", got)
	}
}

func TestRunning(t *testing.T) {
	root := t.TempDir()
	if _, err := Running(root); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("empty root: %v", err)
	}
	put(t, root, "etc/os-release", "VERSION_ID=1", 0o644)
	put(t, root, "usr/lib/os-release", "VERSION_ID=2", 0o644)
	if r, err := Running(root); err != nil || r.VersionID != "2" {
		t.Errorf("got %+v, %v: the operator's /etc hides the release's own word", r, err)
	}
	if _, err := Running("/"); err != nil {
		t.Errorf("this very system: %v", err)
	}
}

func TestNoSpaceExplains(t *testing.T) {
	dir := t.TempDir()
	if err := NoSpace(dir, nil); err != nil {
		t.Errorf("nil became %v", err)
	}
	if err := NoSpace(dir, fs.ErrExist); err != fs.ErrExist {
		t.Errorf("another error became %v", err)
	}
	full := &fs.PathError{Op: "write", Path: dir, Err: syscall.ENOSPC}
	err := NoSpace(dir, fmt.Errorf("write kernel: %w", full))
	var space *SpaceError
	if !errors.As(err, &space) || !errors.Is(err, syscall.ENOSPC) || !errors.Is(err, full) || space.Available <= 0 {
		t.Errorf("got %v", err)
	}
	for _, part := range []string{dir + " is full", "left", "free space", "write kernel"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
	if again := NoSpace(dir, err); again != err {
		t.Errorf("explained twice: %v", again)
	}
}

// A full /boot, for real: a tmpfs of 64 KiB.
func TestFullBoot(t *testing.T) {
	real.Root(t)
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		real.Missing(t, "mount tmpfs: "+err.Error())
	}
	t.Cleanup(func() { syscall.Unmount(dir, 0) })
	err := os.WriteFile(filepath.Join(dir, "vmlinuz-b"), make([]byte, 128<<10), 0o600)
	var space *SpaceError
	if err = NoSpace(dir, err); !errors.As(err, &space) || space.Available != 0 {
		t.Errorf("full: %v", err)
	}
}

package host

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/testdata/real"
	"github.com/drydock-os/drydock/updater/image"
)

// slot makes a loop device that holds a tree with the hook, as program makes
// it. DIR and IMG stand in args for the tree and the image file.
func slot(t *testing.T, hook, program string, args ...string) string {
	t.Helper()
	real.Root(t)
	dir := t.TempDir()
	put(t, dir, "lib/os-release", "ID=test\nVERSION_ID=3.1.0\n", 0o644)
	if hook != "" {
		put(t, dir, "postinst", "#!/bin/sh\n"+hook+"\n", 0o755)
	}
	img := filepath.Join(t.TempDir(), "img")
	if strings.HasPrefix(program, "mkfs.btrfs") || strings.HasPrefix(program, "mkfs.xfs") {
		f, err := os.Create(img)
		if err != nil {
			t.Fatal(err)
		}
		f.Truncate(320 << 20)
		f.Close()
	}
	for i := range args {
		args[i] = strings.NewReplacer("DIR", dir, "IMG", img).Replace(args[i])
	}
	if out, err := exec.Command(real.Program(t, program), args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", program, err, out)
	}
	return real.Loop(t, img)
}

func ext2Slot(t *testing.T, hook string) string {
	t.Helper()
	return slot(t, hook, "mke2fs", "-q", "-t", "ext2", "-d", "DIR", "IMG", "4M")
}

// heard collects a hook's lines.
type heard struct{ lines []string }

func (h *heard) add(line string) { h.lines = append(h.lines, line) }

func TestHookArgumentsAndEnvironment(t *testing.T) {
	dev := ext2Slot(t, `echo "args: $*"; env | sort`)
	var out heard
	h := Hook{Output: out.add, Environ: []string{
		"PATH=/usr/sbin:/usr/bin:/bin", "HTTPS_PROXY=http://p:1", "https_proxy=http://p:1", "NO_PROXY=local",
		"SECRET=1", "HTTP_PROXYX=1", "NOTIFY_SOCKET=/run/x",
	}}
	err := h.Run(t.Context(), HookArgs{
		Device: dev, Kernel: "/boot/flatcar/vmlinuz-b", PCRPolicy: "/var/lib/pcrs-b.zip",
		Slot: "B", Version: "3.1.0", Packages: "/var/lib/drydock/packages",
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := out.lines[0], "args: "+dev+" KERNEL=/boot/flatcar/vmlinuz-b PCR_POLICY=/var/lib/pcrs-b.zip"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	var env []string
	for _, line := range out.lines[1:] {
		if name, _, _ := strings.Cut(line, "="); name != "PWD" && name != "SHLVL" && name != "_" {
			env = append(env, line)
		}
	}
	want := []string{
		"DRYDOCK_PACKAGES=/var/lib/drydock/packages", "DRYDOCK_RESPONSE=", "DRYDOCK_SLOT=B", "DRYDOCK_VERSION=3.1.0",
		"HTTPS_PROXY=http://p:1", "NO_PROXY=local", "PATH=/usr/sbin:/usr/bin:/bin", "https_proxy=http://p:1",
	}
	slices.Sort(env)
	if !slices.Equal(env, want) {
		t.Errorf("environment %q, want %q", env, want)
	}
}

func TestHookWithoutOptionalArguments(t *testing.T) {
	dev := ext2Slot(t, `echo "$#:$*"`)
	var out heard
	if err := (Hook{Output: out.add}).Run(t.Context(), HookArgs{Device: dev}); err != nil || out.lines[0] != "1:"+dev {
		t.Errorf("%q, %v", out.lines, err)
	}
}

// Upstream takes exit code 3 for success.
func TestHookExitCodes(t *testing.T) {
	for _, tc := range []struct {
		hook string
		code int
	}{{"exit 1", 1}, {"exit 3", 3}, {"exit 255", 255}, {"kill -9 $$", -1}} {
		err := Hook{}.Run(t.Context(), HookArgs{Device: ext2Slot(t, tc.hook)})
		var exit *ExitError
		if !errors.As(err, &exit) || exit.Code != tc.code {
			t.Errorf("%s: %v", tc.hook, err)
		}
	}
}

func TestReleaseWithoutHookIsSuccess(t *testing.T) {
	var out heard
	h := Hook{Output: out.add, Path: "/usr/lib/hook"}
	err := h.Run(t.Context(), HookArgs{Device: ext2Slot(t, "exit 1"), Version: "3.1.0"})
	if err != nil || len(out.lines) != 1 || !strings.Contains(out.lines[0], "3.1.0 has no hook usr/lib/hook") {
		t.Errorf("%q, %v", out.lines, err)
	}
}

// hook.postinstall = "require" used to do nothing.
func TestRequiredHookIsMissed(t *testing.T) {
	h := Hook{Required: true, Path: "/usr/lib/hook"}
	err := h.Run(t.Context(), HookArgs{Device: ext2Slot(t, "exit 1"), Version: "3.1.0"})
	if !errors.Is(err, ErrNoHook) || !strings.Contains(err.Error(), "usr/lib/hook of release 3.1.0") {
		t.Errorf("without the hook: %v", err)
	}
	if err := (Hook{Required: true}).Run(t.Context(), HookArgs{Device: ext2Slot(t, "exit 0")}); err != nil {
		t.Errorf("with it: %v", err)
	}
}

// The mount is in nobody's way: not seen outside while the hook runs, gone
// after, the mount point too; and the hook cannot write to it.
func TestHookMountIsPrivate(t *testing.T) {
	dev := ext2Slot(t, `grep -c "$(dirname "$0")" /proc/self/mountinfo
grep -c "$(dirname "$0")" /proc/$PPID/mountinfo
touch "$(dirname "$0")/x" 2>/dev/null && echo writable
dirname "$0"`)
	var out heard
	dir := t.TempDir()
	if err := (Hook{Output: out.add, Dir: dir}).Run(t.Context(), HookArgs{Device: dev}); err != nil {
		t.Fatal(err)
	}
	if len(out.lines) != 3 || out.lines[0] != "1" || out.lines[1] != "0" || !strings.HasPrefix(out.lines[2], dir) {
		t.Errorf("got %q", out.lines)
	}
	checkUnmounted(t, dir)
}

func checkUnmounted(t *testing.T, dir string) {
	t.Helper()
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("mount points left: %v, %v", left, err)
	}
	for _, file := range []string{"/proc/self/mountinfo", "/proc/thread-self/mountinfo"} {
		if data, err := os.ReadFile(file); err != nil || strings.Contains(string(data), dir) {
			t.Errorf("%s still names %s (%v)", file, dir, err)
		}
	}
}

func TestHookTimeout(t *testing.T) {
	dir := t.TempDir()
	dev := ext2Slot(t, "sleep 1000 & exec sleep 1000")
	err := Hook{Timeout: 200 * time.Millisecond, Dir: dir}.Run(t.Context(), HookArgs{Device: dev})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "within 200ms") {
		t.Errorf("err = %v", err)
	}
	checkUnmounted(t, dir)
}

// A process that left the hook's group, and sits on the slot, does not keep
// the slot mounted here.
func TestHookThatLeavesAProcessOnTheSlot(t *testing.T) {
	real.Program(t, "setsid")
	dir, pid := t.TempDir(), filepath.Join(t.TempDir(), "pid")
	dev := ext2Slot(t, `cd "$(dirname "$0")"; setsid sh -c 'echo $$ > `+pid+`; exec sleep 30' >/dev/null 2>&1 & sleep 0.3`)
	if err := (Hook{Dir: dir}).Run(t.Context(), HookArgs{Device: dev}); err != nil {
		t.Errorf("err = %v", err)
	}
	checkUnmounted(t, dir)
	data, err := os.ReadFile(pid)
	if err != nil {
		t.Fatal(err)
	}
	exec.Command("kill", strings.TrimSpace(string(data))).Run()
}

// Whatever the slot's file system, its bytes are verified: reading it for the
// version, and running its hook, changes none of them.
func TestEveryFileSystemStaysUntouched(t *testing.T) {
	for _, tc := range []struct {
		program string
		args    []string
	}{
		{"mke2fs", []string{"-q", "-t", "ext4", "-d", "DIR", "IMG", "16M"}},
		{"mke2fs", []string{"-q", "-t", "ext4", "-O", "inline_data", "-d", "DIR", "IMG", "16M"}},
		{"mke2fs", []string{"-q", "-t", "ext3", "-d", "DIR", "IMG", "16M"}},
		{"mksquashfs", []string{"DIR", "IMG", "-quiet", "-no-progress"}},
		{"mkfs.erofs", []string{"--quiet", "IMG", "DIR"}},
		{"mkfs.erofs", []string{"--quiet", "-zlz4", "IMG", "DIR"}},
		{"mkfs.btrfs", []string{"-q", "--rootdir", "DIR", "IMG"}},
	} {
		t.Run(tc.program+" "+strings.Join(tc.args, " "), func(t *testing.T) {
			dev := slot(t, "echo ran; exit 3", tc.program, tc.args...)
			before := hash(t, dev)
			release, err := OSRelease(dev)
			if err != nil && strings.Contains(err.Error(), "no such device") {
				real.Missing(t, "kernel: "+err.Error())
			}
			if err != nil || release.VersionID != "3.1.0" {
				t.Errorf("OSRelease = %+v, %v", release, err)
			}
			var out heard
			err = Hook{Output: out.add}.Run(t.Context(), HookArgs{Device: dev})
			var exit *ExitError
			if !errors.As(err, &exit) || exit.Code != 3 || len(out.lines) != 1 {
				t.Errorf("hook: %q, %v", out.lines, err)
			}
			if hash(t, dev) != before {
				t.Error("the slot's content changed")
			}
		})
	}
}

// A journal to replay is the one thing that a read-only mount writes.
func TestHookReplaysNoJournal(t *testing.T) {
	real.Program(t, "debugfs")
	dev := slot(t, "exit 0", "mke2fs", "-q", "-t", "ext4", "-d", "DIR", "IMG", "16M")
	if out, err := exec.Command(real.Program(t, "debugfs"), "-w", "-R", "feature needs_recovery", dev).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	before := hash(t, dev)
	if err := (Hook{}).Run(t.Context(), HookArgs{Device: dev}); err != nil {
		t.Error(err)
	}
	if hash(t, dev) != before {
		t.Error("the slot's content changed")
	}
	if _, err := OSRelease(dev); !errors.Is(err, image.ErrCorrupt) {
		t.Errorf("OSRelease: %v, want ErrCorrupt", err)
	}
}

func hash(t *testing.T, path string) [32]byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return [32]byte(h.Sum(nil))
}

func TestPlainFileIsNoMount(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "img"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := image.Create(f, image.File{Name: "lib/os-release", Data: []byte("VERSION_ID=1.0.0")}); err != nil {
		t.Fatal(err)
	}
	if err := (Hook{}).Run(t.Context(), HookArgs{Device: f.Name()}); !errors.Is(err, ErrNoMount) {
		t.Errorf("hook: %v, want ErrNoMount", err)
	}
	if r, err := OSRelease(f.Name()); err != nil || r.VersionID != "1.0.0" {
		t.Errorf("OSRelease = %+v, %v", r, err)
	}
	if err := os.WriteFile(f.Name(), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OSRelease(f.Name()); !errors.Is(err, image.ErrFormat) {
		t.Errorf("zeros: %v, want ErrFormat", err)
	}
}

// Where a twin of the slot is mounted, upstream runs the running system's hook.
func TestTwinRunsTheRunningHook(t *testing.T) {
	var out heard
	h := Hook{Output: out.add, Running: put(t, t.TempDir(), "postinst", "#!/bin/sh\necho running $*\n", 0o755)}
	if err := h.afterMount(t.Context(), HookArgs{Device: "/dev/sda4"}, ErrTwin); err != nil {
		t.Fatal(err)
	}
	if len(out.lines) != 2 || out.lines[1] != "running /dev/sda4" {
		t.Errorf("got %q", out.lines)
	}
	h.Running = ""
	if err := h.afterMount(t.Context(), HookArgs{}, ErrTwin); !errors.Is(err, ErrTwin) {
		t.Errorf("without a running hook: %v", err)
	}
}

// runHookForTest is the daemon that TestKilledDaemonLeavesNothing kills.
func runHookForTest(device string) {
	h := Hook{Output: func(line string) { os.Stdout.WriteString(line + "\n") }}
	if err := h.Run(context.Background(), HookArgs{Device: device}); err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
	}
}

// Found in a whole machine: on a root that is read-only and has no tmpfs at
// /tmp, PrivateTmp= gives the service a /tmp that nobody can write to, and no
// release could be staged.
func TestHookWhereTheTemporaryDirectoryIsReadOnly(t *testing.T) {
	dev := ext2Slot(t, "exit 0")
	t.Setenv("TMPDIR", "/proc/self/fdinfo")
	t.Setenv("RUNTIME_DIRECTORY", t.TempDir())
	if err := (Hook{}).Run(t.Context(), HookArgs{Device: dev}); err != nil {
		t.Error(err)
	}
}

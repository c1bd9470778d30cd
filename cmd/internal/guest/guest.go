// Package guest builds whole machines out of Debian's packages and our own, and
// boots them in QEMU under software emulation: real firmware, boot loader,
// kernel, systemd, D-Bus and logind. It needs root, mmdebstrap, QEMU, OVMF,
// mtools and dosfstools, and the environment variable DRYDOCK_BOOT.
package guest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/drydock-os/drydock/testdata/real"
)

// A Lab holds what the machines of a test run are made of, in a directory that
// outlives the run.
type Lab struct {
	Dir    string // cache, by content
	Module string // the repository
	base   string // Debian's tree, pruned
	tools  tools  // ours, as built from the repository
	server *Server
}

// tools are what is built from the repository.
type tools struct {
	drydock  string // the command, for the test's own machine
	packages Packages
}

// needed is what the tests run, by program and Debian's package.
var needed = [][2]string{
	{"mmdebstrap", "mmdebstrap"}, {"qemu-system-x86_64", "qemu-system-x86"}, {"mke2fs", "e2fsprogs"}, {"debugfs", "e2fsprogs"}, {"mksquashfs", "squashfs-tools"},
	{"mkfs.vfat", "dosfstools"}, {"mcopy", "mtools"}, {"objcopy", "binutils"}, {"veritysetup", "cryptsetup-bin"},
	{"grub-mkimage", "grub-common"}, {"cpio", "cpio"},
}

// Full tells whether everything is to be run, and not only what fits into a
// change's time.
func Full() bool { return os.Getenv("DRYDOCK_BOOT") == "full" }

var (
	once  sync.Once
	lab   *Lab
	fatal error
)

// Open returns the lab, which the first test builds and the others share. It
// skips t without DRYDOCK_BOOT, and says what to install.
func Open(t testing.TB) *Lab {
	t.Helper()
	if os.Getenv("DRYDOCK_BOOT") == "" {
		var packages []string
		for _, n := range needed {
			packages = append(packages, n[1])
		}
		t.Skipf("DRYDOCK_BOOT=1 boots whole machines (20 minutes on two cores), DRYDOCK_BOOT=full all of them; install %s ovmf grub-pc-bin", strings.Join(packages, " "))
	}
	real.Root(t)
	for _, n := range needed {
		real.Program(t, n[0])
	}
	module := real.Module(t)
	once.Do(func() { lab, fatal = build(module) })
	if fatal != nil {
		t.Fatal(fatal)
	}
	return lab
}

// Processor takes one of the host's for the rest of the test, waiting for other
// tests, and other processes, to give one back. An emulated machine takes one
// for itself while it boots or writes; more at once than there are slow each
// other down by more than their share, into the guests' own time limits. A test
// takes it before its first machine.
func (l *Lab) Processor(t testing.TB) {
	t.Helper()
	queue, err := os.OpenFile(filepath.Join(l.Dir, "queue.lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer queue.Close()
	if err := syscall.Flock(int(queue.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	for ; ; time.Sleep(200 * time.Millisecond) {
		for i := range runtime.NumCPU() {
			f, err := os.OpenFile(filepath.Join(l.Dir, fmt.Sprintf("processor-%d.lock", i)), os.O_CREATE|os.O_RDWR, 0o644)
			if err != nil {
				t.Fatal(err)
			}
			if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
				f.Close()
				continue
			}
			t.Cleanup(func() { f.Close() })
			return
		}
	}
}

// cacheDir is where images are kept: DRYDOCK_BOOT_CACHE, or the user's cache.
func cacheDir() (string, error) {
	if dir := os.Getenv("DRYDOCK_BOOT_CACHE"); dir != "" {
		return dir, os.MkdirAll(dir, 0o755)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = os.TempDir()
	}
	dir = filepath.Join(dir, "drydock-guest")
	return dir, os.MkdirAll(dir, 0o755)
}

func build(module string) (*Lab, error) {
	dir, err := cacheDir()
	if err != nil {
		return nil, err
	}
	forget(dir)
	l := &Lab{Dir: dir, Module: module}
	if l.base, err = l.cached("base", baseRecipe(), l.makeBase); err != nil {
		return nil, err
	}
	if l.tools, err = l.buildTools(); err != nil {
		return nil, err
	}
	l.server, err = serve(l)
	return l, err
}

// forget removes what nobody has used for some days: a release is 150 MB, and
// each change of the repository makes new ones.
func forget(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > kept && !strings.HasSuffix(e.Name(), ".lock") {
			os.RemoveAll(filepath.Join(dir, e.Name()))
		}
	}
}

const kept = 3 * 24 * time.Hour

// cached returns the path of something that make builds at a path, or built
// before out of the same recipe. Other processes wait for it meanwhile.
func (l *Lab) cached(name, recipe string, make func(path string) error) (string, error) {
	sum := sha256.Sum256([]byte(recipe))
	path := filepath.Join(l.Dir, name+"-"+hex.EncodeToString(sum[:8]))
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %s: %w", path, err)
	}
	if _, err := os.Stat(path); err == nil {
		now := time.Now()
		return path, os.Chtimes(path, now, now)
	}
	part := path + ".part"
	if err := os.RemoveAll(part); err != nil {
		return "", err
	}
	if err := make(part); err != nil {
		return "", fmt.Errorf("make %s: %w", name, err)
	}
	return path, os.Rename(part, path)
}

// run runs a program and returns what it printed; an error has all of it.
func run(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// shell runs a script of several commands that stops at the first that does not
// succeed. Arguments are $1, $2 and so on.
func shell(script string, args ...string) (string, error) {
	return run("bash", append([]string{"-euo", "pipefail", "-c", script, "-"}, args...)...)
}

package partition

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/drydock-os/drydock/testdata/real"
)

// mounted makes a file system of a kind on a loop device and mounts it. What the
// device has been told, and no more, is in the image.
func mounted(t *testing.T, kind string) (dir, image string) {
	t.Helper()
	real.Root(t)
	mkfs := real.Program(t, "mkfs."+kind)
	image, dir = filepath.Join(t.TempDir(), "fs.img"), t.TempDir()
	size := int64(16 * mib)
	if kind == "xfs" {
		size = 320 * mib
	}
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	run(t, mkfs, "-q", image)
	loop := real.Loop(t, image)
	run(t, real.Program(t, "mount"), loop, dir)
	t.Cleanup(func() { run(t, "umount", dir) })
	return dir, image
}

// TestGRUBOnExt4 places a kernel and sets flags on a mounted ext4, and looks for
// both in a copy of the device's bytes, as GRUB would find them after a power
// cut: with a reader that replays no journal.
func TestGRUBOnExt4(t *testing.T) {
	debugfs := real.Program(t, "debugfs")
	dir, image := mounted(t, "ext4")
	boot, err := OpenBootDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { boot.Close() })
	c := GRUB{Dir: boot}
	if err := c.Init(Table{{Priority: 1, Successful: true}, {}}); err != nil {
		t.Fatal(err)
	}
	f, err := c.CreateKernel(B)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("a kernel"), 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	path, err := c.PlaceKernel(B)
	if err != nil || path != filepath.Join(dir, "drydock/vmlinuz-b") {
		t.Fatalf("placed at %q: %v", path, err)
	}
	table, err := c.Table()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetTable(table.Stage(B, 1)); err != nil {
		t.Fatal(err)
	}
	raw := filepath.Join(t.TempDir(), "raw.img")
	run(t, "cp", image, raw)
	if out := run(t, debugfs, "-R", "cat /drydock/vmlinuz-b", raw); out[len(out)-len("a kernel"):] != "a kernel" {
		t.Errorf("without the journal the kernel is %q", out)
	}
	out := filepath.Join(t.TempDir(), "grubenv")
	run(t, debugfs, "-R", "dump /drydock/grubenv "+out, raw)
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	env, err := parseEnv(data)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := env.table(); err != nil || got != table.Stage(B, 1) {
		t.Errorf("without the journal the flags are %+v: %v", got, err)
	}
}

// TestFreezeGuardThaws freezes and leaves the thawing to the guard, as a process
// that is killed does.
func TestFreezeGuardThaws(t *testing.T) {
	dir, _ := mounted(t, "ext4")
	guard, err := guardFreeze(dir)
	if err != nil {
		t.Fatal(err)
	}
	run(t, real.Program(t, "fsfreeze"), "--freeze", dir)
	if err := guard.stop(""); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "x"), []byte("thawed"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestFreezesAtOnce freezes the same file system from several sides.
func TestFreezesAtOnce(t *testing.T) {
	dir, _ := mounted(t, "ext4")
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			boot, err := OpenBootDir(dir)
			if err != nil {
				t.Error(err)
				return
			}
			for range 3 {
				if err := boot.Sync(); err != nil {
					t.Error(err)
				}
			}
			boot.Close()
		})
	}
	all.Wait()
}

package partition_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/partition/partitiontest"
)

// TestOnFiles runs the conformance test on an image file and a directory of the
// real file system, as the demo uses them.
func TestOnFiles(t *testing.T) {
	t.Parallel()
	open := func(t *testing.T) partition.BootDir {
		dir, err := partition.OpenPlainDir(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { dir.Close() })
		return dir
	}
	t.Run("gptprio", func(t *testing.T) {
		t.Parallel()
		partitiontest.Test(t, func(t *testing.T) (partition.Control, partition.Firmware) {
			entries := partition.Flatcar(mib, mib, mib, 512)
			path := filepath.Join(t.TempDir(), "disk.raw")
			if err := os.WriteFile(path, make([]byte, partition.FlatcarSize(entries, 512)), 0o600); err != nil {
				t.Fatal(err)
			}
			disk, err := partition.OpenDisk(path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { disk.Close() })
			if err := partition.Format(disk, entries); err != nil {
				t.Fatal(err)
			}
			dir := open(t)
			writeBoot(t, dir, "coreos/vmlinuz-a", "old kernel") // an old machine's place
			c := partition.GPTPrio{Disk: disk, Dir: dir}
			return c, c
		})
	})
	t.Run("systemd-boot", func(t *testing.T) {
		t.Parallel()
		partitiontest.Test(t, func(t *testing.T) (partition.Control, partition.Firmware) {
			dir := open(t)
			writeBoot(t, dir, "EFI/Linux/drydock-a.efi", "old kernel")
			c := partition.SystemdBoot{Dir: dir, Variables: emptyVariables}
			return c, c
		})
	})
	t.Run("grub", func(t *testing.T) {
		t.Parallel()
		partitiontest.Test(t, func(t *testing.T) (partition.Control, partition.Firmware) {
			c := partition.GRUB{Dir: writable{open(t)}}
			if err := c.Init(partition.Table{{Priority: 1, Successful: true}}); err != nil {
				t.Fatal(err)
			}
			return c, c
		})
	})
}

// writable passes a directory of the test off as one that GRUB writes to.
type writable struct{ partition.BootDir }

func (writable) FileSystem() (string, error) { return "ext4", nil }

package sim

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/drydock-os/drydock/partition"
)

// NewMachine makes a machine below dir: a sparse disk image laid out as
// Flatcar's, with slots of so many bytes, and a directory that stands for the
// mounted boot partition. Slot A is marked good and holds nothing yet.
func NewMachine(dir, id string, slotSize int64) (*Machine, error) {
	const sector = 512
	entries := partition.Flatcar(1<<20, slotSize, 1<<20, sector)
	path := filepath.Join(dir, "disk.img")
	if err := sparse(path, partition.FlatcarSize(entries, sector)); err != nil {
		return nil, fmt.Errorf("make disk image: %w", err)
	}
	disk, err := partition.OpenDisk(path)
	if err != nil {
		return nil, err
	}
	if err := partition.Format(disk, entries); err != nil {
		return nil, err
	}
	boot := filepath.Join(dir, "boot")
	if err := os.MkdirAll(boot, 0o755); err != nil {
		return nil, fmt.Errorf("make boot directory: %w", err)
	}
	bootDir, err := partition.OpenPlainDir(boot)
	if err != nil {
		return nil, err
	}
	control := partition.GPTPrio{Disk: disk, Dir: bootDir}
	return &Machine{ID: id, Disk: disk, Control: control, Firmware: control}, nil
}

func sparse(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := f.Truncate(size); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

package machine

import (
	"errors"
	"fmt"
	"time"

	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/updater/host"
)

const (
	// tableEvery is how often a table that was well is read whole: a copy is
	// there for the day on which the other one breaks.
	tableEvery = time.Hour
	// tableSettle is how long damage must stand before it is repaired: another
	// program (sgdisk, growpart) writes the copies one after the other.
	tableSettle = 2 * time.Second
	// tableRetry is the pause after a repair that went wrong.
	tableRetry = time.Minute
)

// flags is the machine's boot control. Reading it looks after the partition
// table, so that a repair never meets a write of flags or a hook of the same
// daemon; what it writes to a full disk says which disk.
type flags struct {
	partition.Control
	slots *Slots
	dir   string // boot directory; "" for none
}

// Table implements partition.Control.
func (f flags) Table() (partition.Table, error) {
	f.slots.tend()
	return f.Control.Table()
}

// SetTable implements partition.Control.
func (f flags) SetTable(t partition.Table) error {
	return host.NoSpace(f.dir, f.Control.SetTable(t))
}

// CreateKernel implements partition.Control.
func (f flags) CreateKernel(s partition.Slot) (partition.File, error) {
	return f.kernel(f.Control.CreateKernel(s))
}

// OpenKernel implements partition.Control.
func (f flags) OpenKernel(s partition.Slot) (partition.File, error) {
	return f.kernel(f.Control.OpenKernel(s))
}

// PlaceKernel implements partition.Control.
func (f flags) PlaceKernel(s partition.Slot) (string, error) {
	path, err := f.Control.PlaceKernel(s)
	return path, host.NoSpace(f.dir, err)
}

func (f flags) kernel(file partition.File, err error) (partition.File, error) {
	if err != nil {
		return nil, host.NoSpace(f.dir, err)
	}
	return kernelFile{File: file, dir: f.dir}, nil
}

// kernelFile is a kernel that says what it means when it does not fit.
type kernelFile struct {
	partition.File
	dir string
}

// WriteAt implements partition.File.
func (k kernelFile) WriteAt(p []byte, at int64) (int, error) {
	n, err := k.File.WriteAt(p, at)
	return n, host.NoSpace(k.dir, err)
}

// Sync implements partition.File. Space that was put off may be missing here.
func (k kernelFile) Sync() error { return host.NoSpace(k.dir, k.File.Sync()) }

// tending is what is known of the partition table's health.
type tending struct {
	next   time.Time // when the table is read again
	damage string    // as it was found last; "" for none
}

// tend reads both copies of the partition table when it is time, repairs one
// that is damaged, and tells Damaged.
func (s *Slots) tend() {
	if s.Damaged == nil || s.Now().Before(s.tending.next) {
		return
	}
	table, err := partition.ReadGPT(s.disk)
	if err != nil {
		s.tending = tending{next: s.Now().Add(tableRetry), damage: err.Error()}
		s.Damaged(fmt.Errorf("the partition table of %s cannot be read, and a reboot may find none: write it anew (sgdisk) from what the kernel still knows: %w", s.disk.Name(), err))
		return
	}
	damage := errors.Join(named("primary", table.Primary), named("backup", table.Backup))
	switch {
	case damage == nil:
		s.tending = tending{next: s.Now().Add(tableEvery)}
		s.Damaged(nil)
	case damage.Error() != s.tending.damage:
		s.tending = tending{next: s.Now().Add(tableSettle), damage: damage.Error()}
		s.Damaged(fmt.Errorf("the partition table of %s has one good copy left, from which the other is repaired: %w", s.disk.Name(), damage))
	default:
		s.mend(table, damage)
	}
}

// mend repairs a table, and believes it when it has read it again.
func (s *Slots) mend(table *partition.GPT, damage error) {
	err := table.Repair(s.disk)
	if err == nil {
		if table, err = partition.ReadGPT(s.disk); err == nil {
			err = errors.Join(table.Primary, table.Backup)
		}
	}
	if err != nil {
		s.tending.next = s.Now().Add(tableRetry)
		s.Damaged(fmt.Errorf("the partition table of %s has one good copy left, and the other cannot be repaired: %w (%w)", s.disk.Name(), damage, err))
		return
	}
	s.tending = tending{next: s.Now().Add(tableEvery)}
	s.Damaged(nil)
}

func named(which string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s copy: %w", which, err)
}

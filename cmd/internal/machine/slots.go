package machine

import (
	"fmt"
	"time"

	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/policy"
)

// Slots are the two slots of the machine's disk, and what chooses between
// them. It implements updater.Disk.
type Slots struct {
	Control partition.Control

	// Damaged hears what is wrong with the disk's partition table, of which one
	// copy was damaged, and nil while it is well. It is called by Control.Table
	// of a daemon; nil: nobody looks, and nothing is repaired.
	Damaged func(error)
	Now     func() time.Time // set where Damaged is

	disk    *partition.Disk
	booted  func() (partition.Slot, error)
	tending tending
}

// OpenSlots finds the disk, its slots and its boot control as the policy says.
// root stands for "/".
func OpenSlots(p policy.Slots, root string) (*Slots, error) {
	return slotsOn(p, root, partition.OpenDisk)
}

// ReadSlots is OpenSlots for who changes nothing: the disk is opened for reading
// alone, so the kernel refuses every write to it, and the boot directory not at
// all.
func ReadSlots(p policy.Slots, root string) (*Slots, error) {
	p.BootDirectory = ""
	return slotsOn(p, root, partition.ReadDisk)
}

func slotsOn(p policy.Slots, root string, open func(path string) (*partition.Disk, error)) (*Slots, error) {
	running := partition.System{Root: root}
	path := p.Disk
	if path == "" {
		origins, err := running.Origins()
		if err != nil {
			return nil, fmt.Errorf("find the disk that runs (slots.disk can name it): %w", err)
		}
		path = origins[0].Disk
	}
	disk, err := open(path)
	if err != nil {
		return nil, err
	}
	if len(p.Labels) == 2 {
		disk.Layout.Labels = [2]string{p.Labels[0], p.Labels[1]}
	}
	s := &Slots{disk: disk}
	s.booted = func() (partition.Slot, error) { return s.find(running, path) }
	if p.Booted != "" && p.Booted != "auto" {
		slot, err := partition.ParseSlot(p.Booted)
		if err != nil {
			return nil, err
		}
		s.booted = func() (partition.Slot, error) { return s.agree(slot, running, path) }
	}
	c, err := control(p, disk)
	if err != nil {
		disk.Close()
		return nil, err
	}
	s.Control = flags{Control: c, slots: s, dir: p.BootDirectory}
	return s, nil
}

// agree returns the slot that the policy calls booted, unless the running
// system tells otherwise: the file is the same in both slots, and a slot that
// runs must never be taken for the passive one.
func (s *Slots) agree(said partition.Slot, running partition.System, path string) (partition.Slot, error) {
	found, err := s.find(running, path)
	if err == nil && found != said {
		return 0, fmt.Errorf("slots.booted says %s and the system runs from slot %s: set it to \"auto\"", said, found)
	}
	return said, nil
}

func control(p policy.Slots, disk *partition.Disk) (partition.Control, error) {
	var dir partition.BootDir
	if p.BootDirectory != "" {
		d, err := partition.OpenBootDir(p.BootDirectory)
		if err != nil {
			return nil, err
		}
		dir = d
	}
	return ControlOf(p, disk, dir)
}

// ControlOf is what the policy says chooses between the slots of disk, with dir
// as its boot directory, nil where it has none.
func ControlOf(p policy.Slots, disk *partition.Disk, dir partition.BootDir) (partition.Control, error) {
	switch p.Control {
	case policy.GPTPrio:
		return partition.GPTPrio{Disk: disk, Dir: dir, Layout: disk.Layout}, nil
	case policy.SystemdBoot:
		return partition.SystemdBoot{Dir: dir}, nil
	case policy.GRUB:
		return partition.GRUB{Dir: dir}, nil
	}
	return nil, fmt.Errorf("slots.control %q is not known", p.Control)
}

// find asks the running system which slot it came from.
func (s *Slots) find(running partition.System, path string) (partition.Slot, error) {
	table, err := partition.ReadGPT(s.disk)
	if err != nil {
		return 0, err
	}
	slots, err := table.FindSlots(s.disk.Layout)
	if err != nil {
		return 0, err
	}
	return running.Booted(path, slots)
}

// Slot implements updater.Disk.
func (s *Slots) Slot(which partition.Slot) (updater.SlotDevice, error) {
	d, err := s.disk.Slot(which)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// Booted implements updater.Disk.
func (s *Slots) Booted() (partition.Slot, error) { return s.booted() }

package partition

import (
	"fmt"
	"io/fs"
)

// GPTPrio is Flatcar's and ChromeOS's boot control: priority, tries and
// successful in the attributes of the slots' GPT entries, which the loader's
// gptprio.next reads and spends (flatcar/grub gptprio.c).
type GPTPrio struct {
	Disk   Device  // the whole disk, or its image
	Dir    BootDir // holds the kernels; nil where the slots hold them
	Layout Layout  // how the slots are found
}

var (
	_ Control  = GPTPrio{}
	_ Firmware = GPTPrio{}
)

// read reads the table and the slots. gptprio.next looks at every partition of
// the slots' type, so a third one that may boot is refused: no flags of ours
// would keep the loader from it.
func (c GPTPrio) read() (*GPT, [2]Entry, error) {
	g, err := ReadGPT(c.Disk)
	if err != nil {
		return nil, [2]Entry{}, err
	}
	slots, err := g.FindSlots(c.Layout)
	if err != nil {
		return nil, slots, err
	}
	if slots[A].Number > slots[B].Number {
		return nil, slots, fmt.Errorf("read flags: slot B is partition %d, before slot A: the loader takes the first of equals", slots[B].Number)
	}
	for _, e := range g.Entries {
		if e.Type == slots[A].Type && e.Number != slots[A].Number && e.Number != slots[B].Number && e.Flags().Bootable() {
			return nil, slots, fmt.Errorf("read flags: partition %d %q is bootable too and is no slot", e.Number, e.Label)
		}
	}
	return g, slots, nil
}

// Table reads the flags from the copy of the GPT that counts.
func (c GPTPrio) Table() (Table, error) {
	_, slots, err := c.read()
	return Table{slots[A].Flags(), slots[B].Flags()}, err
}

// SetTable writes the flags into both copies of the GPT, and repairs a damaged
// one with it.
func (c GPTPrio) SetTable(t Table) error {
	g, slots, err := c.read()
	if err != nil {
		return err
	}
	if c.Dir != nil {
		k, err := flatcarKernels(c.Dir)
		if err != nil {
			return err
		}
		if err := k.newlyBootable(Table{slots[A].Flags(), slots[B].Flags()}, t); err != nil {
			return err
		}
	}
	return g.SetFlags(c.Disk, map[int]Flags{slots[A].Number: t[A], slots[B].Number: t[B]})
}

// CreateKernel implements Control.
func (c GPTPrio) CreateKernel(s Slot) (File, error) {
	t, err := c.Table()
	if err != nil {
		return nil, err
	}
	if t[s].Bootable() {
		return nil, fmt.Errorf("create kernel of slot %s: %w", s, ErrBootable)
	}
	if c.Dir == nil {
		return nil, fmt.Errorf("create kernel of slot %s: no boot directory", s)
	}
	k, err := flatcarKernels(c.Dir)
	if err != nil {
		return nil, err
	}
	return k.create(s)
}

// OpenKernel implements Control.
func (c GPTPrio) OpenKernel(s Slot) (File, error) {
	if c.Dir == nil {
		return nil, fmt.Errorf("open kernel of slot %s: %w", s, fs.ErrNotExist)
	}
	k, err := flatcarKernels(c.Dir)
	if err != nil {
		return nil, err
	}
	return k.open(s)
}

// PlaceKernel implements Control: vmlinuz-a or vmlinuz-b, which grub.cfg maps to
// the partition it boots.
func (c GPTPrio) PlaceKernel(s Slot) (string, error) {
	if c.Dir == nil {
		return "", nil
	}
	k, err := flatcarKernels(c.Dir)
	if err != nil {
		return "", err
	}
	return k.place(s)
}

// Boot does what gptprio.next does: it spends a try of the slot it picks and
// writes both copies, repaired; with no try to spend it writes nothing.
func (c GPTPrio) Boot() (Slot, error) {
	g, slots, err := c.read()
	if err != nil {
		return 0, err
	}
	old := Table{slots[A].Flags(), slots[B].Flags()}
	s, t, ok := old.Boot()
	if !ok {
		return 0, ErrNoSlot
	}
	if t == old {
		return s, nil
	}
	return s, g.SetFlags(c.Disk, map[int]Flags{slots[s].Number: t[s]})
}

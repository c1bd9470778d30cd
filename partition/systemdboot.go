package partition

import (
	"errors"
	"fmt"
	"io/fs"
)

// SystemdBoot is systemd-boot's boot counting. Each slot has a unified kernel
// image (UKI) that mounts that slot, and the UKI's name is its flags
// (systemd src/boot/boot.c, boot_entry_parse_tries):
//
//	EFI/Linux/drydock-b.efi      slot B, good
//	EFI/Linux/drydock-b+2-1.efi  slot B on trial, two tries left, one spent
//	EFI/drydock/b.efi            slot B, not bootable: no loader looks there
//
// systemd-boot sorts by what the UKIs say of themselves, the newest release
// first, those without tries last: what is put into EFI/Linux is booted next,
// wanted or not, and an older release never is. So the choice is made in
// loader/loader.conf, by two lines that select a slot in every version of
// systemd-boot, and never one whose tries are spent:
//
//	default drydock-b+[1-9]*     slot B while it counts and has tries left
//	preferred drydock-b.efi      the same, for systemd-boot 260 and later
//
//	default drydock-b.efi        slot B that is good and does not count
//	preferred drydock-b.efi
//
// "default" ignores the counters. Up to version 257 it is matched with the file's
// name: the first pattern stops matching at "+0". Since then it is matched with
// the name without its counter (systemd#38897), and would boot a slot for ever
// whose tries are spent; the first pattern never matches there, and the second is
// written only while the name has no counter. "preferred" respects the counters
// (systemd#40324). Versions 258 and 259 know neither way to select a slot on
// trial: there the newest release is tried and nothing else, and SetTable refuses
// what would not be booted. So a rollback or a downgrade is as safe as an update.
// The lines are changed in place, in one sector: no power cut leaves half of it.
// systemd-boot measures loader.conf into PCR 5: do not seal secrets to it.
//
// The name of a UKI cannot be changed in place, and FAT has no journal. A power
// cut inside a rename leaves the old name, the new one, both or none. The order
// of writes in SetTable makes each of them boot one of the slots that the flags
// before or after name: a UKI is put in or taken out only while the other slot
// is selected. Where both names are left they share their clusters until
// fsck.vfat has run, as it does before the partition is mounted.
//
// Flags that names cannot tell: priorities are 2 and 1, or 1 for a slot alone,
// and a good slot has no tries.
type SystemdBoot struct {
	// Dir is the EFI system partition: loader.conf is read from nowhere else.
	Dir BootDir
	// Variables are the firmware's variables; nil: /sys/firmware/efi/efivars.
	Variables fs.FS
}

var (
	_ Control  = SystemdBoot{}
	_ Firmware = SystemdBoot{}
)

const ukiDir = "EFI/Linux"

// The versions of systemd-boot in which selecting changed.
const (
	stripsCounters = 258
	knowsPreferred = 260
)

func pendingUKI(s Slot) string { return "EFI/drydock/" + s.letter() + ".efi" }

// Table reads the names in EFI/Linux and the selection in loader.conf.
func (c SystemdBoot) Table() (Table, error) {
	st, err := c.read()
	return st.table(), err
}

// SetTable renames UKIs and changes the selection, in the order that the type's
// comment gives the reasons of.
func (c SystemdBoot) SetTable(t Table) error {
	st, err := c.read()
	if err != nil {
		return err
	}
	if err := c.allowed(st, t); err != nil {
		return fmt.Errorf("set flags: %w", err)
	}
	for _, s := range []Slot{A, B} {
		if e, _ := st.entry(s); e != nil || t[s].Priority == 0 {
			continue
		}
		if err := c.Dir.Rename(pendingUKI(s), ukiDir+"/"+ukiName(s, t[s])); err != nil {
			return fmt.Errorf("stage slot %s: %w", s, err)
		}
	}
	s, ok := t.first()
	e, _ := st.entry(s)
	if ok {
		// The slot may yet have another name: as good it is selected only once it has
		// no counter, and below.
		good := t[s].Successful && (e == nil || e.left < 0)
		if err := choose(c.Dir, selection{s, good}); err != nil {
			return fmt.Errorf("select slot %s: %w", s, err)
		}
	}
	for _, s := range []Slot{A, B} {
		if err := c.rename(st, s, t[s]); err != nil {
			return fmt.Errorf("rename entry of slot %s: %w", s, err)
		}
	}
	if ok {
		if err := choose(c.Dir, selection{s, t[s].Successful}); err != nil {
			return fmt.Errorf("select slot %s: %w", s, err)
		}
	}
	return c.Dir.Sync()
}

// allowed says whether the loader would follow the flags at all.
func (c SystemdBoot) allowed(st bootState, t Table) error {
	old := st.table()
	raises := false
	for s, f := range t {
		if f.Priority > MaxPriority || f.Tries > MaxTries {
			return fmt.Errorf("priority %d, tries %d: at most %d", f.Priority, f.Tries, MaxTries)
		}
		if e, _ := st.entry(Slot(s)); f.Priority > 0 && e == nil && !st.pending[s] {
			return fmt.Errorf("slot %s has no kernel: %w", Slot(s), fs.ErrNotExist)
		}
		raises = raises || f.Bootable() && (!old[s].Bootable() || f.Priority > old[s].Priority)
	}
	if !raises {
		return nil // to make a slot unbootable, or good, is always right
	}
	if err := pinned(c.Dir, c.Variables); err != nil {
		return err
	}
	if err := c.alone(st); err != nil {
		return err
	}
	return c.selectable(st, t)
}

// selectable refuses a slot on trial that this version of systemd-boot cannot be
// told to boot: an older release.
func (c SystemdBoot) selectable(st bootState, t Table) error {
	s, ok := t.first()
	if !ok || t[s].Successful || SelectsTrials(st.version) {
		return nil
	}
	after := bootState{version: st.version}
	for slot, f := range t {
		if f.Priority == 0 {
			continue
		}
		name := pendingUKI(Slot(slot))
		if e, _ := st.entry(Slot(slot)); e != nil {
			name = ukiDir + "/" + e.name
		}
		e, _, err := readEntry(c.Dir, name, ukiName(Slot(slot), f))
		if err != nil {
			return err
		}
		after.entries = append(after.entries, e)
	}
	sortEntries(after.entries)
	if e, _ := after.pick(); e.slot != s {
		return fmt.Errorf("systemd-boot %d boots the newer release in slot %s whatever it is told: update it to %d or later with bootctl update", st.version, e.slot, knowsPreferred)
	}
	return nil
}

// alone refuses entries beside ours: with the tries of the selected slot spent,
// systemd-boot would take the first entry by its own order, which may be one of
// them.
func (c SystemdBoot) alone(st bootState) error {
	for _, e := range st.entries {
		if !e.ours {
			return fmt.Errorf("%s/%s is an entry of no slot and could be booted instead: move it away", ukiDir, e.name)
		}
	}
	names, err := c.Dir.ReadDir("loader/entries")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read boot entries: %w", err)
	}
	for _, name := range names {
		if isEntryFile(name, ".conf") {
			return fmt.Errorf("loader/entries/%s is an entry of no slot and could be booted instead: move it away", name)
		}
	}
	return nil
}

// rename gives the UKI of a slot the name that its flags need, or takes it out
// of EFI/Linux, and removes what power cuts left of other names.
func (c SystemdBoot) rename(st bootState, s Slot, f Flags) error {
	var stale []string
	e, others := st.entry(s)
	for _, name := range append(others, st.leftoverOf(s)...) {
		stale = append(stale, ukiDir+"/"+name)
	}
	if e != nil && st.pending[s] {
		stale = append(stale, pendingUKI(s))
	}
	staged := ukiDir + "/" + ukiName(s, f) // that the first step may just have made
	for _, name := range stale {
		if e == nil && name == staged {
			continue
		}
		if err := c.Dir.Remove(name); err != nil {
			return err
		}
	}
	if e == nil {
		return nil
	}
	if f.Priority == 0 {
		return c.Dir.Rename(ukiDir+"/"+e.name, pendingUKI(s))
	}
	if f.names() == e.flags().names() {
		return nil
	}
	return c.Dir.Rename(ukiDir+"/"+e.name, staged)
}

// CreateKernel makes a UKI under its pending name.
func (c SystemdBoot) CreateKernel(s Slot) (File, error) {
	st, err := c.read()
	if err != nil {
		return nil, err
	}
	if st.table()[s].Bootable() {
		return nil, fmt.Errorf("create kernel of slot %s: %w", s, ErrBootable)
	}
	if e, others := st.entry(s); e != nil {
		for _, name := range append(others, e.name) {
			if err := c.Dir.Remove(ukiDir + "/" + name); err != nil {
				return nil, err
			}
		}
	}
	if err := c.Dir.Remove(pendingUKI(s)); err != nil {
		return nil, err
	}
	return c.Dir.Create(pendingUKI(s))
}

// OpenKernel implements Control.
func (c SystemdBoot) OpenKernel(s Slot) (File, error) {
	st, err := c.read()
	if err != nil {
		return nil, err
	}
	if e, _ := st.entry(s); e != nil {
		return c.Dir.Open(ukiDir + "/" + e.name)
	}
	return c.Dir.Open(pendingUKI(s))
}

// PlaceKernel moves nothing: in EFI/Linux the UKI would be booted next. SetTable
// moves it.
func (c SystemdBoot) PlaceKernel(s Slot) (string, error) {
	st, err := c.read()
	if err != nil {
		return "", err
	}
	e, _ := st.entry(s)
	switch {
	case e != nil:
		return c.Dir.Path(ukiDir + "/" + e.name), nil
	case st.pending[s]:
		return c.Dir.Path(pendingUKI(s)), nil
	}
	return "", nil
}

// Boot does what systemd-boot does: it picks an entry, and renames one that
// counts before it starts it (boot_entry_bump_counters). An entry with no tries
// left is started too when there is no other.
func (c SystemdBoot) Boot() (Slot, error) {
	st, err := c.read()
	if err != nil {
		return 0, err
	}
	e, ok := st.pick()
	if !ok {
		return 0, ErrNoSlot
	}
	if e.left >= 0 {
		if err := c.Dir.Rename(ukiDir+"/"+e.name, ukiDir+"/"+e.bumped()); err != nil {
			return 0, err
		}
	}
	if !e.ours {
		return 0, fmt.Errorf("boot: %s/%s is of no slot", ukiDir, e.name)
	}
	return e.slot, nil
}

package partition

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"unicode/utf16"
)

// copies writes both copies of the table so that one is intact at every moment:
// first the one that does not count, synced, then the other. The backup does not
// count while the primary is intact, so a power cut leaves the old table until
// the primary is whole again, and the new one from then on; a torn primary has a
// wrong CRC, and the new backup counts. With the primary damaged the backup
// counts, so the primary goes first.
func (g *GPT) copies(dev Device) error {
	order := []header{g.backup, g.primary}
	if g.Primary != nil {
		slices.Reverse(order)
	}
	for _, h := range order {
		h.crc = crc32.ChecksumIEEE(g.table)
		if _, err := dev.WriteAt(g.table, int64(h.entries)*g.SectorSize); err != nil {
			return fmt.Errorf("write partition entries: %w", err)
		}
		if _, err := dev.WriteAt(h.encode(g.SectorSize), int64(h.lba)*g.SectorSize); err != nil {
			return fmt.Errorf("write partition header: %w", err)
		}
		if err := dev.Sync(); err != nil {
			return fmt.Errorf("sync partition table: %w", err)
		}
	}
	g.Primary, g.Backup = nil, nil
	return nil
}

// encode makes the header's sector.
func (h header) encode(sector int64) []byte {
	le := binary.LittleEndian
	buf := make([]byte, sector)
	copy(buf, "EFI PART\x00\x00\x01\x00")
	le.PutUint32(buf[12:], minHeaderSize)
	le.PutUint64(buf[24:], h.lba)
	le.PutUint64(buf[32:], h.alternate)
	le.PutUint64(buf[40:], h.first)
	le.PutUint64(buf[48:], h.last)
	copy(buf[56:], h.disk[:])
	le.PutUint64(buf[72:], h.entries)
	le.PutUint32(buf[80:], h.count)
	le.PutUint32(buf[84:], h.size)
	le.PutUint32(buf[88:], h.crc)
	le.PutUint32(buf[16:], crc32.ChecksumIEEE(buf[:minHeaderSize]))
	return buf
}

// Repair rewrites both copies from the one that counts, where one is damaged or
// stale, and is durable when it returns. The good copy is written last.
func (g *GPT) Repair(dev Device) error {
	if g.Primary == nil && g.Backup == nil {
		return nil
	}
	return g.copies(dev)
}

// SetFlags writes the boot flags of partitions, by their numbers, into both
// copies, and is durable when it returns. A damaged copy is repaired with it.
func (g *GPT) SetFlags(dev Device, flags map[int]Flags) error {
	table := slices.Clone(g.table)
	changed := g.Primary != nil || g.Backup != nil
	for i, e := range g.Entries {
		f, ok := flags[e.Number]
		if !ok {
			continue
		}
		if f.Priority > MaxPriority || f.Tries > MaxTries {
			return fmt.Errorf("set flags of partition %d: priority %d, tries %d: at most %d", e.Number, f.Priority, f.Tries, MaxTries)
		}
		attributes := f.attributes(e.Attributes)
		changed = changed || attributes != e.Attributes
		g.Entries[i].Attributes = attributes
		binary.LittleEndian.PutUint64(table[(e.Number-1)*int(g.primary.size)+48:], attributes)
	}
	if !changed {
		// Whoever wrote this may have died before it was synced.
		if err := dev.Sync(); err != nil {
			return fmt.Errorf("sync partition table: %w", err)
		}
		return nil
	}
	g.table = table
	return g.copies(dev)
}

// Format writes a new table of 128 entries and a protective MBR to a disk of
// 512-byte sectors, or of the sectors that the device's method SectorSize tells.
// An entry's Number and Unique may be zero: it then gets the next one, a random
// one. All partitions must lie between FirstUsable and what the backup needs.
// Nothing that the disk held before can be found afterwards.
func Format(dev Device, entries []Entry) error {
	sector := int64(512)
	if d, ok := dev.(interface{ SectorSize() int64 }); ok {
		sector = d.SectorSize()
	}
	const count = 128
	sectors := uint64(dev.Size() / sector)
	g := &GPT{SectorSize: sector, Disk: randomGUID(), table: make([]byte, count*entrySize)}
	h := header{lba: 1, alternate: sectors - 1, entries: 2, disk: g.Disk, count: count, size: entrySize, headerSize: minHeaderSize}
	n := h.tableSectors(sector)
	if sectors < 2*n+4 {
		return fmt.Errorf("format: disk of %d bytes is too small", dev.Size())
	}
	h.first, h.last = FirstUsable(sector), sectors-n-2
	g.primary, g.backup = h, h.counterpart(sector)
	number := 0
	for _, e := range entries {
		number = max(number+1, e.Number)
		e.Number = number
		if e.Unique == (GUID{}) {
			e.Unique = randomGUID()
		}
		if err := g.place(e); err != nil {
			return fmt.Errorf("format: partition %d %q: %w", e.Number, e.Label, err)
		}
	}
	if _, err := dev.WriteAt(protectiveMBR(sector, sectors), 0); err != nil {
		return fmt.Errorf("format: write protective MBR: %w", err)
	}
	return g.copies(dev)
}

// FirstUsable is the first sector that a partition of a formatted disk may take.
func FirstUsable(sectorSize int64) uint64 {
	return uint64(2 + 128*entrySize/sectorSize)
}

// place encodes an entry of a table that is being made.
func (g *GPT) place(e Entry) error {
	units := utf16.Encode([]rune(e.Label))
	switch {
	case e.Number < 1 || e.Number > int(g.primary.count):
		return errors.New("no such number")
	case e.Type == (GUID{}):
		return errors.New("no type")
	case len(units) > maxNameUnits:
		return errors.New("label is too long")
	case e.First < g.primary.first || e.Last > g.primary.last || e.First > e.Last:
		return fmt.Errorf("sectors %d to %d, usable are %d to %d", e.First, e.Last, g.primary.first, g.primary.last)
	}
	for _, o := range g.Entries {
		if o.Number == e.Number || o.overlaps(e) {
			return fmt.Errorf("collides with partition %d", o.Number)
		}
	}
	raw := g.table[(e.Number-1)*entrySize:][:entrySize]
	le := binary.LittleEndian
	copy(raw, e.Type[:])
	copy(raw[16:], e.Unique[:])
	le.PutUint64(raw[32:], e.First)
	le.PutUint64(raw[40:], e.Last)
	le.PutUint64(raw[48:], e.Attributes)
	for i, u := range units {
		le.PutUint16(raw[56+2*i:], u)
	}
	g.Entries = append(g.Entries, e)
	return nil
}

func (e Entry) overlaps(o Entry) bool { return e.First <= o.Last && o.First <= e.Last }

// protectiveMBR covers the whole disk with one partition of type 0xEE, so that
// old tools do not take it for empty (UEFI 2.10, 5.2.3).
func protectiveMBR(sector int64, sectors uint64) []byte {
	buf := make([]byte, sector)
	part := buf[446:]
	copy(part, []byte{0, 0, 2, 0, 0xEE, 0xFF, 0xFF, 0xFF})
	binary.LittleEndian.PutUint32(part[8:], 1)
	binary.LittleEndian.PutUint32(part[12:], uint32(min(sectors-1, 0xFFFFFFFF)))
	buf[510], buf[511] = 0x55, 0xAA
	return buf
}

// Flatcar lays out the partitions that a disk like Flatcar's has for an A/B
// update, with sizes in bytes that are rounded up to mebibytes: EFI-SYSTEM,
// USR-A, USR-B and ROOT, numbered 1, 3, 4 and 9. Slot A is good and comes first;
// slot B is empty (disk_layout.json; flags: spec of the life cycle, "factory").
func Flatcar(esp, slot, root, sectorSize int64) []Entry {
	const mib = 1 << 20
	entries := []Entry{
		{Number: 1, Type: TypeESP, Label: "EFI-SYSTEM"},
		{Number: 3, Type: TypeUSR, Unique: UniqueUSRA, Label: "USR-A", Attributes: Flags{Priority: 1, Successful: true}.attributes(0)},
		{Number: 4, Type: TypeUSR, Unique: UniqueUSRB, Label: "USR-B"},
		{Number: 9, Type: TypeRoot, Label: "ROOT"},
	}
	at := int64(mib)
	for i, size := range []int64{esp, slot, slot, root} {
		size = max((size+mib-1)/mib, 1) * mib
		entries[i].First = uint64(at / sectorSize)
		entries[i].Last = uint64((at+size)/sectorSize) - 1
		at += size
	}
	return entries
}

// FlatcarSize is the size in bytes of a disk that holds the partitions of
// Flatcar and both copies of the table.
func FlatcarSize(entries []Entry, sectorSize int64) int64 {
	const mib = 1 << 20
	return int64(entries[len(entries)-1].Last+1)*sectorSize + mib
}

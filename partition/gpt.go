package partition

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"unicode/utf16"
)

// Sentinels of partition tables.
var (
	// ErrNoGPT says that neither copy of the table is intact.
	ErrNoGPT = errors.New("no intact partition table")
	// ErrStale marks a copy that is intact but says something else than the
	// primary, as a power cut between the two leaves it.
	ErrStale = errors.New("differs from the primary copy")
)

// Limits on a table (UEFI 2.10, 5.3): what a header may claim is bounded before
// it is believed.
const (
	minHeaderSize  = 92
	entrySize      = 128     // the least that the standard allows
	maxEntrySize   = 4096    // a power of two times 128; nothing in use is larger
	maxEntries     = 1024    // tools make 128
	maxTableSize   = 1 << 20 // so that no header makes us read much
	maxNameUnits   = 36      // UTF-16 units of a label
	usedAttributes = 0x01ff << 48
)

// An Entry is one partition of a table.
type Entry struct {
	Number      int    // from 1, as in sda3
	Type        GUID   // what it is for
	Unique      GUID   // which it is: PARTUUID
	First, Last uint64 // sectors, both inclusive
	Attributes  uint64 // bits 48-63 belong to the type
	Label       string // PARTLABEL
}

// Size is the partition's size in bytes.
func (e Entry) Size(sectorSize int64) int64 { return int64(e.Last-e.First+1) * sectorSize }

// Flags are the entry's boot attributes: priority in bits 48-51, tries in 52-55,
// successful in bit 56 (flatcar/seismograph cgptlib_internal.h).
func (e Entry) Flags() Flags {
	return Flags{
		Priority:   uint8(e.Attributes >> 48 & 15),
		Tries:      uint8(e.Attributes >> 52 & 15),
		Successful: e.Attributes>>56&1 == 1,
	}
}

// attributes returns old with the boot flags f, all other bits kept.
func (f Flags) attributes(old uint64) uint64 {
	bits := uint64(f.Priority)<<48 | uint64(f.Tries)<<52
	if f.Successful {
		bits |= 1 << 56
	}
	return old&^usedAttributes | bits
}

// A GPT is a partition table as read from a disk. The primary copy counts while
// it is intact, as firmware and loaders have it.
type GPT struct {
	SectorSize int64   // bytes
	Disk       GUID    // the disk's identity
	Entries    []Entry // those in use, by number
	Primary    error   // nil, or what is wrong with the copy at the disk's start
	Backup     error   // nil, or what is wrong with the copy at its end; ErrStale

	primary, backup header
	table           []byte
}

// header is one copy's header, as read or as to be written.
type header struct {
	lba, alternate, first, last, entries uint64
	disk                                 GUID
	count, size                          uint32
	headerSize                           uint32
	crc                                  uint32 // of the table
}

// ReadGPT reads both copies of a disk's table, with sectors of 512 or of 4096
// bytes. With one copy damaged it succeeds and says which; ErrNoGPT says that
// both are.
func ReadGPT(dev Device) (*GPT, error) {
	var damage []error
	for _, sector := range []int64{512, 4096} {
		g, err := readGPT(dev, sector)
		if err == nil {
			return g, nil
		}
		damage = append(damage, fmt.Errorf("sectors of %d bytes: %w", sector, err))
	}
	return nil, fmt.Errorf("%w: %w", ErrNoGPT, errors.Join(damage...))
}

func readGPT(dev Device, sector int64) (*GPT, error) {
	g := &GPT{SectorSize: sector}
	sectors := uint64(dev.Size() / sector)
	if sectors < 6 {
		return nil, fmt.Errorf("disk of %d bytes is too small", dev.Size())
	}
	var primary, backup []byte
	g.primary, primary, g.Primary = readCopy(dev, sector, 1)
	end := sectors - 1
	if g.Primary == nil && g.primary.alternate > 1 && g.primary.alternate < end {
		end = g.primary.alternate // the disk has grown since
	}
	g.backup, backup, g.Backup = readCopy(dev, sector, end)
	switch {
	case g.Primary != nil && g.Backup != nil:
		return nil, fmt.Errorf("primary: %w; backup: %w", g.Primary, g.Backup)
	case g.Primary != nil:
		g.table = backup
		g.primary = g.backup.counterpart(sector)
	default:
		g.table = primary
		found := g.backup
		g.backup = g.primary.counterpart(sector)
		if g.Backup == nil && (string(backup) != string(primary) || !found.agrees(g.backup)) {
			g.Backup = ErrStale
		}
	}
	g.Disk = g.primary.disk
	if err := g.decode(sectors); err != nil {
		return nil, err
	}
	return g, nil
}

// counterpart is the header of the other copy, which lies at the alternate
// place, its table right behind the primary header or right before the backup.
func (h header) counterpart(sector int64) header {
	o := h
	o.lba, o.alternate = h.alternate, h.lba
	if o.lba == 1 {
		o.entries = 2
		return o
	}
	o.entries = o.lba - h.tableSectors(sector)
	return o
}

// agrees says whether two headers are of the same disk and usable sectors; the
// place of the backup's entries is a tool's own choice.
func (h header) agrees(o header) bool {
	return h.disk == o.disk && h.first == o.first && h.last == o.last && h.count == o.count && h.size == o.size
}

func (h header) tableSectors(sector int64) uint64 {
	return uint64((int64(h.count)*int64(h.size) + sector - 1) / sector)
}

// readCopy reads and checks the header at a sector and the table that it names.
func readCopy(dev Device, sector int64, lba uint64) (header, []byte, error) {
	buf := make([]byte, sector)
	if _, err := dev.ReadAt(buf, int64(lba)*sector); err != nil {
		return header{}, nil, fmt.Errorf("read header: %w", err)
	}
	h, err := parseHeader(buf, lba)
	if err != nil {
		return header{}, nil, err
	}
	sectors := uint64(dev.Size() / sector)
	if err := h.check(sector, sectors); err != nil {
		return header{}, nil, err
	}
	table := make([]byte, int64(h.count)*int64(h.size))
	if _, err := dev.ReadAt(table, int64(h.entries)*sector); err != nil {
		return header{}, nil, fmt.Errorf("read entries: %w", err)
	}
	if sum := crc32.ChecksumIEEE(table); sum != h.crc {
		return header{}, nil, fmt.Errorf("entries have CRC %08x, header says %08x", sum, h.crc)
	}
	return h, table, nil
}

// parseHeader reads a header (UEFI 2.10, table 5.5) that was found at a sector.
func parseHeader(buf []byte, lba uint64) (header, error) {
	le := binary.LittleEndian
	if string(buf[:8]) != "EFI PART" {
		return header{}, errors.New("no EFI PART signature")
	}
	h := header{
		headerSize: le.Uint32(buf[12:]),
		lba:        le.Uint64(buf[24:]),
		alternate:  le.Uint64(buf[32:]),
		first:      le.Uint64(buf[40:]),
		last:       le.Uint64(buf[48:]),
		entries:    le.Uint64(buf[72:]),
		count:      le.Uint32(buf[80:]),
		size:       le.Uint32(buf[84:]),
		crc:        le.Uint32(buf[88:]),
	}
	copy(h.disk[:], buf[56:72])
	if h.headerSize < minHeaderSize || int64(h.headerSize) > int64(len(buf)) {
		return header{}, fmt.Errorf("header of %d bytes", h.headerSize)
	}
	sum := crc32.NewIEEE()
	sum.Write(buf[:16])
	sum.Write(make([]byte, 4)) // the field itself counts as zero
	sum.Write(buf[20:h.headerSize])
	if want := le.Uint32(buf[16:]); sum.Sum32() != want {
		return header{}, fmt.Errorf("header has CRC %08x, says %08x", sum.Sum32(), want)
	}
	if h.lba != lba {
		return header{}, fmt.Errorf("header is in sector %d, says %d", lba, h.lba)
	}
	return h, nil
}

// check says whether a header's own numbers can be true of the disk.
func (h header) check(sector int64, sectors uint64) error {
	switch {
	case h.size < entrySize || h.size > maxEntrySize || h.size&(h.size-1) != 0:
		return fmt.Errorf("entries of %d bytes", h.size)
	case h.count == 0 || h.count > maxEntries || int64(h.count)*int64(h.size) > maxTableSize:
		return fmt.Errorf("%d entries", h.count)
	case h.first > h.last || h.last >= sectors:
		return fmt.Errorf("usable sectors %d to %d of %d", h.first, h.last, sectors)
	case h.alternate >= sectors || h.alternate == h.lba || h.alternate == 0 || min(h.lba, h.alternate) != 1:
		return fmt.Errorf("other copy in sector %d of %d", h.alternate, sectors)
	}
	n := h.tableSectors(sector)
	low := h.entries >= 2 && h.entries <= h.first && h.first-h.entries >= n
	high := h.entries > h.last && h.entries < sectors && sectors-h.entries > n && h.entries+n <= max(h.lba, h.alternate)
	if (h.lba == 1 && !low) || (h.lba != 1 && !high) {
		return fmt.Errorf("entries in sector %d, usable %d to %d", h.entries, h.first, h.last)
	}
	other := h.counterpart(sector)
	if other.lba != 1 && (other.entries <= h.last || n > other.lba) || other.lba == 1 && other.entries+n > h.first {
		return errors.New("no room for the other copy of the entries")
	}
	return nil
}

// decode fills Entries from the table.
func (g *GPT) decode(sectors uint64) error {
	le := binary.LittleEndian
	size := int(g.primary.size)
	for i := 0; i < int(g.primary.count); i++ {
		raw := g.table[i*size : (i+1)*size]
		e := Entry{Number: i + 1, First: le.Uint64(raw[32:]), Last: le.Uint64(raw[40:]), Attributes: le.Uint64(raw[48:])}
		copy(e.Type[:], raw)
		copy(e.Unique[:], raw[16:])
		if e.Type == (GUID{}) {
			continue
		}
		if e.First > e.Last || e.First < g.primary.first || e.Last > g.primary.last {
			return fmt.Errorf("partition %d has sectors %d to %d, usable are %d to %d", e.Number, e.First, e.Last, g.primary.first, g.primary.last)
		}
		e.Label = decodeLabel(raw[56 : 56+2*maxNameUnits])
		g.Entries = append(g.Entries, e)
	}
	return nil
}

func decodeLabel(raw []byte) string {
	var units []uint16
	for ; len(raw) > 1; raw = raw[2:] {
		u := binary.LittleEndian.Uint16(raw)
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return string(utf16.Decode(units))
}

// Package writelog reads what QEMU's block filter blklogwrites recorded of the
// writes to a disk, and shows the disk as a power failure at any moment could
// have left it: with any part lost of what its cache held.
//
// # The log
//
// The format is the one of the kernel's dm-log-writes target, as in
// drivers/md/dm-log-writes.c and QEMU's block/blklogwrites.c, all little-endian:
//
//	sector 0            superblock: magic u64, version u64 = 1, entries u64, sector size u32
//	then, entry by entry:
//	one sector          sector u64, sectors u64, flags u64, length of private data u64, zeros
//	as many sectors     the data written; none with the flag Discard
//
// Sectors are the log's own, of 512 bytes unless log-sector-size says
// otherwise. QEMU logs an operation when it has completed, before the guest
// hears of it, so one that is missing was not acknowledged.
//
// QEMU writes the superblock at flushes and every log-super-update-interval
// entries (4096), so after a kill its count is stale. [Open] goes by the
// entries: it reads on past the count for as long as what follows is an entry,
// and ends at the first that is not whole. What it has then is the beginning of
// the history, which is a history too. Past the count nothing tells an old log
// from the new one, so each QEMU needs a log file of its own, empty at first.
//
// # Recording
//
// The log may lie over an overlay, so that the image below stays the base:
//
//	-blockdev driver=qcow2,node-name=overlay,file.driver=file,file.filename=OVERLAY,discard=unmap
//	-blockdev driver=file,node-name=log,filename=LOG,cache.no-flush=on
//	-blockdev driver=blklogwrites,node-name=disk,file=overlay,log=log,discard=unmap
//	-device virtio-blk-pci,drive=disk,write-cache=on,write-zeroes=off
//
// The device must have a write cache and no FUA, as this one: the flush that
// QEMU makes of FUA it does not log if nothing else was written since the last
// flush, and what the guest knows to be durable would count as lost.
// QEMU before 2024 logs zeros in the wrong place if another write runs beside,
// so the guest is not offered to write any. A flush with nothing to flush is
// not logged. The log has the data of every write, and needs as much space.
//
// # What a drive may lose
//
// A write is durable once it has the flag FUA, or once a flush has completed
// that is behind it in the log. All else is in the drive's cache, which destages
// in any order: of those writes any set of 512-byte sectors is left, and of
// several to one sector any one, or none. Applying a subset in the log's order
// reaches each of these states, so order needs no dimension of its own.
//
// The log knows completion, not submission: a write that completes while a
// flush runs counts as flushed, although a drive need not have flushed it. Who
// relies on a flush waits for the write before it, so no correct guest can tell.
// So it is with two writes that run at once to one sector: the log has them in
// one order, the file may have them in the other.
package writelog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sort"
)

const (
	magic      = 0x6a736677736872
	version    = 1
	superSize  = 28 // bytes of the superblock that carry something
	headerSize = 32 // bytes of an entry's first sector that carry something

	// Sector is the unit that a write tears at, in bytes: no drive has a smaller
	// one.
	Sector = 512
	// maxSector is QEMU's limit for the log's sector size.
	maxSector = 8 << 20
	// maxEntries bounds the memory for a log at some 400 MB; a machine that
	// updates itself makes some ten thousand.
	maxEntries = 1 << 22
	// maxDisk bounds an entry's end, in bytes, so that none overflows.
	maxDisk = 1 << 50
)

// Flags say what an entry is beside a write.
type Flags uint64

// The flags as dm-log-writes.c has them.
const (
	Flush    Flags = 1 << iota // all entries before are durable; its own data is not
	FUA                        // its data is durable
	Discard                    // the sectors' content is given up
	Mark                       // a remark, no write
	metadata                   // a hint of newer kernels
	known    = Flush | FUA | Discard | Mark | metadata
)

// An Entry is one operation that completed.
type Entry struct {
	Offset, Length int64 // what it wrote of the disk, in bytes
	Flags          Flags
	Start          int64 // where in the log file it begins
	data           int64 // where in the log file its data begins
}

// end is where in the log file the next entry begins.
func (e Entry) end() int64 {
	if e.Flags&Discard != 0 {
		return e.data
	}
	return e.data + e.Length
}

// changes tells whether the entry changes the disk.
func (e Entry) changes() bool { return e.Length > 0 && e.Flags&Mark == 0 }

// An Epoch is a run of entries with no flush between them: those in
// [First, End). The flush that ends it is entry End, or the log ended.
type Epoch struct{ First, End int }

// A Log is the record of what was written to a disk, in the order of
// completion. It may be used by several goroutines.
type Log struct {
	// Claimed is how many entries the superblock counts. A log that was ended in
	// order has as many. One that was killed may have more, or fewer where the
	// last ones were only begun.
	Claimed uint64
	// Ended says why the last entry is the last.
	Ended string

	file    io.ReaderAt
	closer  io.Closer
	sector  int64
	entries []Entry
	flushes []int // the entries that flush
	epochs  []Epoch
	index   index
}

// Open reads the headers of a log; the data stays in the file, which must not
// change from now on. What was only begun when QEMU ended is left out. It is an
// error if an entry that the superblock counts holds something else than an
// entry or the zeros of a place never written: the log is damaged.
func Open(path string) (*Log, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil {
		var l *Log
		if l, err = read(f, size); err == nil {
			l.closer = f
			return l, nil
		}
	}
	f.Close()
	return nil, fmt.Errorf("open log %s: %w", path, err)
}

// Close closes the file. Views cannot be read afterwards.
func (l *Log) Close() error { return l.closer.Close() }

// Entries returns all entries, in the order of their completion. They are the
// log's own.
func (l *Log) Entries() []Entry { return l.entries }

// Extent is where the last byte that the log changes ends, in bytes: the disk
// has at least that size.
func (l *Log) Extent() int64 { return l.index.end() }

// Epochs returns the runs of entries between flushes, without empty ones.
// They are the log's own.
func (l *Log) Epochs() []Epoch { return l.epochs }

// Unflushed returns the entries that the drive may have lost, or any sector of
// them, if the power fails when the first n entries have completed.
func (l *Log) Unflushed(n int) []int {
	var cached []int
	for i := l.flushed(n); i < n; i++ {
		if e := l.entries[i]; e.changes() && e.Flags&FUA == 0 {
			cached = append(cached, i)
		}
	}
	return cached
}

// Logged returns how many entries were logged when the log file had a size, in
// bytes: what a test that looks at the size at an event knows to have completed
// before it, within the few that were being written.
func (l *Log) Logged(size int64) int {
	return sort.Search(len(l.entries), func(i int) bool { return l.entries[i].end() > size })
}

// flushed returns the entry such that all before it were flushed when the first
// n entries had completed.
func (l *Log) flushed(n int) int {
	if i, _ := slices.BinarySearch(l.flushes, n); i > 0 {
		return l.flushes[i-1]
	}
	return 0
}

// read reads a log out of a file of some size, in bytes.
func read(file io.ReaderAt, size int64) (*Log, error) {
	l := &Log{file: file, sector: Sector}
	if err := l.readSuper(size); err != nil {
		return nil, err
	}
	if err := l.readEntries(size); err != nil {
		return nil, err
	}
	l.divide()
	l.index = newIndex(l.entries)
	return l, nil
}

// divide finds the flushes, and the epochs between them.
func (l *Log) divide() {
	first := 0
	for i, e := range l.entries {
		if e.Flags&Flush == 0 {
			continue
		}
		l.flushes = append(l.flushes, i)
		if first < i {
			l.epochs = append(l.epochs, Epoch{first, i})
		}
		if first = i; e.Length == 0 {
			first++
		}
	}
	if first < len(l.entries) {
		l.epochs = append(l.epochs, Epoch{first, len(l.entries)})
	}
}

// readSuper reads the superblock. One of zeros is one that was never written:
// nothing was flushed yet, and QEMU's default is taken for the sector size.
func (l *Log) readSuper(size int64) error {
	b := make([]byte, superSize)
	if n, err := l.file.ReadAt(b[:min(size, superSize)], 0); int64(n) < min(size, superSize) {
		return fmt.Errorf("read superblock: %w", err)
	}
	if zero(b) {
		return nil
	}
	if m := binary.LittleEndian.Uint64(b); m != magic {
		return fmt.Errorf("superblock has magic %#x, no log of writes", m)
	}
	if v := binary.LittleEndian.Uint64(b[8:]); v != version {
		return fmt.Errorf("log has version %d, only %d is known", v, version)
	}
	l.Claimed = binary.LittleEndian.Uint64(b[16:])
	l.sector = int64(binary.LittleEndian.Uint32(b[24:]))
	if l.sector < Sector || l.sector > maxSector || l.sector&(l.sector-1) != 0 {
		return fmt.Errorf("log has sectors of %d bytes: no power of two between %d and %d", l.sector, Sector, maxSector)
	}
	return nil
}

// readEntries reads entries for as long as there are whole ones.
func (l *Log) readEntries(size int64) error {
	b := make([]byte, l.sector)
	for at := l.sector; ; {
		if at > size-l.sector {
			l.Ended = "the file ends"
			return nil
		}
		if _, err := l.file.ReadAt(b, at); err != nil {
			return fmt.Errorf("read entry %d: %w", len(l.entries), err)
		}
		if zero(b) {
			l.Ended = "nothing was written behind it"
			return nil
		}
		e, err := parseEntry(b, at)
		if err != nil && uint64(len(l.entries)) < l.Claimed {
			return fmt.Errorf("entry %d of %d, at byte %d: %w", len(l.entries), l.Claimed, at, err)
		}
		if err != nil {
			l.Ended = fmt.Sprintf("no entry follows: %v", err)
			return nil
		}
		if e.end() > size {
			l.Ended = "the data of the next entry is cut off"
			return nil
		}
		if len(l.entries) == maxEntries {
			return fmt.Errorf("log has more than %d entries", maxEntries)
		}
		l.entries = append(l.entries, e)
		at = e.end()
	}
}

// parseEntry parses the first sector of an entry, which is at a place of the
// log file.
func parseEntry(b []byte, at int64) (Entry, error) {
	unit := uint64(len(b))
	first, count := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
	flags, private := Flags(binary.LittleEndian.Uint64(b[16:])), binary.LittleEndian.Uint64(b[24:])
	if flags&^known != 0 {
		return Entry{}, fmt.Errorf("unknown flags %#x", uint64(flags))
	}
	if limit := maxDisk / unit; first > limit || count > limit-first {
		return Entry{}, fmt.Errorf("%d sectors at %d are past any disk", count, first)
	}
	if flags&Mark != 0 {
		if private > unit-headerSize {
			return Entry{}, fmt.Errorf("remark of %d bytes does not fit a sector", private)
		}
	} else if private > count*unit {
		return Entry{}, fmt.Errorf("%d bytes of private data in %d sectors", private, count)
	} else if !zero(b[headerSize:]) {
		return Entry{}, errors.New("header is followed by something else than zeros")
	}
	return Entry{Offset: int64(first * unit), Length: int64(count * unit), Flags: flags, Start: at, data: at + int64(unit)}, nil
}

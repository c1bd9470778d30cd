package partition

import (
	"fmt"
	"io"
)

// A Section is a run of bytes of a disk: a slot. It never reads or writes past
// its end.
type Section struct {
	dev          Device
	path         string
	offset, size int64
	close        func() error
}

// SlotOf is a slot of any disk, an image in memory say, as a section of it.
func SlotOf(disk Device, l Layout, s Slot) (*Section, error) {
	section, _, err := findSection(disk, l, s)
	return section, err
}

func findSection(disk Device, l Layout, s Slot) (*Section, Entry, error) {
	g, err := ReadGPT(disk)
	if err != nil {
		return nil, Entry{}, err
	}
	slots, err := g.FindSlots(l)
	if err != nil {
		return nil, Entry{}, err
	}
	e := slots[s]
	section := &Section{dev: disk, offset: int64(e.First) * g.SectorSize, size: e.Size(g.SectorSize)}
	return section, e, nil
}

// Path and Offset say where the section's bytes are, for who opens them anew,
// with O_DIRECT say: Size bytes at Offset of the file or device at Path. Path is
// "" for a disk that is no file.
func (s *Section) Path() string { return s.path }

// Offset is in bytes; see Path.
func (s *Section) Offset() int64 { return s.offset }

// Size is in bytes.
func (s *Section) Size() int64 { return s.size }

// ReadAt implements io.ReaderAt.
func (s *Section) ReadAt(p []byte, off int64) (int, error) {
	return io.NewSectionReader(s.dev, s.offset, s.size).ReadAt(p, off)
}

// WriteAt implements io.WriterAt. A write that would pass the section's end
// writes nothing.
func (s *Section) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off > s.size || int64(len(p)) > s.size-off {
		return 0, fmt.Errorf("write %d bytes at %d: slot ends at %d", len(p), off, s.size)
	}
	return s.dev.WriteAt(p, s.offset+off)
}

// Sync implements Device.
func (s *Section) Sync() error { return s.dev.Sync() }

// Close lets go of a partition that Disk.Slot holds.
func (s *Section) Close() error {
	if s.close == nil {
		return nil
	}
	return s.close()
}

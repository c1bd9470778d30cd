package powercut

import (
	"fmt"
	"io"
	"maps"
)

// Storage keeps what it was told in pages, and tears writes at sectors: the
// least that disks write in one piece.
const (
	pageSize   = 4096
	sectorSize = 512
)

// A store is the bytes of a disk or a file: as they are read, as they are on
// stable storage, and the changes that lie between. Pages are never changed, but
// replaced, so stores may share them.
type store struct {
	view, durable     map[int64][]byte
	size, durableSize int64
	pending           []change
}

// A change is a write, or with nil data a truncation to off.
type change struct {
	off  int64
	data []byte
}

func newStore(size int64) *store {
	return &store{view: map[int64][]byte{}, durable: map[int64][]byte{}, size: size, durableSize: size}
}

func (s *store) clone() *store {
	c := *s
	c.view, c.durable = maps.Clone(s.view), maps.Clone(s.durable)
	c.pending = s.pending[:len(s.pending):len(s.pending)]
	return &c
}

func (s *store) read(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d", off)
	}
	n := int(max(min(int64(len(p)), s.size-off), 0))
	for done := 0; done < n; {
		page, at := (off+int64(done))/pageSize, (off+int64(done))%pageSize
		chunk := p[done:n]
		chunk = chunk[:min(len(chunk), int(pageSize-at))]
		if data, ok := s.view[page]; ok {
			copy(chunk, data[at:])
		} else {
			clear(chunk)
		}
		done += len(chunk)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (s *store) write(p []byte, off int64) {
	data := append(make([]byte, 0, len(p)), p...)
	s.pending = append(s.pending, change{off, data})
	put(s.view, data, off)
	s.size = max(s.size, off+int64(len(p)))
}

func (s *store) truncate(size int64) {
	s.pending = append(s.pending, change{off: size})
	cut(s.view, size)
	s.size = size
}

// put writes data into pages.
func put(pages map[int64][]byte, data []byte, off int64) {
	for len(data) > 0 {
		page, at := off/pageSize, off%pageSize
		fresh := make([]byte, pageSize)
		copy(fresh, pages[page])
		n := copy(fresh[at:], data)
		pages[page] = fresh
		data, off = data[n:], off+int64(n)
	}
}

// cut drops what lies behind size.
func cut(pages map[int64][]byte, size int64) {
	for page, data := range pages {
		switch at := size - page*pageSize; {
		case at <= 0:
			delete(pages, page)
		case at < pageSize:
			fresh := make([]byte, pageSize)
			copy(fresh, data[:at])
			pages[page] = fresh
		}
	}
}

func (s *store) sync() {
	for _, c := range s.pending {
		if c.data == nil {
			cut(s.durable, c.off)
			continue
		}
		for page := c.off / pageSize; page*pageSize < c.off+int64(len(c.data)); page++ {
			if data, ok := s.view[page]; ok {
				s.durable[page] = data
			}
		}
	}
	s.durableSize, s.pending = s.size, nil
}

// survive applies an arbitrary part of the pending changes, sector by sector.
func (s *store) survive(d dice) {
	for _, c := range s.pending {
		if c.data == nil {
			if d.keep(2) == 1 {
				cut(s.durable, c.off)
				s.durableSize = c.off
			}
			continue
		}
		for off, data := c.off, c.data; len(data) > 0; {
			n := min(int64(len(data)), sectorSize-off%sectorSize)
			if d.keep(2) == 1 {
				put(s.durable, data[:n], off)
				s.durableSize = max(s.durableSize, off+n)
			}
			off, data = off+n, data[n:]
		}
	}
	s.pending, s.size, s.view = nil, s.durableSize, maps.Clone(s.durable)
}

// A Disk is the whole disk of a Machine, a partition.Device.
type Disk struct {
	m      *Machine
	sector int64
	*store
}

// SectorSize is the disk's sector in bytes.
func (d *Disk) SectorSize() int64 { return d.sector }

// Size is in bytes.
func (d *Disk) Size() int64 { return d.size }

// ReadAt implements io.ReaderAt.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	if err := d.m.powered(); err != nil {
		return 0, err
	}
	return d.read(p, off)
}

// WriteAt implements io.WriterAt.
func (d *Disk) WriteAt(p []byte, off int64) (int, error) {
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	if off < 0 || off+int64(len(p)) > d.size {
		return 0, fmt.Errorf("write %d bytes at %d: disk ends at %d", len(p), off, d.size)
	}
	torn, err := d.m.step()
	if err != nil {
		return 0, err
	}
	d.write(p, off)
	if torn {
		return 0, ErrPower
	}
	return len(p), nil
}

// Sync makes every write before it survive.
func (d *Disk) Sync() error {
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	torn, err := d.m.step()
	if err != nil {
		return err
	}
	if torn {
		return ErrPower
	}
	d.sync()
	return nil
}

package payload

import (
	"fmt"
	"io"
	"os"
)

// align is what O_DIRECT asks of offsets, lengths and memory: the greatest
// logical block size in use.
const align = 4096

// sink writes one image to its device and reads it back. Where it can, it
// does both past the page cache through a descriptor of its own:
//
// A direct write returns when the device has taken the data, and a direct read
// asks the device again, so the bytes that are hashed are those that the
// device holds and never those that the kernel remembers having been told to
// write. That is so before the flush as well as after it, which is why
// reading back may follow close behind writing. What a flush adds is that the
// device's own volatile cache survives a power cut; Sync is called once
// everything is written and its error is a failed write, so success means
// both: the device has the right bytes and has said that they are durable.
// Without direct access the image is read back only after Sync and after the
// page cache has been dropped.
type sink struct {
	dev    Device
	size   int64    // of the image
	room   int64    // up to where padding may be written
	direct *os.File // nil: everything goes through dev
	base   int64    // of dev in direct
}

type pathed interface {
	Path() string
	Offset() int64
}

type truncater interface{ Truncate(size int64) error }

type discarder interface {
	Discard(off, length int64) error
}

// newSink prepares dev for an image of size bytes, which while it is written
// takes up scratch bytes (no less), rounded up to blocks if there is room.
func newSink(dev Device, size, scratch, blockSize int64) (*sink, error) {
	blocks := (scratch + blockSize - 1) / blockSize * blockSize
	s := &sink{dev: dev, size: size, room: blocks}
	if _, file := dev.(truncater); !file {
		if dev.Size() < scratch {
			return nil, fmt.Errorf("%w: %d bytes for an image of %d", ErrTargetTooSmall, dev.Size(), scratch)
		}
		s.room = min(dev.Size(), blocks)
	}
	return s, nil
}

// openDirect lets the sink go past the page cache, if its device can.
func (s *sink) openDirect(blockSize int64) {
	p, ok := s.dev.(pathed)
	if !ok || blockSize%align != 0 || p.Offset()%align != 0 || p.Path() == "" {
		return
	}
	s.direct, s.base = openDirect(p.Path(), p.Offset()), p.Offset()
}

func (s *sink) close() {
	if s.direct != nil {
		s.direct.Close()
	}
}

// overlapped says how many bytes from the start may be read back while others
// are still being written.
func (s *sink) overlapped() int64 {
	if s.direct == nil {
		return 0
	}
	return s.size / align * align
}

// write puts p at offset off of the image. What lies past the image's last
// block, which is padding, is dropped.
func (s *sink) write(p []byte, off int64) error {
	p = p[:max(0, min(int64(len(p)), s.room-off))]
	if s.direct != nil && off%align == 0 {
		n := int64(len(p)) / align * align
		n = max(0, min(n, s.overlapped()-off))
		if n > 0 && aligned(p) {
			if _, err := s.direct.WriteAt(p[:n], s.base+off); err != nil {
				return fmt.Errorf("%w: %w", ErrWrite, err)
			}
			p, off = p[n:], off+n
		}
	}
	if len(p) == 0 {
		return nil
	}
	if n, err := s.dev.WriteAt(p, off); err != nil {
		return fmt.Errorf("%w: %w", ErrWrite, err)
	} else if n < len(p) {
		return fmt.Errorf("%w: %w", ErrWrite, io.ErrShortWrite)
	}
	return nil
}

// zero writes length zeros at off. With discard the device is told first that
// the blocks may be forgotten: what they read as then is up to it, so they
// are written all the same, unless they are zeros already.
func (s *sink) zero(off, length int64, discard bool) error {
	length = max(0, min(length, s.room-off))
	if d, ok := s.dev.(discarder); ok && discard && length > 0 {
		if d.Discard(off, length) == nil && s.allZero(off, length) {
			return nil
		}
	}
	if s.direct != nil && off%align == 0 && length%align == 0 && zeroRange(s.direct, s.base+off, length) {
		return nil
	}
	for length > 0 {
		n := min(length, int64(len(zeros)))
		if err := s.write(zeros[:n], off); err != nil {
			return err
		}
		off, length = off+n, length-n
	}
	return nil
}

func (s *sink) allZero(off, length int64) bool {
	buf := newBuffer(64 << 10)
	for length > 0 {
		p := buf[:min(length, int64(len(buf)))]
		if s.read(p, off) != nil || !isZero(p) {
			return false
		}
		off, length = off+int64(len(p)), length-int64(len(p))
	}
	return true
}

// read fills p from offset off of the image, past the page cache if the sink
// is direct and p is aligned.
func (s *sink) read(p []byte, off int64) error {
	var r io.ReaderAt = s.dev
	at := off
	if s.direct != nil && off%align == 0 && len(p)%align == 0 && aligned(p) {
		r, at = s.direct, s.base+off
	}
	if n, err := r.ReadAt(p, at); n < len(p) {
		return fmt.Errorf("%w: read back at %d: %w", ErrWrite, off, err)
	}
	return nil
}

// sync makes all that was written durable.
func (s *sink) sync() error {
	if err := s.dev.Sync(); err != nil {
		return fmt.Errorf("%w: sync: %w", ErrWrite, err)
	}
	if s.direct != nil {
		if err := s.direct.Sync(); err != nil {
			return fmt.Errorf("%w: sync: %w", ErrWrite, err)
		}
	}
	return nil
}

// finish cuts a file to its image, syncs, and drops what the page cache still
// holds of it.
func (s *sink) finish() error {
	if t, ok := s.dev.(truncater); ok {
		if err := t.Truncate(s.size); err != nil {
			return fmt.Errorf("%w: %w", ErrWrite, err)
		}
	}
	if err := s.sync(); err != nil {
		return err
	}
	if p, ok := s.dev.(pathed); ok && p.Path() != "" {
		dropCache(p.Path(), p.Offset(), s.size)
	}
	return nil
}

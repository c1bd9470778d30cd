package payload

import (
	"errors"
	"fmt"
	"io"
)

// extentReader reads the blocks of a list of extents as one run of size
// bytes. A hole reads as zeros, and so does what lies past the end of an
// image that ends within a block.
type extentReader struct {
	from      io.ReaderAt
	extents   []Extent
	blockSize int64
	size      int64
}

// ReadAt reads size bytes and no more: io.EOF comes after them.
func (r extentReader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= r.size {
		return 0, io.EOF
	}
	short := int64(len(p)) > r.size-off
	if short {
		p = p[:r.size-off]
	}
	done := 0
	for _, e := range r.extents {
		length := e.Blocks * r.blockSize
		if off >= length {
			off -= length
			continue
		}
		part := p[done:min(int64(len(p)), int64(done)+length-off)]
		if e.Start == holeStart {
			clear(part)
		} else if n, err := r.from.ReadAt(part, e.Start*r.blockSize+off); errors.Is(err, io.EOF) {
			clear(part[n:])
		} else if n < len(part) {
			return done + n, err
		}
		if done += len(part); done == len(p) {
			break
		}
		off = 0
	}
	if short {
		return done, io.EOF
	}
	return done, nil
}

// extentWriter fills the blocks of an operation's destination in order.
type extentWriter struct {
	sink      *sink
	op        *operation
	blockSize int64
}

// write puts p, which begins at byte pos of the operation's data, where it
// belongs.
func (w extentWriter) write(p []byte, pos int64) error {
	for _, e := range w.op.dst {
		length := e.Blocks * w.blockSize
		if pos >= length {
			pos -= length
			continue
		}
		part := p[:min(int64(len(p)), length-pos)]
		if e.Start != holeStart {
			if err := w.sink.write(part, e.Start*w.blockSize+pos); err != nil {
				return err
			}
		}
		if p = p[len(part):]; len(p) == 0 {
			return nil
		}
		pos = 0
	}
	return fmt.Errorf("%w: more data than its extents hold", ErrOperation)
}

// last writes the first n bytes of buf, with which the operation's data ends
// after total bytes, padded to a block. The data may end within the last
// block of the extents and nowhere else; buf has room for the padding.
func (w extentWriter) last(buf []byte, n int, total int64) error {
	if total > w.op.room || total <= w.op.room-w.blockSize {
		return fmt.Errorf("%w: %d bytes of data for extents of %d", ErrOperation, total, w.op.room)
	}
	if e := w.op.dst[len(w.op.dst)-1]; e.Start != holeStart && operationRules[w.op.kind].data {
		past := (e.Start+e.Blocks)*w.blockSize - w.sink.size
		if beyond := total - (w.op.room - past); past > 0 && beyond > 0 && !isZero(buf[n-int(beyond):n]) {
			return fmt.Errorf("%w: %d bytes of data beyond the image's end", ErrOperation, beyond)
		}
	}
	end := n + int(w.op.room-total)
	clear(buf[n:end])
	return w.write(buf[:end], total-int64(n))
}

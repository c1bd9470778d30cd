package payload

import (
	"bytes"
	"compress/bzip2"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	patchMagic      = "BSDIFF40"
	patchHeaderSize = 32
	// maxIdle bounds control entries in a row that make no output: bsdiff
	// writes one at the most, a bzip2 bomb of zeros endlessly many.
	maxIdle = 16
)

var errPatch = errors.New("not a valid BSDIFF40 patch")

// patchReader makes the new data of a BSDIFF40 patch as it is read: from
// bspatch.c of bsdiff 4.3. Its three streams are decompressed side by side, so
// that neither old nor new data has to be in memory.
type patchReader struct {
	old                  io.ReaderAt
	oldSize              int64
	control, diff, extra io.Reader
	left                 int64 // new bytes still to make
	pos                  int64 // in old
	add, insert, seek    int64 // left of the current control entry
	idle                 int
	buf                  []byte
}

// newPatchReader reads a patch over the first oldSize bytes of old that makes
// newSize bytes.
func newPatchReader(old io.ReaderAt, oldSize int64, patch []byte, newSize int64) (*patchReader, error) {
	if len(patch) < patchHeaderSize || string(patch[:8]) != patchMagic {
		return nil, fmt.Errorf("%w: no header", errPatch)
	}
	control, diff, size := offtin(patch[8:]), offtin(patch[16:]), offtin(patch[24:])
	body := patch[patchHeaderSize:]
	if control < 0 || control > int64(len(body)) || diff < 0 || diff > int64(len(body))-control {
		return nil, fmt.Errorf("%w: streams of %d and %d bytes in %d", errPatch, control, diff, len(body))
	}
	if size != newSize {
		return nil, fmt.Errorf("%w: it makes %d bytes, want %d", errPatch, size, newSize)
	}
	stream := func(b []byte) io.Reader { return bzip2.NewReader(bytes.NewReader(b)) }
	return &patchReader{
		old: old, oldSize: oldSize, left: newSize,
		control: stream(body[:control]), diff: stream(body[control : control+diff]), extra: stream(body[control+diff:]),
		buf: make([]byte, 32<<10),
	}, nil
}

// Read makes the next bytes. io.EOF comes after exactly the bytes that the
// patch announced.
func (r *patchReader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	for r.add == 0 && r.insert == 0 {
		if err := r.next(); err != nil {
			return 0, err
		}
	}
	if r.add > 0 {
		p = p[:min(int64(len(p)), r.add, int64(len(r.buf)))]
		if err := r.sum(p); err != nil {
			return 0, err
		}
		r.add -= int64(len(p))
	} else {
		p = p[:min(int64(len(p)), r.insert)]
		if _, err := io.ReadFull(r.extra, p); err != nil {
			return 0, fmt.Errorf("%w: extra stream: %w", errPatch, noEOF(err))
		}
		r.insert -= int64(len(p))
	}
	if r.left -= int64(len(p)); r.add == 0 && r.insert == 0 {
		r.pos += r.seek
		r.seek = 0
	}
	return len(p), nil
}

// next reads a control entry: bytes to add, bytes to insert, and how far to
// move in the old data after both.
func (r *patchReader) next() error {
	r.pos += r.seek // of an entry that made nothing
	r.seek = 0
	if r.idle++; r.idle > maxIdle {
		return fmt.Errorf("%w: control entries without output", errPatch)
	}
	var entry [24]byte
	if _, err := io.ReadFull(r.control, entry[:]); err != nil {
		return fmt.Errorf("%w: control stream: %w", errPatch, noEOF(err))
	}
	r.add, r.insert, r.seek = offtin(entry[:]), offtin(entry[8:]), offtin(entry[16:])
	if r.add < 0 || r.insert < 0 || r.add > r.left || r.insert > r.left-r.add {
		return fmt.Errorf("%w: entry of %d and %d bytes with %d left", errPatch, r.add, r.insert, r.left)
	}
	const far = maxImage // both ways: what lies outside the old data reads as zeros
	if after := r.pos + r.add; r.seek > far || r.seek < -far || after+r.seek > far || after+r.seek < -far {
		return fmt.Errorf("%w: seek by %d from %d", errPatch, r.seek, after)
	}
	if r.add+r.insert > 0 {
		r.idle = 0
	}
	return nil
}

// sum fills p with the sum of the old data and the diff stream.
func (r *patchReader) sum(p []byte) error {
	if _, err := io.ReadFull(r.diff, p); err != nil {
		return fmt.Errorf("%w: diff stream: %w", errPatch, noEOF(err))
	}
	from := max(0, -r.pos)
	to := min(int64(len(p)), r.oldSize-r.pos)
	if from < to {
		old := r.buf[:to-from]
		if n, err := r.old.ReadAt(old, r.pos+from); n < len(old) {
			return fmt.Errorf("read old data: %w", noEOF(err))
		}
		for i, b := range old {
			p[from+int64(i)] += b
		}
	}
	r.pos += int64(len(p))
	return nil
}

// offtin reads bsdiff's integers: sign and magnitude, little endian.
func offtin(b []byte) int64 {
	u := binary.LittleEndian.Uint64(b)
	v := int64(u &^ (1 << 63))
	if u>>63 == 1 {
		return -v
	}
	return v
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

package writelog

import (
	"fmt"
	"io"
)

// chunk is how much is copied at once, in bytes.
const chunk = 1 << 20

// View returns the disk as a Point leaves it. The base is the disk as it was
// before the log began. Nothing is copied: a View costs nothing to make, and a
// read looks up where the log has each piece. It may be read by several
// goroutines.
func (l *Log) View(base io.ReaderAt, p Point) io.ReaderAt {
	p.N = min(max(p.N, 0), len(l.entries))
	return &view{log: l, base: base, point: p, flushed: l.flushed(p.N)}
}

type view struct {
	log     *Log
	base    io.ReaderAt
	point   Point
	flushed int // entries before this one are durable
}

// A layer is an entry that shows at a piece of the disk, in whole or in part.
type layer struct {
	i    int
	fate fate
}

// ReadAt implements io.ReaderAt. The disk ends where the base does.
func (v *view) ReadAt(b []byte, off int64) (int, error) {
	n, err := v.base.ReadAt(b, off)
	if err != nil && err != io.EOF {
		return 0, err
	}
	var layers []layer
	for at, end := off, off+int64(n); at < end; {
		piece, stop := v.log.index.piece(at)
		stop = min(stop, end)
		if piece >= 0 {
			layers = v.layers(layers[:0], piece)
			if err := v.paint(b[at-off:stop-off], at, layers); err != nil {
				return 0, err
			}
		}
		at = stop
	}
	return n, err
}

// layers appends the entries that show at a piece, newest first: those that are
// torn, down to the first that covers what is below.
func (v *view) layers(to []layer, piece int) []layer {
	for i := range v.log.index.covering(piece, v.point.N) {
		f := v.point.fate(i, v.log.entries[i], v.flushed)
		if f != lost {
			to = append(to, layer{i, f})
		}
		if f == whole {
			break
		}
	}
	return to
}

// paint puts the layers over what the base has at an offset, within one piece.
func (v *view) paint(b []byte, off int64, layers []layer) error {
	if len(layers) == 0 {
		return nil
	}
	if layers[0].fate == whole {
		return v.log.content(b, off, layers[0].i)
	}
	for at, end := off, off+int64(len(b)); at < end; {
		stop := min(end, (at/Sector+1)*Sector)
		for _, y := range layers {
			if y.fate == torn && !v.point.shows(y.i, v.log.entries[y.i], v.flushed, at/Sector) {
				continue
			}
			if err := v.log.content(b[at-off:stop-off], at, y.i); err != nil {
				return err
			}
			break
		}
		at = stop
	}
	return nil
}

// content reads what an entry made of the disk at an offset.
func (l *Log) content(b []byte, off int64, i int) error {
	e := l.entries[i]
	if e.Flags&Discard != 0 {
		clear(b)
		return nil
	}
	if n, err := l.file.ReadAt(b, e.data+off-e.Offset); n < len(b) {
		return fmt.Errorf("read data of entry %d: %w", i, err)
	}
	return nil
}

// Replay writes onto a copy of the disk as it was before the log began what a
// Point leaves of it, entry by entry.
func (l *Log) Replay(disk io.WriterAt, p Point) error {
	p.N = min(max(p.N, 0), len(l.entries))
	flushed := l.flushed(p.N)
	buf := make([]byte, min(chunk, l.Extent()))
	for i, e := range l.entries[:p.N] {
		if !e.changes() {
			continue
		}
		f := p.fate(i, e, flushed)
		if f == lost {
			continue
		}
		step := int64(chunk)
		if f == torn {
			step = Sector
		}
		for off, end := e.Offset, e.Offset+e.Length; off < end; off += step {
			if f == torn && !p.shows(i, e, flushed, off/Sector) {
				continue
			}
			b := buf[:min(step, end-off)]
			if err := l.content(b, off, i); err != nil {
				return err
			}
			if _, err := disk.WriteAt(b, off); err != nil {
				return fmt.Errorf("replay entry %d: %w", i, err)
			}
		}
	}
	return nil
}

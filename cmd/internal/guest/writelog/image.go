package writelog

import (
	"bytes"
	"fmt"
	"io"
	"os"
)

// hole is the least run of zeros that an image leaves out, in bytes: a block of
// the usual file systems.
const hole = 4096

var zeros [hole]byte

// Image makes a raw image of a disk as a Point leaves it, to be booted: a new
// file of a size in bytes, with holes where the disk has zeros. If it returns
// an error there is no file.
func (l *Log) Image(path string, base io.ReaderAt, size int64, p Point) error {
	if end := l.Extent(); end > size {
		return fmt.Errorf("make image: the log writes up to byte %d of a disk of %d: it is another disk's", end, size)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("make image: %w", err)
	}
	err = f.Truncate(size)
	if err == nil {
		err = copySparse(f, io.NewSectionReader(l.View(base, p), 0, size))
	}
	if closing := f.Close(); err == nil {
		err = closing
	}
	if err != nil {
		os.Remove(path)
		return fmt.Errorf("make image %s: %w", path, err)
	}
	return nil
}

// copySparse writes onto a file of zeros what a disk has else.
func copySparse(f io.WriterAt, disk *io.SectionReader) error {
	buf := make([]byte, chunk)
	for off := int64(0); off < disk.Size(); off += chunk {
		b := buf[:min(chunk, disk.Size()-off)]
		if n, err := disk.ReadAt(b, off); n < len(b) {
			return fmt.Errorf("read disk at %d: %w", off+int64(n), err)
		}
		for at := 0; at < len(b); {
			skip, length := run(b[at:])
			if length > 0 {
				if _, err := f.WriteAt(b[at+skip:at+skip+length], off+int64(at+skip)); err != nil {
					return err
				}
			}
			at += skip + length
		}
	}
	return nil
}

// run returns how many bytes of holes b begins with, and how many bytes of
// blocks that are none follow.
func run(b []byte) (skip, length int) {
	for skip < len(b) && zero(b[skip:min(skip+hole, len(b))]) {
		skip = min(skip+hole, len(b))
	}
	for at := skip; at < len(b) && !zero(b[at:min(at+hole, len(b))]); at = skip + length {
		length = min(at+hole, len(b)) - skip
	}
	return skip, length
}

// zero tells whether all bytes are zero.
func zero(b []byte) bool {
	for len(b) > hole {
		if !bytes.Equal(b[:hole], zeros[:]) {
			return false
		}
		b = b[hole:]
	}
	return bytes.Equal(b, zeros[:len(b)])
}

// Package image reads small files out of the image of a file system without
// mounting it, and makes small images, with no program and no privilege.
//
// The readers are for ext2, ext3 and ext4, for squashfs (gzip, xz, zstd) and
// for erofs without compression. They bound what they read, allocate and
// follow, whatever the image says.
package image

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
)

// ErrFormat says that no reader here knows the image's file system, or a
// feature of it that stands between us and the file. Who may mount can still
// read it so.
var ErrFormat = errors.New("file system not known to any reader")

// ErrCorrupt says that the image contradicts itself, or needs more work to
// read than an honest image of its kind would.
var ErrCorrupt = errors.New("file system image is corrupt")

const (
	// maxReads and maxReadBytes bound what reading one file may cost. An
	// honest lookup takes some tens of reads and, with the largest blocks of
	// squashfs (1 MiB), a few MiB.
	maxReads     = 1 << 16
	maxReadBytes = 64 << 20
	// maxLinks bounds the symbolic links followed on the way to a file, as
	// the kernel does (path_resolution(7)).
	maxLinks = 40
	// maxSteps bounds the names walked through, links expanded.
	maxSteps = 256
	// maxLinkBytes is the longest target of a symbolic link (PATH_MAX).
	maxLinkBytes = 4096
)

// node is one file, directory or symbolic link of an image.
type node interface {
	// kind returns the type bits, and only those.
	kind() fs.FileMode
	// child returns the named entry of a directory, or fs.ErrNotExist.
	child(name string) (node, error)
	// content returns a file's bytes or a link's target, and an error if it
	// has more than limit bytes.
	content(limit int64) ([]byte, error)
}

// Kind names the file system in the first size bytes of img, as mount(8) does:
// "ext4" (for ext2 and ext3 as well), "squashfs", "erofs", "btrfs", "xfs", or
// "" for any other.
func Kind(img io.ReaderAt, size int64) string {
	for _, m := range []struct {
		kind   string
		offset int64
		magic  string
	}{
		{"squashfs", 0, "hsqs"},
		{"erofs", 1024, "\xe2\xe1\xf5\xe0"},
		{"btrfs", 0x10040, "_BHRfS_M"},
		{"xfs", 0, "XFSB"},
		{"ext4", 1024 + 56, "\x53\xef"},
	} {
		got := make([]byte, len(m.magic))
		if m.offset+int64(len(got)) > size {
			continue
		}
		if n, _ := img.ReadAt(got, m.offset); n == len(got) && string(got) == m.magic {
			return m.kind
		}
	}
	return ""
}

// ReadFile returns the content of the named regular file, a slash-separated
// path from the root of the file system in the first size bytes of img.
// Symbolic links are followed inside the image, as if it were the root
// directory; no name leads out of it. A file of more than limit bytes is an
// error. So are fs.ErrNotExist, ErrFormat and ErrCorrupt.
func ReadFile(img io.ReaderAt, size int64, name string, limit int64) ([]byte, error) {
	root, err := open(img, size)
	if err != nil {
		return nil, fmt.Errorf("read image: %w", err)
	}
	data, err := read(root, name, limit)
	if err != nil {
		return nil, fmt.Errorf("read %s from image: %w", name, err)
	}
	return data, nil
}

// open returns the root directory of the file system in img.
func open(img io.ReaderAt, size int64) (node, error) {
	if size < 0 {
		return nil, fmt.Errorf("%w: size %d", ErrCorrupt, size)
	}
	m := &meter{r: io.NewSectionReader(img, 0, size)}
	switch kind := Kind(img, size); kind {
	case "ext4":
		return openExt(m)
	case "squashfs":
		return openSquash(m)
	case "erofs":
		return openErofs(m)
	case "":
		return nil, ErrFormat
	default:
		return nil, fmt.Errorf("%w: %s", ErrFormat, kind)
	}
}

// read walks from root to the named file and returns its content.
func read(root node, name string, limit int64) ([]byte, error) {
	w := walker{root: root, rest: name}
	n, err := w.walk()
	if err != nil {
		return nil, err
	}
	if n.kind() != 0 {
		return nil, fmt.Errorf("%w: is not a regular file", fs.ErrInvalid)
	}
	return n.content(limit)
}

// walker resolves a path inside an image.
type walker struct {
	root  node
	rest  string // the names still to walk
	steps int
	links int
	// above holds the directories walked through, so that ".." needs no trust
	// in the image's own ".." entries and stops at the root.
	above []node
}

func (w *walker) walk() (node, error) {
	at := w.root
	for {
		name, rest, _ := strings.Cut(strings.TrimLeft(w.rest, "/"), "/")
		if name == "" {
			return at, nil
		}
		if w.steps++; w.steps > maxSteps {
			return nil, fmt.Errorf("%w: path is longer than %d names", ErrCorrupt, maxSteps)
		}
		w.rest = rest
		next, err := w.step(at, name)
		if err != nil {
			return nil, err
		}
		at = next
	}
}

// step goes from the directory at to its entry name. A symbolic link is put
// before the names that remain.
func (w *walker) step(at node, name string) (node, error) {
	if !at.kind().IsDir() {
		return nil, fmt.Errorf("%w: a name before %q is not a directory", fs.ErrNotExist, name)
	}
	switch name {
	case ".":
		return at, nil
	case "..":
		if len(w.above) == 0 {
			return w.root, nil
		}
		at, w.above = w.above[len(w.above)-1], w.above[:len(w.above)-1]
		return at, nil
	}
	next, err := at.child(name)
	if err != nil {
		return nil, err
	}
	if next.kind() != fs.ModeSymlink {
		w.above = append(w.above, at)
		return next, nil
	}
	if w.links++; w.links > maxLinks {
		return nil, fmt.Errorf("%w: more than %d symbolic links", ErrCorrupt, maxLinks)
	}
	target, err := next.content(maxLinkBytes)
	if err != nil {
		return nil, err
	}
	w.rest = string(target) + "/" + w.rest
	if path.IsAbs(string(target)) {
		w.above = nil
		return w.root, nil
	}
	return at, nil
}

// meter bounds what the reading of one file may cost, for every reader alike:
// no loop in an image's structures outlives its budget.
type meter struct {
	r     io.ReaderAt
	calls int
	bytes int64
}

// ReadAt is io.ReaderAt until the budget is spent, then ErrCorrupt.
func (m *meter) ReadAt(p []byte, off int64) (int, error) {
	m.calls++
	m.bytes += int64(len(p))
	if m.calls > maxReads || m.bytes > maxReadBytes {
		return 0, fmt.Errorf("%w: takes more than %d MiB of reading", ErrCorrupt, maxReadBytes>>20)
	}
	if off < 0 {
		return 0, fmt.Errorf("%w: negative offset", ErrCorrupt)
	}
	return m.r.ReadAt(p, off)
}

// bytesAt reads n bytes at off, all or an error. The end of the image is
// ErrCorrupt here: nothing that an image points at lies behind it.
func (m *meter) bytesAt(off, n int64) ([]byte, error) {
	if n < 0 || n > maxReadBytes {
		return nil, fmt.Errorf("%w: %d bytes in one piece", ErrCorrupt, n)
	}
	buf := make([]byte, n)
	got, err := m.ReadAt(buf, off)
	if got == len(buf) {
		return buf, nil
	}
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: it ends before byte %d", ErrCorrupt, off+n)
	}
	return nil, err
}

// tooLarge is the error of content for a file of size bytes.
func tooLarge(size uint64, limit int64) error {
	return fmt.Errorf("%w: %d bytes, limit %d", fs.ErrInvalid, size, limit)
}

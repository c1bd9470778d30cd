package image

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"

	"github.com/erofs/go-erofs"
)

// erofsNode is a file of an erofs file system, by its path from the root. The
// paths hold no symbolic links: the walker has resolved them.
type erofsNode struct {
	fsys fs.ReadLinkFS
	path string
	mode fs.FileMode
	size int64
}

func openErofs(m *meter) (node, error) {
	fsys, err := erofs.Open(m)
	if err != nil {
		return nil, erofsError(err)
	}
	links, ok := fsys.(fs.ReadLinkFS)
	if !ok {
		return nil, fmt.Errorf("%w: erofs without links", ErrFormat)
	}
	return erofsNode{fsys: links, path: ".", mode: fs.ModeDir}, nil
}

func (n erofsNode) kind() fs.FileMode { return n.mode }

func (n erofsNode) child(name string) (node, error) {
	full := path.Join(n.path, name)
	if !fs.ValidPath(full) {
		return nil, fs.ErrNotExist
	}
	info, err := n.fsys.Lstat(full)
	if err != nil {
		return nil, erofsError(err)
	}
	return erofsNode{fsys: n.fsys, path: full, mode: info.Mode().Type(), size: info.Size()}, nil
}

func (n erofsNode) content(limit int64) ([]byte, error) {
	if n.size < 0 || n.size > limit {
		return nil, tooLarge(uint64(n.size), limit)
	}
	if n.mode == fs.ModeSymlink {
		target, err := n.fsys.ReadLink(n.path)
		return []byte(target), erofsError(err)
	}
	f, err := n.fsys.Open(n.path)
	if err != nil {
		return nil, erofsError(err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, erofsError(err)
	}
	if int64(len(data)) != n.size {
		return nil, fmt.Errorf("%w: file of %d bytes holds %d", ErrCorrupt, n.size, len(data))
	}
	return data, nil
}

// erofsError says in this package's terms what the library found.
func erofsError(err error) error {
	switch {
	case err == nil, errors.Is(err, fs.ErrNotExist), errors.Is(err, ErrCorrupt):
		return err
	case errors.Is(err, erofs.ErrNotImplemented):
		return fmt.Errorf("%w: %w", ErrFormat, err)
	default:
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
}

package image

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"

	"github.com/erofs/go-erofs"
)

// treeNode is a file of an fs.ReadLinkFS, by its path from the root. The paths
// hold no symbolic links: the walker has resolved them.
type treeNode struct {
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
		return nil, fmt.Errorf("%w: erofs without symbolic links", ErrFormat)
	}
	return treeNode{fsys: erofsFS{links}, path: ".", mode: fs.ModeDir}, nil
}

func (n treeNode) kind() fs.FileMode { return n.mode }

func (n treeNode) child(name string) (node, error) {
	full := path.Join(n.path, name)
	if !fs.ValidPath(full) {
		return nil, fs.ErrNotExist
	}
	info, err := n.fsys.Lstat(full)
	if err != nil {
		return nil, err
	}
	return treeNode{fsys: n.fsys, path: full, mode: info.Mode().Type(), size: info.Size()}, nil
}

func (n treeNode) content(limit int64) ([]byte, error) {
	if n.size < 0 || n.size > limit {
		return nil, tooLarge(uint64(n.size), limit)
	}
	if n.mode == fs.ModeSymlink {
		target, err := n.fsys.ReadLink(n.path)
		return []byte(target), err
	}
	f, err := n.fsys.Open(n.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) != n.size {
		return nil, fmt.Errorf("%w: file of %d bytes holds %d", ErrCorrupt, n.size, len(data))
	}
	return data, nil
}

// erofsFS says in this package's errors what the library finds.
type erofsFS struct{ fs.ReadLinkFS }

// Lstat is fs.ReadLinkFS.
func (e erofsFS) Lstat(name string) (fs.FileInfo, error) {
	info, err := e.ReadLinkFS.Lstat(name)
	return info, erofsError(err)
}

// ReadLink is fs.ReadLinkFS.
func (e erofsFS) ReadLink(name string) (string, error) {
	target, err := e.ReadLinkFS.ReadLink(name)
	return target, erofsError(err)
}

// Open is fs.FS.
func (e erofsFS) Open(name string) (fs.File, error) {
	f, err := e.ReadLinkFS.Open(name)
	return erofsFile{f}, erofsError(err)
}

type erofsFile struct{ fs.File }

// Read is fs.File. The library wraps io.EOF.
func (f erofsFile) Read(p []byte) (int, error) {
	n, err := f.File.Read(p)
	if errors.Is(err, io.EOF) {
		return n, io.EOF
	}
	return n, erofsError(err)
}

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

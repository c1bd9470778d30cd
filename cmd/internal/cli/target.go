package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/drydock-os/drydock/updater/payload"
	"golang.org/x/sys/unix"
)

// An output is where one partition's image goes. A file gets its new content
// under another name and takes its own when all is verified: until then what
// was there stays. A device, and a file that a delta changes in place, are
// written to where they are.
type output struct {
	device payload.Device
	file   *os.File
	final  string // name of a file that is not there yet, else ""
}

// blocks is a block device.
type blocks struct {
	*section
}

// imageFile is a file, which ends where its image ends.
type imageFile struct {
	*section
}

// Truncate cuts the file.
func (i imageFile) Truncate(size int64) error { return i.file.Truncate(size) }

// section is what files and devices have in common. It is not the file itself,
// which could always be truncated.
type section struct {
	file *os.File
	size int64
}

// ReadAt implements payload.Device.
func (s *section) ReadAt(p []byte, off int64) (int, error) { return s.file.ReadAt(p, off) }

// WriteAt implements payload.Device.
func (s *section) WriteAt(p []byte, off int64) (int, error) { return s.file.WriteAt(p, off) }

// Sync implements payload.Device.
func (s *section) Sync() error { return s.file.Sync() }

// Size is in bytes; what it was when a file was opened.
func (s *section) Size() int64 { return s.size }

// Path and Offset let the payload's writer open it again past the page cache.
func (s *section) Path() string { return s.file.Name() }

// Offset is 0: see Path.
func (s *section) Offset() int64 { return 0 }

// openOutput opens path for an image. In place, it must be there.
func openOutput(path string, inPlace bool) (*output, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !inPlace:
		return newFile(path, 0o644)
	case err != nil:
		return nil, fmt.Errorf("open target: %w", err)
	case isBlock(info):
		return openBlock(path)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("open target %s: neither a file nor a block device", path)
	case !inPlace:
		return newFile(path, info.Mode().Perm())
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open target: %w", err)
	}
	return &output{device: imageFile{&section{f, info.Size()}}, file: f}, nil
}

// newFile makes a file beside path, or beside what path is a link to.
func newFile(path string, mode fs.FileMode) (*output, error) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return nil, fmt.Errorf("create target: %w", err)
	}
	o := &output{device: imageFile{&section{f, 0}}, file: f, final: path}
	if err := f.Chmod(mode); err != nil {
		o.close()
		return nil, fmt.Errorf("create target: %w", err)
	}
	return o, nil
}

// openBlock opens a block device that nobody else holds: not mounted, no part
// of it mounted, not under device mapper.
func openBlock(path string) (*output, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_EXCL, 0)
	if err != nil {
		return nil, fmt.Errorf("open target: %w", err)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open target: %w", err)
	}
	return &output{device: blocks{&section{f, size}}, file: f}, nil
}

func isBlock(info fs.FileInfo) bool {
	return info.Mode()&(fs.ModeDevice|fs.ModeCharDevice) == fs.ModeDevice
}

// is reports whether path leads to the same file.
func (o *output) is(path string) bool {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	mine, err1 := filepath.Abs(o.final)
	other, err2 := filepath.Abs(path)
	if o.final != "" {
		return err1 == nil && err2 == nil && mine == other
	}
	a, err1 := o.file.Stat()
	b, err2 := os.Stat(path)
	return err1 == nil && err2 == nil && os.SameFile(a, b)
}

// sameNumber reports whether two nodes are of the same device.
func sameNumber(a, b fs.FileInfo) bool {
	x, okX := a.Sys().(*syscall.Stat_t)
	y, okY := b.Sys().(*syscall.Stat_t)
	return isBlock(a) && isBlock(b) && okX && okY && x.Rdev == y.Rdev
}

// commit gives a new file its name, durably. The content was synced before.
func (o *output) commit() error {
	if o.final == "" {
		return nil
	}
	if err := o.file.Sync(); err != nil {
		return fmt.Errorf("write %s: %w", o.final, err)
	}
	if err := os.Rename(o.file.Name(), o.final); err != nil {
		return fmt.Errorf("write %s: %w", o.final, err)
	}
	dir, err := os.Open(filepath.Dir(o.final))
	if err == nil {
		err = dir.Sync()
		dir.Close()
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", o.final, err)
	}
	o.final = ""
	return nil
}

// close ends the use of the output; a new file that was not committed is gone.
func (o *output) close() {
	o.file.Close()
	if o.final != "" {
		os.Remove(o.file.Name())
	}
}

// openImage opens an image or a device for reading and returns its size in
// bytes.
func openImage(path string) (*os.File, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, fmt.Errorf("open image: %w", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() && !isBlock(info) {
		err = fmt.Errorf("%s is neither a file nor a block device", path)
	}
	var size int64
	if err == nil {
		size, err = f.Seek(0, io.SeekEnd)
	}
	if err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("open image: %w", err)
	}
	return f, size, nil
}

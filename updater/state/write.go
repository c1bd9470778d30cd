package state

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Write makes data the content of path durably: a temporary file in the same
// directory, synced, renamed over path, and the directory synced. When Write
// returns nil the content survives a power cut; when power fails before, or
// Write returns an error, path holds its old content or the new one, whole.
// The one exception that no program can mend is a disk that lies about syncs.
//
// The temporary file's name is fixed (path with ".tmp"): what a power cut
// leaves behind is overwritten by the next Write instead of piling up. So two
// processes must not write one path at the same time.
func Write(path string, data []byte, perm os.FileMode) error {
	return write(disk{}, path, data, perm)
}

// steps are the file system operations of which a durable write consists, so
// that a test can cut the power between any two of them.
type steps interface {
	// Create makes path an empty file with exactly the mode perm.
	Create(path string, perm os.FileMode) (handle, error)
	Rename(from, to string) error
	// SyncDir puts the names in dir on the disk.
	SyncDir(dir string) error
	Remove(path string) error
}

// handle is an open file, as far as a durable write needs one.
type handle interface {
	io.WriteCloser
	Sync() error
}

func write(s steps, path string, data []byte, perm os.FileMode) error {
	tmp := path + ".tmp"
	err := fill(s, tmp, data, perm)
	if err == nil {
		err = s.Rename(tmp, path)
	}
	if err != nil {
		s.Remove(tmp)
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := s.SyncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// fill puts data on the disk as the content of path.
func fill(s steps, path string, data []byte, perm os.FileMode) error {
	f, err := s.Create(path, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// disk is the real file system.
type disk struct{}

// Create opens the file for writing, with perm whatever the umask.
func (disk) Create(path string, perm os.FileMode) (handle, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil {
		return nil, err
	}
	// A left-over file keeps its mode, and the umask cuts that of a new one.
	if err := f.Chmod(perm); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Rename is os.Rename, which is atomic.
func (disk) Rename(from, to string) error { return os.Rename(from, to) }

// Remove is os.Remove.
func (disk) Remove(path string) error { return os.Remove(path) }

// SyncDir is fsync of the directory itself.
func (disk) SyncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

package partition

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// A BootDir is the directory that a boot loader reads: the EFI system partition,
// or /boot. Names are slash-separated and relative to it (fs.ValidPath); errors
// wrap fs.ErrNotExist where a file is missing.
type BootDir interface {
	// ReadDir lists the names of the regular files in a directory, sorted.
	ReadDir(name string) ([]string, error)
	// Open opens a file that exists, for reading and writing.
	Open(name string) (File, error)
	// Create makes or empties a file, and the directories above it. The file's
	// name is durable once the file's Sync has returned.
	Create(name string) (File, error)
	// Rename moves a file, replaces one of the new name, makes the directories
	// above it, and is durable when it returns. On FAT a power cut inside it may
	// leave either name, both or none: see Control.
	Rename(from, to string) error
	// Remove deletes a file and is durable when it returns. Removing what is not
	// there is success.
	Remove(name string) error
	// Sync brings everything to where a boot loader finds it that replays no
	// journal.
	Sync() error
	// FileSystem names the type of the file system as /proc/mounts does ("vfat",
	// "ext4"), or "" if it is none that is known here.
	FileSystem() (string, error)
	// Path is the path of name for another program on this machine.
	Path(name string) string
	// Close lets go of the directory, so that it can be unmounted.
	io.Closer
}

// maxBootFile bounds a file that is read whole: loader.conf, the environment
// block. What a loader itself reads is far smaller.
const maxBootFile = 1 << 20

// readFile reads a small file of a boot directory whole.
func readFile(dir BootDir, name string) ([]byte, error) {
	f, err := dir.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if f.Size() > maxBootFile {
		return nil, fmt.Errorf("read %s: %d bytes, more than %d", name, f.Size(), maxBootFile)
	}
	data := make([]byte, f.Size())
	if _, err := f.ReadAt(data, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return data, nil
}

// osBootDir is a directory of the running system. It goes through os.Root, so
// no name or symbolic link leads out of it.
type osBootDir struct {
	path     string
	root     *os.Root
	plain    bool // no loader reads it: Sync does not freeze
	readOnly bool // nothing in it is changed
}

// OpenBootDir opens a directory as a boot loader's. Changes to it are durable
// when the call that makes them returns. As root, Sync freezes an ext4 or XFS for
// a moment.
func OpenBootDir(path string) (BootDir, error) { return openBootDir(osBootDir{path: path}) }

// OpenPlainDir opens a directory that no boot loader reads as if one did: for a
// demonstration or a test on files. Nothing is frozen.
func OpenPlainDir(path string) (BootDir, error) {
	return openBootDir(osBootDir{path: path, plain: true})
}

// ReadBootDir opens a boot loader's directory for reading alone, also where it
// cannot be written. What would change it is fs.ErrPermission.
func ReadBootDir(path string) (BootDir, error) {
	return openBootDir(osBootDir{path: path, readOnly: true})
}

func openBootDir(d osBootDir) (BootDir, error) {
	root, err := os.OpenRoot(d.path)
	if err != nil {
		return nil, fmt.Errorf("open boot directory: %w", err)
	}
	d.root = root
	return &d, nil
}

// writable refuses a change of a directory that was opened for reading.
func (d *osBootDir) writable() error {
	if d.readOnly {
		return fmt.Errorf("change boot directory: it was opened for reading: %w", fs.ErrPermission)
	}
	return nil
}

// Close implements BootDir.
func (d *osBootDir) Close() error { return d.root.Close() }

// Path implements BootDir.
func (d *osBootDir) Path(name string) string { return filepath.Join(d.path, name) }

// ReadDir implements BootDir.
func (d *osBootDir) ReadDir(name string) ([]string, error) {
	entries, err := fs.ReadDir(d.root.FS(), name)
	if err != nil {
		return nil, fmt.Errorf("list boot directory: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Open implements BootDir.
func (d *osBootDir) Open(name string) (File, error) {
	flag := os.O_RDWR
	if d.readOnly {
		flag = os.O_RDONLY
	}
	f, err := d.root.OpenFile(name, flag, 0)
	if err != nil {
		return nil, fmt.Errorf("open boot file: %w", err)
	}
	return &osFile{File: f}, nil
}

// Create implements BootDir.
func (d *osBootDir) Create(name string) (File, error) {
	if err := d.writable(); err != nil {
		return nil, err
	}
	if err := d.mkdir(filepath.Dir(name)); err != nil {
		return nil, err
	}
	f, err := d.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("create boot file: %w", err)
	}
	return &osFile{File: f, synced: func() error { return d.syncDir(filepath.Dir(name)) }}, nil
}

// Rename implements BootDir.
func (d *osBootDir) Rename(from, to string) error {
	if err := d.writable(); err != nil {
		return err
	}
	if err := d.mkdir(filepath.Dir(to)); err != nil {
		return err
	}
	if err := d.root.Rename(from, to); err != nil {
		return fmt.Errorf("rename boot file: %w", err)
	}
	if err := d.syncDir(filepath.Dir(to)); err != nil {
		return err
	}
	return d.syncDir(filepath.Dir(from))
}

// Remove implements BootDir.
func (d *osBootDir) Remove(name string) error {
	if err := d.writable(); err != nil {
		return err
	}
	err := d.root.Remove(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove boot file: %w", err)
	}
	return d.syncDir(filepath.Dir(name))
}

func (d *osBootDir) mkdir(name string) error {
	if _, err := d.root.Stat(name); err == nil {
		return nil
	}
	if err := d.root.MkdirAll(name, 0o755); err != nil {
		return fmt.Errorf("make boot directory: %w", err)
	}
	for dir := name; dir != "."; {
		dir = filepath.Dir(dir)
		if err := d.syncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// syncDir makes a directory's names durable. FAT keeps its free-space count and
// allocation table apart from directories, so the file system is synced too.
func (d *osBootDir) syncDir(name string) error {
	f, err := d.root.Open(name)
	if err != nil {
		return fmt.Errorf("sync boot directory: %w", err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync boot directory: %w", err)
	}
	if kind, err := fileSystem(f); err != nil || kind != "vfat" {
		return err
	}
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("sync boot file system: %w", err)
	}
	return nil
}

// FileSystem implements BootDir.
func (d *osBootDir) FileSystem() (string, error) {
	f, err := d.root.Open(".")
	if err != nil {
		return "", fmt.Errorf("open boot directory: %w", err)
	}
	defer f.Close()
	return fileSystem(f)
}

// fileSystem names the type of the file system that holds f (statfs(2)).
func fileSystem(f *os.File) (string, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return "", fmt.Errorf("find file system type: %w", err)
	}
	switch uint32(st.Type) {
	case unix.MSDOS_SUPER_MAGIC:
		return "vfat", nil
	case unix.EXT4_SUPER_MAGIC:
		return "ext4", nil
	case unix.XFS_SUPER_MAGIC:
		return "xfs", nil
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs", nil
	case unix.TMPFS_MAGIC:
		return "tmpfs", nil
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlay", nil
	}
	return "", nil
}

// osFile is a file of a boot directory. Its first Sync makes its name durable
// too.
type osFile struct {
	*os.File

	mu     sync.Mutex // several goroutines write and sync a kernel
	synced func() error
}

// Size implements Device; 0 where the file cannot be asked.
func (f *osFile) Size() int64 {
	info, err := f.Stat()
	if err != nil {
		return 0
	}
	return info.Size()
}

// Sync implements Device.
func (f *osFile) Sync() error {
	if err := f.File.Sync(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.synced == nil {
		return nil
	}
	if err := f.synced(); err != nil {
		return err
	}
	f.synced = nil
	return nil
}

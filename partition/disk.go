package partition

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrInUse says that a slot's partition is mounted or otherwise held, so it must
// not be written.
var ErrInUse = errors.New("partition is in use")

// A Disk is a block device or an image file with a partition table. It is the
// Device of the whole disk.
type Disk struct {
	Layout Layout // how its slots are found
	Sysfs  string // where sysfs is; "" means /sys

	file         *os.File
	size, sector int64
	block        bool
	flag         int
}

// OpenDisk opens a disk or an image for reading and writing.
func OpenDisk(path string) (*Disk, error) { return openDisk(path, os.O_RDWR) }

// ReadDisk opens a disk or an image for reading alone.
func ReadDisk(path string) (*Disk, error) { return openDisk(path, os.O_RDONLY) }

func openDisk(path string, flag int) (*Disk, error) {
	f, err := os.OpenFile(path, flag, 0)
	if err != nil {
		return nil, fmt.Errorf("open disk: %w", err)
	}
	d := &Disk{file: f, flag: flag, sector: 512}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() && info.Mode()&(fs.ModeDevice|fs.ModeCharDevice) != fs.ModeDevice {
		err = fmt.Errorf("open disk %s: neither a block device nor a file", path)
	}
	if err == nil {
		d.size, err = f.Seek(0, io.SeekEnd)
	}
	if err == nil && !info.Mode().IsRegular() {
		d.block = true
		var sector int
		sector, err = unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET)
		d.sector = int64(sector)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open disk: %w", err)
	}
	return d, nil
}

// Name is the path that the disk was opened by.
func (d *Disk) Name() string { return d.file.Name() }

// ReadAt implements io.ReaderAt.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) { return d.file.ReadAt(p, off) }

// WriteAt implements io.WriterAt. A write that would pass the disk's end writes
// nothing: an image does not grow.
func (d *Disk) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off > d.size || int64(len(p)) > d.size-off {
		return 0, fmt.Errorf("write %d bytes at %d: disk ends at %d", len(p), off, d.size)
	}
	return d.file.WriteAt(p, off)
}

// Sync implements Device.
func (d *Disk) Sync() error { return d.file.Sync() }

// Close closes the disk. Sections of it that are no partition nodes end with it.
func (d *Disk) Close() error { return d.file.Close() }

// Size is the disk's size in bytes.
func (d *Disk) Size() int64 { return d.size }

// SectorSize is the disk's logical sector in bytes; 512 for an image file.
func (d *Disk) SectorSize() int64 { return d.sector }

// Slot opens a slot of the disk. On a block device that is the partition's own
// node where there is one, held so that nobody mounts it meanwhile; ErrInUse
// says that it is held already. A disk opened for reading alone holds nothing.
func (d *Disk) Slot(s Slot) (*Section, error) {
	section, e, err := findSection(d, d.Layout, s)
	if err != nil {
		return nil, err
	}
	section.path = d.Name()
	if !d.block {
		return section, nil
	}
	node, err := d.node(e.Number)
	if err != nil || node == "" {
		return section, err
	}
	return section.openNode(node, d.flag)
}

// openNode turns a section of a disk into its partition's own node, after it
// made sure that the kernel's idea of the partition is the table's.
func (s *Section) openNode(node string, flag int) (*Section, error) {
	if flag != os.O_RDONLY {
		flag |= os.O_EXCL
	}
	f, err := openDisk(node, flag)
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("open slot %s: %w", node, ErrInUse)
	}
	if err != nil {
		return nil, fmt.Errorf("open slot: %w", err)
	}
	if f.size != s.size {
		f.Close()
		return nil, fmt.Errorf("open slot %s: kernel says %d bytes, partition table %d", node, f.size, s.size)
	}
	return &Section{dev: f, path: node, size: f.size, close: f.Close}, nil
}

// node finds the device node of partition n through sysfs, "" when the kernel
// has none: it did not scan the table.
func (d *Disk) node(n int) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(d.file.Fd()), &st); err != nil {
		return "", fmt.Errorf("find partition %d: %w", n, err)
	}
	sysfs := d.Sysfs
	if sysfs == "" {
		sysfs = "/sys"
	}
	dir := filepath.Join(sysfs, "dev/block", fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)))
	found, err := filepath.Glob(filepath.Join(dir, "*", "partition"))
	if err != nil {
		return "", fmt.Errorf("find partition %d: %w", n, err)
	}
	for _, file := range found {
		text, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("find partition %d: %w", n, err)
		}
		if strings.TrimSpace(string(text)) == strconv.Itoa(n) {
			return filepath.Join("/dev", filepath.Base(filepath.Dir(file))), nil
		}
	}
	return "", nil
}

package payload

import (
	"os"

	"golang.org/x/sys/unix"
)

// openDirect opens a file or block device past the page cache, or returns nil
// where that is not possible: some file systems have no O_DIRECT.
func openDirect(path string, offset int64) *os.File {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return nil
	}
	probe := newBuffer(align)
	if _, err := unix.Pread(int(f.Fd()), probe, offset); err != nil {
		f.Close()
		return nil
	}
	return f
}

// zeroRange lets the kernel write zeros to a block device, which most do
// without moving them. It returns false where that cannot be done.
func zeroRange(f *os.File, off, length int64) bool {
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeDevice == 0 {
		return false
	}
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, off, length) == nil
}

// dropCache makes the next read of a range ask the device. It is advice: what
// it cannot do leaves the bytes right, only not proven.
func dropCache(path string, off, length int64) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer f.Close()
	unix.Fadvise(int(f.Fd()), off, length, unix.FADV_DONTNEED)
}

package partition

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Damaged tells whether dm-verity has met, since this boot, a block behind /usr
// or / that is not what was built. It is false where nothing is verified. The
// kernel keeps it in the device's status in every mode (drivers/md/
// dm-verity-target.c, verity_handle_err and verity_status): "V" so far, "C" once
// a block was corrupted.
func (sys System) Damaged() (bool, error) {
	number, err := sys.usrDevice()
	if errors.Is(err, errNoDevice) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("find what is verified: %w", err)
	}
	devices, err := sys.verity(sys.path("sys/dev/block", number), 0)
	if err != nil {
		return false, fmt.Errorf("find what is verified: %w", err)
	}
	damaged := false
	for _, device := range devices {
		bad, err := sys.verityStatus(device)
		if err != nil {
			return false, fmt.Errorf("ask dm-verity of device %s: %w", device, err)
		}
		damaged = damaged || bad
	}
	return damaged, nil
}

// verity finds the numbers, "major:minor", of the dm-verity devices among a
// device in sysfs and what it is stacked on.
func (sys System) verity(dir string, depth int) ([]string, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	if depth > maxStack {
		return nil, fmt.Errorf("%s: more than %d devices deep", dir, maxStack)
	}
	var found []string
	// libcryptsetup's, and so systemd's, names for it (lib/libdevmapper.c).
	if id, err := os.ReadFile(filepath.Join(dir, "dm/uuid")); err == nil && strings.HasPrefix(string(id), "CRYPT-VERITY-") {
		number, err := os.ReadFile(filepath.Join(dir, "dev"))
		if err != nil {
			return nil, err
		}
		found = append(found, strings.TrimSpace(string(number)))
	}
	slaves, err := os.ReadDir(filepath.Join(dir, "slaves"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, s := range slaves {
		below, err := sys.verity(filepath.Join(dir, "slaves", s.Name()), depth+1)
		if err != nil {
			return nil, err
		}
		found = append(found, below...)
	}
	return found, nil
}

// Sizes of device mapper's interface (linux/dm-ioctl.h).
const (
	dmHeader = int(unsafe.Sizeof(unix.DmIoctl{}))
	dmTarget = int(unsafe.Sizeof(unix.DmTargetSpec{}))
	// dmBuffer holds the status of a table of one target: a word or two.
	dmBuffer = 4096
)

func (sys System) verityStatus(number string) (damaged bool, err error) {
	major, minor, _ := strings.Cut(number, ":")
	x, errX := strconv.ParseUint(major, 10, 32)
	y, errY := strconv.ParseUint(minor, 10, 32)
	if err := errors.Join(errX, errY); err != nil {
		return false, err
	}
	control, err := os.OpenFile(sys.path("dev/mapper/control"), os.O_RDWR, 0)
	if err != nil {
		return false, err
	}
	defer control.Close()
	var request struct {
		unix.DmIoctl
		rest [dmBuffer - dmHeader]byte
	}
	request.Version = [3]uint32{unix.DM_VERSION_MAJOR, 0, 0}
	request.Data_size, request.Data_start = dmBuffer, uint32(dmHeader)
	request.Dev = unix.Mkdev(uint32(x), uint32(y))
	raw := (*[dmBuffer]byte)(unsafe.Pointer(&request))
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, control.Fd(), unix.DM_TABLE_STATUS, uintptr(unsafe.Pointer(raw))); errno != 0 {
		return false, fmt.Errorf("read table status: %w", errno)
	}
	if request.Target_count != 1 {
		return false, fmt.Errorf("read table status: %d targets, want one", request.Target_count)
	}
	return parseVerityStatus(raw[min(int(request.Data_start), dmBuffer):])
}

// parseVerityStatus reads what DM_TABLE_STATUS returns behind its header: a
// target's place and type, and its status as text.
func parseVerityStatus(data []byte) (damaged bool, err error) {
	if len(data) < dmTarget {
		return false, fmt.Errorf("read table status: %d bytes", len(data))
	}
	const typeAt = 24 // of struct dm_target_spec
	if kind := unix.ByteSliceToString(data[typeAt:dmTarget]); kind != "verity" {
		return false, fmt.Errorf("read table status: target %q, want verity", kind)
	}
	if status := int32(binary.NativeEndian.Uint32(data[16:])); status != 0 {
		return false, fmt.Errorf("read table status: the target's is %d", status)
	}
	word, _, _ := strings.Cut(unix.ByteSliceToString(data[dmTarget:]), " ")
	switch word {
	case "V":
		return false, nil
	case "C":
		return true, nil
	}
	return false, fmt.Errorf("read table status: verity says %q", word)
}

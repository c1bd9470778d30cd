package partition

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A System is where the running system shows itself: proc, sys and dev below a
// directory.
type System struct {
	Root string // "" means "/"
}

// errNoDevice says that a file system is on no block device of its own: an
// overlay, a RAM disk.
var errNoDevice = errors.New("no block device")

// maxStack bounds the devices stacked on a partition: verity, crypt and linear
// are three.
const maxStack = 8

// An Origin is a partition that the running system came from.
type Origin struct {
	Disk   string // its disk's path: "/dev/sda"
	Number int    // in the disk's table
}

// Origins finds the partitions behind /usr, or behind / where /usr is no mount
// of its own, through device mapper, and below the system extensions that are
// merged over it. There is at least one; with dm-verity there may be two, the data
// and the hashes.
func (sys System) Origins() ([]Origin, error) {
	number, err := sys.usrDevice()
	if err != nil {
		return nil, fmt.Errorf("find booted partition: %w", err)
	}
	found, err := sys.partitions(sys.path("sys/dev/block", number), 0)
	if err != nil {
		return nil, fmt.Errorf("find booted partition: %w", err)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("find booted partition: device %s is on no partition: %w", number, errNoDevice)
	}
	return found, nil
}

// Booted tells which slot of a disk is running: the one among Origins, or, where
// /usr is on no partition, the one that the kernel's command line names. Where
// both tell it they must agree. Unknown is an error, never a guess.
func (sys System) Booted(disk string, slots [2]Entry) (Slot, error) {
	said, named, err := sys.commandLine(slots)
	if err != nil {
		return 0, err
	}
	origins, err := sys.Origins()
	if errors.Is(err, errNoDevice) && named {
		return said, nil
	}
	if err != nil {
		return 0, err
	}
	if real, err := filepath.EvalSymlinks(disk); err == nil {
		disk = real
	}
	var running []Slot
	for s, e := range slots {
		if slices.Contains(origins, Origin{Disk: disk, Number: e.Number}) {
			running = append(running, Slot(s))
		}
	}
	switch {
	case len(running) != 1:
		return 0, fmt.Errorf("find booted slot: the system runs from %v, of which %d are slots of %s", origins, len(running), disk)
	case named && said != running[0]:
		return 0, fmt.Errorf("find booted slot: the system runs from slot %s, its command line names slot %s", running[0], said)
	}
	return running[0], nil
}

func (sys System) path(elem ...string) string {
	return filepath.Join(append([]string{"/", sys.Root}, elem...)...)
}

// usrDevice is the number, "major:minor", of the device mounted on /usr or /, below
// what is only laid over it.
func (sys System) usrDevice() (string, error) {
	data, err := os.ReadFile(sys.path("proc/self/mountinfo"))
	if err != nil {
		return "", err
	}
	mounts := map[string]mount{}
	for line := range strings.Lines(string(data)) {
		if m, ok := parseMount(line); ok && !m.overUsr() {
			mounts[m.point] = m // the last one is on top
		}
	}
	m, ok := mounts["/usr"]
	if !ok {
		m, ok = mounts["/"]
	}
	switch {
	case !ok:
		return "", errors.New("neither /usr nor / is a mount")
	case !strings.HasPrefix(m.device, "0:"):
		return m.device, nil
	case !strings.HasPrefix(m.source, "/dev/"):
		return "", fmt.Errorf("%s is %s: %w", m.point, m.kind, errNoDevice)
	}
	// btrfs has a number of its own, and is told by its source.
	node := sys.path(m.source)
	if real, err := filepath.EvalSymlinks(node); err == nil {
		node = real
	}
	number, err := os.ReadFile(sys.path("sys/class/block", filepath.Base(node), "dev"))
	return strings.TrimSpace(string(number)), err
}

// A mount is a line of mountinfo (proc(5)).
type mount struct {
	device, point, kind, source, options string
}

// overUsr reports whether a mount at /usr shows what was there before it, and more:
// systemd-sysext's, whose source has that name in every version of systemd, and
// any overlay with /usr among its lower layers.
func (m mount) overUsr() bool {
	if m.point != "/usr" || m.kind != "overlay" {
		return false
	}
	for option := range strings.SplitSeq(m.options, ",") {
		layers, ok := strings.CutPrefix(option, "lowerdir=")
		if ok && slices.Contains(strings.Split(layers, ":"), "/usr") {
			return true
		}
	}
	return m.source == "sysext"
}

func parseMount(line string) (mount, bool) {
	left, right, ok := strings.Cut(line, " - ")
	l, r := strings.Fields(left), strings.Fields(right)
	if !ok || len(l) < 6 || len(r) < 2 {
		return mount{}, false
	}
	return mount{device: l[2], point: l[4], kind: r[0], source: r[1], options: strings.Join(r[2:], ",")}, true
}

// partitions finds the partitions below a device in sysfs.
func (sys System) partitions(dir string, depth int) ([]Origin, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	if depth > maxStack {
		return nil, fmt.Errorf("%s: more than %d devices deep", dir, maxStack)
	}
	number, err := os.ReadFile(filepath.Join(dir, "partition"))
	if err == nil {
		n, err := strconv.Atoi(strings.TrimSpace(string(number)))
		disk := "/dev/" + strings.ReplaceAll(filepath.Base(filepath.Dir(dir)), "!", "/")
		return []Origin{{Disk: disk, Number: n}}, err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	slaves, err := os.ReadDir(filepath.Join(dir, "slaves"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var all []Origin
	for _, s := range slaves {
		found, err := sys.partitions(filepath.Join(dir, "slaves", s.Name()), depth+1)
		if err != nil {
			return nil, err
		}
		for _, o := range found {
			if !slices.Contains(all, o) {
				all = append(all, o)
			}
		}
	}
	return all, nil
}

// commandLine finds a slot that the kernel's command line names: by
// drydock.slot, or as the partition of /usr or of the root (systemd's
// kernel-command-line(7), Flatcar's bootengine). Words that name no slot say
// nothing; words that name both are an error.
func (sys System) commandLine(slots [2]Entry) (Slot, bool, error) {
	data, err := os.ReadFile(sys.path("proc/cmdline"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("read kernel command line: %w", err)
	}
	slot, found := A, false
	for _, word := range strings.Fields(string(data)) {
		key, value, _ := strings.Cut(word, "=")
		s, ok := slotNamed(key, strings.Trim(value, `"`), slots)
		if ok && found && s != slot {
			return 0, false, errors.New("find booted slot: the kernel command line names both slots")
		}
		if ok {
			slot, found = s, true
		}
	}
	return slot, found, nil
}

func slotNamed(key, value string, slots [2]Entry) (Slot, bool) {
	if key == "drydock.slot" {
		s, err := ParseSlot(value)
		return s, err == nil
	}
	keys := []string{"root", "usr", "mount.usr", "verity.usr", "systemd.verity_usr_data", "systemd.verity_root_data"}
	if !slices.Contains(keys, key) {
		return 0, false
	}
	tag, id, _ := strings.Cut(value, "=")
	for s, e := range slots {
		switch tag {
		case "PARTUUID":
			if strings.EqualFold(id, e.Unique.String()) {
				return Slot(s), true
			}
		case "PARTLABEL":
			if id == e.Label {
				return Slot(s), true
			}
		}
		if strings.EqualFold(value, "/dev/disk/by-partuuid/"+e.Unique.String()) || value == "/dev/disk/by-partlabel/"+e.Label {
			return Slot(s), true
		}
	}
	return 0, false
}

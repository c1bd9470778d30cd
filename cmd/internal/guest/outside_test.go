package guest_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"unicode/utf16"

	"github.com/drydock-os/drydock/cmd/internal/guest"
	"github.com/drydock-os/drydock/partition"
)

// sum is the SHA-256 of an image.
type sum = [sha256.Size]byte

// A known release is told by its content.
type known struct {
	version      string
	size         int64 // of the slot's image, in bytes
	root, kernel sum   // kernel: of the UKI, zero where it lies in the slot
}

type releases []known

func releasesOf(t testing.TB, images ...guest.Image) releases {
	t.Helper()
	all := make(releases, len(images))
	for i, img := range images {
		all[i].version = img.Release.Version
		all[i].root, all[i].size = fileSum(t, img.Root)
		if img.Kernel != "" {
			all[i].kernel, _ = fileSum(t, img.Kernel)
		}
	}
	return all
}

func fileSum(t testing.TB, path string) (sum, int64) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		t.Fatal(err)
	}
	return sum(h.Sum(nil)), n
}

// find names the release whose image a slot holds, whole; "" is none of them.
func (r releases) find(slot io.ReaderAt) (string, error) {
	sums := map[int64]sum{}
	for _, release := range r {
		if _, done := sums[release.size]; !done {
			h := sha256.New()
			if _, err := io.Copy(h, io.NewSectionReader(slot, 0, release.size)); err != nil {
				return "", err
			}
			sums[release.size] = sum(h.Sum(nil))
		}
		if sums[release.size] == release.root {
			return release.version, nil
		}
	}
	return "", nil
}

// kernel names the release whose UKI the loader boots a slot with.
func (r releases) kernel(c partition.Control, s partition.Slot) (string, error) {
	f, err := c.OpenKernel(s)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, f.Size())); err != nil {
		return "", err
	}
	for _, release := range r {
		if sum(h.Sum(nil)) == release.kernel {
			return release.version, nil
		}
	}
	return "", nil
}

// bootable is what a disk has to boot: the flags as the loader finds them, and
// the releases of the slots that it may pick. It is an error if there is
// nothing, or a slot that is not a whole release.
func (r releases) bootable(path string, loader guest.Loader) (partition.Table, [2]string, error) {
	var found [2]string
	flags, err := openFlags(path, loader)
	if err != nil {
		return partition.Table{}, found, err
	}
	defer flags.close()
	table, err := flags.Table()
	if err != nil {
		return table, found, err
	}
	next, ok := table.Next()
	if !ok {
		return table, found, fmt.Errorf("nothing can be booted: %+v", table)
	}
	disk, err := partition.ReadDisk(path)
	if err != nil {
		return table, found, err
	}
	defer disk.Close()
	for s := range found {
		if !table[s].Bootable() {
			continue
		}
		slot, err := partition.SlotOf(disk, guest.Layout(), partition.Slot(s))
		if err != nil {
			return table, found, err
		}
		if found[s], err = r.find(slot); err != nil {
			return table, found, err
		}
		kernel := found[s]
		if loader == guest.SystemdBoot {
			if kernel, err = r.kernel(flags, partition.Slot(s)); err != nil {
				return table, found, err
			}
		}
		if found[s] == "" || kernel != found[s] {
			return table, found, fmt.Errorf("slot %v can be booted with %+v and is no whole release: root is of %q, kernel of %q", partition.Slot(s), table, found[s], kernel)
		}
	}
	if loader != guest.SystemdBoot { // the others pick by the flags alone
		return table, found, nil
	}
	if slot, err := flags.Boot(); err != nil || slot != next {
		return table, found, fmt.Errorf("the loader picks slot %v with %+v: %w", slot, table, err)
	}
	return table, found, nil
}

// A loader's flags on a disk. What is done to them is done to a copy, and not
// to the disk.
type flags struct {
	partition.Control
	partition.Firmware
	close func()
}

// openFlags opens the flags on a disk as the loader would find them.
func openFlags(path string, loader guest.Loader) (flags, error) {
	if loader == guest.Modelled {
		disk, err := partition.ReadDisk(path)
		if err != nil {
			return flags{}, err
		}
		c := partition.GPTPrio{Disk: disk, Layout: guest.Layout()}
		return flags{c, c, func() { disk.Close() }}, nil
	}
	dir, err := os.MkdirTemp("", "boot-")
	if err != nil {
		return flags{}, err
	}
	boot, err := extract(path, dir, loader)
	if err != nil {
		os.RemoveAll(dir)
		return flags{}, err
	}
	done := func() { boot.Close(); os.RemoveAll(dir) }
	if loader == guest.GRUB {
		return flags{partition.GRUB{Dir: boot}, partition.GRUB{Dir: boot}, done}, nil
	}
	return flags{systemdBoot(boot), systemdBoot(boot), done}, nil
}

// extract copies what the loader reads into a directory: of the EFI system
// partition, or of an ext4 whose journal nobody has replayed.
func extract(disk, dir string, loader guest.Loader) (partition.BootDir, error) {
	label, copied := "EFI-SYSTEM", copyESP
	if loader == guest.GRUB {
		label, copied = "BOOT", copyBoot
	}
	p, err := placeOf(disk, label)
	if err == nil {
		err = copied(disk, p.at, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", label, err)
	}
	return partition.OpenPlainDir(dir)
}

func copyBoot(disk string, at int64, dir string) error {
	return program("debugfs", "-R", "rdump /drydock "+dir, fmt.Sprintf("%s?offset=%d", disk, at))
}

// unfinished reports whether a file of the EFI system partition may have lost a
// part of its chain of clusters, until fsck mends it, when the power fails while
// it is made: a kernel that has not been given a name that the firmware looks at,
// and loader.conf, the one time that it is replaced (FAT may free the old one
// before it names the new one). What is picked without it must be right as well.
func unfinished(name string) bool {
	return strings.HasPrefix(name, "EFI/drydock/") || strings.HasPrefix(name, "loader/")
}

// copyESP copies file by file, and leaves out what is unfinished.
func copyESP(disk string, at int64, dir string) error {
	image := fmt.Sprintf("%s@@%d", disk, at)
	list, err := exec.Command("mdir", "-b", "-/", "-i", image, "::").Output()
	if err != nil {
		return fmt.Errorf("mdir: %w", err)
	}
	for name := range strings.Lines(string(list)) {
		name = strings.TrimPrefix(strings.TrimSpace(name), "::/")
		to := filepath.Join(dir, filepath.FromSlash(name))
		if strings.HasSuffix(name, "/") || name == "" {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := program("mcopy", "-n", "-Q", "-i", image, "::"+name, to); err == nil {
			continue
		} else if !unfinished(name) {
			return fmt.Errorf("%s of\n%s: %w", name, list, err)
		}
		if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// program runs a program; an error has all that it printed.
func program(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}

// flagPlaces is where on a disk flags are, first where it is seen first that they
// change: the header of the GPT's backup, which is written before the primary,
// the sector that names the UKIs, or GRUB's block.
func flagPlaces(t testing.TB, path string, loader guest.Loader) []place {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	label, sign := "EFI-SYSTEM", "DRYDOC~1EFI"
	switch loader {
	case guest.Modelled:
		end, err := f.Seek(0, io.SeekEnd)
		if err != nil {
			t.Fatal(err)
		}
		const table = 32 * 512
		return []place{{end - 512, 512}, {end - 512 - table, table}, {512, 512 + table}}
	case guest.GRUB:
		label, sign = "BOOT", "# GRUB Environment Block"
	}
	p, err := placeOf(path, label)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, p.size)
	if _, err := f.ReadAt(data, p.at); err != nil {
		t.Fatal(err)
	}
	i := bytes.Index(data, []byte(sign))
	if i < 0 {
		t.Fatalf("no %q on %s", sign, label)
	}
	return []place{{p.at + int64(i)&^511, 1024}}
}

// A place is a stretch of a disk, in bytes.
type place struct{ at, size int64 }

func (p place) overlaps(at, size int64) bool { return at < p.at+p.size && p.at < at+size }

// placeOf is where a partition of a disk is.
func placeOf(disk, label string) (place, error) {
	d, err := partition.ReadDisk(disk)
	if err != nil {
		return place{}, err
	}
	defer d.Close()
	g, err := partition.ReadGPT(d)
	if err != nil {
		return place{}, err
	}
	for _, e := range g.Entries {
		if e.Label == label {
			return place{int64(e.First) * g.SectorSize, e.Size(g.SectorSize)}, nil
		}
	}
	return place{}, errors.New("no partition " + label)
}

// What the next boot is, after a cut.
const (
	onOld   = "old"
	onSpent = "old, try spent"
	onTrial = "new on trial"
	onNew   = "new"
)

// outcome says what the next boot is, of a machine whose slot was to be updated
// from one release to another. It is an error if it is none of the two.
func outcome(table partition.Table, found [2]string, slot partition.Slot, from, to string) (string, error) {
	next, _ := table.Next()
	what, want := onOld, from
	switch {
	case next == slot && found[slot] == to && table[slot].Successful:
		what, want = onNew, to
	case next == slot:
		what, want = onTrial, to
	case table[slot].Priority > 0 && !table[slot].Bootable():
		what = onSpent
	}
	if found[next] != want {
		return what, fmt.Errorf("slot %v is next with %+v and holds %s, want %s", next, table, found[next], want)
	}
	return what, nil
}

// readable tells from the names in drydockd's state directory whether all that it
// had remembered could be read.
func readable(names string) bool {
	return strings.Contains(names, "memory.json") && !strings.Contains(names, ".bad")
}

// systemdBoot is the loader of Debian 12 on a boot partition.
func systemdBoot(dir partition.BootDir) partition.SystemdBoot {
	info := []byte{7, 0, 0, 0}
	for _, u := range utf16.Encode([]rune("systemd-boot 252.39-1~deb12u1\x00")) {
		info = binary.LittleEndian.AppendUint16(info, u)
	}
	return partition.SystemdBoot{Dir: dir, Variables: fstest.MapFS{"LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f": {Data: info}}}
}

// secondSlot gives a new machine a second good slot, with the same release, so
// that an update begins with taking that one away.
func secondSlot(t testing.TB, m *guest.Machine) {
	t.Helper()
	if m.Release.Release.Loader != guest.Modelled {
		return
	}
	d, err := partition.OpenDisk(m.Disk)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	d.Layout = guest.Layout()
	slot, err := d.Slot(partition.B)
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.Open(m.Release.Root)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if _, err := io.Copy(io.NewOffsetWriter(slot, 0), root); err != nil {
		t.Fatal(err)
	}
	table := partition.Table{{Priority: 2, Successful: true}, {Priority: 1, Successful: true}}
	if err := (partition.GPTPrio{Disk: d, Layout: guest.Layout()}).SetTable(table); err != nil {
		t.Fatal(err)
	}
}

// remembered reads a file of drydockd's state off a disk after the file system's
// journal was replayed on it, as the next boot does; nil if there is none.
func remembered(t testing.TB, disk, name string) []byte {
	t.Helper()
	p, err := placeOf(disk, "DATA")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "data-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	// A copy: e2fsck loses its way in a disk once it has replayed the journal.
	data, to := filepath.Join(dir, "data.img"), filepath.Join(dir, name)
	const block = 1 << 20
	if out, err := exec.Command("dd", "if="+disk, "of="+data, "bs=1M", fmt.Sprintf("skip=%d", p.at/block), fmt.Sprintf("count=%d", p.size/block), "conv=sparse").CombinedOutput(); err != nil {
		t.Fatalf("dd: %v: %s", err, out)
	}
	out, err := exec.Command("e2fsck", "-fy", data).CombinedOutput()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() > 1 || err != nil && exit == nil {
		t.Fatalf("the file system of the data partition: %v: %s", err, out)
	}
	if out, err := exec.Command("debugfs", "-R", "dump /var/lib/drydock/"+name+" "+to, data).CombinedOutput(); err != nil {
		t.Fatalf("debugfs: %v: %s", err, out)
	}
	content, err := os.ReadFile(to)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return content
}

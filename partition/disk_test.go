package partition

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drydock-os/drydock/testdata/real"
)

func TestSlotOfAnImageIsASectionOfIt(t *testing.T) {
	path := flatcarImage(t)
	disk := openImage(t, path)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	slot, err := disk.Slot(B)
	if err != nil {
		t.Fatal(err)
	}
	if slot.Path() != path || slot.Size() != 8*mib {
		t.Errorf("slot at %s, %d bytes", slot.Path(), slot.Size())
	}
	fill := bytes.Repeat([]byte{0xb5}, 8*mib)
	if _, err := slot.WriteAt(fill, 0); err != nil {
		t.Fatal(err)
	}
	if err := slot.Sync(); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	copy(before[slot.Offset():], fill)
	if !bytes.Equal(before, after) {
		t.Error("bytes outside the slot changed")
	}
	got := make([]byte, 10)
	if n, err := slot.ReadAt(got, 8*mib-4); n != 4 || !errors.Is(err, io.EOF) {
		t.Errorf("read over the end: %d, %v", n, err)
	}
}

func TestSlotIsNeverWrittenPastItsEnd(t *testing.T) {
	slot, err := openImage(t, flatcarImage(t)).Slot(A)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		off int64
		n   int
	}{{8 * mib, 1}, {8*mib - 1, 2}, {-1, 1}, {1<<63 - 1, 1}, {1<<63 - 1, 4096}, {0, 8*mib + 1}} {
		if n, err := slot.WriteAt(make([]byte, c.n), c.off); err == nil || n != 0 {
			t.Errorf("wrote %d of %d bytes at %d", n, c.n, c.off)
		}
	}
}

// TestLoopDevice uses a disk as the daemon does: a block device with partitions
// of its own.
func TestLoopDevice(t *testing.T) {
	path := flatcarImage(t)
	dev := real.Loop(t, path)
	if _, err := os.Stat(dev + "p4"); err != nil {
		real.Missing(t, "the kernel shows no partition nodes here")
	}
	disk := openImage(t, dev)
	slot, err := disk.Slot(B)
	if err != nil {
		t.Fatal(err)
	}
	if slot.Path() != dev+"p4" || slot.Offset() != 0 || slot.Size() != 8*mib {
		t.Fatalf("slot is %d bytes at %d of %s", slot.Size(), slot.Offset(), slot.Path())
	}
	if _, err := slot.WriteAt(make([]byte, 2), 8*mib-1); err == nil {
		t.Error("wrote past the partition's end")
	}
	if other, err := disk.Slot(B); !errors.Is(err, ErrInUse) {
		t.Errorf("opened a slot that is held: %v, %v", other, err)
	}
	if err := slot.Close(); err != nil {
		t.Fatal(err)
	}
	control := GPTPrio{Disk: disk}
	if err := control.SetTable(Table{{1, 0, true}, {2, 1, false}}); err != nil {
		t.Fatal(err)
	}
	out := run(t, real.Program(t, "sgdisk"), "-i", "4", dev)
	if !strings.Contains(out, "Attribute flags: 0012000000000000") {
		t.Errorf("sgdisk -i 4:\n%s", out)
	}
	image, err := ReadGPT(openImage(t, path))
	if err != nil || image.Primary != nil || image.Backup != nil || image.Entries[2].Flags() != (Flags{2, 1, false}) {
		t.Errorf("the image holds %+v: %v", image, err)
	}
}

func TestMountedSlotIsRefused(t *testing.T) {
	dev := real.Loop(t, flatcarImage(t))
	node := dev + "p3"
	if _, err := os.Stat(node); err != nil {
		real.Missing(t, "the kernel shows no partition nodes here")
	}
	run(t, real.Program(t, "mkfs.ext4"), "-q", node)
	dir := t.TempDir()
	run(t, real.Program(t, "mount"), node, dir)
	t.Cleanup(func() { run(t, "umount", dir) })
	disk := openImage(t, dev)
	if slot, err := disk.Slot(A); !errors.Is(err, ErrInUse) {
		t.Errorf("opened a mounted slot: %v, %v", slot, err)
	}
	reading, err := ReadDisk(dev)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reading.Close() })
	slot, err := reading.Slot(A)
	if err != nil {
		t.Fatalf("read a mounted slot: %v", err)
	}
	slot.Close()
}

// TestSectorsOf4096 formats a loop device with 4,096-byte sectors, which real
// disks have and image files cannot tell.
func TestSectorsOf4096(t *testing.T) {
	real.Root(t)
	losetup := real.Program(t, "losetup")
	entries := Flatcar(4*mib, 8*mib, 4*mib, 4096)
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(path, make([]byte, FlatcarSize(entries, 4096)), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(losetup, "--find", "--show", "--sector-size", "4096", path).CombinedOutput()
	if err != nil {
		real.Missing(t, fmt.Sprintf("loop device with 4096-byte sectors: %s", out))
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() { run(t, losetup, "-d", dev) })
	disk := openImage(t, dev)
	if err := Format(disk, entries); err != nil {
		t.Fatal(err)
	}
	control := GPTPrio{Disk: disk}
	if err := control.SetTable(Table{{1, 0, true}, {2, 3, false}}); err != nil {
		t.Fatal(err)
	}
	if s, err := control.Boot(); err != nil || s != B {
		t.Errorf("booted %v: %v", s, err)
	}
	verify := run(t, real.Program(t, "sgdisk"), "--verify", dev)
	if !strings.Contains(verify, "No problems found") {
		t.Errorf("sgdisk --verify:\n%s", verify)
	}
	// The image alone, of which nobody says what its sectors are.
	g, err := ReadGPT(openImage(t, path))
	if err != nil || g.SectorSize != 4096 || g.Entries[2].Flags() != (Flags{2, 2, false}) {
		t.Fatalf("the image: %+v: %v", g, err)
	}
	slot, err := openImage(t, path).Slot(B)
	if err != nil || slot.Size() != 8*mib || slot.Offset() != 13*mib {
		t.Errorf("slot B: %+v: %v", slot, err)
	}
}

// TestGrownDisk keeps the backup where the primary says it is: an image that was
// written to a larger disk.
func TestGrownDisk(t *testing.T) {
	path := flatcarImage(t)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, info.Size()+4*mib); err != nil {
		t.Fatal(err)
	}
	control := GPTPrio{Disk: openImage(t, path)}
	if err := control.SetTable(Table{{1, 0, true}, {2, 1, false}}); err != nil {
		t.Fatal(err)
	}
	g, err := ReadGPT(openImage(t, path))
	if err != nil || g.Primary != nil || g.Backup != nil {
		t.Fatalf("primary %v, backup %v: %v", g.Primary, g.Backup, err)
	}
}

func TestFindSlots(t *testing.T) {
	usr := func(n int, label string, first uint64) Entry {
		return Entry{Number: n, Type: TypeUSR, Label: label, First: first, Last: first + 9}
	}
	a, b := usr(3, "USR-A", 100), usr(4, "USR-B", 200)
	rootA, rootB := Entry{Number: 1, Type: TypeRoot, Label: "ROOT-A", First: 100, Last: 110}, Entry{Number: 2, Type: TypeESP, Label: "ROOT-B", First: 200, Last: 210}
	for _, c := range []struct {
		name    string
		entries []Entry
		layout  Layout
		want    [2]int
		refused string
	}{
		{"flatcar", []Entry{a, b}, Layout{}, [2]int{3, 4}, ""},
		{"roots", []Entry{rootA, rootB}, Layout{}, [2]int{1, 2}, ""},
		{"configured", []Entry{usr(1, "one", 100), usr(2, "two", 200)}, Layout{Labels: [2]string{"two", "one"}}, [2]int{2, 1}, ""},
		{"none", []Entry{{Number: 1, Label: "ROOT", Type: TypeRoot}}, Layout{}, [2]int{}, "no partitions USR-A and USR-B"},
		{"one", []Entry{a}, Layout{}, [2]int{}, "no partition USR-B"},
		{"wrong type", []Entry{a, {Number: 4, Type: TypeRoot, Label: "USR-B"}}, Layout{}, [2]int{}, "no partition USR-B"},
		{"twice", []Entry{a, b, usr(5, "USR-B", 300)}, Layout{}, [2]int{}, "both USR-B"},
		{"overlap", []Entry{a, b, {Number: 5, Type: TypeRoot, Label: "x", First: 209, Last: 300}}, Layout{}, [2]int{}, "overlaps USR-B"},
	} {
		got, err := (&GPT{Entries: c.entries}).FindSlots(c.layout)
		if c.refused != "" {
			if err == nil || !strings.Contains(err.Error(), c.refused) {
				t.Errorf("%s: %v, want %q", c.name, err, c.refused)
			}
			continue
		}
		if err != nil || got[A].Number != c.want[A] || got[B].Number != c.want[B] {
			t.Errorf("%s: %+v: %v", c.name, got, err)
		}
	}
}

func TestThirdBootablePartitionIsRefused(t *testing.T) {
	entries := append(Flatcar(mib, mib, mib, 512), Entry{Number: 10, Type: TypeUSR, Label: "USR-C", First: 20480, Last: 20489, Attributes: Flags{5, 1, false}.attributes(0)})
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(path, make([]byte, 16*mib), 0o600); err != nil {
		t.Fatal(err)
	}
	disk := openImage(t, path)
	if err := Format(disk, entries); err != nil {
		t.Fatal(err)
	}
	if table, err := (GPTPrio{Disk: disk}).Table(); err == nil || !strings.Contains(err.Error(), "USR-C") {
		t.Errorf("flags %+v: %v", table, err)
	}
}

func TestFormatRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(path, make([]byte, 4*mib), 0o600); err != nil {
		t.Fatal(err)
	}
	disk := openImage(t, path)
	good := Entry{Type: TypeUSR, Label: "x", First: 2048, Last: 4095}
	for name, entries := range map[string][]Entry{
		"no type":        {{First: 2048, Last: 4095}},
		"before usable":  {{Type: TypeUSR, First: 33, Last: 4095}},
		"behind usable":  {{Type: TypeUSR, First: 2048, Last: 4*mib/512 - 34 + 1}},
		"backwards":      {{Type: TypeUSR, First: 4095, Last: 2048}},
		"overlap":        {good, {Type: TypeUSR, First: 4095, Last: 5000}},
		"long label":     {{Type: TypeUSR, First: 2048, Last: 4095, Label: strings.Repeat("x", 37)}},
		"number too big": {{Number: 129, Type: TypeUSR, First: 2048, Last: 4095}},
	} {
		if err := Format(disk, entries); err == nil {
			t.Errorf("%s: formatted", name)
		}
	}
	if err := Format(disk, []Entry{good}); err != nil {
		t.Error(err)
	}
}

func TestGUID(t *testing.T) {
	if got := TypeESP.String(); got != "c12a7328-f81f-11d2-ba4b-00a0c93ec93b" || TypeESP[0] != 0x28 {
		t.Errorf("GUID is %s, %x", got, TypeESP)
	}
	for _, text := range []string{"", "c12a7328", "c12a7328-f81f-11d2-ba4b-00a0c93ec93", "c12a7328f81f-11d2-ba4b-00a0c93ec93b-", "g12a7328-f81f-11d2-ba4b-00a0c93ec93b", "c12a-7328f81f-11d2-ba4b-00a0c93ec93b"} {
		if g, err := ParseGUID(text); err == nil {
			t.Errorf("%q is %v", text, g)
		}
	}
}

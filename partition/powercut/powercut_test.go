package powercut

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"testing"

	"github.com/drydock-os/drydock/partition"
)

func content(t *testing.T, d partition.Device) string {
	t.Helper()
	data, err := io.ReadAll(io.NewSectionReader(d, 0, d.Size()))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func write(t *testing.T, d partition.Device, text string, off int64) {
	t.Helper()
	if _, err := d.WriteAt([]byte(text), off); err != nil {
		t.Fatal(err)
	}
}

// TestUnsyncedWritesTear leaves, of two unsynced writes over synced bytes, each
// sector as it was at some time.
func TestUnsyncedWritesTear(t *testing.T) {
	m := New(8*sectorSize, "vfat")
	fill := func(b byte) string { return string(bytes.Repeat([]byte{b}, 8*sectorSize)) }
	write(t, m.Disk, fill('0'), 0)
	if err := m.Disk.Sync(); err != nil {
		t.Fatal(err)
	}
	write(t, m.Disk, fill('1'), 0)
	write(t, m.Disk, fill('2'), 0)
	if got := content(t, m.Disk); got != fill('2') {
		t.Error("an unsynced write cannot be read back")
	}
	if got := content(t, m.Restart(Nothing).Disk); got != fill('0') {
		t.Error("something survived nothing")
	}
	if got := content(t, m.Restart(Everything).Disk); got != fill('2') {
		t.Error("something was lost of everything")
	}
	seen := map[string]bool{}
	for _, how := range Survivals(30) {
		got := content(t, m.Restart(how).Disk)
		if got != content(t, m.Restart(how).Disk) {
			t.Errorf("survival %d is not the same twice", how)
		}
		for at := 0; at < len(got); at += sectorSize {
			sector := got[at : at+sectorSize]
			if sector != fill(sector[0])[:sectorSize] {
				t.Fatalf("survival %d tears inside a sector", how)
			}
			seen[sector[:1]] = true
		}
	}
	if len(seen) != 3 {
		t.Errorf("sectors are only ever %v", seen)
	}
}

func TestCutAfter(t *testing.T) {
	for n := range 4 {
		m := New(sectorSize, "vfat")
		m.CutAfter(n)
		var err error
		for i := range 4 {
			if _, err = m.Disk.WriteAt([]byte{byte('a' + i)}, int64(i)); err != nil {
				break
			}
			if err = m.Disk.Sync(); err != nil {
				break
			}
		}
		if !errors.Is(err, ErrPower) || !m.Stopped() || m.Ops() != n {
			t.Fatalf("cut after %d: %v, %d operations", n, err, m.Ops())
		}
		if _, err := m.Disk.ReadAt(make([]byte, 1), 0); !errors.Is(err, ErrPower) {
			t.Errorf("read without power: %v", err)
		}
		if _, err := m.Boot.Open("x"); !errors.Is(err, ErrPower) {
			t.Errorf("open without power: %v", err)
		}
		up := m.Restart(Nothing)
		if got, want := content(t, up.Disk)[:2], "ab"[:n/2]; got[:len(want)] != want || got[len(want)] != 0 {
			t.Errorf("cut after %d leaves %q, want %q", n, got, want)
		}
		write(t, up.Disk, "alive", 0)
		m.Continue()
		write(t, m.Disk, "alive", 0)
	}
}

func TestFailAfter(t *testing.T) {
	m := New(sectorSize, "vfat")
	m.FailAfter(1)
	write(t, m.Disk, "one", 0)
	if _, err := m.Disk.WriteAt([]byte("two"), 0); !errors.Is(err, ErrFault) {
		t.Errorf("write on failing storage: %v", err)
	}
	if err := m.Disk.Sync(); !errors.Is(err, ErrFault) {
		t.Errorf("sync on failing storage: %v", err)
	}
	if got := content(t, m.Disk)[:3]; got != "one" {
		t.Errorf("failing storage holds %q", got)
	}
	m.Continue()
	write(t, m.Disk, "two", 0)
}

// TestDiskEnds refuses writes past the end, and reads up to it.
func TestDiskEnds(t *testing.T) {
	m := New(100, "vfat")
	for _, off := range []int64{-1, 99, 1 << 40} {
		if _, err := m.Disk.WriteAt([]byte("xx"), off); err == nil {
			t.Errorf("wrote at %d of 100", off)
		}
	}
	if n, err := m.Disk.ReadAt(make([]byte, 10), 95); n != 5 || !errors.Is(err, io.EOF) {
		t.Errorf("read %d, %v", n, err)
	}
}

// outcomes are what is left of two files in a rename of old to new.
func outcomes(t *testing.T, fileSystem string, replaced bool) map[string]bool {
	t.Helper()
	seen := map[string]bool{}
	for _, how := range Survivals(60) {
		m := New(0, fileSystem)
		create(t, m, "dir/old", "text")
		if replaced {
			create(t, m, "dir/new", "prior")
		}
		m.CutAfter(0)
		if err := m.Boot.Rename("dir/old", "dir/new"); !errors.Is(err, ErrPower) {
			t.Fatal(err)
		}
		up := m.Restart(how)
		seen[fmt.Sprintf("old %s, new %s", peek(t, up.Boot, "dir/old"), peek(t, up.Boot, "dir/new"))] = true
	}
	return seen
}

func create(t *testing.T, m *Machine, name, text string) {
	t.Helper()
	f, err := m.Boot.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	write(t, f, text, 0)
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

func peek(t *testing.T, d *Dir, name string) string {
	t.Helper()
	f, err := d.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "-"
	}
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%q", content(t, f))
}

func TestRenameOutcomes(t *testing.T) {
	for _, c := range []struct {
		fileSystem string
		replaced   bool
		want       []string
	}{
		{"ext4", false, []string{`old "text", new -`, `old -, new "text"`}},
		{"ext4", true, []string{`old "text", new "prior"`, `old -, new "text"`}},
		{"vfat", false, []string{`old "text", new -`, `old -, new "text"`, `old "text", new "text"`, `old -, new -`, `old "", new "text"`, `old "text", new ""`}},
		{"vfat", true, []string{`old "text", new "prior"`, `old -, new "text"`, `old "text", new "text"`, `old -, new "prior"`, `old "", new "text"`, `old "text", new ""`}},
	} {
		got := outcomes(t, c.fileSystem, c.replaced)
		for _, want := range c.want {
			if !got[want] {
				t.Errorf("%s, replaced %v: never %s", c.fileSystem, c.replaced, want)
			}
			delete(got, want)
		}
		if len(got) > 0 {
			t.Errorf("%s, replaced %v: also %v", c.fileSystem, c.replaced, got)
		}
	}
}

// TestUnsyncedFileIsLost shows what a missing fsync costs: a renamed file whose
// bytes never reached the disk.
func TestUnsyncedFileIsLost(t *testing.T) {
	m := New(0, "ext4")
	f, err := m.Boot.Create("new")
	if err != nil {
		t.Fatal(err)
	}
	write(t, f, "text", 0)
	if err := m.Boot.Rename("new", "file"); err != nil {
		t.Fatal(err)
	}
	if got := peek(t, m.Restart(Nothing).Boot, "file"); got != `""` {
		t.Errorf("unsynced file holds %s", got)
	}
}

// TestLoaderReplaysNoJournal hides from the loader what only the journal has.
func TestLoaderReplaysNoJournal(t *testing.T) {
	m := New(0, "ext4")
	create(t, m, "kernel", "text")
	if got := peek(t, m.Restart(Nothing).Boot.Loader(), "kernel"); got != "-" {
		t.Errorf("the loader sees %s before the sync", got)
	}
	if err := m.Boot.Sync(); err != nil {
		t.Fatal(err)
	}
	if got := peek(t, m.Restart(Nothing).Boot.Loader(), "kernel"); got != `"text"` {
		t.Errorf("the loader sees %s after the sync", got)
	}
}

// TestCloneIsItsOwn changes a clone and leaves the original as it is.
func TestCloneIsItsOwn(t *testing.T) {
	m := New(pageSize*3, "vfat")
	write(t, m.Disk, "disk", pageSize-2)
	create(t, m, "file", "file")
	c := m.Clone()
	write(t, c.Disk, "DISK", pageSize-2)
	create(t, c, "file", "FILE")
	create(t, c, "other", "x")
	if got := content(t, m.Disk)[pageSize-2:][:4]; got != "disk" {
		t.Errorf("the disk holds %q", got)
	}
	if got := peek(t, m.Boot, "file") + peek(t, m.Boot, "other"); got != `"file"-` {
		t.Errorf("the directory holds %s", got)
	}
	if got := peek(t, c.Restart(Nothing).Boot, "file"); got != `"FILE"` {
		t.Errorf("the clone holds %s", got)
	}
}

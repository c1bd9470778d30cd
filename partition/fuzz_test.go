package partition

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
)

// image is a disk in memory.
type image struct{ data []byte }

func (m *image) Size() int64 { return int64(len(m.data)) }
func (m *image) Sync() error { return nil }

func (m *image) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(m.data).ReadAt(p, off)
}

func (m *image) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > m.Size() {
		return 0, io.ErrShortWrite
	}
	return copy(m.data[off:], p), nil
}

// smallDisk is a formatted disk, as small as one can be.
func smallDisk(t testing.TB) *image {
	disk := &image{make([]byte, 128<<10)}
	err := Format(disk, []Entry{
		{Number: 3, Type: TypeUSR, Unique: UniqueUSRA, Label: "USR-A", First: 40, Last: 49, Attributes: Flags{1, 0, true}.attributes(0)},
		{Number: 4, Type: TypeUSR, Unique: UniqueUSRB, Label: "USR-B", First: 50, Last: 59},
	})
	if err != nil {
		t.Fatal(err)
	}
	return disk
}

// FuzzGPT reads any disk, of which header and table are the copy at its start
// and those of the backup the copy at its end, none where they are empty. What
// can be read can be written and read again, no slot lies outside the disk or
// over the table, and none shares a sector with another partition.
func FuzzGPT(f *testing.F) {
	whole := smallDisk(f).data
	f.Add(whole[512:1024], whole[1024:2048], []byte{}, []byte{}, true)
	f.Add(whole[512:1024], whole[1024:2048], whole[len(whole)-512:], whole[len(whole)-33*512:][:1024], false)
	f.Add(whole[:512], whole[:512], []byte{}, []byte{}, true)
	f.Fuzz(func(t *testing.T, header, table, backupHeader, backupTable []byte, honest bool) {
		disk := smallDisk(t)
		end := disk.data[len(disk.data)-33*512:]
		clear(end)
		copy(disk.data[512:1024], header)
		copy(disk.data[1024:1024+32*512], table)
		copy(end[:32*512], backupTable)
		copy(end[32*512:], backupHeader)
		if honest { // with the CRCs that get it past the checks
			sum(disk.data, 1)
			sum(disk.data, len(disk.data)/512-1)
		}
		g, err := ReadGPT(disk)
		if err != nil {
			return
		}
		for _, e := range g.Entries {
			if e.First < 2 || int64(e.Last+1)*g.SectorSize > disk.Size() || e.Size(g.SectorSize) <= 0 {
				t.Fatalf("partition %+v on a disk of %d bytes", e, disk.Size())
			}
		}
		before := slices.Clone(g.Entries)
		if err := g.Repair(disk); err != nil {
			t.Fatalf("repair: %v", err)
		}
		again, err := ReadGPT(disk)
		if err != nil || again.Primary != nil || again.Backup != nil || !slices.Equal(before, again.Entries) {
			t.Fatalf("after repair: %+v: %v", again, err)
		}
		slots, err := again.FindSlots(Layout{})
		if err != nil {
			return
		}
		for _, e := range again.Entries {
			for _, s := range slots {
				if e.Number != s.Number && e.First <= s.Last && s.First <= e.Last {
					t.Fatalf("slot %+v shares sectors with %+v", s, e)
				}
			}
		}
		if err := again.SetFlags(disk, map[int]Flags{slots[A].Number: {3, 4, true}}); err != nil {
			t.Fatal(err)
		}
	})
}

// sum gives the header in a sector the CRCs of its table and of itself, so that
// it gets past them to the other checks.
func sum(sectors []byte, lba int) {
	le := binary.LittleEndian
	h := sectors[lba*512 : (lba+1)*512]
	at, n := le.Uint64(h[72:])*512, uint64(le.Uint32(h[80:]))*uint64(le.Uint32(h[84:]))
	if size := uint64(len(sectors)); n <= maxTableSize && at < size && n <= size-at {
		le.PutUint32(h[88:], crc32.ChecksumIEEE(sectors[at:at+n]))
	}
	if n := le.Uint32(h[12:]); n >= minHeaderSize && n <= 512 {
		clear(h[16:20])
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:n]))
	}
}

func FuzzEnvironmentBlock(f *testing.F) {
	block, err := envBlock{}.with(Table{{1, 0, true}, {2, 3, false}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(block)
	f.Add([]byte(envSignature + "saved_entry=a\\\nb\n" + strings.Repeat("#", 900)))
	f.Fuzz(func(t *testing.T, data []byte) {
		data = append(data, bytes.Repeat([]byte("#"), envSize)...)[:envSize]
		env, err := parseEnv(data)
		if err != nil {
			return
		}
		want := Table{{1, 0, true}, {15, 15, false}}
		next, err := env.with(want)
		if err != nil {
			return
		}
		again, err := parseEnv(next)
		if err != nil || len(next) != envSize {
			t.Fatalf("we made %q: %v", next, err)
		}
		if got, err := again.table(); err != nil || got != want {
			t.Fatalf("flags %+v: %v", got, err)
		}
		foreign := func(e envBlock) (lines []string) {
			for _, line := range e.lines {
				if !strings.HasPrefix(line, envPrefix) && !strings.HasPrefix(line, "#") {
					lines = append(lines, line)
				}
			}
			return lines
		}
		if !slices.Equal(foreign(env), foreign(again)) {
			t.Fatalf("other variables %q became %q", foreign(env), foreign(again))
		}
	})
}

func FuzzEntryName(f *testing.F) {
	for _, name := range []string{"drydock-a", "drydock-b+3", "drydock-b+2-1", "x+0-3+1"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		e := parseEntry(name + ".efi")
		if e.left < 0 {
			return
		}
		next := parseEntry(e.bumped())
		if next.prefix != e.prefix || next.left != max(e.left-1, 0) && next.left >= 0 || next.ours != e.ours {
			t.Fatalf("%q is bumped to %q", e.name, e.bumped())
		}
	})
}

// FuzzLoaderConf selects slots in any loader.conf: what it selected before is
// left alone, everything else in it is kept, and the last choice counts.
func FuzzLoaderConf(f *testing.F) {
	f.Add([]byte("timeout 3\n" + selection{A, true}.text()))
	f.Add([]byte("default \"x\"\r\n# default y"))
	f.Fuzz(func(t *testing.T, data []byte) {
		before := parseConf(data)
		if len(data) > maxBootFile-1000 {
			return
		}
		dir := openBoot(t)
		if err := os.MkdirAll(dir.Path("loader"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir.Path(loaderConf), data, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, s := range []selection{{B, false}, {B, true}, {A, false}} {
			if err := choose(dir, s); err != nil {
				t.Fatal(err)
			}
			c, err := readConf(dir)
			if err != nil {
				t.Fatal(err)
			}
			if before.foreign() != "" {
				if string(c.data) != string(data) {
					t.Fatalf("foreign %q became %q", data, c.data)
				}
				continue
			}
			if got, ok := c.selected(); !ok || got != s || c.rest() != before.rest() {
				t.Fatalf("%q selects %v %v after %v", c.data, got, ok, s)
			}
		}
	})
}

func FuzzUKI(f *testing.F) {
	f.Add(uki(f, "ID=x\nVERSION_ID=1\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		osRelease(memFile{bytes.NewReader(data)})
	})
}

func FuzzCompareVersions(f *testing.F) {
	f.Add("1.2~rc1", "1.2")
	f.Add("a^b", "a-1")
	f.Fuzz(func(t *testing.T, a, b string) {
		if compareVersions(a, b) != -compareVersions(b, a) || compareVersions(a, a) != 0 {
			t.Fatalf("%q and %q: %d and %d", a, b, compareVersions(a, b), compareVersions(b, a))
		}
	})
}

package writelog

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A recorder writes a log as QEMU does, of a disk that it holds in memory.
type recorder struct {
	disk    []byte
	log     []byte
	entries uint64
	unit    int // the log's sector size
}

func newRecorder(size, unit int) *recorder {
	return &recorder{disk: make([]byte, size), log: make([]byte, unit), unit: unit}
}

func (r *recorder) add(flags Flags, off, length int64, data []byte) {
	h := make([]byte, r.unit)
	binary.LittleEndian.PutUint64(h, uint64(off)/uint64(r.unit))
	binary.LittleEndian.PutUint64(h[8:], uint64(length)/uint64(r.unit))
	binary.LittleEndian.PutUint64(h[16:], uint64(flags))
	r.log = append(append(r.log, h...), data...)
	r.entries++
	if flags&Discard != 0 {
		clear(r.disk[off : off+length])
	}
	if data != nil {
		copy(r.disk[off:], data)
	}
	if flags&Flush != 0 {
		r.super(r.entries)
	}
}

// super writes the superblock.
func (r *recorder) super(count uint64) {
	binary.LittleEndian.PutUint64(r.log, magic)
	binary.LittleEndian.PutUint64(r.log[8:], version)
	binary.LittleEndian.PutUint64(r.log[16:], count)
	binary.LittleEndian.PutUint32(r.log[24:], uint32(r.unit))
}

func (r *recorder) ReadAt(b []byte, off int64) (int, error) {
	return bytes.NewReader(r.disk).ReadAt(b, off)
}

// WriteAt writes any range: the log has the sectors around it, as QEMU does.
func (r *recorder) WriteAt(b []byte, off int64) (int, error) {
	unit := int64(r.unit)
	first, end := off/unit*unit, (off+int64(len(b))+unit-1)/unit*unit
	data := bytes.Clone(r.disk[first:end])
	copy(data[off-first:], b)
	r.add(0, first, end-first, data)
	return len(b), nil
}

func (r *recorder) Sync() error { r.add(Flush, 0, 0, nil); return nil }
func (r *recorder) Size() int64 { return int64(len(r.disk)) }

// read reads what was recorded.
func (r *recorder) read(t testing.TB) *Log {
	t.Helper()
	l, err := read(bytes.NewReader(r.log), int64(len(r.log)))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func fill(c byte, n int) []byte { return bytes.Repeat([]byte{c}, n) }

func sameEntries(t *testing.T, got []Entry, want []Entry) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d entries, want %d", len(got), len(want))
	}
	for i, w := range want {
		if g := got[i]; g.Offset != w.Offset || g.Length != w.Length || g.Flags != w.Flags {
			t.Fatalf("entry %d is %+v, want %+v", i, g, w)
		}
	}
}

func TestReadsAsWritten(t *testing.T) {
	for _, unit := range []int{512, 4096, 64 << 10} {
		r := newRecorder(1<<20, unit)
		u := int64(unit)
		r.add(0, u, 2*u, fill(1, 2*unit))
		r.add(FUA, 4*u, u, fill(2, unit))
		r.add(Discard, u, u, nil)
		r.add(Mark, 0, 0, nil)
		r.add(Flush, 0, 0, nil)
		r.add(Flush|FUA, 5*u, u, fill(3, unit))
		l := r.read(t)
		sameEntries(t, l.Entries(), []Entry{
			{Offset: u, Length: 2 * u}, {Offset: 4 * u, Length: u, Flags: FUA}, {Offset: u, Length: u, Flags: Discard},
			{Flags: Mark}, {Flags: Flush}, {Offset: 5 * u, Length: u, Flags: Flush | FUA},
		})
		if l.Claimed != 6 || l.Extent() != 6*u {
			t.Errorf("claims %d entries up to byte %d, want 6 up to %d", l.Claimed, l.Extent(), 6*u)
		}
	}
}

// An entry that nothing but the file's end or zeros follow ends a log, whatever
// the superblock counts; something else may only stand where nothing is counted.
func TestEndOfLog(t *testing.T) {
	three := func() *recorder {
		r := newRecorder(1<<16, 512)
		r.add(0, 0, 1024, fill(1, 1024))
		r.add(0, 512, 512, fill(2, 512))
		r.add(Flush, 0, 0, nil)
		return r
	}
	garbage := bytes.Repeat([]byte("drydock "), 128)
	overlong := make([]byte, 512)
	binary.LittleEndian.PutUint64(overlong[8:], 1<<60)
	for _, test := range []struct {
		name    string
		change  func(r *recorder)
		entries int
		ended   string // or
		err     string
	}{
		{"in order", func(*recorder) {}, 3, "the file ends", ""},
		{"count is stale", func(r *recorder) { r.super(1) }, 3, "the file ends", ""},
		{"count is ahead", func(r *recorder) { r.super(9) }, 3, "the file ends", ""},
		{"no superblock", func(r *recorder) { clear(r.log[:512]) }, 3, "the file ends", ""},
		{"empty", func(r *recorder) { r.log = nil }, 0, "the file ends", ""},
		{"half a superblock of zeros", func(r *recorder) { r.log = make([]byte, 20) }, 0, "the file ends", ""},
		{"zeros", func(r *recorder) { r.log = append(r.log, make([]byte, 5000)...) }, 3, "nothing was written", ""},
		{"a place reserved and counted", func(r *recorder) { r.log = append(r.log, make([]byte, 512)...); r.super(4) }, 3, "nothing was written", ""},
		{"data is cut off", func(r *recorder) { r.add(0, 0, 1024, fill(3, 1024)); r.log = r.log[:len(r.log)-1] }, 3, "cut off", ""},
		{"header is cut off", func(r *recorder) { r.log = append(r.log, 1, 2, 3) }, 3, "the file ends", ""},
		{"garbage", func(r *recorder) { r.log = append(r.log, garbage...) }, 3, "unknown flags", ""},
		{"garbage is counted", func(r *recorder) { r.log = append(r.log, garbage...); r.super(4) }, 0, "", "entry 3 of 4, at byte 3584: unknown flags"},
		{"past any disk", func(r *recorder) { r.log = append(r.log, overlong...) }, 3, "past any disk", ""},
		{"other magic", func(r *recorder) { r.log[0] = 1 }, 0, "", "no log of writes"},
		{"other version", func(r *recorder) { r.log[8] = 2 }, 0, "", "version 2"},
		{"odd sectors", func(r *recorder) { r.log[25] = 3 }, 0, "", "sectors of 768 bytes"},
		{"no sectors", func(r *recorder) { r.log[25] = 0 }, 0, "", "sectors of 0 bytes"},
		{"sectors of 16 MiB", func(r *recorder) { r.log[25], r.log[27] = 0, 1 }, 0, "", "sectors of 16777216 bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := three()
			test.change(r)
			path := filepath.Join(t.TempDir(), "log")
			if err := os.WriteFile(path, r.log, 0o644); err != nil {
				t.Fatal(err)
			}
			l, err := Open(path)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("error %v, want %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if len(l.Entries()) != test.entries || !strings.Contains(l.Ended, test.ended) {
				t.Errorf("%d entries, because %s; want %d, %s", len(l.Entries()), l.Ended, test.entries, test.ended)
			}
		})
	}
}

func TestEpochs(t *testing.T) {
	r := newRecorder(1<<16, 512)
	write := func(flags Flags) { r.add(flags, 512, 512, fill(byte(len(r.log)>>9), 512)) }
	r.add(Flush, 0, 0, nil) // 0: epochs without entries are none
	r.add(Flush, 0, 0, nil)
	write(0) // 2
	write(FUA)
	r.add(Mark, 0, 0, nil)
	write(0)
	r.add(Flush, 0, 0, nil) // 6
	write(Flush)            // 7: flushes what is before, not itself
	write(0)
	l := r.read(t)
	want := []Epoch{{2, 6}, {7, 9}}
	if got := l.Epochs(); len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("epochs %v, want %v", got, want)
	}
	for n, want := range map[int][]int{0: nil, 2: nil, 3: {2}, 4: {2}, 6: {2, 5}, 7: nil, 8: {7}, 9: {7, 8}} {
		got := l.Unflushed(n)
		if len(got) != len(want) {
			t.Errorf("unflushed at %d: %v, want %v", n, got, want)
			continue
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("unflushed at %d: %v, want %v", n, got, want)
			}
		}
	}
	for i, e := range l.Entries() {
		if n := l.Logged(e.end()); n != i+1 {
			t.Errorf("with the file at the end of entry %d, %d were logged", i, n)
		}
		if n := l.Logged(e.end() - 1); n != i {
			t.Errorf("with the file short of the end of entry %d, %d were logged", i, n)
		}
	}
}

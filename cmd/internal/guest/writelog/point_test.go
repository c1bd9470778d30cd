package writelog

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// A memory is a disk to replay onto.
type memory []byte

func (m memory) WriteAt(b []byte, off int64) (int, error) { return copy(m[off:], b), nil }

// state returns what a View shows, and checks that a replay comes to the same.
func state(t *testing.T, l *Log, base []byte, p Point) []byte {
	t.Helper()
	got := make([]byte, len(base))
	if _, err := l.View(bytes.NewReader(base), p).ReadAt(got, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	m := memory(bytes.Clone(base))
	if err := l.Replay(m, p); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(m, got) {
		t.Fatalf("%v: view and replay differ", p)
	}
	return got
}

// The sectors of a disk of four, as letters: what each entry wrote, "." for what
// was there before and "0" for zeros.
func TestWhatMayBeLeft(t *testing.T) {
	base := fill('.', 4*512)
	build := func(ops ...func(*recorder)) *Log {
		r := newRecorder(len(base), 512)
		for _, op := range ops {
			op(r)
		}
		return r.read(t)
	}
	write := func(c byte, flags Flags, first, count int64) func(*recorder) {
		return func(r *recorder) { r.add(flags, first*512, count*512, fill(c, int(count)*512)) }
	}
	flush := func(r *recorder) { r.add(Flush, 0, 0, nil) }
	trim := func(first, count int64) func(*recorder) {
		return func(r *recorder) { r.add(Discard, first*512, count*512, nil) }
	}
	keep := func(kept ...int) func(int) bool {
		return func(i int) bool {
			for _, k := range kept {
				if k == i {
					return true
				}
			}
			return false
		}
	}
	none := Loss{Lost: 1}
	for _, test := range []struct {
		name string
		log  *Log
		p    Point
		want string
	}{
		{"nothing completed", build(write('a', 0, 0, 4)), Point{}, "...."},
		{"nothing lost", build(write('a', 0, 0, 2), write('b', 0, 1, 2)), Point{N: 2}, "abb."},
		{"all lost", build(write('a', 0, 0, 2), write('b', 0, 1, 2)), Point{N: 2, Loss: none}, "...."},
		{"newer lost", build(write('a', 0, 0, 2), write('b', 0, 1, 2)), Point{N: 2, Keep: keep(0)}, "aa.."},
		{"older lost", build(write('a', 0, 0, 2), write('b', 0, 1, 2)), Point{N: 2, Keep: keep(1)}, ".bb."},
		{"flushed stays", build(write('a', 0, 0, 2), flush, write('b', 0, 1, 2)), Point{N: 3, Loss: none}, "aa.."},
		{"flush has not completed", build(write('a', 0, 0, 2), flush), Point{N: 1, Loss: none}, "...."},
		{"a flush does not cover its own data", build(write('a', 0, 0, 1), write('b', Flush, 1, 1)), Point{N: 2, Loss: none}, "a..."},
		{"unless it has FUA", build(write('a', 0, 0, 1), write('b', Flush|FUA, 1, 1)), Point{N: 2, Loss: none}, "ab.."},
		{"FUA stays alone", build(write('a', 0, 0, 2), write('b', FUA, 1, 2), write('c', 0, 2, 2)), Point{N: 3, Loss: none}, ".bb."},
		{"what is older than FUA does not come back", build(write('a', 0, 0, 2), write('b', FUA, 1, 2), write('c', 0, 2, 2)), Point{N: 3, Keep: keep(0)}, "abb."},
		{"what is newer may", build(write('a', 0, 0, 2), write('b', FUA, 1, 2), write('c', 0, 2, 2)), Point{N: 3, Keep: keep(2)}, ".bcc"},
		{"FUA has not completed", build(write('a', 0, 0, 2), write('b', FUA, 1, 2)), Point{N: 1}, "aa.."},
		{"discard reads zero", build(write('a', 0, 0, 4), flush, trim(1, 2), flush), Point{N: 4}, "a00a"},
		{"discard reads old", build(write('a', 0, 0, 4), flush, trim(1, 2), flush), Point{N: 4, Discards: ReadOld}, "aaaa"},
		{"discard is lost", build(write('a', 0, 0, 4), flush, trim(1, 2)), Point{N: 3, Loss: none}, "aaaa"},
		{"written after the discard", build(trim(0, 4), write('a', 0, 1, 1), flush), Point{N: 3}, "0a00"},
		{"a mark writes nothing", build(func(r *recorder) { r.add(Mark, 0, 512, fill('m', 512)) }), Point{N: 1}, "...."},
		{"past the end", build(write('a', 0, 0, 1)), Point{N: 99}, "a..."},
	} {
		got := state(t, test.log, base, test.p)
		letters := ""
		for s := 0; s < len(got); s += 512 {
			if !bytes.Equal(got[s:s+512], fill(got[s], 512)) {
				t.Errorf("%s: sector %d is torn", test.name, s/512)
			}
			letters += string(max(got[s], '.'))
			if got[s] == 0 {
				letters = letters[:len(letters)-1] + "0"
			}
		}
		if letters != test.want {
			t.Errorf("%s: %s, want %s", test.name, letters, test.want)
		}
	}
}

// A write of three sectors over old ones can be left in each of eight ways, and
// of two writes to one sector either or none.
func TestEveryStateIsReached(t *testing.T) {
	base := fill('.', 3*512)
	r := newRecorder(len(base), 512)
	r.add(0, 0, 3*512, fill('a', 3*512))
	torn := r.read(t)
	r.add(0, 512, 512, fill('b', 512))
	both := r.read(t)
	random := rand.New(rand.NewPCG(1, 2))
	count := func(l *Log) map[string]int {
		seen := map[string]int{}
		for range 1500 {
			s := state(t, l, base, l.Pick(random))
			seen[string([]byte{s[0], s[512], s[1024]})]++
		}
		return seen
	}
	if seen := count(torn); len(seen) != 8 {
		t.Errorf("one write: states %v, want 8", seen)
	}
	if seen := count(both); len(seen) != 12 {
		t.Errorf("two writes: states %v, want 12", seen)
	}
}

// noise returns n random bytes.
func noise(random *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(random.Uint32())
	}
	return b
}

// randomLog records a random history of a small disk.
func randomLog(random *rand.Rand, size, entries int) (r *recorder, base []byte) {
	r = newRecorder(size, 512)
	copy(r.disk, noise(random, size))
	base = bytes.Clone(r.disk)
	for range entries {
		first := random.Int64N(int64(size / 512))
		count := 1 + random.Int64N(min(16, int64(size/512)-first))
		data := noise(random, int(count)*512)
		switch random.IntN(12) {
		case 0:
			r.add(Flush, 0, 0, nil)
		case 1:
			r.add(Discard, first*512, count*512, nil)
		case 2:
			r.add(FUA, first*512, count*512, data)
		case 3:
			r.add(Flush, first*512, count*512, data)
		default:
			r.add(0, first*512, count*512, data)
		}
	}
	return r, base
}

// Views, replays and images of any point agree; with nothing lost they are the
// disk; reads of any piece are parts of the whole.
func TestAnyHistory(t *testing.T) {
	for seed := range uint64(40) {
		random := rand.New(rand.NewPCG(seed, 1))
		r, base := randomLog(random, 128*512, 1+random.IntN(150))
		l := r.read(t)
		if got := state(t, l, base, Point{N: len(l.Entries())}); !bytes.Equal(got, r.disk) {
			t.Errorf("seed %d: with nothing lost, it is not the disk", seed)
		}
		for range 20 {
			p := l.Pick(random)
			want := state(t, l, base, p)
			view := l.View(bytes.NewReader(base), p)
			for range 20 {
				off := random.IntN(len(base))
				b := make([]byte, 1+random.IntN(3000))
				n, err := view.ReadAt(b, int64(off))
				if n != min(len(b), len(base)-off) || (err != nil) != (n < len(b)) {
					t.Fatalf("seed %d: read of %d at %d: %d, %v", seed, len(b), off, n, err)
				}
				if !bytes.Equal(b[:n], want[off:off+n]) {
					t.Fatalf("seed %d, %v: %d bytes at %d are no part of the whole", seed, p, n, off)
				}
			}
		}
	}
}

func TestImage(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 3))
	const size = 8<<20 + 512
	r := newRecorder(size, 512)
	r.add(0, 1<<20, 3<<20+1536, noise(random, 3<<20+1536)) // copied in several pieces
	for range 49 {
		off := random.Int64N(size/512-64) * 512
		r.add(0, off, 64*512, fill(byte(random.Uint32()), 64*512))
	}
	base := make([]byte, size)
	copy(base[size-600:], "the end")
	l := r.read(t)
	if got := state(t, l, make([]byte, size), Point{N: 50}); !bytes.Equal(got, r.disk) {
		t.Error("with nothing lost, it is not the disk")
	}
	p := Point{N: 50, Loss: Loss{Seed: 9, Lost: 0.3, Torn: 0.5}}
	path := filepath.Join(t.TempDir(), "image")
	if err := l.Image(path, bytes.NewReader(base), size, p); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, state(t, l, base, p)) {
		t.Error("image is not what the view shows")
	}
	if err := l.Image(path, bytes.NewReader(base), size, p); !os.IsExist(err) && err == nil {
		t.Error("an image that exists was overwritten")
	}
	for name, size := range map[string]int64{"base too short": size + 1, "disk too small": l.Extent() - 512} {
		other := path + "2"
		if err := l.Image(other, bytes.NewReader(base), size, p); err == nil {
			t.Errorf("%s: no error", name)
		}
		if _, err := os.Stat(other); err == nil {
			t.Errorf("%s: left a file", name)
		}
	}
}

func FuzzRead(f *testing.F) {
	random := rand.New(rand.NewPCG(1, 1))
	for _, n := range []int{0, 3, 20} {
		r, _ := randomLog(random, 32*512, n)
		r.super(r.entries)
		f.Add(r.log, uint64(n))
	}
	f.Fuzz(func(t *testing.T, data []byte, seed uint64) {
		l, err := read(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		for i, e := range l.Entries() {
			if e.Offset < 0 || e.Length < 0 || e.Offset+e.Length > maxDisk || e.end() > int64(len(data)) {
				t.Fatalf("entry %d: %+v", i, e)
			}
		}
		random := rand.New(rand.NewPCG(seed, 0))
		const size = 64 << 10
		for range 4 {
			p := l.Pick(random)
			b := make([]byte, size)
			if _, err := l.View(bytes.NewReader(b[:size/2]), p).ReadAt(b, 0); err != nil && err != io.EOF {
				t.Fatal(err)
			}
			if l.Extent() <= size {
				state(t, l, make([]byte, size), p)
			}
		}
	})
}

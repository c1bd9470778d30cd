package writelog

import (
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// bigLog makes a log of 1 GiB of writes of 4 KiB to a disk of 1 GiB, with a
// flush every thousand.
func bigLog(b *testing.B) string {
	b.Helper()
	path := filepath.Join(b.TempDir(), "log")
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	random := rand.New(rand.NewPCG(1, 1))
	r := newRecorder(0, 512)
	f.Write(r.log)
	for i := range 1 << 18 {
		r.log = r.log[:512]
		r.add(0, random.Int64N(1<<18)*4096, 4096, nil)
		r.log = append(r.log, fill(byte(i), 4096)...)
		if i%1000 == 999 {
			r.add(Flush, 0, 0, nil)
		}
		if _, err := f.Write(r.log[512:]); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := f.WriteAt(r.log[:512], 0); err != nil {
		b.Fatal(err)
	}
	return path
}

// none is a disk of zeros.
type none struct{}

func (none) ReadAt(b []byte, _ int64) (int, error) { clear(b); return len(b), nil }

func BenchmarkGiB(b *testing.B) {
	path := bigLog(b)
	b.Run("Open", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			l, err := Open(path)
			if err != nil {
				b.Fatal(err)
			}
			l.Close()
		}
	})
	l, err := Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	random := rand.New(rand.NewPCG(2, 2))
	b.Run("Point and 4 KiB of its View", func(b *testing.B) {
		buf := make([]byte, 4096)
		for b.Loop() {
			if _, err := l.View(none{}, l.Pick(random)).ReadAt(buf, random.Int64N(1<<18)*4096); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("4 KiB of a View", func(b *testing.B) {
		buf := make([]byte, 4096)
		view := l.View(none{}, l.Pick(random))
		for b.Loop() {
			if _, err := view.ReadAt(buf, random.Int64N(1<<18)*4096); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("View of 1 GiB", func(b *testing.B) {
		b.SetBytes(1 << 30)
		for b.Loop() {
			if _, err := io.Copy(io.Discard, io.NewSectionReader(l.View(none{}, l.Pick(random)), 0, 1<<30)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Image of 1 GiB", func(b *testing.B) {
		b.SetBytes(1 << 30)
		for b.Loop() {
			path := filepath.Join(b.TempDir(), "image")
			if err := l.Image(path, none{}, 1<<30, l.Pick(random)); err != nil {
				b.Fatal(err)
			}
			os.Remove(path)
		}
	})
}

// A log may discard a disk as often as it likes: the index does not grow with
// the product of large and small entries.
func BenchmarkManyDiscards(b *testing.B) {
	var entries []Entry
	for i := range int64(100000) {
		entries = append(entries, Entry{Offset: i * 512, Length: 512}, Entry{Length: 100000 * 512, Flags: Discard})
	}
	for b.Loop() {
		x := newIndex(entries)
		b.ReportMetric(float64(len(x.list)), "places")
	}
}

package image

import (
	"bytes"
	"compress/gzip"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"github.com/drydock-os/drydock/testdata/real"
)

// maxFuzzImage keeps the fuzzer's inputs small: what it finds, it finds in the
// structures.
const maxFuzzImage = 1 << 20

// seeds are small images of each kind, made by the real programs (see
// testdata/image/README).
func seeds(tb testing.TB) map[string][]byte {
	tb.Helper()
	paths, err := filepath.Glob(filepath.Join(real.Module(tb), "testdata", "image", "*.gz"))
	if err != nil || len(paths) == 0 {
		tb.Fatalf("no seeds: %v", err)
	}
	out := map[string][]byte{}
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			tb.Fatal(err)
		}
		r, err := gzip.NewReader(f)
		if err != nil {
			tb.Fatal(err)
		}
		data, err := io.ReadAll(r)
		f.Close()
		if err != nil {
			tb.Fatal(err)
		}
		out[filepath.Base(path)] = data
	}
	return out
}

func TestSeedsRead(t *testing.T) {
	for name, img := range seeds(t) {
		if r, err := OSRelease(bytes.NewReader(img), int64(len(img))); err != nil || r.VersionID != "1.2.3" {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

// Each byte of each image is damaged in turn: no reader may fall over it, nor
// hand out more than it was asked for. This finds what a fuzzer takes long
// for, since most bytes of an image matter to nobody. Where only a share of
// them is damaged, each run draws another one.
func TestDamagedImages(t *testing.T) {
	for name, img := range seeds(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			draw := seeded(t)
			for at := range img {
				old := img[at]
				if old == 0 && at%61 != 0 || draw.IntN(damageShare) != 0 { // most of an image is padding
					continue
				}
				img[at] = old ^ 1<<(at%8)
				readAll(t, img)
				img[at] = old
			}
		})
	}
}

// seeded is a source of chance whose seed the test prints. IMAGE_SEED repeats a
// run.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if text := os.Getenv("IMAGE_SEED"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("IMAGE_SEED: %v", err)
		}
		seed = n
	}
	t.Logf("IMAGE_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func TestTruncatedImages(t *testing.T) {
	for _, img := range seeds(t) {
		for size := 0; size < len(img); size += 1 + size/16 {
			readAll(t, img[:size])
		}
	}
}

func readAll(t *testing.T, img []byte) {
	t.Helper()
	const limit = 32 << 10
	for _, name := range []string{"etc/os-release", "big"} {
		data, err := ReadFile(bytes.NewReader(img), int64(len(img)), name, limit)
		if err == nil && len(data) > limit {
			t.Fatalf("%s: %d bytes, limit %d", name, len(data), limit)
		}
	}
}

func FuzzReadFile(f *testing.F) {
	for _, img := range seeds(f) {
		f.Add(img)
	}
	f.Fuzz(func(t *testing.T, img []byte) {
		if len(img) > maxFuzzImage {
			return
		}
		readAll(t, img)
	})
}

func FuzzParseOSRelease(f *testing.F) {
	f.Add([]byte("ID=x\nVERSION_ID=\"1.2\"\n"))
	f.Add([]byte("A='b'\\ c"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseOSRelease(data)
		if err == nil && len(r.Fields) > maxFields {
			t.Fatalf("%d fields", len(r.Fields))
		}
	})
}

// What an image asks for must not be what gets allocated.
func TestHostileImagesStaySmall(t *testing.T) {
	for name, img := range seeds(t) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range 32 {
			readAll(t, img)
		}
		runtime.ReadMemStats(&after)
		if mib := (after.TotalAlloc - before.TotalAlloc) >> 20; mib > 32*16 {
			t.Errorf("%s: %d MiB allocated for 32 readings", name, mib)
		}
	}
}

package payload

import (
	"bytes"
	"context"
	"crypto"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/drydock-os/drydock/testdata/real"
)

// benchImage is the file named by PAYLOAD_BENCH_IMAGE, or 64 MiB that are half
// text-like and half noise.
func benchImage(b *testing.B) *os.File {
	b.Helper()
	path := os.Getenv("PAYLOAD_BENCH_IMAGE")
	if path == "" {
		path = filepath.Join(b.TempDir(), "image")
		if err := os.WriteFile(path, mixedImage(64<<20), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { f.Close() })
	return f
}

// mixedImage has chunks of what compresses like text, and of zeros.
func mixedImage(size int) []byte { return filledImage(size, chunk) }

// lightImage is a mixedImage of which each chunk is zeros behind its first
// 64 KiB: as many chunks and blobs for a tenth of the time to compress them,
// for tests that are about other things.
func lightImage(size int) []byte { return filledImage(size, 64<<10) }

func filledImage(size, full int) []byte {
	r := mathrand.New(mathrand.NewPCG(1, 2))
	image := make([]byte, size)
	words := []byte("keel mast hull sail dock crane winch berth rudder")
	for i := 0; i < size; i += 32 {
		if i/chunk%4 == 3 || i%chunk >= full {
			continue
		}
		line := image[i:min(i+32, size)]
		n := copy(line, words[r.IntN(len(words)-24):][:24])
		for ; n < len(line); n++ {
			line[n] = byte(r.Uint32())
		}
	}
	return image
}

// partitionFile is a block device or file with the room of a partition.
type partitionFile struct {
	*os.File
	size int64
}

func (d partitionFile) Size() int64   { return d.size }
func (d partitionFile) Path() string  { return d.Name() }
func (d partitionFile) Offset() int64 { return 0 }

// Truncate hides that of the file: a partition has the length it has.
func (d partitionFile) Truncate() {}

// loop attaches a loop device of the given size with direct I/O.
func loop(b testing.TB, size int64) partitionFile {
	b.Helper()
	real.Root(b)
	losetup := real.Program(b, "losetup")
	path := filepath.Join(b.TempDir(), "disk")
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Fallocate(int(f.Fd()), 0, 0, size); err != nil {
		b.Fatal(err)
	}
	out, err := exec.Command(losetup, "--direct-io=on", "--find", "--show", path).CombinedOutput()
	if err != nil {
		real.Missing(b, "loop device: "+string(out))
	}
	name := strings.TrimSpace(string(out))
	b.Cleanup(func() { exec.Command(losetup, "-d", name).Run() })
	dev, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { dev.Close() })
	return partitionFile{dev, size}
}

// httpSource reads from a server with Range.
type httpSource string

func (s httpSource) Open(ctx context.Context, offset int64) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, string(s), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// testKey is one of the private keys in testdata that sign nothing but tests.
func testKey(t testing.TB, name string) crypto.Signer {
	t.Helper()
	key, err := ParsePrivateKey(readFile(t, real.Module(t), "testdata", "payload", name+".pem"))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// BenchmarkApply installs a full payload of major 2 from HTTP on loopback onto
// a loop device, synced and read back.
func BenchmarkApply(b *testing.B) {
	image := benchImage(b)
	info, err := image.Stat()
	if err != nil {
		b.Fatal(err)
	}
	key := testKey(b, "rsa2048")
	path := os.Getenv("PAYLOAD_BENCH_PAYLOAD") // kept between runs
	if path == "" {
		path = filepath.Join(b.TempDir(), "payload")
	}
	if _, err := os.Stat(path); err != nil {
		out, err := os.Create(path)
		if err != nil {
			b.Fatal(err)
		}
		if err := Create(b.Context(), out, Spec{Major: 2, Version: "1.0.0", Signers: []crypto.Signer{key},
			Partitions: []Image{{Name: Root, Image: image, Size: info.Size()}}, TempDir: b.TempDir()}); err != nil {
			b.Fatal(err)
		}
		if err := out.Close(); err != nil {
			b.Fatal(err)
		}
	}
	about, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	server := httptest.NewServer(http.FileServer(http.Dir(filepath.Dir(path))))
	defer server.Close()
	dev := loop(b, info.Size())
	b.SetBytes(info.Size())
	var used float64
	workers, _ := strconv.Atoi(os.Getenv("PAYLOAD_BENCH_WORKERS"))
	for b.Loop() {
		b.StopTimer()
		zero(b, dev)
		before := cpu()
		b.StartTimer()
		if _, err := apply(b.Context(), httpSource(server.URL+"/"+filepath.Base(path)), Keys{key.Public()}, map[string]Target{Root: {Device: dev}}, Options{Workers: workers}); err != nil {
			b.Fatal(err)
		}
		used += cpu() - before
	}
	b.ReportMetric(used*1e9/float64(info.Size())/float64(b.N), "cpu-s/GB")
	b.ReportMetric(float64(about.Size())/float64(info.Size()), "payload/image")
}

func zero(b *testing.B, dev partitionFile) {
	b.Helper()
	if out, err := exec.Command("dd", "if=/dev/zero", "of="+dev.Name(), "bs=1M", "oflag=direct").CombinedOutput(); err != nil && !bytes.Contains(out, []byte("No space")) {
		b.Fatal(string(out))
	}
}

func cpu() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

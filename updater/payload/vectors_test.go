package payload

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/ulikunitz/xz"

	"github.com/drydock-os/drydock/testdata/real"
)

// memory is a Device in memory. With file it has the length of what was
// written to it, and can be truncated.
type memory struct {
	mu     sync.Mutex
	b      []byte
	writes int
	syncs  int
}

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return bytes.NewReader(m.b).ReadAt(p, off)
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if off < 0 || off+int64(len(p)) > int64(len(m.b)) {
		return 0, errors.New("write past the device's end")
	}
	m.writes++
	return copy(m.b[off:], p), nil
}

func (m *memory) Sync() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.syncs++
	return nil
}

func (m *memory) Size() int64 { return int64(len(m.b)) }

// file is a Device that is a file, with everything that one may have.
type file struct{ *os.File }

func (f file) Size() int64 {
	info, err := f.Stat()
	if err != nil {
		return 0
	}
	return info.Size()
}
func (f file) Path() string  { return f.Name() }
func (f file) Offset() int64 { return 0 }

func newFile(t testing.TB) file {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(t.TempDir(), "image"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return file{f}
}

func readFile(t testing.TB, elem ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// vector returns the path of one of the upstream tools' payloads, images or
// keys: the project has copies of some.
func vector(t testing.TB, dir, name string) string {
	t.Helper()
	path := filepath.Join(real.Module(t), "testdata", "payload", "upstream", name)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	return real.Shared(t, "vectors", dir, name)
}

func vectorImage(t testing.TB, name string) []byte {
	t.Helper()
	r, err := xz.NewReader(bytes.NewReader(readFile(t, vector(t, "crau", name))))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func vectorKey(t testing.TB, name string) Keys {
	t.Helper()
	keys, err := ParseKeys(readFile(t, vector(t, "keys", name+".pub.pem")))
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// apply opens and applies in one.
func apply(ctx context.Context, src Source, keys Keys, targets map[string]Target, o Options) (Result, error) {
	p, err := Open(ctx, src, keys)
	if err != nil {
		return Result{}, err
	}
	return p.Apply(ctx, targets, o)
}

const newImageSum = "18d23b928d8de5a54f124a3301fdc3ae0d7fa4dfff14b1ddad22a00f3a191021"

func TestUpstreamFullPayloads(t *testing.T) {
	tests := []struct {
		file, key string
		kernel    bool
		want      error
	}{
		{"full_signed.crau", "signer-a", false, nil},
		{"full_signed.crau", "signer-b", false, ErrSignature},
		{"full_kernel_signed.crau", "signer-a", true, nil},
		{"full_kernel_twosigs.crau", "signer-a", true, nil},
		{"full_kernel_twosigs.crau", "signer-b", true, nil},
		{"full_kernel_unsigned.crau", "signer-a", true, ErrUnsigned},
		{"full_rsa4096.crau", "signer-4096", false, nil},
		{"full_rsa4096.crau", "signer-a", false, ErrSignature},
		{"wrongkey.crau", "signer-a", true, ErrSignature},
		{"badmagic.crau", "signer-a", true, ErrBadMagic},
		{"badmanifest.crau", "signer-a", true, ErrOperationHash},
	}
	for _, test := range tests {
		t.Run(test.file+" "+test.key, func(t *testing.T) {
			root, kernel := &memory{b: bytes.Repeat([]byte{0xaa}, 5<<20)}, newFile(t)
			_, err := apply(t.Context(), FileSource(vector(t, "crau", test.file)), vectorKey(t, test.key),
				map[string]Target{Root: {Device: root}, Kernel: {Device: kernel}}, Options{})
			if !errors.Is(err, test.want) {
				t.Fatalf("Apply: %v, want %v", err, test.want)
			}
			if err != nil {
				t.Log(err)
				return
			}
			if got := hexSum(root.b[:4<<20]); got != newImageSum {
				t.Errorf("image is %s, want %s", got, newImageSum)
			}
			if rest := root.b[4<<20:]; !bytes.Equal(rest, bytes.Repeat([]byte{0xaa}, len(rest))) {
				t.Error("the device was written to past the image")
			}
			if want := readFile(t, vector(t, "crau", "new.vmlinuz")); test.kernel && !bytes.Equal(readFile(t, kernel.Name()), want) {
				t.Error("kernel differs")
			}
		})
	}
}

// What the traces served besides: post-install hooks and a PCR policy.
func TestUpstreamPCRPolicy(t *testing.T) {
	path := real.Shared(t, "vectors", "traces", "payloads", "pcr.crau")
	root, kernel, policy := &memory{b: make([]byte, 4<<20)}, newFile(t), newFile(t)
	result, err := apply(t.Context(), FileSource(path), vectorKey(t, "signer-a"),
		map[string]Target{Root: {Device: root}, Kernel: {Device: kernel}, PCRPolicy: {Device: policy}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(result.Partitions) != 3 || kernel.Size() == 0 || policy.Size() == 0 {
		t.Errorf("kernel of %d, policy of %d bytes: %v", kernel.Size(), policy.Size(), result)
	}
}

func TestUpstreamDelta(t *testing.T) {
	src, keys := FileSource(vector(t, "crau", "delta_signed.crau")), vectorKey(t, "signer-a")
	old := vectorImage(t, "old.ext2.img.xz")
	wrong := bytes.Clone(old)
	wrong[3<<20]++
	tests := []struct {
		name           string
		source, target []byte
		want           error
	}{
		{"from the booted slot", old, bytes.Repeat([]byte{0xaa}, 5<<20), nil},
		{"in place", nil, bytes.Clone(old), nil},
		{"wrong source", wrong, bytes.Repeat([]byte{0xaa}, 5<<20), ErrSourceMismatch},
		{"wrong target in place", nil, bytes.Clone(wrong), ErrSourceMismatch},
		{"short source", old[:1<<20], bytes.Repeat([]byte{0xaa}, 5<<20), ErrSourceMismatch},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			root := &memory{b: bytes.Clone(test.target)}
			target := Target{Device: root}
			if test.source != nil {
				target.Source, target.SourceSize = bytes.NewReader(test.source), int64(len(test.source))
			}
			_, err := apply(t.Context(), src, keys, map[string]Target{Root: target}, Options{})
			if !errors.Is(err, test.want) {
				t.Fatalf("Apply: %v, want %v", err, test.want)
			}
			if err != nil {
				if !strings.Contains(err.Error(), "old") && !strings.Contains(err.Error(), "source") || !bytes.Equal(root.b, test.target) {
					t.Errorf("target was touched, or unclear: %v", err)
				}
				return
			}
			if got := hexSum(root.b[:4<<20]); got != newImageSum {
				t.Errorf("image is %s, want %s", got, newImageSum)
			}
		})
	}
}

func writeFile(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

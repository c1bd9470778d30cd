package payload

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/drydock-os/drydock/testdata/real"
	"github.com/drydock-os/drydock/updater/payload/internal/wire"
)

// bytesSource is a payload in memory.
type bytesSource []byte

func (s bytesSource) Open(_ context.Context, offset int64) (io.ReadCloser, error) {
	if offset > int64(len(s)) {
		return nil, errors.New("offset past the end")
	}
	return io.NopCloser(bytes.NewReader(s[offset:])), nil
}

func newSpec(t testing.TB, major int, keys ...string) Spec {
	s := Spec{Major: major, Version: "4.5.6", Expires: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC), TempDir: t.TempDir()}
	for _, name := range keys {
		s.Signers = append(s.Signers, testKey(t, name))
	}
	return s
}

func (s Spec) with(name string, image []byte) Spec {
	s.Partitions = append(slices.Clone(s.Partitions), Image{Name: name, Image: bytes.NewReader(image), Size: int64(len(image))})
	return s
}

func (s Spec) create(t testing.TB) bytesSource {
	t.Helper()
	var out bytes.Buffer
	if err := Create(t.Context(), &out, s); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func publicKeys(signers ...crypto.Signer) Keys {
	var keys Keys
	for _, s := range signers {
		keys = append(keys, s.Public())
	}
	return keys
}

func TestRoundTrip(t *testing.T) {
	kernel := mixedImage(12345)
	policy := []byte("a policy")
	for _, major := range []int{1, 2} {
		for _, signers := range [][]string{{"rsa2048"}, {"rsa4096", "rsa2048"}, {"p256"}, {"p256", "rsa2048"}} {
			if major == 1 && slices.Contains(signers, "p256") {
				continue
			}
			t.Run(fmt.Sprint(major, signers), func(t *testing.T) {
				root := lightImage(1<<20 + 3*BlockSize)
				if signers[0] == "rsa2048" {
					root = mixedImage(len(root))
				}
				spec := newSpec(t, major, signers...).with(Root, root).with(Kernel, kernel).with(PCRPolicy, policy)
				src := spec.create(t)
				for i, signer := range spec.Signers {
					roundTrip(t, src, publicKeys(signer), map[string][]byte{Root: root, Kernel: kernel, PCRPolicy: policy})
					if _, err := Verify(t.Context(), src, publicKeys(signer)); err != nil {
						t.Errorf("Verify with key %d: %v", i, err)
					}
				}
			})
		}
	}
}

// roundTrip applies src to a device for the root and files for the rest.
func roundTrip(t *testing.T, src Source, keys Keys, want map[string][]byte) {
	t.Helper()
	targets := map[string]Target{}
	device := &memory{b: bytes.Repeat([]byte{0xaa}, len(want[Root])+BlockSize)}
	files := map[string]file{}
	for name := range want {
		files[name] = newFile(t)
		files[name].WriteString("what was there before, and is longer than a policy")
		targets[name] = Target{Device: files[name]}
	}
	targets[Root] = Target{Device: device}
	p, err := Open(t.Context(), src, keys)
	if err != nil {
		t.Fatal(err)
	}
	info := p.Info()
	if info.Version != "4.5.6" || info.Expires.Year() != 2030 || info.Delta || !info.Signed || len(info.Partitions) != len(want) {
		t.Errorf("Info: %+v", info)
	}
	var last, total int64
	result, err := p.Apply(t.Context(), targets, Options{Size: info.Size, Progress: func(d, of int64) {
		if d < last {
			t.Errorf("progress went back from %d to %d", last, d)
		}
		last, total = d, of
	}})
	if err != nil {
		t.Fatal(err)
	}
	if last != info.Size || total != info.Size {
		t.Errorf("progress ended at %d of %d, want %d", last, total, info.Size)
	}
	for name, image := range want {
		got := device.b[:len(want[Root])]
		if name != Root {
			got = readFile(t, files[name].Name())
		}
		if !bytes.Equal(got, image) {
			t.Errorf("%s: %d bytes differ from %d written", name, len(got), len(image))
		}
		if fmt.Sprintf("%x", result.Partitions[name]) != hexSum(image) {
			t.Errorf("%s: result says %x", name, result.Partitions[name])
		}
	}
}

// The same release must be the same file wherever it was built: its hash is
// what the server announces.
func TestCreateIsDeterministic(t *testing.T) {
	for _, major := range []int{1, 2} {
		image := lightImage(3<<20 + 100)
		keys := []string{"rsa2048"}
		if major == 2 {
			keys = append(keys, "p256")
		}
		var first []byte
		for _, workers := range []int{1, 2, 7} {
			spec := newSpec(t, major, keys...).with(Root, image)
			spec.Workers = workers
			got := spec.create(t)
			if first == nil {
				first = got
			}
			if !bytes.Equal(got, first) {
				t.Errorf("major %d: %d workers made another payload than one", major, workers)
			}
		}
	}
}

// What old clients of major 1 read instead of procedures: one operation that
// does nothing for each blob of the kernel, and one for the signature.
func TestMajor1IsWrittenAsUpstreamDoes(t *testing.T) {
	spec := newSpec(t, 1, "rsa2048").with(Root, mixedImage(5*BlockSize)).with(Kernel, mixedImage(BlockSize+1))
	m, err := readMetadata(bytes.NewReader(spec.create(t)))
	if err != nil {
		t.Fatal(err)
	}
	var w wire.Manifest1
	if err := proto.Unmarshal(m.manifest(), &w); err != nil {
		t.Fatal(err)
	}
	blob := w.Procedures[0].Operations[0]
	if len(w.NoopOperations) != 2 || w.GetBlockSize() != BlockSize || w.Procedures[0].GetType() != 0 {
		t.Fatalf("manifest: %v", &w)
	}
	for i, want := range [][2]uint64{{blob.GetDataOffset(), blob.GetDataLength()}, {w.GetSignaturesOffset(), w.GetSignaturesSize()}} {
		op := w.NoopOperations[i]
		e := op.DstExtents[0]
		if op.GetDataOffset() != want[0] || op.GetDataLength() != want[1] || op.GetType() != 0 || e.GetStartBlock() != 1<<64-1 {
			t.Errorf("noop %d: %v, want data at %d of %d bytes", i, op, want[0], want[1])
		}
	}
	if op := w.PartitionOperations[0]; op.GetType() != uint32(ReplaceBZ) || op.DstLength != nil || len(op.DataSha256Hash) != 32 {
		t.Errorf("operation: %v", op)
	}
}

func TestWorkersGiveTheSameImage(t *testing.T) {
	image := lightImage(7 << 20)
	spec := newSpec(t, 2, "rsa2048").with(Root, image)
	src := spec.create(t)
	for _, workers := range []int{1, 2, 8} {
		root := &memory{b: make([]byte, len(image))}
		if _, err := apply(t.Context(), src, publicKeys(spec.Signers...), map[string]Target{Root: {Device: root}}, Options{Workers: workers}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(root.b, image) {
			t.Errorf("%d workers wrote another image", workers)
		}
	}
}

// The real thing: O_DIRECT through a descriptor of our own, on a block device
// that is larger than the image.
func TestApplyToLoopDevice(t *testing.T) {
	image := lightImage(10<<20 + 5*BlockSize)
	copy(image[3<<20:], make([]byte, 2<<20)) // chunks of zeros
	spec := newSpec(t, 2, "p256").with(Root, image)
	dev := loop(t, 12<<20)
	if _, err := dev.WriteAt(bytes.Repeat([]byte{0xaa}, 12<<20), 0); err != nil {
		t.Fatal(err)
	}
	if s, err := newSink(dev, 1<<20, 1<<20, BlockSize); err != nil {
		t.Fatal(err)
	} else if s.openDirect(BlockSize); s.direct == nil {
		t.Error("the loop device cannot be opened with O_DIRECT")
	} else {
		s.close()
	}
	if _, err := apply(t.Context(), spec.create(t), publicKeys(spec.Signers...), map[string]Target{Root: {Device: dev}}, Options{}); err != nil {
		t.Fatal(err)
	}
	if got := readFile(t, dev.Name()); !bytes.Equal(got[:len(image)], image) {
		t.Error("the device holds another image")
	} else if !bytes.Equal(got[len(image):], bytes.Repeat([]byte{0xaa}, len(got)-len(image))) {
		t.Error("the device was written to past the image")
	}
}

// A device that answers a read with something else than it was given must not
// pass: what is hashed is what it holds, not what was sent to it.
func TestImageIsReadBackFromTheDevice(t *testing.T) {
	image := lightImage(3 << 20)
	spec := newSpec(t, 2, "rsa2048").with(Root, image).with(Kernel, image)
	src := spec.create(t)
	for name, want := range map[string]error{Root: ErrImageHash, Kernel: ErrKernelHash} {
		targets := map[string]Target{Root: {Device: &memory{b: make([]byte, len(image))}}, Kernel: {Device: &memory{b: make([]byte, len(image))}}}
		targets[name] = Target{Device: &forgetful{memory{b: make([]byte, len(image))}}}
		if _, err := apply(t.Context(), src, publicKeys(spec.Signers...), targets, Options{}); !errors.Is(err, want) || !errors.Is(err, ErrImageHash) {
			t.Errorf("%s on a device that loses a block: %v, want %v", name, err, want)
		}
	}
}

// forgetful is a device that acknowledges a block and does not keep it.
type forgetful struct{ memory }

func (f *forgetful) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.memory.WriteAt(p, off)
	if off <= 2<<20 && off+int64(len(p)) > 2<<20 {
		f.b[2<<20] ^= 1
	}
	return n, err
}

func TestCreateRefuses(t *testing.T) {
	image := mixedImage(10 * BlockSize)
	tests := []struct {
		name string
		spec Spec
	}{
		{"major 3", newSpec(t, 3, "rsa2048").with(Root, image)},
		{"nobody signs", newSpec(t, 2).with(Root, image)},
		{"ECDSA in major 1", newSpec(t, 1, "p256").with(Root, image)},
		{"another partition in major 1", newSpec(t, 1, "rsa2048").with(Root, image).with("boot", image)},
		{"no root in major 1", newSpec(t, 1, "rsa2048").with(Kernel, image)},
		{"a partition twice", newSpec(t, 2, "rsa2048").with("a", image).with("a", image)},
		{"a name that is a path", newSpec(t, 2, "rsa2048").with("../a", image)},
		{"an empty image", newSpec(t, 2, "rsa2048").with(Root, nil)},
		{"an image that ends early", func() Spec {
			s := newSpec(t, 2, "rsa2048").with(Root, image)
			s.Partitions[0].Size++
			return s
		}()},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var out bytes.Buffer
			if err := Create(t.Context(), &out, test.spec); err == nil {
				t.Error("no error")
			} else if out.Len() > 0 {
				t.Errorf("%d bytes were written before: %v", out.Len(), err)
			}
		})
	}
}

func TestParseKeys(t *testing.T) {
	if _, err := ParseKeys(); !errors.Is(err, ErrNoKey) {
		t.Errorf("no key: %v", err)
	}
	if _, err := ParseKeys([]byte("not PEM")); !errors.Is(err, ErrNoKey) {
		t.Errorf("text: %v", err)
	}
	private := readFile(t, real.Module(t), "testdata", "payload", "rsa2048.pem")
	if _, err := ParseKeys(private); err == nil {
		t.Error("a private key passed as a public one")
	}
	if _, err := ParsePrivateKey([]byte("not PEM")); err == nil {
		t.Error("text passed as a private key")
	}
}

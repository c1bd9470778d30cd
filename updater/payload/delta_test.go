package payload

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/drydock-os/drydock/testdata/real"
	"github.com/drydock-os/drydock/updater/payload/internal/wire"
)

// makePatch writes a BSDIFF40 patch: entries of added and inserted lengths and
// seek, and the bytes of the other two streams.
func makePatch(t testing.TB, newSize int64, entries [][3]int64, diff, extra []byte) []byte {
	t.Helper()
	var control []byte
	for _, e := range entries {
		for _, v := range e {
			control = appendOfftin(control, v)
		}
	}
	streams := [][]byte{squeeze(t, control), squeeze(t, diff), squeeze(t, extra)}
	out := []byte(patchMagic)
	out = appendOfftin(out, int64(len(streams[0])))
	out = appendOfftin(out, int64(len(streams[1])))
	out = appendOfftin(out, newSize)
	return append(out, bytes.Join(streams, nil)...)
}

func appendOfftin(b []byte, v int64) []byte {
	u := uint64(v)
	if v < 0 {
		u = uint64(-v) | 1<<63
	}
	return binary.LittleEndian.AppendUint64(b, u)
}

// squeeze compresses also what does not shrink.
func squeeze(t testing.TB, b []byte) []byte {
	t.Helper()
	cmd := exec.Command(real.Program(t, "bzip2"))
	cmd.Stdin = bytes.NewReader(b)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func patch(old, p []byte, newSize int64) ([]byte, error) {
	r, err := newPatchReader(bytes.NewReader(old), int64(len(old)), p, newSize)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

func TestPatch(t *testing.T) {
	old := []byte("0123456789")
	zero := func(n int) []byte { return make([]byte, n) }
	tests := []struct {
		name    string
		size    int64
		entries [][3]int64
		diff    []byte
		extra   string
		want    string // "": refused
	}{
		{"copy", 10, [][3]int64{{10, 0, 0}}, zero(10), "", "0123456789"},
		{"add and insert", 6, [][3]int64{{3, 3, 0}}, []byte{1, 1, 1}, "abc", "123abc"},
		{"seek forth and back", 6, [][3]int64{{2, 0, 4}, {2, 0, -8}, {2, 0, 0}}, zero(6), "", "016701"},
		{"before and past the old data is zero", 4, [][3]int64{{0, 0, -1}, {2, 0, 8}, {2, 0, 0}}, zero(4), "", "\x000" + "9\x00"},
		{"entry that makes nothing", 2, [][3]int64{{0, 0, 8}, {2, 0, 0}}, zero(2), "", "89"},
		{"too long", 5, [][3]int64{{6, 0, 0}}, zero(6), "", ""},
		{"sum overflows", 5, [][3]int64{{5, 1<<63 - 1, 0}}, zero(5), "", ""},
		{"negative add", 5, [][3]int64{{-1, 6, 0}}, zero(5), "abcdef", ""},
		{"negative insert", 5, [][3]int64{{6, -1, 0}}, zero(6), "", ""},
		{"seek overflows", 5, [][3]int64{{1, 0, 1<<63 - 1}, {1, 0, 1<<63 - 1}, {3, 0, 0}}, zero(5), "", ""},
		{"short diff", 5, [][3]int64{{5, 0, 0}}, zero(4), "", ""},
		{"short extra", 5, [][3]int64{{0, 5, 0}}, nil, "abcd", ""},
		{"short control", 5, [][3]int64{{2, 0, 0}}, zero(5), "", ""},
		{"endless entries", 5, make([][3]int64, 10000), zero(5), "", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := patch(old, makePatch(t, test.size, test.entries, test.diff, []byte(test.extra)), test.size)
			if test.want == "" && err == nil || test.want != "" && (err != nil || string(got) != test.want) {
				t.Errorf("patch: %q, %v, want %q", got, err, test.want)
			}
		})
	}
	good := makePatch(t, 10, [][3]int64{{10, 0, 0}}, zero(10), nil)
	for at, b := range map[int]byte{0: 'X', 15: 0x80, 14: 0x7f, 23: 0x80, 22: 0x7f, 24: 11, 31: 0x80} {
		bad := bytes.Clone(good)
		bad[at] = b
		if _, err := patch(old, bad, 10); err == nil {
			t.Errorf("header byte %d as %#x passed", at, b)
		}
	}
}

// What the bsdiff program makes.
func TestPatchOfBsdiff(t *testing.T) {
	bsdiff := real.Program(t, "bsdiff")
	dir := t.TempDir()
	old, new := mixedImage(300000), mixedImage(310000)
	copy(new[1000:], "a few changed words")
	new = append(new[:50000:50000], new[50100:]...)
	files := []string{filepath.Join(dir, "old"), filepath.Join(dir, "new"), filepath.Join(dir, "patch")}
	writeFile(t, files[0], old)
	writeFile(t, files[1], new)
	if out, err := exec.Command(bsdiff, files...).CombinedOutput(); err != nil {
		t.Fatalf("bsdiff: %v: %s", err, out)
	}
	got, err := patch(old, readFile(t, files[2]), int64(len(new)))
	if err != nil || !bytes.Equal(got, new) {
		t.Errorf("patch: %d bytes, %v", len(got), err)
	}
}

// sourceDelta is a delta of major 2 with every operation that there is.
func sourceDelta(t *testing.T, old, new []byte, harm func(ops []Operation)) bytesSource {
	t.Helper()
	sum := func(b []byte) []byte { s := sha256.Sum256(b); return s[:] }
	region := func(b []byte, start, blocks int) []byte { return b[start*BlockSize : (start+blocks)*BlockSize] }
	ops := []Operation{
		{Type: SourceCopy, Source: []Extent{{6, 2}, {0, 1}}, Target: []Extent{{0, 3}},
			SourceSHA256: sum(append(bytes.Clone(region(old, 6, 2)), region(old, 0, 1)...))},
		{Type: SourceBSDiff, Source: []Extent{{2, 1}}, SourceSHA256: sum(region(old, 2, 1)), Target: []Extent{{5, 1}, {3, 1}},
			Data: makePatch(t, 2*BlockSize, [][3]int64{{BlockSize, BlockSize, 0}}, bytes.Repeat([]byte{1}, BlockSize), region(new, 3, 1))},
		{Type: Zero, Target: []Extent{{4, 1}}},
		{Type: Discard, Target: []Extent{{6, 1}}},
		{Type: ReplaceXZ, Target: []Extent{{7, 1}}, Data: squeezeXZ(t, region(new, 7, 1))},
	}
	if harm != nil {
		harm(ops)
	}
	w, err := NewWriter(Header{Major: 2, Signers: []crypto.Signer{testKey(t, "p256")}, TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	w.Partition(Root, int64(len(new)), sum(new), int64(len(old)), sum(old))
	for _, op := range ops {
		if err := w.Add(op); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	if err := w.Write(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func squeezeXZ(t testing.TB, b []byte) []byte {
	t.Helper()
	cmd := exec.Command(real.Program(t, "xz"), "-9", "--check=sha256", "--block-size=1000")
	cmd.Stdin = bytes.NewReader(b)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func deltaImages() (old, new []byte) {
	old = mixedImage(8 * BlockSize)
	block := func(b []byte, i int) []byte { return b[i*BlockSize : (i+1)*BlockSize] }
	new = make([]byte, 8*BlockSize)
	copy(block(new, 0), block(old, 6))
	copy(block(new, 1), block(old, 7))
	copy(block(new, 2), block(old, 0))
	copy(block(new, 3), bytes.Repeat([]byte("fresh"), BlockSize))
	for i, b := range block(old, 2) {
		block(new, 5)[i] = b + 1
	}
	copy(block(new, 7), mixedImage(BlockSize))
	return old, new
}

func TestSourceOperations(t *testing.T) {
	old, new := deltaImages()
	other := bytes.Clone(old)
	other[2*BlockSize+1]++
	tests := []struct {
		name   string
		harm   func(ops []Operation)
		source []byte
		want   error
	}{
		{"right", nil, old, nil},
		{"longer source", nil, append(bytes.Clone(old), 1, 2, 3), nil},
		{"another source", nil, other, ErrSourceMismatch},
		{"no source", nil, nil, ErrSourceMismatch},
		{"short source", nil, old[:7*BlockSize], ErrSourceMismatch},
		{"another source hash", func(ops []Operation) { ops[1].SourceSHA256 = make([]byte, 32) }, old, ErrSourceMismatch},
		{"not a patch", func(ops []Operation) { ops[1].Data = []byte("BSDIFF40") }, old, ErrOperation},
		{"not xz", func(ops []Operation) { ops[4].Data = ops[4].Data[:20] }, old, ErrOperation},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			root := &discarding{memory{b: bytes.Repeat([]byte{0xaa}, len(new))}}
			target := Target{Device: root}
			if test.source != nil {
				target.Source, target.SourceSize = bytes.NewReader(test.source), int64(len(test.source))
			}
			_, err := apply(t.Context(), sourceDelta(t, old, new, test.harm), publicKeys(testKey(t, "p256")), map[string]Target{Root: target}, Options{})
			if !errors.Is(err, test.want) {
				t.Fatalf("Apply: %v, want %v", err, test.want)
			}
			if err == nil && !bytes.Equal(root.b, new) {
				t.Error("another image was written")
			}
		})
	}
}

// A source that changes after it was checked must not reach the target.
func TestSourceIsReadOnce(t *testing.T) {
	old, new := deltaImages()
	root := &memory{b: make([]byte, len(new))}
	target := Target{Device: root, Source: &fickle{b: bytes.Clone(old)}, SourceSize: int64(len(old))}
	if _, err := apply(t.Context(), sourceDelta(t, old, new, nil), publicKeys(testKey(t, "p256")), map[string]Target{Root: target}, Options{Workers: 1}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(root.b, new) {
		t.Error("another image was written")
	}
}

// fickle gives every byte once, and then another.
type fickle struct{ b []byte }

func (f *fickle) ReadAt(p []byte, off int64) (int, error) {
	n, err := bytes.NewReader(f.b).ReadAt(p, off)
	for i := range n {
		f.b[off+int64(i)] ^= 0xff
	}
	return n, err
}

// discarding is a device that fills discarded blocks with what it likes.
type discarding struct{ memory }

func (d *discarding) Discard(off, length int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.b[off : off+length] {
		d.b[off+int64(i)] = 0xdb
	}
	return nil
}

func TestWriterRefusesWhatNoReaderTakes(t *testing.T) {
	sum := make([]byte, 32)
	tests := map[string][]Operation{
		"source hash missing":   {{Type: SourceBSDiff, Source: []Extent{{0, 1}}, Target: []Extent{{0, 1}}, Data: []byte("x")}},
		"written twice":         {{Type: Zero, Target: []Extent{{0, 1}}}, {Type: Zero, Target: []Extent{{0, 1}}}},
		"source past its end":   {{Type: SourceCopy, Source: []Extent{{1, 1}}, Target: []Extent{{0, 1}}}},
		"unknown type":          {{Type: 9, Target: []Extent{{0, 1}}}},
		"copies of other sizes": {{Type: SourceCopy, Source: []Extent{{0, 1}}, Target: []Extent{{0, 2}}}},
	}
	for name, ops := range tests {
		w, err := NewWriter(Header{Major: 2, Signers: []crypto.Signer{testKey(t, "p256")}, TempDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		w.Partition(Root, 2*BlockSize, sum, BlockSize, sum)
		for _, op := range ops {
			if err := w.Add(op); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Write(t.Context(), io.Discard); err == nil {
			t.Errorf("%s: no error", name)
		}
		w.Close()
	}
}

// inPlaceDelta is a delta of major 1 whose operations overlap what they read.
func inPlaceDelta(t *testing.T, old []byte) (forged, []byte) {
	t.Helper()
	hole := uint64(1<<64 - 1)
	new := bytes.Clone(old)
	copy(new[BlockSize:], old[:3*BlockSize]) // MOVE 0-2 to 1-3
	p := makePatch(t, 2*BlockSize-5, [][3]int64{{2*BlockSize - 5, 0, 0}}, bytes.Repeat([]byte{1}, 2*BlockSize-5), nil)
	from := bytes.Clone(new[4*BlockSize : 6*BlockSize])
	clear(new[5*BlockSize : 7*BlockSize])
	for i := range 2*BlockSize - 5 { // BSDIFF 4-5 to 5-6, its end padded
		new[5*BlockSize+i] = from[i] + 1
	}
	text := bytes.Repeat([]byte("x"), BlockSize)
	copy(new[7*BlockSize:], text)
	move := operationOf(Move, 0, nil, 1, 3)
	move.SrcExtents = extentsOf(0, 3)
	diff := operationOf(BSDiff, 0, p, 5, 2)
	diff.SrcExtents, diff.SrcLength, diff.DstLength = extentsOf(4, 2), proto.Uint64(2*BlockSize), proto.Uint64(2*BlockSize-5)
	holes := operationOf(Replace, len(p), append(bytes.Clone(text), text...), hole, 1, 7, 1)
	return forged{
		signers: []crypto.Signer{testKey(t, "rsa2048")}, blobs: bytes.Join([][]byte{p, text, text}, nil),
		m1: &wire.Manifest1{OldPartitionInfo: imageOf(old), NewPartitionInfo: imageOf(new), PartitionOperations: []*wire.Operation{move, diff, holes}},
	}, new
}

func TestInPlaceDelta(t *testing.T) {
	old := mixedImage(8 * BlockSize)
	f, new := inPlaceDelta(t, old)
	src, keys := f.bytes(t), publicKeys(f.signers...)
	root := &memory{b: bytes.Clone(old)}
	if _, err := apply(t.Context(), src, keys, map[string]Target{Root: {Device: root}}, Options{Checkpoint: func([]byte) error {
		t.Error("a delta in place gave a checkpoint")
		return nil
	}, CheckpointBytes: 1}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(root.b, new) {
		t.Error("another image was written")
	}
	if _, err := apply(t.Context(), src, keys, map[string]Target{Root: {Device: root}}, Options{}); !errors.Is(err, ErrSourceMismatch) {
		t.Errorf("applied twice: %v", err)
	}
	if _, err := apply(t.Context(), src, keys, map[string]Target{Root: {Device: &memory{b: bytes.Clone(old)}}}, Options{Resume: make([]byte, 100)}); !errors.Is(err, ErrResume) {
		t.Errorf("resumed: %v", err)
	}
}

// A crash at any write of a delta in place leaves a torn image, and applying
// it again starts from the booted slot.
func TestInPlaceDeltaStartsAgainFromTheCopy(t *testing.T) {
	old := mixedImage(8 * BlockSize)
	f, new := inPlaceDelta(t, old)
	src, keys := f.bytes(t), publicKeys(f.signers...)
	target := func(d Device) map[string]Target {
		return map[string]Target{Root: {Device: d, Source: bytes.NewReader(old), SourceSize: int64(len(old))}}
	}
	for n := 0; ; n++ {
		root := &failing{memory: memory{b: make([]byte, len(old))}, left: n}
		if _, err := apply(t.Context(), src, keys, target(root), Options{}); err == nil {
			break
		}
		again := &memory{b: root.b}
		if _, err := apply(t.Context(), src, keys, target(again), Options{}); err != nil || !bytes.Equal(again.b, new) {
			t.Fatalf("after a crash at write %d: %v", n, err)
		}
	}
}

// Procedures of a type that we do not know are hashed and skipped.
func TestUnknownProcedure(t *testing.T) {
	image := bytes.Repeat([]byte("mast"), BlockSize)
	f := single1(t, image, Replace, image)
	f.blobs = append(bytes.Clone(image), "for another client"...)
	skipped := operationOf(Replace, len(image), f.blobs[len(image):], 0, 256)
	f.m1.Procedures = []*wire.Procedure{{Type: proto.Uint32(7), NewInfo: imageOf([]byte("?")), Operations: []*wire.Operation{skipped}}}
	root := &memory{b: make([]byte, len(image))}
	if _, err := apply(t.Context(), f.bytes(t), publicKeys(f.signers...), map[string]Target{Root: {Device: root}}, Options{}); err != nil || !bytes.Equal(root.b, image) {
		t.Errorf("Apply: %v", err)
	}
	skipped.DataSha256Hash = make([]byte, 32)
	refuse(t, f.bytes(t), publicKeys(f.signers...), ErrOperationHash, false)
}

func TestSkip(t *testing.T) {
	image := mixedImage(1 << 18)
	spec := newSpec(t, 2, "p256").with(Root, image).with(Kernel, image)
	root := &memory{b: make([]byte, len(image))}
	result, err := apply(t.Context(), spec.create(t), publicKeys(spec.Signers...), map[string]Target{Root: {Device: root}}, Options{Skip: []string{Kernel}})
	if err != nil || !bytes.Equal(root.b, image) || len(result.Partitions) != 1 {
		t.Errorf("Apply: %v, %v", result, err)
	}
}

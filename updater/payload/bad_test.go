package payload

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/drydock-os/drydock/updater/payload/internal/wire"
)

func packZstd(t testing.TB, b []byte, options ...zstd.EOption) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil, options...)
	if err != nil {
		t.Fatal(err)
	}
	return e.EncodeAll(b, nil)
}

func packBzip2(t testing.TB, b []byte) []byte {
	t.Helper()
	c := &packed{raw: b}
	if err := packBZ(c); err != nil || c.op.Type != ReplaceBZ {
		t.Fatalf("bzip2 did not shrink it: %v", err)
	}
	return c.op.Data
}

func packXZ(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := xz.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// refuse applies a payload that must not pass, and checks that the target was
// not written to if the payload could be judged before.
func refuse(t *testing.T, src Source, keys Keys, want error, untouched bool) {
	t.Helper()
	for _, workers := range []int{1, 3} {
		root := &memory{b: make([]byte, 16*BlockSize)}
		_, err := apply(t.Context(), src, keys, map[string]Target{Root: {Device: root}, Kernel: {Device: root}}, Options{Workers: workers})
		if !errors.Is(err, want) {
			t.Fatalf("Apply with %d workers: %v, want %v", workers, err, want)
		}
		if untouched && root.writes > 0 {
			t.Errorf("the target was written to before: %v", err)
		}
		if workers == 1 {
			t.Log(err)
		}
	}
}

// What a manifest says is judged before the first byte of a target changes.
func TestBadManifest(t *testing.T) {
	image := bytes.Repeat([]byte("ship "), 4*BlockSize/5+1)[:4*BlockSize]
	hole := uint64(1<<64 - 1)
	tests := []struct {
		name  string
		harm  func(f *forged)
		want  error
		major int // 0: both
	}{
		{"hash missing", func(f *forged) { f.operation().DataSha256Hash = nil }, ErrOperationHashMissing, 0},
		{"hash of 20 bytes", func(f *forged) { f.operation().DataSha256Hash = make([]byte, 20) }, ErrOperationHashMissing, 0},
		{"no data and a hash", func(f *forged) { f.operation().DataLength = nil }, ErrOperationHash, 0},
		{"no data", func(f *forged) { f.operation().DataLength, f.operation().DataSha256Hash = nil, nil }, ErrOperation, 0},
		{"data elsewhere", func(f *forged) { f.operation().DataOffset = proto.Uint64(1) }, ErrOperation, 0},
		{"data of 2^64-1 bytes", func(f *forged) { f.operation().DataLength = proto.Uint64(hole) }, ErrTooLarge, 0},
		{"data of 2^63 bytes", func(f *forged) { f.operation().DataLength = proto.Uint64(1 << 63) }, ErrTooLarge, 0},
		{"unknown type", func(f *forged) { f.operation().Type = proto.Uint32(14) }, ErrOperation, 0},
		{"no type", func(f *forged) { f.operation().Type = nil }, ErrOperation, 0},
		{"type of major 2", func(f *forged) { f.operation().Type = proto.Uint32(uint32(ReplaceZstd)) }, ErrOperation, 1},
		{"type of major 1", func(f *forged) { f.operation().Type = proto.Uint32(uint32(BSDiff)) }, ErrOperation, 2},
		{"source extents", func(f *forged) { f.operation().SrcExtents = extentsOf(0, 1) }, ErrOperation, 0},
		{"no destination", func(f *forged) { f.operation().DstExtents = nil }, ErrOperation, 0},
		{"empty extent", func(f *forged) { f.operation().DstExtents = extentsOf(0, 0) }, ErrOperation, 0},
		{"extent past the image", func(f *forged) { f.operation().DstExtents = extentsOf(4, 4) }, ErrOperation, 0},
		{"extent not the last runs over", func(f *forged) { f.operation().DstExtents = extentsOf(2, 4, 0, 2) }, ErrOperation, 0},
		{"extent that overflows", func(f *forged) { f.operation().DstExtents = extentsOf(hole-1, 2) }, ErrOperation, 0},
		{"extent of 2^64-1 blocks", func(f *forged) { f.operation().DstExtents = extentsOf(0, hole) }, ErrOperation, 0},
		{"extents that add up to 2^64", func(f *forged) {
			f.operation().DstExtents = extentsOf(0, 1<<52, 0, 1<<52, 0, 1<<52)
		}, ErrOperation, 0},
		{"sparse hole", func(f *forged) { f.operation().DstExtents = extentsOf(hole, 4) }, ErrOperation, 2},
		{"overlapping extents", func(f *forged) { f.operation().DstExtents = extentsOf(0, 3, 2, 1) }, ErrOperation, 2},
		{"block size 0", func(f *forged) { f.blockSize(0) }, ErrManifest, 0},
		{"block size 4095", func(f *forged) { f.blockSize(4095) }, ErrManifest, 0},
		{"block size 2^31", func(f *forged) { f.blockSize(1 << 31) }, ErrManifest, 0},
		{"no new image", func(f *forged) { f.image(nil) }, ErrManifest, 0},
		{"image of 2^63 bytes", func(f *forged) { f.image(&wire.ImageInfo{Size: proto.Uint64(1 << 63), Hash: make([]byte, 32)}) }, ErrTooLarge, 0},
		{"image without a hash", func(f *forged) { f.image(&wire.ImageInfo{Size: proto.Uint64(4 * BlockSize)}) }, ErrManifest, 0},
		{"image larger than the slot", func(f *forged) { f.image(&wire.ImageInfo{Size: proto.Uint64(17 * BlockSize), Hash: make([]byte, 32)}) }, ErrTargetTooSmall, 0},
		{"partition twice", func(f *forged) { f.m2.Partitions = append(f.m2.Partitions, f.m2.Partitions[0]) }, ErrManifest, 2},
		{"partition name", func(f *forged) { f.m2.Partitions[0].PartitionName = proto.String("../root") }, ErrManifest, 2},
		{"no partitions", func(f *forged) { f.m2.Partitions = nil }, ErrManifest, 2},
		{"operations of major 1", func(f *forged) { f.m2.InstallOperations = f.m2.Partitions[0].Operations }, ErrManifest, 2},
		{"newer minor version", func(f *forged) { f.m2.MinorVersion = proto.Uint32(9) }, ErrVersion, 2},
		{"no target for a partition", func(f *forged) { f.m2.Partitions[0].PartitionName = proto.String("boot") }, ErrNoTarget, 2},
		{"reads an old image that it does not name", func(f *forged) {
			f.m2.Partitions[0].Operations = []*wire.Operation{{Type: proto.Uint32(uint32(SourceCopy)), SrcExtents: extentsOf(0, 4), DstExtents: extentsOf(0, 4)}}
			f.blobs = nil
		}, ErrOperation, 2},
		{"signatures past the data", func(f *forged) {
			f.signaturesAt(uint64(len(f.blobs))+1, 72)
		}, ErrManifest, 0},
		{"signatures of 2^63 bytes", func(f *forged) { f.signaturesAt(uint64(len(f.blobs)), 1<<63) }, ErrTooLarge, 0},
		{"no signature", func(f *forged) { f.signaturesAt(uint64(len(f.blobs)), 0) }, ErrManifest, 0},
	}
	for _, test := range tests {
		for major, f := range map[int]forged{1: single1(t, image, Replace, image), 2: single(t, image, Replace, image)} {
			if test.major == 0 || test.major == major {
				t.Run(test.name, func(t *testing.T) {
					test.harm(&f)
					refuse(t, f.bytes(t), publicKeys(f.signers...), test.want, true)
				})
			}
		}
	}
}

func (f *forged) blockSize(n uint32) {
	if f.m1 != nil {
		f.m1.BlockSize = proto.Uint32(n)
	} else {
		f.m2.BlockSize = proto.Uint32(n)
	}
}

func (f *forged) image(info *wire.ImageInfo) {
	if f.m1 != nil {
		f.m1.NewPartitionInfo = info
	} else {
		f.m2.Partitions[0].NewPartitionInfo = info
	}
}

func (f *forged) signaturesAt(offset, size uint64) {
	if f.m1 != nil {
		f.m1.SignaturesOffset, f.m1.SignaturesSize = proto.Uint64(offset), proto.Uint64(size)
	} else {
		f.m2.SignaturesOffset, f.m2.SignaturesSize = proto.Uint64(offset), proto.Uint64(size)
	}
}

func TestBadHeader(t *testing.T) {
	image := make([]byte, BlockSize)
	f := single(t, image, Replace, image)
	good := f.bytes(t)
	keys := publicKeys(f.signers...)
	set := func(at int, b ...byte) bytesSource {
		out := bytes.Clone(good)
		copy(out[at:], b)
		return out
	}
	many := single1(t, image, Replace, image).bytes(t)[:header1Size]
	for range maxMessages + 1 { // each two bytes long
		many = append(protowire.AppendTag(many, 1, protowire.BytesType), 0)
	}
	binary.BigEndian.PutUint64(many[12:], uint64(len(many)-header1Size))
	tests := []struct {
		name string
		src  Source
		want error
	}{
		{"nothing", bytesSource{}, ErrDownload},
		{"half a header", good[:10], ErrDownload},
		{"half a manifest", good[:60], ErrDownload},
		{"other magic", set(0, 'c'), ErrBadMagic},
		{"major 3", set(11, 3), ErrVersion},
		{"major 2^63", set(4, 0x80), ErrVersion},
		{"manifest of 2^63 bytes", set(12, 0x80), ErrTooLarge},
		{"manifest of 16 MiB and one", set(12, 0, 0, 0, 0, 1, 0, 0, 1), ErrTooLarge},
		{"metadata signature of 2^32-1 bytes", set(20, 0xff, 0xff, 0xff, 0xff), ErrTooLarge},
		{"a flipped bit in the manifest", set(40, good[40]^1), ErrSignature},
		{"a million messages", many, ErrTooLarge},
		{"source that does not open", failingSource{}, ErrDownload},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { refuse(t, test.src, keys, test.want, true) })
	}
}

type failingSource struct{}

func (failingSource) Open(context.Context, int64) (io.ReadCloser, error) {
	return nil, io.ErrClosedPipe
}

func TestNoKey(t *testing.T) {
	for _, keys := range []Keys{nil, {}} {
		if _, err := Open(t.Context(), failingSource{}, keys); !errors.Is(err, ErrNoKey) {
			t.Errorf("Open: %v", err)
		}
		if _, err := Verify(t.Context(), failingSource{}, keys); !errors.Is(err, ErrNoKey) {
			t.Errorf("Verify: %v", err)
		}
	}
}

// Classes of fault that other updaters had in how they take signatures.
func TestSignatures(t *testing.T) {
	image := bytes.Repeat([]byte("mast"), BlockSize)
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	stranger := Keys{other.Public()}
	twice := func(list *wire.Signatures) { list.Signatures = append(list.Signatures, list.Signatures[0]) }
	tests := []struct {
		name string
		make func(f *forged)
		keys Keys
		want error
	}{
		{"a trusted key", func(*forged) {}, nil, nil},
		{"another key", func(*forged) {}, stranger, ErrSignature},
		{"a duplicate of a good signature gains nothing and does no harm", func(f *forged) { f.mangle = twice }, nil, nil},
		{"a duplicate of an untrusted signature does not count", func(f *forged) { f.mangle = twice }, stranger, ErrSignature},
		{"no signature in the list", func(f *forged) {
			f.mangle = func(list *wire.Signatures) {
				list.Signatures = nil
				list.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 9, protowire.VarintType), 1))
			}
		}, nil, ErrUnsigned},
		{"an empty signature", func(f *forged) { f.mangle = func(list *wire.Signatures) { list.Signatures[0].Data = nil } }, nil, ErrSignature},
		{"padding longer than the signature", func(f *forged) {
			f.mangle = func(list *wire.Signatures) { list.Signatures[0].UnpaddedSignatureSize = proto.Uint32(1 << 31) }
		}, nil, ErrSignature},
		{"not a list", func(f *forged) {
			f.mangle = func(list *wire.Signatures) {
				list.ProtoReflect().SetUnknown([]byte{0xff})
			}
		}, nil, ErrSignature},
		{"one good of two", func(f *forged) { f.signers = append([]crypto.Signer{testKey(t, "rsa4096")}, f.signers...) }, nil, nil},
	}
	for _, test := range tests {
		for _, f := range []forged{single(t, image, Replace, image), single1(t, image, Replace, image)} {
			t.Run(test.name, func(t *testing.T) {
				keys := test.keys
				if keys == nil {
					keys = publicKeys(f.signers...)
				}
				major2 := f.m2 != nil
				test.make(&f)
				src := f.bytes(t)
				if test.want != nil {
					refuse(t, src, keys, test.want, major2)
				} else if _, err := Verify(t.Context(), src, keys); err != nil {
					t.Errorf("Verify: %v", err)
				}
			})
		}
	}
}

func TestUnsignedMetadata(t *testing.T) {
	image := make([]byte, BlockSize)
	f := single(t, image, Replace, image)
	f.unsafe = true
	refuse(t, f.bytes(t), publicKeys(f.signers...), ErrUnsigned, true)
	info, err := Inspect(t.Context(), f.bytes(t))
	if err != nil || info.Signed {
		t.Errorf("Inspect: %+v, %v", info, err)
	}
}

// Blobs that are not what they seem.
func TestBadBlob(t *testing.T) {
	image := bytes.Repeat([]byte("hull "), 4*BlockSize/5+1)[:4*BlockSize]
	bomb := make([]byte, 3<<20)
	longer, shorter := append(bytes.Clone(image), 1), image[:3*BlockSize]
	frame, stream := packZstd(t, image), packXZ(t, image)
	tests := []struct {
		name string
		kind OperationType
		blob []byte
		want error
	}{
		{"zstd bomb", ReplaceZstd, packZstd(t, bomb), ErrOperation},
		{"zstd bomb of many frames", ReplaceZstd, bytes.Repeat(packZstd(t, bomb[:1<<20]), 3), ErrOperation},
		{"zstd of one byte more", ReplaceZstd, packZstd(t, longer), ErrOperation},
		{"zstd of a block less", ReplaceZstd, packZstd(t, shorter), ErrOperation},
		{"zstd with trailing data", ReplaceZstd, append(bytes.Clone(frame), "more"...), ErrOperation},
		{"zstd cut short", ReplaceZstd, frame[:len(frame)-1], ErrOperation},
		{"zstd with a window of 512 MiB", ReplaceZstd, hugeWindow(frame), ErrOperation},
		{"zstd in several frames", ReplaceZstd, append(packZstd(t, image[:5000]), packZstd(t, image[5000:])...), nil},
		{"not zstd", ReplaceZstd, image[:100], ErrOperation},
		{"bzip2 bomb", ReplaceBZ, packBzip2(t, bomb), ErrOperation},
		{"bzip2 of one byte more", ReplaceBZ, packBzip2(t, longer), ErrOperation},
		{"bzip2 of a block less", ReplaceBZ, packBzip2(t, shorter), ErrOperation},
		{"bzip2 with trailing data", ReplaceBZ, append(packBzip2(t, image), "more"...), ErrOperation},
		{"bzip2 cut short", ReplaceBZ, packBzip2(t, image)[:30], ErrOperation},
		{"not bzip2", ReplaceBZ, image[:100], ErrOperation},
		{"plain of one byte more", Replace, longer, ErrOperation},
		{"plain of a block less", Replace, shorter, ErrOperation},
		{"xz bomb", ReplaceXZ, packXZ(t, bomb), ErrOperation},
		{"xz bomb of many streams", ReplaceXZ, bytes.Repeat(packXZ(t, bomb[:1<<20]), 3), ErrOperation},
		{"xz of one byte more", ReplaceXZ, packXZ(t, longer), ErrOperation},
		{"xz of a block less", ReplaceXZ, packXZ(t, shorter), ErrOperation},
		{"xz with trailing data", ReplaceXZ, append(packXZ(t, image), "more"...), ErrOperation},
		{"xz with another stream behind it", ReplaceXZ, append(packXZ(t, image), packXZ(t, image)...), ErrOperation},
		{"xz cut short", ReplaceXZ, stream[:len(stream)-1], ErrOperation},
		{"xz cut in its data", ReplaceXZ, stream[:len(stream)/2], ErrOperation},
		{"xz cut behind its data", ReplaceXZ, stream[:len(stream)-24], ErrOperation},
		{"xz whole", ReplaceXZ, stream, nil},
		{"not xz", ReplaceXZ, image[:100], ErrOperation},
		{"another image", Replace, bytes.Repeat([]byte{1}, len(image)), ErrImageHash},
	}
	for _, test := range tests {
		for _, f := range []forged{single(t, image, test.kind, test.blob), single1(t, image, test.kind, test.blob)} {
			if f.m1 != nil && !operationRules[test.kind].majors[1] {
				continue
			}
			t.Run(test.name, func(t *testing.T) {
				if test.want != nil {
					refuse(t, f.bytes(t), publicKeys(f.signers...), test.want, false)
					return
				}
				root := &memory{b: make([]byte, len(image))}
				if _, err := apply(t.Context(), f.bytes(t), publicKeys(f.signers...), map[string]Target{Root: {Device: root}}, Options{}); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// hugeWindow gives a frame with the header of a window of 512 MiB and no
// content size (RFC 8878, 3.1.1.1).
func hugeWindow(frame []byte) []byte {
	var h zstd.Header
	if err := h.Decode(frame); err != nil {
		panic(err)
	}
	out := append(bytes.Clone(frame[:4]), 0, 19<<3) // 2^(10+19) bytes
	return append(out, frame[h.HeaderSize:]...)
}

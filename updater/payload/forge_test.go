package payload

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"encoding/binary"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/drydock-os/drydock/updater/payload/internal/wire"
)

// forged is a payload to be made by hand, with any mistake in it that a test
// wants, and good signatures over it.
type forged struct {
	m1      *wire.Manifest1
	m2      *wire.Manifest2
	blobs   []byte
	signers []crypto.Signer
	tail    []byte // after the signatures
	mangle  func(signatures *wire.Signatures)
	unsafe  bool // the metadata is not signed
}

func (f forged) bytes(t testing.TB) bytesSource {
	t.Helper()
	major, message := 1, proto.Message(f.m1)
	if f.m2 != nil {
		major, message = 2, f.m2
	}
	if f.m1 != nil && f.m1.SignaturesOffset == nil {
		f.m1.SignaturesOffset, f.m1.SignaturesSize = proto.Uint64(uint64(len(f.blobs))), proto.Uint64(uint64(f.signatureSize(t)))
	}
	if f.m2 != nil && f.m2.SignaturesOffset == nil {
		f.m2.SignaturesOffset, f.m2.SignaturesSize = proto.Uint64(uint64(len(f.blobs))), proto.Uint64(uint64(f.signatureSize(t)))
	}
	manifest, err := marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	out.WriteString(magic)
	binary.Write(&out, binary.BigEndian, uint64(major))
	binary.Write(&out, binary.BigEndian, uint64(len(manifest)))
	if major == 2 {
		size := f.signatureSize(t)
		if f.unsafe {
			size = 0
		}
		binary.Write(&out, binary.BigEndian, uint32(size))
	}
	out.Write(manifest)
	signed := bytes.Clone(out.Bytes())
	if major == 2 && !f.unsafe {
		out.Write(f.signatures(t, signed))
	}
	out.Write(f.blobs)
	out.Write(f.signatures(t, append(signed, f.blobs...)))
	out.Write(f.tail)
	return out.Bytes()
}

func (f forged) signatures(t testing.TB, signed []byte) []byte {
	t.Helper()
	digest := sha256.Sum256(signed)
	raw, err := sign(f.signers, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	if f.mangle != nil {
		var list wire.Signatures
		if err := proto.Unmarshal(raw, &list); err != nil {
			t.Fatal(err)
		}
		f.mangle(&list)
		if raw, err = marshal(&list); err != nil {
			t.Fatal(err)
		}
	}
	return raw
}

func (f forged) signatureSize(t testing.TB) int { return len(f.signatures(t, nil)) }

func imageOf(b []byte) *wire.ImageInfo {
	sum := sha256.Sum256(b)
	return &wire.ImageInfo{Size: proto.Uint64(uint64(len(b))), Hash: sum[:]}
}

func extentsOf(pairs ...uint64) []*wire.Extent {
	var out []*wire.Extent
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, &wire.Extent{StartBlock: proto.Uint64(pairs[i]), NumBlocks: proto.Uint64(pairs[i+1])})
	}
	return out
}

// operationOf makes an operation over a blob that begins at offset.
func operationOf(kind OperationType, offset int, blob []byte, dst ...uint64) *wire.Operation {
	op := &wire.Operation{Type: proto.Uint32(uint32(kind)), DstExtents: extentsOf(dst...)}
	if len(blob) > 0 {
		sum := sha256.Sum256(blob)
		op.DataOffset, op.DataLength, op.DataSha256Hash = proto.Uint64(uint64(offset)), proto.Uint64(uint64(len(blob))), sum[:]
	}
	return op
}

// single is a major 2 payload of one operation that makes image.
func single(t testing.TB, image []byte, kind OperationType, blob []byte) forged {
	blocks := uint64(len(image)+BlockSize-1) / BlockSize
	return forged{
		signers: []crypto.Signer{testKey(t, "p256")}, blobs: blob,
		m2: &wire.Manifest2{Partitions: []*wire.Partition{{
			PartitionName: proto.String(Root), NewPartitionInfo: imageOf(image),
			Operations: []*wire.Operation{operationOf(kind, 0, blob, 0, blocks)},
		}}},
	}
}

// single1 is the same of major 1.
func single1(t testing.TB, image []byte, kind OperationType, blob []byte) forged {
	f := single(t, image, kind, blob)
	part := f.m2.Partitions[0]
	f.m1, f.m2 = &wire.Manifest1{PartitionOperations: part.Operations, NewPartitionInfo: part.NewPartitionInfo}, nil
	f.signers = []crypto.Signer{testKey(t, "rsa2048")}
	return f
}

// operation is the first one, of whichever major.
func (f forged) operation() *wire.Operation {
	if f.m2 != nil {
		return f.m2.Partitions[0].Operations[0]
	}
	return f.m1.PartitionOperations[0]
}

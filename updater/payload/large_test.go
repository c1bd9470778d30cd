package payload

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"io"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/drydock-os/drydock/updater/payload/internal/wire"
)

// repeating is a payload of major 1 whose blobs are one chunk over and over.
type repeating struct {
	head  []byte
	chunk []byte
	times int
	tail  []byte
}

func (r repeating) Open(_ context.Context, offset int64) (io.ReadCloser, error) {
	if offset != 0 {
		return nil, errors.ErrUnsupported
	}
	readers := []io.Reader{bytes.NewReader(r.head)}
	for range r.times {
		readers = append(readers, bytes.NewReader(r.chunk))
	}
	return io.NopCloser(io.MultiReader(append(readers, bytes.NewReader(r.tail))...)), nil
}

// A signature that covers only the first 2 GiB, and offsets beyond them (RAUC
// CVE-2026-34155).
func TestSignatureCoversMoreThan2GiB(t *testing.T) {
	if testing.Short() {
		t.Skip("hashes 2 GiB several times")
	}
	key := testKey(t, "rsa2048")
	r := repeating{chunk: mixedImage(chunk), times: 2<<10 + 3}
	size := int64(r.times) * chunk
	image := sha256.New() // of no matter what: it is not applied
	m := &wire.Manifest1{
		NewPartitionInfo: &wire.ImageInfo{Size: proto.Uint64(uint64(size)), Hash: image.Sum(nil)},
		SignaturesOffset: proto.Uint64(uint64(size)), SignaturesSize: proto.Uint64(uint64(signaturesSize([]crypto.Signer{key}))),
	}
	one := operationOf(Replace, 0, r.chunk)
	for i := range r.times {
		op := proto.Clone(one).(*wire.Operation)
		op.DataOffset, op.DstExtents = proto.Uint64(uint64(i)*chunk), extentsOf(uint64(i)*256, 256)
		m.PartitionOperations = append(m.PartitionOperations, op)
	}
	f := forged{m1: m, signers: []crypto.Signer{key}}
	r.head = f.bytes(t)
	r.head = r.head[:len(r.head)-f.signatureSize(t)]

	h := sha256.New()
	h.Write(r.head)
	var part []byte
	for n := range r.times {
		if n == 2<<30/chunk {
			part = h.Sum(nil)
		}
		h.Write(r.chunk)
	}
	for _, test := range []struct {
		digest []byte
		want   error
	}{{h.Sum(nil), nil}, {part, ErrSignature}} {
		var err error
		if r.tail, err = sign(f.signers, test.digest); err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(t.Context(), r, publicKeys(key)); !errors.Is(err, test.want) {
			t.Errorf("Verify: %v, want %v", err, test.want)
		}
	}
}

// An image whose blocks lie beyond 4 GiB: what was written there is found
// there.
func TestExtentsBeyond4GiB(t *testing.T) {
	const blocks = 5 << 30 / BlockSize
	f := frame{major: 2, blockSize: BlockSize, newBlocks: blocks}
	op, err := f.operation(operationOf(Replace, 0, make([]byte, BlockSize), blocks-1, 1))
	if err != nil {
		t.Fatal(err)
	}
	dev := &far{}
	s, err := newSink(dev, blocks*BlockSize, blocks*BlockSize, BlockSize)
	if err != nil {
		t.Fatal(err)
	}
	w := extentWriter{sink: s, op: &op, blockSize: BlockSize}
	if err := w.last(make([]byte, BlockSize), BlockSize, BlockSize); err != nil {
		t.Fatal(err)
	}
	if dev.at != 5<<30-BlockSize || dev.n != BlockSize {
		t.Errorf("%d bytes at %d", dev.n, dev.at)
	}
}

// far is a device of 8 GiB that remembers the last write.
type far struct {
	at int64
	n  int
}

func (f *far) ReadAt([]byte, int64) (int, error) { return 0, io.EOF }
func (f *far) WriteAt(p []byte, off int64) (int, error) {
	f.at, f.n = off, len(p)
	return len(p), nil
}
func (f *far) Sync() error { return nil }
func (f *far) Size() int64 { return 8 << 30 }

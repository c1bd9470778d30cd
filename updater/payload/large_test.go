package payload

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/drydock-os/drydock/updater/payload/internal/wire"
)

// repeating is a payload whose blobs are one chunk over and over: as long as one
// likes, and no larger in memory than its manifest.
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
// CVE-2026-34155): of both majors, whose payload signatures cover different
// bytes. It takes what SHA-256 takes for 2 GiB, and 1 MiB of them in memory.
func TestSignatureCoversMoreThan2GiB(t *testing.T) {
	if testing.Short() {
		t.Skip("hashes 2 GiB several times")
	}
	for major, signer := range map[int]string{1: "rsa2048", 2: "p256"} {
		t.Run(fmt.Sprint("major ", major), func(t *testing.T) {
			t.Parallel()
			f, r := endless(t, testKey(t, signer), major)
			whole, part := f.digests(r)
			for _, test := range []struct {
				digest []byte
				want   error
			}{{whole, nil}, {part, ErrSignature}} {
				var err error
				if r.tail, err = sign(f.signers, test.digest); err != nil {
					t.Fatal(err)
				}
				if _, err := Verify(t.Context(), r, publicKeys(f.signers...)); !errors.Is(err, test.want) {
					t.Errorf("Verify: %v, want %v", err, test.want)
				}
			}
		})
	}
}

// endless is a payload of 2 GiB and 3 MiB that still lacks its signatures.
func endless(t *testing.T, key crypto.Signer, major int) (forged, repeating) {
	r := repeating{chunk: mixedImage(chunk), times: 2<<10 + 3}
	size := uint64(r.times) * chunk
	one := operationOf(Replace, 0, r.chunk)
	var ops []*wire.Operation
	for i := range uint64(r.times) {
		op := proto.Clone(one).(*wire.Operation)
		op.DataOffset, op.DstExtents = proto.Uint64(i*chunk), extentsOf(i*256, 256)
		ops = append(ops, op)
	}
	image := &wire.ImageInfo{Size: proto.Uint64(size), Hash: make([]byte, sha256.Size)} // no matter what: it is not applied
	f := forged{signers: []crypto.Signer{key}}
	at, long := proto.Uint64(size), proto.Uint64(uint64(signaturesSize(f.signers)))
	if major == 1 {
		f.m1 = &wire.Manifest1{NewPartitionInfo: image, PartitionOperations: ops, SignaturesOffset: at, SignaturesSize: long}
	} else {
		part := &wire.Partition{PartitionName: proto.String(Root), NewPartitionInfo: image, Operations: ops}
		f.m2 = &wire.Manifest2{Partitions: []*wire.Partition{part}, SignaturesOffset: at, SignaturesSize: long}
	}
	r.head = f.bytes(t)
	r.head = r.head[:len(r.head)-f.signatureSize(t)]
	return f, r
}

// digests are that of all that the payload signature covers, and that of its
// first 2 GiB of blobs alone.
func (f forged) digests(r repeating) (whole, part []byte) {
	h := sha256.New()
	if f.m2 != nil { // it leaves out the metadata signature
		h.Write(r.head[:len(r.head)-int(binary.BigEndian.Uint32(r.head[header1Size:]))])
	} else {
		h.Write(r.head)
	}
	for n := range r.times {
		if n == 2<<30/chunk {
			part = h.Sum(nil)
		}
		h.Write(r.chunk)
	}
	return h.Sum(nil), part
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

package payload

import (
	"bufio"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/drydock-os/drydock/updater/payload/internal/wire"
)

// BlockSize is the block size of the payloads that are written here.
const BlockSize = 4096

// A Header says what a Writer's payload is, apart from its images.
type Header struct {
	// Major is 1 or 2.
	Major int
	// Version of the release and the end of its validity; signed with the
	// rest. The zero time does not expire.
	Version string
	Expires time.Time
	// Signers sign in this order; at least one. Major 1 takes RSA only.
	Signers []crypto.Signer
	// TempDir holds the blobs until the manifest that precedes them is
	// known; "" is os.TempDir().
	TempDir string
}

// An Operation is a prepared step of a payload: FORMAT.md §2. Extents are in
// blocks of BlockSize. A blob is hashed by the Writer; SourceSHA256 is that of
// what the source extents hold.
type Operation struct {
	Type         OperationType
	Data         []byte
	Source       []Extent
	SourceLength int64 // bytes, for BSDIFF and SOURCE_BSDIFF; 0 is all of Source
	SourceSHA256 []byte
	Target       []Extent
	TargetLength int64 // bytes, for BSDIFF and SOURCE_BSDIFF; 0 is all of Target
}

// A Writer puts a payload together from operations: first Partition, then its
// operations with Add, and so on, then WriteTo. Close frees the spooled blobs.
type Writer struct {
	header Header
	spool  *os.File
	out    *bufio.Writer
	offset uint64
	parts  []*wire.Partition
}

// NewWriter begins a payload.
func NewWriter(h Header) (*Writer, error) {
	if err := h.validate(); err != nil {
		return nil, fmt.Errorf("write payload: %w", err)
	}
	spool, err := os.CreateTemp(h.TempDir, "payload-")
	if err != nil {
		return nil, fmt.Errorf("write payload: %w", err)
	}
	os.Remove(spool.Name()) // it lives as long as it is open
	return &Writer{header: h, spool: spool, out: bufio.NewWriterSize(spool, chunk)}, nil
}

func (h Header) validate() error {
	if h.Major != 1 && h.Major != 2 {
		return fmt.Errorf("%w: major %d", ErrVersion, h.Major)
	}
	if len(h.Signers) == 0 {
		return fmt.Errorf("%w: nobody signs", ErrNoKey)
	}
	for _, s := range h.Signers {
		if err := checkKey(s.Public()); err != nil {
			return err
		}
		if _, ok := s.Public().(*ecdsa.PublicKey); ok && h.Major == 1 {
			return errors.New("major 1 is signed with RSA only")
		}
	}
	return nil
}

// Partition begins an image of size bytes and SHA-256 hash. A delta also names
// the old image that its operations read; otherwise oldSize is 0.
func (w *Writer) Partition(name string, size int64, hash []byte, oldSize int64, oldHash []byte) {
	part := &wire.Partition{
		PartitionName:    proto.String(name),
		NewPartitionInfo: &wire.ImageInfo{Size: proto.Uint64(uint64(size)), Hash: hash},
	}
	if oldSize > 0 {
		part.OldPartitionInfo = &wire.ImageInfo{Size: proto.Uint64(uint64(oldSize)), Hash: oldHash}
	}
	w.parts = append(w.parts, part)
}

// Add appends an operation to the partition begun last.
func (w *Writer) Add(op Operation) error {
	if len(w.parts) == 0 {
		return errors.New("add operation: no partition was begun")
	}
	o := &wire.Operation{
		Type: proto.Uint32(uint32(op.Type)), SrcExtents: wireExtents(op.Source), DstExtents: wireExtents(op.Target),
		SrcSha256Hash: op.SourceSHA256,
	}
	if len(op.Data) > 0 {
		sum := sha256.Sum256(op.Data)
		o.DataOffset, o.DataLength = proto.Uint64(w.offset), proto.Uint64(uint64(len(op.Data)))
		o.DataSha256Hash = sum[:]
		if _, err := w.out.Write(op.Data); err != nil {
			return fmt.Errorf("add operation: %w", err)
		}
		w.offset += uint64(len(op.Data))
	}
	if op.SourceLength > 0 {
		o.SrcLength = proto.Uint64(uint64(op.SourceLength))
	}
	if op.TargetLength > 0 {
		o.DstLength = proto.Uint64(uint64(op.TargetLength))
	}
	part := w.parts[len(w.parts)-1]
	part.Operations = append(part.Operations, o)
	return nil
}

func wireExtents(list []Extent) []*wire.Extent {
	var out []*wire.Extent
	for _, e := range list {
		out = append(out, &wire.Extent{StartBlock: proto.Uint64(uint64(e.Start)), NumBlocks: proto.Uint64(uint64(e.Blocks))})
	}
	return out
}

// Close frees what the Writer spooled.
func (w *Writer) Close() error { return w.spool.Close() }

// Write signs the payload and writes it to out. A payload that this package
// would not read is not written.
func (w *Writer) Write(ctx context.Context, out io.Writer) error {
	if err := w.write(ctx, out); err != nil {
		return fmt.Errorf("write payload: %w", err)
	}
	return nil
}

func (w *Writer) write(ctx context.Context, out io.Writer) error {
	meta, err := w.metadata()
	if err != nil {
		return err
	}
	if _, err := parseManifest(meta); err != nil {
		return err
	}
	if err := w.out.Flush(); err != nil {
		return err
	}
	if _, err := w.spool.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if _, err := out.Write(meta.raw); err != nil {
		return err
	}
	signed := sha256.New()
	signed.Write(meta.signed())
	if _, err := io.Copy(io.MultiWriter(out, signed), contextReader{ctx, w.spool}); err != nil {
		return err
	}
	list, err := sign(w.header.Signers, signed.Sum(nil))
	if err != nil {
		return err
	}
	if int64(len(list)) != signaturesSize(w.header.Signers) {
		return fmt.Errorf("signatures take %d bytes, %d were announced", len(list), signaturesSize(w.header.Signers))
	}
	_, err = out.Write(list)
	return err
}

// metadata writes header, manifest, and in major 2 their signature.
func (w *Writer) metadata() (metadata, error) {
	m := metadata{header: header{major: w.header.Major}}
	var manifest []byte
	var err error
	if m.major == 1 {
		manifest, err = w.manifest1()
	} else {
		m.signatureSize = signaturesSize(w.header.Signers)
		manifest, err = w.manifest2()
	}
	if err != nil {
		return m, err
	}
	m.manifestSize = int64(len(manifest))
	m.raw = append(m.raw, magic...)
	m.raw = binary.BigEndian.AppendUint64(m.raw, uint64(m.major))
	m.raw = binary.BigEndian.AppendUint64(m.raw, uint64(m.manifestSize))
	if m.major == 2 {
		m.raw = binary.BigEndian.AppendUint32(m.raw, uint32(m.signatureSize))
	}
	m.raw = append(m.raw, manifest...)
	if m.manifestSize > maxManifest {
		return m, fmt.Errorf("%w: manifest of %d bytes, at most %d", ErrTooLarge, m.manifestSize, maxManifest)
	}
	if m.major == 2 {
		digest := sha256.Sum256(m.raw)
		list, err := sign(w.header.Signers, digest[:])
		if err != nil {
			return m, err
		}
		m.raw = append(m.raw, list...)
	}
	return m, nil
}

func (w *Writer) manifest2() ([]byte, error) {
	m := &wire.Manifest2{
		BlockSize: proto.Uint32(BlockSize), Partitions: w.parts, MinorVersion: proto.Uint32(0),
		SignaturesOffset: proto.Uint64(w.offset), SignaturesSize: proto.Uint64(uint64(signaturesSize(w.header.Signers))),
		DrydockVersion: w.version(), DrydockExpires: w.expires(),
	}
	for _, part := range w.parts {
		if part.OldPartitionInfo != nil {
			m.MinorVersion = proto.Uint32(8) // a delta with all operations of this package
		}
	}
	return marshal(m)
}

// manifest1 also writes what only old clients read: one operation that does
// nothing for each blob of a procedure and for the signatures.
func (w *Writer) manifest1() ([]byte, error) {
	size := uint64(signaturesSize(w.header.Signers))
	m := &wire.Manifest1{
		BlockSize: proto.Uint32(BlockSize), SignaturesOffset: proto.Uint64(w.offset), SignaturesSize: proto.Uint64(size),
		DrydockVersion: w.version(), DrydockExpires: w.expires(),
	}
	if w.offset > 1<<32-1 {
		return nil, fmt.Errorf("%w: major 1 has 32 bits for offsets, %d bytes of data", ErrTooLarge, w.offset)
	}
	kinds := map[string]uint32{Kernel: 0, PCRPolicy: 1}
	for i, part := range w.parts {
		kind, procedure := kinds[part.GetPartitionName()]
		switch {
		case i == 0 && part.GetPartitionName() == Root:
			m.PartitionOperations, m.OldPartitionInfo, m.NewPartitionInfo = part.Operations, part.OldPartitionInfo, part.NewPartitionInfo
		case i > 0 && procedure:
			m.Procedures = append(m.Procedures, &wire.Procedure{
				Type: proto.Uint32(kind), Operations: part.Operations, OldInfo: part.OldPartitionInfo, NewInfo: part.NewPartitionInfo,
			})
			for _, op := range part.Operations {
				if op.GetDataLength() > 0 {
					m.NoopOperations = append(m.NoopOperations, noop(op.GetDataOffset(), op.GetDataLength(), op.DataSha256Hash))
				}
			}
		default:
			return nil, fmt.Errorf("%w: major 1 has partitions %s, then %s and %s, not %q as number %d", ErrManifest,
				Root, Kernel, PCRPolicy, part.GetPartitionName(), i)
		}
	}
	m.NoopOperations = append(m.NoopOperations, noop(w.offset, size, nil))
	return marshal(m)
}

func noop(offset, length uint64, hash []byte) *wire.Operation {
	return &wire.Operation{
		Type: proto.Uint32(uint32(Replace)), DataOffset: proto.Uint64(offset), DataLength: proto.Uint64(length), DataSha256Hash: hash,
		DstExtents: []*wire.Extent{{StartBlock: proto.Uint64(1<<64 - 1), NumBlocks: proto.Uint64((length + BlockSize - 1) / BlockSize)}},
	}
}

func (w *Writer) version() *string {
	if w.header.Version == "" {
		return nil
	}
	return &w.header.Version
}

func (w *Writer) expires() *int64 {
	if w.header.Expires.IsZero() {
		return nil
	}
	return proto.Int64(w.header.Expires.Unix())
}

// contextReader ends with its context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

// Read fails with the context's error once it has ended.
func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

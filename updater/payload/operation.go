package payload

import (
	"bytes"
	"crypto/sha256"
	"fmt"

	"github.com/drydock-os/drydock/updater/payload/internal/wire"
)

// OperationType says what an operation does: FORMAT.md §2.
type OperationType uint32

// The types of operation, with the numbers of the format.
const (
	Replace      OperationType = 0
	ReplaceBZ    OperationType = 1
	Move         OperationType = 2 // major 1
	BSDiff       OperationType = 3 // major 1
	SourceCopy   OperationType = 4
	SourceBSDiff OperationType = 5
	Zero         OperationType = 6
	Discard      OperationType = 7
	ReplaceXZ    OperationType = 8
	ReplaceZstd  OperationType = 11
)

// rules says what an operation of a type has and needs.
type rules struct {
	name   string
	majors [3]bool // by major version
	blob   bool
	source bool // source extents: of the same image in major 1, of the old one in major 2
	data   bool // the data may be shorter than the extents, which may run over
}

var operationRules = map[OperationType]rules{
	Replace:      {name: "REPLACE", majors: [3]bool{1: true, 2: true}, blob: true, data: true},
	ReplaceBZ:    {name: "REPLACE_BZ", majors: [3]bool{1: true, 2: true}, blob: true, data: true},
	Move:         {name: "MOVE", majors: [3]bool{1: true}, source: true},
	BSDiff:       {name: "BSDIFF", majors: [3]bool{1: true}, blob: true, source: true},
	SourceCopy:   {name: "SOURCE_COPY", majors: [3]bool{2: true}, source: true},
	SourceBSDiff: {name: "SOURCE_BSDIFF", majors: [3]bool{2: true}, blob: true, source: true},
	Zero:         {name: "ZERO", majors: [3]bool{2: true}},
	Discard:      {name: "DISCARD", majors: [3]bool{2: true}},
	ReplaceXZ:    {name: "REPLACE_XZ", majors: [3]bool{2: true}, blob: true, data: true},
	ReplaceZstd:  {name: "REPLACE_ZSTD", majors: [3]bool{2: true}, blob: true, data: true},
}

// String is the type's name in the format.
func (t OperationType) String() string {
	if r, ok := operationRules[t]; ok {
		return r.name
	}
	return fmt.Sprintf("type %d", uint32(t))
}

// An Extent is a run of blocks of an image.
type Extent struct {
	Start, Blocks int64
}

// holeStart marks an extent that is not in the image: major 1's 2^64-1.
const holeStart = -1

// operation is one step of a plan. All that it says has been checked against
// the image that it belongs to.
type operation struct {
	kind           OperationType
	offset, length int64 // of the blob, from the end of the metadata
	src, dst       []Extent
	srcBytes       int64 // what is read of src; of all its blocks but for BSDIFF
	dstBytes       int64 // what a patch makes; otherwise the same as room
	room           int64 // bytes of the blocks of dst
	hash           []byte
	srcHash        []byte
}

// frame is what an operation is checked against.
type frame struct {
	major                int
	blockSize            int64
	newBlocks, oldBlocks int64 // of the images, rounded up
	next                 int64 // offset of the next blob
}

func (f *frame) operation(w *wire.Operation) (operation, error) {
	op := operation{kind: OperationType(w.GetType()), hash: w.GetDataSha256Hash(), srcHash: w.GetSrcSha256Hash()}
	r, known := operationRules[op.kind]
	if w.Type == nil || !known || !r.majors[f.major] {
		return op, fmt.Errorf("%w: %s is not an operation of major %d", ErrOperation, op.kind, f.major)
	}
	if err := f.blob(&op, w, r); err != nil {
		return op, err
	}
	if err := f.extents(&op, w, r); err != nil {
		return op, err
	}
	if n := len(op.srcHash); n != 0 && n != sha256.Size || n == 0 && op.kind == SourceBSDiff {
		return op, fmt.Errorf("%w: source hash of %d bytes", ErrOperationHashMissing, n)
	}
	return op, nil
}

// blob checks where the operation's data lies and that it has a hash.
func (f *frame) blob(op *operation, w *wire.Operation, r rules) error {
	if w.GetDataLength() > maxBlob {
		return fmt.Errorf("%w: blob of %d bytes, at most %d", ErrTooLarge, w.GetDataLength(), maxBlob)
	}
	op.length = int64(w.GetDataLength())
	if op.length == 0 {
		if nothing := sha256.Sum256(nil); len(op.hash) != 0 && !bytes.Equal(op.hash, nothing[:]) {
			return fmt.Errorf("%w: it has a hash and no data", ErrOperationHash)
		}
	} else if len(op.hash) != sha256.Size {
		return fmt.Errorf("%w: of %d bytes", ErrOperationHashMissing, len(op.hash))
	}
	if r.blob != (op.length > 0) {
		return fmt.Errorf("%w: data of %d bytes", ErrOperation, op.length)
	}
	if op.length > 0 && w.GetDataOffset() != uint64(f.next) {
		return fmt.Errorf("%w: data at offset %d, want %d", ErrOperation, w.GetDataOffset(), f.next)
	}
	op.offset = f.next
	f.next += op.length
	return nil
}

// extents checks what the operation reads and writes.
func (f *frame) extents(op *operation, w *wire.Operation, r rules) error {
	if len(w.DstExtents) == 0 || (len(w.SrcExtents) > 0) != r.source {
		return fmt.Errorf("%w: %d source and %d destination extents", ErrOperation, len(w.SrcExtents), len(w.DstExtents))
	}
	readable := f.oldBlocks
	if f.major == 1 { // scratch blocks of the greater image are fair game
		readable = max(f.oldBlocks, f.newBlocks)
	}
	writable := f.newBlocks
	if f.major == 1 && r.source {
		writable = readable
	}
	src, srcBlocks, err := f.list(w.SrcExtents, readable, false)
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	dst, dstBlocks, err := f.list(w.DstExtents, writable, r.data)
	if err != nil {
		return fmt.Errorf("destination: %w", err)
	}
	op.src, op.dst = src, dst
	op.srcBytes, op.dstBytes, op.room = srcBlocks*f.blockSize, dstBlocks*f.blockSize, dstBlocks*f.blockSize
	if (op.kind == Move || op.kind == SourceCopy) && srcBlocks != dstBlocks {
		return fmt.Errorf("%w: copies %d blocks to %d", ErrOperation, srcBlocks, dstBlocks)
	}
	if op.kind == BSDiff || op.kind == SourceBSDiff {
		if err := patchLengths(op, w); err != nil {
			return err
		}
	}
	if (op.kind == Move || op.kind == BSDiff) && max(op.srcBytes, op.dstBytes) > maxBlob {
		return fmt.Errorf("%w: %s of %d bytes, at most %d", ErrTooLarge, op.kind, max(op.srcBytes, op.dstBytes), maxBlob)
	}
	return nil
}

// patchLengths narrows a patch's input and output to the bytes it says.
func patchLengths(op *operation, w *wire.Operation) error {
	if w.SrcLength != nil {
		if w.GetSrcLength() > uint64(op.srcBytes) {
			return fmt.Errorf("%w: source length %d in extents of %d", ErrOperation, w.GetSrcLength(), op.srcBytes)
		}
		op.srcBytes = int64(w.GetSrcLength())
	}
	if w.DstLength != nil {
		if w.GetDstLength() > uint64(op.dstBytes) {
			return fmt.Errorf("%w: destination length %d in extents of %d", ErrOperation, w.GetDstLength(), op.dstBytes)
		}
		op.dstBytes = int64(w.GetDstLength())
	}
	return nil
}

// list checks extents against an image of limit blocks and adds them up. With
// over, the last may run past the image's end and is cut there.
func (f *frame) list(wires []*wire.Extent, limit int64, over bool) ([]Extent, int64, error) {
	var total, holes int64
	extents := make([]Extent, 0, len(wires))
	for i, w := range wires {
		start, blocks := w.GetStartBlock(), w.GetNumBlocks()
		hole := start == 1<<64-1
		if hole && f.major != 1 {
			return nil, 0, fmt.Errorf("%w: sparse hole", ErrOperation)
		}
		if blocks == 0 || blocks > maxImage/minBlockSize {
			return nil, 0, fmt.Errorf("%w: extent of %d blocks", ErrOperation, blocks)
		}
		e := Extent{Start: holeStart, Blocks: int64(blocks)}
		if !hole {
			if start >= uint64(limit) {
				return nil, 0, fmt.Errorf("%w: extent at block %d of an image of %d", ErrOperation, start, limit)
			}
			e.Start = int64(start)
			if past := e.Start + e.Blocks - limit; past > 0 {
				if !over || i != len(wires)-1 {
					return nil, 0, fmt.Errorf("%w: extent of %d blocks at block %d of an image of %d", ErrOperation, blocks, start, limit)
				}
				e.Blocks -= past
			}
		}
		if total += e.Blocks; hole {
			holes += e.Blocks
		}
		// However well a blob is compressed, it makes no more than an image.
		if total-holes > limit || holes > maxBlob/f.blockSize {
			return nil, 0, fmt.Errorf("%w: extents of %d blocks for an image of %d", ErrOperation, total, limit)
		}
		extents = append(extents, e)
	}
	return extents, total, nil
}

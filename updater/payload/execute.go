package payload

import (
	"bytes"
	"compress/bzip2"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// maxWindow is the zstd window that RFC 8878, section 3.1.1.1.2, asks every
// decoder to support.
const maxWindow = 8 << 20

// worker runs operations, one at a time.
type worker struct {
	blockSize int64
	out       []byte        // chunk bytes of output
	old       []byte        // chunk bytes of the old image
	zstd      *zstd.Decoder // whole blobs into out
}

func newWorker(blockSize int64) (*worker, error) {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, err
	}
	return &worker{blockSize: blockSize, zstd: d}, nil
}

func (w *worker) close() { w.zstd.Close() }

// buffer is made when it is first needed: not every operation has output.
func (w *worker) buffer() []byte {
	if w.out == nil {
		w.out = newBuffer(chunk)
	}
	return w.out
}

// job is one operation with its blob. Without an image only the blob is
// checked.
type job struct {
	index int
	op    *operation
	image *image
	blob  []byte // in buf
	buf   []byte // chunk bytes from the pool, or a larger one of its own
}

// do checks the blob's hash and then carries out the operation.
func (w *worker) do(ctx context.Context, j job) error {
	if j.op.length > 0 {
		if sum := sha256.Sum256(j.blob); !bytes.Equal(sum[:], j.op.hash) {
			return fmt.Errorf("%w: %x, want %x", ErrOperationHash, sum, j.op.hash)
		}
	}
	if j.image == nil || j.image.sink == nil {
		return nil
	}
	err := w.execute(ctx, j)
	if errors.Is(err, ErrWrite) || errors.Is(err, ErrSourceMismatch) || errors.Is(err, ErrOperation) || ctx.Err() != nil {
		return err
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrOperation, err)
	}
	return nil
}

func (w *worker) execute(ctx context.Context, j job) error {
	to := extentWriter{sink: j.image.sink, op: j.op, blockSize: w.blockSize}
	switch j.op.kind {
	case Replace:
		return w.replace(ctx, j, to)
	case ReplaceZstd:
		return w.replaceZstd(ctx, j.blob, to)
	case ReplaceBZ:
		return w.copy(ctx, bzip2.NewReader(bytes.NewReader(j.blob)), to)
	case ReplaceXZ:
		r, err := newXZReader(j.blob, j.op.room)
		if err != nil {
			return err
		}
		return w.copy(ctx, r, to)
	case Zero, Discard:
		return w.zero(ctx, to)
	case SourceCopy, SourceBSDiff:
		return w.fromSource(ctx, j, to)
	case Move, BSDiff:
		return w.inPlace(j, to)
	}
	return fmt.Errorf("%w: %s", ErrOperation, j.op.kind)
}

// replace writes a blob that lies in a buffer of its own as it is, without
// copying it.
func (w *worker) replace(ctx context.Context, j job, to extentWriter) error {
	if j.op.room <= int64(len(j.buf)) && j.op.length <= j.op.room {
		return to.last(j.buf, len(j.blob), j.op.length)
	}
	return w.copy(ctx, bytes.NewReader(j.blob), to)
}

func (w *worker) replaceZstd(ctx context.Context, blob []byte, to extentWriter) error {
	if to.op.room <= chunk {
		buf := w.buffer()
		out, err := w.zstd.DecodeAll(blob, buf[:0:to.op.room])
		if err != nil {
			return err
		}
		return to.last(buf, len(out), int64(len(out)))
	}
	r, err := zstd.NewReader(bytes.NewReader(blob), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return err
	}
	defer r.Close()
	return w.copy(ctx, r, to)
}

// copy writes all that r has, which must be what the extents hold. It asks for
// no more than one byte beyond that, so a decompression bomb ends there.
func (w *worker) copy(ctx context.Context, r io.Reader, to extentWriter) error {
	buf := w.buffer()
	for pos := int64(0); ; {
		want := min(to.op.room-pos, chunk)
		n, err := io.ReadFull(r, buf[:want])
		ended := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !ended {
			return err
		}
		if pos += int64(n); pos == to.op.room && !ended {
			if err := atEnd(r); err != nil {
				return err
			}
			ended = true
		}
		if ended {
			return to.last(buf, n, pos)
		}
		if err := to.write(buf[:n], pos-int64(n)); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// atEnd reads on to the end, which also makes a decompressor look at its
// trailer.
func atEnd(r io.Reader) error {
	var one [1]byte
	switch n, err := io.ReadFull(r, one[:]); {
	case n > 0:
		return fmt.Errorf("%w: more data than its extents hold", ErrOperation)
	case !errors.Is(err, io.EOF):
		return err
	}
	return nil
}

func (w *worker) zero(ctx context.Context, to extentWriter) error {
	const step = 16 << 20 // so that a cancelled context is seen
	for _, e := range to.op.dst {
		off, end := e.Start*w.blockSize, (e.Start+e.Blocks)*w.blockSize
		for ; off < end; off += step {
			if err := to.sink.zero(off, min(step, end-off), to.op.kind == Discard); err != nil {
				return err
			}
			if err := ctx.Err(); err != nil {
				return err
			}
		}
	}
	return nil
}

// fromSource reads the old image, checks that it is the right one there, and
// copies or patches it. What fits into a buffer is read once, so that what was
// checked is what is used.
func (w *worker) fromSource(ctx context.Context, j job, to extentWriter) error {
	from := extentReader{from: j.image.source, extents: j.op.src, blockSize: w.blockSize, size: j.op.srcBytes}
	var old io.ReaderAt = from
	if from.size <= chunk {
		if w.old == nil {
			w.old = newBuffer(chunk)
		}
		if _, err := io.ReadFull(io.NewSectionReader(from, 0, from.size), w.old[:from.size]); err != nil {
			return fmt.Errorf("%w: read it: %w", ErrSourceMismatch, err)
		}
		old = bytes.NewReader(w.old[:from.size])
	}
	if err := w.checkSource(ctx, j, old); err != nil {
		return err
	}
	if j.op.kind == SourceCopy {
		return w.copy(ctx, io.NewSectionReader(old, 0, from.size), to)
	}
	patch, err := newPatchReader(old, from.size, j.blob, j.op.dstBytes)
	if err != nil {
		return err
	}
	return w.copy(ctx, patch, to)
}

func (w *worker) checkSource(ctx context.Context, j job, old io.ReaderAt) error {
	if len(j.op.srcHash) == 0 {
		return nil
	}
	sum, err := hashRange(ctx, old, j.op.srcBytes, w.buffer())
	if err != nil {
		return fmt.Errorf("%w: read it: %w", ErrSourceMismatch, err)
	}
	if !bytes.Equal(sum, j.op.srcHash) {
		return fmt.Errorf("%w: extents have %x, want %x", ErrSourceMismatch, sum, j.op.srcHash)
	}
	return nil
}

// inPlace reads all of its source into memory before it writes a byte: both
// may overlap. A crash in its middle leaves an image that is neither.
func (w *worker) inPlace(j job, to extentWriter) error {
	from := extentReader{from: j.image.sink.dev, extents: j.op.src, blockSize: w.blockSize, size: j.op.srcBytes}
	old := make([]byte, j.op.srcBytes)
	if _, err := io.ReadFull(io.NewSectionReader(from, 0, from.size), old); err != nil {
		return fmt.Errorf("%w: read the old blocks: %w", ErrWrite, err)
	}
	if j.op.kind == Move {
		return to.last(old, len(old), j.op.dstBytes)
	}
	patch, err := newPatchReader(bytes.NewReader(old), int64(len(old)), j.blob, j.op.dstBytes)
	if err != nil {
		return err
	}
	data := make([]byte, j.op.room)
	if _, err := io.ReadFull(patch, data[:j.op.dstBytes]); err != nil {
		return err
	}
	return to.last(data, int(j.op.dstBytes), j.op.dstBytes)
}

// hashRange returns the SHA-256 of the first size bytes of r.
func hashRange(ctx context.Context, r io.ReaderAt, size int64, buf []byte) ([]byte, error) {
	h := sha256.New()
	for off := int64(0); off < size; {
		p := buf[:min(int64(len(buf)), size-off)]
		if n, err := r.ReadAt(p, off); n < len(p) {
			return nil, noEOF(err)
		}
		h.Write(p)
		off += int64(len(p))
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return h.Sum(nil), nil
}

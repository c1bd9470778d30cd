package payload

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"sync"
)

// Apply writes the payload's images to the targets, one for each partition by
// name. It succeeds only if every signature and hash was right, all bytes
// were synced, and each image read back from its device has the hash that the
// manifest names. After any error the targets hold nothing that may be booted.
//
// What can be known before the first byte is written is checked before it:
// expiry, claimed size, targets and their sizes, the checkpoint, and the old
// image of a delta of major 1.
func (p *Payload) Apply(ctx context.Context, targets map[string]Target, o Options) (Result, error) {
	defer p.Close()
	result, err := p.apply(ctx, targets, o)
	if err != nil {
		return Result{}, fmt.Errorf("apply payload: %w", err)
	}
	return result, nil
}

func (p *Payload) apply(ctx context.Context, targets map[string]Target, o Options) (Result, error) {
	if err := p.admit(o); err != nil {
		return Result{}, err
	}
	s := newStream(p.metadata, p.plan, o.SHA256 != nil)
	r := newRun(p.plan, s, o.Workers)
	r.metadataSize = int64(len(p.metadata.raw))
	defer r.close()
	if err := r.aim(targets, o.Skip); err != nil {
		return Result{}, err
	}
	from, err := p.resume(r, o)
	if err != nil {
		return Result{}, err
	}
	if err := r.prepare(ctx, targets); err != nil {
		return Result{}, err
	}
	if s.r, err = p.at(ctx, s.offset); err != nil {
		return Result{}, err
	}
	defer s.r.Close()
	result, err := r.carryOut(ctx, from, func() error { return s.verdict(p.keys, o.SHA256) })
	if err == nil && o.Progress != nil {
		o.Progress(p.size(), p.size())
	}
	return result, err
}

// admit checks what was said of the payload from outside.
func (p *Payload) admit(o Options) error {
	if e := p.plan.expires; !e.IsZero() && !o.Now.IsZero() && o.Now.After(e) {
		return fmt.Errorf("%w: on %s", ErrExpired, e.Format("2006-01-02 15:04:05 MST"))
	}
	if o.Size != 0 && o.Size != p.size() {
		return fmt.Errorf("%w: its manifest makes it %d bytes, the server says %d", ErrPayloadSize, p.size(), o.Size)
	}
	return nil
}

// aim gives each partition its target and checks that it fits.
func (r *run) aim(targets map[string]Target, skip []string) error {
	for _, im := range r.images {
		if im.name == "" || slices.Contains(skip, im.name) {
			continue
		}
		t, ok := targets[im.name]
		if !ok || t.Device == nil {
			return fmt.Errorf("%w: %s", ErrNoTarget, im.name)
		}
		scratch := im.size
		if im.inPlace {
			scratch = max(scratch, im.sourceSize)
		}
		var err error
		if im.sink, err = newSink(t.Device, im.size, scratch, r.plan.blockSize); err != nil {
			return fmt.Errorf("partition %s: %w", im.name, err)
		}
		if im.sourceHash != nil && t.Source != nil && t.SourceSize < im.sourceSize {
			return fmt.Errorf("%w: source of %s has %d bytes, want %d", ErrSourceMismatch, im.name, t.SourceSize, im.sourceSize)
		}
		if im.sourceHash != nil && t.Source == nil && !im.inPlace {
			return fmt.Errorf("%w: no old image of %s is given", ErrSourceMismatch, im.name)
		}
		im.source = t.Source
		if !im.inPlace {
			im.sink.openDirect(r.plan.blockSize)
		}
		settle(im, r.plan.blockSize)
	}
	return nil
}

// resume sets the run to where a checkpoint says, and to keep its own.
func (p *Payload) resume(r *run, o Options) (from int, err error) {
	sum := sha256.Sum256(p.metadata.raw)
	base := checkpoint{Metadata: sum[:], Claimed: o.SHA256, Size: p.size()}
	r.records = &records{checkpoint: o.Checkpoint, progress: o.Progress, every: o.CheckpointBytes, base: base}
	if r.records.every <= 0 {
		r.records.every = defaultCheckpointBytes
	}
	if slices.ContainsFunc(r.images, func(im *image) bool { return im.inPlace || im.overlaps }) {
		r.records.checkpoint = nil // an operation must not run twice
		if len(o.Resume) > 0 {
			return 0, fmt.Errorf("%w: a delta of major 1 starts again", ErrResume)
		}
	}
	if len(o.Resume) == 0 {
		return 0, nil
	}
	c, err := parseCheckpoint(o.Resume, base)
	if err != nil {
		return 0, err
	}
	if c.Operation < 0 || c.Operation > r.total || r.offset(c.Operation)-r.metadataSize != c.Offset {
		return 0, fmt.Errorf("%w: operation %d at offset %d", ErrResume, c.Operation, c.Offset)
	}
	if err := r.stream.restore(c.Whole, c.Signed); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrResume, err)
	}
	r.stream.offset, r.records.last = c.Offset, c.Offset
	return c.Operation, nil
}

// prepare puts the old image to where a delta of major 1 changes it in place.
// Nothing is written before all old images were seen to be the right ones.
func (r *run) prepare(ctx context.Context, targets map[string]Target) error {
	var buf []byte
	var copies []*image
	for _, im := range r.images {
		if im.sink == nil || !im.inPlace {
			continue
		}
		if buf == nil {
			buf = newBuffer(chunk)
		}
		var old io.ReaderAt = im.source
		if old == nil {
			old = im.sink.dev
		} else {
			copies = append(copies, im)
		}
		if err := im.checkOld(ctx, old, buf); err != nil {
			return err
		}
	}
	for _, im := range copies {
		if err := im.copyOld(ctx, buf); err != nil {
			return fmt.Errorf("copy the old %s: %w", im.name, err)
		}
	}
	return nil
}

func (im *image) checkOld(ctx context.Context, old io.ReaderAt, buf []byte) error {
	sum, err := hashRange(ctx, old, im.sourceSize, buf)
	if err != nil {
		return fmt.Errorf("%w: read the old %s: %w", ErrSourceMismatch, im.name, err)
	}
	if !bytes.Equal(sum, im.sourceHash) {
		return fmt.Errorf("%w: old %s is %x, want %x", ErrSourceMismatch, im.name, sum, im.sourceHash)
	}
	return nil
}

func (im *image) copyOld(ctx context.Context, buf []byte) error {
	for off := int64(0); off < im.sourceSize; {
		p := buf[:min(chunk, im.sourceSize-off)]
		if n, err := im.source.ReadAt(p, off); n < len(p) {
			return fmt.Errorf("%w: %w", ErrSourceMismatch, noEOF(err))
		}
		if err := im.sink.write(p, off); err != nil {
			return err
		}
		off += int64(len(p))
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	if err := im.sink.sync(); err != nil {
		return err
	}
	return im.checkOld(ctx, im.sink.dev, buf)
}

// at returns the payload's bytes from offset after the metadata on: what is
// left of the transfer that Open began, or a new one.
func (p *Payload) at(ctx context.Context, offset int64) (io.ReadCloser, error) {
	if body := p.body; body != nil && offset == 0 {
		p.body = nil
		return body, nil
	}
	p.Close()
	return open(ctx, p.src, int64(len(p.metadata.raw))+offset)
}

// carryOut does the operations, has the payload judged, makes all durable, and
// compares what the devices then hold.
func (r *run) carryOut(ctx context.Context, from int, verdict func() error) (Result, error) {
	r.frontier.next = from
	var others sync.WaitGroup
	var sums map[string][]byte
	others.Go(func() { r.keep(from) })
	others.Go(func() {
		var err error
		if sums, err = r.readBack(ctx); err != nil {
			r.frontier.fail(r.total+1, err) // after every other reason
		}
	})
	err := r.operations(ctx, from)
	if err == nil {
		err = verdict()
	}
	if err == nil {
		err = r.sync()
	}
	if err != nil {
		r.frontier.fail(r.total, err)
	} else {
		r.frontier.finish()
	}
	others.Wait()
	if err := r.frontier.failure(); err != nil {
		return Result{}, err
	}
	return Result{Partitions: sums}, r.compare(sums)
}

// compare judges what was read back.
func (r *run) compare(sums map[string][]byte) error {
	for _, im := range r.images {
		if im.sink == nil || bytes.Equal(sums[im.name], im.hash) {
			continue
		}
		err := fmt.Errorf("%w: %s is %x, want %x", ErrImageHash, im.name, sums[im.name], im.hash)
		if im.name == Kernel {
			err = fmt.Errorf("%w: %w", ErrKernelHash, err)
		}
		return err
	}
	return nil
}

func (r *run) sync() error {
	for _, im := range r.images {
		if im.sink != nil {
			if err := im.sink.finish(); err != nil {
				return fmt.Errorf("partition %s: %w", im.name, err)
			}
		}
	}
	return nil
}

func (r *run) close() {
	for _, im := range r.images {
		if im.sink != nil {
			im.sink.close()
		}
	}
}

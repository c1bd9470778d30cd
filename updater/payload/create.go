package payload

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"runtime"
	"sync"
	"time"

	"github.com/dsnet/compress/bzip2"
	"github.com/klauspost/compress/zstd"
)

// A Spec says what Create puts into a payload.
type Spec struct {
	// Major, Version, Expires, Signers and TempDir are those of Header.
	Major   int
	Version string
	Expires time.Time
	Signers []crypto.Signer
	TempDir string
	// Partitions in the order in which they are written. Major 1 knows
	// Root, which comes first, Kernel and PCRPolicy.
	Partitions []Image
	// Workers compress at once; 0 is the number of processors. The bytes
	// written do not depend on it.
	Workers int
}

// An Image is one partition's new content, Size bytes of it. A size that is
// not a multiple of BlockSize is a file's: FORMAT.md §3.
type Image struct {
	Name  string
	Image io.ReaderAt
	Size  int64
}

// Create writes a full payload to w: major 2 with zstd, or major 1 with bzip2
// as upstream's client accepts it. The same spec gives the same bytes.
func Create(ctx context.Context, w io.Writer, s Spec) error {
	p, err := NewWriter(Header{Major: s.Major, Version: s.Version, Expires: s.Expires, Signers: s.Signers, TempDir: s.TempDir})
	if err != nil {
		return err
	}
	defer p.Close()
	for _, image := range s.Partitions {
		if err := pack(ctx, p, image, s.Workers); err != nil {
			return fmt.Errorf("pack %s: %w", image.Name, err)
		}
	}
	return p.Write(ctx, w)
}

// pack adds a full image to p: one goroutine reads and hashes it, several
// compress, and this one takes the operations in order.
func pack(ctx context.Context, p *Writer, image Image, workers int) error {
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	if image.Size <= 0 {
		return fmt.Errorf("%w: image of %d bytes", ErrManifest, image.Size)
	}
	hash, err := hashRange(ctx, image.Image, image.Size, newBuffer(chunk))
	if err != nil {
		return fmt.Errorf("read image: %w", err)
	}
	p.Partition(image.Name, image.Size, hash, 0, nil)
	ctx, cancel := context.WithCancel(ctx)
	packs := make(chan *packed, workers)
	order := make(chan *packed, 2*workers)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	group.Go(func() { split(ctx, image, packs, order) })
	for range workers {
		group.Go(func() { compressAll(p.header.Major, packs) })
	}
	again := sha256.New()
	if err := collect(p, order, again); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if !bytes.Equal(again.Sum(nil), hash) {
		return errors.New("the image changed while it was read")
	}
	return nil
}

// packed is one chunk on its way through the compressors.
type packed struct {
	raw  []byte
	op   Operation
	err  error
	done chan struct{}
}

// split reads the image in chunks and hands each to the compressors and, in
// order, to who collects them.
func split(ctx context.Context, image Image, packs, order chan<- *packed) {
	defer close(packs)
	defer close(order)
	for off := int64(0); off < image.Size; off += chunk {
		size := min(chunk, image.Size-off)
		c := &packed{raw: make([]byte, size), done: make(chan struct{})}
		c.op.Target = []Extent{{Start: off / BlockSize, Blocks: (size + BlockSize - 1) / BlockSize}}
		if n, err := image.Image.ReadAt(c.raw, off); n < len(c.raw) {
			c.err = fmt.Errorf("read image: %w", noEOF(err))
		}
		select {
		case order <- c:
			packs <- c
		case <-ctx.Done():
			return
		}
	}
}

func collect(p *Writer, order <-chan *packed, again hash.Hash) error {
	for c := range order {
		<-c.done
		if c.err != nil {
			return c.err
		}
		again.Write(c.raw)
		if err := p.Add(c.op); err != nil {
			return err
		}
	}
	return nil
}

func compressAll(major int, packs <-chan *packed) {
	var z zstdPacker
	for c := range packs {
		if c.err == nil && major == 1 {
			c.err = packBZ(c)
		} else if c.err == nil {
			c.err = z.pack(c)
		}
		close(c.done)
	}
}

// packBZ takes bzip2 where it shrinks the chunk, as upstream's generator does.
func packBZ(c *packed) error {
	var out bytes.Buffer
	w, err := bzip2.NewWriter(&out, &bzip2.WriterConfig{Level: bzip2.BestCompression})
	if err != nil {
		return err
	}
	if _, err := w.Write(c.raw); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	c.op.Type, c.op.Data = ReplaceBZ, out.Bytes()
	if len(c.op.Data) >= len(c.raw) {
		c.op.Type, c.op.Data = Replace, c.raw
	}
	return nil
}

// zstdPacker takes the smallest of nothing for zeros, zstd, and the chunk as
// it is.
type zstdPacker struct{ encoder *zstd.Encoder }

func (z *zstdPacker) pack(c *packed) error {
	if isZero(c.raw) {
		c.op.Type = Zero
		return nil
	}
	if z.encoder == nil {
		var err error
		if z.encoder, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false),
			zstd.WithSingleSegment(true), zstd.WithWindowSize(chunk), zstd.WithEncoderLevel(zstd.SpeedBestCompression)); err != nil {
			return err
		}
	}
	c.op.Type, c.op.Data = ReplaceZstd, z.encoder.EncodeAll(c.raw, nil)
	if len(c.op.Data) >= len(c.raw) {
		c.op.Type, c.op.Data = Replace, c.raw
	}
	return nil
}

// Package payload reads, verifies, applies and writes operating system update payloads in the CrAU format, major versions 1 and 2.
package payload

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"time"
)

// Names of the partitions that major 1 knows: its partition operations and
// its two procedures.
const (
	Root      = "root"
	Kernel    = "kernel"
	PCRPolicy = "pcr-policy"
)

// Info is what a payload says of itself. Whether that can be believed depends
// on who returned it: Open (major 2) and Verify checked the signature,
// Inspect did not.
type Info struct {
	Major, Minor int
	// Version and Expires are the signed release version and the end of
	// the payload's validity: ours, FORMAT.md §6. Empty and zero where a
	// payload does not say.
	Version string
	Expires time.Time
	// BlockSize is in bytes, and so are MetadataSize, all that stands
	// before the first blob, and Size, the whole payload.
	BlockSize, MetadataSize, Size int64
	// Delta says that some partition needs its old image.
	Delta      bool
	Partitions []PartitionInfo
	// Signed says that the manifest announces the signatures that its
	// major version demands. It says nothing about their worth.
	Signed bool
}

// PartitionInfo describes one image of a payload.
type PartitionInfo struct {
	Name string
	// Size in bytes and SHA-256 of the image, and of the one that a delta
	// starts from (0 and nil where there is none).
	Size       int64
	Hash       []byte
	SourceSize int64
	SourceHash []byte
	// Operations counts the operations by type name; Bytes is the length
	// of their blobs.
	Operations map[string]int
	Bytes      int64
}

// Options of Apply. The zero value checks nothing beyond the payload's own
// word and remembers nothing.
type Options struct {
	// Size and SHA256 of the whole payload as the server claimed them.
	// Zero and nil are not checked.
	Size   int64
	SHA256 []byte
	// Now judges the payload's signed expiry. Zero does not judge.
	Now time.Time
	// Resume is what Checkpoint was last given; empty begins anew.
	Resume []byte
	// Checkpoint gets an opaque value of less than 4 KiB each time all
	// that it vouches for has been synced to the targets, about every
	// CheckpointBytes of payload (0: 32 MiB) and not for deltas of major
	// 1, which start again. Its error ends Apply.
	Checkpoint      func([]byte) error
	CheckpointBytes int64
	// Progress gets payload bytes applied, and those there are.
	Progress func(done, total int64)
	// Skip names partitions that are verified and not written.
	Skip []string
	// Workers is how many operations run at once; 0 chooses by the number
	// of processors. Memory does not depend on the image: it is some 3 MiB
	// a worker and 2 MiB besides, more only for payloads of others whose
	// operations are greater than 1 MiB. A program that wants a ceiling on
	// what the collector lets lie sets debug.SetMemoryLimit.
	Workers int
}

// Result is what Apply wrote.
type Result struct {
	// Partitions holds the SHA-256 of each image, as read back.
	Partitions map[string][]byte
}

// A Payload is opened, its metadata read and checked, and not yet applied.
type Payload struct {
	src      Source
	keys     Keys
	metadata metadata
	plan     *plan
	body     io.ReadCloser // at the first blob; nil once used
}

// Open reads header and manifest. A payload of major 2 is refused here unless
// one of keys signed its metadata; one of major 1 if it announces no
// signature, which stands at its end. Without keys it reads nothing. The
// transfer stays open for Apply; a payload that is not applied is closed.
func Open(ctx context.Context, src Source, keys Keys) (*Payload, error) {
	if len(keys) == 0 {
		return nil, ErrNoKey
	}
	return read(ctx, src, keys)
}

// read opens a payload; without keys nothing of it is verified.
func read(ctx context.Context, src Source, keys Keys) (*Payload, error) {
	body, err := open(ctx, src, 0)
	if err != nil {
		return nil, err
	}
	p := &Payload{src: src, keys: keys, body: body}
	if err := p.parse(); err != nil {
		p.Close()
		return nil, fmt.Errorf("open payload: %w", err)
	}
	return p, nil
}

// parse reads the metadata. With keys, that of major 2 is verified before it
// is looked at.
func (p *Payload) parse() error {
	var err error
	if p.metadata, err = readMetadata(p.body); err != nil {
		return err
	}
	if p.keys != nil && p.metadata.major == 2 {
		if p.metadata.signatureSize == 0 {
			return fmt.Errorf("%w: it has no metadata signature", ErrUnsigned)
		}
		digest := sha256.Sum256(p.metadata.signed())
		if err := p.keys.verify(p.metadata.signature(), digest[:]); err != nil {
			return fmt.Errorf("verify metadata: %w", err)
		}
	}
	if p.plan, err = parseManifest(p.metadata); err != nil {
		return err
	}
	if p.keys != nil && p.plan.signatureSize == 0 {
		return fmt.Errorf("%w: it has no signature", ErrUnsigned)
	}
	return nil
}

// Info returns what the payload says of itself.
func (p *Payload) Info() Info {
	info := Info{
		Major: p.metadata.major, Minor: p.plan.minor, Version: p.plan.version, Expires: p.plan.expires,
		BlockSize: p.plan.blockSize, MetadataSize: int64(len(p.metadata.raw)), Size: p.size(),
		Signed: p.plan.signatureSize > 0 && (p.metadata.major == 1 || p.metadata.signatureSize > 0),
	}
	for _, part := range p.plan.partitions {
		if part.name == "" {
			continue
		}
		about := PartitionInfo{
			Name: part.name, Size: part.size, Hash: part.hash,
			SourceSize: part.sourceSize, SourceHash: part.sourceHash, Operations: map[string]int{},
		}
		for _, op := range part.operations {
			about.Operations[op.kind.String()]++
			about.Bytes += op.length
		}
		info.Delta = info.Delta || part.sourceHash != nil
		info.Partitions = append(info.Partitions, about)
	}
	return info
}

func (p *Payload) size() int64 {
	return int64(len(p.metadata.raw)) + p.plan.dataSize + p.plan.signatureSize
}

// Close ends the transfer that Open began. Apply does so too.
func (p *Payload) Close() error {
	if p.body == nil {
		return nil
	}
	body := p.body
	p.body = nil
	return body.Close()
}

// Inspect reads header and manifest and trusts nothing.
func Inspect(ctx context.Context, src Source) (Info, error) {
	p, err := read(ctx, src, nil)
	if err != nil {
		return Info{}, err
	}
	defer p.Close()
	return p.Info(), nil
}

// Verify reads the whole payload and checks signatures, the hash of every
// blob, sizes and offsets. It applies nothing.
func Verify(ctx context.Context, src Source, keys Keys) (Info, error) {
	p, err := Open(ctx, src, keys)
	if err != nil {
		return Info{}, err
	}
	defer p.Close()
	s := newStream(p.metadata, p.plan, false)
	s.r = p.body
	r := newRun(p.plan, s, 0)
	if err := r.operations(ctx, 0); err != nil {
		return Info{}, fmt.Errorf("verify payload: %w", err)
	}
	if err := s.verdict(keys, nil); err != nil {
		return Info{}, fmt.Errorf("verify payload: %w", err)
	}
	return p.Info(), nil
}

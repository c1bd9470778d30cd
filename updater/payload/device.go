package payload

import "io"

// A Device is what a partition's image is written to and read back from.
// Offsets are in bytes from the partition's start. Three optional methods are
// used where a Device has them: Path() string with Offset() int64, which name
// the file or block device below and where in it the Device begins, so that
// it can be opened past the page cache; Truncate(size int64) error, which
// marks a file that ends where its image ends; and Discard(off, length int64)
// error, a hint that may leave any content behind.
type Device interface {
	io.ReaderAt
	io.WriterAt
	// Sync returns once all that was written is on stable storage.
	Sync() error
	// Size is the room there is, in bytes. Of a file that can be
	// truncated it means nothing.
	Size() int64
}

// A Target is where one partition's image goes.
type Target struct {
	Device Device
	// Source is the old image that a delta starts from: the booted slot.
	// nil for full payloads. A delta of major 1 without a Source is
	// applied to Device in place, which must then hold the old image.
	Source     io.ReaderAt
	SourceSize int64
}

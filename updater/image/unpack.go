package image

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz/lzma"
)

// unpacker decompresses one block of squashfs, of at most limit bytes.
type unpacker func(packed []byte, limit int) ([]byte, error)

// newUnpacker returns the unpacker for a compression's number in the
// superblock. LZMA, LZO and LZ4 have none here: no Flatcar or Fedora image
// uses them.
func newUnpacker(compression uint16) (unpacker, error) {
	switch compression {
	case 1:
		return unzlib, nil
	case 4:
		return unxz, nil
	case 6:
		return unzstd, nil
	}
	return nil, fmt.Errorf("%w: squashfs with compression %d", ErrFormat, compression)
}

func unzlib(packed []byte, limit int) ([]byte, error) {
	r, err := zlib.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return drain(r, limit)
}

// unzstd is told the largest window that a block needs: a frame that asks for
// more is refused before anything is allocated.
func unzstd(packed []byte, limit int) ([]byte, error) {
	r, err := zstd.NewReader(bytes.NewReader(packed),
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(8<<20),
	)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	defer r.Close()
	return drain(r, limit)
}

// unxz reads the one block of LZMA2 in an xz stream, which is all that
// mksquashfs makes (xz file format 1.2.1, sections 2.1.1 and 3.1). It does so
// without a decoder of whole streams, because that one allocates whatever
// dictionary the stream asks for, up to 4 GiB. The stream's own checksums are
// not looked at: a release's image is verified as a whole.
func unxz(packed []byte, limit int) ([]byte, error) {
	const streamHeader = 12
	if len(packed) < streamHeader+8 {
		return nil, fmt.Errorf("%w: xz stream of %d bytes", ErrCorrupt, len(packed))
	}
	block := packed[streamHeader:]
	size := (int(block[0]) + 1) * 4
	if block[0] == 0 || size > len(block) {
		return nil, fmt.Errorf("%w: xz block header", ErrCorrupt)
	}
	if err := lzma2Only(block[1:size]); err != nil {
		return nil, err
	}
	r, err := lzma.Reader2Config{DictCap: max(limit, lzma.MinDictCap)}.NewReader2(bytes.NewReader(block[size:]))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return drain(r, limit)
}

// lzma2Only refuses an xz block header that names a filter besides LZMA2.
func lzma2Only(header []byte) error {
	flags, rest := header[0], header[1:]
	for _, present := range []bool{flags&0x40 != 0, flags&0x80 != 0} {
		if !present { // the compressed and the uncompressed size
			continue
		}
		_, n := binary.Uvarint(rest)
		if n <= 0 {
			return fmt.Errorf("%w: xz block header", ErrCorrupt)
		}
		rest = rest[n:]
	}
	if len(rest) == 0 || flags&0x3 != 0 || rest[0] != 0x21 {
		return fmt.Errorf("%w: xz with a filter besides LZMA2", ErrFormat)
	}
	return nil
}

// drain reads all of r, at most limit bytes.
func drain(r io.Reader, limit int) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	if err == nil && len(data) > limit {
		err = errors.New("content is longer than its block may be")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return data, nil
}

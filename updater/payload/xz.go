package payload

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/ulikunitz/xz/lzma"
)

var errXZ = errors.New("not a valid xz stream")

// xzReader reads one xz stream of LZMA2 blocks without other filters (The .xz
// File Format 1.0.4, sections 2 and 3). The container is read here because a
// block header may ask for a dictionary of 4 GiB, and the library gives it:
// a blob needs none greater than its output. The integrity check of each block
// is skipped, since the blob as a whole has a hash that was checked.
type xzReader struct {
	in        *bytes.Reader
	checkSize int64
	dictCap   int
	block     io.Reader // nil between blocks
	start     int       // of the block's data, counted in what is left of in
	done      bool
}

func newXZReader(blob []byte, output int64) (*xzReader, error) {
	const headerSize = 12
	if len(blob) < headerSize || string(blob[:6]) != "\xfd7zXZ\x00" || blob[6] != 0 ||
		crc32.ChecksumIEEE(blob[6:8]) != binary.LittleEndian.Uint32(blob[8:]) {
		return nil, fmt.Errorf("%w: no header", errXZ)
	}
	check := blob[7]
	if check > 15 {
		return nil, fmt.Errorf("%w: check type %d", errXZ, check)
	}
	sizes := [16]int64{0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64}
	return &xzReader{
		in:        bytes.NewReader(blob[headerSize:]),
		checkSize: sizes[check],
		dictCap:   int(max(lzma.MinDictCap, min(output, lzma.MaxDictCap))),
	}, nil
}

// Read returns the data of one block after the other.
func (r *xzReader) Read(p []byte) (int, error) {
	for !r.done {
		if r.block == nil {
			if err := r.header(); err != nil {
				return 0, err
			}
			continue
		}
		n, err := r.block.Read(p)
		if errors.Is(err, io.EOF) {
			err = r.trailer()
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
	return 0, io.EOF
}

// header reads a block's header, or the index, after which only the stream's
// footer follows.
func (r *xzReader) header() error {
	size, err := r.in.ReadByte()
	if err != nil {
		return fmt.Errorf("%w: %w", errXZ, noEOF(err))
	}
	if size == 0 {
		return r.footer()
	}
	raw := make([]byte, (int(size)+1)*4)
	raw[0] = size
	if _, err := io.ReadFull(r.in, raw[1:]); err != nil {
		return fmt.Errorf("%w: block header: %w", errXZ, noEOF(err))
	}
	body, sum := raw[:len(raw)-4], raw[len(raw)-4:]
	if crc32.ChecksumIEEE(body) != binary.LittleEndian.Uint32(sum) {
		return fmt.Errorf("%w: block header", errXZ)
	}
	fields := bytes.NewReader(body[2:])
	for bit := byte(0x40); bit != 0; bit <<= 1 { // compressed, then uncompressed size
		if body[1]&bit != 0 {
			if _, err := binary.ReadUvarint(fields); err != nil {
				return fmt.Errorf("%w: block header: %w", errXZ, noEOF(err))
			}
		}
	}
	var filter [3]byte // LZMA2, one byte of properties, the dictionary's size
	if _, err := io.ReadFull(fields, filter[:]); err != nil || body[1]&0x3f != 0 || filter[0] != 0x21 || filter[1] != 1 {
		return fmt.Errorf("%w: filters other than LZMA2", errXZ)
	}
	r.start = r.in.Len()
	if r.block, err = (lzma.Reader2Config{DictCap: r.dictCap}).NewReader2(r.in); err != nil {
		return fmt.Errorf("%w: %w", errXZ, err)
	}
	return nil
}

// trailer skips what ends a block: padding to four bytes, and its check.
func (r *xzReader) trailer() error {
	used := int64(r.start - r.in.Len())
	if _, err := io.CopyN(io.Discard, r.in, -used&3+r.checkSize); err != nil {
		return fmt.Errorf("%w: block: %w", errXZ, noEOF(err))
	}
	r.block = nil
	return nil
}

// footer checks that nothing but index and footer is left: the footer says how
// long the index is.
func (r *xzReader) footer() error {
	const footerSize = 12
	rest := make([]byte, r.in.Len())
	if _, err := io.ReadFull(r.in, rest); err != nil {
		return fmt.Errorf("%w: %w", errXZ, err)
	}
	at := len(rest) - footerSize
	if at < 0 || string(rest[len(rest)-2:]) != "YZ" ||
		int64(at)+1 != (int64(binary.LittleEndian.Uint32(rest[at+4:]))+1)*4 {
		return fmt.Errorf("%w: footer", errXZ)
	}
	r.done = true
	return nil
}

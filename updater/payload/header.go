package payload

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	magic       = "CrAU"
	header1Size = 20
	header2Size = 24
)

// header is the fixed part at the payload's start, FORMAT.md §1.
type header struct {
	major         int
	manifestSize  int64
	signatureSize int64 // of the metadata, major 2 only
}

func (h header) size() int64 {
	if h.major == 1 {
		return header1Size
	}
	return header2Size
}

// metadata is everything before the first blob: its size, and its bytes.
type metadata struct {
	header
	raw []byte // header, manifest, and the metadata signature of major 2
}

func (m metadata) manifest() []byte {
	return m.raw[m.size() : m.size()+m.manifestSize]
}

// signed is what the metadata signature of major 2 covers, and signature what
// stands for it.
func (m metadata) signed() []byte    { return m.raw[:m.size()+m.manifestSize] }
func (m metadata) signature() []byte { return m.raw[m.size()+m.manifestSize:] }

func readMetadata(r io.Reader) (metadata, error) {
	raw := make([]byte, header1Size, header2Size)
	if err := readFull(r, raw); err != nil {
		return metadata{}, fmt.Errorf("read payload header: %w", err)
	}
	if string(raw[:4]) != magic {
		return metadata{}, fmt.Errorf("%w: it begins with %q", ErrBadMagic, raw[:4])
	}
	version := binary.BigEndian.Uint64(raw[4:])
	if version != 1 && version != 2 {
		return metadata{}, fmt.Errorf("%w: major %d", ErrVersion, version)
	}
	m := metadata{header: header{major: int(version)}}
	size := binary.BigEndian.Uint64(raw[12:])
	if size > maxManifest {
		return metadata{}, fmt.Errorf("%w: manifest of %d bytes, at most %d", ErrTooLarge, size, maxManifest)
	}
	m.manifestSize = int64(size)
	if version == 2 {
		raw = raw[:header2Size]
		if err := readFull(r, raw[header1Size:]); err != nil {
			return metadata{}, fmt.Errorf("read payload header: %w", err)
		}
		m.signatureSize = int64(binary.BigEndian.Uint32(raw[header1Size:]))
	}
	if m.signatureSize > maxSignatures {
		return metadata{}, fmt.Errorf("%w: metadata signature of %d bytes, at most %d", ErrTooLarge, m.signatureSize, maxSignatures)
	}
	// It grows with what comes, not with what the header claims.
	body := bytes.NewBuffer(raw)
	if n, err := io.CopyN(body, r, m.manifestSize+m.signatureSize); err != nil {
		return metadata{}, fmt.Errorf("read payload manifest: %w: after %d of %d bytes: %w", ErrDownload, n, m.manifestSize+m.signatureSize, noEOF(err))
	}
	m.raw = body.Bytes()
	return m, nil
}

// readFull fills p or says, as ErrDownload, why it could not.
func readFull(r io.Reader, p []byte) error {
	n, err := io.ReadFull(r, p)
	if err == nil {
		return nil
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%w: after %d of %d bytes: %w", ErrDownload, n, len(p), err)
}

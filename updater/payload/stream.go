package payload

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding"
	"errors"
	"fmt"
	"hash"
	"io"
)

// stream reads the blobs in order and hashes what the payload's hash and
// signature cover, each byte once where both cover the same.
type stream struct {
	r      io.ReadCloser
	offset int64     // from the end of the metadata
	whole  hash.Hash // all bytes; nil if nobody asks
	signed hash.Hash // what the payload signature covers; nil if whole begins with just that
	total  int64     // blobs and signatures
	digest []byte    // of what is signed, once the signatures were read
	list   []byte    // the signatures message
}

// newStream begins after the metadata. In major 1 the signature covers all
// before it, so one hash serves both; in major 2 it leaves out the metadata
// signature.
func newStream(m metadata, p *plan, whole bool) *stream {
	s := &stream{total: p.dataSize + p.signatureSize}
	if whole || m.major == 1 {
		s.whole = sha256.New()
		s.whole.Write(m.raw)
	}
	if m.major == 2 {
		s.signed = sha256.New()
		s.signed.Write(m.signed())
	}
	return s
}

// fill reads all of p, or fails with ErrDownload.
func (s *stream) fill(p []byte) error {
	if err := readFull(s.r, p); err != nil {
		return err
	}
	if s.whole != nil {
		s.whole.Write(p)
	}
	if s.signed != nil {
		s.signed.Write(p)
	}
	s.offset += int64(len(p))
	return nil
}

// end reads the signatures and checks that nothing follows them.
func (s *stream) end(size int64) error {
	over := s.whole
	if s.signed != nil {
		over = s.signed
	}
	s.digest = over.Sum(nil)
	s.signed = nil
	s.list = make([]byte, size)
	if err := s.fill(s.list); err != nil {
		return fmt.Errorf("read signatures: %w", err)
	}
	var one [1]byte
	switch n, err := io.ReadFull(s.r, one[:]); {
	case n > 0:
		return fmt.Errorf("%w: bytes follow the signatures", ErrPayloadSize)
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("%w: %w", ErrDownload, err)
	}
	return nil
}

// verdict compares hash and signature once all was read.
func (s *stream) verdict(keys Keys, claimed []byte) error {
	if claimed != nil {
		if sum := s.whole.Sum(nil); !bytes.Equal(sum, claimed) {
			return fmt.Errorf("%w: %x, want %x", ErrPayloadHash, sum, claimed)
		}
	}
	return keys.verify(s.list, s.digest)
}

// state is how far both hashes have come.
func (s *stream) state() (whole, signed []byte, err error) {
	if whole, err = hashState(s.whole); err != nil {
		return nil, nil, err
	}
	signed, err = hashState(s.signed)
	return whole, signed, err
}

func hashState(h hash.Hash) ([]byte, error) {
	if h == nil {
		return nil, nil
	}
	return h.(encoding.BinaryMarshaler).MarshalBinary()
}

// restore sets both hashes to what state returned. A hash that one has and the
// other lacks is an error.
func (s *stream) restore(whole, signed []byte) error {
	for _, x := range []struct {
		h     hash.Hash
		state []byte
	}{{s.whole, whole}, {s.signed, signed}} {
		if (x.h == nil) != (x.state == nil) {
			return errors.New("hash state does not fit")
		}
		if x.h == nil {
			continue
		}
		if err := x.h.(encoding.BinaryUnmarshaler).UnmarshalBinary(x.state); err != nil {
			return err
		}
	}
	return nil
}

// open returns a reader of src from offset on.
func open(ctx context.Context, src Source, offset int64) (io.ReadCloser, error) {
	r, err := src.Open(ctx, offset)
	if err != nil {
		return nil, fmt.Errorf("%w: open at %d: %w", ErrDownload, offset, err)
	}
	return r, nil
}

package fetch

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
)

// packageBuffer is how much of a package is held at a time.
const packageBuffer = 256 << 10

// ErrHash: what was fetched is not what was announced.
var ErrHash = errors.New("the file's hash is not the expected one")

// Sum is what must be true of a file. Each hash that is given must match, and
// at least one must be given; SHA-1 alone is what old update servers have, and
// does not hold out against an attacker who makes both files.
type Sum struct {
	Size   int64  // bytes
	SHA256 []byte // 32 bytes, or nil
	SHA1   []byte // 20 bytes, or nil
}

// Package copies a whole file of src to w and checks its size and its hashes.
// It does not verify before it writes: until it returns nil, what w got is
// nobody's to use. Its errors are those of Source.Open, of w, and ErrSize and
// ErrHash.
func Package(ctx context.Context, src *Source, w io.Writer, want Sum) error {
	checks, err := want.checks()
	if err != nil {
		return err
	}
	r, err := src.Open(ctx, 0)
	if err != nil {
		return err
	}
	defer r.Close()
	to := []io.Writer{w}
	for _, c := range checks {
		to = append(to, c.sum)
	}
	// One byte more than wanted is enough to know that it is too many.
	n, err := io.CopyBuffer(io.MultiWriter(to...), io.LimitReader(r, want.Size+1), make([]byte, packageBuffer))
	if err != nil {
		return fmt.Errorf("copy package: %w", err)
	}
	if n != want.Size {
		return fmt.Errorf("package has %d bytes, where %d are expected: %w", n, want.Size, ErrSize)
	}
	for _, c := range checks {
		if got := c.sum.Sum(nil); !bytes.Equal(got, c.want) {
			return fmt.Errorf("package: %s %x, where %x is expected: %w", c.name, got, c.want, ErrHash)
		}
	}
	return nil
}

type check struct {
	name string
	sum  hash.Hash
	want []byte
}

func (s Sum) checks() ([]check, error) {
	var list []check
	if s.SHA256 != nil {
		list = append(list, check{"sha256", sha256.New(), s.SHA256})
	}
	if s.SHA1 != nil {
		list = append(list, check{"sha1", sha1.New(), s.SHA1})
	}
	if len(list) == 0 || s.Size <= 0 {
		return nil, fmt.Errorf("package without a size or without a hash: %w", ErrHash)
	}
	return list, nil
}

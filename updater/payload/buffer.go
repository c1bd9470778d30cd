package payload

import (
	"bytes"
	"unsafe"
)

// chunk is how much of an image is decompressed, written or read at a time:
// the size of one operation of a full payload.
const chunk = 1 << 20

// zeros are written and compared with, never changed.
var zeros = newBuffer(64 << 10)

// newBuffer returns n bytes that O_DIRECT can use.
func newBuffer(n int) []byte {
	raw := make([]byte, n+align)
	skip := -int(uintptr(unsafe.Pointer(&raw[0]))) & (align - 1)
	return raw[skip : skip+n : skip+n]
}

func aligned(p []byte) bool {
	return len(p) > 0 && uintptr(unsafe.Pointer(&p[0]))%align == 0
}

func isZero(p []byte) bool {
	for len(p) > len(zeros) {
		if !bytes.Equal(p[:len(zeros)], zeros) {
			return false
		}
		p = p[len(zeros):]
	}
	return bytes.Equal(p, zeros[:len(p)])
}

// A pool lends a fixed number of buffers of one size and makes them as they
// are first needed.
type pool struct {
	size int
	free chan []byte
}

func newPool(n, size int) pool {
	p := pool{size: size, free: make(chan []byte, n)}
	for range n {
		p.free <- nil
	}
	return p
}

func (p pool) get() []byte {
	b := <-p.free
	if b == nil {
		b = newBuffer(p.size)
	}
	return b
}

func (p pool) put(b []byte) { p.free <- b[:p.size] }

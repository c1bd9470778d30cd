package payload

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"testing"
	"time"
)

func TestDamagedOnTheWay(t *testing.T) {
	image := lightImage(3 << 20)
	spec := newSpec(t, 2, "rsa2048").with(Root, image)
	good := spec.create(t)
	keys := publicKeys(spec.Signers...)
	flip := func(at int) bytesSource {
		out := bytes.Clone(good)
		out[at] ^= 1
		return out
	}
	claimed := func(b []byte) []byte { sum := sha256.Sum256(b); return sum[:] }
	tests := []struct {
		name string
		src  Source
		o    Options
		want error
	}{
		{"first blob", flip(700), Options{SHA256: claimed(good)}, ErrOperationHash},
		{"last blob", flip(len(good) - 300), Options{SHA256: claimed(good)}, ErrOperationHash},
		{"payload signature", flip(len(good) - 10), Options{}, ErrSignature},
		{"payload signature, hash claimed", flip(len(good) - 10), Options{SHA256: claimed(good)}, ErrPayloadHash},
		{"truncated in a blob", good[:len(good)/2], Options{}, ErrDownload},
		{"truncated in the signature", good[:len(good)-1], Options{}, ErrDownload},
		{"one byte more", bytesSource(append(bytes.Clone(good), 0)), Options{}, ErrPayloadSize},
		{"other size claimed", good, Options{Size: int64(len(good)) + 1}, ErrPayloadSize},
		{"other hash claimed", good, Options{SHA256: make([]byte, 32)}, ErrPayloadHash},
		{"expired", good, Options{Now: time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC)}, ErrExpired},
		{"source fails midway", breaking{good, len(good) / 3, io.ErrClosedPipe}, Options{}, ErrDownload},
		{"source fails midway", breaking{good, len(good) / 3, io.ErrClosedPipe}, Options{}, io.ErrClosedPipe},
		{"source gives single bytes", breaking{good, len(good) + 1, nil}, Options{Now: time.Date(2029, 1, 1, 0, 0, 0, 0, time.UTC), SHA256: claimed(good), Size: int64(len(good))}, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			root := &memory{b: make([]byte, len(image))}
			_, err := apply(t.Context(), test.src, keys, map[string]Target{Root: {Device: root}}, test.o)
			if !errors.Is(err, test.want) {
				t.Fatalf("Apply: %v, want %v", err, test.want)
			}
			if (errors.Is(err, ErrPayloadSize) && test.o.Size != 0 || errors.Is(err, ErrExpired)) && root.writes > 0 {
				t.Error("the target was written to before")
			}
		})
	}
}

// breaking gives little at a time, and an error at byte at.
type breaking struct {
	bytesSource
	at  int
	err error
}

func (b breaking) Open(ctx context.Context, offset int64) (io.ReadCloser, error) {
	r, err := b.bytesSource.Open(ctx, offset)
	return io.NopCloser(&breakingReader{r: r, left: b.at - int(offset), err: b.err}), err
}

type breakingReader struct {
	r    io.Reader
	left int
	err  error
}

func (b *breakingReader) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, b.err
	}
	n, err := b.r.Read(p[:min(len(p), b.left, 1+b.left%4096)])
	b.left -= n
	return n, err
}

func TestDeviceFails(t *testing.T) {
	image := lightImage(3 << 20)
	spec := newSpec(t, 2, "p256").with(Root, image)
	src := spec.create(t)
	for n := 0; ; n++ {
		root := &failing{memory: memory{b: make([]byte, len(image))}, left: n}
		_, err := apply(t.Context(), src, publicKeys(spec.Signers...), map[string]Target{Root: {Device: root}}, Options{})
		if err == nil && root.left >= 0 {
			if n < len(image)/chunk {
				t.Errorf("%d writes and syncs were enough", n)
			}
			return
		}
		if !errors.Is(err, ErrWrite) || !errors.Is(err, errBroken) {
			t.Fatalf("after %d good writes and syncs: %v", n, err)
		}
	}
}

// failing is a device that breaks after some writes and syncs.
type failing struct {
	memory
	left int
}

var errBroken = errors.New("input/output error")

func (f *failing) spend() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left--; f.left < 0 {
		return errBroken
	}
	return nil
}

func (f *failing) WriteAt(p []byte, off int64) (int, error) {
	if err := f.spend(); err != nil {
		return 0, err
	}
	return f.memory.WriteAt(p, off)
}

func (f *failing) Sync() error {
	if err := f.spend(); err != nil {
		return err
	}
	return f.memory.Sync()
}

func TestCancel(t *testing.T) {
	image := lightImage(3 << 20)
	spec := newSpec(t, 2, "p256").with(Root, image)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := apply(ctx, spec.create(t), publicKeys(spec.Signers...), map[string]Target{Root: {Device: &memory{b: make([]byte, len(image))}}}, Options{
		Progress: func(done, _ int64) { cancel() },
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Apply: %v", err)
	}
}

// A server that stops sending must not hold Apply after the context has ended.
func TestCancelWhileTheServerHangs(t *testing.T) {
	image := lightImage(3 << 20)
	spec := newSpec(t, 2, "p256").with(Root, image)
	ctx, cancel := context.WithCancel(t.Context())
	src := &hanging{bytesSource: spec.create(t), hung: cancel}
	if _, err := apply(ctx, src, publicKeys(spec.Signers...), map[string]Target{Root: {Device: &memory{b: make([]byte, len(image))}}}, Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Apply: %v", err)
	}
}

// hanging gives half of the payload and then nothing, until it is closed.
type hanging struct {
	bytesSource
	hung func()
}

func (h *hanging) Open(context.Context, int64) (io.ReadCloser, error) {
	r, w := io.Pipe()
	return &hangingReader{Reader: io.MultiReader(bytes.NewReader(h.bytesSource[:len(h.bytesSource)/2]), callReader(h.hung), r), w: w}, nil
}

type hangingReader struct {
	io.Reader
	w *io.PipeWriter
}

func (h *hangingReader) Close() error { return h.w.CloseWithError(io.ErrClosedPipe) }

type callReader func()

func (c callReader) Read([]byte) (int, error) {
	c()
	return 0, io.EOF
}

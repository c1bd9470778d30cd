package payload

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"time"
)

// countingSource counts the bytes that are read from it.
type countingSource struct {
	bytesSource
	read atomic.Int64
}

func (s *countingSource) Open(ctx context.Context, offset int64) (io.ReadCloser, error) {
	r, err := s.bytesSource.Open(ctx, offset)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(io.TeeReader(r, s)), nil
}

func (s *countingSource) Write(p []byte) (int, error) {
	s.read.Add(int64(len(p)))
	return len(p), nil
}

// A pausedSource stops at half of its bytes until kept is closed: checkpoints are
// kept beside the work, and a busy machine may do all of that first.
type pausedSource struct {
	Source
	half int64
	kept <-chan struct{}
}

func (s pausedSource) Open(ctx context.Context, offset int64) (io.ReadCloser, error) {
	r, err := s.Source.Open(ctx, offset)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(io.MultiReader(io.LimitReader(r, s.half), pause(s.kept), r)), nil
}

// A pause is a reader of nothing, whose end comes when the channel is closed.
type pause <-chan struct{}

func (p pause) Read([]byte) (int, error) {
	select {
	case <-p:
	case <-time.After(time.Minute): // the test says then what is missing
	}
	return 0, io.EOF
}

// checkpoints applies src once and returns what it could have gone on from,
// with what the device held for sure at each.
func checkpoints(t *testing.T, src Source, keys Keys, size int, o Options) (marks [][]byte, durable [][]byte) {
	t.Helper()
	root := &durableMemory{memory: memory{b: make([]byte, size)}}
	kept := make(chan struct{})
	whole, err := src.Open(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	length, err := io.Copy(io.Discard, whole)
	if err != nil {
		t.Fatal(err)
	}
	src = pausedSource{src, length / 2, kept}
	o.CheckpointBytes = 1
	o.Checkpoint = func(raw []byte) error {
		if len(marks) == 0 {
			close(kept)
		}
		if len(raw) >= 4<<10 {
			t.Errorf("checkpoint of %d bytes", len(raw))
		}
		marks = append(marks, bytes.Clone(raw))
		root.mu.Lock()
		defer root.mu.Unlock()
		durable = append(durable, bytes.Clone(root.synced))
		return nil
	}
	if _, err := apply(t.Context(), src, keys, map[string]Target{Root: {Device: root}}, o); err != nil {
		t.Fatal(err)
	}
	return marks, durable
}

// durableMemory keeps what it held at the last Sync: all that a power cut
// leaves for sure.
type durableMemory struct {
	memory
	synced []byte
}

func (d *durableMemory) Sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.synced = bytes.Clone(d.b)
	return nil
}

// Whenever the power is cut, going on from the last checkpoint with only what
// was synced before it gives the same image, and costs no byte twice.
func TestResumeAtEveryCheckpoint(t *testing.T) {
	for _, major := range []int{1, 2} {
		image := lightImage((2*major)<<20 + 17*BlockSize)
		spec := newSpec(t, major, "rsa2048").with(Root, image)
		src := &countingSource{bytesSource: spec.create(t)}
		keys := publicKeys(spec.Signers...)
		sum := sha256.Sum256(src.bytesSource)
		for _, claimed := range [][]byte{nil, sum[:]}[2-major:] { // in major 1 both are the same
			marks, durable := checkpoints(t, src, keys, len(image), Options{SHA256: claimed, Workers: 1})
			if len(marks) < 2 {
				t.Fatalf("major %d: %d checkpoints", major, len(marks))
			}
			for i := range marks {
				root := &memory{b: durable[i]}
				src.read.Store(0)
				if _, err := apply(t.Context(), src, keys, map[string]Target{Root: {Device: root}}, Options{SHA256: claimed, Resume: marks[i]}); err != nil {
					t.Fatalf("major %d: resume at checkpoint %d: %v", major, i, err)
				}
				if !bytes.Equal(root.b, image) {
					t.Errorf("major %d: checkpoint %d led to another image", major, i)
				}
				if i == len(marks)-1 && src.read.Load() > int64(len(src.bytesSource))/2 {
					t.Errorf("major %d: the last checkpoint cost %d of %d bytes", major, src.read.Load(), len(src.bytesSource))
				}
			}
		}
	}
}

func TestStaleCheckpoint(t *testing.T) {
	image := lightImage(3 << 20)
	spec := newSpec(t, 2, "rsa2048").with(Root, image)
	src := spec.create(t)
	sum := sha256.Sum256(src)
	keys := publicKeys(spec.Signers...)
	marks, _ := checkpoints(t, src, keys, len(image), Options{SHA256: sum[:]})
	mark := marks[len(marks)-1]
	spec.Version = "4.5.7"
	later := spec.create(t)
	damaged := bytes.Clone(mark)
	damaged[len(damaged)-10] ^= 1
	tests := []struct {
		name string
		src  Source
		o    Options
	}{
		{"of another release", later, Options{Resume: mark, SHA256: sum[:]}},
		{"of another claimed hash", src, Options{Resume: mark, SHA256: make([]byte, 32)}},
		{"of no claimed hash", src, Options{Resume: mark}},
		{"damaged", src, Options{Resume: damaged, SHA256: sum[:]}},
		{"cut", src, Options{Resume: mark[:40], SHA256: sum[:]}},
		{"huge", src, Options{Resume: make([]byte, 1<<20), SHA256: sum[:]}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			root := &memory{b: make([]byte, len(image))}
			if _, err := apply(t.Context(), test.src, keys, map[string]Target{Root: {Device: root}}, test.o); !errors.Is(err, ErrResume) {
				t.Errorf("Apply: %v", err)
			}
			if root.writes > 0 {
				t.Error("the target was written to")
			}
		})
	}
}

// A checkpoint says nothing of the device: if something else wrote to it since,
// the image read back is the judge.
func TestResumeOnAnotherDevice(t *testing.T) {
	image := lightImage(3 << 20)
	spec := newSpec(t, 2, "rsa2048").with(Root, image)
	src, keys := spec.create(t), publicKeys(spec.Signers...)
	marks, _ := checkpoints(t, src, keys, len(image), Options{})
	root := &memory{b: make([]byte, len(image))}
	if _, err := apply(t.Context(), src, keys, map[string]Target{Root: {Device: root}}, Options{Resume: marks[len(marks)-1]}); !errors.Is(err, ErrImageHash) {
		t.Errorf("Apply: %v", err)
	}
}

func TestCheckpointFails(t *testing.T) {
	image := lightImage(3 << 20)
	spec := newSpec(t, 2, "rsa2048").with(Root, image)
	full := errors.New("no space left on device")
	_, err := apply(t.Context(), spec.create(t), publicKeys(spec.Signers...), map[string]Target{Root: {Device: &memory{b: make([]byte, len(image))}}},
		Options{CheckpointBytes: 1, Checkpoint: func([]byte) error { return full }})
	if !errors.Is(err, full) {
		t.Errorf("Apply: %v", err)
	}
}

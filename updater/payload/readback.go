package payload

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"
)

// readSize is how much is read back at a time.
const readSize = chunk

// settle computes, for every operation of an image, below which byte none of
// it and of those after it writes.
func settle(im *image, blockSize int64) {
	n := len(im.operations)
	im.settled = make([]int64, n+1)
	im.settled[n] = im.size
	for i := n - 1; i >= 0; i-- {
		im.settled[i] = im.settled[i+1]
		for _, e := range im.operations[i].dst {
			if e.Start != holeStart {
				im.settled[i] = min(im.settled[i], e.Start*blockSize)
			}
		}
	}
}

// readable is how much of the image can be read back and hashed for good.
func (im *image) readable(next int, synced bool) int64 {
	if synced {
		return im.size
	}
	i := min(max(next-im.first, 0), len(im.operations))
	return min(im.settled[i], im.sink.overlapped())
}

// readBack hashes the images as their devices return them, following closely
// behind the writing.
func (r *run) readBack(ctx context.Context) (map[string][]byte, error) {
	sums := map[string][]byte{}
	buffers := newPool(2, readSize) // one is read while the other is hashed
	for _, im := range r.images {
		if im.sink == nil {
			continue
		}
		sum, err := r.readImage(ctx, im, buffers)
		if err != nil {
			return nil, fmt.Errorf("read back %s: %w", im.name, err)
		}
		if sum == nil { // the run failed, and says why
			return nil, nil
		}
		sums[im.name] = sum
	}
	return sums, nil
}

func (r *run) readImage(ctx context.Context, im *image, buffers pool) (sum []byte, err error) {
	full := make(chan []byte)
	h := sha256.New()
	var hashing sync.WaitGroup
	hashing.Go(func() {
		for b := range full {
			h.Write(b)
			buffers.put(b)
		}
	})
	whole := true
	for pos := int64(0); pos < im.size && whole && err == nil; {
		var ready int64
		whole = r.frontier.wait(func(next int, synced bool) bool {
			ready = im.readable(next, synced)
			return ready-pos >= readSize || ready == im.size || pos < ready && ready == im.sink.overlapped()
		})
		if !whole {
			break
		}
		b := buffers.get()
		b = b[:min(readSize, ready-pos)]
		if pos < im.sink.overlapped() { // the tail goes another way
			b = b[:min(int64(len(b)), im.sink.overlapped()-pos)]
		}
		if err = im.sink.read(b, pos); err == nil {
			err = ctx.Err()
		}
		pos += int64(len(b))
		full <- b
		r.frontier.reading(im, pos)
	}
	close(full)
	hashing.Wait()
	if !whole || err != nil {
		return nil, err
	}
	return h.Sum(nil), nil
}

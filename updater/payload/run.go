package payload

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"sync"

	"golang.org/x/sync/semaphore"
)

const (
	// maxWorkers bounds memory on a machine of many processors; eight
	// decompress faster than any disk takes it.
	maxWorkers = 8
	// maxLargeBlobs is how many bytes of blobs greater than a chunk wait
	// at once, unless a single one is greater.
	maxLargeBlobs = 16 << 20
)

// image is a partition on its way to its target. Without a sink its blobs are
// verified and nothing is written.
type image struct {
	*partition
	sink   *sink
	source io.ReaderAt
	first  int // of its operations, counted through the payload
	// settled[i] is up to which byte the image cannot change any more once
	// its operations before i are done.
	settled []int64
}

// run carries a plan out: one goroutine reads the payload, several run the
// operations, one reads back what was written, one keeps the records.
type run struct {
	plan     *plan
	images   []*image
	stream   *stream
	frontier *frontier
	total    int // operations
	workers  int
	records  *records

	metadataSize int64

	blobs pool
	large *semaphore.Weighted
}

func newRun(p *plan, s *stream, workers int) *run {
	r := &run{plan: p, stream: s, workers: workers, frontier: newFrontier(0), large: semaphore.NewWeighted(maxLargeBlobs)}
	if r.workers <= 0 {
		// One more than processors: one waits while its data is
		// written, and the others decompress meanwhile.
		r.workers = min(runtime.GOMAXPROCS(0)+1, maxWorkers)
	}
	for i := range p.partitions {
		part := &p.partitions[i]
		r.images = append(r.images, &image{partition: part, first: r.total})
		r.total += len(part.operations)
		if part.inPlace || part.overlaps {
			r.workers = 1 // their order matters
		}
	}
	r.blobs = newPool(r.workers+1, chunk) // one more is being read
	return r
}

// each calls f for every operation from index on.
func (r *run) each(from int, f func(index int, im *image, op *operation) error) error {
	for _, im := range r.images {
		for i := range im.operations {
			if index := im.first + i; index >= from {
				if err := f(index, im, &im.operations[i]); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// operations reads the payload from the operation at index from on to its end
// and does it. Whatever fails first in the payload's order is what the
// frontier says then, and every operation before it was done.
func (r *run) operations(ctx context.Context, from int) error {
	fetching, cancel := context.WithCancel(ctx)
	defer cancel()
	// A read that hangs ends when nobody waits for it any more.
	defer context.AfterFunc(fetching, func() { r.stream.r.Close() })()
	r.frontier.onFailure(cancel)
	jobs := make(chan job)
	var group sync.WaitGroup
	for range r.workers {
		w, err := newWorker(r.plan.blockSize)
		if err != nil {
			cancel()
			close(jobs)
			group.Wait()
			return err
		}
		group.Go(func() {
			defer w.close()
			r.work(ctx, w, jobs)
		})
	}
	group.Go(func() {
		defer close(jobs)
		r.fetch(fetching, from, jobs)
	})
	group.Wait()
	return r.frontier.failure()
}

// fetch reads each operation's blob and hands it on.
func (r *run) fetch(ctx context.Context, from int, jobs chan<- job) {
	at := from
	err := r.each(from, func(index int, im *image, op *operation) error {
		at = index
		if err := ctx.Err(); err != nil {
			return err
		}
		r.frontier.pace()
		if err := r.records.mark(index, r.stream); err != nil {
			return err
		}
		j, err := r.blob(ctx, index, im, op)
		if err != nil {
			return fmt.Errorf("operation %d of %s: %w", index-im.first, im.name, err)
		}
		jobs <- j
		return nil
	})
	if err == nil {
		at = r.total
		err = r.stream.end(r.plan.signatureSize)
	}
	switch {
	case err == nil:
	case ctx.Err() == nil:
		r.frontier.fail(at, err)
	case r.frontier.failure() == nil: // the caller's context ended
		r.frontier.fail(at, context.Cause(ctx))
	}
}

func (r *run) blob(ctx context.Context, index int, im *image, op *operation) (job, error) {
	j := job{index: index, op: op, image: im}
	switch {
	case op.length > chunk:
		if err := r.large.Acquire(ctx, min(op.length, maxLargeBlobs)); err != nil {
			return j, err
		}
		j.buf = newBuffer(int(op.length))
	case op.length > 0:
		j.buf = r.blobs.get()
	}
	j.blob = j.buf[:op.length]
	if err := r.stream.fill(j.blob); err != nil {
		return j, err
	}
	return j, nil
}

func (r *run) release(j job) {
	switch {
	case j.op.length > chunk:
		r.large.Release(min(j.op.length, maxLargeBlobs))
	case j.op.length > 0:
		r.blobs.put(j.buf)
	}
}

// work does jobs until there are none. After a failure, those that come later
// in the payload are dropped and those before it are still done.
func (r *run) work(ctx context.Context, w *worker, jobs <-chan job) {
	for j := range jobs {
		if r.frontier.failedBefore(j.index) {
			r.release(j)
			continue
		}
		err := w.do(ctx, j)
		r.release(j)
		if err != nil {
			r.frontier.fail(j.index, fmt.Errorf("operation %d of %s, %s: %w", j.index-j.image.first, j.image.name, j.op.kind, err))
			continue
		}
		r.frontier.done(j.index)
	}
}

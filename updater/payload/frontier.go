package payload

import "sync"

// frontier knows how far a run has come: every operation before next is done.
// Operations end in any order within a small window.
type frontier struct {
	mu     sync.Mutex
	change *sync.Cond
	next   int
	ahead  map[int]bool // done, beyond next
	synced bool         // all is done and durable
	image  *image       // the one that is being read back
	read   int64        // how far it was
	failed bool
	index  int // of the first operation, in the payload's order, that failed
	err    error
	stop   func() // what a failure stops
}

func newFrontier(next int) *frontier {
	f := &frontier{next: next, ahead: map[int]bool{}}
	f.change = sync.NewCond(&f.mu)
	return f
}

// done marks one operation.
func (f *frontier) done(index int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ahead[index] = true
	for f.ahead[f.next] {
		delete(f.ahead, f.next)
		f.next++
	}
	f.change.Broadcast()
}

// fail records what went wrong at an operation. Of several failures the one
// that comes first in the payload is kept, so that the same payload gives the
// same error however the work was spread.
func (f *frontier) fail(index int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.failed || index < f.index {
		f.failed, f.index, f.err = true, index, err
	}
	if f.stop != nil {
		f.stop()
	}
	f.change.Broadcast()
}

// failedBefore says whether an operation before index failed, so that index
// must not be begun.
func (f *frontier) failedBefore(index int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failed && f.index < index
}

// onFailure makes the first failure, one that was already there included,
// call stop.
func (f *frontier) onFailure(stop func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stop = stop
	if f.failed {
		stop()
	}
}

// finish marks that everything is done and durable.
func (f *frontier) finish() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.synced = true
	f.change.Broadcast()
}

// reading says how far an image was read back.
func (f *frontier) reading(im *image, pos int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.image, f.read = im, pos
	f.change.Broadcast()
}

// pace holds back the operations while more than maxUnread bytes could be read
// back: else the workers take all processors, and a single one reads back
// what they have left behind.
func (f *frontier) pace() {
	const maxUnread = 16 << 20
	f.wait(func(next int, synced bool) bool {
		return f.image == nil || f.image.readable(next, synced)-f.read <= maxUnread
	})
}

func (f *frontier) failure() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// wait returns once ready does, or false once the run has failed.
func (f *frontier) wait(ready func(next int, synced bool) bool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for !f.failed && !ready(f.next, f.synced) {
		f.change.Wait()
	}
	return !f.failed
}

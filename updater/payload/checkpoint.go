package payload

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"sync"
)

// defaultCheckpointBytes is how much payload an interruption may cost: a
// second or less of a fast network.
const defaultCheckpointBytes = 32 << 20

// checkpoint says how far a payload was applied. All operations before
// Operation are done and durable.
type checkpoint struct {
	Metadata  []byte // SHA-256: the payload is told by it
	Claimed   []byte `json:",omitempty"`
	Size      int64
	Operation int
	Offset    int64  // of the next blob
	Whole     []byte `json:",omitempty"` // states of the stream's hashes at Offset
	Signed    []byte `json:",omitempty"`
}

// marshal prefixes the checkpoint with its own hash: a state file that was
// damaged starts the update again and does nothing worse.
func (c checkpoint) marshal() ([]byte, error) {
	body, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(body)
	return append(sum[:], body...), nil
}

// parseCheckpoint returns the checkpoint in raw if it is one of the payload
// that is told by want's Metadata, Claimed and Size.
func parseCheckpoint(raw []byte, want checkpoint) (checkpoint, error) {
	const maxCheckpoint = 4 << 10
	var c checkpoint
	if len(raw) < sha256.Size || len(raw) > maxCheckpoint {
		return c, fmt.Errorf("%w: it is %d bytes long", ErrResume, len(raw))
	}
	body := raw[sha256.Size:]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:], raw[:sha256.Size]) {
		return c, fmt.Errorf("%w: it is damaged", ErrResume)
	}
	if err := json.Unmarshal(body, &c); err != nil {
		return c, fmt.Errorf("%w: %v", ErrResume, err)
	}
	if !bytes.Equal(c.Metadata, want.Metadata) || !bytes.Equal(c.Claimed, want.Claimed) || c.Size != want.Size {
		return c, fmt.Errorf("%w: it was made for another one", ErrResume)
	}
	return c, nil
}

// records tells the caller how far the run has come: progress at every step,
// and checkpoints of what has been synced.
type records struct {
	checkpoint func([]byte) error // nil: none
	progress   func(done, total int64)
	every      int64
	base       checkpoint // what all checkpoints of this payload share

	mu    sync.Mutex
	last  int64 // offset of the newest mark
	marks []checkpoint
}

// mark notes the state of the stream before the operation at index, every so
// often.
func (r *records) mark(index int, s *stream) error {
	if r == nil || r.checkpoint == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.offset-r.last < r.every {
		return nil
	}
	c := r.base
	c.Operation, c.Offset = index, s.offset
	var err error
	if c.Whole, c.Signed, err = s.state(); err != nil {
		return fmt.Errorf("save hash: %w", err)
	}
	r.last = s.offset
	r.marks = append(r.marks, c)
	return nil
}

// reached returns the newest mark that a run which has done all operations
// before next has passed, and forgets it and the older ones.
func (r *records) reached(next int) (checkpoint, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found checkpoint
	ok := false
	for len(r.marks) > 0 && r.marks[0].Operation <= next {
		found, ok = r.marks[0], true
		r.marks = r.marks[1:]
	}
	return found, ok
}

// keep follows the run until all operations are done or one has failed.
func (r *run) keep(from int) {
	if r.records == nil {
		return
	}
	for seen := from; seen < r.total; {
		next := seen
		if !r.frontier.wait(func(n int, _ bool) bool { next = n; return n > seen }) {
			return
		}
		seen = next
		if err := r.record(seen); err != nil {
			r.frontier.fail(seen, err)
			return
		}
	}
}

func (r *run) record(next int) error {
	if r.records.progress != nil {
		r.records.progress(r.offset(next), r.records.base.Size)
	}
	c, ok := r.records.reached(next)
	if !ok {
		return nil
	}
	for _, im := range r.images {
		if im.sink != nil {
			if err := im.sink.sync(); err != nil {
				return err
			}
		}
	}
	raw, err := c.marshal()
	if err != nil {
		return fmt.Errorf("save checkpoint: %w", err)
	}
	if err := r.records.checkpoint(raw); err != nil {
		return fmt.Errorf("save checkpoint: %w", err)
	}
	return nil
}

// offset is how many bytes of the payload lie before the operation at index.
func (r *run) offset(index int) int64 {
	for _, im := range r.images {
		if i := index - im.first; i < len(im.operations) {
			return r.metadataSize + im.operations[i].offset
		}
	}
	return r.metadataSize + r.plan.dataSize
}

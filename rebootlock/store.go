package rebootlock

import (
	"context"
	"errors"
	"time"
)

// A Store keeps records under keys, each change with a revision of the whole
// store, as etcd does. Two implement it, Etcd and Memory, and locktest.Store
// tests that they behave alike.
type Store interface {
	// Read returns the records of the ranges as of one revision, by key. It
	// is linearizable: what was committed before it began is in it.
	Read(ctx context.Context, ranges ...Range) (Snapshot, error)
	// Commit carries t out as one, or not at all. After an error other than
	// ErrRefused its outcome is unknown, and must be read.
	Commit(ctx context.Context, t Txn) (Result, error)
	// Watch sends the changes of the ranges that follow a revision, those of one
	// range in the order of their revisions, each once, until ctx ends. It closes the
	// channel when it cannot go on without a gap: then Read tells.
	Watch(ctx context.Context, after int64, ranges ...Range) <-chan []Event
	// Session makes a lease, and keeps it alive until Close or until the store
	// has not been heard of for ttl.
	Session(ctx context.Context, ttl time.Duration) (Session, error)
}

// ErrRefused wraps an answer of the store that says no and changed nothing:
// rights that are missing, a lease that has ended.
var ErrRefused = errors.New("the store refuses")

// A Range is one key, or all keys that begin with it.
type Range struct {
	Key    string
	Prefix bool
}

// A KV is one record as the store has it.
type KV struct {
	Key      string
	Value    []byte
	Created  int64 // revision in which the key came to be
	Modified int64 // revision of its last change
	Lease    int64 // with which it ends; 0: with none
}

// A Snapshot is records as of one revision.
type Snapshot struct {
	Revision int64
	KVs      []KV // by key
}

// An Event is one change: a record that was written, or one that is gone, of
// which only key and revision (Modified) are known.
type Event struct {
	KV
	Deleted bool
}

// A Txn is a change that is made only while its conditions hold.
type Txn struct {
	If   []Cond
	Then []Op    // no key twice
	Else []Range // read in the same revision where a condition does not hold
}

// maxOps is the most conditions, and the most changes, that etcd takes in one
// transaction unless its operator raises it (--max-txn-ops).
const maxOps = 128

// A Cond compares a key with what was last seen of it. The zero revision is
// that of a key that does not exist.
type Cond struct {
	Key      string
	Modified int64
	// Created, if it is not 0, is compared instead: the key is still the one that
	// was created then, whatever was written to it since.
	Created int64
}

// An Op writes a record, or deletes one.
type Op struct {
	Key    string
	Value  []byte
	Lease  int64 // 0: the record does not end by itself
	Delete bool
}

// A Result is what became of a Txn.
type Result struct {
	Done     bool  // the conditions held, and everything was written
	Revision int64 // of the store, after it
	Else     []KV
}

// A Session is a lease that is kept alive.
type Session interface {
	Lease() int64
	// Done is closed when the lease has ended, or may have.
	Done() <-chan struct{}
	// Campaign stands for election under a key prefix, and returns when elected.
	// The leadership ends with Resign, or with the session.
	Campaign(ctx context.Context, prefix string, value []byte) (Leadership, error)
	// Resign gives a leadership up, or the wait for one.
	Resign(ctx context.Context) error
	// Close ends the lease, and with it every record that hangs on it.
	Close(ctx context.Context) error
}

// A Leadership is an election that was won: a Cond on Key and Created holds for
// as long as it lasts.
type Leadership struct {
	Key     string
	Created int64
}

// Package locktest tests what every store of the reboot lock must do, and the whole lock over it.
package locktest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
)

// storeLimit bounds each test of a store: one that waits longer waits for ever.
const storeLimit = 30 * time.Second

// leaseTTL is of the tests' leases: longer than a test.
const leaseTTL = time.Minute

// Store tests that a store behaves as rebootlock.Store says. open returns one
// that nobody else writes to below /locktest/ while the test runs; all of them
// may have the same records.
func Store(t *testing.T, open func(t *testing.T) rebootlock.Store) {
	for name, test := range map[string]func(*bench){
		"revisions":     (*bench).revisions,
		"values":        (*bench).values,
		"ranges":        (*bench).ranges,
		"pages":         (*bench).pages,
		"aba":           (*bench).aba,
		"created":       (*bench).created,
		"else":          (*bench).otherwise,
		"atomic":        (*bench).atomic,
		"limits":        (*bench).limits,
		"no-such-lease": (*bench).noSuchLease,
		"watch":         (*bench).watch,
		"watch-ranges":  (*bench).watchRanges,
		"watch-writers": (*bench).watchWriters,
		"watch-ends":    (*bench).watchEnds,
		"lease":         (*bench).lease,
		"lease-moved":   (*bench).leaseMoved,
		"election":      (*bench).election,
		"stand-twice":   (*bench).standTwice,
		"fence":         (*bench).fence,
		"resign":        (*bench).resign,
		"stop-waiting":  (*bench).stopWaiting,
		"session-ends":  (*bench).sessionEnds,
		"closed":        (*bench).closed,
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), storeLimit)
			defer cancel()
			test(&bench{T: t, ctx: ctx, s: open(t), dir: "/locktest/" + t.Name() + "/"})
		})
	}
}

// A bench is a store and the keys that one test has in it.
type bench struct {
	*testing.T
	ctx context.Context
	s   rebootlock.Store
	dir string
}

func (b *bench) all() rebootlock.Range { return rebootlock.Range{Key: b.dir, Prefix: true} }

func (b *bench) key(name string) rebootlock.Range { return rebootlock.Range{Key: b.dir + name} }

func (b *bench) put(name, value string) rebootlock.Op {
	return rebootlock.Op{Key: b.dir + name, Value: []byte(value)}
}

func (b *bench) drop(name string) rebootlock.Op {
	return rebootlock.Op{Key: b.dir + name, Delete: true}
}

// commit carries out what must be done, and returns its revision.
func (b *bench) commit(ops ...rebootlock.Op) int64 {
	b.Helper()
	got, err := b.s.Commit(b.ctx, rebootlock.Txn{Then: ops})
	if err != nil || !got.Done {
		b.Fatalf("Commit(%v) = %+v, %v", ops, got, err)
	}
	return got.Revision
}

// try is a commit under conditions.
func (b *bench) try(ops []rebootlock.Op, conds ...rebootlock.Cond) bool {
	b.Helper()
	got, err := b.s.Commit(b.ctx, rebootlock.Txn{If: conds, Then: ops})
	if err != nil {
		b.Fatalf("Commit(%v if %v) = %v", ops, conds, err)
	}
	return got.Done
}

func (b *bench) read(ranges ...rebootlock.Range) rebootlock.Snapshot {
	b.Helper()
	snap, err := b.s.Read(b.ctx, ranges...)
	if err != nil {
		b.Fatalf("Read(%v) = %v", ranges, err)
	}
	return snap
}

// one is the record under a name; the zero KV if there is none.
func (b *bench) one(name string) rebootlock.KV {
	b.Helper()
	snap := b.read(b.key(name))
	if len(snap.KVs) == 0 {
		return rebootlock.KV{}
	}
	return snap.KVs[0]
}

// show is records as names and values.
func (b *bench) show(kvs []rebootlock.KV) string {
	var out []string
	for _, kv := range kvs {
		out = append(out, strings.TrimPrefix(kv.Key, b.dir)+"="+string(kv.Value))
	}
	return strings.Join(out, " ")
}

func (b *bench) session() rebootlock.Session {
	b.Helper()
	s, err := b.s.Session(b.ctx, leaseTTL)
	if err != nil {
		b.Fatalf("Session() = %v", err)
	}
	b.Cleanup(func() { s.Close(context.WithoutCancel(b.ctx)) })
	return s
}

func (b *bench) revisions() {
	before := b.read(b.all()).Revision
	first := b.commit(b.put("a", "1"), b.put("b", "1"))
	second := b.commit(b.put("a", "2"), b.drop("b"))
	if first != before+1 || second != first+1 {
		b.Errorf("revisions %d, %d, %d: want one more with each commit", before, first, second)
	}
	if kv := b.one("a"); kv.Created != first || kv.Modified != second {
		b.Errorf("a was created in %d and modified in %d, want %d and %d", kv.Created, kv.Modified, first, second)
	}
	if kv := b.one("b"); kv.Created != 0 {
		b.Errorf("b is still there: %+v", kv)
	}
	if got := b.commit(b.drop("b")); got != second {
		b.Errorf("a commit that changes nothing has revision %d, want still %d", got, second)
	}
	if got := b.commit(b.put("a", "2")); got != second+1 {
		b.Errorf("a record written again with the same value has revision %d, want %d", got, second+1)
	}
	if got := b.read(b.all()).Revision; got != second+1 {
		b.Errorf("Read is of revision %d, want %d", got, second+1)
	}
}

func (b *bench) values() {
	for name, value := range map[string][]byte{
		"empty": {}, "zero": {0}, "binary": {0xff, 0, '\n', 0xfe}, "large": bytes.Repeat([]byte("x"), 1<<20),
	} {
		op := rebootlock.Op{Key: b.dir + name, Value: bytes.Clone(value)}
		b.commit(op)
		if len(op.Value) > 0 {
			op.Value[0]++ // the store has its own copy
		}
		if got := b.one(name); !bytes.Equal(got.Value, value) {
			b.Errorf("%s: got %d bytes back, want %d, the same", name, len(got.Value), len(value))
		}
	}
	b.commit(b.drop("large"))
}

func (b *bench) ranges() {
	b.commit(b.put("m/2", "2"), b.put("m/1", "1"), b.put("m", "0"), b.put("n/1", "3"), b.put("m0", "4"))
	m, n := rebootlock.Range{Key: b.dir + "m/", Prefix: true}, rebootlock.Range{Key: b.dir + "n/", Prefix: true}
	for name, test := range map[string]struct {
		ranges []rebootlock.Range
		want   string
	}{
		"prefix":            {[]rebootlock.Range{m}, "m/1=1 m/2=2"},
		"all":               {[]rebootlock.Range{b.all()}, "m=0 m/1=1 m/2=2 m0=4 n/1=3"},
		"key":               {[]rebootlock.Range{b.key("m")}, "m=0"},
		"several, by key":   {[]rebootlock.Range{n, b.key("m0"), m}, "m/1=1 m/2=2 m0=4 n/1=3"},
		"overlapping, once": {[]rebootlock.Range{b.key("m/2"), m, b.key("m/2"), m}, "m/1=1 m/2=2"},
		"missing":           {[]rebootlock.Range{b.key("x"), {Key: b.dir + "y", Prefix: true}}, ""},
		"none":              {nil, ""},
	} {
		if got := b.show(b.read(test.ranges...).KVs); got != test.want {
			b.Errorf("%s: got %s, want %s", name, got, test.want)
		}
	}
	if _, err := b.s.Read(b.ctx, rebootlock.Range{}); !errors.Is(err, rebootlock.ErrRefused) {
		b.Errorf("Read of no key = %v, want ErrRefused", err)
	}
}

// pages reads more than any store gives in one answer, while somebody writes.
func (b *bench) pages() {
	const total, each = 2500, 100
	var want []string
	for from := 0; from < total; from += each {
		var ops []rebootlock.Op
		for i := from; i < from+each; i++ {
			ops = append(ops, b.put(fmt.Sprintf("%05d", i), "old"))
			want = append(want, ops[len(ops)-1].Key)
		}
		b.commit(ops...)
	}
	b.commit(b.put("00000", "new"), b.put("02499", "new"))
	var writer sync.WaitGroup
	defer writer.Wait()
	writer.Go(func() {
		for i := range 200 {
			b.s.Commit(b.ctx, rebootlock.Txn{Then: []rebootlock.Op{b.put("00000", fmt.Sprint(i)), b.put("02499", fmt.Sprint(i))}})
		}
	})
	for range 10 {
		snap := b.read(b.all())
		var got []string
		for _, kv := range snap.KVs {
			got = append(got, kv.Key)
			if kv.Modified > snap.Revision {
				b.Fatalf("%s was modified in %d, after the snapshot's %d", kv.Key, kv.Modified, snap.Revision)
			}
		}
		if !slices.Equal(got, want) {
			b.Fatalf("got %d keys, want %d, in order", len(got), len(want))
		}
		if first, last := string(snap.KVs[0].Value), string(snap.KVs[total-1].Value); first != last {
			b.Fatalf("first record is %s and last %s: two revisions in one snapshot", first, last)
		}
	}
}

func (b *bench) aba() {
	seen := b.commit(b.put("a", "1"))
	b.commit(b.drop("a"))
	again := b.commit(b.put("a", "1"))
	if b.try([]rebootlock.Op{b.put("a", "2")}, rebootlock.Cond{Key: b.dir + "a", Modified: seen}) {
		b.Error("a record that was deleted and made again passes for the old one")
	}
	if kv := b.one("a"); kv.Created != again {
		b.Errorf("made again in %d, but created in %d", again, kv.Created)
	}
	if !b.try([]rebootlock.Op{b.put("a", "2")}, rebootlock.Cond{Key: b.dir + "a", Modified: again}) {
		b.Error("a condition that holds was refused")
	}
	if b.try([]rebootlock.Op{b.put("a", "3")}, rebootlock.Cond{Key: b.dir + "a"}) {
		b.Error("a record that exists passes for one that does not")
	}
	if !b.try([]rebootlock.Op{b.put("b", "1")}, rebootlock.Cond{Key: b.dir + "b"}) {
		b.Error("a record that does not exist passes for one that does")
	}
}

func (b *bench) created() {
	made := b.commit(b.put("a", "1"))
	b.commit(b.put("a", "2"))
	cond := rebootlock.Cond{Key: b.dir + "a", Created: made}
	if !b.try([]rebootlock.Op{b.put("b", "1")}, cond) {
		b.Error("a record that was only changed does not pass for the one that was created")
	}
	b.commit(b.drop("a"))
	if b.try([]rebootlock.Op{b.put("b", "2")}, cond) {
		b.Error("a record that is gone passes for one that was created")
	}
	b.commit(b.put("a", "3"))
	if b.try([]rebootlock.Op{b.put("b", "3")}, cond) {
		b.Error("a record made again passes for the one that was created")
	}
}

func (b *bench) otherwise() {
	b.commit(b.put("m/2", "2"), b.put("m/1", "1"), b.put("a", "0"))
	txn := rebootlock.Txn{
		If:   []rebootlock.Cond{{Key: b.dir + "a"}},
		Then: []rebootlock.Op{b.put("a", "9")},
		Else: []rebootlock.Range{{Key: b.dir + "m/", Prefix: true}, b.key("a"), b.key("none"), b.key("m/1")},
	}
	now := b.read(b.all()).Revision
	got, err := b.s.Commit(b.ctx, txn)
	if err != nil || got.Done || got.Revision != now || b.show(got.Else) != "a=0 m/1=1 m/2=2" {
		b.Errorf("Commit = %+v (%s), %v; want not done, the records in Else, revision %d", got, b.show(got.Else), err, now)
	}
	txn.If = nil
	if got, err = b.s.Commit(b.ctx, txn); err != nil || !got.Done || len(got.Else) != 0 {
		b.Errorf("Commit = %+v, %v; want done, and nothing read", got, err)
	}
}

func (b *bench) atomic() {
	rev := b.commit(b.put("a", "1"), b.put("b", "1"))
	good, bad := rebootlock.Cond{Key: b.dir + "a", Modified: rev}, rebootlock.Cond{Key: b.dir + "b", Modified: rev - 1}
	change := []rebootlock.Op{b.put("a", "2"), b.drop("b"), b.put("c", "2")}
	if b.try(change, good, bad) {
		b.Error("done although one condition of two does not hold")
	}
	if got := b.show(b.read(b.all()).KVs); got != "a=1 b=1" {
		b.Errorf("after a commit that was not done: %s", got)
	}
	if !b.try(change, good) {
		b.Error("not done although the condition holds")
	}
	snap := b.read(b.all())
	if got := b.show(snap.KVs); got != "a=2 c=2" {
		b.Errorf("after a commit: %s", got)
	}
	for _, kv := range snap.KVs {
		if kv.Modified != rev+1 {
			b.Errorf("%s has revision %d, want %d like all of its commit", kv.Key, kv.Modified, rev+1)
		}
	}
}

func (b *bench) limits() {
	before := b.read(b.all()).Revision
	var most []rebootlock.Op
	for i := range 129 {
		most = append(most, b.put(fmt.Sprintf("%03d", i), "1"))
	}
	for name, ops := range map[string][]rebootlock.Op{
		"129 operations":              most,
		"a key twice":                 {b.put("a", "1"), b.put("a", "2")},
		"a key written and deleted":   {b.put("a", "1"), b.drop("a")},
		"a key deleted twice":         {b.drop("a"), b.drop("a")},
		"no key":                      {{Value: []byte("1")}},
		"more than etcd takes at all": {b.put("a", strings.Repeat("x", 2<<20))},
	} {
		if got, err := b.s.Commit(b.ctx, rebootlock.Txn{Then: ops}); !errors.Is(err, rebootlock.ErrRefused) {
			b.Errorf("%s: Commit = %+v, %v; want ErrRefused", name, got, err)
		}
	}
	if _, err := b.s.Commit(b.ctx, rebootlock.Txn{If: []rebootlock.Cond{{}}}); !errors.Is(err, rebootlock.ErrRefused) {
		b.Errorf("condition without a key: %v; want ErrRefused", err)
	}
	if now := b.read(b.all()); now.Revision != before || len(now.KVs) != 0 {
		b.Errorf("what was refused changed revision %d to %d, and left %s", before, now.Revision, b.show(now.KVs))
	}
	b.commit(most[:128]...)
}

func (b *bench) noSuchLease() {
	op := b.put("a", "1")
	op.Lease = 0x7eadbeef
	if got, err := b.s.Commit(b.ctx, rebootlock.Txn{Then: []rebootlock.Op{b.put("b", "1"), op}}); !errors.Is(err, rebootlock.ErrRefused) {
		b.Errorf("Commit = %+v, %v; want ErrRefused", got, err)
	}
	if got := b.show(b.read(b.all()).KVs); got != "" {
		b.Errorf("after a commit that was refused: %s", got)
	}
	if _, err := b.s.Session(b.ctx, 0); !errors.Is(err, rebootlock.ErrRefused) {
		b.Errorf("Session of no time = %v; want ErrRefused", err)
	}
}

func (b *bench) closed() {
	ctx, cancel := context.WithCancel(b.ctx)
	s := b.session()
	cancel()
	if _, err := b.s.Read(ctx, b.all()); !errors.Is(err, context.Canceled) {
		b.Errorf("Read = %v; want it cancelled", err)
	}
	if _, err := b.s.Commit(ctx, rebootlock.Txn{Then: []rebootlock.Op{b.put("a", "1")}}); !errors.Is(err, context.Canceled) || errors.Is(err, rebootlock.ErrRefused) {
		b.Errorf("Commit = %v; want it cancelled, and not refused", err)
	}
	if _, err := b.s.Session(ctx, leaseTTL); !errors.Is(err, context.Canceled) {
		b.Errorf("Session = %v; want it cancelled", err)
	}
	if _, err := s.Campaign(ctx, b.dir+"election", nil); !errors.Is(err, context.Canceled) {
		b.Errorf("Campaign = %v; want it cancelled", err)
	}
	select {
	case <-s.Done():
		b.Error("a session ended with the context of another call")
	default:
	}
}

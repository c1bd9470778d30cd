package rebootlock

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// An Operator changes the lock for a person: rules, freezes, permits that nobody
// gives back. Each change is one transaction together with its entry in the
// journal, and compares all that it was decided upon. Set the fields.
type Operator struct {
	Store Store
	Keys  Keys
	Who   string           // of the journal: "operator ann@laptop"
	Now   func() time.Time // by the operator's clock
}

// changeTries is how often a change is tried that others overtake: every loss
// means that somebody else got something done.
const changeTries = 8

// Pauses of a change to which the store gave no answer: before it is tried
// again, and for the last look whether it was done although the caller left.
const (
	changePause    = 200 * time.Millisecond
	settlePatience = 5 * time.Second
)

// errOvertaken says that a change lost every race.
var errOvertaken = errors.New("others kept changing the same records, so nothing was changed: try again")

// An edit is what an operator decided to do: the writes, and the line of the
// journal that tells of them. Without writes it is so already.
type edit struct {
	ops   []Op
	entry Entry
}

// seen is what was read before a change, by key.
type seen map[string]KV

// change reads, lets decide say what to do about it, and commits that with its
// entry while nothing has changed of the single keys that were read; what was
// read by prefix is evidence, and is not compared. The entry's key is made once,
// and proves afterwards whether the change was made, where no answer came.
func (o Operator) change(ctx context.Context, ranges []Range, decide func(seen) (edit, error)) error {
	key := o.Keys.Entry(entryID(o.Now()))
	ranges = append(slices.Clip(ranges), Range{Key: key})
	var doubt error // what came in place of an answer
	for range changeTries {
		records, err := o.read(ctx, ranges)
		if err == nil {
			if _, proof := records[key]; proof {
				return nil
			}
			var done bool
			if done, err = o.attempt(ctx, key, ranges, records, decide); done {
				return nil
			}
			if errors.As(err, new(final)) {
				return err
			}
			if err == nil {
				continue // overtaken
			}
			doubt = err
		}
		if doubt == nil {
			return err
		}
		if !rest(ctx, changePause) {
			break
		}
	}
	if doubt == nil {
		return errOvertaken
	}
	return o.settle(ctx, key, doubt)
}

// final is an error that is an answer: nothing was changed, nor will be.
type final struct{ error }

// Unwrap returns the error.
func (f final) Unwrap() error { return f.error }

// attempt decides and commits once. It is not done, without an error, where
// somebody else was faster.
func (o Operator) attempt(ctx context.Context, key string, ranges []Range, records seen, decide func(seen) (edit, error)) (done bool, err error) {
	e, err := decide(records)
	if err != nil {
		return false, final{err}
	}
	if len(e.ops) == 0 {
		return true, nil
	}
	e.entry.Version, e.entry.At, e.entry.Who = version, o.Now(), o.who()
	t := Txn{Then: append(e.ops, Op{Key: key, Value: encode(e.entry, nil)})}
	for _, r := range ranges {
		if !r.Prefix {
			t.If = append(t.If, Cond{Key: r.Key, Modified: records[r.Key].Modified})
		}
	}
	result, err := o.Store.Commit(ctx, t)
	if errors.Is(err, ErrRefused) {
		err = final{err}
	}
	return err == nil && result.Done, err
}

// settle looks once more whether a change was made whose answer did not come,
// also where the caller does not wait any longer.
func (o Operator) settle(ctx context.Context, key string, doubt error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settlePatience)
	defer cancel()
	records, err := o.read(ctx, []Range{{Key: key}})
	if _, proof := records[key]; proof && err == nil {
		return nil
	}
	return fmt.Errorf("whether it was done is not known (drydock lock journal tells): %w", doubt)
}

func (o Operator) read(ctx context.Context, ranges []Range) (seen, error) {
	s, err := o.Store.Read(ctx, ranges...)
	if err != nil {
		return nil, fmt.Errorf("read the lock of cluster %s: %w", o.Keys.Cluster, err)
	}
	records := seen{}
	for _, kv := range s.KVs {
		records[kv.Key] = kv
	}
	return records, nil
}

func (o Operator) who() string {
	if o.Who == "" {
		return "operator"
	}
	return o.Who
}

// below returns the keys of a range that are there, sorted.
func (s seen) below(r Range) []string {
	keys := slices.Sorted(maps.Keys(s))
	return slices.DeleteFunc(keys, func(k string) bool { return !strings.HasPrefix(k, r.Key) })
}

// record reads a record of what was seen. What cannot be read is never
// overwritten.
func record[T any](s seen, key string) (rec T, there bool, err error) {
	kv, there := s[key]
	if !there {
		return rec, false, nil
	}
	switch err = decodeInto(kv.Value, &rec); {
	case errors.Is(err, ErrNewer):
		err = fmt.Errorf("record %s: %w; nothing was changed: do it with that version", key, err)
	case err != nil:
		err = fmt.Errorf("record %s: %w; nothing was changed, and nothing is granted by it: repair it in the store, or delete it there", key, err)
	}
	return rec, true, err
}

// rest waits, and reports whether there is still somebody to wait for.
func rest(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// entryID names a journal entry: Unix nanoseconds by its writer's clock in
// hexadecimal, so that keys are about in order, and something random.
func entryID(now time.Time) string {
	return fmt.Sprintf("%016x-%s", uint64(now.UnixNano()), strings.ToLower(rand.Text()[:8]))
}

// maxReason bounds a reason, in bytes: it is a sentence that is kept in records
// and shown everywhere.
const maxReason = 1024

// checkReason says why a text cannot be the reason that everybody sees.
func checkReason(reason string) error {
	switch {
	case strings.TrimSpace(reason) == "":
		return errors.New("the reason is empty: say why, for everybody who wonders")
	case len(reason) > maxReason:
		return fmt.Errorf("the reason has %d bytes; %d are the most", len(reason), maxReason)
	case !utf8.ValidString(reason) || strings.ContainsFunc(reason, unicode.IsControl):
		return errors.New("the reason holds control characters, or is not UTF-8")
	}
	return nil
}

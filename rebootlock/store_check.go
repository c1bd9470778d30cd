package rebootlock

import (
	"fmt"
	"slices"
	"strings"
)

// maxTxnBytes is the most keys and values that a transaction holds: etcd's own
// limit (--max-request-bytes), so that what Memory takes, etcd takes.
const maxTxnBytes = 3 << 19

// byKey sorts records and drops those that two ranges brought.
func byKey(kvs []KV) []KV {
	order := func(a, b KV) int { return strings.Compare(a.Key, b.Key) }
	if !slices.IsSortedFunc(kvs, order) {
		slices.SortFunc(kvs, order)
	}
	return slices.CompactFunc(kvs, func(a, b KV) bool { return a.Key == b.Key })
}

func covers(ranges []Range, key string) bool {
	return slices.ContainsFunc(ranges, func(r Range) bool {
		return r.Key == key || r.Prefix && strings.HasPrefix(key, r.Key)
	})
}

func checkRanges(ranges []Range) error {
	if slices.Contains(ranges, Range{}) {
		return fmt.Errorf("a range has neither key nor prefix: %w", ErrRefused)
	}
	return nil
}

// check refuses what etcd would refuse, so that every store does, and before
// anything is sent.
func (t Txn) check() error {
	if n := max(len(t.If), len(t.Then), len(t.Else)); n > maxOps {
		return fmt.Errorf("%d operations in one transaction, %d are the most: %w", n, maxOps, ErrRefused)
	}
	size, seen := 0, make(map[string]struct{}, len(t.Then))
	for _, op := range t.Then {
		if _, twice := seen[op.Key]; twice || op.Key == "" {
			return fmt.Errorf("key %q: no key, or twice in one transaction: %w", op.Key, ErrRefused)
		}
		seen[op.Key] = struct{}{}
		size += len(op.Key) + len(op.Value)
	}
	if size > maxTxnBytes {
		return fmt.Errorf("%d bytes in one transaction, %d are the most: %w", size, maxTxnBytes, ErrRefused)
	}
	if slices.ContainsFunc(t.If, func(c Cond) bool { return c.Key == "" }) {
		return fmt.Errorf("a condition without a key: %w", ErrRefused)
	}
	return checkRanges(t.Else)
}

// disjoint drops the ranges that another one covers.
func disjoint(ranges []Range) []Range {
	var out []Range
	for i, r := range ranges {
		covered := slices.ContainsFunc(ranges[:i], func(o Range) bool { return o == r })
		for _, o := range ranges {
			covered = covered || o.Prefix && o != r && strings.HasPrefix(r.Key, o.Key)
		}
		if !covered {
			out = append(out, r)
		}
	}
	return out
}

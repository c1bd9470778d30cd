package rebootlock

import (
	"cmp"
	"context"
	"fmt"
	"slices"
)

// maxEntries bounds what Journal returns, whatever is asked for.
const maxEntries = 10_000

// Journal returns the last entries of a group's journal, newest first, at most
// limit of them (0: all that are kept); of every group, and of the cluster
// itself, with group "". An entry that cannot be read says so in its place.
func (o Operator) Journal(ctx context.Context, group string, limit int) ([]Entry, error) {
	if limit <= 0 || limit > maxEntries {
		limit = maxEntries
	}
	s, err := o.Store.Read(ctx, o.Keys.all(kindEntry))
	if err != nil {
		return nil, fmt.Errorf("read the journal of cluster %s: %w", o.Keys.Cluster, err)
	}
	slices.SortFunc(s.KVs, func(a, b KV) int { // keys have the clocks of those who wrote them
		return cmp.Or(cmp.Compare(b.Created, a.Created), cmp.Compare(b.Key, a.Key))
	})
	entries := []Entry{}
	for _, kv := range s.KVs {
		if len(entries) == limit {
			break
		}
		var e Entry
		if err := decodeInto(kv.Value, &e); err != nil {
			e = Entry{What: "unreadable", Why: fmt.Sprintf("%s: %v", kv.Key, err)}
		}
		if group == "" || e.Group == group || e.Group == "" {
			entries = append(entries, e)
		}
	}
	return entries, nil
}

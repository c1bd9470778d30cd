package rebootlock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// callTimeout is how long one call to etcd may take in all. An election of
	// etcd's own leader takes two seconds at most with its default settings.
	callTimeout = 8 * time.Second
	// firstAttempt is after how long a read asks the next endpoint: one that is
	// stopped takes a call and never answers it. Each attempt has twice the time
	// of the one before, for an etcd that is only slow.
	firstAttempt = time.Second
	// maxPage is how many records one answer of etcd brings, so that none of some
	// 10,000 machines' is tens of megabytes that must be in memory at once twice.
	maxPage = 1000
	// maxRecords bounds a read: ten records each of 100,000 machines.
	maxRecords = 1 << 20
)

var _ Store = (*Etcd)(nil)

// Etcd is a Store in an etcd cluster, version 3.4 or newer.
type Etcd struct {
	Client *clientv3.Client // as DialEtcd makes it

	watches sync.WaitGroup
}

// Close ends all watches and the connections. Leases end after their ttl.
func (e *Etcd) Close() error {
	err := e.Client.Close()
	e.watches.Wait()
	if err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("close connections to etcd: %w", err)
	}
	return nil
}

// Read returns the records of the ranges: first pages in one transaction, the
// others as of the same revision.
func (e *Etcd) Read(ctx context.Context, ranges ...Range) (Snapshot, error) {
	if err := checkRanges(ranges); err != nil {
		return Snapshot{}, fmt.Errorf("read records: %w", err)
	}
	if len(ranges) > maxOps {
		return Snapshot{}, fmt.Errorf("read records: %d ranges, %d are the most: %w", len(ranges), maxOps, ErrRefused)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	snap, err := e.read(ctx, ranges)
	if errors.Is(err, rpctypes.ErrCompacted) { // between two pages: the next read is of a newer revision
		snap, err = e.read(ctx, ranges)
	}
	if err != nil {
		return Snapshot{}, fmt.Errorf("read records: %w", err)
	}
	snap.KVs = byKey(snap.KVs)
	return snap, nil
}

func (e *Etcd) read(ctx context.Context, ranges []Range) (Snapshot, error) {
	var first []clientv3.Op
	for _, r := range ranges {
		first = append(first, clientv3.OpGet(r.Key, append(options(r), clientv3.WithLimit(maxPage))...))
	}
	resp, err := attempts(ctx, e, func(ctx context.Context) (*clientv3.TxnResponse, error) {
		return e.Client.Txn(ctx).Then(first...).Commit()
	})
	if err != nil {
		return Snapshot{}, err
	}
	snap := Snapshot{Revision: resp.Header.Revision}
	for i, r := range ranges {
		page := resp.Responses[i].GetResponseRange()
		snap.KVs = appendKVs(snap.KVs, page.Kvs)
		for more := page.More; more; {
			page, err := e.page(ctx, r, snap)
			if err != nil {
				return Snapshot{}, err
			}
			snap.KVs, more = appendKVs(snap.KVs, page.Kvs), page.More && len(page.Kvs) > 0
			if len(snap.KVs) > maxRecords {
				return Snapshot{}, fmt.Errorf("more than %d records below %s: %w", maxRecords, r.Key, ErrRefused)
			}
		}
	}
	return snap, nil
}

// page reads on after the last record of snap.
func (e *Etcd) page(ctx context.Context, r Range, snap Snapshot) (*clientv3.GetResponse, error) {
	from := snap.KVs[len(snap.KVs)-1].Key + "\x00"
	return attempts(ctx, e, func(ctx context.Context) (*clientv3.GetResponse, error) {
		return e.Client.Get(ctx, from, clientv3.WithRange(clientv3.GetPrefixRangeEnd(r.Key)),
			clientv3.WithLimit(maxPage), clientv3.WithRev(snap.Revision))
	})
}

// attempts calls until there is an answer, or ctx ends. Each time, the client
// takes its next endpoint; after an error that came at once, as while etcd elects
// a leader, a little later. Only what changes nothing may be tried twice.
func attempts[T any](ctx context.Context, e *Etcd, call func(context.Context) (T, error)) (T, error) {
	for patience := firstAttempt; ; patience *= 2 {
		answer, err := once(ctx, e, patience, call)
		final := err == nil || errors.Is(err, ErrRefused) || errors.Is(err, rpctypes.ErrCompacted)
		if final || ctx.Err() != nil || patience > callTimeout {
			return answer, err
		}
		if errors.Is(err, context.DeadlineExceeded) {
			continue // it has waited already
		}
		select {
		case <-time.After(patience / 4):
		case <-ctx.Done():
			return answer, err
		}
	}
}

// once calls once, for at most a time. Its error names the endpoints, and what
// is known of why none of them answered.
func once[T any](ctx context.Context, e *Etcd, limit time.Duration, call func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ctx, trouble := withTrouble(ctx)
	answer, err := call(ctx)
	switch {
	case err == nil:
		return answer, nil
	case errors.Is(err, rpctypes.ErrCompacted):
		return answer, err
	case isRefusal(err):
		return answer, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	where := strings.Join(e.Client.Endpoints(), ", ")
	if why := trouble.last(); why != "" && !strings.Contains(err.Error(), why) {
		return answer, fmt.Errorf("etcd at %s: %w (%s)", where, err, why)
	}
	return answer, fmt.Errorf("etcd at %s: %w", where, err)
}

// isRefusal says whether err is an answer of etcd that says no, after which
// nothing has changed. What is not known to be one is none: a member that loses
// its leader, or its connection, may have committed.
func isRefusal(err error) bool {
	if known, ok := errors.AsType[rpctypes.EtcdError](err); ok {
		switch known.Code() {
		case codes.InvalidArgument, codes.NotFound, codes.PermissionDenied, codes.Unauthenticated,
			codes.FailedPrecondition, codes.ResourceExhausted, codes.OutOfRange:
			return true
		}
		return false
	}
	// The client's own limit: it was not sent.
	return status.Code(err) == codes.ResourceExhausted && strings.Contains(err.Error(), "trying to send message larger than max")
}

// Commit carries t out as one etcd transaction, which is sent at most once.
func (e *Etcd) Commit(ctx context.Context, t Txn) (Result, error) {
	if err := t.check(); err != nil {
		return Result{}, fmt.Errorf("commit %d changes: %w", len(t.Then), err)
	}
	var then, otherwise []clientv3.Op
	for _, op := range t.Then {
		if op.Delete {
			then = append(then, clientv3.OpDelete(op.Key))
		} else {
			then = append(then, clientv3.OpPut(op.Key, string(op.Value), clientv3.WithLease(clientv3.LeaseID(op.Lease))))
		}
	}
	for _, r := range t.Else {
		otherwise = append(otherwise, clientv3.OpGet(r.Key, options(r)...))
	}
	resp, err := once(ctx, e, callTimeout, func(ctx context.Context) (*clientv3.TxnResponse, error) {
		return e.Client.Txn(ctx).If(compares(t.If)...).Then(then...).Else(otherwise...).Commit()
	})
	if err != nil {
		return Result{}, fmt.Errorf("commit %d changes: %w", len(t.Then), err)
	}
	result := Result{Done: resp.Succeeded, Revision: resp.Header.Revision}
	if !resp.Succeeded {
		for _, r := range resp.Responses {
			result.Else = appendKVs(result.Else, r.GetResponseRange().GetKvs())
		}
		result.Else = byKey(result.Else)
	}
	return result, nil
}

func compares(conds []Cond) []clientv3.Cmp {
	var cmps []clientv3.Cmp
	for _, c := range conds {
		if c.Created != 0 {
			cmps = append(cmps, clientv3.Compare(clientv3.CreateRevision(c.Key), "=", c.Created))
		} else {
			cmps = append(cmps, clientv3.Compare(clientv3.ModRevision(c.Key), "=", c.Modified))
		}
	}
	return cmps
}

// Watch sends the changes of the ranges that follow a revision. It goes on by
// itself, without a gap, when a connection breaks, and closes the channel when
// the member it asks has lost its leader or has compacted what is missing, and
// when etcd refuses.
func (e *Etcd) Watch(ctx context.Context, after int64, ranges ...Range) <-chan []Event {
	out := make(chan []Event)
	// A watch ends with its caller, with the client, and with its first range
	// that cannot go on.
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	closed := context.AfterFunc(e.Client.Ctx(), cancel)
	e.watches.Go(func() {
		defer close(out)
		defer closed()
		defer cancel()
		var each sync.WaitGroup
		for _, r := range disjoint(ranges) {
			each.Go(func() {
				defer cancel()
				opts := append(options(r), clientv3.WithRev(after+1))
				forward(ctx, e.Client.Watch(ctx, r.Key, opts...), out)
			})
		}
		each.Wait()
		if len(ranges) == 0 {
			<-ctx.Done() // there is nothing to miss
		}
	})
	return out
}

func forward(ctx context.Context, in clientv3.WatchChan, out chan<- []Event) {
	for resp := range in {
		if resp.Err() != nil {
			return
		}
		if len(resp.Events) == 0 {
			continue
		}
		events := make([]Event, len(resp.Events))
		for i, e := range resp.Events {
			events[i] = Event{KV: toKV(e.Kv), Deleted: e.Type == clientv3.EventTypeDelete}
		}
		select {
		case out <- events:
		case <-ctx.Done():
			return
		}
	}
}

func options(r Range) []clientv3.OpOption {
	if r.Prefix {
		return []clientv3.OpOption{clientv3.WithPrefix()}
	}
	return nil
}

func appendKVs(kvs []KV, more []*mvccpb.KeyValue) []KV {
	kvs = slices.Grow(kvs, len(more))
	for _, kv := range more {
		kvs = append(kvs, toKV(kv))
	}
	return kvs
}

func toKV(kv *mvccpb.KeyValue) KV {
	return KV{Key: string(kv.Key), Value: kv.Value, Created: kv.CreateRevision, Modified: kv.ModRevision, Lease: kv.Lease}
}

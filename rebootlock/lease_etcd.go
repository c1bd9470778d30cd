package rebootlock

import (
	"context"
	"fmt"
	"math"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

var _ Leaser = (*Etcd)(nil)

// GrantLease makes a lease of etcd, of whole seconds rounded up, that nobody
// keeps alive. One whose answer is lost ends by itself, and nothing hangs on it.
func (e *Etcd) GrantLease(ctx context.Context, ttl time.Duration) (int64, error) {
	seconds := int64(math.Ceil(ttl.Seconds()))
	if seconds <= 0 {
		return 0, fmt.Errorf("make lease of %s: %w", ttl, ErrRefused)
	}
	lease, err := once(ctx, e, callTimeout, func(ctx context.Context) (*clientv3.LeaseGrantResponse, error) {
		return e.Client.Grant(ctx, seconds)
	})
	if err != nil {
		return 0, fmt.Errorf("make lease: %w", err)
	}
	return int64(lease.ID), nil
}

// RenewLease makes a lease last its whole ttl again. Twice is as good as once,
// so the next endpoint is asked where one does not answer.
func (e *Etcd) RenewLease(ctx context.Context, lease int64) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := attempts(ctx, e, func(ctx context.Context) (*clientv3.LeaseKeepAliveResponse, error) {
		return e.Client.KeepAliveOnce(ctx, clientv3.LeaseID(lease))
	})
	if err != nil {
		return fmt.Errorf("renew lease %x: %w", lease, err)
	}
	return nil
}

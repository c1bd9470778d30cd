package rebootlock

import (
	"context"
	"time"
)

// A Leaser makes leases that nobody keeps alive: each is renewed by whoever
// knows its number, from whatever process, until nobody does. Stores may have
// it beside Session, whose leases end with the process that made them.
type Leaser interface {
	// GrantLease makes a lease that ends a ttl after it was last renewed.
	GrantLease(ctx context.Context, ttl time.Duration) (lease int64, err error)
	// RenewLease makes a lease last its whole ttl again. ErrRefused: it has ended.
	RenewLease(ctx context.Context, lease int64) error
}

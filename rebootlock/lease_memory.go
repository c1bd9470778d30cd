package rebootlock

import (
	"context"
	"fmt"
	"slices"
	"time"
)

var _ Leaser = (*Memory)(nil)

// GrantLease makes a lease that ends a ttl after it was last renewed, by the
// store's Now; with Now nil it never does.
func (m *Memory) GrantLease(ctx context.Context, ttl time.Duration) (int64, error) {
	s, err := m.Session(ctx, ttl)
	if err != nil {
		return 0, err
	}
	m.Abandon(s) // nobody keeps it alive
	return s.Lease(), nil
}

// RenewLease makes a lease last its whole ttl again.
func (m *Memory) RenewLease(ctx context.Context, lease int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.enter(ctx); err != nil {
		return fmt.Errorf("renew lease %x: %w", lease, err)
	}
	s, exists := m.sessions[lease]
	if !exists {
		return fmt.Errorf("renew lease %x: it has ended: %w", lease, ErrRefused)
	}
	if m.Now == nil || s.ends.IsZero() {
		return nil // it does not end by itself
	}
	m.dying = slices.DeleteFunc(m.dying, func(other *memorySession) bool { return other == s })
	s.ends = m.Now().Add(s.ttl)
	m.abandoned(s)
	return nil
}

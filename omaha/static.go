package omaha

import (
	"context"
	"slices"
	"sync"

	"github.com/coreos/go-semver/semver"
)

// maxSeen bounds what a Static remembers: enough for a demonstration or a
// small site, not a history.
const maxSeen = 1000

// Static is an Updates in memory with one application and at most one release.
// It offers that release to machines that run an older one or, where a version
// is no semantic version, another one.
type Static struct {
	AppID string

	mu      sync.Mutex
	release *Offer
	seen    []Seen
}

// Seen is an event that a Static took.
type Seen struct {
	MachineID string
	Version   string // the release that the machine ran
	Event     Event
}

// Release makes o the release on offer; nil withdraws it. Its Update need not
// be set.
func (s *Static) Release(o *Offer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.release = nil
	if o != nil {
		release := *o
		release.Update = true
		s.release = &release
	}
}

// Seen returns the last events that machines reported, oldest first, at most
// a thousand.
func (s *Static) Seen() []Seen {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.seen)
}

// Alive implements Updates.
func (s *Static) Alive(_ context.Context, app App) error {
	if !SameApp(app.AppID, s.AppID) {
		return ErrUnknownApp
	}
	return nil
}

// Event implements Updates.
func (s *Static) Event(_ context.Context, app App, e Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.seen) == maxSeen {
		s.seen = slices.Delete(s.seen, 0, 1)
	}
	s.seen = append(s.seen, Seen{MachineID: app.MachineID, Version: app.Version, Event: e})
	return nil
}

// Offer implements Updates.
func (s *Static) Offer(_ context.Context, app App) (*Offer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.release == nil || !older(app.Version, s.release.Version) {
		return nil, nil
	}
	offer := *s.release
	return &offer, nil
}

// older reports whether version a should be updated to version b.
func older(a, b string) bool {
	va, errA := semver.NewVersion(a)
	vb, errB := semver.NewVersion(b)
	if errA != nil || errB != nil {
		return a != b
	}
	return va.LessThan(*vb)
}

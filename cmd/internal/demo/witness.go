package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/drydock-os/drydock/rebootlock"
)

// witness watches the group's permits in etcd, at every revision.
type witness struct {
	name func(machine string) string // as people know it
	tell func(host, format string, args ...any)

	mu      sync.Mutex
	permits map[string]rebootlock.Permit // by key
	most    int                          // that were held at any revision
	log     []sighting
}

// sighting is one change of a permit.
type sighting struct {
	revision int64
	machine  string
	phase    string // "" where the permit is gone
	held     int    // permits as of that revision
}

// errBlind says that what was claimed can no longer be known.
var errBlind = errors.New("the watch on the permits broke off, so nobody knows how many were held")

// watch follows every change after a revision until ctx ends.
func (w *witness) watch(ctx context.Context, store rebootlock.Store, after int64) error {
	prefix := strings.TrimSuffix(keys.Permit(group, "x"), "x")
	for batch := range store.Watch(ctx, after, rebootlock.Range{Key: prefix, Prefix: true}) {
		for i, e := range batch {
			if err := w.take(e); err != nil {
				return err
			}
			if i+1 == len(batch) || batch[i+1].Modified != e.Modified {
				w.count(e.Modified)
			}
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return errBlind
}

// take takes one change in, and tells it.
func (w *witness) take(e rebootlock.Event) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.permits[e.Key]
	if e.Deleted {
		delete(w.permits, e.Key)
		w.log = append(w.log, sighting{revision: e.Modified, machine: before.Machine})
		return nil
	}
	var p rebootlock.Permit
	if err := json.Unmarshal(e.Value, &p); err != nil {
		return fmt.Errorf("read permit %s: %w", e.Key, err)
	}
	w.permits[e.Key] = p
	w.log = append(w.log, sighting{revision: e.Modified, machine: p.Machine, phase: p.Phase})
	switch {
	case p.Phase == rebootlock.PhaseGranted:
		w.tell(w.name(p.Machine), "gets a permit (%d held now); its work moves away", w.held())
	case p.Phase == rebootlock.PhaseEnded:
		w.tell(w.name(p.Machine), "its work is back; gives its permit back: %s", p.Ending)
	}
	return nil
}

// held is how many permits are in use.
func (w *witness) held() (n int) {
	for _, p := range w.permits {
		if p.Phase != rebootlock.PhaseEnded {
			n++
		}
	}
	return n
}

// count counts the holders as of a revision.
func (w *witness) count(revision int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.held()
	w.most = max(w.most, n)
	for i := len(w.log) - 1; i >= 0 && w.log[i].revision == revision; i-- {
		w.log[i].held = n
	}
}

// holders are the machines with a permit that is in use, by phase.
func (w *witness) holders() map[string]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	phases := map[string]string{}
	for _, p := range w.permits {
		if p.Phase != rebootlock.PhaseEnded {
			phases[w.name(p.Machine)] = p.Phase
		}
	}
	return phases
}

// records is how many permits there are, those that are not booked yet
// included.
func (w *witness) records() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.permits)
}

// maximum is the most permits that were held at any revision so far.
func (w *witness) maximum() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.most
}

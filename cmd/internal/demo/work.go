package demo

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
)

// work is what runs on the machines, under a scheduler in memory that takes its
// time to move it, so that the eye can follow.
type work struct {
	fleetlink.Memory
	move atomic.Int64 // nanoseconds that one workload takes to move

	mu    sync.Mutex
	hosts []string // the machines
	most  int      // that were out of service at once
}

// place puts workloads on a machine.
func (w *work) place(host string, names ...string) {
	w.Move = func(ctx context.Context) error {
		nap(ctx, time.Duration(w.move.Load()))
		return ctx.Err()
	}
	w.Place(host, names...)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hosts = append(w.hosts, host)
}

// home reports whether every workload runs where it belongs.
func (w *work) home() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !slices.ContainsFunc(w.hosts, func(host string) bool { return len(w.Abroad(host)) > 0 })
}

// guests says where the work of a machine runs: "web-1 on dock-3".
func (w *work) guests(host string) string {
	var texts []string
	for name, at := range w.Abroad(host) {
		texts = append(texts, fmt.Sprintf("%s runs on %s", name, at))
	}
	slices.Sort(texts)
	return strings.Join(texts, ", ")
}

// count notes how many machines are out of service.
func (w *work) count() {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, host := range w.hosts {
		if w.Cordoned(host) {
			n++
		}
	}
	w.most = max(w.most, n)
}

// maximum is the most machines that were out of service at once so far.
func (w *work) maximum() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.most
}

// pier is one machine's side of the work.
type pier struct {
	fleetlink.Link
	work *work
}

// Cordon implements fleetlink.Link.
func (p pier) Cordon(ctx context.Context, why string) error {
	err := p.Link.Cordon(ctx, why)
	p.work.count()
	return err
}

// nap waits, and reports whether ctx goes on.
func nap(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

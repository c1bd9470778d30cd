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
	"github.com/drydock-os/drydock/updater/link"
)

// work is what runs on the machines. The scheduler in memory says which machine
// is drained; this says, for the eye, who runs its workloads meanwhile, and lets
// their move take time.
type work struct {
	memory fleetlink.Memory
	move   atomic.Int64 // nanoseconds that one workload takes to move

	mu   sync.Mutex
	all  []*workload
	host []string        // the machines
	away map[string]bool // those that drain, or are drained, and take no work
	most int             // that were away at once
}

type workload struct{ name, home, at string }

// place puts workloads on a machine.
func (w *work) place(host string, names ...string) {
	w.memory.Place(host, names...)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.away == nil {
		w.away = map[string]bool{}
	}
	w.host = append(w.host, host)
	for _, name := range names {
		w.all = append(w.all, &workload{name, host, host})
	}
}

// on returns what runs on a machine.
func (w *work) on(host string) (names []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.all {
		if l.at == host {
			names = append(names, l.name)
		}
	}
	return names
}

// home reports whether every workload runs where it belongs.
func (w *work) home() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !slices.ContainsFunc(w.all, func(l *workload) bool { return l.at != l.home })
}

// guests says where the work of a machine runs: "web-1 on dock-3".
func (w *work) guests(host string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var texts []string
	for _, l := range w.all {
		if l.home == host && l.at != host {
			texts = append(texts, fmt.Sprintf("%s runs on %s", l.name, l.at))
		}
	}
	return strings.Join(texts, ", ")
}

// leave marks a machine as one that takes no work, or takes it again.
func (w *work) leave(host string, yes bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if delete(w.away, host); yes {
		w.away[host] = true
		w.most = max(w.most, len(w.away))
	}
	for _, l := range w.all {
		if !yes && l.home == host {
			l.at = host
		}
	}
}

// maximum is the most machines that were away at once so far.
func (w *work) maximum() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.most
}

// shift moves one workload off a machine, to the one that has the fewest, and
// reports whether there was one.
func (w *work) shift(host string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	load := map[string]int{}
	for _, l := range w.all {
		load[l.at]++
	}
	to := ""
	for _, h := range w.host {
		if !w.away[h] && h != host && (to == "" || load[h] < load[to]) {
			to = h
		}
	}
	i := slices.IndexFunc(w.all, func(l *workload) bool { return l.at == host })
	if i < 0 || to == "" {
		return false
	}
	w.all[i].at = to
	return true
}

// pier is one machine's side of the work, as the updater asks it.
type pier struct {
	link.Scheduler
	work *work
}

// Drain implements updater.Scheduler: one workload after another leaves.
func (p pier) Drain(ctx context.Context) error {
	p.work.leave(p.Machine, true)
	for len(p.work.on(p.Machine)) > 0 {
		if !nap(ctx, time.Duration(p.work.move.Load())) {
			return ctx.Err()
		}
		if !p.work.shift(p.Machine) {
			break
		}
	}
	return p.Scheduler.Drain(ctx)
}

// Resume implements updater.Scheduler.
func (p pier) Resume(ctx context.Context) error {
	if err := p.Scheduler.Resume(ctx); err != nil {
		return err
	}
	p.work.leave(p.Machine, false)
	return nil
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

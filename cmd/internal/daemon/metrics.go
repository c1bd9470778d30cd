package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/metrics"
	"github.com/drydock-os/drydock/updater/payload"
	"github.com/drydock-os/drydock/updater/policy"
	"github.com/drydock-os/drydock/updater/state"
)

// numbers shows this machine's metrics where the policy wants them. Without it
// they are counted, which costs nothing, and neither kept nor shown.
type numbers struct {
	*metrics.Exporter
	store  metrics.Store
	policy func() policy.Metrics
	tell   func(error) // what is wrong, with every status
	pause  time.Duration
	again  chan struct{} // the policy may have changed

	mu    sync.Mutex
	wrong map[string]string // what is wrong, by what it is wrong with
}

// maxCounts bounds the file of the counts, in bytes: it has some two thousand.
const maxCounts = 64 << 10

// Pauses of what is shown.
const (
	writeEvery  = 30 * time.Second // the textfile: node_exporter is asked about as often
	listenPause = 30 * time.Second // before an address that cannot be had is tried again
)

func newNumbers(d *Daemon, p policy.Policy) *numbers {
	return &numbers{
		Exporter: &metrics.Exporter{
			Version: d.Version, Now: time.Now, Cause: causeOf,
			Status:  func() updater.Status { return d.keeper.Status() },
			History: func() []updater.HistoryEntry { return d.keeper.History() },
			Beat:    func() time.Time { return d.keeper.Beat() },
			Lock:    d.cluster.numbers,
		},
		store:  state.File[metrics.Counts]{Path: filepath.Join(p.State, "metrics.json"), Limit: maxCounts, Version: 1},
		policy: func() policy.Metrics { return d.keeper.Policy().Metrics },
		tell: func(err error) {
			if err != nil {
				d.Log.Error(err.Error())
			}
			d.keeper.Trouble("metrics", err)
		},
		pause: listenPause,
		again: make(chan struct{}, 1),
		wrong: map[string]string{},
	}
}

// trouble notes what is wrong with one part, and tells where that is news: each
// word wakes the updater.
func (n *numbers) trouble(part string, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := ""
	if err != nil {
		now = err.Error()
	}
	if now == n.wrong[part] {
		return
	}
	n.wrong[part] = now
	var all []error
	for _, part := range slices.Sorted(maps.Keys(n.wrong)) {
		if why := n.wrong[part]; why != "" {
			all = append(all, errors.New(why))
		}
	}
	n.tell(errors.Join(all...))
}

// causeOf sorts what keeps a release from being written.
func causeOf(err error) string {
	for _, trust := range []error{payload.ErrNoKey, payload.ErrUnsigned, payload.ErrSignature, payload.ErrExpired} {
		if errors.Is(err, trust) {
			return metrics.CauseTrust
		}
	}
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return metrics.CauseSpace
	case errors.Is(err, payload.ErrDownload):
		return metrics.CauseDownload
	}
	return metrics.CauseOther
}

// consider has the policy compared with what runs.
func (n *numbers) consider() {
	select {
	case n.again <- struct{}{}:
	default:
	}
}

// Run shows what the policy wants until ctx ends.
func (n *numbers) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		n.term(ctx)
	}
	return nil
}

// term shows one policy's, until there is another.
func (n *numbers) term(parent context.Context) {
	ctx, stop := context.WithCancel(parent)
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	want := n.policy()
	if want != (policy.Metrics{}) {
		n.trouble("counts", n.Load(n.store))
		running.Go(func() { n.Keep(ctx, n.store, func(err error) { n.trouble("counts", err) }) })
	}
	if want.Listen != "" {
		running.Go(func() { n.listen(ctx, want.Listen) })
	}
	if want.Textfile != "" {
		running.Go(func() { n.write(ctx, want.Textfile) })
	}
	for n.policy() == want {
		select {
		case <-ctx.Done():
			return
		case <-n.again:
		}
	}
	for _, part := range []string{"counts", "listen", "textfile"} { // another policy, another chance
		n.trouble(part, nil)
	}
}

// coordinates notes who coordinates in this process.
func (c *cluster) coordinates(coordinator *rebootlock.Coordinator) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.parts.coordinator = coordinator
}

// listen serves over HTTP, and tries again where the address cannot be had.
func (n *numbers) listen(ctx context.Context, address string) {
	var lc net.ListenConfig
	for {
		l, err := lc.Listen(ctx, "tcp", address)
		if err == nil {
			n.trouble("listen", nil)
			err = n.Serve(ctx, l)
		}
		if ctx.Err() != nil {
			return
		}
		n.trouble("listen", fmt.Errorf("metrics are not served (metrics.listen), and updates go on without: %w", err))
		if !pauseFor(ctx, n.pause) {
			return
		}
	}
}

// write keeps the textfile current. It goes when the daemon does: numbers that
// nobody makes any more would be collected for ever.
func (n *numbers) write(ctx context.Context, path string) {
	for {
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil {
			err = n.WriteFile(path)
		}
		if err != nil {
			err = fmt.Errorf("metrics are not written (metrics.textfile; the service needs ReadWritePaths=%s), and updates go on without: %w", filepath.Dir(path), err)
		}
		n.trouble("textfile", err)
		if !pauseFor(ctx, writeEvery) {
			_ = os.Remove(path) // may never have been there
			return
		}
	}
}

// pauseFor waits, and reports whether ctx goes on.
func pauseFor(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// numbers are what is known of the lock; nil: this machine is in no cluster.
// Nobody is asked.
func (c *cluster) numbers() *metrics.Lock {
	p := c.policy()
	if p.Cluster.ID == "" {
		return nil
	}
	c.mu.Lock()
	parts, zone := c.parts, c.facts.Zone
	c.mu.Unlock()
	l := &metrics.Lock{Cluster: p.Cluster.ID, Group: p.Cluster.Group, Zone: p.Cluster.Zone}
	if l.Zone == "" {
		l.Zone = zone
	}
	if parts.client == nil {
		return l
	}
	known(l, parts.client.Glimpse())
	if parts.coordinator == nil {
		return l
	}
	tallies, reigns := parts.coordinator.Tallies()
	l.Coordinates = reigns
	for _, t := range tallies {
		l.Groups = append(l.Groups, metrics.Group(t))
	}
	return l
}

// known fills in what the machine knows of its lock.
func known(l *metrics.Lock, g rebootlock.Glimpse) {
	l.Read, l.Off, l.Queue, l.Frozen, l.Stopped = g.Read, g.Off, g.Queue, g.Frozen, len(g.Stops)
	l.Pass, l.Trouble = g.Stamp.At, g.Stamp.Trouble != ""
	if g.Group != "" { // it may hold a permit of the group that it leaves
		l.Group = g.Group
	}
	if g.Ticket != nil {
		l.Asked = g.Ticket.Asked
	}
	if p := g.Permit; p != nil {
		l.Granted, l.Deadline, l.Phase, l.PhaseSince = p.Granted, p.Deadline, p.Phase, p.PhaseSince
	}
}

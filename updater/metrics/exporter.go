// Package metrics counts updater events for Prometheus.
//
// An Exporter watches the updater's events, and reads everything else off its
// status when somebody asks. It writes nothing into the updater, and counts only
// what it was told of: with nobody asking it costs a few integers.
package metrics

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/drydock-os/drydock/updater"
)

// An Exporter is an updater.Observer that counts, and a prometheus.Collector that
// shows. Set the fields before the first event.
type Exporter struct {
	Version string                        // of this program
	Status  func() updater.Status         // as it is now
	History func() []updater.HistoryEntry // of the machine's releases, newest first
	Beat    func() time.Time              // the updater's last sign of life; zero: none yet
	Lock    func() *Lock                  // what is known of the reboot lock; nil, or returning nil: there is none
	Cause   func(error) string            // why a write failed: one of Causes; nil: nobody knows
	Now     func() time.Time

	mu      sync.Mutex
	counts  Counts
	loaded  bool // counts hold those of earlier runs
	changed bool // counts are not kept yet
	wake    chan struct{}
	started time.Time
	step    updater.Step
	began   time.Time // the step
	release string    // that the last progress was of
	done    int64     // of it, payload bytes

	once     sync.Once
	registry *prometheus.Registry
}

// The causes of a write that failed.
const (
	CauseSpace    = "space"    // a disk is full
	CauseTrust    = "trust"    // no key, no signature, or none that counts
	CauseDownload = "download" // the network, or the server
	CauseOther    = "other"
)

// Causes are all of them.
var Causes = []string{CauseSpace, CauseTrust, CauseDownload, CauseOther}

// Observe implements updater.Observer.
func (e *Exporter) Observe(ev updater.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if ev.Type == updater.EventStarted {
		e.started, e.began = ev.At, ev.At
		e.release, e.done = ev.Status.NewVersion, ev.Status.Done // of a download that was interrupted
	}
	if ev.Status.Step != e.step {
		if e.step == updater.Drain {
			e.counts = e.counts.drained(ev.At.Sub(e.began))
			e.touch()
		}
		e.step, e.began = ev.Status.Step, ev.At
	}
	if ev.Type == updater.EventProgress {
		e.counts.Downloaded += e.advance(ev) // kept with what comes next
		return
	}
	counts, counted := e.counts.event(ev, e.cause)
	e.counts = counts
	if counted || ofRelease(ev.Type) {
		e.touch()
	}
}

// advance is how many payload bytes came since the last progress. A download that
// begins again, from a checkpoint or from nothing, counts from there on: at most
// a hundredth of it is missed.
func (e *Exporter) advance(ev updater.Event) uint64 {
	from := e.done
	if ev.Version != e.release {
		from = 0
	}
	e.release, e.done = ev.Version, ev.Status.Done
	return uint64(max(ev.Status.Done-from, 0))
}

func (e *Exporter) cause(err error) string {
	if e.Cause == nil {
		return CauseOther
	}
	return e.Cause(err)
}

// touch has the counts kept.
func (e *Exporter) touch() {
	e.changed = true
	select {
	case e.woken() <- struct{}{}:
	default:
	}
}

// woken is the channel that tells of counts to be kept.
func (e *Exporter) woken() chan struct{} {
	if e.wake == nil {
		e.wake = make(chan struct{}, 1)
	}
	return e.wake
}

// view is all that is shown, as of one moment.
type view struct {
	version string
	now     time.Time
	started time.Time
	beat    time.Time
	began   time.Time // the step
	status  updater.Status
	history []updater.HistoryEntry
	counts  Counts
	lock    *Lock
}

func (e *Exporter) view() view {
	v := view{version: e.Version, now: e.Now(), beat: e.Beat(), status: e.Status(), history: e.History()}
	if e.Lock != nil {
		v.lock = e.Lock()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.counts = e.counts.releases(v.history)
	v.counts, v.started, v.began = e.counts, e.started, e.began
	return v
}

// Describe implements prometheus.Collector.
func (e *Exporter) Describe(ch chan<- *prometheus.Desc) {
	for _, f := range families {
		ch <- f.desc
	}
}

// Collect implements prometheus.Collector.
func (e *Exporter) Collect(ch chan<- prometheus.Metric) {
	v := e.view()
	for _, f := range families {
		f.collect(v, ch)
	}
}

// registered is a registry of this exporter alone.
func (e *Exporter) registered() *prometheus.Registry {
	e.once.Do(func() {
		e.registry = prometheus.NewRegistry()
		e.registry.MustRegister(e)
	})
	return e.registry
}

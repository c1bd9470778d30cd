package metrics

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/drydock-os/drydock/updater"
)

// Counts are what is counted and not read off anything. They are kept across the
// machine's reboots, which are what they are about: a daemon that began at zero
// after each would hide every update. Losing them costs a counter's reset.
type Counts struct {
	Version    int                  `json:"version"` // of this document: 1
	Checks     map[string]uint64    `json:"checks"`  // by result
	Downloaded uint64               `json:"downloaded_bytes"`
	Results    map[string]uint64    `json:"results"`
	Errors     map[string]uint64    `json:"errors"` // by step
	Writes     map[string]uint64    `json:"writes"` // that failed, by cause
	Hooks      uint64               `json:"hooks"`  // that failed
	Reboots    uint64               `json:"reboots"`
	Drains     Drains               `json:"drains"`
	Last       updater.HistoryEntry `json:"last"` // newest entry of the history that is in Results
}

// countsVersion is the version of the document that Counts is.
const countsVersion = 1

// Drains are how long drains took.
type Drains struct {
	Count   uint64            `json:"count"`
	Seconds float64           `json:"seconds"` // of all
	Within  map[string]uint64 `json:"within"`  // how many took at most so long, by the bound in seconds
}

// drainBounds are the bounds of the histogram, in seconds: from a machine
// without work to the default drain.timeout and twice that.
var drainBounds = []float64{5, 30, 60, 300, 600, 1800, 3600}

// The results of a check.
const (
	checkOffered = "offered"
	checkNone    = "none"
	checkFailed  = "failed"
)

var checkResults = []string{checkOffered, checkNone, checkFailed}

// results name what became of a release, by the history's entries.
var results = map[updater.EventType]string{
	updater.EventWritten: "written", updater.EventGood: "updated", updater.EventRejected: "rejected",
	updater.EventReturned: "returned", updater.EventRolledBack: "rolled-back", updater.EventRebooting: "rebooted",
}

var resultNames = slices.Sorted(maps.Values(results))

// ofRelease says whether the history may have grown.
func ofRelease(t updater.EventType) bool { return results[t] != "" || t == updater.EventOperator }

// event counts one event, and reports whether that changed anything.
func (c Counts) event(ev updater.Event, cause func(error) string) (Counts, bool) {
	step := ev.Status.Step
	switch {
	case ev.Type == updater.EventChecked && ev.Version == "":
		c.Checks = plus(c.Checks, checkNone)
	case ev.Type == updater.EventChecked:
		c.Checks = plus(c.Checks, checkOffered)
	case ev.Type == updater.EventRebooting && step == updater.Reboot:
		c.Reboots++
	case ev.Type == updater.EventStep && step == updater.Stage && ev.Status.Operation == updater.ReportingError:
		c.Hooks++ // nothing else is reported from there
	case ev.Type == updater.EventError && step != updater.Wait:
		c.Errors = plus(c.Errors, step.String())
		if step == updater.Check {
			c.Checks = plus(c.Checks, checkFailed)
		}
		if step == updater.Write && ev.Err != nil {
			c.Writes = plus(c.Writes, cause(ev.Err))
		}
	default:
		return c, false
	}
	return c, true
}

// drained counts a drain, however it ended.
func (c Counts) drained(took time.Duration) Counts {
	seconds := max(took, 0).Seconds()
	c.Drains.Count++
	c.Drains.Seconds += seconds
	for _, bound := range drainBounds {
		if seconds <= bound {
			c.Drains.Within = plus(c.Drains.Within, boundName(bound))
		}
	}
	return c
}

func boundName(bound float64) string { return fmt.Sprint(bound) }

// releases counts the entries of the history that are newer than the last one that
// was counted: the history is kept by the updater, so nothing is counted twice
// and a crash loses nothing.
func (c Counts) releases(history []updater.HistoryEntry) Counts {
	if len(history) == 0 {
		return c
	}
	for _, h := range history {
		if sameEntry(h, c.Last) {
			break
		}
		if result, ok := results[h.Type]; ok {
			c.Results = plus(c.Results, result)
		}
	}
	c.Last = history[0]
	return c
}

func sameEntry(a, b updater.HistoryEntry) bool {
	return a.At.Equal(b.At) && a.Type == b.Type && a.Version == b.Version && a.Message == b.Message
}

// plus returns a copy with one more of name: views hold the old one.
func plus(counts map[string]uint64, name string) map[string]uint64 {
	more := make(map[string]uint64, len(counts)+1)
	maps.Copy(more, counts)
	more[name]++
	return more
}

// A Store keeps Counts, durably when Save returns. A missing or damaged one is the
// zero Counts, the latter with the error that says so.
type Store interface {
	Load() (Counts, error)
	Save(Counts) error
}

// keepPause is how long counts wait for others to be kept with them.
const keepPause = 5 * time.Second

// Load adds what an earlier run kept to what was counted since the start, the
// first time that it is called. An error costs a counter's reset.
func (e *Exporter) Load(s Store) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.loaded {
		return nil
	}
	kept, err := s.Load()
	e.counts, e.loaded = kept.and(e.counts), true
	if err != nil {
		return fmt.Errorf("read the counts of earlier runs: %w", err)
	}
	return nil
}

// Keep keeps what changes until ctx ends, and then once more. Errors are told to
// trouble, and nil where it went well: they cost a counter's reset after the next
// start, and nothing else.
func (e *Exporter) Keep(ctx context.Context, s Store, trouble func(error)) {
	e.mu.Lock()
	woken := e.woken()
	e.mu.Unlock()
	for ctx.Err() == nil {
		select {
		case <-woken:
			rest(ctx, keepPause)
		case <-ctx.Done():
		}
		e.save(s, trouble)
	}
	e.save(s, trouble)
}

func rest(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// and adds the counts of a run to those kept before it.
func (c Counts) and(run Counts) Counts {
	sum := func(a, b map[string]uint64) map[string]uint64 {
		all := make(map[string]uint64, len(a)+len(b))
		for _, counts := range []map[string]uint64{a, b} {
			for name, n := range counts {
				all[name] += n
			}
		}
		return all
	}
	c.Checks, c.Errors, c.Writes = sum(c.Checks, run.Checks), sum(c.Errors, run.Errors), sum(c.Writes, run.Writes)
	c.Downloaded += run.Downloaded
	c.Hooks += run.Hooks
	c.Reboots += run.Reboots
	c.Drains = Drains{c.Drains.Count + run.Drains.Count, c.Drains.Seconds + run.Drains.Seconds, sum(c.Drains.Within, run.Drains.Within)}
	if c.Last == (updater.HistoryEntry{}) { // else the history says what came since
		c.Results, c.Last = run.Results, run.Last
	}
	return c
}

func (e *Exporter) save(s Store, trouble func(error)) {
	history := e.History()
	e.mu.Lock()
	e.counts = e.counts.releases(history)
	counts, changed := e.counts, e.changed
	e.changed = false
	e.mu.Unlock()
	if !changed {
		return
	}
	counts.Version = countsVersion
	err := s.Save(counts)
	if err != nil {
		err = fmt.Errorf("keep the counts: %w", err)
		e.mu.Lock()
		e.changed = true
		e.mu.Unlock()
	}
	trouble(err)
}

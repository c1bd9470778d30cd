package kubernetes

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/drydock-os/drydock/fleetlink"
)

// The pace of a drain.
const (
	checkEvery = 10 * time.Second       // the node is read, which may have been deleted or opened
	tellEvery  = 250 * time.Millisecond // so that hundreds of pods do not make hundreds of long lists
	believe    = 30 * time.Second       // an eviction that was accepted and shows no effect is sent again
	volumeWait = 2 * time.Second        // between looks at the node, whose volumes are waited for: one object
	restWait   = 15 * time.Second       // between looks at all else there is to volumes: many objects
	firstPause = 300 * time.Millisecond // after the API server did not answer
	lastPause  = 10 * time.Second       // the longest of those pauses
	maxFailing = time.Minute            // between tries of a pod that the server cannot evict
	denials    = 10 * time.Second       // an API server that has just begun denies what it does not know yet
)

// Drain implements fleetlink.Link. One list and one watch follow the pods; each is
// evicted as itself (by UID), and again when a refusal's time is over. What the API
// server does not answer is asked again until ctx ends; a right that is missing, a
// node that is deleted, a cordon that somebody took off, or what an operator forbids
// ends the drain.
func (l *Link) Drain(ctx context.Context, o fleetlink.Order) error {
	d := &drain{link: l, order: o, known: map[types.UID]*freight{}, events: make(chan event), results: make(chan result)}
	err := d.begin(ctx)
	if err == nil {
		err = d.run(ctx)
	}
	if err == nil {
		o.Tell(nil)
		return nil
	}
	return fleetlink.Unfinished{Left: d.left(), Err: err}
}

// A drain is one call of Drain. All of it belongs to that call's goroutine; others
// send events and results.
type drain struct {
	link    *Link
	order   fleetlink.Order
	s       *session
	events  chan event
	results chan result

	known   map[types.UID]*freight
	synced  bool // known is the whole list
	flying  int
	mishaps [sources]mishap
	from    time.Time // of evictions
	told    []fleetlink.Workload
	spoke   bool

	volumes []fleetlink.Workload // that are waited for, when no pod is
	inUse   map[string]string    // that the node named when it was asked for them
	look    time.Time            // when the node is asked again
	rest    time.Time            // and all else
}

// A result is what became of an attempt.
type result struct {
	pod *pod
	verdict
}

// begin reads the node, however long that takes, and makes sure it is cordoned on
// our word.
func (d *drain) begin(ctx context.Context) (err error) {
	for wait := firstPause; ; wait = min(2*wait, lastPause) {
		s, err := d.link.open(ctx)
		if ended := d.heard(ofNode, err); ended != nil {
			return ended
		}
		if err == nil {
			d.s = s
			break
		}
		if ctx.Err() == nil {
			d.tell()
		}
		if stop := pause(ctx, jitter(wait)); stop != nil {
			return fmt.Errorf("%w: %w", stop, err)
		}
	}
	if err := d.s.here(); err != nil {
		return err
	}
	if err := cmp.Or(d.closed(), d.barred()); err != nil {
		return err
	}
	if w := d.s.word; w.Excluded {
		since := w.Since
		if w.Left.After(since) {
			since = w.Left // an older word's label
		}
		d.from = since.Add(min(d.link.LoadBalancerWait, maxWait))
		if now := d.link.Now(); d.from.After(now.Add(d.link.LoadBalancerWait)) {
			d.from = now.Add(d.link.LoadBalancerWait) // a clock was set back
		}
	}
	return nil
}

// closed makes sure that the node is out of service on our word.
func (d *drain) closed() error {
	if err := d.s.orphaned(); err != nil {
		return err
	}
	if d.s.word == nil {
		return fmt.Errorf("node %s is not out of service on our word: somebody removed annotation %s, or the node was made anew", d.s.node, Annotation)
	}
	if !d.s.object.Spec.Unschedulable {
		return fmt.Errorf("node %s gets new pods: somebody took the cordon off", d.s.node)
	}
	return nil
}

// run drains until nothing is left.
func (d *drain) run(ctx context.Context) (err error) {
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { d.s.follow(ctx, d.events) })
	check, tell := time.NewTicker(checkEvery), time.NewTicker(tellEvery)
	defer check.Stop()
	defer tell.Stop()
	for {
		d.send(ctx, &wg)
		if d.empty() && !d.link.Now().Before(d.look) {
			if done, err := d.confirm(ctx); done || err != nil {
				return err
			}
			d.tell()
		}
		if !d.spoke {
			d.tell()
		}
		wake := d.wake()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e := <-d.events:
			err = d.hear(e)
		case r := <-d.results:
			err = d.land(r)
		case <-check.C:
			err = d.check(ctx)
		case <-tell.C:
			d.tell()
		case <-wake.C:
		}
		wake.Stop()
		if err != nil {
			return err
		}
	}
}

// wake is a timer for the next pod that may be asked again.
func (d *drain) wake() *time.Timer {
	next := d.link.Now().Add(checkEvery)
	for _, f := range d.known {
		if d.movable(f) && f.due.Before(next) {
			next = f.due
		}
	}
	if next.Before(d.from) {
		next = d.from
	}
	if d.empty() && d.look.Before(next) {
		next = d.look
	}
	return time.NewTimer(max(next.Sub(d.link.Now()), time.Millisecond))
}

// movable reports whether a pod is one to be asked to leave.
func (d *drain) movable(f *freight) bool {
	return !f.flying && f.end.IsZero() && (f.fate == leaves || f.fate == refuses && d.order.Force)
}

// send asks those pods to leave whose time has come, so many at a time, the ones
// that wait longest first.
func (d *drain) send(ctx context.Context, wg *sync.WaitGroup) {
	now := d.link.Now()
	if now.Before(d.from) || d.flying >= d.link.InFlight {
		return
	}
	var ready []*freight
	for _, f := range d.known {
		if d.movable(f) && !f.due.After(now) {
			ready = append(ready, f)
		}
	}
	slices.SortFunc(ready, func(a, b *freight) int {
		return cmp.Or(a.due.Compare(b.due), strings.Compare(a.String(), b.String()))
	})
	for _, f := range ready {
		if d.flying >= d.link.InFlight {
			return
		}
		if d.link.Surge && !d.order.Force && d.siblingFlies(f) {
			continue
		}
		f.flying = true
		d.flying++
		p := f.pod // as it is now: the watch changes f meanwhile
		wg.Go(func() {
			r := result{p, d.s.attempt(ctx, p, d.order.Force)}
			select {
			case d.results <- r:
			case <-ctx.Done():
			}
		})
	}
}

// siblingFlies reports whether a pod of the same owner is being asked.
func (d *drain) siblingFlies(f *freight) bool {
	for _, other := range d.known {
		if other.flying && other.owner != nil && f.owner != nil && other.owner.UID == f.owner.UID {
			return true
		}
	}
	return false
}

// attempt asks the API server to remove a pod.
func (s *session) attempt(ctx context.Context, p *pod, force bool) verdict {
	if s.link.Surge && !force {
		if v := s.replaced(ctx, p, false); v.answer != accepted {
			return v
		}
	}
	m := manner{force: force}
	if s.link.GracePeriod > 0 {
		seconds := int64(s.link.GracePeriod.Seconds())
		m.grace = &seconds
	}
	v := s.link.weigh(s.remove(ctx, p, m))
	if v.answer == refused && s.link.Budgets {
		if why, err := s.because(ctx, p, v); err == nil {
			v.why = why
		}
	}
	return v
}

// land notes what became of an attempt.
func (d *drain) land(r result) error {
	d.flying--
	f := d.known[r.pod.uid]
	if f == nil {
		return nil // the watch was quicker
	}
	now := d.link.Now()
	f.flying, f.why = false, r.why
	if r.answer != failed {
		f.failures = 0
	}
	if r.answer != forbidden {
		f.denied = time.Time{}
	}
	switch r.answer {
	case accepted:
		f.why, f.due = "it was told to end", now.Add(believe)
	case gone:
		// An API server that has just begun does not find every pod that is there
		// (NodeRestriction asks a cache): one such answer is not believed.
		if f.gone++; f.gone > 1 {
			delete(d.known, r.pod.uid)
		}
		f.due = now.Add(jitter(d.link.Retry))
	case refused:
		f.due = now.Add(jitter(cmp.Or(r.after, d.link.Retry)))
		if r.after > 0 {
			f.due = now.Add(r.after + jitter(d.link.Retry)/4) // not before the server asked for
		}
	case failed:
		f.failures++
		f.due = now.Add(max(r.after, jitter(min(d.link.Retry<<min(f.failures-1, 6), maxFailing))))
	case forbidden:
		f.due = now.Add(jitter(d.link.Retry))
		if d.ends(&f.denied, r.err) {
			return fmt.Errorf("%s: %w", f, r.err)
		}
	}
	return nil
}

// confirm reads node, pods and volumes once more: a watch may have told less than
// there is. While volumes are waited for, the node is read again soon, which says
// most of them, and the rest when that changed or after a while.
func (d *drain) confirm(ctx context.Context) (done bool, err error) {
	now := d.link.Now()
	d.look = now.Add(volumeWait)
	if err := d.check(ctx); err != nil || d.mishaps[ofNode].why != "" {
		return false, err
	}
	inUse := d.s.inUse()
	if now.Before(d.rest) && maps.Equal(inUse, d.inUse) {
		if len(inUse) > 0 || !d.s.plain {
			return false, nil
		}
		if tied, err := d.s.tied(ctx); err != nil || len(tied) > 0 { // a few, by their names
			return false, d.heard(ofVolumes, err)
		}
	}
	pods, _, err := d.s.pods(ctx)
	if err := d.hear(event{from: ofList, pods: pods, err: err}); err != nil || d.mishaps[ofList].why != "" || !d.empty() {
		return false, err
	}
	d.volumes, err = d.s.volumes(ctx, pods)
	if err != nil {
		return false, d.heard(ofVolumes, err)
	}
	d.heard(ofVolumes, nil)
	d.rest, d.inUse = now.Add(restWait), inUse
	return len(d.volumes) == 0, nil
}

// check reads the node. Only what is known ends a drain.
func (d *drain) check(ctx context.Context) error {
	err := d.s.look(ctx)
	if err != nil && ctx.Err() != nil {
		return ctx.Err() // no answer, and no trouble to tell
	}
	if ended := d.heard(ofNode, err); ended != nil || err != nil {
		return ended
	}
	return cmp.Or(d.closed(), d.barred())
}

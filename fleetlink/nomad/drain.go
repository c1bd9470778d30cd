package nomad

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
)

// Where Nomad is told the deadline, it ends what is left so much earlier, a
// quarter of the time at most: ending takes time as well, and what Nomad has
// ended should not be found unfinished.
const ahead = 2 * time.Minute

// patience is how often one question of a drain may be refused before that is
// believed: a server that has just come up, or a token that was just renewed, is
// refused as well.
const patience = 5

// leaves reports whether an allocation has to leave.
func (l *Link) leaves(a allocation) bool {
	return a.here() && (a.kind() != system || !l.options.IgnoreSystemJobs)
}

// seen lists what has to leave, of what the token may see, in order.
func (l *Link) seen(s sight) (left []fleetlink.Workload) {
	for _, a := range s.allocs {
		if l.leaves(a) {
			left = append(left, fleetlink.Workload{Name: a.String(), Why: a.waits(s.node)})
		}
	}
	slices.SortStableFunc(left, func(a, b fleetlink.Workload) int { return strings.Compare(a.Name, b.Name) })
	return left
}

// left lists what has to leave. A machine is empty when Nomad says so as well:
// it hides allocations whose namespace the token may not read.
func (l *Link) left(s sight, m *mark) []fleetlink.Workload {
	left := l.seen(s)
	if len(left) > 0 || m.word(s.node) {
		return left
	}
	why := "nothing is seen on it, and Nomad was not asked yet whether it is drained"
	if s.node.DrainStrategy != nil {
		why = "nothing is seen on it, and Nomad does not call it drained: what runs there may be in a namespace that the token may not read (read-job)"
	}
	return []fleetlink.Workload{{Name: "node " + s.node.Name, Why: why}}
}

// waits says what an allocation waits for, on a node that drains.
func (a allocation) waits(n node) string {
	switch d := n.DrainStrategy; {
	case a.stopping():
		return "was told to end, and has not yet"
	case a.migrating():
		return "Nomad is about to move it"
	case d == nil:
		return ""
	case a.kind() == system:
		return "a system job: is stopped when all others have left"
	case a.kind() != service && !d.ForceDeadline.IsZero():
		return fmt.Sprintf("a %s job: runs until it ends, and no longer than %s", a.kind(), d.ForceDeadline.UTC().Format("15:04 UTC"))
	case a.kind() != service:
		return fmt.Sprintf("a %s job: runs until it ends", a.kind())
	}
	if g := a.group(); g.Migrate != nil {
		return fmt.Sprintf("waits for its turn: %d of the %d in its group may be away at a time, until the new ones are healthy", g.Migrate.MaxParallel, g.Count)
	}
	return "waits for its turn"
}

// Drain implements fleetlink.Link. A drain of somebody else is left alone and
// followed, also where it comes in the middle; where it ends before the work has
// left, one of ours follows, and the node stays closed after. What was written to an
// ephemeral disk that goes along has left when the copy is up.
func (l *Link) Drain(ctx context.Context, o fleetlink.Order) error {
	s, err := l.look(ctx)
	if err != nil {
		return fmt.Errorf("drain: %w", err)
	}
	m, err := l.recall(s.node)
	if err != nil {
		return fmt.Errorf("drain: %w", err)
	}
	if !m.ours() {
		return fmt.Errorf("drain: node %s was not cordoned by this machine", s.node)
	}
	d := &draining{Link: l, mark: m, order: o, stopped: map[string]bool{}, told: []fleetlink.Workload{{}}}
	if err = l.follow(ctx, s, d.step); err != nil {
		return fleetlink.Unfinished{Left: append(l.left(d.last, m), d.copies...), Err: err}
	}
	return nil
}

// A draining is a drain in this process.
type draining struct {
	*Link
	mark    *mark
	order   fleetlink.Order
	last    sight
	told    []fleetlink.Workload
	copies  []fleetlink.Workload // what has left but for what it wrote
	asked   time.Time            // when Nomad was told last
	forced  bool                 // it was told to end everything
	stopped map[string]bool      // allocations that were ended one by one
	put     drainSpec            // what Nomad was told last
	kept    bool                 // and was seen to have since
	robbed  bool                 // and has not any more: somebody set another one, without a word
}

// step does what is to be done about what is seen now. It is done when all has
// left. Without news for a while it also tells what cannot be seen; trouble is
// what keeps news from coming.
func (d *draining) step(ctx context.Context, s sight, news bool, trouble error) (done bool, err error) {
	d.last = s
	if err := d.owner(s.node); err != nil {
		return false, err
	}
	left := d.seen(s)
	over := len(left) == 0 && d.mark.word(s.node) && s.node.closed()
	if over {
		if left, err = d.copying(ctx, s.node.ID, d.mark.Away); err != nil {
			return false, err
		}
		d.copies = left
	} else if !news {
		left = d.left(s, d.mark)
		for i := range left {
			if trouble != nil {
				left[i].Why = fmt.Sprintf("that is how it was; now %v", trouble)
			}
		}
	}
	if !slices.Equal(left, d.told) {
		d.order.Tell(left)
		d.told = left
	}
	if over {
		return len(left) == 0, nil
	}
	at := d.options.Now()
	if at.Sub(d.asked).Abs() < d.again {
		return false, nil
	}
	if spec := d.wants(s, at); spec != nil {
		d.asked, d.forced, d.put, d.kept, d.robbed = at, spec.Deadline < 0, *spec, false, false
		meta := d.meta(d.mark, d.order.Why)
		if spec.Deadline > 0 {
			meta[metaUntil] = d.until()
		}
		return false, d.setDrain(ctx, s.node.ID, spec, false, meta)
	}
	if d.order.Force && (d.foreign(s.node) || s.node.DrainStrategy == nil) {
		d.asked = at
		return false, d.end(ctx, s)
	}
	return false, nil
}

// foreign reports whether somebody else's drain is under way.
func (d *draining) foreign(n node) bool { return n.DrainStrategy != nil && (!d.named(n) || d.robbed) }

// owner sees whether somebody else drained the node meanwhile: it is theirs from
// then on, and stays closed when the work comes back. Where somebody opened it,
// nobody wants it closed but this machine.
func (d *draining) owner(n node) error {
	if has := n.DrainStrategy; has != nil && d.named(n) {
		same := has.drainSpec == d.put
		d.robbed = d.kept && !same
		d.kept = d.kept || same
	}
	theirs := d.mark.Theirs
	switch {
	case !n.closed():
		theirs = false
	case n.agents(): // as it goes down
	case d.taken(n, d.mark), d.foreign(n):
		theirs = true
	}
	if theirs == d.mark.Theirs {
		return nil
	}
	d.mark.Theirs = theirs
	return d.save(d.mark)
}

// until is the order's deadline, as a drain's Meta has it: what Nomad makes of it is
// by another clock.
func (d *draining) until() string { return d.order.Deadline.UTC().Format(time.RFC3339Nano) }

// wants is the drain that Nomad is to be told of; nil if it need not be.
func (d *draining) wants(s sight, at time.Time) *drainSpec {
	if d.foreign(s.node) {
		return nil
	}
	spec := &drainSpec{IgnoreSystemJobs: d.options.IgnoreSystemJobs}
	switch {
	case d.order.Force:
		spec.Deadline = -1
	case d.options.EndAtDeadline && !d.order.Deadline.IsZero():
		rest := max(d.order.Deadline.Sub(at), 0)
		spec.Deadline = max(rest-min(ahead, rest/4), 1) // 0 is none
	}
	has := s.node.DrainStrategy
	switch {
	case has == nil && d.mark.word(s.node) && s.node.closed() && (d.forced || d.moves(s)):
		return nil
	case has == nil, s.node.LastDrain.Meta[metaOrder] != d.mark.Order, has.IgnoreSystemJobs != spec.IgnoreSystemJobs:
		return spec
	case (spec.Deadline < 0) != (has.Deadline < 0), (spec.Deadline == 0) != (has.Deadline == 0):
		return spec
	case spec.Deadline > 0 && s.node.LastDrain.Meta[metaUntil] != d.until():
		return spec
	}
	return nil
}

// moves reports whether all that is left was told to leave. Where a drain is
// complete and something else runs, it came after, or Nomad is wrong.
func (d *draining) moves(s sight) bool {
	for _, a := range s.allocs {
		if d.leaves(a) && !a.stopping() && !a.migrating() && !d.stopped[a.ID] {
			return false
		}
	}
	return true
}

// end stops, one by one, what was not told to end.
func (d *draining) end(ctx context.Context, s sight) error {
	for _, a := range s.allocs {
		if !d.leaves(a) || a.stopping() || d.stopped[a.ID] {
			continue
		}
		r := request{path: "/v1/allocation/" + url.PathEscape(a.ID) + "/stop", right: "alloc-lifecycle in namespace " + a.Namespace}
		if err := d.client.put(ctx, r); err != nil && !missing(err) {
			return fmt.Errorf("stop %s: %v", a, err) // it may leave all the same
		}
		d.stopped[a.ID] = true
	}
	return nil
}

// news is what one blocking query brought.
type news struct {
	of    string
	err   error
	apply func(*sight)
}

// follow has step look at the node at first, after each change, and after a while
// without one, until it is done, or ctx is, or what a person has to mend is in the
// way. What may pass is waited for.
func (l *Link) follow(ctx context.Context, s sight, step func(context.Context, sight, bool, error) (bool, error)) error {
	var watchers sync.WaitGroup
	defer watchers.Wait()
	watched, cancel := context.WithCancel(ctx)
	defer cancel()
	feed := make(chan news)
	id, nodeAt, allocsAt := s.node.ID, s.nodeAt, s.allocsAt // s changes
	watchers.Go(func() { l.watchNode(watched, id, nodeAt, feed) })
	watchers.Go(func() { l.watchAllocations(watched, id, allocsAt, feed) })
	trouble, refused := map[string]error{}, map[string]int{}
	quiet := time.NewTimer(l.hush)
	defer quiet.Stop()
	for fresh := true; ; {
		done, err := step(ctx, s, fresh, first(trouble))
		if done {
			return nil
		}
		if trouble["order"] = err; settled(err) {
			refused["order"]++
		}
		for of, err := range trouble {
			if settled(err) && refused[of] >= patience {
				return err
			}
		}
		quiet.Reset(l.hush)
		select {
		case <-ctx.Done():
			if err := first(trouble); err != nil && !errors.Is(err, ctx.Err()) {
				return fmt.Errorf("%w; the last that was heard of Nomad: %v", ctx.Err(), err)
			}
			return ctx.Err()
		case <-quiet.C:
			fresh = false
		case n := <-feed:
			fresh = true
			switch trouble[n.of] = n.err; {
			case settled(n.err):
				refused[n.of]++
			case n.err == nil:
				refused[n.of] = 0
				n.apply(&s)
			}
		}
	}
}

// first is one of some errors.
func first(of map[string]error) error {
	for _, what := range slices.Sorted(maps.Keys(of)) {
		if of[what] != nil {
			return of[what]
		}
	}
	return nil
}

func (l *Link) watchNode(ctx context.Context, id string, at uint64, feed chan<- news) {
	l.watch(ctx, at, feed, func(at uint64) (news, uint64) {
		n, at, err := l.read(ctx, id, at)
		return news{"node", err, func(s *sight) { s.node = n }}, at
	})
}

func (l *Link) watchAllocations(ctx context.Context, id string, at uint64, feed chan<- news) {
	l.watch(ctx, at, feed, func(at uint64) (news, uint64) {
		as, at, err := l.allocations(ctx, id, at)
		return news{"allocations", err, func(s *sight) { s.allocs = as }}, at
	})
}

// Pauses between queries of a server that errs, or answers without a change.
const (
	shortest = 250 * time.Millisecond
	longest  = 15 * time.Second
)

// watch repeats a blocking query until ctx ends.
func (l *Link) watch(ctx context.Context, at uint64, feed chan<- news, query func(at uint64) (news, uint64)) {
	for pause := shortest; ctx.Err() == nil; {
		began := now()
		n, next := query(at)
		select {
		case <-ctx.Done():
			return
		case feed <- n:
		}
		if n.err != nil {
			next = 0 // whatever it was then
		}
		delay := l.spacing // changes come in swarms, and the next answer has them all
		if n.err != nil || next <= at && now().Sub(began) < wait/2 {
			delay, pause = pause, min(2*pause, longest)
		} else { // a change, or a wait as it should be
			pause = shortest
		}
		at = next
		timer := time.NewTimer(delay)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

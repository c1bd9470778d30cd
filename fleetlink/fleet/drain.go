package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
)

// drain is one call of Drain: what it has seen besides what is written down.
type drain struct {
	*Link
	order  fleetlink.Order
	left   []fleetlink.Workload
	told   bool
	stays  map[string]stay      // of units that were moved
	seen   uint64               // of etcd, up to where states were watched; 0: they were not
	swaps  map[string]bool      // units whose schedule this call moved
	tries  map[string]int       // how often that was undone
	again  map[string]time.Time // when they are tried again
	excuse map[string]string    // why they were not moved
	up     map[string]string    // where units that were moved were seen up
	ran    map[string]bool      // units that ran here, and are not known to have ended
	since  map[string]time.Time // when it was first not known whether they had
}

// Drain implements fleetlink.Link. Each group of units that are bound together
// moves by itself; the next one when the former has settled. Whatever fleet and
// etcd do not answer is asked again until ctx ends.
func (l *Link) Drain(ctx context.Context, o fleetlink.Order) error {
	d := &drain{Link: l, order: o, stays: map[string]stay{}, up: map[string]string{}, ran: map[string]bool{}, since: map[string]time.Time{},
		swaps: map[string]bool{}, tries: map[string]int{}, again: map[string]time.Time{}, excuse: map[string]string{}}
	if err := d.run(ctx); err != nil {
		return fleetlink.Unfinished{Left: d.left, Err: err}
	}
	return nil
}

// What a step came to.
type progress int

const (
	waiting progress = iota
	acted
	drained
)

func (d *drain) run(ctx context.Context) error {
	for {
		v, p, err := d.step(ctx)
		final, refusal := lasting{}, (*statusError)(nil)
		switch {
		case ctx.Err() != nil && (err == nil || errors.Is(err, ctx.Err())):
			return ctx.Err()
		case ctx.Err() != nil:
			return fmt.Errorf("%w; at last: %w", ctx.Err(), err)
		case errors.As(err, &final), errors.As(err, &refusal) && refusal.code/100 == 4:
			return err
		case err == nil && p == drained:
			return nil
		case err == nil && p == acted:
			continue
		}
		d.pause(ctx, v)
	}
}

// step looks, and does the next thing.
func (d *drain) step(ctx context.Context) (*view, progress, error) {
	v, err := d.look(ctx)
	if err == nil {
		err = v.present()
	}
	if err != nil {
		return nil, waiting, err
	}
	if v.rec == nil {
		return v, waiting, lasting{errors.New("this machine is not cordoned; its record in etcd is not there, or was removed in the middle of the drain")}
	}
	if changed, err := d.mend(ctx, v.rec); err != nil || changed {
		return nil, acted, err // what was seen is no longer so
	}
	if err := d.end(ctx, v); err != nil {
		return nil, waiting, err
	}
	if err := d.settle(ctx, v); err != nil {
		return nil, waiting, err
	}
	steps := d.delay(v.plan())
	d.tell(v.left())
	switch next := slices.IndexFunc(steps, func(s step) bool { return s.to != "" }); {
	case len(d.left) == 0:
		return v, drained, d.shut(ctx, v)
	case len(v.stray) > 0 && !d.order.Force:
		return v, waiting, nil
	case next >= 0:
		p, err := d.move(ctx, v, steps[next])
		return v, p, err
	case d.order.Force:
		return v, waiting, d.stop(ctx, v, steps)
	}
	return v, waiting, nil
}

// delay leaves the groups for later that were just put back, and those of which a
// unit has to end first.
func (d *drain) delay(steps []step) (due []step) {
	for _, s := range steps {
		name := s.group[0].name
		switch {
		case s.to != "" && d.o.Now().Before(d.again[name]):
			s.to, s.why = "", d.excuse[name]
		case s.job != "" && !d.order.Force:
			s.to, s.why = "", s.job
		}
		due = append(due, s)
	}
	return due
}

// tell says what is left, when that has changed.
func (d *drain) tell(left []fleetlink.Workload) {
	for i, w := range left {
		if w.Why == "" {
			left[i].Why = d.excuse[w.Name]
		}
	}
	if d.told && slices.Equal(left, d.left) {
		return
	}
	d.left, d.told = left, true
	d.order.Tell(slices.Clone(left))
}

// mend starts the announcements again that were withdrawn for a move which is
// over, or was cut off.
func (d *drain) mend(ctx context.Context, r *record) (changed bool, err error) {
	for i := range r.Units {
		m := &r.Units[i]
		if m.To == "" || m.Set == "" {
			continue
		}
		if err := d.unwish(ctx, *m); err != nil {
			return false, err
		}
		m.Was, m.Set, m.Index, changed = "", "", 0, true
	}
	if changed {
		err = d.save(ctx, r)
	}
	return changed, err
}

// move has a group leave: its announcements are withdrawn, it is scheduled
// elsewhere, and the announcements are wished for again, there.
func (d *drain) move(ctx context.Context, v *view, s step) (progress, error) {
	for _, u := range s.group {
		m := v.rec.unit(u.name)
		if m.To, m.Up, m.Settled, m.Gone = s.to, "", false, false; m.Set == "" { // else it was stopped by force, and is started there
			m.Ran = ran(v, u)
		}
	}
	announcements := slices.DeleteFunc(s.group.announcements(), func(u *unit) bool { return u.desired != launched || !v.up(u) })
	for _, u := range announcements {
		m := v.rec.unit(u.name)
		m.Was, m.Set = launched, loaded
	}
	if err := d.save(ctx, v.rec); err != nil {
		return waiting, err
	}
	stays, err := d.withdraw(ctx, v.rec, announcements)
	if err != nil {
		return waiting, err
	}
	p := acted
	for _, u := range s.group {
		if stays != "" {
			d.tries[u.name]++
			d.later(u.name, fmt.Sprintf("its announcement %s does not end within %s", stays, d.o.Stop))
			continue
		}
		done, err := d.swapTarget(ctx, u.name, v.self, s.to)
		if err != nil {
			return waiting, err
		}
		if !done { // the others go where it is, when that is known
			p = waiting
			break
		}
		d.swaps[u.name] = true
		delete(d.stays, u.name)
		delete(d.up, u.name)
		delete(d.since, u.name)
	}
	_, err = d.mend(ctx, v.rec)
	return p, err
}

// ran says what a unit does that is about to be touched. What is not known counts
// as up.
func ran(v *view, u *unit) string {
	switch s, known := v.here[u.name]; {
	case !v.up(u):
		return ""
	case known && s.starting():
		return ranStarting
	}
	return ranSteady
}

// withdraw stops announcements, the last one first, and waits until they have
// ended, and who reads them may have seen it. One that stays is named.
func (d *drain) withdraw(ctx context.Context, r *record, announcements group) (stays string, err error) {
	if len(announcements) == 0 {
		return "", nil
	}
	for _, u := range slices.Backward(announcements) {
		if err := d.wish(ctx, r.unit(u.name)); err != nil {
			return "", err
		}
	}
	if err := d.save(ctx, r); err != nil {
		return "", err
	}
	bounded, cancel := context.WithTimeout(ctx, d.o.Stop)
	defer cancel()
	for _, u := range slices.Backward(announcements) {
		for {
			states, err := d.api.states(bounded, u.name, d.o.Machine.ID)
			if err == nil && len(states) > 0 && !slices.ContainsFunc(states, state.runs) {
				break
			}
			if ctx.Err() != nil {
				return "", ctx.Err()
			}
			if bounded.Err() != nil {
				return u.name, nil
			}
			d.pause(bounded, nil)
		}
	}
	linger, stop := context.WithTimeout(ctx, d.o.Linger)
	defer stop()
	<-linger.Done()
	return "", ctx.Err()
}

// stop ends what can go nowhere: announcements first, and a unit when its own have
// ended. They stay scheduled here, and are started again by Resume.
func (d *drain) stop(ctx context.Context, v *view, steps []step) error {
	var wishes []string
	for _, s := range steps {
		for _, u := range slices.Backward(s.group) {
			announced := slices.ContainsFunc(s.group, func(a *unit) bool { return a.announces(u) && v.up(a) })
			m := v.rec.unit(u.name)
			if announced || !v.up(u) || m.Set != "" && m.Set == u.desired {
				continue
			}
			m.Ran, m.To, m.Was, m.Set, m.Index, m.Gone = ran(v, u), "", u.desired, loaded, 0, false
			if u.desired == loaded { // something else started it: only unloading it stops it
				m.Set = inactive
			}
			wishes = append(wishes, u.name)
		}
	}
	if len(wishes) == 0 {
		return nil
	}
	if err := d.save(ctx, v.rec); err != nil {
		return err
	}
	for _, name := range wishes {
		if err := d.wish(ctx, v.rec.unit(name)); err != nil {
			return err
		}
	}
	return d.save(ctx, v.rec)
}

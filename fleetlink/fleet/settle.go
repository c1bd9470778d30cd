package fleet

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"path"
	"time"

	"github.com/drydock-os/drydock/fleetlink/fleet/etcd2"
)

// maxRetry is the longest pause before a unit is moved again that fleet put back.
const maxRetry = 5 * time.Minute

// A stay is how a unit that was moved has stayed up.
type stay struct {
	at   string        // the machine; "": it is not up
	last time.Time     // that it was seen
	sum  time.Duration // without a break
	fell int           // how often it was not up any more
}

// maxGap is how many polls may lie between two looks for the time between them to
// count in full: what nobody looked at is not known.
const maxGap = 3

// look is the stay after another look at the unit.
func (s stay) look(at string, now time.Time, poll time.Duration) stay {
	switch {
	case at == "" && s.at != "":
		s = stay{fell: s.fell + 1}
	case at != s.at:
		s = stay{at: at, last: now, fell: s.fell}
	case at != "":
		s.sum, s.last = s.sum+min(now.Sub(s.last), maxGap*poll), now
	}
	return s
}

// settle sees what became of the units that were moved. The view learns which are
// still on their way, and why.
func (d *drain) settle(ctx context.Context, v *view) error {
	changed := false
	for i := range v.rec.Units {
		m := &v.rec.Units[i]
		if m.To == "" || m.Settled {
			continue
		}
		u := v.units[m.Name]
		switch {
		case u == nil || u.desired == inactive:
			m.Settled = true // somebody took it out of the schedule
		case u.target == v.self:
			d.undone(m.Name)
			m.To = ""
		case d.order.Force && m.Gone:
			m.Settled = true
		default:
			up := m.Up
			why, err := d.arrival(ctx, m, u, v.ending[m.Name])
			if err != nil {
				return err
			}
			changed = changed || m.Up != up
			if m.Settled = why == ""; !m.Settled {
				v.stray[m.Name] = why
				continue
			}
		}
		changed = true
	}
	if !changed {
		return nil
	}
	return d.save(ctx, v.rec)
}

// undone notes that a unit is scheduled to this machine which was moved: fleet's
// engine found it could not be there, or it was never moved.
func (d *drain) undone(name string) {
	if !d.swaps[name] {
		return
	}
	delete(d.swaps, name)
	d.tries[name]++
	d.later(name, fmt.Sprintf("fleet put it back on this machine after it was moved (%d times)", d.tries[name]))
}

// later has a unit wait for its next move, longer each time.
func (d *drain) later(name, why string) {
	d.excuse[name] = why
	d.again[name] = d.o.Now().Add(min(d.o.Heartbeat<<min(max(d.tries[name]-1, 0), 10), maxRetry))
}

// arrival says why a unit that was moved has not settled where it is now; "" if it
// has: it has ended here, and been up there for longer than what fleet tells may
// be wrong. For after a
// move the machine that it left deletes what the other one told of it, twice
// (agent/unit_state.go of fleet: at once, and when it next publishes all it has).
func (d *drain) arrival(ctx context.Context, m *moved, u *unit, ending string) (why string, err error) {
	states, err := d.api.states(ctx, m.Name, "")
	if err != nil {
		return "", err
	}
	ok, seen := false, "it has not started on "+short(u.target)+" yet"
	if d.up[m.Name] == u.target { // between two looks
		m.Up = u.target
	}
	for _, s := range states {
		if s.MachineID == u.target {
			m.saw(s)
			ok, seen = m.fine(s), "it is "+s.String()+" on "+short(u.target)
		}
	}
	if m.Ran == "" || u.desired != launched {
		return ending, nil
	}
	at := ""
	if ok {
		at = u.target
	}
	stay := d.stays[m.Name].look(at, d.o.Now(), d.o.Poll)
	d.stays[m.Name] = stay
	switch {
	case ending != "":
		return ending, nil
	case ok && stay.sum > d.o.Heartbeat:
		return "", nil
	case ok:
		seen = "it is up on " + short(at) + ", and has to stay up for " + d.o.Heartbeat.String()
	case u.target == "":
		seen = "it is scheduled nowhere: " + short(m.To) + ", where it was moved to, cannot run it any more, and fleet has found no other machine yet"
	}
	if stay.fell > 2 { // twice is what fleet tells after any move
		seen += "; it does not stay up there"
	}
	return seen, nil
}

// maxLag is how far a watch may lag behind: etcd keeps the last thousand changes.
const maxLag = 500

// pause waits for the next look. Meanwhile it watches what fleet is told of units
// that are on their way: one that falls and gets up again between two looks has
// not stayed up.
func (d *drain) pause(ctx context.Context, v *view) {
	ctx, cancel := context.WithTimeout(ctx, d.o.Poll)
	defer cancel()
	if v == nil || len(v.stray) == 0 {
		d.seen = 0
		<-ctx.Done()
		return
	}
	if d.seen == 0 {
		d.seen = v.index
	}
	key := d.key("states")
	if len(v.stray) == 1 { // the others' heartbeats need not come here
		key = d.key("states", sorted(v.stray)[0])
	}
	for ctx.Err() == nil {
		node, err := d.etcd.Wait(ctx, key, d.seen)
		if err != nil || node.ModifiedIndex <= d.seen { // what was missed, the looks have to see
			if ctx.Err() == nil || v.index > d.seen+maxLag {
				d.seen = 0
			}
			<-ctx.Done()
			return
		}
		d.seen = node.ModifiedIndex
		d.notice(v, node)
	}
}

// notice sees a unit come up, and one fall that was up.
func (d *drain) notice(v *view, node etcd2.Node) {
	name := path.Base(path.Dir(node.Key))
	doc := struct{ ActiveState, SubState string }{}
	if v.stray[name] == "" || json.Unmarshal([]byte(node.Value), &doc) != nil || doc.ActiveState == "" {
		return
	}
	m, s := *v.rec.unit(name), state{Name: name, MachineID: node.Name(), Active: doc.ActiveState, Sub: doc.SubState}
	if m.Up = cmp.Or(d.up[name], m.Up); v.units[name].target == s.MachineID {
		m.saw(s)
		d.up[name] = m.Up
	}
	if d.stays[name].at == s.MachineID && !m.fine(s) {
		d.stays[name] = d.stays[name].look("", d.o.Now(), d.o.Poll)
	}
}

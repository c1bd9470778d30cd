package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/fleetlink/fleet/etcd2"
)

// Cordon implements fleetlink.Link. That this machine is out of service, who says
// so and why is kept in etcd, where other machines' links see it and move nothing
// here. fleet's engine knows no cordon: it may schedule new units here, which a
// drain moves on. Only where the fleet has a key of metadata for it the engine
// gives this machine no work that asks for another value of the key; the key is
// set when no unit that is up here would be stopped by that, or at the end of the
// drain.
func (l *Link) Cordon(ctx context.Context, why string) error {
	v, err := l.look(ctx)
	if err == nil {
		err = v.present()
	}
	if err != nil {
		return wrap("cordon", err)
	}
	switch {
	case v.rec == nil:
		if err := l.expect(backlog{}); err != nil {
			return wrap("cordon", err)
		}
		v.rec = &record{Version: recordVersion, Hostname: l.o.Machine.Hostname, Instance: l.o.Instance, Why: why, Since: l.o.Now().UTC(), Globals: v.globals()}
		err = l.save(ctx, v.rec)
		if etcd2.Is(err, etcd2.NodeExist) { // ours, if an answer was lost; recall says if not
			v.rec, err = l.recall(ctx)
		}
		if err == nil && v.rec == nil {
			err = errors.New("the record of the drain was removed again")
		}
	case v.rec.Why != why:
		v.rec.Why = why
		err = l.save(ctx, v.rec)
	}
	if err == nil && !v.evicts() {
		err = l.shut(ctx, v)
	}
	return wrap("cordon", err)
}

// globals lists the Global units that are up here.
func (v *view) globals() (up []string) {
	for _, name := range sorted(v.here) {
		if u := v.units[name]; u != nil && u.global && v.here[name].steady() {
			up = append(up, name)
		}
	}
	return up
}

// evicts reports whether the cordon's metadata would stop a unit that is up here.
func (v *view) evicts() bool {
	for _, u := range v.on(v.self) {
		values := u.metadata[v.o.CordonKey]
		if len(values) > 0 && !slices.Contains(values, v.o.CordonValue) && (u.global && v.here[u.name].runs() || v.up(u)) {
			return true
		}
	}
	return false
}

// shut sets the cordon's key of metadata, where the fleet has one and nobody has
// set it already. What was there before is written down first.
func (l *Link) shut(ctx context.Context, v *view) error {
	if l.o.CordonKey == "" || v.shut() {
		return nil
	}
	if v.own != nil && v.own.Value == l.o.CordonValue {
		return nil // fleet's API has not seen it yet; it is ours by the record, or somebody's
	}
	if old := v.rec.Cordon; old != nil && old.Key != l.o.CordonKey { // the policy had another key
		if err := l.open(ctx, v.rec); err != nil {
			return err
		}
	}
	c := &override{Key: l.o.CordonKey, Value: l.o.CordonValue}
	if v.own != nil {
		c.Before = &v.own.Value
	}
	v.rec.Cordon = c
	if err := l.save(ctx, v.rec); err != nil {
		return err
	}
	if err := l.api.setMetadata(ctx, v.self, c.Key, c.Value); err != nil {
		return err
	}
	node, _, err := l.etcd.Get(ctx, l.key("machines", v.self, "metadata", c.Key))
	if err != nil {
		return err
	}
	if node.Value != c.Value {
		return fmt.Errorf("metadata %s was set to %q, and is %q: somebody else sets it too", c.Key, c.Value, node.Value)
	}
	c.Index = node.ModifiedIndex
	return l.save(ctx, v.rec)
}

// open puts the cordon's key of metadata back to what it was before us. It never
// asks fleet to remove it: that leaves an empty value behind, which hides what
// the machine's own configuration says.
func (l *Link) open(ctx context.Context, r *record) error {
	c := r.Cordon
	if c == nil {
		return nil
	}
	key := l.key("machines", l.o.Machine.ID, "metadata", c.Key)
	node, _, err := l.etcd.Get(ctx, key)
	switch {
	case etcd2.Is(err, etcd2.KeyNotFound):
		return nil // somebody opened it
	case err != nil:
		return err
	case node.Value != c.Value || c.Index != 0 && node.ModifiedIndex != c.Index:
		return nil // somebody else has set it since: it is theirs now
	case c.Before != nil:
		_, err = l.etcd.Swap(ctx, key, *c.Before, etcd2.Prev{Index: node.ModifiedIndex})
	default:
		err = l.etcd.Delete(ctx, key, etcd2.Prev{Index: node.ModifiedIndex})
	}
	if etcd2.Is(err, etcd2.CompareFailed) || etcd2.Is(err, etcd2.KeyNotFound) {
		return nil
	}
	return err
}

// Resume implements fleetlink.Link. Units that were moved stay where they are up:
// moving one is stopping it. One that was moved and failed there comes home; those
// that were stopped are started.
func (l *Link) Resume(ctx context.Context) error {
	r, err := l.recall(ctx)
	if err != nil || r == nil {
		return wrap("resume", err)
	}
	v, err := l.look(ctx)
	if err != nil {
		return wrap("resume", err)
	}
	if v.rec == nil {
		return nil
	}
	for _, act := range []func(context.Context, *view) error{
		func(ctx context.Context, v *view) error { return l.open(ctx, v.rec) },
		l.restart, l.home,
		func(_ context.Context, v *view) error { return l.owe(v.rec) },
		func(ctx context.Context, v *view) error { return l.forget(ctx, v.rec) },
	} {
		if err := act(ctx, v); err != nil {
			return wrap("resume", err)
		}
	}
	return nil
}

// owe keeps what has to be up from now on, and what was seen up already.
func (l *Link) owe(r *record) error {
	b, err := l.expected()
	if err != nil {
		return err
	}
	owed := r.backlog()
	owed.Seen, owed.Boot = b.Seen, b.Boot
	return l.expect(owed)
}

// restart gives the units that we stopped their desired state back, those that
// others are bound to first.
func (l *Link) restart(ctx context.Context, v *view) error {
	var first, then []moved
	for _, m := range v.rec.Units {
		switch u := v.units[m.Name]; {
		case u == nil || m.Set == "":
		case len(u.binds) == 0:
			first = append(first, m)
		default:
			then = append(then, m)
		}
	}
	for _, m := range append(first, then...) {
		if err := l.unwish(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// wish changes the desired state of a unit, if it is still what it was. What was
// done is in m, which is to be saved then: where somebody else wants something else
// of the unit, or nothing, nothing was.
func (l *Link) wish(ctx context.Context, m *moved) error {
	node, err := l.etcd.Swap(ctx, l.key("job", m.Name, "target-state"), m.Set, etcd2.Prev{Value: m.Was})
	if etcd2.Is(err, etcd2.CompareFailed) || etcd2.Is(err, etcd2.KeyNotFound) {
		m.Was, m.Set, m.Index = "", "", 0
		return nil
	}
	m.Index = node.ModifiedIndex
	return err
}

// unwish gives a unit the desired state back that it had, if it still has the one
// that wish wrote. Who wrote the same since wants it so.
func (l *Link) unwish(ctx context.Context, m moved) error {
	_, err := l.etcd.Swap(ctx, l.key("job", m.Name, "target-state"), m.Was, etcd2.Prev{Value: m.Set, Index: m.Index})
	if etcd2.Is(err, etcd2.CompareFailed) || etcd2.Is(err, etcd2.KeyNotFound) {
		return nil
	}
	return err
}

// home has units come back that were moved, and are known to have failed where they
// were moved to.
func (l *Link) home(ctx context.Context, v *view) error {
	for i, m := range v.rec.Units {
		u := v.units[m.Name]
		if m.To == "" || m.Settled || m.Ran == "" || u == nil || u.target != m.To || !v.seen {
			continue
		}
		states, err := l.api.states(ctx, m.Name, "")
		if err != nil {
			return err
		}
		lost := slices.ContainsFunc(states, state.failed) && !slices.ContainsFunc(states, m.fine)
		if !lost || v.obstacle(group{u}, v.self) != "" {
			continue
		}
		if _, err := l.swapTarget(ctx, m.Name, m.To, v.self); err != nil {
			return err
		}
		v.rec.Units[i].Settled = true
		v.move(group{u}, v.self)
	}
	return nil
}

// swapTarget has a unit scheduled elsewhere, if it is scheduled where it was; done
// reports whether it was.
func (l *Link) swapTarget(ctx context.Context, name, from, to string) (done bool, err error) {
	_, err = l.etcd.Swap(ctx, l.key("job", name, "target"), to, etcd2.Prev{Value: from})
	if etcd2.Is(err, etcd2.CompareFailed) || etcd2.Is(err, etcd2.KeyNotFound) {
		return false, nil // fleet's engine or a person was faster
	}
	return err == nil, err
}

var _ fleetlink.Link = (*Link)(nil)

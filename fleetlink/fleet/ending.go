package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Units is this machine's systemd. It alone knows how far a unit is that fleet has
// taken off this machine: fleet has systemd stop it, and from then on tells nothing
// of it, however long that takes (unloadUnit of agent/agent.go: TriggerStop, then
// Unsubscribe).
type Units interface {
	// Running says of those of some units, maxAsked at most, that run, or are on their
	// way up or down, how far they are: "deactivating (stop-sigterm)". What it does not
	// name does not run.
	Running(ctx context.Context, units []string) (map[string]string, error)
}

// maxAsked is how many units systemd is asked for at a time.
const maxAsked = 100

// running asks systemd.
func (l *Link) running(ctx context.Context, units []string) (map[string]string, error) {
	all := map[string]string{}
	for some := range slices.Chunk(units, maxAsked) {
		ctx, cancel := context.WithTimeout(ctx, l.o.Timeout)
		found, err := l.o.Units.Running(ctx, some)
		cancel()
		if err != nil {
			return nil, err
		}
		for name, how := range found {
			all[name] = how
		}
	}
	return all, nil
}

// off lists the units that are not to run here any more and are not known to have
// ended: those that were touched, and those that fleet told of before and does not
// now, because somebody else took them off this machine.
func (d *drain) off(v *view) (names []string) {
	for _, m := range v.rec.Units {
		if v.leaves(m) {
			names = append(names, m.Name)
		}
	}
	for _, name := range sorted(v.here) {
		if u := v.units[name]; v.here[name].runs() && (u == nil || !u.global) {
			d.ran[name] = true
		}
	}
	for _, name := range sorted(d.ran) {
		u, known := v.units[name], v.here[name] != (state{})
		if !known && (u == nil || u.target != v.self) && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// leaves reports whether a unit was touched so that it ends here, and was not seen
// to have.
func (v *view) leaves(m moved) bool {
	u := v.units[m.Name]
	return !m.Gone && (m.Set != "" || m.To != "" && (u == nil || u.target != v.self))
}

// end sees which units still run here that are not to. The view learns of them.
func (d *drain) end(ctx context.Context, v *view) error {
	names := d.off(v)
	if len(names) == 0 {
		return nil
	}
	var up map[string]string
	err := errNoUnits
	if d.o.Units != nil {
		up, err = d.running(ctx, names)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	changed := false
	for _, name := range names {
		s, known := v.here[name]
		switch how, runs := up[name]; {
		case known && s.runs():
			v.ending[name] = "it has not ended here yet (" + s.String() + ")"
		case runs:
			v.ending[name] = "it has not ended here yet: systemd calls it " + how
		case err != nil && !known:
			v.ending[name] = d.hold(name, err)
		}
		if v.ending[name] != "" {
			continue
		}
		delete(v.ending, name)
		delete(d.ran, name)
		if m := v.rec.line(name); m != nil {
			m.Gone, changed = true, true
		}
	}
	if !changed {
		return nil
	}
	return d.save(ctx, v.rec)
}

// errNoUnits says that nobody can be asked for the units of this machine.
var errNoUnits = errors.New("systemd is not asked")

// hold says until when a unit is waited for of which nobody can tell whether it
// has ended; "" if that time is over.
func (d *drain) hold(name string, err error) string {
	at := d.o.Now()
	since, known := d.since[name]
	if !known {
		d.since[name], since = at, at
	}
	until := since.Add(d.o.Stop + d.o.Heartbeat)
	if !at.Before(until) {
		return ""
	}
	return fmt.Sprintf("whether it has ended here is not known (%v), so it is given its time until %s", err, until.UTC().Format(time.TimeOnly+" UTC"))
}

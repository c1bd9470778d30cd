package fleettest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// An Agent is fleetd on one machine, and the systemd below it.
type Agent struct {
	f        *Fleet
	id       string
	metadata map[string]string

	cancel context.CancelFunc
	done   sync.WaitGroup
	mu     sync.Mutex
	units  map[string]*process
	clears map[string][]time.Time // units whose states are still to be deleted, and when
	told   time.Time
}

// A process is a unit that an agent has loaded.
type process struct {
	active, sub string
	until       time.Time // of what it is doing
	leaving     bool      // fleet has unloaded it
	launched    bool      // fleet has started it, and not stopped it since (agent/cache.go)
}

// Start boots the machine.
func (a *Agent) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	a.mu.Lock()
	a.cancel, a.units, a.clears = cancel, map[string]*process{}, map[string][]time.Time{}
	a.mu.Unlock()
	object, _ := json.Marshal(map[string]any{"ID": a.id, "PublicIP": "192.0.2.1", "Metadata": a.metadata, "Version": "1.0.0"})
	if err := a.f.Etcd.Set(a.f.Key("machines", a.id, "object"), string(object)); err != nil {
		a.f.Error(err)
	}
	a.done.Go(func() {
		for ctx.Err() == nil {
			a.reconcile(ctx)
			select {
			case <-ctx.Done():
			case <-time.After(Tick):
			}
		}
	})
}

// Kill is the end of fleetd without its own doing.
func (a *Agent) Kill() {
	a.cancel()
	a.done.Wait()
}

// Vanish is a machine without power, after its TTL.
func (a *Agent) Vanish() {
	a.Kill()
	a.f.Etcd.Remove(a.f.Key("machines", a.id, "object"))
	a.mu.Lock()
	gone := slices.Sorted(maps.Keys(a.units))
	a.units = map[string]*process{}
	a.mu.Unlock()
	for _, name := range gone {
		a.f.Etcd.Remove(a.f.Key("states", name, a.id))
		a.f.Etcd.Remove(a.f.Key("job", name, "job-state"))
	}
}

// Up lists what systemd has up.
func (a *Agent) Up() (names []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for name, p := range a.units {
		if p.active != inactive && p.active != "failed" {
			names = append(names, name)
		}
	}
	return names
}

// Running says of those of some units that systemd has up, or on their way up or
// down, how far they are.
func (a *Agent) Running(_ context.Context, units []string) (map[string]string, error) {
	a.f.Lock()
	err := a.f.Systemd
	a.f.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	up := map[string]string{}
	for _, name := range units {
		if p := a.units[name]; p != nil && p.active != inactive && p.active != "failed" {
			up[name] = p.active + " (" + p.sub + ")"
		}
	}
	return up, err
}

// End has a unit that ends slowly end now.
func (a *Agent) End(unit string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.units[unit].until = now()
}

// Await returns when units are up for good.
func (a *Agent) Await(names ...string) {
	a.f.Helper()
	steady := func(name string) bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		p := a.units[name]
		return p != nil && p.active == "active"
	}
	late := now().Add(time.Minute)
	for _, name := range names {
		for !steady(name) {
			if now().After(late) {
				a.f.Fatalf("%s is never up on %s", name, a.id)
			}
			<-time.After(Tick)
		}
	}
}

func (a *Agent) reconcile(ctx context.Context) {
	machines, err := a.f.machines(ctx)
	jobs, err2 := a.f.jobs(ctx)
	if err != nil || err2 != nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	wanted := map[string]string{}
	for _, j := range jobs {
		if j.desired != inactive && (j.target == a.id || a.f.global(j.name) && a.f.admits(j.name, machines[a.id])) {
			wanted[j.name] = j.desired
		}
	}
	for name, p := range a.units {
		if wanted[name] == "" && !p.leaving {
			p.leaving = true
			a.f.Etcd.Remove(a.f.Key("job", name, "job-state"))
			// The publisher deletes what was told of a unit that it is told nothing of any
			// more, and again when it next publishes all that it has (agent/unit_state.go).
			a.clears[name] = []time.Time{now().Add(Tick / 2), now().Add(Heartbeat)}
			a.end(name, p)
		}
	}
	for name, desired := range wanted {
		p := a.units[name]
		if p == nil || p.leaving && p.active == inactive {
			p = &process{active: inactive, sub: "dead"}
			a.units[name] = p
		}
		switch {
		case p.leaving:
		case desired == launched && !p.launched && p.active != "deactivating":
			a.f.say("start", name, a.id)
			p.active, p.sub, p.until, p.launched = "activating", "start-pre", now().Add(Tick), true
		case desired == loaded && p.launched:
			p.launched = false
			a.f.Etcd.Remove(a.f.Key("job", name, "job-state"))
			a.end(name, p)
		}
	}
	a.pass()
	a.tell(wanted)
}

// Run has systemd start a unit without fleet, as a timer does.
func (a *Agent) Run(name string) { a.become(name, "active", "running") }

// Finish has a unit end well by itself. fleet does not start it again.
func (a *Agent) Finish(name string) { a.become(name, inactive, "dead") }

func (a *Agent) become(name, active, sub string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.units[name]
	p.active, p.sub, p.until = active, sub, now().Add(24*time.Hour)
	a.publish(name, p)
}

// end begins to stop a unit.
func (a *Agent) end(name string, p *process) {
	if p.active == inactive || p.active == "failed" {
		p.active, p.sub = inactive, "dead"
		return
	}
	a.f.Lock()
	slow := a.f.Slow[name]
	a.f.Unlock()
	p.active, p.sub, p.until = "deactivating", "stop-sigterm", now().Add(Tick+slow)
}

// pass has time pass for systemd.
func (a *Agent) pass() {
	for name, p := range a.units {
		if p.until.IsZero() || now().Before(p.until) {
			continue
		}
		a.f.Lock()
		fails, flaps := a.f.Broken[name] == a.id, a.f.Flapping[name] == a.id
		a.f.Unlock()
		switch {
		case p.active == "deactivating":
			p.active, p.sub, p.until = inactive, "dead", time.Time{}
			a.f.say("stop", name, a.id)
			a.bound(name)
		case fails:
			p.active, p.sub, p.until = "failed", "failed", now().Add(time.Hour)
		case flaps && p.active == "active":
			p.active, p.sub, p.until = "activating", "auto-restart", now().Add(Heartbeat/2)
		case flaps:
			p.active, p.sub, p.until = "active", "running", now().Add(Heartbeat/2)
		default:
			p.active, p.sub, p.until = "active", "running", now().Add(24*time.Hour)
		}
		a.publish(name, p)
	}
}

// bound stops what is bound to a unit that has stopped (BindsTo=), as systemd does.
func (a *Agent) bound(name string) {
	for other, p := range a.units {
		if slices.Contains(a.f.option(other, "Unit", "BindsTo"), name) && p.active == "active" {
			p.active, p.sub, p.until = inactive, "dead", now().Add(24*time.Hour)
			a.f.say("stop", other, a.id)
		}
	}
}

func (a *Agent) publish(name string, p *process) {
	if p.leaving {
		if p.active == inactive {
			delete(a.units, name)
		}
		return
	}
	a.f.Etcd.Set(a.f.Key("states", name, a.id), fmt.Sprintf(`{"loadState":"loaded","activeState":%q,"subState":%q,"machineState":{"ID":%q},"unitHash":"x"}`, p.active, p.sub, a.id))
}

// tell is the heartbeat, and the deletion that comes too late.
func (a *Agent) tell(wanted map[string]string) {
	for name, times := range a.clears {
		if len(times) > 0 && now().After(times[0]) {
			a.clears[name] = times[1:]
			a.f.Etcd.Remove(a.f.Key("states", name))
		}
	}
	if now().Before(a.told.Add(Heartbeat)) {
		return
	}
	a.told = now()
	for name, p := range a.units {
		if p.leaving && p.active == inactive {
			delete(a.units, name)
			continue
		}
		if wanted[name] == launched {
			a.f.Etcd.Set(a.f.Key("job", name, "job-state"), a.id)
		}
		a.publish(name, p)
	}
}

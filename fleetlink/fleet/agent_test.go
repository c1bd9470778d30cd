package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"
)

// An agent is fleetd on one machine, and the systemd below it.
type agent struct {
	f        *fleetd
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

func (a *agent) start() {
	ctx, cancel := context.WithCancel(context.Background())
	a.mu.Lock()
	a.cancel, a.units, a.clears = cancel, map[string]*process{}, map[string][]time.Time{}
	a.mu.Unlock()
	object, _ := json.Marshal(map[string]any{"ID": a.id, "PublicIP": "192.0.2.1", "Metadata": a.metadata, "Version": "1.0.0"})
	if err := a.f.etcd.set(a.f.key("machines", a.id, "object"), string(object)); err != nil {
		a.f.Error(err)
	}
	a.done.Go(func() {
		for ctx.Err() == nil {
			a.reconcile(ctx)
			select {
			case <-ctx.Done():
			case <-time.After(testTick):
			}
		}
	})
}

// kill is the end of fleetd without its own doing.
func (a *agent) kill() {
	a.cancel()
	a.done.Wait()
}

// vanish is a machine without power, after its TTL.
func (a *agent) vanish() {
	a.kill()
	a.f.etcd.remove(a.f.key("machines", a.id, "object"))
	a.mu.Lock()
	gone := sorted(a.units)
	a.units = map[string]*process{}
	a.mu.Unlock()
	for _, name := range gone {
		a.f.etcd.remove(a.f.key("states", name, a.id))
		a.f.etcd.remove(a.f.key("job", name, "job-state"))
	}
}

// running lists what systemd has up.
func (a *agent) running() (names []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for name, p := range a.units {
		if p.active != inactive && p.active != "failed" {
			names = append(names, name)
		}
	}
	return names
}

// Running implements Units.
func (a *agent) Running(_ context.Context, units []string) (map[string]string, error) {
	a.f.mu.Lock()
	err := a.f.systemd
	a.f.mu.Unlock()
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

func (a *agent) reconcile(ctx context.Context) {
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
			a.f.etcd.remove(a.f.key("job", name, "job-state"))
			// The publisher deletes what was told of a unit that it is told nothing of any
			// more, and again when it next publishes all that it has (agent/unit_state.go).
			a.clears[name] = []time.Time{now().Add(testTick / 2), now().Add(testHeartbeat)}
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
			a.f.log("start", name, a.id)
			p.active, p.sub, p.until, p.launched = "activating", "start-pre", now().Add(testTick), true
		case desired == loaded && p.launched:
			p.launched = false
			a.f.etcd.remove(a.f.key("job", name, "job-state"))
			a.end(name, p)
		}
	}
	a.pass()
	a.tell(wanted)
}

// run has systemd start a unit without fleet, as a timer does.
func (a *agent) run(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.units[name]
	p.active, p.sub, p.until = "active", "running", now().Add(24*time.Hour)
	a.publish(name, p)
}

// finish has a unit end well by itself. fleet does not start it again.
func (a *agent) finish(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.units[name]
	p.active, p.sub, p.until = inactive, "dead", now().Add(24*time.Hour)
	a.publish(name, p)
}

// end begins to stop a unit.
func (a *agent) end(name string, p *process) {
	if p.active == inactive || p.active == "failed" {
		p.active, p.sub = inactive, "dead"
		return
	}
	a.f.mu.Lock()
	slow := a.f.slow[name]
	a.f.mu.Unlock()
	p.active, p.sub, p.until = "deactivating", "stop-sigterm", now().Add(testTick+slow)
}

// pass has time pass for systemd.
func (a *agent) pass() {
	for name, p := range a.units {
		if p.until.IsZero() || now().Before(p.until) {
			continue
		}
		a.f.mu.Lock()
		fails, flaps := a.f.broken[name] == a.id, a.f.flapping[name] == a.id
		a.f.mu.Unlock()
		switch {
		case p.active == "deactivating":
			p.active, p.sub, p.until = inactive, "dead", time.Time{}
			a.f.log("stop", name, a.id)
			a.bound(name)
		case fails:
			p.active, p.sub, p.until = "failed", "failed", now().Add(time.Hour)
		case flaps && p.active == "active":
			p.active, p.sub, p.until = "activating", "auto-restart", now().Add(testHeartbeat/2)
		case flaps:
			p.active, p.sub, p.until = "active", "running", now().Add(testHeartbeat/2)
		default:
			p.active, p.sub, p.until = "active", "running", now().Add(24*time.Hour)
		}
		a.publish(name, p)
	}
}

// bound stops what is bound to a unit that has stopped (BindsTo=), as systemd does.
func (a *agent) bound(name string) {
	for other, p := range a.units {
		if slices.Contains(a.f.option(other, "Unit", "BindsTo"), name) && p.active == "active" {
			p.active, p.sub, p.until = inactive, "dead", now().Add(24*time.Hour)
			a.f.log("stop", other, a.id)
		}
	}
}

func (a *agent) publish(name string, p *process) {
	if p.leaving {
		if p.active == inactive {
			delete(a.units, name)
		}
		return
	}
	a.f.etcd.set(a.f.key("states", name, a.id), fmt.Sprintf(`{"loadState":"loaded","activeState":%q,"subState":%q,"machineState":{"ID":%q},"unitHash":"x"}`, p.active, p.sub, a.id))
}

// tell is the heartbeat, and the deletion that comes too late.
func (a *agent) tell(wanted map[string]string) {
	for name, times := range a.clears {
		if len(times) > 0 && now().After(times[0]) {
			a.clears[name] = times[1:]
			a.f.etcd.remove(a.f.key("states", name))
		}
	}
	if now().Before(a.told.Add(testHeartbeat)) {
		return
	}
	a.told = now()
	for name, p := range a.units {
		if p.leaving && p.active == inactive {
			delete(a.units, name)
			continue
		}
		if wanted[name] == launched {
			a.f.etcd.set(a.f.key("job", name, "job-state"), a.id)
		}
		a.publish(name, p)
	}
}

// Package fleettest plays a fleet (CoreOS) over a real etcd, for tests.
package fleettest

import (
	"context"
	"encoding/json"
	"maps"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drydock-os/drydock/fleetlink/fleet/etcd2"
)

// A Fleet stands in for fleet: its HTTP API on a unix socket, its engine and its
// agents, over a real etcd. It was modelled on what a fleet at 4522498 was seen to
// do (agent, engine, registry and api of coreos/fleet), with these traps: a page
// has three entries; PATCH takes {"value":{"value":…}} alone; remove leaves an
// empty override; 503 while etcd is away; an agent that unloads a unit tells
// nothing more of it, though systemd may take its time to stop it, and deletes
// job/<u>/job-state whoever wrote it and, twice, states/<u> of all machines, so
// that what is told of a unit that has moved flaps for a heartbeat; the engine
// takes units off machines that they may not be on. Unlike fleet it keeps unit
// files in memory and has no TTLs: what would expire is deleted.
type Fleet struct {
	testing.TB
	Etcd     *Etcd
	Keys     *etcd2.Client
	Prefix   string // of fleet's keys
	Endpoint string // of its API
	Agents   map[string]*Agent
	Mute     atomic.Bool // the API answers 503
	Frozen   atomic.Bool // the engine does nothing

	// What follows is read and changed under the lock.
	sync.Mutex
	Files    map[string][]Option
	Broken   map[string]string        // unit: the machine on which it fails
	Flapping map[string]string        // unit: the machine on which it does not stay up
	Slow     map[string]time.Duration // that a unit takes to end
	Systemd  error                    // of who asks it
	Events   []Event

	stale map[string]map[string]string // the machines that the API tells of; nil: those that there are
}

// An Option is a line of a unit's file.
type Option struct {
	Section string `json:"section"`
	Name    string `json:"name"`
	Value   string `json:"value"`
}

// An Event is something that a unit did, or the engine with it, in order:
// "start", "stop", "schedule", "unschedule".
type Event struct {
	At                  time.Time
	What, Unit, Machine string
}

// What passes in the test's fleet in a thousandth of a second passes in the real
// one in about a tenth.
const (
	Tick      = 40 * time.Millisecond
	Heartbeat = 200 * time.Millisecond
	page      = 3
)

// The states that fleet can be told to keep a unit in.
const (
	inactive = "inactive"
	loaded   = "loaded"
	launched = "launched"
)

func now() time.Time { return time.Now() }

// Start runs a fleet of machines, with a metadata each, until the test ends.
func Start(t testing.TB, e *Etcd, machines map[string]map[string]string) *Fleet {
	t.Helper()
	f := &Fleet{TB: t, Etcd: e, Keys: e.Client(t), Prefix: "/" + filepath.Base(t.TempDir()) + strings.ReplaceAll(t.Name(), "/", "-"),
		Files: map[string][]Option{}, Agents: map[string]*Agent{}, Broken: map[string]string{}, Flapping: map[string]string{},
		Slow: map[string]time.Duration{}}
	dir, err := os.MkdirTemp("", "fl")
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	f.Endpoint = "unix://" + filepath.Join(dir, "s")
	server := &http.Server{Handler: f}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { server.Serve(listener) })
	running.Go(func() { f.engine(ctx) })
	t.Cleanup(func() {
		cancel()
		server.Close()
		running.Wait()
		for _, a := range f.Agents {
			a.Kill()
		}
		os.RemoveAll(dir)
	})
	for id, metadata := range machines {
		f.Agents[id] = &Agent{f: f, id: id, metadata: metadata}
		f.Agents[id].Start()
	}
	return f
}

// Key is one of fleet's own keys.
func (f *Fleet) Key(elem ...string) string { return path.Join(append([]string{f.Prefix}, elem...)...) }

// Place has a unit launched on a machine.
func (f *Fleet) Place(unit, machine string, options ...Option) {
	f.Helper()
	f.Lock()
	f.Files[unit] = options
	f.Unlock()
	for key, value := range map[string]string{"object": `{"Name":"` + unit + `"}`, "target-state": launched, "target": machine} {
		if key == "target" && machine == "" {
			continue // a Global unit is scheduled nowhere
		}
		if err := f.Etcd.Set(f.Key("job", unit, key), value); err != nil {
			f.Fatal(err)
		}
	}
}

func (f *Fleet) say(what, unit, machine string) {
	f.Lock()
	defer f.Unlock()
	f.Events = append(f.Events, Event{now(), what, unit, machine})
}

// job is a unit as the schedule has it.
type job struct{ name, desired, target, heartbeat string }

// current is what fleet calls the current state (registry/job_state.go): it takes
// the word of whoever last wrote, or deleted, the heartbeat and the state.
func (j job) current(state bool) string {
	switch {
	case j.target == "" || !state:
		return inactive
	case j.heartbeat == j.target:
		return launched
	}
	return loaded
}

func (f *Fleet) jobs(ctx context.Context) (jobs []job, err error) {
	dir, _, err := f.Keys.Get(ctx, f.Key("job"))
	if etcd2.Is(err, etcd2.KeyNotFound) {
		return nil, nil
	}
	for _, n := range dir.Nodes {
		desired, _ := n.Child("target-state")
		target, _ := n.Child("target")
		heartbeat, _ := n.Child("job-state")
		if _, ok := n.Child("object"); ok {
			jobs = append(jobs, job{n.Name(), desired.Value, target.Value, heartbeat.Value})
		}
	}
	slices.SortFunc(jobs, func(a, b job) int { return strings.Compare(a.name, b.name) })
	return jobs, err
}

// machines reads the machines as the registry stacks their metadata.
func (f *Fleet) machines(ctx context.Context) (machines map[string]map[string]string, err error) {
	dir, _, err := f.Keys.Get(ctx, f.Key("machines"))
	machines = map[string]map[string]string{}
	if etcd2.Is(err, etcd2.KeyNotFound) {
		return machines, nil
	}
	for _, n := range dir.Nodes {
		object, ok := n.Child("object")
		doc := struct{ Metadata map[string]string }{}
		if !ok || json.Unmarshal([]byte(object.Value), &doc) != nil {
			continue
		}
		if doc.Metadata == nil {
			doc.Metadata = map[string]string{}
		}
		overrides, _ := n.Child("metadata")
		for _, o := range overrides.Nodes {
			if doc.Metadata[o.Name()] = o.Value; o.Value == "" {
				delete(doc.Metadata, o.Name())
			}
		}
		machines[n.Name()] = doc.Metadata
	}
	return machines, err
}

func (f *Fleet) option(unit, section, name string) (values []string) {
	f.Lock()
	defer f.Unlock()
	for _, o := range f.Files[unit] {
		if o.Section == section && o.Name == name {
			values = append(values, o.Value)
		}
	}
	return values
}

func (f *Fleet) global(unit string) bool { return len(f.option(unit, "X-Fleet", "Global")) > 0 }

// engine is the leader's.
func (f *Fleet) engine(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(Tick):
		}
		if !f.Frozen.Load() {
			f.reconcile(ctx)
		}
	}
}

func (f *Fleet) reconcile(ctx context.Context) {
	machines, err := f.machines(ctx)
	jobs, err2 := f.jobs(ctx)
	if err != nil || err2 != nil {
		return
	}
	for i, j := range jobs {
		_, there := machines[j.target]
		if j.target != "" && (j.desired == inactive || !there || !f.able(j, j.target, machines, jobs)) {
			if f.Keys.Delete(ctx, f.Key("job", j.name, "target"), etcd2.Prev{Value: j.target}) == nil {
				f.say("unschedule", j.name, j.target)
			}
			jobs[i].target = ""
		}
	}
	for i, j := range jobs {
		if j.target != "" || j.desired == inactive || f.global(j.name) {
			continue
		}
		best, least := "", 0
		for _, id := range slices.Sorted(maps.Keys(machines)) {
			n := 0
			for _, other := range jobs {
				if other.target == id && other.desired != inactive || f.global(other.name) && f.admits(other.name, machines[id]) {
					n++
				}
			}
			if f.able(j, id, machines, jobs) && (best == "" || n < least) {
				best, least = id, n
			}
		}
		if best == "" {
			continue
		}
		if _, err := f.Keys.Create(ctx, f.Key("job", j.name, "target"), best); err == nil {
			f.say("schedule", j.name, best)
		}
		jobs[i].target = best
	}
}

// Lag has the API tell of machines as they are now, until it is ended.
func (f *Fleet) Lag(yes bool) {
	machines, err := f.machines(context.Background())
	if err != nil {
		f.Error(err)
	}
	f.Lock()
	defer f.Unlock()
	if f.stale = nil; yes {
		f.stale = machines
	}
}

func (f *Fleet) admits(unit string, metadata map[string]string) bool {
	wants := map[string][]string{}
	for _, pair := range f.option(unit, "X-Fleet", "MachineMetadata") {
		k, v, _ := strings.Cut(pair, "=")
		wants[k] = append(wants[k], v)
	}
	for k, vs := range wants {
		if !slices.Contains(vs, metadata[k]) {
			return false
		}
	}
	return true
}

// able is AbleToRun, without Replaces.
func (f *Fleet) able(j job, id string, machines map[string]map[string]string, jobs []job) bool {
	if ids := f.option(j.name, "X-Fleet", "MachineID"); len(ids) > 0 && ids[0] != id {
		return false
	}
	if !f.admits(j.name, machines[id]) {
		return false
	}
	for _, peer := range f.option(j.name, "X-Fleet", "MachineOf") {
		if !slices.ContainsFunc(jobs, func(o job) bool { return o.name == peer && o.target == id && o.desired != inactive }) {
			return false
		}
	}
	for _, o := range jobs {
		if o.name == j.name || o.target != id || o.desired == inactive {
			continue
		}
		for _, glob := range f.option(j.name, "X-Fleet", "Conflicts") {
			if ok, _ := path.Match(glob, o.name); ok {
				return false
			}
		}
		for _, glob := range f.option(o.name, "X-Fleet", "Conflicts") {
			if ok, _ := path.Match(glob, j.name); ok {
				return false
			}
		}
	}
	return true
}

package fleet

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
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

// fleetd stands in for fleet: its HTTP API on a unix socket, its engine and its
// agents, over a real etcd. It was modelled on what a fleet at 4522498 was seen to
// do (agent, engine, registry and api of coreos/fleet), with these traps: a page
// has three entries; PATCH takes {"value":{"value":…}} alone; remove leaves an
// empty override; 503 while etcd is away; an agent that unloads a unit tells
// nothing more of it, though systemd may take its time to stop it, and deletes
// job/<u>/job-state whoever wrote it and, twice, states/<u> of all machines, so
// that what is told of a unit that has moved flaps for a heartbeat; the engine
// takes units off machines that they may not be on. Unlike fleet it keeps unit
// files in memory and has no TTLs: what would expire is deleted.
type fleetd struct {
	*testing.T
	etcd     *etcdProcess
	keys     *etcd2.Client
	prefix   string
	endpoint string
	mute     atomic.Bool // the API answers 503
	frozen   atomic.Bool // the engine does nothing

	mu       sync.Mutex
	files    map[string][]option
	agents   map[string]*agent
	broken   map[string]string            // unit: the machine on which it fails
	flapping map[string]string            // unit: the machine on which it does not stay up
	slow     map[string]time.Duration     // that a unit takes to end
	systemd  error                        // of who asks it
	stale    map[string]map[string]string // the machines that the API tells of; nil: those that there are
	events   []event
	requests int
}

// An event is something that a unit did, in order.
type event struct{ what, unit, machine string }

// What passes in the test's fleet in a thousandth of a second passes in the real
// one in about a tenth.
const (
	testTick      = 40 * time.Millisecond
	testHeartbeat = 200 * time.Millisecond
	testPage      = 3
)

// startFleet runs a fleet of machines, with a metadata each, until the test ends.
func startFleet(t *testing.T, e *etcdProcess, machines map[string]map[string]string) *fleetd {
	t.Helper()
	f := &fleetd{T: t, etcd: e, keys: e.client(t), prefix: "/" + filepath.Base(t.TempDir()) + strings.ReplaceAll(t.Name(), "/", "-"),
		files: map[string][]option{}, agents: map[string]*agent{}, broken: map[string]string{}, flapping: map[string]string{}, slow: map[string]time.Duration{}}
	dir, err := os.MkdirTemp("", "fl")
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	f.endpoint = "unix://" + filepath.Join(dir, "s")
	server := &http.Server{Handler: f}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { server.Serve(listener) })
	running.Go(func() { f.engine(ctx) })
	t.Cleanup(func() {
		cancel()
		server.Close()
		running.Wait()
		for _, a := range f.agents {
			a.kill()
		}
		os.RemoveAll(dir)
	})
	for id, metadata := range machines {
		f.agents[id] = &agent{f: f, id: id, metadata: metadata}
		f.agents[id].start()
	}
	return f
}

func (f *fleetd) key(elem ...string) string { return path.Join(append([]string{f.prefix}, elem...)...) }

func (f *fleetd) log(what, unit, machine string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, event{what, unit, machine})
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

func (f *fleetd) jobs(ctx context.Context) (jobs []job, err error) {
	dir, _, err := f.keys.Get(ctx, f.key("job"))
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
func (f *fleetd) machines(ctx context.Context) (machines map[string]map[string]string, err error) {
	dir, _, err := f.keys.Get(ctx, f.key("machines"))
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

func (f *fleetd) option(unit, section, name string) (values []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, o := range f.files[unit] {
		if o.Section == section && o.Name == name {
			values = append(values, o.Value)
		}
	}
	return values
}

func (f *fleetd) global(unit string) bool { return len(f.option(unit, "X-Fleet", "Global")) > 0 }

// engine is the leader's.
func (f *fleetd) engine(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(testTick):
		}
		if !f.frozen.Load() {
			f.reconcile(ctx)
		}
	}
}

func (f *fleetd) reconcile(ctx context.Context) {
	machines, err := f.machines(ctx)
	jobs, err2 := f.jobs(ctx)
	if err != nil || err2 != nil {
		return
	}
	for i, j := range jobs {
		_, there := machines[j.target]
		if j.target != "" && (j.desired == inactive || !there || !f.able(j, j.target, machines, jobs)) {
			if f.keys.Delete(ctx, f.key("job", j.name, "target"), etcd2.Prev{Value: j.target}) == nil {
				f.log("unschedule", j.name, j.target)
			}
			jobs[i].target = ""
		}
	}
	for i, j := range jobs {
		if j.target != "" || j.desired == inactive || f.global(j.name) {
			continue
		}
		best, least := "", 0
		for _, id := range sorted(machines) {
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
		if _, err := f.keys.Create(ctx, f.key("job", j.name, "target"), best); err == nil {
			f.log("schedule", j.name, best)
		}
		jobs[i].target = best
	}
}

// lag has the API tell of machines as they are now, until it is ended.
func (f *fleetd) lag(yes bool) {
	machines, err := f.machines(context.Background())
	if err != nil {
		f.Error(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stale = nil; yes {
		f.stale = machines
	}
}

func (f *fleetd) admits(unit string, metadata map[string]string) bool {
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
func (f *fleetd) able(j job, id string, machines map[string]map[string]string, jobs []job) bool {
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

// ServeHTTP is fleet's API.
func (f *fleetd) ServeHTTP(rw http.ResponseWriter, req *http.Request) {
	ctx, cancel := context.WithTimeout(req.Context(), 10*time.Second) // fleet gives etcd one second, on machines with time for it
	defer cancel()
	f.mu.Lock()
	f.requests++
	f.mu.Unlock()
	machines, err := f.machines(ctx)
	jobs, err2 := f.jobs(ctx)
	if f.mute.Load() || err != nil || err2 != nil {
		refuse(rw, 503, "fleet server unable to communicate with etcd")
		return
	}
	what := strings.TrimPrefix(req.URL.Path, "/fleet/v1/")
	switch unit := strings.TrimPrefix(what, "units/"); {
	case what == "machines" && req.Method == http.MethodPatch:
		f.patch(rw, req)
	case what == "machines":
		f.mu.Lock()
		if f.stale != nil {
			machines = f.stale
		}
		f.mu.Unlock()
		var all []any
		for _, id := range sorted(machines) {
			all = append(all, map[string]any{"id": id, "primaryIP": "192.0.2.1", "metadata": machines[id]})
		}
		give(rw, req, "machines", all)
	case what == "units":
		dir, _, _ := f.keys.Get(ctx, f.key("states"))
		var all []any
		for _, j := range jobs {
			told, _ := dir.Child(j.name)
			_, state := told.Child(j.target)
			f.mu.Lock()
			all = append(all, map[string]any{"name": j.name, "options": f.files[j.name], "desiredState": j.desired, "machineID": j.target, "currentState": j.current(state)})
			f.mu.Unlock()
		}
		give(rw, req, "units", all)
	case what == "state":
		give(rw, req, "states", f.states(ctx, req.FormValue("unitName"), req.FormValue("machineID")))
	case unit != what && req.Method == http.MethodPut:
		f.put(rw, req, unit)
	case unit != what && req.Method == http.MethodDelete:
		f.etcd.remove(f.key("job", unit))
		rw.WriteHeader(http.StatusNoContent)
	default:
		refuse(rw, 404, "")
	}
}

func (f *fleetd) states(ctx context.Context, unit, machine string) (all []any) {
	dir, _, _ := f.keys.Get(ctx, f.key("states"))
	slices.SortFunc(dir.Nodes, func(a, b etcd2.Node) int { return strings.Compare(a.Key, b.Key) })
	for _, n := range dir.Nodes {
		slices.SortFunc(n.Nodes, func(a, b etcd2.Node) int { return strings.Compare(a.Key, b.Key) })
		for _, m := range n.Nodes {
			doc := struct{ LoadState, ActiveState, SubState string }{}
			if json.Unmarshal([]byte(m.Value), &doc) != nil || unit != "" && n.Name() != unit || machine != "" && m.Name() != machine {
				continue
			}
			all = append(all, map[string]any{"name": n.Name(), "machineID": m.Name(), "hash": "", "systemdLoadState": doc.LoadState,
				"systemdActiveState": doc.ActiveState, "systemdSubState": doc.SubState})
		}
	}
	return all
}

func (f *fleetd) put(rw http.ResponseWriter, req *http.Request, unit string) {
	doc := struct {
		Options      []option
		DesiredState string
	}{}
	if req.Header.Get("Content-Type") != "application/json" || json.NewDecoder(req.Body).Decode(&doc) != nil {
		refuse(rw, 400, "unable to decode body")
		return
	}
	if len(doc.Options) > 0 {
		f.mu.Lock()
		f.files[unit] = doc.Options
		f.mu.Unlock()
		f.etcd.set(f.key("job", unit, "object"), `{"Name":"`+unit+`","UnitHash":[1,2,3]}`)
	}
	f.etcd.set(f.key("job", unit, "target-state"), doc.DesiredState)
	rw.WriteHeader(http.StatusCreated)
}

func (f *fleetd) patch(rw http.ResponseWriter, req *http.Request) {
	ops := []struct {
		Op, Path string
		Value    struct{ Value string }
	}{}
	if err := json.NewDecoder(req.Body).Decode(&ops); err != nil {
		refuse(rw, 400, err.Error())
		return
	}
	for _, op := range ops {
		elem := strings.Split(op.Path, "/")
		if op.Op == "remove" {
			op.Value.Value = ""
			f.Errorf("somebody asked fleet to remove metadata: %s", op.Path)
		}
		f.etcd.set(f.key("machines", elem[1], "metadata", elem[3]), op.Value.Value)
	}
	rw.WriteHeader(http.StatusNoContent)
}

func refuse(rw http.ResponseWriter, code int, message string) {
	rw.WriteHeader(code)
	json.NewEncoder(rw).Encode(map[string]any{"error": map[string]any{"code": code, "message": message}})
}

// give is a page of a list. Its token is base64 of the limit and the page.
func give(rw http.ResponseWriter, req *http.Request, what string, all []any) {
	n := 1
	if token, err := base64.URLEncoding.DecodeString(req.FormValue("nextPageToken")); err == nil && len(token) == 4 {
		n = int(binary.LittleEndian.Uint16(token[2:]))
	}
	doc := map[string]any{what: all[min((n-1)*testPage, len(all)):min(n*testPage, len(all))]}
	if n*testPage <= len(all) {
		token := binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint16(nil, testPage), uint16(n+1))
		doc["nextPageToken"] = base64.URLEncoding.EncodeToString(token)
	}
	rw.Header().Set("Content-Type", "application/json")
	json.NewEncoder(rw).Encode(doc)
}

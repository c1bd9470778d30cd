package fleet

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/fleetlink/fleet/etcd2"
	"github.com/drydock-os/drydock/fleetlink/fleet/fleettest"
	"github.com/drydock-os/drydock/fleetlink/linktest"
)

// The machines of the tests' fleets. The first is the one that is drained.
const (
	idA = "aaaaaaaa000000000000000000000001"
	idB = "bbbbbbbb000000000000000000000002"
	idC = "cccccccc000000000000000000000003"
)

// notes is a fleetlink.Record in memory.
type notes struct {
	mu   sync.Mutex
	data []byte
}

func (n *notes) Load() ([]byte, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.data), nil
}

func (n *notes) Save(data []byte) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.data = slices.Clone(data)
	return nil
}

// crew is a fleet as a person with fleetctl and etcdctl sees it: a real one, or
// the tests' own.
type crew struct {
	*testing.T
	o      Options
	api    *api
	keys   *etcd2.Client
	placed []string
	meta   map[string]bool // keys of metadata that were set
}

func newCrew(t *testing.T, o Options) *crew {
	t.Helper()
	if o.Record == nil {
		o.Record = &notes{}
	}
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	c := &crew{T: t, o: o, api: l.api, keys: l.etcd, meta: map[string]bool{}}
	t.Cleanup(c.clean)
	return c
}

func (c *crew) open() *Link {
	l, err := Open(c.o)
	if err != nil {
		c.Fatal(err)
	}
	return l
}

// clean leaves a real fleet as it was found.
func (c *crew) clean() {
	for _, name := range c.placed {
		c.api.do(context.Background(), http.MethodDelete, "units/"+name, nil, nil)
	}
	machines, _ := c.api.machines(context.Background())
	for id := range machines {
		for key := range c.meta {
			c.keys.Delete(context.Background(), path.Join(cmp.Or(c.o.Prefix, DefaultPrefix), "machines", id, "metadata", key), etcd2.Prev{})
		}
	}
}

func (c *crew) until(what string, ok func() bool) {
	c.Helper()
	for deadline := now().Add(40*cmp.Or(c.o.Heartbeat, DefaultHeartbeat) + 10*time.Second); !ok(); {
		if now().After(deadline) {
			c.Fatalf("never: %s", what)
		}
		<-time.After(c.o.Poll)
	}
}

func (c *crew) set(machine, key, value string) {
	c.Helper()
	c.meta[key] = true
	if err := c.api.setMetadata(c.Context(), machine, key, value); err != nil {
		c.Fatal(err)
	}
}

func (c *crew) others() (ids []string) {
	machines, err := c.api.machines(c.Context())
	if err != nil {
		c.Fatal(err)
	}
	delete(machines, c.o.Machine.ID)
	return sorted(machines)
}

// unit submits a unit and has it launched, or with "loaded" loaded.
func (c *crew) unit(name, desired string, lines ...string) {
	c.Helper()
	doc := map[string]any{"name": name, "desiredState": desired}
	options := []option{{"Service", "ExecStart", "/bin/sleep infinity"}}
	for _, line := range lines {
		section, rest, _ := strings.Cut(line, ":")
		key, value, _ := strings.Cut(rest, "=")
		options = append(options, option{section, key, value})
	}
	doc["options"] = options
	if _, err := c.api.do(c.Context(), http.MethodPut, "units/"+name, nil, doc); err != nil {
		c.Fatal(err)
	}
	c.placed = append(c.placed, name)
}

func (c *crew) wish(name, desired string) {
	c.Helper()
	if _, err := c.api.do(c.Context(), http.MethodPut, "units/"+name, nil, map[string]any{"desiredState": desired}); err != nil {
		c.Fatal(err)
	}
}

// where lists the machines that say a unit is up.
func (c *crew) where(name string) (ids []string) {
	states, err := c.api.states(c.Context(), name, "")
	if err != nil {
		c.Fatal(err)
	}
	for _, s := range states {
		if s.runs() {
			ids = append(ids, s.MachineID)
		}
	}
	return ids
}

func (c *crew) up(name, machine string) {
	c.Helper()
	c.until(name+" runs on "+short(machine), func() bool {
		states, _ := c.api.states(c.Context(), name, machine)
		return len(states) == 1 && states[0].steady()
	})
}

// place has a unit run on this machine that may run on all of them then.
func (c *crew) place(name string) string {
	c.Helper()
	key := "drydock_" + name
	c.set(c.o.Machine.ID, key, "yes")
	for _, id := range c.others() {
		c.set(id, key, "no")
	}
	c.unit(name+".service", launched, "X-Fleet:MachineMetadata="+key+"=yes")
	c.up(name+".service", c.o.Machine.ID)
	for _, id := range c.others() {
		c.set(id, key, "yes")
	}
	return name + ".service"
}

func (c *crew) hold(unit string) (release func()) {
	key := "drydock_" + strings.TrimSuffix(unit, ".service")
	for _, id := range c.others() {
		c.set(id, key, "no")
	}
	return func() {
		for _, id := range c.others() {
			c.set(id, key, "yes")
		}
	}
}

func (c *crew) here() (names []string) {
	states, err := c.api.states(c.Context(), "", c.o.Machine.ID)
	if err != nil {
		c.Fatal(err)
	}
	for _, s := range states {
		if s.runs() && slices.Contains(c.placed, s.Name) {
			names = append(names, s.Name)
		}
	}
	return names
}

func (c *crew) metadata(key string) string {
	machines, err := c.api.machines(c.Context())
	if err != nil {
		c.Fatal(err)
	}
	return machines[c.o.Machine.ID][key]
}

func (c *crew) cluster(pace time.Duration) linktest.Cluster {
	cluster := linktest.Cluster{
		Open:  func() fleetlink.Link { return c.open() },
		Place: c.place, Here: c.here, Hold: c.hold, Pace: pace,
	}
	if key, value := c.o.CordonKey, c.o.CordonValue; key != "" {
		cluster.Closed = func() bool { return c.metadata(key) == value }
		cluster.Claim = func() { c.set(c.o.Machine.ID, key, value) }
		cluster.Uncordon = func() { c.set(c.o.Machine.ID, key, "ok") }
	}
	return cluster
}

// testOptions are those of machine A of a fleet of the tests.
func options(f *fleettest.Fleet) Options {
	return Options{Endpoint: f.Endpoint, Etcd: etcd2.Options{Endpoints: []string{f.Etcd.URL}}, Prefix: f.Prefix,
		Heartbeat: fleettest.Heartbeat + fleettest.Heartbeat/4, Poll: fleettest.Tick, Stop: 20 * fleettest.Heartbeat, Timeout: 2 * time.Second,
		Machine: fleetlink.Machine{ID: idA, Hostname: "web-1"}, Instance: "one", Record: &notes{}, Units: f.Agents[idA]}
}

func three() map[string]map[string]string {
	return map[string]map[string]string{idA: {"reboot": "ok"}, idB: {"reboot": "ok"}, idC: {"reboot": "ok"}}
}

// TestLink runs the contract against the tests' own fleet, with and without a key
// of metadata that closes a machine.
func TestLink(t *testing.T) {
	e := fleettest.StartEtcd(t)
	for name, key := range map[string]string{"plain": "", "with a cordon of metadata": "reboot"} {
		t.Run(name, func(t *testing.T) {
			linktest.Test(t, func(t *testing.T) linktest.Cluster {
				f := fleettest.Start(t, e, three())
				o := options(f)
				if key != "" {
					o.CordonKey, o.CordonValue = key, "draining"
				}
				c := newCrew(t, o)
				cluster := c.cluster(8 * fleettest.Heartbeat)
				cluster.Reboot = func() {
					f.Agents[idA].Vanish()
					<-time.After(fleettest.Heartbeat)
					f.Agents[idA].Start()
				}
				cluster.Silence = func() func() {
					if key == "" {
						f.Mute.Store(true)
						thaw := e.Freeze()
						return func() { f.Mute.Store(false); thaw() }
					}
					return e.Freeze()
				}
				return cluster
			})
		})
	}
}

// TestRealFleet runs the contract against a fleet that is there: its API at
// DRYDOCK_FLEET_ENDPOINT, its etcd at DRYDOCK_FLEET_ETCD (URLs, with commas between),
// and machine DRYDOCK_FLEET_MACHINE of it, the first if that is not set. It starts
// and removes units of its own on it. DRYDOCK_FLEET_HEARTBEAT is for a fleet whose
// agent_ttl is not 30s; DRYDOCK_FLEET_CORDON ("reboot=draining") has the machine
// closed by that metadata.
func TestRealFleet(t *testing.T) {
	endpoint, etcd := os.Getenv("DRYDOCK_FLEET_ENDPOINT"), os.Getenv("DRYDOCK_FLEET_ETCD")
	if endpoint == "" || etcd == "" {
		t.Skip("DRYDOCK_FLEET_ENDPOINT and DRYDOCK_FLEET_ETCD name no fleet")
	}
	heartbeat := DefaultHeartbeat
	if s := os.Getenv("DRYDOCK_FLEET_HEARTBEAT"); s != "" {
		var err error
		if heartbeat, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	a, err := openAPI(endpoint, DefaultTimeout)
	if err != nil {
		t.Fatal(err)
	}
	machines, err := a.machines(t.Context())
	if err != nil || len(machines) < 2 {
		t.Fatalf("a fleet of two machines is needed: %v, %v", machines, err)
	}
	key, value, _ := strings.Cut(os.Getenv("DRYDOCK_FLEET_CORDON"), "=")
	linktest.Test(t, func(t *testing.T) linktest.Cluster {
		return newCrew(t, Options{
			Endpoint: endpoint, Etcd: etcd2.Options{Endpoints: strings.Split(etcd, ",")}, Prefix: os.Getenv("DRYDOCK_FLEET_PREFIX"),
			Heartbeat: heartbeat, Poll: min(DefaultPoll, heartbeat/4), CordonKey: key, CordonValue: value,
			Stop:    heartbeat, // a sleep ends at once, and that machine's systemd is not asked
			Machine: fleetlink.Machine{ID: cmp.Or(os.Getenv("DRYDOCK_FLEET_MACHINE"), sorted(machines)[0]), Hostname: "test"},
		}).cluster(4*heartbeat + 5*time.Second)
	})
}

// state of everything below fleet's prefix that a link could leave something in:
// all but heartbeats and states.
func remains(f *fleettest.Fleet, t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	root, _, err := f.Keys.Get(t.Context(), f.Prefix)
	if err != nil {
		t.Fatal(err)
	}
	var walk func(n etcd2.Node)
	walk = func(n etcd2.Node) {
		if base := n.Name(); !n.Dir && base != "job-state" && !strings.Contains(n.Key, "/states/") {
			all[n.Key] = n.Value
		}
		for _, c := range n.Nodes {
			walk(c)
		}
	}
	walk(root)
	if dir, _, err := f.Keys.Get(t.Context(), recordsKey+f.Prefix); len(dir.Nodes) > 0 || err != nil && !etcd2.Is(err, etcd2.KeyNotFound) {
		t.Errorf("a record is left: %v, %v", dir.Nodes, err)
	}
	return all
}

func pretty(v any) string {
	b := &bytes.Buffer{}
	e := json.NewEncoder(b)
	e.SetIndent("", " ")
	e.Encode(v)
	return fmt.Sprint(b)
}

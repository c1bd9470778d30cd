package nomad

import (
	"cmp"
	"slices"
	"testing"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/fleetlink/linktest"
)

// memory is a record that outlives the links of a test.
type memory struct {
	data []byte
	err  error
}

func (m *memory) Load() ([]byte, error)  { return m.data, m.err }
func (m *memory) Save(data []byte) error { m.data = data; return m.err }

var machine = fleetlink.Machine{ID: "0123456789abcdef0123456789abcdef", Hostname: "a.example.com"}

// link opens this machine's link, with the times of a test.
func link(t *testing.T, o Options, r fleetlink.Record) *Link {
	t.Helper()
	l, err := New(o, machine, r)
	if err != nil {
		t.Fatal(err)
	}
	l.again, l.hush, l.spacing = 100*time.Millisecond, 100*time.Millisecond, 10*time.Millisecond
	return l
}

// TestLink runs the conformance test against a server that stands in for Nomad:
// see cluster and server for what it was modelled on.
func TestLink(t *testing.T) {
	linktest.Test(t, func(t *testing.T) linktest.Cluster {
		s, address := open(t)
		r := &memory{}
		eligibility := func(to string) func() {
			return func() {
				s.do(func() { s.node("a").SchedulingEligibility = to; s.touch(s.node("a")) })
			}
		}
		return linktest.Cluster{
			Open:  func() fleetlink.Link { return link(t, Options{Address: address, Timeout: time.Second}, r) },
			Place: func(name string) string { return s.register(newJob("service", name, 1), "a").Name },
			Here:  func() []string { return s.here("a") },
			Hold:  s.hold,
			Closed: func() bool {
				s.mu.Lock()
				defer s.mu.Unlock()
				return s.node("a").SchedulingEligibility != "eligible"
			},
			Claim:    eligibility("ineligible"),
			Uncordon: eligibility("eligible"),
			Reboot:   func() { s.reboot("a") },
			Silence: func() func() {
				s.silent.Store(true)
				return func() { s.silent.Store(false) }
			},
			Pace: 200 * time.Millisecond,
		}
	})
}

// reboot has a node's heartbeats stay away, and its agent come back.
func (c *cluster) reboot(name string) {
	c.do(func() {
		n := c.node(name)
		n.Status, n.mute = "down", true
		c.touch(n)
		for _, a := range c.on(n.ID) {
			if !a.terminal() && a.JobType != "system" {
				a.ClientStatus = "lost"
				c.touchAlloc(a)
			}
		}
	})
	c.do(func() {
		n := c.node(name)
		n.Status, n.mute = "ready", false
		c.touch(n)
		for _, a := range c.on(n.ID) {
			if !a.terminal() {
				a.ClientStatus = "pending"
				c.touchAlloc(a)
			}
		}
	})
}

// here lists what runs on a node, by name.
func (c *cluster) here(name string) (names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.on(c.node(name).ID) {
		if !a.clientTerminal() {
			names = append(names, a.Name)
		}
	}
	return names
}

// hold adds a second allocation to a job, elsewhere, that does not get healthy.
// Its migrate block then lets none leave.
func (c *cluster) hold(alloc string) (release func()) {
	var twin *simAlloc
	c.do(func() {
		i := slices.IndexFunc(c.allocs, func(a *simAlloc) bool { return a.Name == alloc && !a.terminal() })
		j := c.allocs[i].Job
		j.TaskGroups[0].Count = 2
		twin = c.place(j, c.node("b"), 1)
		twin.sick = true
	})
	return func() { c.do(func() { twin.sick = false; c.touchAlloc(twin) }) }
}

func sortAllocs(as []*simAlloc) {
	slices.SortFunc(as, func(a, b *simAlloc) int { return cmp.Compare(b.ModifyIndex, a.ModifyIndex) })
}

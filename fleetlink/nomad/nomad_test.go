package nomad

import (
	"testing"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/fleetlink/linktest"
	"github.com/drydock-os/drydock/fleetlink/nomad/nomadtest"
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
// see nomadtest for what it was modelled on.
func TestLink(t *testing.T) {
	linktest.Test(t, func(t *testing.T) linktest.Cluster {
		s, address := nomadtest.Open(t)
		r := &memory{}
		eligibility := func(to string) func() {
			return func() {
				s.Do(func() { s.Node("a").SchedulingEligibility = to; s.Touch(s.Node("a")) })
			}
		}
		return linktest.Cluster{
			Open:  func() fleetlink.Link { return link(t, Options{Address: address, Timeout: time.Second}, r) },
			Place: func(name string) string { return s.Register(nomadtest.NewJob("service", name, 1), "a").Name },
			Here:  func() []string { return s.Here("a") },
			Hold:  s.Hold,
			Closed: func() bool {
				closed := false
				s.Do(func() { closed = s.Node("a").Closed() })
				return closed
			},
			Claim:    eligibility("ineligible"),
			Uncordon: eligibility("eligible"),
			Reboot:   func() { s.Down("a"); s.Up("a") },
			Silence: func() func() {
				s.Silent.Store(true)
				return func() { s.Silent.Store(false) }
			},
			Pace: 200 * time.Millisecond,
		}
	})
}

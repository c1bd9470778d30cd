package fleet

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/fleetlink/fleet/etcd2"
	"github.com/drydock-os/drydock/fleetlink/fleet/fleettest"
)

// TestCutOffAtEachWrite ends the daemon at each write to etcd or to fleet in turn,
// before it arrives or when its answer is on the way. A resume then leaves fleet as
// it was, and a drain goes on.
func TestCutOffAtEachWrite(t *testing.T) {
	e := fleettest.StartEtcd(t)
	for name, force := range map[string]bool{"drain": false, "by force": true} {
		for _, lost := range []string{"the write", "its answer"} {
			for n := int32(1); ; n++ {
				reached := false
				t.Run(fmt.Sprintf("%s, %s, %d", name, lost, n), func(t *testing.T) {
					c := cutOff{fleet: fleettest.Start(t, e, three()), at: n, arrives: lost == "its answer", force: force}
					reached = c.test(t)
				})
				if !reached || t.Failed() {
					break
				}
			}
		}
	}
}

// cutOff is a daemon that ends at a write.
type cutOff struct {
	fleet   *fleettest.Fleet
	at      int32 // the write
	arrives bool
	force   bool // of the drain, over a unit that can go nowhere
	writes  atomic.Int32
}

// before has handler serve the daemon as long as that lives.
func (c *cutOff) before(t *testing.T, handler http.Handler, end func()) string {
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodGet || c.writes.Add(1) != c.at {
			handler.ServeHTTP(rw, req)
			return
		}
		if c.arrives {
			handler.ServeHTTP(httptest.NewRecorder(), req)
		}
		end()
		panic(http.ErrAbortHandler)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func (c *cutOff) test(t *testing.T) (reached bool) {
	o := options(c.fleet)
	o.CordonKey, o.CordonValue = "reboot", "draining"
	s := &scene{newCrew(t, o), c.fleet}
	s.database()
	names := []string{"db.service", "announce.service", "logs.service"}
	if c.force {
		s.unit("pinned.service", launched, "X-Fleet:MachineID="+idA)
		s.up("pinned.service", idA)
		names = append(names, "pinned.service")
	}
	before := remains(c.fleet, t)
	ctx, cancel := context.WithTimeout(t.Context(), enough)
	defer cancel()
	behind, _ := url.Parse(c.fleet.Etcd.URL)
	o = s.o
	o.Etcd.Endpoints = []string{c.before(t, httputil.NewSingleHostReverseProxy(behind), cancel)}
	o.Endpoint = c.before(t, c.fleet, cancel)
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	order := fleetlink.Order{Force: c.force}
	err = errors.Join(l.Cordon(ctx, "a reboot"), l.Drain(ctx, order), l.Resume(ctx))
	if c.writes.Load() < c.at {
		return false
	}
	if err == nil && !c.over() {
		t.Error("the daemon was cut off, and all went well")
	}
	if c.at%2 == 0 {
		if c.over() { // a drain anew: of a unit that was wished for just now fleet tells how it was before
			s.settle(names)
		}
		s.drain(order)
		if to := s.target("db.service"); to == idA || s.target("announce.service") != to {
			t.Errorf("after the drain went on db.service is on %s and its announcement on %s", to, s.target("announce.service"))
		}
		if s.metadata("reboot") != "draining" {
			t.Errorf("after the drain went on this machine's metadata is %q", s.metadata("reboot"))
		}
	}
	s.resume()
	s.wanted(before)
	if s.metadata("reboot") != "ok" {
		t.Errorf("after the resume this machine's metadata is %q", s.metadata("reboot"))
	}
	s.settle(names)
	return true
}

// settle waits until units run where they are to.
func (s *scene) settle(names []string) {
	s.Helper()
	for _, name := range names {
		s.until(name+" runs", func() bool {
			states, _ := s.api.states(s.Context(), name, s.target(name))
			return len(states) == 1 && states[0].steady()
		})
	}
}

// over reports whether nothing is left to be cut off: after the record only
// directories are removed, if they are empty.
func (c *cutOff) over() bool {
	_, _, err := c.fleet.Keys.Get(context.Background(), recordsKey+c.fleet.Prefix+"/"+idA)
	return etcd2.Is(err, etcd2.KeyNotFound)
}

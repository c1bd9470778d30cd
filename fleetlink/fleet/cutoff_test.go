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
)

// TestCutOffAtEachWrite ends the daemon at each write to etcd in turn, before it
// arrives or when its answer is on the way. A resume then leaves fleet as it was,
// and a drain goes on.
func TestCutOffAtEachWrite(t *testing.T) {
	e := startEtcd(t)
	for _, lost := range []string{"the write", "its answer"} {
		for n := int32(1); ; n++ {
			reached := false
			t.Run(fmt.Sprintf("%s, %d", lost, n), func(t *testing.T) {
				reached = testCutOffAt(t, e, n, lost == "its answer")
			})
			if !reached || t.Failed() {
				break
			}
		}
	}
}

func testCutOffAt(t *testing.T, e *etcdProcess, n int32, arrives bool) (reached bool) {
	f := startFleet(t, e, three())
	s := &scene{newCrew(t, f.options()), f}
	s.database()
	before := f.remains(t)
	ctx, cancel := context.WithTimeout(t.Context(), enough)
	defer cancel()
	var writes atomic.Int32
	behind, _ := url.Parse(e.url)
	proxy := httputil.NewSingleHostReverseProxy(behind)
	cut := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodGet || writes.Add(1) != n {
			proxy.ServeHTTP(rw, req)
			return
		}
		if arrives {
			proxy.ServeHTTP(httptest.NewRecorder(), req)
		}
		cancel()
		panic(http.ErrAbortHandler)
	}))
	defer cut.Close()
	o := s.o
	o.Etcd.Endpoints = []string{cut.URL}
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(l.Cordon(ctx, "a reboot"), l.Drain(ctx, fleetlink.Order{}))
	if writes.Load() < n {
		return false
	}
	if err == nil {
		t.Error("the daemon was cut off, and the drain ended well")
	}
	if n%2 == 0 {
		s.drain(fleetlink.Order{})
		if to := s.target("db.service"); to == idA || s.target("announce.service") != to {
			t.Errorf("after the drain went on db.service is on %s and its announcement on %s", to, s.target("announce.service"))
		}
	}
	s.resume()
	s.wanted(before)
	for _, name := range []string{"db.service", "announce.service", "logs.service"} {
		s.until(name+" runs", func() bool {
			states, _ := s.api.states(t.Context(), name, s.target(name))
			return len(states) == 1 && states[0].steady()
		})
	}
	return true
}

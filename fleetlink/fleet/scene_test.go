package fleet

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/fleetlink/fleet/etcd2"
	"github.com/drydock-os/drydock/fleetlink/fleet/fleettest"
)

// A scene is a fleet of three machines in one test.
type scene struct {
	*crew
	f *fleettest.Fleet
}

func (s *scene) within(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(s.Context(), d)
	s.Cleanup(cancel)
	return ctx
}

const enough = 150 * fleettest.Heartbeat

func (s *scene) cordon() *Link {
	s.Helper()
	l := s.open()
	if err := l.Cordon(s.within(enough), "a reboot"); err != nil {
		s.Fatal(err)
	}
	return l
}

func (s *scene) drain(o fleetlink.Order) {
	s.Helper()
	if err := s.cordon().Drain(s.within(enough), o); err != nil {
		s.Fatal(err)
	}
	if st, err := s.open().Standing(s.within(enough)); err != nil || !st.Drained() {
		s.Errorf("after the drain: %+v, %v", st, err)
	}
}

// unfinished drains until that is told of what is left, and for a while longer.
func (s *scene) unfinished(want string, d time.Duration) {
	s.Helper()
	ctx, cancel := context.WithCancel(s.within(enough))
	defer cancel()
	told, last := false, ""
	err := s.cordon().Drain(ctx, fleetlink.Order{Progress: func(left []fleetlink.Workload) {
		if last = fleetlink.Names(left); !told && strings.Contains(last, want) {
			told = true
			time.AfterFunc(d, cancel)
		}
	}})
	if u := (fleetlink.Unfinished{}); !told || !errors.As(err, &u) || !errors.Is(err, context.Canceled) {
		s.Fatalf("the drain was to tell of %q; at last it told of %s, and ended: %v", want, last, err)
	}
}

func (s *scene) resume() {
	s.Helper()
	for range 2 {
		if err := s.open().Resume(s.within(enough)); err != nil {
			s.Fatal(err)
		}
	}
	remains(s.f, s.T)
}

func (s *scene) held() []fleetlink.Workload {
	s.Helper()
	held, err := s.open().Preflight(s.within(enough))
	if err != nil {
		s.Fatal(err)
	}
	return held
}

func (s *scene) target(name string) string {
	n, _, err := s.f.Keys.Get(s.Context(), s.f.Key("job", name, "target"))
	if err != nil && !etcd2.Is(err, etcd2.KeyNotFound) {
		s.Fatal(err)
	}
	return n.Value
}

// An event is something that a unit did.
type event struct{ what, unit, machine string }

// before checks that one event came before another, both did.
func (s *scene) before(a, b event) {
	s.Helper()
	if i, j := s.when(a), s.when(b); i < 0 || j < 0 || i > j {
		s.Errorf("%v is to come before %v: %d, %d", a, b, i, j)
	}
}

// when is the place of an event among all; -1: it was not.
func (s *scene) when(want event) int {
	s.f.Lock()
	defer s.f.Unlock()
	return slices.IndexFunc(s.f.Events, func(e fleettest.Event) bool { return event{e.What, e.Unit, e.Machine} == want })
}

// wanted checks that the schedule wants the same of all units as before.
func (s *scene) wanted(before map[string]string) {
	s.Helper()
	after := remains(s.f, s.T)
	for _, all := range []map[string]string{before, after} {
		maps.DeleteFunc(all, func(k, _ string) bool { return strings.HasSuffix(k, "/target") })
	}
	if !maps.Equal(before, after) {
		s.Errorf("something of the drain is left in fleet:\nbefore %s\nafter %s", pretty(before), pretty(after))
	}
}

// during runs act once, when a unit is scheduled to another machine.
func (s *scene) during(name string, act func(to string)) (wait func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for s.Context().Err() == nil {
			if to := s.target(name); to != "" && to != idA {
				act(to)
				return
			}
			<-time.After(5 * time.Millisecond)
		}
	}()
	return func() { <-done }
}

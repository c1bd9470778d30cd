package fleetlink_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/fleetlink/linktest"
)

func TestMemory(t *testing.T) {
	linktest.Test(t, func(*testing.T) linktest.Cluster {
		s := &fleetlink.Memory{}
		s.On("b")
		return linktest.Cluster{
			Open:     func() fleetlink.Link { return s.On("a") },
			Place:    func(name string) string { s.Place("a", name); return name },
			Here:     func() []string { return s.Workloads("a") },
			Hold:     func(name string) func() { s.Hold(name, "its twin is down"); return func() { s.Hold(name, "") } },
			Bar:      func() func() { s.Bar("a", "its owner said so"); return func() { s.Bar("a", "") } },
			Closed:   func() bool { return s.Cordoned("a") },
			Claim:    func() { s.Claim("a", "ada", true) },
			Uncordon: func() { s.Uncordon("a") },
			Reboot:   func() {},
			Silence: func() func() {
				s.Silence(errors.New("connection refused"))
				return func() { s.Silence(nil) }
			},
			Pace: 100 * time.Millisecond,
		}
	})
}

// TestMemoryBringsBackWhatItTook: each workload goes where there is most room,
// and home again.
func TestMemoryBringsBackWhatItTook(t *testing.T) {
	ctx, s := context.Background(), &fleetlink.Memory{}
	s.Place("a", "web", "db")
	s.Place("b", "mail")
	s.Place("c")
	l := s.On("a")
	for range 2 {
		if err := errors.Join(l.Cordon(ctx, ""), l.Drain(ctx, fleetlink.Order{})); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := s.Abroad("a"), map[string]string{"web": "c", "db": "b"}; !maps.Equal(got, want) {
		t.Errorf("after the drain: %v, want %v", got, want)
	}
	if err := l.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	if got := s.Workloads("a"); !slices.Equal(got, []string{"web", "db"}) {
		t.Errorf("after the resume: %v", got)
	}
}

// TestUnfinishedNamesAFew: a sentence on five hundred workloads is still one.
func TestUnfinishedNamesAFew(t *testing.T) {
	left := []fleetlink.Workload{{Name: "db", Why: "its budget allows none"}}
	if got, want := fleetlink.List(left), "1 workload is still here: db (its budget allows none)"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		left = append(left, fleetlink.Workload{Name: name})
	}
	if got, want := fleetlink.List(left), "7 workloads are still here: db (its budget allows none), a, b, c, d and 2 more"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

package fleetlink

import (
	"context"
	"slices"
	"testing"
)

func TestMemoryBringsBackWhatItTook(t *testing.T) {
	ctx, s := context.Background(), &Memory{}
	s.Place("a", "web", "db")
	for range 2 { // each call may run twice
		if err := s.Drain(ctx, "a"); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.Workloads("a"); len(got) != 0 {
		t.Errorf("after the drain: %v", got)
	}
	if drained, _ := s.Drained(ctx, "a"); !drained {
		t.Error("not drained")
	}
	for range 2 {
		if err := s.Resume(ctx, "a"); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.Workloads("a"); !slices.Equal(got, []string{"web", "db"}) {
		t.Errorf("after resume: %v", got)
	}
}

func TestMemoryObstructed(t *testing.T) {
	ctx, s := context.Background(), &Memory{}
	s.Place("a", "db")
	s.Obstruct("a", "db has no second replica")
	if why, _ := s.Preflight(ctx, "a"); why == "" {
		t.Error("preflight sees nothing")
	}
	if err := s.Drain(ctx, "a"); err == nil {
		t.Error("drained against the obstacle")
	}
	if drained, _ := s.Drained(ctx, "a"); drained || len(s.Workloads("a")) != 1 {
		t.Error("a drain that failed moved work")
	}
}

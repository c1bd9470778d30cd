package nomad

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/fleetlink/nomad/nomadtest"
)

// TestDrainInTheMiddle: who drains the node while we do has it from then on, with a
// word or without; who gives it back has not.
func TestDrainInTheMiddle(t *testing.T) {
	words := nomadtest.Words{Accessor: "person", Meta: map[string]string{"message": "new disks"}}
	for name, c := range map[string]struct {
		then   func(s *nomadtest.Server)
		closed bool
	}{
		"with a word": {func(s *nomadtest.Server) {
			s.SetDrain(s.Node("a"), &nomadtest.Drain{Deadline: time.Hour}, false, words, time.Now())
		}, true},
		"without a word": {func(s *nomadtest.Server) {
			s.SetDrain(s.Node("a"), &nomadtest.Drain{Deadline: time.Hour}, false, nomadtest.Words{Accessor: "person"}, time.Now())
		}, true},
		"and given back": {func(s *nomadtest.Server) {
			s.SetDrain(s.Node("a"), &nomadtest.Drain{Deadline: time.Hour}, false, words, time.Now())
			s.SetDrain(s.Node("a"), nil, true, nomadtest.Words{Accessor: "person"}, time.Now())
		}, false},
		"given back": {func(s *nomadtest.Server) {
			s.SetDrain(s.Node("a"), nil, true, nomadtest.Words{Accessor: "person"}, time.Now())
		}, false},
		"by its own agent": {func(s *nomadtest.Server) {
			s.SetDrain(s.Node("a"), &nomadtest.Drain{Deadline: time.Hour}, false, nomadtest.Words{Accessor: s.Node("a").ID, Meta: map[string]string{"message": "shutting down"}}, time.Now())
		}, false},
	} {
		s, address := nomadtest.Open(t)
		release := s.Hold(s.Register(nomadtest.NewJob("service", "web", 1), "a").Name)
		r := &memory{}
		l := link(t, Options{Address: address}, r)
		done := make(chan error)
		go func() { done <- out(t, l, fleetlink.Order{}, 20*time.Second) }()
		until(t, "the node drains", func() bool { n := at(s); return n.DrainStrategy != nil })
		<-time.After(300 * time.Millisecond) // it is seen to
		s.Do(func() { c.then(s) })
		<-time.After(300 * time.Millisecond)
		if n := at(s); c.closed && (n.DrainStrategy == nil || n.DrainStrategy.Deadline != time.Hour) {
			t.Errorf("%s: their drain is now %+v", name, n.DrainStrategy)
		}
		release()
		if err := <-done; err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := link(t, Options{Address: address}, r).Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := at(s); n.Closed() != c.closed {
			t.Errorf("%s: closed is %v", name, n.Closed())
		}
	}
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 2000 {
		if ok() {
			return
		}
		<-time.After(5 * time.Millisecond)
	}
	t.Fatalf("never: %s", what)
}

// TestStillClosed: a node that gets no work after it was given back is told of, but
// not where somebody had closed it before.
func TestStillClosed(t *testing.T) {
	for name, c := range map[string]struct {
		before, between, after func(s *nomadtest.Server)
		want                   string
	}{
		"nothing":                   {},
		"closed by somebody before": {before: func(s *nomadtest.Server) { s.Node("a").SchedulingEligibility = "ineligible" }},
		"drained by somebody in between": {between: func(s *nomadtest.Server) {
			n := s.Node("a")
			s.SetDrain(n, &nomadtest.Drain{}, false, nomadtest.Words{Accessor: "person", Meta: map[string]string{"message": "new disks"}}, time.Now())
			s.Complete(n, time.Now())
		}, want: `somebody else drained it meanwhile, at `},
		"drained by another agent's word": {between: func(s *nomadtest.Server) {
			n := s.Node("a")
			s.SetDrain(n, &nomadtest.Drain{}, false, nomadtest.Words{Accessor: s.Node("b").ID, Meta: map[string]string{"message": "shutting down"}}, time.Now())
			s.Complete(n, time.Now())
		}, want: `("shutting down")`},
		"closed by somebody after": {after: func(s *nomadtest.Server) { s.Node("a").SchedulingEligibility = "ineligible" }, want: "it was made ineligible again"},
	} {
		s, address := nomadtest.Open(t)
		do := func(f func(*nomadtest.Server)) {
			if f != nil {
				s.Do(func() { f(s); s.Touch(s.Node("a")) })
			}
		}
		l := link(t, Options{Address: address}, &memory{})
		do(c.before)
		if err := out(t, l, fleetlink.Order{}, 5*time.Second); err != nil {
			t.Fatal(err)
		}
		do(c.between)
		if err := l.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		do(c.after)
		ails, err := l.Ailments(t.Context())
		if err != nil || (c.want == "") != (len(ails) == 0) || c.want != "" && (ails[0].Name != "node a" || !strings.Contains(ails[0].Why, c.want)) {
			t.Errorf("%s: %v, %v, want %q", name, ails, err, c.want)
		}
	}
}

// TestRefusedOnce: a server that has just come up does not know a token yet.
func TestRefusedOnce(t *testing.T) {
	s, address := nomadtest.Open(t)
	release := s.Hold(s.Register(nomadtest.NewJob("service", "web", 1), "a").Name)
	l := link(t, Options{Address: address}, &memory{})
	once := false
	err := out(t, l, fleetlink.Order{Progress: func(left []fleetlink.Workload) {
		if !once {
			once = true
			s.Denies.Store(4)
			s.Do(func() { s.Touch(s.Node("a")); s.TouchAlloc(s.Allocs[0]) }) // the watches are answered, and ask again
			release()
		}
	}}, 20*time.Second)
	if err != nil || s.Denies.Load() > 0 {
		t.Errorf("%v, and %d refusals are left", err, s.Denies.Load())
	}
}

// TestRefusedForGood: a drain ends long before its deadline when its token is refused
// again and again.
func TestRefusedForGood(t *testing.T) {
	s, address := nomadtest.Open(t)
	s.Hold(s.Register(nomadtest.NewJob("service", "web", 1), "a").Name)
	err := out(t, link(t, Options{Address: address}, &memory{}), fleetlink.Order{Progress: func(left []fleetlink.Workload) {
		s.Denies.Store(1000)
		s.Do(func() { s.Touch(s.Node("a")); s.TouchAlloc(s.Allocs[0]) })
	}}, 30*time.Second)
	if errors.Is(err, context.DeadlineExceeded) {
		t.Error("it was waited for until the end")
	}
	says(t, "refused for good", err, "ACL token not found")
}

// TestClocksApart: a drain with a deadline is told once, wherever Nomad's clock is.
func TestClocksApart(t *testing.T) {
	for _, off := range []time.Duration{-10 * time.Minute, 10 * time.Minute} {
		s, address := nomadtest.Open(t)
		s.Hold(s.Register(nomadtest.NewJob("service", "web", 1), "a").Name)
		l := link(t, Options{Address: address, EndAtDeadline: true, Now: func() time.Time { return time.Now().Add(off) }}, &memory{})
		says(t, "the drain", out(t, l, fleetlink.Order{Deadline: time.Now().Add(off + time.Hour)}, time.Second), "web.main[0]")
		if n := s.Puts.Load(); n != 2 { // the cordon, and the drain
			t.Errorf("%s off: %d writes", off, n)
		}
		if d := at(s).DrainStrategy; d == nil || (d.Deadline-58*time.Minute).Abs() > time.Minute {
			t.Errorf("%s off: %+v", off, d)
		}
	}
}

// TestMoved: services that left have to run elsewhere, as many of them as before,
// unless somebody wants something else by now.
func TestMoved(t *testing.T) {
	s, address := nomadtest.Open(t)
	j := nomadtest.NewJob("service", "web", 1)
	s.Register(j, "a")
	s.Do(func() {
		s.Nodes = append(s.Nodes, &nomadtest.Node{ID: "c0", Name: "c", Status: "ready", SchedulingEligibility: "ineligible"})
	})
	l := link(t, Options{Address: address}, &memory{})
	ails := func() string {
		t.Helper()
		ails, err := l.Ailments(t.Context())
		if err != nil {
			t.Error(err)
		}
		return fleetlink.Names(ails)
	}
	if err := l.Cordon(t.Context(), "test"); err != nil {
		t.Fatal(err)
	}
	s.Do(func() { s.Idle = true })
	if err := out(t, l, fleetlink.Order{}, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if got := ails(); got != "" {
		t.Errorf("before the resume, when it may be this machine that is missing: %s", got)
	}
	if err := l.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	const want = "web.main (some of it left this machine, and 0 of the 1 that ran before run healthily now)"
	if got := ails(); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	for name, change := range map[string]func(){
		"was stopped":     func() { j.Stop = true },
		"was changed":     func() { j.Version++ },
		"was scaled to 0": func() { j.TaskGroups[0].Count = 0 },
		"lost this group": func() { j.TaskGroups[0].Name = "other" },
		"was purged":      func() { s.Jobs = nil },
	} {
		was, group := *j, j.TaskGroups[0]
		s.Do(change)
		if got := ails(); got != "" {
			t.Errorf("the job %s, and: %s", name, got)
		}
		s.Do(func() { *j = was; j.TaskGroups[0] = group; s.Jobs = []*nomadtest.Job{j} })
	}
	sick := func(yes bool) {
		s.Do(func() {
			for _, a := range s.Allocs {
				a.Sick = yes
			}
		})
	}
	s.Do(func() { s.Place(j, s.Node("b"), 0) })
	sick(true)
	until(t, "it runs", func() bool { return len(s.Here("b")) == 1 })
	if got := ails(); got != want {
		t.Errorf("while it is not healthy: %s, want %s", got, want)
	}
	sick(false)
	until(t, "all is well", func() bool { return ails() == "" })
}

// TestDiskThatGoesAlong: the copy is made from this machine.
func TestDiskThatGoesAlong(t *testing.T) {
	s, address := nomadtest.Open(t)
	j := nomadtest.NewJob("service", "db", 1)
	j.TaskGroups[0].EphemeralDisk.Migrate = true
	s.Register(j, "a")
	s.Do(func() { s.Copies = true })
	r := &memory{}
	l := link(t, Options{Address: address}, r)
	var told []fleetlink.Workload
	progress := func(left []fleetlink.Workload) { told = append(told, left...) }
	says(t, "the drain", out(t, l, fleetlink.Order{Progress: progress}, time.Second), "db.main[0] (has left, and may still be copying")
	if here := s.Here("a"); len(here) > 0 || !slices.ContainsFunc(told, func(w fleetlink.Workload) bool { return strings.Contains(w.Why, "copying") }) {
		t.Errorf("here are %v, and progress %v", here, told)
	}
	again := link(t, Options{Address: address}, r)
	if standing, err := again.Standing(t.Context()); err != nil || standing.Drained() || len(standing.Left) != 1 {
		t.Errorf("standing %+v, %v", standing, err)
	}
	says(t, "the drain by force", again.Drain(within(t, time.Second), fleetlink.Order{Force: true}), "may still be copying")
	s.Do(func() { s.Copies = false })
	if err := again.Drain(within(t, 10*time.Second), fleetlink.Order{}); err != nil {
		t.Fatal(err)
	}
	if standing, err := again.Standing(t.Context()); err != nil || !standing.Drained() {
		t.Errorf("standing %+v, %v", standing, err)
	}
}

// TestPreflightNamesWhatIsIll: what would keep the machine from coming back.
func TestPreflightNamesWhatIsIll(t *testing.T) {
	s, address := nomadtest.Open(t)
	l := link(t, Options{Address: address}, &memory{})
	s.Do(func() {
		s.Node("a").Drivers["docker"] = nomadtest.Driver{Detected: true, HealthDescription: "cannot connect"}
	})
	s.Register(nomadtest.NewJob("system", "logs", 0), "")
	s.Do(func() { s.Idle = true; s.Place(s.Jobs[0], s.Node("a"), 0).Stuck = true })
	held, err := l.Preflight(t.Context())
	if got := fleetlink.Names(held); err != nil || got != "node a (its driver docker is not healthy: cannot connect), logs.main[0] (should run here, and is pending)" {
		t.Errorf("preflight %s, %v", got, err)
	}
}

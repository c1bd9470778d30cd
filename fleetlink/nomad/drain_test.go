package nomad

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/fleetlink/nomad/nomadtest"
)

// person drains node a as somebody does who knows nothing of us.
func person(s *nomadtest.Server, deadline time.Duration) {
	s.Do(func() {
		s.SetDrain(s.Node("a"), &nomadtest.Drain{Deadline: deadline}, false, nomadtest.Words{Accessor: "person", Meta: map[string]string{"message": "new disks"}}, time.Now())
	})
}

// at returns a copy of node a.
func at(s *nomadtest.Server) (n nomadtest.Node) {
	s.Do(func() { n = *s.Node("a") })
	return n
}

// TestForeignDrainStays: it is followed, not replaced, and not undone.
func TestForeignDrainStays(t *testing.T) {
	s, address := nomadtest.Open(t)
	release := s.Hold(s.Register(nomadtest.NewJob("service", "web", 1), "a").Name)
	person(s, time.Hour)
	l := link(t, Options{Address: address}, &memory{})
	says(t, "the drain", out(t, l, fleetlink.Order{}, 300*time.Millisecond), "web.main[0]")
	if n := at(s); n.LastDrain.Meta["message"] != "new disks" || n.DrainStrategy == nil || n.DrainStrategy.Deadline != time.Hour {
		t.Errorf("their drain is now %+v, %+v", n.DrainStrategy, n.LastDrain)
	}
	if err := l.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := at(s); n.DrainStrategy == nil || s.Puts.Load() != 0 {
		t.Errorf("their drain is now %+v, after %d writes of ours", n.DrainStrategy, s.Puts.Load())
	}
	release()
	if err := out(t, l, fleetlink.Order{}, 5*time.Second); err != nil {
		t.Error(err)
	}
	if err := l.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := at(s); !n.Closed() {
		t.Error("resume opened a node that somebody else had drained")
	}
}

// TestForceUnderAForeignDrain: what is left is ended one by one; their drain stays
// until Nomad calls it complete.
func TestForceUnderAForeignDrain(t *testing.T) {
	s, address := nomadtest.Open(t)
	s.Hold(s.Register(nomadtest.NewJob("service", "web", 1), "a").Name)
	person(s, 0)
	l := link(t, Options{Address: address}, &memory{})
	if err := out(t, l, fleetlink.Order{Force: true}, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if here := s.Here("a"); len(here) > 0 {
		t.Errorf("%v are here", here)
	}
	if err := l.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := at(s); !n.Closed() {
		t.Error("resume opened a node that somebody else had drained")
	}
}

// TestDrainOnTopOfOurs: who drains a node that we have drained has it from then on.
func TestDrainOnTopOfOurs(t *testing.T) {
	s, address := nomadtest.Open(t)
	l := link(t, Options{Address: address}, &memory{})
	if err := out(t, l, fleetlink.Order{}, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	person(s, 0)
	for at(s).DrainStrategy != nil {
		<-time.After(time.Millisecond)
	}
	if err := l.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := at(s); !n.Closed() {
		t.Error("resume opened a node that somebody else has drained")
	}
}

// TestAgentThatDrainsItself: with drain_on_shutdown, the agent sets a drain of its
// own when the machine goes down, which leaves the node ineligible, or draining
// where the agent was killed over it. The machine went down because of us.
func TestAgentThatDrainsItself(t *testing.T) {
	for _, killed := range []bool{false, true} {
		s, address := nomadtest.Open(t)
		l := link(t, Options{Address: address}, &memory{})
		if err := out(t, l, fleetlink.Order{}, 5*time.Second); err != nil {
			t.Fatal(err)
		}
		s.Do(func() {
			n := s.Node("a")
			s.SetDrain(n, &nomadtest.Drain{}, false, nomadtest.Words{Accessor: n.ID, Meta: map[string]string{"message": "shutting down"}}, time.Now())
			if !killed {
				s.Complete(n, time.Now())
			}
		})
		if standing, err := l.Standing(t.Context()); err != nil || !standing.Ours || standing.Open {
			t.Errorf("standing %+v, %v", standing, err)
		}
		if err := l.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := at(s); n.Closed() || n.DrainStrategy != nil {
			t.Errorf("killed is %v, after the resume: %+v", killed, n)
		}
		if ails, err := l.Ailments(t.Context()); err != nil || len(ails) != 0 {
			t.Errorf("killed is %v, after the resume: %v, %v", killed, ails, err)
		}
	}
}

// TestWordsOfADrain: who looks at the node sees who drains it, and why.
func TestWordsOfADrain(t *testing.T) {
	s, address := nomadtest.Open(t)
	if err := out(t, link(t, Options{Address: address}, &memory{}), fleetlink.Order{}, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if d := at(s).LastDrain; d.Status != "complete" || d.Meta["message"] != "test" || d.Meta[metaMachine] != machine.ID {
		t.Errorf("last drain %+v", d)
	}
}

// TestRecordLost: a drain under way has our name; one that is over says nothing of
// who has the node now.
func TestRecordLost(t *testing.T) {
	s, address := nomadtest.Open(t)
	release := s.Hold(s.Register(nomadtest.NewJob("service", "web", 1), "a").Name)
	l := link(t, Options{Address: address}, &memory{})
	says(t, "the drain", out(t, l, fleetlink.Order{}, 200*time.Millisecond), "web.main[0]")
	lost := link(t, Options{Address: address}, &memory{})
	if standing, err := lost.Standing(t.Context()); err != nil || !standing.Ours {
		t.Fatalf("standing %+v, %v", standing, err)
	}
	if err := lost.Resume(t.Context()); err != nil || at(s).Closed() {
		t.Fatalf("not resumed: %v", err)
	}
	release()
	if err := out(t, link(t, Options{Address: address}, &memory{}), fleetlink.Order{}, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	lost = link(t, Options{Address: address}, &memory{})
	if standing, err := lost.Standing(t.Context()); err != nil || standing.Ours {
		t.Errorf("standing %+v, %v", standing, err)
	}
	for name, ask := range map[string]func(context.Context) ([]fleetlink.Workload, error){"preflight": lost.Preflight, "ailments": lost.Ailments} {
		if ws, err := ask(t.Context()); err != nil || len(ws) != 1 || !strings.Contains(ws[0].Why, "what was written down of that is lost") {
			t.Errorf("%s: %v, %v", name, ws, err)
		}
	}
	if err := lost.Resume(t.Context()); err != nil || !at(s).Closed() {
		t.Errorf("a node that nobody knows to be ours was opened: %v", err)
	}
}

// TestNodeOfOldDrain: after Resume our name is still on the last drain. A cordon
// that somebody sets then is theirs.
func TestNodeOfOldDrain(t *testing.T) {
	s, address := nomadtest.Open(t)
	l := link(t, Options{Address: address}, &memory{})
	if err := out(t, l, fleetlink.Order{}, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := l.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.Do(func() { s.Node("a").SchedulingEligibility = "ineligible"; s.Touch(s.Node("a")) })
	if standing, err := l.Standing(t.Context()); err != nil || standing.Ours {
		t.Errorf("standing %+v, %v", standing, err)
	}
	if err := out(t, l, fleetlink.Order{}, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := l.Resume(t.Context()); err != nil || !at(s).Closed() {
		t.Errorf("their cordon was taken off: %v", err)
	}
}

// TestBatch: a batch job runs until it ends; with a deadline, no longer than that,
// and well before the policy gives up.
func TestBatch(t *testing.T) {
	s, address := nomadtest.Open(t)
	s.Register(nomadtest.NewJob("batch", "report", 1), "a")
	l := link(t, Options{Address: address}, &memory{})
	if held, err := l.Preflight(t.Context()); err != nil || len(held) != 1 || !strings.Contains(held[0].Why, "a batch job: runs until it ends") {
		t.Errorf("preflight %v, %v", held, err)
	}
	var told []fleetlink.Workload
	progress := func(left []fleetlink.Workload) { told = append(told, left...) }
	says(t, "the drain", out(t, l, fleetlink.Order{Deadline: time.Now().Add(time.Second), Progress: progress}, 300*time.Millisecond), "report.main[0] (a batch job: runs until it ends)")
	if !slices.Contains(told, fleetlink.Workload{Name: "report.main[0]", Why: "a batch job: runs until it ends"}) {
		t.Errorf("progress %v", told)
	}
	if d := at(s).DrainStrategy; d == nil || d.Deadline != 0 {
		t.Errorf("Nomad was told of a deadline: %+v", d)
	}
	l = link(t, Options{Address: address, EndAtDeadline: true}, &memory{})
	if held, err := l.Preflight(t.Context()); err != nil || len(held) != 0 {
		t.Errorf("preflight with a deadline: %v, %v", held, err)
	}
	told = nil
	if err := out(t, l, fleetlink.Order{Deadline: time.Now().Add(time.Second), Progress: progress}, time.Second); err != nil {
		t.Error(err)
	}
	if !slices.ContainsFunc(told, func(w fleetlink.Workload) bool { return strings.Contains(w.Why, "and no longer than") }) {
		t.Errorf("progress with a deadline: %v", told)
	}
}

func TestDeadlines(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	// ours is a drain that was told of a deadline of the order; Nomad's clock has none
	// of it to do with ours.
	ours := func(deadline time.Duration, until time.Time) sight {
		return sight{node: node{DrainStrategy: &drainStrategy{drainSpec{Deadline: deadline}, until.AddDate(3, 0, 0)},
			LastDrain: &lastDrain{Meta: map[string]string{metaMachine: machine.ID, metaOrder: "1", metaUntil: until.UTC().Format(time.RFC3339Nano)}}}}
	}
	in := func(d time.Duration) fleetlink.Order { return fleetlink.Order{Deadline: at.Add(d)} }
	force := fleetlink.Order{Force: true, Deadline: at.Add(time.Minute)}
	for name, c := range map[string]struct {
		end   bool
		order fleetlink.Order
		has   sight
		want  time.Duration // 1<<62: nothing is told
	}{
		"none":               {false, in(time.Hour), sight{}, 0},
		"an hour":            {true, in(time.Hour), sight{}, 58 * time.Minute},
		"a minute":           {true, in(time.Minute), sight{}, 45 * time.Second},
		"past":               {true, in(-time.Minute), sight{}, 1},
		"never":              {true, fleetlink.Order{}, sight{}, 0},
		"as it is":           {true, in(time.Hour), ours(58*time.Minute, at.Add(time.Hour)), 1 << 62},
		"the end is near":    {true, in(time.Second), ours(58*time.Minute, at.Add(time.Second)), 1 << 62},
		"it is past":         {true, in(-time.Minute), ours(58*time.Minute, at.Add(-time.Minute)), 1 << 62},
		"too late":           {true, in(time.Hour), ours(2*time.Hour, at.Add(2*time.Hour)), 58 * time.Minute},
		"another":            {true, in(2 * time.Hour), ours(58*time.Minute, at.Add(time.Hour)), 118 * time.Minute},
		"none any more":      {false, in(time.Hour), ours(time.Hour, at.Add(time.Hour)), 0},
		"none as it is":      {false, in(time.Hour), ours(0, time.Time{}), 1 << 62},
		"force":              {true, force, ours(58*time.Minute, at.Add(time.Minute)), -1},
		"force as it is":     {true, force, ours(-1, time.Time{}), 1 << 62},
		"no force any more":  {false, in(time.Hour), ours(-1, time.Time{}), 0},
		"a cordon before it": {false, in(time.Hour), sight{node: node{SchedulingEligibility: ineligible}}, 0},
	} {
		l := &Link{options: Options{EndAtDeadline: c.end}, machine: machine}
		d := &draining{Link: l, mark: &mark{Order: "1"}, order: c.order}
		got := time.Duration(1 << 62)
		if spec := d.wants(c.has, at); spec != nil {
			got = spec.Deadline
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// TestSystemJobs: they are stopped last and owed afterwards, or left alone.
func TestSystemJobs(t *testing.T) {
	for _, ignore := range []bool{false, true} {
		s, address := nomadtest.Open(t)
		s.Register(nomadtest.NewJob("system", "logs", 0), "a")
		l := link(t, Options{Address: address, IgnoreSystemJobs: ignore}, &memory{})
		if held, err := l.Preflight(t.Context()); err != nil || len(held) != 0 {
			t.Errorf("preflight %v, %v", held, err)
		}
		if err := out(t, l, fleetlink.Order{}, 5*time.Second); err != nil {
			t.Fatal(err)
		}
		if here := s.Here("a"); ignore != (len(here) == 1) {
			t.Errorf("ignored is %v, here are %v", ignore, here)
		}
		if ails, err := l.Ailments(t.Context()); err != nil || len(ails) != 0 {
			t.Errorf("before the resume: %v, %v", ails, err)
		}
		s.Do(func() { s.Idle = true })
		if err := l.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		if ails, err := l.Ailments(t.Context()); err != nil || ignore != (len(ails) == 0) {
			t.Errorf("ignored is %v, after the resume: %v, %v", ignore, ails, err)
		}
		s.Do(func() { s.Idle = false })
		for range 200 {
			if ails, err := l.Ailments(t.Context()); err == nil && len(ails) == 0 {
				break
			}
			<-time.After(5 * time.Millisecond)
		}
		if ails, err := l.Ailments(t.Context()); err != nil || len(ails) != 0 {
			t.Errorf("after the resume: %v, %v", ails, err)
		}
	}
}

// TestOwed: a system job that ran here, and is not started again, is named, until
// it is not wanted any more.
func TestOwed(t *testing.T) {
	s, address := nomadtest.Open(t)
	agent := nomadtest.NewJob("system", "logs", 0)
	s.Register(agent, "a")
	l := link(t, Options{Address: address}, &memory{})
	if err := out(t, l, fleetlink.Order{}, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	s.Do(func() { s.Idle = true })
	if err := l.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	ails, err := l.Ailments(t.Context())
	if err != nil || len(ails) != 1 || ails[0].Name != "logs.main" || !strings.Contains(ails[0].Why, "not started it again") {
		t.Errorf("ailments %v, %v", ails, err)
	}
	for name, change := range map[string]func(){
		"was stopped":     func() { agent.Stop = true },
		"went elsewhere":  func() { agent.Stop, agent.Datacenters = false, []string{"dc9"} },
		"was purged":      func() { s.Jobs = nil },
		"lost this group": func() { s.Jobs, agent.Datacenters, agent.TaskGroups[0].Name = []*nomadtest.Job{agent}, nil, "other" },
	} {
		was, group := *agent, agent.TaskGroups[0]
		s.Do(change)
		if ails, err := l.Ailments(t.Context()); err != nil || len(ails) != 0 {
			t.Errorf("ailments %v of a job that %s, %v", ails, name, err)
		}
		s.Do(func() { *agent = was; agent.TaskGroups[0] = group; s.Jobs = []*nomadtest.Job{agent} })
	}
}

func TestAilments(t *testing.T) {
	s, address := nomadtest.Open(t)
	l := link(t, Options{Address: address}, &memory{})
	if err := out(t, l, fleetlink.Order{}, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	docker := func(d map[string]nomadtest.Driver) func(n *nomadtest.Node) {
		return func(n *nomadtest.Node) { n.Drivers = d }
	}
	for want, change := range map[string]func(n *nomadtest.Node){
		"is down: no heartbeats":                           func(n *nomadtest.Node) { n.Status, n.StatusDescription = "down", "no heartbeats" },
		"is initializing":                                  func(n *nomadtest.Node) { n.Status = "initializing" },
		"its agent does not answer":                        func(n *nomadtest.Node) { n.Mute = true },
		"driver docker is not healthy: cannot connect":     docker(map[string]nomadtest.Driver{"docker": {Detected: true, HealthDescription: "cannot connect"}}),
		"driver docker is not healthy: it is not found":    docker(map[string]nomadtest.Driver{"docker": {}}),
		"its driver docker is not healthy: it is not foun": docker(nil),
	} {
		was := at(s)
		s.Do(func() { change(s.Node("a")) })
		ails, err := l.Ailments(t.Context())
		if err != nil || len(ails) != 1 || ails[0].Name != "node a" || !strings.Contains(ails[0].Why, want) {
			t.Errorf("%v, %v; want %q", ails, err, want)
		}
		s.Do(func() { *s.Node("a") = was })
	}
	if ails, err := l.Ailments(t.Context()); err != nil || len(ails) != 0 {
		t.Errorf("%v, %v of a node that is well", ails, err)
	}
}

func only(left, right, operand string) []nomadtest.Constraint {
	return []nomadtest.Constraint{{LTarget: left, RTarget: right, Operand: operand}}
}

func TestPreflight(t *testing.T) {
	s, address := nomadtest.Open(t)
	l := link(t, Options{Address: address}, &memory{})
	j := nomadtest.NewJob("service", "web", 1)
	s.Register(j, "a")
	plain, _ := json.Marshal(j)
	for name, c := range map[string]struct {
		change func()
		want   string
	}{
		"nothing":                {func() {}, ""},
		"this node's name":       {func() { j.Constraints = only("${attr.unique.hostname}", "a", "=") }, "bound to this machine by a constraint on ${attr.unique.hostname}"},
		"not this node's name":   {func() { j.Constraints = only("${node.unique.name}", "a", "!=") }, ""},
		"not the other's":        {func() { j.Constraints = only("${node.unique.name}", "b", "!=") }, "no other node"},
		"another class":          {func() { j.Constraints = only("${node.class}", "gpu", "=") }, "no other node"},
		"an unknown attribute":   {func() { j.Constraints = only("${attr.cpu.arch}", "amd64", "=") }, ""},
		"another datacenter":     {func() { j.Datacenters = []string{"dc2", "dc3"} }, "no other node"},
		"this datacenter":        {func() { j.Datacenters = []string{"dc*"} }, ""},
		"another pool":           {func() { j.NodePool = "gpu" }, "no other node"},
		"all pools":              {func() { j.NodePool = "all" }, ""},
		"another driver":         {func() { j.TaskGroups[0].Tasks[0].Driver = "java" }, "no other node"},
		"the other is full":      {func() { s.Node("b").SchedulingEligibility = "ineligible" }, "no other node that suits it (0 are ready and eligible)"},
		"the other is down":      {func() { s.Node("b").Status = "down" }, "no other node"},
		"two, of which one ails": {func() { j.TaskGroups[0].Count = 2; j.Stop = true }, "1 of the 2 in its group are healthy, and no more than 1 may be away"},
	} {
		s.Do(c.change)
		held, err := l.Preflight(t.Context())
		switch {
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want == "" && len(held) > 0, c.want != "" && (len(held) != 1 || held[0].Name != "web.main[0]" || !strings.Contains(held[0].Why, c.want)):
			t.Errorf("%s: %v, want %q", name, held, c.want)
		}
		s.Do(func() {
			*j = nomadtest.Job{}
			_ = json.Unmarshal(plain, j)
			s.Node("b").SchedulingEligibility, s.Node("b").Status = "eligible", "ready"
		})
	}
}

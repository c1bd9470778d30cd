package nomadtest

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// A Cluster is the state machine of Nomad's nodes, jobs and allocations, as far
// as a drain goes: a model of nomad/drainer (watch_jobs.go: handleTaskGroup,
// draining_node.go: IsDone and RemainingAllocs, drainer.go: handleDeadlinedNodes,
// handleMigratedAllocs), nomad/state/state_store.go (updateNodeDrainImpl,
// UpdateNodeEligibility), nomad/node_endpoint.go and the scheduler's
// computeMigrations. Raft, evaluations and batching are not modelled: a tick does
// at once what they do within seconds. Real Nomads differ in that, and in what
// their scheduler makes of room.
type Cluster struct {
	// What follows is read and changed in Do alone.
	Index  uint64 // of the last change
	Nodes  []*Node
	Jobs   []*Job
	Allocs []*Alloc
	Idle   bool // nothing is placed
	Lies   bool // a drain is called complete at once, and nothing ends
	Copies bool // what goes along with an allocation is on its way

	mu      sync.Mutex
	allocsI uint64 // of the last change of an allocation
	changed chan struct{}
	serial  int
	events  []Event
}

// An Event is something that a cluster did, or had done to it: "node a is
// ineligible", "web.main[0] has ended on a".
type Event struct {
	At   time.Time
	What string
}

// ending is how long a task takes to end.
const ending = 10 * time.Millisecond

func now() time.Time { return time.Now() }

// newCluster has the two nodes a, this machine, and b.
func newCluster(t testing.TB) *Cluster {
	c := &Cluster{Index: 10, allocsI: 9, changed: make(chan struct{})}
	for _, name := range []string{"a", "b"} {
		c.Nodes = append(c.Nodes, &Node{ID: fmt.Sprintf("%s0000000-1111-2222-3333-444444444444", name), Name: name, Datacenter: "dc1", NodePool: "default",
			Status: "ready", SchedulingEligibility: "eligible", Attributes: map[string]string{"unique.hostname": name},
			Drivers: map[string]Driver{"docker": {Detected: true, Healthy: true}, "java": {}}, ModifyIndex: 10})
	}
	var ticks sync.WaitGroup
	stop := make(chan struct{})
	ticks.Go(func() {
		tick := time.NewTicker(3 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				c.Do(func() { c.tick(now()) })
			}
		}
	})
	t.Cleanup(func() { close(stop); ticks.Wait() })
	return c
}

// Do reads or changes the cluster, while nobody else does.
func (c *Cluster) Do(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.Index
	if change(); c.Index != before {
		close(c.changed)
		c.changed = make(chan struct{})
	}
}

// Node finds a node by ID or name; nil if there is none.
func (c *Cluster) Node(id string) *Node {
	for _, n := range c.Nodes {
		if n.ID == id || n.Name == id {
			return n
		}
	}
	return nil
}

// Touch notes that a node has changed.
func (c *Cluster) Touch(n *Node) { c.Index++; n.ModifyIndex = c.Index }

// TouchAlloc notes that an allocation has changed.
func (c *Cluster) TouchAlloc(a *Alloc) {
	c.Index++
	a.ModifyIndex, c.allocsI = c.Index, c.Index
}

// On lists the allocations of a node, by its ID.
func (c *Cluster) On(id string) (as []*Alloc) {
	for _, a := range c.Allocs {
		if a.NodeID == id {
			as = append(as, a)
		}
	}
	return as
}

// Register enters a job of one group, and places its first allocation on a node.
func (c *Cluster) Register(j *Job, on string) *Alloc {
	var a *Alloc
	c.Do(func() {
		c.Index++
		c.Jobs = append(c.Jobs, j)
		if on != "" {
			a = c.Place(j, c.Node(on), 0)
			a.ClientStatus = "running"
			a.DeploymentStatus = &Health{new(true)}
		}
	})
	return a
}

// NewJob is a job of one group.
func NewJob(kind, id string, count int) *Job {
	j := &Job{ID: id, Namespace: "default", Type: kind, NodePool: "default", Datacenters: []string{"*"},
		TaskGroups: []Group{{Name: "main", Count: count, Tasks: []Task{{Name: "main", Driver: "docker"}}}}}
	if kind == "service" {
		j.TaskGroups[0].Migrate = &Migrate{1}
	}
	return j
}

// Place adds an allocation of a job to a node.
func (c *Cluster) Place(j *Job, n *Node, number int) *Alloc {
	c.serial++
	g := j.TaskGroups[0].Name
	a := &Alloc{ID: fmt.Sprintf("%08d-aaaa-bbbb-cccc-dddddddddddd", c.serial), Name: fmt.Sprintf("%s.%s[%d]", j.ID, g, number), Namespace: j.Namespace,
		JobID: j.ID, JobType: j.Type, TaskGroup: g, NodeID: n.ID, DesiredStatus: "run", ClientStatus: "pending", Job: j, JobVersion: j.Version}
	for _, old := range c.Allocs { // the one that it takes over from
		if old.Job == j && old.Name == a.Name && old.DesiredTransition.Migrate != nil && old.NextAllocation == "" {
			old.NextAllocation = a.ID
		}
	}
	c.Allocs = append(c.Allocs, a)
	c.TouchAlloc(a)
	return a
}

// tick has the clients, the drainer and the scheduler do what they have to.
func (c *Cluster) tick(now time.Time) {
	for _, a := range c.Allocs {
		c.client(a, now)
	}
	for _, n := range c.Nodes {
		if n.DrainStrategy != nil {
			c.drain(n, now)
		}
	}
	for _, a := range slices.Clone(c.Allocs) {
		if a.DesiredTransition.Migrate != nil && a.DesiredStatus == "run" && !a.clientTerminal() && !c.Lies {
			c.stop(a, now)
		}
	}
	for _, j := range c.Jobs {
		if !c.Idle {
			c.schedule(j)
		}
	}
}

func (c *Cluster) stop(a *Alloc, now time.Time) {
	a.DesiredStatus, a.endsAt = "stop", now.Add(ending)
	c.TouchAlloc(a)
}

func (c *Cluster) client(a *Alloc, now time.Time) {
	switch {
	case c.Node(a.NodeID) == nil || c.Node(a.NodeID).Status != "ready" || a.clientTerminal():
	case a.DesiredStatus != "run":
		if now.After(a.endsAt) && !a.Stuck {
			a.ClientStatus = "complete"
			c.say("%s has ended on %s", a.Name, c.Node(a.NodeID).Name)
			c.TouchAlloc(a)
		}
	case a.ClientStatus == "pending" && c.Copies && a.Job.TaskGroups[0].EphemeralDisk.Migrate:
	case a.ClientStatus == "pending" && !a.Stuck:
		a.ClientStatus = "running"
		c.say("%s runs on %s", a.Name, c.Node(a.NodeID).Name)
		c.TouchAlloc(a)
	case a.ClientStatus == "running" && a.DeploymentStatus == nil && !a.Sick && a.JobType == "service":
		a.DeploymentStatus = &Health{new(true)}
		c.TouchAlloc(a)
	}
}

// drain is Nomad's drainer.
func (c *Cluster) drain(n *Node, now time.Time) {
	d := n.DrainStrategy
	if c.Lies || d.Deadline < 0 || !d.ForceDeadline.IsZero() && now.After(d.ForceDeadline) {
		c.migrate(c.remaining(n))
		c.Complete(n, now)
		return
	}
	for _, j := range c.Jobs {
		if j.Type == "service" {
			c.migrate(c.drainable(n, j))
		}
	}
	for _, a := range c.On(n.ID) {
		if a.JobType != "system" && !a.clientTerminal() {
			return
		}
	}
	c.migrate(c.remaining(n))
	c.Complete(n, now)
}

func (c *Cluster) remaining(n *Node) (as []*Alloc) {
	for _, a := range c.On(n.ID) {
		if !a.terminal() && !(a.JobType == "system" && n.DrainStrategy.IgnoreSystemJobs) {
			as = append(as, a)
		}
	}
	return as
}

func (c *Cluster) drainable(n *Node, j *Job) (as []*Alloc) {
	healthy := 0
	for _, a := range c.Allocs {
		if a.Job != j || a.terminal() {
			continue
		}
		if a.DeploymentStatus != nil && a.DeploymentStatus.Healthy != nil {
			healthy++
		}
		if a.NodeID == n.ID && a.DesiredTransition.Migrate == nil {
			as = append(as, a)
		}
	}
	g := j.TaskGroups[0]
	return as[:max(min(len(as), healthy-(g.Count-g.Migrate.MaxParallel)), 0)]
}

func (c *Cluster) migrate(as []*Alloc) {
	for _, a := range as {
		a.DesiredTransition.Migrate = new(true)
		c.TouchAlloc(a)
	}
}

// Complete ends a node's drain.
func (c *Cluster) Complete(n *Node, now time.Time) {
	c.say("the drain of %s is complete", n.Name)
	n.DrainStrategy = nil
	n.LastDrain.Status, n.LastDrain.UpdatedAt = "complete", now.Truncate(time.Second)
	c.Touch(n)
}

// schedule places what is missing of a job.
func (c *Cluster) schedule(j *Job) {
	has := map[string]int{}
	all := 0
	used := map[string]bool{}
	for _, a := range c.Allocs {
		if a.Job == j && !a.terminal() {
			has[a.NodeID]++
			used[a.Name] = true
			all++
		}
	}
	for _, n := range c.Nodes {
		if n.Status != "ready" || n.SchedulingEligibility != "eligible" || j.Stop {
			continue
		}
		switch {
		case j.Type == "system" && has[n.ID] == 0:
			c.Place(j, n, 0)
		case len(j.Constraints) > 0 && j.Constraints[0].Operand == "distinct_hosts" && has[n.ID] > 0:
		case j.Type == "service" && all < j.TaskGroups[0].Count:
			number := 0
			for used[fmt.Sprintf("%s.%s[%d]", j.ID, j.TaskGroups[0].Name, number)] {
				number++
			}
			c.Place(j, n, number)
			return
		}
	}
}

// Words are who asks for a drain, and why.
type Words struct {
	Accessor string // of the token; the node's ID where it asks itself; "" without ACLs
	Meta     map[string]string
}

// SetDrain is Node.UpdateDrain.
func (c *Cluster) SetDrain(n *Node, spec *Drain, open bool, w Words, now time.Time) {
	had := n.DrainStrategy
	if spec != nil {
		spec.StartedAt = now
		if had != nil {
			spec.StartedAt = had.StartedAt
		}
		if spec.Deadline > 0 {
			spec.ForceDeadline = now.Add(spec.Deadline)
		}
	}
	n.DrainStrategy = spec
	if spec != nil {
		c.say("node %s drains", n.Name)
		c.setEligibility(n, "ineligible")
	} else if open {
		c.setEligibility(n, "eligible")
	}
	if had != nil || spec != nil {
		last := LastDrain{}
		if n.LastDrain != nil {
			last = *n.LastDrain
		}
		if had == nil {
			last = LastDrain{StartedAt: now.Truncate(time.Second)}
		}
		if w.Accessor != "" {
			last.AccessorID = w.Accessor
		}
		if len(w.Meta) > 0 {
			last.Meta = w.Meta
		}
		last.UpdatedAt, last.Status = now.Truncate(time.Second), "canceled"
		if spec != nil {
			last.Status = "draining"
		}
		n.LastDrain = &last
	}
	c.Touch(n)
}

// setEligibility is Node.UpdateEligibility, and reports whether it changed.
func (c *Cluster) setEligibility(n *Node, to string) bool {
	if n.SchedulingEligibility == to {
		return false
	}
	n.SchedulingEligibility = to
	c.say("node %s is %s", n.Name, to)
	return true
}

func (c *Cluster) say(format string, args ...any) {
	c.events = append(c.events, Event{now(), fmt.Sprintf(format, args...)})
}

// Events lists what was done so far.
func (c *Cluster) Events() []Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.events)
}

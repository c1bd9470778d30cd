package nomad

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// A cluster is the state machine of Nomad's nodes, jobs and allocations, as far
// as a drain goes: a model of nomad/drainer (watch_jobs.go: handleTaskGroup,
// draining_node.go: IsDone and RemainingAllocs, drainer.go: handleDeadlinedNodes,
// handleMigratedAllocs), nomad/state/state_store.go (updateNodeDrainImpl,
// UpdateNodeEligibility), nomad/node_endpoint.go and the scheduler's
// computeMigrations. Raft, evaluations and batching are not modelled: a tick does
// at once what they do within seconds. Real Nomads differ in that, and in what
// their scheduler makes of room.
type cluster struct {
	mu      sync.Mutex
	index   uint64 // of the last change
	allocsI uint64 // of the last change of an allocation
	changed chan struct{}
	nodes   []*simNode
	jobs    []*simJob
	allocs  []*simAlloc
	serial  int
	ending  time.Duration // that a task takes to end
	idle    bool          // nothing is placed
	lies    bool          // a drain is called complete at once, and nothing ends
	copies  bool          // what goes along with an allocation is on its way
}

type simDrain struct {
	Deadline         time.Duration
	IgnoreSystemJobs bool
	ForceDeadline    time.Time
	StartedAt        time.Time
}

type simLast struct {
	StartedAt, UpdatedAt time.Time
	Status, AccessorID   string
	Meta                 map[string]string
}

type simDriver struct {
	Detected, Healthy bool
	HealthDescription string
}

type simNode struct {
	ID, Name, Datacenter, NodePool, Status, StatusDescription, SchedulingEligibility string

	Attributes    map[string]string
	Drivers       map[string]simDriver
	DrainStrategy *simDrain
	LastDrain     *simLast
	ModifyIndex   uint64
	mute          bool // its agent does not answer
}

func (n simNode) closed() bool { return n.SchedulingEligibility != "eligible" }

type simMigrate struct{ MaxParallel int }

type simTask struct{ Name, Driver string }

type simConstraint struct{ LTarget, RTarget, Operand string }

type simGroup struct {
	Name    string
	Count   int
	Migrate *simMigrate `json:",omitempty"`
	Tasks   []simTask

	EphemeralDisk struct{ Migrate bool }
}

type simJob struct {
	ID, Namespace, Type, NodePool string
	Datacenters                   []string
	Constraints, Affinities       []simConstraint
	Stop                          bool
	Version                       uint64
	TaskGroups                    []simGroup
}

type simHealth struct{ Healthy *bool }

type simTransition struct {
	Migrate *bool `json:",omitempty"`
}

type simAlloc struct {
	ID, Name, Namespace, JobID, JobType, TaskGroup, NodeID string
	DesiredStatus, ClientStatus, NextAllocation            string
	JobVersion                                             uint64
	DesiredTransition                                      simTransition
	DeploymentStatus                                       *simHealth `json:",omitempty"`
	Job                                                    *simJob
	ModifyIndex                                            uint64
	endsAt                                                 time.Time
	sick                                                   bool // never gets healthy
	stuck                                                  bool // does not end
}

func (a *simAlloc) clientTerminal() bool {
	return a.ClientStatus == "complete" || a.ClientStatus == "failed" || a.ClientStatus == "lost"
}

func (a *simAlloc) terminal() bool { return a.DesiredStatus != "run" || a.clientTerminal() }

// newCluster has the two nodes a, this machine, and b.
func newCluster(t *testing.T) *cluster {
	c := &cluster{index: 10, allocsI: 9, changed: make(chan struct{}), ending: 10 * time.Millisecond}
	for _, name := range []string{"a", "b"} {
		c.nodes = append(c.nodes, &simNode{ID: fmt.Sprintf("%s0000000-1111-2222-3333-444444444444", name), Name: name, Datacenter: "dc1", NodePool: "default",
			Status: "ready", SchedulingEligibility: "eligible", Attributes: map[string]string{"unique.hostname": name},
			Drivers: map[string]simDriver{"docker": {Detected: true, Healthy: true}, "java": {}}, ModifyIndex: 10})
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
				c.do(func() { c.tick(time.Now()) })
			}
		}
	})
	t.Cleanup(func() { close(stop); ticks.Wait() })
	return c
}

// do changes the cluster.
func (c *cluster) do(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.index
	if change(); c.index != before {
		close(c.changed)
		c.changed = make(chan struct{})
	}
}

func (c *cluster) node(id string) *simNode {
	for _, n := range c.nodes {
		if n.ID == id || n.Name == id {
			return n
		}
	}
	return nil
}

func (c *cluster) touch(n *simNode) { c.index++; n.ModifyIndex = c.index }

func (c *cluster) touchAlloc(a *simAlloc) {
	c.index++
	a.ModifyIndex, c.allocsI = c.index, c.index
}

func (c *cluster) on(id string) (as []*simAlloc) {
	for _, a := range c.allocs {
		if a.NodeID == id {
			as = append(as, a)
		}
	}
	return as
}

// register enters a job of one group, and places its first allocation on a node.
func (c *cluster) register(j *simJob, on string) *simAlloc {
	var a *simAlloc
	c.do(func() {
		c.index++
		c.jobs = append(c.jobs, j)
		if on != "" {
			a = c.place(j, c.node(on), 0)
			a.ClientStatus = "running"
			a.DeploymentStatus = &simHealth{new(true)}
		}
	})
	return a
}

// newJob is a job of one group.
func newJob(kind, id string, count int) *simJob {
	j := &simJob{ID: id, Namespace: "default", Type: kind, NodePool: "default", Datacenters: []string{"*"},
		TaskGroups: []simGroup{{Name: "main", Count: count, Tasks: []simTask{{Name: "main", Driver: "docker"}}}}}
	if kind == "service" {
		j.TaskGroups[0].Migrate = &simMigrate{1}
	}
	return j
}

func (c *cluster) place(j *simJob, n *simNode, number int) *simAlloc {
	c.serial++
	g := j.TaskGroups[0].Name
	a := &simAlloc{ID: fmt.Sprintf("%08d-aaaa-bbbb-cccc-dddddddddddd", c.serial), Name: fmt.Sprintf("%s.%s[%d]", j.ID, g, number), Namespace: j.Namespace,
		JobID: j.ID, JobType: j.Type, TaskGroup: g, NodeID: n.ID, DesiredStatus: "run", ClientStatus: "pending", Job: j, JobVersion: j.Version}
	for _, old := range c.allocs { // the one that it takes over from
		if old.Job == j && old.Name == a.Name && old.DesiredTransition.Migrate != nil && old.NextAllocation == "" {
			old.NextAllocation = a.ID
		}
	}
	c.allocs = append(c.allocs, a)
	c.touchAlloc(a)
	return a
}

// tick has the clients, the drainer and the scheduler do what they have to.
func (c *cluster) tick(now time.Time) {
	for _, a := range c.allocs {
		c.client(a, now)
	}
	for _, n := range c.nodes {
		if n.DrainStrategy != nil {
			c.drain(n, now)
		}
	}
	for _, a := range slices.Clone(c.allocs) {
		if a.DesiredTransition.Migrate != nil && a.DesiredStatus == "run" && !a.clientTerminal() && !c.lies {
			c.stop(a, now)
		}
	}
	for _, j := range c.jobs {
		if !c.idle {
			c.schedule(j)
		}
	}
}

func (c *cluster) stop(a *simAlloc, now time.Time) {
	a.DesiredStatus, a.endsAt = "stop", now.Add(c.ending)
	c.touchAlloc(a)
}

func (c *cluster) client(a *simAlloc, now time.Time) {
	switch {
	case c.node(a.NodeID) == nil || c.node(a.NodeID).Status != "ready" || a.clientTerminal():
	case a.DesiredStatus != "run":
		if now.After(a.endsAt) && !a.stuck {
			a.ClientStatus = "complete"
			c.touchAlloc(a)
		}
	case a.ClientStatus == "pending" && c.copies && a.Job.TaskGroups[0].EphemeralDisk.Migrate:
	case a.ClientStatus == "pending" && !a.stuck:
		a.ClientStatus = "running"
		c.touchAlloc(a)
	case a.ClientStatus == "running" && a.DeploymentStatus == nil && !a.sick && a.JobType == "service":
		a.DeploymentStatus = &simHealth{new(true)}
		c.touchAlloc(a)
	}
}

// drain is Nomad's drainer.
func (c *cluster) drain(n *simNode, now time.Time) {
	d := n.DrainStrategy
	if c.lies || d.Deadline < 0 || !d.ForceDeadline.IsZero() && now.After(d.ForceDeadline) {
		c.migrate(c.remaining(n))
		c.complete(n, now)
		return
	}
	for _, j := range c.jobs {
		if j.Type == "service" {
			c.migrate(c.drainable(n, j))
		}
	}
	for _, a := range c.on(n.ID) {
		if a.JobType != "system" && !a.clientTerminal() {
			return
		}
	}
	c.migrate(c.remaining(n))
	c.complete(n, now)
}

func (c *cluster) remaining(n *simNode) (as []*simAlloc) {
	for _, a := range c.on(n.ID) {
		if !a.terminal() && !(a.JobType == "system" && n.DrainStrategy.IgnoreSystemJobs) {
			as = append(as, a)
		}
	}
	return as
}

func (c *cluster) drainable(n *simNode, j *simJob) (as []*simAlloc) {
	healthy := 0
	for _, a := range c.allocs {
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

func (c *cluster) migrate(as []*simAlloc) {
	for _, a := range as {
		a.DesiredTransition.Migrate = new(true)
		c.touchAlloc(a)
	}
}

func (c *cluster) complete(n *simNode, now time.Time) {
	n.DrainStrategy = nil
	n.LastDrain.Status, n.LastDrain.UpdatedAt = "complete", now.Truncate(time.Second)
	c.touch(n)
}

// schedule places what is missing of a job.
func (c *cluster) schedule(j *simJob) {
	has := map[string]int{}
	all := 0
	used := map[string]bool{}
	for _, a := range c.allocs {
		if a.Job == j && !a.terminal() {
			has[a.NodeID]++
			used[a.Name] = true
			all++
		}
	}
	for _, n := range c.nodes {
		if n.Status != "ready" || n.SchedulingEligibility != "eligible" || j.Stop {
			continue
		}
		switch {
		case j.Type == "system" && has[n.ID] == 0:
			c.place(j, n, 0)
		case len(j.Constraints) > 0 && j.Constraints[0].Operand == "distinct_hosts" && has[n.ID] > 0:
		case j.Type == "service" && all < j.TaskGroups[0].Count:
			number := 0
			for used[fmt.Sprintf("%s.%s[%d]", j.ID, j.TaskGroups[0].Name, number)] {
				number++
			}
			c.place(j, n, number)
			return
		}
	}
}

// simWords are who asks for a drain, and why.
type simWords struct {
	accessor string // of the token; the node's ID where it asks itself; "" without ACLs
	meta     map[string]string
}

// setDrain is Node.UpdateDrain.
func (c *cluster) setDrain(n *simNode, spec *simDrain, open bool, w simWords, now time.Time) {
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
		n.SchedulingEligibility = "ineligible"
	} else if open {
		n.SchedulingEligibility = "eligible"
	}
	if had != nil || spec != nil {
		last := simLast{}
		if n.LastDrain != nil {
			last = *n.LastDrain
		}
		if had == nil {
			last = simLast{StartedAt: now.Truncate(time.Second)}
		}
		if w.accessor != "" {
			last.AccessorID = w.accessor
		}
		if len(w.meta) > 0 {
			last.Meta = w.meta
		}
		last.UpdatedAt, last.Status = now.Truncate(time.Second), "canceled"
		if spec != nil {
			last.Status = "draining"
		}
		n.LastDrain = &last
	}
	c.touch(n)
}

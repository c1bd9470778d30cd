package nomadtest

import "time"

// A Drain is a node's DrainStrategy.
type Drain struct {
	Deadline         time.Duration
	IgnoreSystemJobs bool
	ForceDeadline    time.Time
	StartedAt        time.Time
}

// A LastDrain is what a node keeps of its last one.
type LastDrain struct {
	StartedAt, UpdatedAt time.Time
	Status, AccessorID   string
	Meta                 map[string]string
}

// A Driver of tasks, as a node has it.
type Driver struct {
	Detected, Healthy bool
	HealthDescription string
}

// A Node is one of the cluster's, as the API has it.
type Node struct {
	ID, Name, Datacenter, NodePool, Status, StatusDescription, SchedulingEligibility string

	Attributes    map[string]string
	Drivers       map[string]Driver
	DrainStrategy *Drain
	LastDrain     *LastDrain
	ModifyIndex   uint64
	Mute          bool `json:"-"` // its agent does not answer
}

// Closed reports whether a node gets no new work.
func (n Node) Closed() bool { return n.SchedulingEligibility != "eligible" }

// Migrate says how many of a group may be away at a time.
type Migrate struct{ MaxParallel int }

// A Task of a group.
type Task struct{ Name, Driver string }

// A Constraint of a job, or an affinity.
type Constraint struct{ LTarget, RTarget, Operand string }

// A Group of a job.
type Group struct {
	Name    string
	Count   int
	Migrate *Migrate `json:",omitempty"`
	Tasks   []Task

	EphemeralDisk struct{ Migrate bool }
}

// A Job is one of the cluster's, as the API has it.
type Job struct {
	ID, Namespace, Type, NodePool string
	Datacenters                   []string
	Constraints, Affinities       []Constraint
	Stop                          bool
	Version                       uint64
	TaskGroups                    []Group
}

// Health is an allocation's DeploymentStatus.
type Health struct{ Healthy *bool }

// A Transition is what the servers want of an allocation.
type Transition struct {
	Migrate *bool `json:",omitempty"`
}

// An Alloc is an allocation, as the API has it.
type Alloc struct {
	ID, Name, Namespace, JobID, JobType, TaskGroup, NodeID string
	DesiredStatus, ClientStatus, NextAllocation            string
	JobVersion                                             uint64
	DesiredTransition                                      Transition
	DeploymentStatus                                       *Health `json:",omitempty"`
	Job                                                    *Job
	ModifyIndex                                            uint64
	Sick                                                   bool `json:"-"` // never gets healthy
	Stuck                                                  bool `json:"-"` // does not end
	endsAt                                                 time.Time
}

func (a *Alloc) clientTerminal() bool {
	return a.ClientStatus == "complete" || a.ClientStatus == "failed" || a.ClientStatus == "lost"
}

func (a *Alloc) terminal() bool { return a.DesiredStatus != "run" || a.clientTerminal() }

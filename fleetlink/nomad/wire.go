package nomad

import (
	"encoding/json"
	"fmt"
	"time"
)

// What Nomad answers, as far as it is used: api/nodes.go, api/allocations.go and
// api/jobs.go of its source.

const (
	eligible   = "eligible"
	ineligible = "ineligible"
	ready      = "ready"
	complete   = "complete"
	system     = "system"
	service    = "service"
)

type node struct {
	ID, Name, Datacenter, NodeClass, NodePool, Status, StatusDescription, SchedulingEligibility string

	Attributes    map[string]string // not in a list of nodes
	Drivers       map[string]driver
	Drain         bool           // in a list of nodes alone
	DrainStrategy *drainStrategy // not there
	LastDrain     *lastDrain
}

// String is the node as a person finds it.
func (n node) String() string { return fmt.Sprintf("%s (%s)", n.Name, n.ID) }

func (n node) closed() bool { return n.SchedulingEligibility != eligible || n.DrainStrategy != nil }

type driver struct {
	Detected, Healthy bool
	HealthDescription string
}

type drainSpec struct {
	Deadline         time.Duration // 0: none; below: at once
	IgnoreSystemJobs bool
}

type drainStrategy struct {
	drainSpec
	ForceDeadline time.Time
}

// UnmarshalJSON implements json.Unmarshaler: the specification's fields stand
// beside the others.
func (d *drainStrategy) UnmarshalJSON(data []byte) error {
	flat := struct {
		Deadline         time.Duration
		IgnoreSystemJobs bool
		ForceDeadline    time.Time
	}{}
	err := json.Unmarshal(data, &flat)
	*d = drainStrategy{drainSpec{flat.Deadline, flat.IgnoreSystemJobs}, flat.ForceDeadline}
	return err
}

type lastDrain struct {
	StartedAt  time.Time
	Status     string // draining, complete, canceled
	AccessorID string // of the token; the node's ID where that was the node's own secret
	Meta       map[string]string
}

// agents reports whether the last drain is the agent's own, as it shuts down
// (drain_on_shutdown). It asks for that with the node's secret (client/drain.go:
// DrainSelf), of which Nomad keeps the node's ID (nomad/fsm.go: applyDrainUpdate),
// with ACLs or without.
func (n node) agents() bool {
	d := n.LastDrain
	return d != nil && (d.AccessorID == "" || d.AccessorID == n.ID) && len(d.Meta) == 1 && d.Meta[metaMessage] == "shutting down"
}

type allocation struct {
	ID, Name, Namespace, JobID, JobType, TaskGroup string // JobType in a list of a job's alone
	NodeID, NextAllocation                         string // the one that takes its place
	JobVersion                                     uint64 // in a list of a job's alone
	DesiredStatus                                  string // run, stop, evict
	ClientStatus                                   string // pending, running, complete, failed, lost, unknown
	DesiredTransition                              struct{ Migrate *bool }
	DeploymentStatus                               *struct{ Healthy *bool }
	Job                                            *job // not in a list of a job's
}

// here reports whether it may still run: only the node's own word ends it.
func (a allocation) here() bool {
	switch a.ClientStatus {
	case complete, "failed", "lost":
		return false
	}
	return true
}

// stopping reports whether it was told to end.
func (a allocation) stopping() bool { return a.DesiredStatus == "stop" || a.DesiredStatus == "evict" }

// healthy is what Nomad's drainer calls so: its health was told, good or bad.
func (a allocation) healthy() bool {
	return a.here() && !a.stopping() && a.DeploymentStatus != nil && a.DeploymentStatus.Healthy != nil
}

func (a allocation) migrating() bool {
	return a.DesiredTransition.Migrate != nil && *a.DesiredTransition.Migrate
}

// kind is the type of its job.
func (a allocation) kind() string {
	if a.Job != nil {
		return a.Job.Type
	}
	return a.JobType
}

// group is its task group; without its job, an empty one.
func (a allocation) group() group {
	if a.Job != nil {
		for _, g := range a.Job.TaskGroups {
			if g.Name == a.TaskGroup {
				return g
			}
		}
	}
	return group{Name: a.TaskGroup}
}

// String names it as Nomad does: "shop/web.front[2]".
func (a allocation) String() string { return inNamespace(a.Namespace, a.Name) }

func inNamespace(namespace, name string) string {
	if namespace == "" || namespace == "default" {
		return name
	}
	return namespace + "/" + name
}

type job struct {
	Type        string
	Datacenters []string
	NodePool    string
	Stop        bool
	Version     uint64
	Constraints []constraint
	TaskGroups  []group
}

type group struct {
	Name        string
	Count       int
	Constraints []constraint
	Migrate     *struct{ MaxParallel int }

	EphemeralDisk *struct{ Migrate bool }
	Tasks         []struct {
		Driver      string
		Constraints []constraint
	}
}

type constraint struct{ LTarget, RTarget, Operand string }

// decodeAllocations reads a list, one at a time, and keeps those that keep wants.
func decodeAllocations(from *limited, keep func(allocation) bool) (as []allocation, err error) {
	err = decodeList(from, maxAllocs, func(d *json.Decoder) error {
		var a allocation
		err := d.Decode(&a)
		if err == nil && a.ID == "" {
			return fmt.Errorf("an allocation without an ID")
		}
		if err == nil && keep(a) {
			as = append(as, a)
		}
		return err
	})
	return as, err
}

// decodeList reads a JSON list of at most limit values, of which each is bounded.
func decodeList(from *limited, limit int, value func(*json.Decoder) error) error {
	d := json.NewDecoder(from)
	switch t, err := d.Token(); {
	case err != nil:
		return err
	case t == nil: // null: none
		return nil
	case t != json.Delim('['):
		return fmt.Errorf("want a list, got %v", t)
	}
	for n := 0; d.More(); n++ {
		if n == limit {
			return fmt.Errorf("a list of more than %d", limit)
		}
		from.left = maxValue
		if err := value(d); err != nil {
			return err
		}
	}
	_, err := d.Token() // a list that was cut off is none
	return err
}

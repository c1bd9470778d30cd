package nomad

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/drydock-os/drydock/fleetlink"
)

// maxAway is how many task groups are remembered that had to leave: a node runs
// some hundreds of allocations at most.
const maxAway = 1000

// An away group is one of a job that is not a system job, some of which ran here
// before the work left.
type away struct {
	owed
	Version uint64 `json:"version"`           // of the job
	Ran     int    `json:"ran,omitempty"`     // healthy ones in the whole cluster; of a service alone
	Disk    bool   `json:"migrate,omitempty"` // what it wrote goes along (ephemeral_disk, migrate)
}

// groupID tells task groups apart.
type groupID struct{ namespace, job, group string }

func (a allocation) groupID() groupID { return groupID{a.Namespace, a.JobID, a.TaskGroup} }

// A tally is how many allocations of a group are in some state, wherever they are.
type tally struct {
	told    int      // whose health was told, good or bad: what Nomad's drainer goes by
	well    int      // that run, and are healthy
	version uint64   // of the job, the highest that one of them has
	copying []string // that are not up yet, and take over from one that ran on this node
}

// tallies asks for all allocations of the jobs of groups, of which node is the one
// that they leave.
func (l *Link) tallies(ctx context.Context, node string, groups []groupID) (map[groupID]tally, error) {
	var jobs []groupID
	for _, id := range groups {
		if id.group = ""; !slices.Contains(jobs, id) {
			jobs = append(jobs, id)
		}
	}
	counts := make([]map[groupID]tally, len(jobs))
	var asked errgroup.Group
	asked.SetLimit(inFlight)
	for i, id := range jobs {
		asked.Go(func() (err error) {
			counts[i], err = l.count(ctx, node, id)
			return err
		})
	}
	err := asked.Wait()
	all := map[groupID]tally{}
	for _, c := range counts {
		for id, t := range c {
			all[id] = t
		}
	}
	return all, err
}

// count asks for a job's allocations.
func (l *Link) count(ctx context.Context, node string, id groupID) (map[groupID]tally, error) {
	r := request{path: "/v1/job/" + url.PathEscape(id.job) + "/allocations", right: "read-job in namespace " + id.namespace,
		query: url.Values{"namespace": {id.namespace}}}
	tallies, heirs, waiting := map[groupID]tally{}, map[string]bool{}, map[string]allocation{}
	_, err := l.client.get(ctx, r, func(from *limited) error {
		_, err := decodeAllocations(from, func(a allocation) bool {
			a.Namespace, a.JobID = id.namespace, id.job
			t := tallies[a.groupID()]
			t.add(a)
			tallies[a.groupID()] = t
			if a.NodeID == node && a.NextAllocation != "" {
				heirs[a.NextAllocation] = true
			}
			if a.ClientStatus == "pending" && a.NodeID != node && !a.stopping() {
				waiting[a.ID] = a
			}
			return false
		})
		return err
	})
	if err != nil && !missing(err) {
		return nil, fmt.Errorf("list the allocations of job %s: %w", inNamespace(id.namespace, id.job), err)
	}
	for heir := range heirs {
		if a, ok := waiting[heir]; ok {
			t := tallies[a.groupID()]
			t.copying = append(t.copying, a.String())
			tallies[a.groupID()] = t
		}
	}
	return tallies, nil
}

func (t *tally) add(a allocation) {
	t.version = max(t.version, a.JobVersion)
	if a.healthy() {
		t.told++
	}
	if a.healthy() && a.ClientStatus == "running" && *a.DeploymentStatus.Healthy {
		t.well++
	}
}

// away lists the groups that have to leave with some of these allocations.
func (l *Link) away(ctx context.Context, node string, here []allocation) (groups []away, err error) {
	var ids []groupID
	disks := map[groupID]bool{}
	services := map[groupID]bool{}
	for _, a := range here {
		if a.kind() == system || slices.Contains(ids, a.groupID()) || len(ids) == maxAway {
			continue
		}
		id, disk := a.groupID(), a.group().EphemeralDisk
		if services[id], disks[id] = a.kind() == service, disk != nil && disk.Migrate; services[id] || disks[id] {
			ids = append(ids, id)
		}
	}
	tallies, err := l.tallies(ctx, node, ids)
	for _, id := range ids {
		g := away{owed: owed{id.namespace, id.job, id.group}, Version: tallies[id].version, Disk: disks[id]}
		if services[id] {
			g.Ran = tallies[id].well
		}
		groups = append(groups, g)
	}
	return groups, err
}

// copying lists what still takes over what groups wrote on a node: a reboot of that
// would end the copy, and Nomad goes on without it (client/allocrunner's
// migrate_disk hook).
func (l *Link) copying(ctx context.Context, node string, groups []away) (left []fleetlink.Workload, err error) {
	var ids []groupID
	for _, g := range groups {
		if g.Disk {
			ids = append(ids, groupID{g.Namespace, g.Job, g.Group})
		}
	}
	tallies, err := l.tallies(ctx, node, ids)
	for _, id := range ids {
		for _, name := range tallies[id].copying {
			left = append(left, fleetlink.Workload{Name: name, Why: "has left, and may still be copying what it wrote here (ephemeral_disk, migrate): the new one is pending"})
		}
	}
	slices.SortFunc(left, func(a, b fleetlink.Workload) int { return strings.Compare(a.Name, b.Name) })
	return left, err
}

// missed lists the service groups of which not as many run as before the work left,
// or as their jobs ask for now. A job that is gone, was stopped or changed since is
// somebody else's business.
func (l *Link) missed(ctx context.Context, groups []away) (ails []fleetlink.Workload, err error) {
	var ids []groupID
	for _, g := range groups {
		if g.Ran > 0 {
			ids = append(ids, groupID{g.Namespace, g.Job, g.Group})
		}
	}
	tallies, err := l.tallies(ctx, "", ids)
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		runs := tallies[groupID{g.Namespace, g.Job, g.Group}].well
		if runs >= g.Ran {
			continue
		}
		j, err := l.job(ctx, g.owed)
		switch {
		case missing(err):
			continue
		case err != nil:
			return nil, err
		case j.Stop || j.Version != g.Version:
			continue
		}
		for _, now := range j.TaskGroups {
			if want := min(g.Ran, now.Count); now.Name == g.Group && runs < want {
				ails = append(ails, fleetlink.Workload{Name: g.String(), Why: fmt.Sprintf("some of it left this machine, and %d of the %d that ran before run healthily now", runs, want)})
			}
		}
	}
	return ails, nil
}

// job reads the job of a group.
func (l *Link) job(ctx context.Context, o owed) (j job, err error) {
	r := request{path: "/v1/job/" + url.PathEscape(o.Job), right: "read-job in namespace " + o.Namespace, query: url.Values{"namespace": {o.Namespace}}}
	if _, err = l.client.value(ctx, r, &j); err != nil {
		return job{}, fmt.Errorf("read job %s: %w", inNamespace(o.Namespace, o.Job), err)
	}
	return j, nil
}

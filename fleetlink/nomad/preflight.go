package nomad

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/drydock-os/drydock/fleetlink"
)

// inFlight is how many jobs are asked for at a time.
const inFlight = 4

// Preflight implements fleetlink.Link. Nomad has no dry run of a drain (a job's
// plan needs the right to submit it), so it is judged here, from what Nomad's
// drainer and scheduler go by:
//
//   - a service job's group of which so few are healthy that none may leave yet,
//     by its migrate block;
//   - a job that no other node suits: ready, eligible, of its pool and datacenter,
//     with its drivers, and not excluded by a constraint on what a list of nodes
//     shows. A constraint to an attribute that is unique excludes all others;
//   - a batch job, which nothing but its end moves, where no deadline does.
//
// Not judged: whether the others have room enough, and constraints on other
// attributes. Nomad then ends the allocation here, and places another one when
// it can.
func (l *Link) Preflight(ctx context.Context) ([]fleetlink.Workload, error) {
	s, err := l.look(ctx)
	if err != nil {
		return nil, fmt.Errorf("preflight: %w", err)
	}
	if err := l.mayWrite(ctx, s.node.ID); err != nil {
		return nil, fmt.Errorf("preflight: %w", err)
	}
	all, err := l.nodes(ctx)
	if err != nil {
		return nil, fmt.Errorf("preflight: %w", err)
	}
	others := slices.DeleteFunc(all, func(n node) bool {
		return n.ID == s.node.ID || n.Status != ready || n.SchedulingEligibility != eligible || n.Drain
	})
	groups, err := l.groups(ctx, s.allocs)
	if err != nil {
		return nil, fmt.Errorf("preflight: %w", err)
	}
	var held []fleetlink.Workload
	for _, a := range s.allocs {
		if why := l.obstacle(a, others, groups); why != "" {
			held = append(held, fleetlink.Workload{Name: a.String(), Why: why})
		}
	}
	return held, nil
}

// mayWrite asks whether the token may write nodes, once for each token. Nomad
// judges that before it reads what is to be written, and this is nothing: there
// is no such eligibility.
func (l *Link) mayWrite(ctx context.Context, id string) error {
	token, err := l.client.token()
	if err != nil || token == "" {
		return err
	}
	l.asking.Lock()
	defer l.asking.Unlock()
	if l.writes == token {
		return nil
	}
	err = l.setEligible(ctx, id, "drydock-only-asks")
	if r := (refusal{}); errors.As(err, &r) && strings.Contains(r.said, "invalid scheduling eligibility") {
		l.writes = token
		return nil
	}
	return err
}

// obstacle says why an allocation could not leave now; "" if nothing is known.
func (l *Link) obstacle(a allocation, others []node, groups map[groupID]int) string {
	if !l.leaves(a) || a.stopping() || a.kind() == system || a.Job == nil {
		return ""
	}
	if a.kind() != service {
		if l.options.EndAtDeadline {
			return ""
		}
		return fmt.Sprintf("a %s job: runs until it ends", a.kind())
	}
	g := a.group()
	if healthy := groups[a.groupID()]; g.Migrate != nil && healthy <= g.Count-g.Migrate.MaxParallel {
		return fmt.Sprintf("%d of the %d in its group are healthy, and no more than %d may be away at a time", healthy, g.Count, g.Migrate.MaxParallel)
	}
	if by := a.Job.bound(g); by != "" {
		return fmt.Sprintf("its job is bound to this machine by a constraint on %s", by)
	}
	if !slices.ContainsFunc(others, func(n node) bool { return a.Job.suits(g, n) }) {
		return fmt.Sprintf("there is no other node that suits it (%d are ready and eligible)", len(others))
	}
	return ""
}

// groupID tells task groups apart.
type groupID struct{ namespace, job, group string }

func (a allocation) groupID() groupID { return groupID{a.Namespace, a.JobID, a.TaskGroup} }

// groups counts the healthy allocations of the service groups that run here,
// wherever they are.
func (l *Link) groups(ctx context.Context, here []allocation) (map[groupID]int, error) {
	var jobs []groupID
	for _, a := range here {
		if id := (groupID{a.Namespace, a.JobID, ""}); a.kind() == service && !slices.Contains(jobs, id) {
			jobs = append(jobs, id)
		}
	}
	counts := make([]map[groupID]int, len(jobs))
	var asked errgroup.Group
	asked.SetLimit(inFlight)
	for i, id := range jobs {
		asked.Go(func() (err error) {
			counts[i], err = l.healthy(ctx, id)
			return err
		})
	}
	err := asked.Wait()
	sum := map[groupID]int{}
	for _, c := range counts {
		for id, n := range c {
			sum[id] += n
		}
	}
	return sum, err
}

// healthy counts a job's healthy allocations.
func (l *Link) healthy(ctx context.Context, id groupID) (map[groupID]int, error) {
	r := request{path: "/v1/job/" + url.PathEscape(id.job) + "/allocations", right: "read-job in namespace " + id.namespace,
		query: url.Values{"namespace": {id.namespace}}}
	count := map[groupID]int{}
	_, err := l.client.get(ctx, r, func(from *limited) error {
		_, err := decodeAllocations(from, func(a allocation) bool {
			if a.healthy() {
				count[groupID{id.namespace, id.job, a.TaskGroup}]++
			}
			return false
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the allocations of job %s: %w", inNamespace(id.namespace, id.job), err)
	}
	return count, nil
}

// constraints are all that hold for a group.
func (j *job) constraints(g group) []constraint {
	all := slices.Concat(j.Constraints, g.Constraints)
	for _, t := range g.Tasks {
		all = append(all, t.Constraints...)
	}
	return all
}

// is reports whether a constraint is one of equality; not, of inequality.
func (c constraint) is() bool  { return slices.Contains([]string{"", "=", "==", "is"}, c.Operand) }
func (c constraint) not() bool { return slices.Contains([]string{"!=", "not"}, c.Operand) }

// bound returns what binds a group to one node: that an attribute which each node
// has for itself has a value. "" if nothing does.
func (j *job) bound(g group) string {
	for _, c := range j.constraints(g) {
		if c.is() && strings.Contains(c.LTarget, "unique.") {
			return c.LTarget
		}
	}
	return ""
}

// suits reports whether a group could run on a node, as far as a list of nodes
// shows it.
func (j *job) suits(g group, n node) bool {
	pool := func(name string) string {
		if name == "" { // a job or a node from before there were pools
			return "default"
		}
		return name
	}
	if want := pool(j.NodePool); want != "all" && want != pool(n.NodePool) {
		return false
	}
	in := len(j.Datacenters) == 0 || slices.ContainsFunc(j.Datacenters, func(glob string) bool {
		ok, err := path.Match(glob, n.Datacenter)
		return ok || err != nil
	})
	if !in {
		return false
	}
	for _, t := range g.Tasks {
		if d, known := n.Drivers[t.Driver]; n.Drivers != nil && !(known && d.Detected && d.Healthy) {
			return false
		}
	}
	shown := map[string]string{"${node.unique.id}": n.ID, "${node.unique.name}": n.Name, "${node.datacenter}": n.Datacenter,
		"${node.class}": n.NodeClass, "${node.pool}": pool(n.NodePool)}
	for _, c := range j.constraints(g) {
		has, known := shown[c.LTarget]
		if known && !strings.Contains(c.RTarget, "${") && (c.is() && has != c.RTarget || c.not() && has == c.RTarget) {
			return false
		}
	}
	return true
}

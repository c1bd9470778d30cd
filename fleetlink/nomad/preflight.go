package nomad

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

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
// What Ailments would name of it is named as well. Not judged: whether the others have room enough, and constraints on other
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
	var services []groupID
	for _, a := range s.allocs {
		if a.kind() == service {
			services = append(services, a.groupID())
		}
	}
	groups, err := l.tallies(ctx, s.node.ID, services)
	if err != nil {
		return nil, fmt.Errorf("preflight: %w", err)
	}
	held, err := l.unwell(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("preflight: %w", err)
	}
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
func (l *Link) obstacle(a allocation, others []node, groups map[groupID]tally) string {
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
	if healthy := groups[a.groupID()].told; g.Migrate != nil && healthy <= g.Count-g.Migrate.MaxParallel {
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

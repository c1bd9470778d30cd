package nomad

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"

	"github.com/drydock-os/drydock/fleetlink"
)

// An owed group is one of a system job that ran here before the work left.
type owed struct{ Namespace, Job, Group string }

// String names it as an allocation of it is named, without its number.
func (o owed) String() string { return inNamespace(o.Namespace, o.Job+"."+o.Group) }

func (a allocation) owed() owed { return owed{a.Namespace, a.JobID, a.TaskGroup} }

// Ailments implements fleetlink.Link: a node that Nomad does not call ready, or
// whose agent does not answer (Nomad takes a while to notice that); a driver that
// was healthy before and is not now; system jobs that are to run here and do not,
// and, once the node is resumed, those that ran here before; a node that gets no
// work although it was resumed, where nobody had closed it before; services that
// left, while not as many run as before, wherever they do.
func (l *Link) Ailments(ctx context.Context) ([]fleetlink.Workload, error) {
	s, err := l.look(ctx)
	if err != nil {
		return nil, fmt.Errorf("look for what is not well: %w", err)
	}
	m, err := l.recall(s.node)
	if err != nil {
		return nil, fmt.Errorf("look for what is not well: %w", err)
	}
	ails, err := l.ill(ctx, s, m)
	if err != nil {
		return nil, fmt.Errorf("look for what is not well: %w", err)
	}
	if why := l.closedAils(s.node, m); why != "" {
		ails = append(ails, fleetlink.Workload{Name: "node " + s.node.Name, Why: why})
	}
	if m == nil || !m.Over || m.Node != s.node.ID {
		return ails, nil
	}
	missed, err := l.missed(ctx, m.Away)
	if err != nil {
		return nil, fmt.Errorf("look for what is not well: %w", err)
	}
	if ails = append(ails, missed...); s.node.closed() {
		return ails, nil
	}
	back := s.running()
	for _, o := range m.System {
		if slices.Contains(back, o) || slices.ContainsFunc(s.allocs, func(a allocation) bool { return a.owed() == o && a.DesiredStatus == "run" }) {
			continue // there, or named above
		}
		wanted, err := l.wanted(ctx, o, s.node)
		if err != nil {
			return nil, fmt.Errorf("look for what is not well: %w", err)
		}
		if wanted {
			ails = append(ails, fleetlink.Workload{Name: o.String(), Why: "ran here before, and Nomad has not started it again"})
		}
	}
	return ails, nil
}

// ill lists what is not well now, whatever was before.
func (l *Link) ill(ctx context.Context, s sight, m *mark) ([]fleetlink.Workload, error) {
	ails, err := l.nodeAils(ctx, s.node, m)
	if err != nil {
		return nil, err
	}
	if l.orphan(s.node, m) {
		ails = append(ails, fleetlink.Workload{Name: "node " + s.node.Name, Why: fmt.Sprintf("gets no work since a drain by this machine's Drydock at %s, "+
			"and what was written down of that is lost, so it is left as it is: if nobody else closed it, open it (nomad node eligibility -enable %s)",
			s.node.LastDrain.StartedAt.UTC().Format("2006-01-02 15:04 UTC"), s.node.ID)})
	}
	for _, a := range s.allocs {
		if a.kind() == system && a.DesiredStatus == "run" && a.ClientStatus != "running" {
			ails = append(ails, fleetlink.Workload{Name: a.String(), Why: "should run here, and is " + a.ClientStatus})
		}
	}
	return ails, nil
}

// orphan reports whether a node is closed by what seems to be a drain of ours, of
// which nothing is remembered.
func (l *Link) orphan(n node, m *mark) bool {
	return m == nil && n.closed() && n.DrainStrategy == nil && l.named(n) && n.LastDrain.Status == complete
}

// unwell lists what would be an ailment if the machine rebooted now.
func (l *Link) unwell(ctx context.Context, s sight) ([]fleetlink.Workload, error) {
	m, err := l.recall(s.node)
	if err != nil {
		return nil, err
	}
	if m != nil && m.Over { // what was before the last time does not matter any more
		m = &mark{}
	}
	return l.ill(ctx, s, m)
}

// closedAils says why a node is to be opened that nobody is known to want closed;
// "" where there is nothing to be said.
func (l *Link) closedAils(n node, m *mark) string {
	open := fmt.Sprintf("; if nobody wants that, open it (nomad node eligibility -enable %s)", n.ID)
	switch {
	case !n.closed() || m == nil || m.ours() || m.Theirs || m.Node != n.ID:
		return ""
	case n.LastDrain != nil && n.drainID() != m.Before && n.LastDrain.Meta[metaOrder] != m.Order:
		return fmt.Sprintf("gets no work although Drydock gave it back: somebody else drained it meanwhile, at %s (%q)%s",
			n.LastDrain.StartedAt.UTC().Format("2006-01-02 15:04 UTC"), n.LastDrain.Meta[metaMessage], open)
	}
	return "gets no work although Drydock gave it back: it was made ineligible again" + open
}

// nodeAils lists what is not well with the node itself.
func (l *Link) nodeAils(ctx context.Context, n node, m *mark) (ails []fleetlink.Workload, err error) {
	ail := func(format string, args ...any) {
		ails = append(ails, fleetlink.Workload{Name: "node " + n.Name, Why: fmt.Sprintf(format, args...)})
	}
	if n.Status != ready {
		ail("is %s: %s", n.Status, cmp.Or(n.StatusDescription, "Nomad has not heard of its agent"))
	} else {
		r := request{path: "/v1/client/stats", right: "node:read", query: url.Values{"node_id": {n.ID}}}
		_, err := l.client.get(ctx, r, func(*limited) error { return nil })
		refused := refusal{}
		switch {
		case errors.As(err, &refused) && !(settled(err) && !missing(err)):
			ail("is ready by Nomad's word, and its agent does not answer: %s", refused.said)
		case err != nil:
			return nil, fmt.Errorf("ask the node's agent: %w", err)
		}
	}
	var before []string
	if m != nil && m.Node == n.ID {
		before = m.Drivers
	}
	for name, d := range n.Drivers {
		if d.Detected && !d.Healthy || !d.Detected && slices.Contains(before, name) {
			ail("its driver %s is not healthy: %s", name, cmp.Or(d.HealthDescription, "it is not found"))
		}
	}
	for _, name := range before {
		if _, known := n.Drivers[name]; !known {
			ail("its driver %s is not healthy: it is not found", name)
		}
	}
	slices.SortFunc(ails, func(a, b fleetlink.Workload) int { return cmp.Compare(a.Why, b.Why) })
	return ails, nil
}

// wanted reports whether a group is still to run, and the node still suits it.
func (l *Link) wanted(ctx context.Context, o owed, n node) (bool, error) {
	j, err := l.job(ctx, o)
	if missing(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return !j.Stop && slices.ContainsFunc(j.TaskGroups, func(g group) bool { return g.Name == o.Group && j.suits(g, n) }), nil
}

package kubernetes

import (
	"cmp"
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/drydock-os/drydock/fleetlink"
)

// Ailments implements fleetlink.Link: a node that is not ready, or was last
// reported by another boot, and pods that stay on it (of DaemonSets, and static
// ones) and are not ready, or whose word is from before the reboot. What left comes
// back elsewhere, so it is none of this machine's.
func (l *Link) Ailments(ctx context.Context) ([]fleetlink.Workload, error) {
	s, err := l.open(ctx)
	if err != nil {
		return nil, err
	}
	var ails []fleetlink.Workload
	if why := unready(s.object); why != "" {
		ails = append(ails, fleetlink.Workload{Name: "node " + s.node, Why: why})
	}
	if err := s.here(); err != nil {
		ails = append(ails, fleetlink.Workload{Name: "node " + s.node, Why: err.Error()})
	}
	pods, _, err := s.pods(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range pods {
		if why := cmp.Or(p.unready, s.stale(p)); p.fate == stays && !p.finished && p.end.IsZero() && why != "" {
			ails = append(ails, fleetlink.Workload{Name: p.String(), Why: why})
		}
	}
	return ails, nil
}

// unready is why a node is not ready; "": it is.
func unready(n *corev1.Node) string {
	for _, c := range n.Status.Conditions {
		switch {
		case c.Type != corev1.NodeReady:
		case c.Status == corev1.ConditionTrue:
			return ""
		case c.Status == corev1.ConditionUnknown:
			return "its kubelet is not heard: " + clip(cmp.Or(c.Message, c.Reason))
		default:
			return "it is not ready: " + clip(cmp.Or(c.Message, c.Reason))
		}
	}
	return "it does not say whether it is ready"
}

// stale is why a pod's readiness cannot be believed: this machine rebooted since it
// was cordoned, and a container is said to run since before. Both times are of this
// machine's clock.
func (s *session) stale(p *pod) string {
	if s.word == nil {
		return ""
	}
	boot, err := s.link.machine.BootID()
	if err != nil || boot == s.word.Boot { // an error is told by here
		return ""
	}
	for _, c := range p.started {
		if !c.at.IsZero() && c.at.Before(s.word.Since) {
			return fmt.Sprintf("its kubelet has not reported it since the reboot (%s is said to run since %s)", c.container, c.at.UTC().Format("2006-01-02 15:04:05 UTC"))
		}
	}
	return ""
}

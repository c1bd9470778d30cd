package kubernetes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/drydock-os/drydock/fleetlink"
)

// How long is waited for what cannot be seen to come.
const (
	settled   = 90 * time.Second // a kubelet that is ready for so long has reported all its pods; and it must end within health.timeout, 5 min
	placing   = 15 * time.Second // the scheduler tries again what found no room: its podMaxBackoffSeconds are 10
	returning = 10 * time.Minute // a pod that came back has its image and is ready, or never will be
)

// Ailments implements fleetlink.Link: a node that is deleted, not ready, last
// reported by another boot, or cordoned by nobody; pods that stay on it (of
// DaemonSets, and static ones) and are not ready, or whose word is from before the
// reboot; and for some minutes after the resume pods that came to it and are not
// ready yet, if they were made before: so those that found no room elsewhere.
//
// What left and was made anew elsewhere is not seen: a kubelet may read neither
// pods of other nodes nor who owns them. The next machine's drain meets the budget
// of those.
func (l *Link) Ailments(ctx context.Context) ([]fleetlink.Workload, error) {
	s, err := l.open(ctx)
	if gone := (absent{}); errors.As(err, &gone) {
		return []fleetlink.Workload{{Name: "node " + gone.node, Why: "it is not registered: somebody deleted it, and its kubelet registers it again only when it starts (systemctl restart kubelet)"}}, nil
	}
	if err != nil {
		return nil, err
	}
	ails := s.ails()
	if err := s.here(); err != nil {
		ails = append(ails, fleetlink.Workload{Name: "node " + s.node, Why: err.Error()})
	}
	believed := l.believed(len(ails) == 0)
	since, why := s.returned()
	if why != "" {
		ails = append(ails, fleetlink.Workload{Name: "node " + s.node, Why: why})
	}
	pods, _, err := s.pods(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range pods {
		why := ""
		switch {
		case p.finished || !p.end.IsZero():
		case p.fate == stays:
			if why = p.unready; why == "" && !believed {
				why = s.stale(p)
			}
		case !since.IsZero() && !p.made.After(since.Add(placing)):
			why = p.unready
		}
		if why != "" {
			ails = append(ails, fleetlink.Workload{Name: p.String(), Why: why})
		}
	}
	return ails, nil
}

// ails are the node's own ailments.
func (s *session) ails() (ails []fleetlink.Workload) {
	if why := unready(s.object); why != "" {
		ails = append(ails, fleetlink.Workload{Name: "node " + s.node, Why: why})
	}
	if err := s.orphaned(); err != nil {
		ails = append(ails, fleetlink.Workload{Name: "node " + s.node, Why: err.Error()})
	}
	return ails
}

// believed reports whether what the node's kubelet said of its pods is of this
// boot: it has been seen to be well for long enough without a break. That is this
// process's own count, whatever became of the clocks.
func (l *Link) believed(well bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.Now()
	switch {
	case !well:
		l.well = time.Time{}
	case l.well.IsZero():
		l.well = now
	}
	return well && now.Sub(l.well) >= settled
}

// returned is when the node came back into service, if that was a short time ago;
// zero: it was not. why is what that means for now.
func (s *session) returned() (since time.Time, why string) {
	text, there := s.object.Annotations[Returned]
	if !there || s.word != nil || s.object.Spec.Unschedulable {
		return since, ""
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return since, fmt.Sprintf("annotation %s is not one of ours (%.80q): remove it", Returned, text)
	}
	age := s.now().Sub(at)
	if age < -placing || age > returning { // one in the future is of a clock that was wrong
		return since, ""
	}
	if age < placing {
		why = fmt.Sprintf("it takes work again since %s UTC, and the scheduler has until %s UTC to place what found no room", at.UTC().Format(time.TimeOnly), at.Add(placing).UTC().Format(time.TimeOnly))
	}
	return at, why
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

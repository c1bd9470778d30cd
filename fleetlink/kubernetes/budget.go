package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/drydock-os/drydock/fleetlink"
)

// An answer is what became of one attempt to remove a pod.
type answer uint8

const (
	accepted  answer = iota // it will end
	gone                    // it is not there, or another one is under its name
	refused                 // not now: a budget, a namespace that is deleted, a webhook
	failed                  // the server could not: nothing is known
	forbidden               // no attempt will succeed
)

// A verdict is an answer and what it says.
type verdict struct {
	answer answer
	why    string        // refused, failed
	after  time.Duration // when to ask again; 0: as usual
	err    error
}

// refusals is how much longer than after a budget's refusal one waits where only a
// person can help.
const refusals = 6

// maxAfter bounds what a server may ask for: a budget that is not looked at for an
// hour is a drain that nobody understands.
const maxAfter = 2 * time.Minute

// twoBudgets is how the eviction subresource begins its refusal of a pod that more
// than one budget selects: a 500 without a reason
// (k8s.io/kubernetes/pkg/registry/core/pod/storage/eviction.go).
const twoBudgets = "more than one PodDisruptionBudget"

// weigh tells what an eviction's answer means.
func (l *Link) weigh(err error) verdict {
	if err == nil {
		return verdict{answer: accepted}
	}
	s := apierrors.APIStatus(nil)
	if !errors.As(err, &s) {
		return verdict{answer: failed, why: err.Error(), err: err}
	}
	why, after := reason(s.Status()), delay(s.Status())
	switch code := s.Status().Code; {
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		return verdict{answer: gone}
	case hopeless(err):
		return verdict{answer: forbidden, why: why, err: err}
	case strings.Contains(why, twoBudgets):
		return verdict{answer: refused, why: "more than one budget (PodDisruptionBudget) selects it, and Kubernetes evicts no such pod: leave one of them", after: refusals * l.Retry, err: err}
	case apierrors.IsTooManyRequests(err), apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return verdict{answer: refused, why: why, after: after, err: err}
	case code >= 400 && code < 500:
		return verdict{answer: refused, why: why, after: max(after, refusals*l.Retry), err: err}
	default:
		return verdict{answer: failed, why: why, after: after, err: err}
	}
}

// reason is the text of a refusal: of the budget, where it is one.
func reason(s metav1.Status) string {
	if s.Details != nil {
		for _, c := range s.Details.Causes {
			if c.Type == policyv1.DisruptionBudgetCause && c.Message != "" {
				return clip(c.Message)
			}
		}
	}
	return clip(s.Message)
}

// clip bounds a text that comes from outside.
func clip(text string) string { return strings.ToValidUTF8(text[:min(len(text), maxWhy)], "") }

// delay is what the server asks for, in bounds.
func delay(s metav1.Status) time.Duration {
	if s.Details == nil || s.Details.RetryAfterSeconds <= 0 {
		return 0
	}
	return min(time.Duration(s.Details.RetryAfterSeconds)*time.Second, maxAfter)
}

// rehearse evicts pods as a dry run, and names those that could not leave.
func (s *session) rehearse(ctx context.Context, pods []*pod) ([]fleetlink.Workload, error) {
	all := make([]fleetlink.Workload, len(pods))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(s.link.InFlight)
	for i, p := range pods {
		if all[i] = s.held(p); all[i].Why != "" || p.fate == stays || !p.end.IsZero() {
			continue
		}
		g.Go(func() (err error) {
			all[i].Why, err = s.try(ctx, p)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("try evictions: %w", err)
	}
	return slices.DeleteFunc(all, func(w fleetlink.Workload) bool { return w.Why == "" }), nil
}

// kept ends why something is named before the reboot that would be an ailment after
// it.
const kept = ": the permit would be kept for it"

// held is why a pod keeps this machine from its reboot, without asking; no Why: it
// does not.
func (s *session) held(p *pod) fleetlink.Workload {
	w := fleetlink.Workload{Name: p.String()}
	switch {
	case s.skips(p):
	case p.forbids != "":
		w.Why, w.Forbids = p.forbids, true
	case p.fate == stays && !p.finished && p.end.IsZero() && p.unready != "":
		w.Why = p.unready + kept
	case p.fate == refuses:
		w.Why = p.why
	case p.fate == leaves && !p.end.IsZero() && s.now().After(p.end.Add(overdue)):
		w.Why = p.ending(s.now())
	}
	return w
}

// try is why a pod could not be evicted; "": it could.
func (s *session) try(ctx context.Context, p *pod) (string, error) {
	v := verdict{answer: accepted}
	if s.link.Surge {
		v = s.replaced(ctx, p, true)
	}
	if v.answer == accepted {
		v = s.link.weigh(s.remove(ctx, p, manner{dry: true}))
		if v.answer == refused {
			return s.because(ctx, p, v)
		}
	}
	if v.answer == failed || v.answer == forbidden {
		return "", v.err
	}
	if s.link.Budgets { // a missing right is to come out before the drain
		if _, err := s.budgets(ctx, p); err != nil {
			return "", err
		}
	}
	return v.why, nil
}

// because is a refusal, with the budgets' names where they may be read.
func (s *session) because(ctx context.Context, p *pod, v verdict) (string, error) {
	if !s.link.Budgets {
		return v.why, nil
	}
	budgets, err := s.budgets(ctx, p)
	if err != nil {
		return "", err
	}
	if len(budgets) > 1 {
		var names []string
		for _, b := range budgets {
			names = append(names, b.Name)
		}
		return v.why + ": " + strings.Join(names, ", "), nil
	}
	if never, err := s.never(ctx, p); err != nil || never != "" {
		return never, err
	}
	return v.why, nil
}

// never is why a pod's budget can allow no eviction, whatever becomes healthy; "":
// it can.
func (s *session) never(ctx context.Context, p *pod) (string, error) {
	budgets, err := s.budgets(ctx, p)
	for _, b := range budgets {
		if n := b.Status; n.ExpectedPods > 0 && n.DesiredHealthy >= n.ExpectedPods {
			return fmt.Sprintf("the disruption budget %s lets no pod go, ever: it wants %d of %d healthy", b.Name, n.DesiredHealthy, n.ExpectedPods), err
		}
	}
	return "", err
}

// A ledger holds the budgets of namespaces, as one call read them.
type ledger struct {
	mu    sync.Mutex
	pages map[string]page
}

// A page is one namespace's.
type page struct {
	read time.Time
	all  []policyv1.PodDisruptionBudget
}

// reread is how old budgets get: a drain lasts, and people mend budgets in it.
const reread = 30 * time.Second

// budgets lists the budgets that select a pod.
func (s *session) budgets(ctx context.Context, p *pod) (selecting []policyv1.PodDisruptionBudget, err error) {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	now := s.link.Now()
	of, read := s.ledger.pages[p.namespace]
	if age := now.Sub(of.read); !read || age < 0 || age > reread {
		var list policyv1.PodDisruptionBudgetList
		if err := s.list(ctx, "poddisruptionbudgets", "/apis/policy/v1/namespaces/"+p.namespace+"/poddisruptionbudgets", metav1.ListOptions{}, &list); err != nil {
			return nil, err
		}
		if s.ledger.pages == nil {
			s.ledger.pages = map[string]page{}
		}
		of = page{now, list.Items}
		s.ledger.pages[p.namespace] = of
	}
	for _, b := range of.all {
		selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err != nil {
			return nil, fmt.Errorf("budget %s/%s: %w", b.Namespace, b.Name, err)
		}
		if selector.Matches(labels.Set(p.labels)) {
			selecting = append(selecting, b)
		}
	}
	return selecting, nil
}

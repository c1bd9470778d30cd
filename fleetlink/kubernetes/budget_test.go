package kubernetes

import (
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/drydock-os/drydock/fleetlink"
)

const budgetsOfShop = "/apis/policy/v1/namespaces/shop/poddisruptionbudgets"

// budgetsOver is a list of budgets over an app's pods.
func budgetsOver(app string, names ...string) *policyv1.PodDisruptionBudgetList {
	list := &policyv1.PodDisruptionBudgetList{TypeMeta: metav1.TypeMeta{APIVersion: "policy/v1", Kind: "PodDisruptionBudgetList"}}
	for _, name := range names {
		b := policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
			Spec: policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}}}
		b.Status = policyv1.PodDisruptionBudgetStatus{ExpectedPods: 2, DesiredHealthy: 2}
		list.Items = append(list.Items, b)
	}
	return list
}

// TestAcceptedIsNotNever: where a dry run was accepted, no budget's arithmetic says
// otherwise (a pod that is not ready may go although its budget wants all).
func TestAcceptedIsNotNever(t *testing.T) {
	a := newTwin(t)
	a.place(nodeName, "web", sick)
	a.keep(budgetsOfShop, budgetsOver("web", "all"))
	held, err := a.link(t, Options{Budgets: true}).Preflight(soon(t))
	if err != nil || len(held) > 0 {
		t.Errorf("%v, %v", held, err)
	}
	a.refuse("web", "The disruption budget all needs 2 healthy pods and has 2 currently")
	held, err = a.link(t, Options{Budgets: true}).Preflight(soon(t))
	if err != nil || len(held) != 1 || !strings.Contains(held[0].Why, "the disruption budget all lets no pod go, ever") {
		t.Errorf("refused: %v, %v", held, err)
	}
}

// TestBudgetsThatMayNotBeRead: that comes out before a permit is asked for, also
// where nothing is refused.
func TestBudgetsThatMayNotBeRead(t *testing.T) {
	a := newTwin(t)
	a.place(nodeName, "web")
	a.obstruct(only("GET "+budgetsOfShop, says(metav1.Status{Code: 403, Reason: metav1.StatusReasonForbidden,
		Message: `poddisruptionbudgets.policy is forbidden: User "x" cannot list resource "poddisruptionbudgets" in API group "policy" in the namespace "shop"`})))
	if held, err := a.link(t, Options{Budgets: true}).Preflight(soon(t)); err == nil || !strings.Contains(err.Error(), "lacks the right to list poddisruptionbudgets") {
		t.Errorf("%v, %v", held, err)
	}
}

// TestBudgetsAnew: a budget that is changed in the middle of a drain is read.
func TestBudgetsAnew(t *testing.T) {
	t.Parallel()
	a := newTwin(t)
	a.place(nodeName, "web")
	a.keep(budgetsOfShop, budgetsOver("web", "all"))
	release := a.refuse("web", "The disruption budget all needs 2 healthy pods and has 2 currently")
	began := time.Now()
	l := a.link(t, Options{Budgets: true, Now: func() time.Time { return began.Add(20 * time.Since(began)) }}) // 20 times as fast
	log, done, _ := begin(t, l, fleetlink.Order{})
	log.says(t, "shop/web", "the disruption budget all lets no pod go, ever")
	a.keep(budgetsOfShop, budgetsOver("web", "some"))
	log.says(t, "shop/web", "the disruption budget some lets no pod go, ever")
	release()
	if err := wait(t, done); err != nil {
		t.Fatal(err)
	}
}

// replicas has the twin know a ReplicaSet that wants so many pods of an app.
func (a *twin) replicas(app string, n int32) {
	a.keep("/apis/apps/v1/namespaces/shop/replicasets/"+app, &appsv1.ReplicaSet{TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "ReplicaSet"},
		Spec: appsv1.ReplicaSetSpec{Replicas: &n, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}}})
}

func of(app string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { ownedBy("ReplicaSet", app)(p); p.Labels["app"] = app }
}

// TestSurge: a pod that is not ready is no loss to its owner, and does not wait for
// what can only come when it is gone.
func TestSurge(t *testing.T) {
	for name, c := range map[string]struct {
		place func(*twin)
		first string // that is evicted; "": none is
	}{
		"all are ready":         {func(a *twin) { a.place(nodeName, "w1", of("web")); a.place("web-2", "w2", of("web")) }, "shop/w1"},
		"one elsewhere is not":  {func(a *twin) { a.place(nodeName, "w1", of("web")); a.place("web-2", "w2", of("web"), sick) }, ""},
		"the one here is not":   {func(a *twin) { a.place(nodeName, "w1", of("web"), sick); a.place("web-2", "w2", of("web")) }, "shop/w1"},
		"two here are not":      {func(a *twin) { a.place(nodeName, "w1", of("web"), sick); a.place(nodeName, "w2", of("web"), sick) }, "shop/w1"},
		"one of two here is":    {func(a *twin) { a.place(nodeName, "w1", of("web")); a.place(nodeName, "w2", of("web"), sick) }, "shop/w2"},
		"none here, none there": {func(a *twin) { a.place(nodeName, "w1", of("web"), sick); a.place("web-2", "w2", of("web"), sick) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newTwin(t)
			a.replicas("web", 2)
			c.place(a)
			l := a.link(t, Options{Surge: true})
			held, err := l.Preflight(soon(t))
			if err != nil || c.first == "" && (len(held) != 1 || !strings.Contains(held[0].Why, "it waits for replacements")) {
				t.Errorf("preflight: %v, %v", held, err)
			}
			if c.first != "" && len(held) > 0 {
				t.Errorf("preflight: %v, and the drain can begin", held)
			}
			ctx := soon(t)
			log, done, stop := begin(t, l, fleetlink.Order{})
			if c.first == "" {
				log.says(t, "shop/w1", "it waits for replacements")
			}
			for first := ""; first == "" && c.first != ""; {
				a.mu.Lock()
				if len(a.evicted) > 0 {
					first = a.evicted[0]
				}
				a.mu.Unlock()
				select {
				case <-ctx.Done():
					t.Fatalf("none was evicted; told %v", log.last)
				case <-time.After(20 * time.Millisecond):
				}
				if first != "" && first != c.first {
					t.Errorf("%s was evicted first, want %s", first, c.first)
				}
			}
			stop()
			wait(t, done)
		})
	}
}

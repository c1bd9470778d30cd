package kubernetes

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/drydock-os/drydock/fleetlink"
)

// TestReturning: what found no room elsewhere and comes here after the resume is
// waited for; what came later is not, nor is anything for ever.
func TestReturning(t *testing.T) {
	a := newTwin(t)
	began := time.Now().Truncate(time.Second)
	var passed atomic.Int64
	a.obstruct(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Date", began.Add(time.Duration(passed.Load())).UTC().Format(http.TimeFormat))
		return false
	})
	l := a.link(t, Options{})
	if err := l.Cordon(soon(t), "test"); err != nil {
		t.Fatal(err)
	}
	made := func(after time.Duration) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.CreationTimestamp = *at(began.Add(after)) }
	}
	ails := func() string {
		t.Helper()
		ails, err := a.link(t, Options{}).Ailments(soon(t)) // of a daemon that has just begun
		if err != nil {
			t.Fatal(err)
		}
		return fleetlink.Names(ails)
	}
	pass := func(d time.Duration) { passed.Store(int64(d)) }
	pass(time.Minute)
	if got := ails(); got != "" {
		t.Errorf("before the resume: %q", got)
	}
	if err := l.Resume(soon(t)); err != nil {
		t.Fatal(err)
	}
	if got := ails(); !strings.Contains(got, "node web-1 (it takes work again since ") {
		t.Errorf("at once after the resume: %q", got)
	}
	pass(2 * time.Minute)
	if got := ails(); got != "" {
		t.Errorf("a minute after the resume: %q", got)
	}
	ended := func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }
	leaving := func(p *corev1.Pod) { p.DeletionTimestamp = at(began) }
	a.place(nodeName, "web", sick, made(30*time.Second))
	a.place(nodeName, "job", sick, made(30*time.Second), ended)
	a.place(nodeName, "old", sick, made(30*time.Second), leaving)
	a.place(nodeName, "new", sick, made(2*time.Minute))
	a.place(nodeName, "well", made(30*time.Second))
	if got := ails(); !strings.HasPrefix(got, "shop/web (it is not ready: ") || strings.Contains(got, "), ") {
		t.Errorf("with a pod that starts: %q", got)
	}
	pass(30 * time.Minute)
	if got := ails(); got != "" {
		t.Errorf("half an hour after the resume: %q", got)
	}
	pass(2 * time.Minute)
	if err := l.Cordon(soon(t), "test"); err != nil {
		t.Fatal(err)
	}
	if got := ails(); got != "" {
		t.Errorf("cordoned again: %q", got)
	}
}

// TestReturnedByHand: what stands in our second annotation and is no time is said.
func TestReturnedByHand(t *testing.T) {
	a := newTwin(t)
	a.editNode(nodeName, func(n *corev1.Node) { n.Annotations = map[string]string{Returned: "yes"} })
	ails, err := a.link(t, Options{}).Ailments(soon(t))
	if err != nil || len(ails) != 1 || !strings.Contains(ails[0].String(), "annotation drydock.io/returned is not one of ours") {
		t.Errorf("%v, %v", ails, err)
	}
}

// TestForeignCordonAfterResume: a node that somebody else keeps cordoned gets no
// work back, and nobody waits for that.
func TestForeignCordonAfterResume(t *testing.T) {
	a := newTwin(t)
	a.editNode(nodeName, func(n *corev1.Node) { n.Spec.Unschedulable = true })
	l := a.link(t, Options{})
	if err := l.Cordon(soon(t), "test"); err != nil {
		t.Fatal(err)
	}
	if err := l.Resume(soon(t)); err != nil || !a.readNode(nodeName).Spec.Unschedulable {
		t.Errorf("%v; cordoned: %t", err, a.readNode(nodeName).Spec.Unschedulable)
	}
	if ails, err := l.Ailments(soon(t)); err != nil || len(ails) > 0 {
		t.Errorf("%v, %v", ails, err)
	}
}

// TestWordGone: a node that we cordoned and whose annotation somebody removed is
// neither in service nor somebody else's.
func TestWordGone(t *testing.T) {
	a := newTwin(t)
	l := a.link(t, Options{})
	if err := l.Cordon(soon(t), "test"); err != nil {
		t.Fatal(err)
	}
	a.editNode(nodeName, func(n *corev1.Node) { delete(n.Annotations, Annotation) })
	const want = "node web-1 is cordoned, by us, and annotation drydock.io/out-of-service is gone"
	for name, call := range map[string]func() error{
		"standing": func() error { _, err := l.Standing(soon(t)); return err },
		"resume":   func() error { return l.Resume(soon(t)) },
		"cordon":   func() error { return l.Cordon(soon(t), "test") },
		"drain":    func() error { return l.Drain(soon(t), fleetlink.Order{}) },
	} {
		if err := call(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	for name, call := range map[string]func() ([]fleetlink.Workload, error){
		"ailments":  func() ([]fleetlink.Workload, error) { return l.Ailments(soon(t)) },
		"preflight": func() ([]fleetlink.Workload, error) { return l.Preflight(soon(t)) },
	} {
		if said, err := call(); err != nil || len(said) != 1 || said[0].Forbids || !strings.Contains(said[0].Why, "annotation drydock.io/out-of-service is gone") {
			t.Errorf("%s: %v, %v", name, said, err)
		}
	}
	if !a.readNode(nodeName).Spec.Unschedulable {
		t.Error("the cordon was taken off")
	}
	a.editNode(nodeName, func(n *corev1.Node) { n.Spec.Unschedulable = false })
	a.editNode(nodeName, func(n *corev1.Node) { n.Spec.Unschedulable = true }) // by the person
	if s, err := l.Standing(soon(t)); err != nil || s.Ours {
		t.Errorf("somebody else's cordon: %+v, %v", s, err)
	}
	if err := l.Resume(soon(t)); err != nil || !a.readNode(nodeName).Spec.Unschedulable {
		t.Errorf("somebody else's cordon: %v", err)
	}
}

// TestNodeDeleted: with its node all that was ours is gone, and nobody says that
// this machine is well.
func TestNodeDeleted(t *testing.T) {
	a := newTwin(t)
	l := a.link(t, Options{Node: nodeName})
	if err := l.Cordon(soon(t), "test"); err != nil {
		t.Fatal(err)
	}
	a.mu.Lock()
	delete(a.nodes, nodeName)
	a.mu.Unlock()
	if err := l.Resume(soon(t)); err != nil {
		t.Errorf("resume: %v", err)
	}
	if ails, err := l.Ailments(soon(t)); err != nil || len(ails) != 1 || !strings.Contains(ails[0].String(), "node web-1: it is not registered") {
		t.Errorf("ailments: %v, %v", ails, err)
	}
	for name, call := range map[string]func() error{
		"standing":  func() error { _, err := l.Standing(soon(t)); return err },
		"preflight": func() error { _, err := l.Preflight(soon(t)); return err },
		"cordon":    func() error { return l.Cordon(soon(t), "test") },
	} {
		if err := call(); err == nil || !strings.Contains(err.Error(), "node web-1 is not in the cluster") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestNotFoundByAnother: a proxy that finds no page says nothing of the node.
func TestNotFoundByAnother(t *testing.T) {
	for name, answer := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"a page": func(w http.ResponseWriter, _ *http.Request) bool {
			http.Error(w, "404 page not found", http.StatusNotFound)
			return true
		},
		"of something else": says(metav1.Status{Code: 404, Reason: metav1.StatusReasonNotFound, Message: "the server could not find the requested resource"}),
	} {
		t.Run(name, func(t *testing.T) {
			a := newTwin(t)
			l := a.link(t, Options{Node: nodeName})
			if err := l.Cordon(soon(t), "test"); err != nil {
				t.Fatal(err)
			}
			a.obstruct(answer)
			if err := l.Resume(soon(t)); err == nil {
				t.Error("resume believed it")
			}
			if ails, err := l.Ailments(soon(t)); err == nil {
				t.Errorf("ailments: %v", ails)
			}
		})
	}
}

// TestStaleEnds: a clock that was ahead when the node was cordoned does not make
// every container one from before the reboot, for ever.
func TestStaleEnds(t *testing.T) {
	a := newTwin(t)
	boot := time.Now()
	a.place(nodeName, "logs", ownedBy("DaemonSet", "logs"), func(p *corev1.Pod) {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: *at(boot)}}}}
	})
	a.editNode(nodeName, func(n *corev1.Node) {
		n.Annotations = map[string]string{Annotation: `{"by":"drydock","machine":"` + machineID + `","boot":"boot-0","since":"` + boot.Add(24*time.Hour).UTC().Format(time.RFC3339) + `"}`}
	})
	var passed atomic.Int64
	l := a.link(t, Options{Now: func() time.Time { return boot.Add(time.Duration(passed.Load())) }})
	ails := func() string {
		t.Helper()
		ails, err := l.Ailments(soon(t))
		if err != nil {
			t.Fatal(err)
		}
		return fleetlink.Names(ails)
	}
	if got := ails(); !strings.Contains(got, "has not reported it since the reboot") {
		t.Errorf("at first: %q", got)
	}
	passed.Store(int64(time.Minute))
	a.editNode(nodeName, func(n *corev1.Node) { n.Status.Conditions[0].Status = "False" })
	ails()
	a.editNode(nodeName, func(n *corev1.Node) { n.Status.Conditions[0].Status = "True" })
	ails()
	passed.Store(int64(2 * time.Minute))
	if got := ails(); !strings.Contains(got, "has not reported it since the reboot") {
		t.Errorf("a minute after it was ready again: %q", got)
	}
	passed.Store(int64(3 * time.Minute))
	if got := ails(); got != "" {
		t.Errorf("two minutes after it was ready again: %q", got)
	}
}

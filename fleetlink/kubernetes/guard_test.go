package kubernetes_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/drydock-os/drydock/fleetlink/kubernetes/kubetest"
)

// A guardian watches the pods of some apps, and notes each instant at which one of
// them has fewer that are ready than least. A watch tells each write, in order.
type guardian struct {
	y      *kubetest.Yard
	least  int
	ready  map[string]map[string]bool // by app, by name
	marked chan struct{}              // closed when the mark was seen
	stop   context.CancelFunc
	done   sync.WaitGroup
	fallen []string
	broken error
}

// mark is the name of a pod whose making ends what is watched.
const mark = "mark"

// guard begins to watch.
func guard(t *testing.T, y *kubetest.Yard, least int, apps ...string) *guardian {
	t.Helper()
	g := &guardian{y: y, least: least, ready: map[string]map[string]bool{}, marked: make(chan struct{})}
	for _, app := range apps {
		g.ready[app] = map[string]bool{}
	}
	ctx, cancel := context.WithCancel(context.Background())
	g.stop = cancel
	t.Cleanup(cancel)
	var list corev1.PodList
	if err := y.Read(ctx, y.Path("pods", ""), metav1.ListOptions{}, &list); err != nil {
		t.Fatal(err)
	}
	for i := range list.Items {
		g.see(&list.Items[i], watch.Added, true)
	}
	g.done.Go(func() { g.broken = g.follow(ctx, list.ResourceVersion) })
	return g
}

// follow goes on where a watch ended, until ctx ends.
func (g *guardian) follow(ctx context.Context, version string) error {
	for ctx.Err() == nil {
		w, err := g.y.Watch(ctx, g.y.Path("pods", ""), metav1.ListOptions{ResourceVersion: version})
		if err != nil {
			continue
		}
		for e := range w.ResultChan() {
			o, isPod := e.Object.(*corev1.Pod)
			if !isPod {
				if s, is := e.Object.(*metav1.Status); is && s.Code == 410 {
					return fmt.Errorf("what happened after %s is lost: %s", version, s.Message)
				}
				break
			}
			version = o.ResourceVersion
			g.see(o, e.Type, false)
		}
		w.Stop()
	}
	return nil
}

// see takes what a pod is now.
func (g *guardian) see(o *corev1.Pod, kind watch.EventType, first bool) {
	if o.Name == mark {
		if kind == watch.Added {
			close(g.marked)
		}
		return
	}
	up := g.ready[o.Labels["app"]]
	if up == nil {
		return
	}
	if delete(up, o.Name); kind != watch.Deleted && kubetest.Ready(o) {
		up[o.Name] = true
	}
	if len(up) < g.least && !first {
		g.fallen = append(g.fallen, fmt.Sprintf("%s has %d pods that are ready, and is to have %d (%s %s)", o.Labels["app"], len(up), g.least, o.Name, kind))
	}
}

// end has the watcher see all that was written so far, and returns what it noted.
func (g *guardian) end(t *testing.T) []string {
	t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: mark, Namespace: g.y.Namespace},
		Spec: corev1.PodSpec{NodeSelector: map[string]string{"nowhere": "yes"}, Containers: []corev1.Container{{Name: "main", Image: "example.com/nothing"}}}}
	if err := g.y.Create(within(t), g.y.Path("pods", ""), pod); err != nil {
		t.Fatal(err)
	}
	select {
	case <-g.marked:
	case <-within(t).Done():
		t.Error("the watcher never saw its mark")
	}
	g.stop()
	g.done.Wait()
	if g.broken != nil {
		t.Error(g.broken)
	}
	return g.fallen
}

// watched fails the test, when the function it returns is called, where an app was
// below least at any instant since.
func watched(t *testing.T, y *kubetest.Yard, least int, apps ...string) (end func()) {
	t.Helper()
	g := guard(t, y, least, apps...)
	return func() {
		t.Helper()
		for _, what := range g.end(t) {
			t.Error(what)
		}
	}
}

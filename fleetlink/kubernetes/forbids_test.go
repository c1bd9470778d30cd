package kubernetes

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/drydock-os/drydock/fleetlink"
)

func label(key, value string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Labels[key] = value }
}

func mirror(p *corev1.Pod) {
	ownedBy("Node", nodeName)(p)
	p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
}

func sick(p *corev1.Pod) {
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse, Message: "containers with unready status: [main]"}}
}

// inList is a workload as a list of many names it.
func inList(w string) string { return strings.Replace(w, ": ", " (", 1) }

// TestForbidden: what an operator set to keep this machine as it is is told from
// what only holds a drain up, and ends a drain at once, whoever would force it.
func TestForbidden(t *testing.T) {
	guarded := Options{BlockingPods: "maintenance=never", BlockingNode: "node-restriction.kubernetes.io/maintenance=never"}
	for name, c := range map[string]struct {
		options Options
		pod     []func(*corev1.Pod)
		node    func(*corev1.Node)
		want    string
	}{
		"a pod":                {options: guarded, pod: []func(*corev1.Pod){label("maintenance", "never")}, want: "shop/x: its labels match maintenance=never"},
		"a pod that stays":     {options: guarded, pod: []func(*corev1.Pod){ownedBy("DaemonSet", "x"), label("maintenance", "never")}, want: "shop/x: its labels match maintenance=never"},
		"a static pod":         {options: guarded, pod: []func(*corev1.Pod){mirror, label("maintenance", "never")}, want: "shop/x: its labels match maintenance=never"},
		"the node":             {options: guarded, node: func(n *corev1.Node) { n.Labels["node-restriction.kubernetes.io/maintenance"] = "never" }, want: "node web-1: its labels match node-restriction.kubernetes.io/maintenance=never"},
		"pods of a DaemonSet":  {options: Options{RefuseDaemonSets: true}, pod: []func(*corev1.Pod){ownedBy("DaemonSet", "logs")}, want: "shop/x: it is of DaemonSet logs"},
		"nothing":              {options: guarded, pod: []func(*corev1.Pod){ownedBy("DaemonSet", "x")}},
		"a pod that has ended": {options: guarded, pod: []func(*corev1.Pod){label("maintenance", "never"), func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }}},
	} {
		t.Run(name, func(t *testing.T) {
			a := newTwin(t)
			a.place(nodeName, "a-first") // by name, so that others than the first few are to be named
			a.place(nodeName, "x", c.pod...)
			if c.node != nil {
				a.editNode(nodeName, c.node)
			}
			l := a.link(t, c.options)
			held, err := l.Preflight(soon(t))
			if barred := fleetlink.Forbidding(held); err != nil || (c.want == "") != (len(barred) == 0) || c.want != "" && !strings.Contains(barred[0].String(), c.want) {
				t.Errorf("preflight: %v, %v; want %q", held, err, c.want)
			}
			for _, force := range []bool{false, true} {
				if c.want == "" && force {
					break // it has been drained
				}
				_, done, _ := begin(t, l, fleetlink.Order{Force: force})
				err := wait(t, done)
				u := fleetlink.Unfinished{}
				errors.As(err, &u)
				if barred := fleetlink.Forbidding(u.Left); (c.want == "") != (err == nil) || c.want != "" && (len(barred) != 1 || !strings.Contains(err.Error(), inList(c.want))) {
					t.Errorf("drain by force %t: %v; want %q", force, err, c.want)
				}
				if s, err := l.Standing(soon(t)); err != nil || s.Drained() != (c.want == "") {
					t.Errorf("standing: %+v, %v", s, err)
				}
			}
			if c.want != "" && len(a.evicted) > 0 {
				t.Errorf("%v were evicted all the same", a.evicted)
			}
			if err := l.Resume(soon(t)); err != nil {
				t.Errorf("resume: %v", err)
			}
			if n := a.readNode(nodeName); n.Spec.Unschedulable {
				t.Error("it stays cordoned")
			}
		})
	}
}

// TestForbiddenMeanwhile: the operator's word may come in the middle of a drain.
func TestForbiddenMeanwhile(t *testing.T) {
	never := label("maintenance", "never")
	for name, c := range map[string]struct {
		change func(*twin)
		want   string
	}{
		"a pod is labelled":      {func(a *twin) { a.editPod("shop/held", never) }, "shop/held: its labels match"},
		"a pod comes that stays": {func(a *twin) { a.place(nodeName, "new", ownedBy("DaemonSet", "new"), never) }, "shop/new: its labels match"},
		"the node is labelled":   {func(a *twin) { a.editNode(nodeName, func(n *corev1.Node) { n.Labels["rebuild"] = "on" }) }, "node web-1: its labels match"},
		"the node, as the last leaves": {func(a *twin) {
			a.editNode(nodeName, func(n *corev1.Node) { n.Labels["rebuild"] = "on" })
			a.vanish("shop/held")
		}, "node web-1: its labels match"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newTwin(t)
			a.place(nodeName, "held")
			a.refuse("held", "The disruption budget held needs 1 healthy pods and has 1 currently")
			l := a.link(t, Options{BlockingPods: "maintenance=never", BlockingNode: "rebuild=on"})
			log, done, _ := begin(t, l, fleetlink.Order{})
			log.says(t, "shop/held", "The disruption budget")
			c.change(a)
			err := wait(t, done)
			if u := (fleetlink.Unfinished{}); !errors.As(err, &u) || len(fleetlink.Forbidding(u.Left)) != 1 || !strings.Contains(err.Error(), inList(c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// TestForceLeavesDaemonSets: a pod of a DaemonSet that is deleted comes again at
// once, cordon or not, so kubectl never does it.
func TestForceLeavesDaemonSets(t *testing.T) {
	a := newTwin(t)
	a.place(nodeName, "logs", ownedBy("DaemonSet", "logs"))
	log, done, _ := begin(t, a.link(t, Options{RefuseDaemonSets: true}), fleetlink.Order{Force: true})
	select {
	case err := <-done:
		if err == nil || !strings.Contains(err.Error(), "shop/logs") {
			t.Errorf("got %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Errorf("it goes on; told %v", log.last)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for what := range a.asked {
		if strings.HasPrefix(what, http.MethodDelete) {
			t.Errorf("it asked %s", what)
		}
	}
}

// TestPreflightOfTheUnwell: what would keep the permit after the reboot keeps the
// machine from asking for it.
func TestPreflightOfTheUnwell(t *testing.T) {
	const kept = ": the permit would be kept for it"
	for name, c := range map[string]struct {
		pod  []func(*corev1.Pod)
		node func(*corev1.Node)
		want string
	}{
		"a sick DaemonSet pod": {pod: []func(*corev1.Pod){ownedBy("DaemonSet", "logs"), sick}, want: "shop/web: it is not ready: containers with unready status: [main]" + kept},
		"a sick static pod":    {pod: []func(*corev1.Pod){mirror, sick}, want: "shop/web: it is not ready"},
		"one on its way out":   {pod: []func(*corev1.Pod){ownedBy("DaemonSet", "logs"), sick, func(p *corev1.Pod) { p.DeletionTimestamp = at(time.Now()) }}},
		"a sick pod that goes": {pod: []func(*corev1.Pod){sick}},
		"the node": {node: func(n *corev1.Node) {
			n.Status.Conditions[0].Status, n.Status.Conditions[0].Message = "False", "PLEG is not healthy"
		}, want: "node web-1: it is not ready: PLEG is not healthy" + kept},
	} {
		t.Run(name, func(t *testing.T) {
			a := newTwin(t)
			a.place(nodeName, "web", c.pod...)
			if c.node != nil {
				a.editNode(nodeName, c.node)
			}
			held, err := a.link(t, Options{}).Preflight(soon(t))
			if err != nil {
				t.Fatal(err)
			}
			if c.want == "" && len(held) > 0 || c.want != "" && (len(held) != 1 || held[0].Forbids || !strings.HasPrefix(held[0].String(), c.want) || !strings.HasSuffix(held[0].Why, kept)) {
				t.Errorf("got %+v, want %q", held, c.want)
			}
		})
	}
}

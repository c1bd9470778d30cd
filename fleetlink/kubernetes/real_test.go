package kubernetes_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/fleetlink/kubernetes"
	"github.com/drydock-os/drydock/fleetlink/kubernetes/kubetest"
	"github.com/drydock-os/drydock/fleetlink/linktest"
)

// TestReal runs the link against the real control plane, with the credential of
// a kubelet unless it says otherwise.
func TestReal(t *testing.T) {
	p := kubetest.Start(t)
	t.Run("Link", func(t *testing.T) {
		linktest.Test(t, func(t *testing.T) linktest.Cluster { return cluster(t, p) })
	})
	for _, c := range []struct {
		name string
		run  func(*testing.T, *kubetest.Plane)
	}{
		{"kinds of pods, as kubectl", testKinds},
		{"two budgets", testTwoBudgets},
		{"a pod that never ends", testNeverEnds},
		{"a node deleted during the drain", testNodeDeleted},
		{"the API server restarted during the drain", testRestart},
		{"load balancers", testExclude},
		{"what a kubelet may not do", testRights},
		{"a boot whose pods are reported late", testStays},
		{"a node that hosts the API server", testHosted},
		{"no room elsewhere", testNoRoom},
		{"our word removed", testWordGone},
		{"an attachment, by its name", testAttachment},
		{"a service account", testAccount},
		{"by force", testForce},
		{"20 nodes with two permits", testRoll},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, p) })
	}
}

// link is the link of a kubelet's machine.
func link(k *kubetest.Kubelet, o kubernetes.Options) *kubernetes.Link {
	if o.Kubeconfig == "" {
		o.Kubeconfig = k.Kubeconfig
	}
	if o.Retry == 0 {
		o.Retry = time.Second
	}
	return kubernetes.New(fleetlink.Machine{ID: k.MachineID, Hostname: k.Name, BootID: func() (string, error) { return k.BootID(), nil }}, o)
}

// cluster is two nodes, and the first one's link.
func cluster(t *testing.T, p *kubetest.Plane) linktest.Cluster {
	y := p.Yard(2)
	t.Cleanup(y.Close)
	k := y.Nodes[0]
	return linktest.Cluster{
		Pace: 4 * time.Second,
		Open: func() fleetlink.Link {
			return link(k, kubernetes.Options{Timeout: 5 * time.Second, BlockingNode: "maintenance=never"})
		},
		Place: func(name string) string { return y.Pod(k, name) },
		Here:  func() []string { return y.On(k) },
		Hold: func(name string) func() {
			_, app, _ := strings.Cut(name, "/")
			return y.Budget("hold-"+app, app, intstr.FromInt32(1))
		},
		Bar: func() func() {
			y.Label(k, "maintenance", "never")
			return func() { y.Label(k, "maintenance", nil) }
		},
		Closed:   func() bool { return y.Node(k).Spec.Unschedulable },
		Claim:    func() { y.Unschedulable(k, true) },
		Uncordon: func() { y.Unschedulable(k, false) },
		Reboot: func() {
			if err := k.Reboot(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
		Silence: p.Silence,
	}
}

// within bounds what is to end by itself, on a busy machine.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// A drain is one in the background.
type drain struct {
	done   chan error
	cancel context.CancelFunc
	mu     sync.Mutex
	told   []string
}

func begin(t *testing.T, l fleetlink.Link, o fleetlink.Order) *drain {
	t.Helper()
	ctx, cancel := context.WithCancel(within(t))
	if err := l.Cordon(ctx, "kubetest: a reboot"); err != nil {
		t.Fatal(err)
	}
	d := &drain{done: make(chan error, 1), cancel: cancel}
	o.Progress = func(left []fleetlink.Workload) {
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, w := range left {
			d.told = append(d.told, w.String())
		}
	}
	go func() { d.done <- l.Drain(ctx, o) }()
	t.Cleanup(cancel)
	return d
}

// says waits until the drain tells a line with all the words.
func (d *drain) says(t *testing.T, words ...string) {
	t.Helper()
	for ctx := within(t); ; {
		d.mu.Lock()
		said := slices.ContainsFunc(d.told, func(line string) bool {
			return !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(line, word) })
		})
		last := d.told[max(0, len(d.told)-5):]
		d.mu.Unlock()
		if said {
			return
		}
		select {
		case err := <-d.done:
			t.Fatalf("the drain ended (%v), and never told %v; last %v", err, words, last)
		case <-ctx.Done():
			t.Fatalf("never told %v; last %v", words, last)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (d *drain) must(t *testing.T) {
	t.Helper()
	if err := <-d.done; err != nil {
		t.Fatal(err)
	}
}

// testTwoBudgets: Kubernetes evicts no pod that two budgets select.
func testTwoBudgets(t *testing.T, p *kubetest.Plane) {
	y := p.Yard(2)
	defer y.Close()
	k := y.Nodes[0]
	name := y.Pod(k, "web")
	remove := y.Budget("first", "web", intstr.FromInt32(0))
	y.Budget("second", "web", intstr.FromInt32(0))
	held, err := link(k, kubernetes.Options{}).Preflight(within(t))
	if err != nil || len(held) != 1 || held[0].Name != name || !strings.Contains(held[0].Why, "more than one budget") {
		t.Errorf("preflight: %v, %v", held, err)
	}
	admin := kubernetes.Options{Kubeconfig: p.Kubeconfig("admin", "system:masters"), Budgets: true}
	held, err = link(k, admin).Preflight(within(t))
	if err != nil || len(held) != 1 || !strings.Contains(held[0].Why, "first, second") {
		t.Errorf("preflight that reads budgets: %v, %v", held, err)
	}
	d := begin(t, link(k, kubernetes.Options{Retry: 200 * time.Millisecond}), fleetlink.Order{})
	d.says(t, name, "more than one budget")
	remove()
	d.must(t)
}

// testNeverEnds: a pod that does not end is named, and when it was to.
func testNeverEnds(t *testing.T, p *kubetest.Plane) {
	y := p.Yard(2)
	defer y.Close()
	k := y.Nodes[0]
	stuck := func(o *corev1.Pod) {
		o.Annotations, o.OwnerReferences = map[string]string{kubetest.NeverEnds: "yes"}, nil
	}
	name := y.Pod(k, "stuck", stuck)
	other := y.Pod(k, "web")
	d := begin(t, link(k, kubernetes.Options{Unmanaged: true}), fleetlink.Order{})
	d.says(t, name, "it was told to end")
	d.says(t, name, "its kubelet has not ended it")
	s, err := link(k, kubernetes.Options{Unmanaged: true}).Standing(within(t))
	if err != nil || len(s.Left) != 1 || s.Left[0].Name != name {
		t.Errorf("%s left, and standing is %+v, %v", other, s, err)
	}
	d.cancel()
	if u := (fleetlink.Unfinished{}); !errors.As(<-d.done, &u) || len(u.Left) != 1 {
		t.Errorf("unfinished: %+v", u)
	}
	zero := int64(0)
	if err := y.Delete(within(t), y.Path("pods", "stuck"), metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		t.Fatal(err)
	}
	begin(t, link(k, kubernetes.Options{}), fleetlink.Order{}).must(t)
}

// testNodeDeleted: a drain of a node that is not there any more is not done.
func testNodeDeleted(t *testing.T, p *kubetest.Plane) {
	y := p.Yard(2)
	defer y.Close()
	k := y.Nodes[0]
	name := y.Pod(k, "web")
	y.Budget("hold", "web", intstr.FromInt32(1))
	d := begin(t, link(k, kubernetes.Options{}), fleetlink.Order{})
	d.says(t, name, "The disruption budget hold needs 1 healthy pods and has 1 currently")
	if err := y.Delete(within(t), "/api/v1/nodes/"+k.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := <-d.done; err == nil || !strings.Contains(err.Error(), "is not in the cluster") {
		t.Errorf("got %v", err)
	}
	if _, err := link(k, kubernetes.Options{}).Standing(within(t)); err == nil {
		t.Error("a node that is not there has a standing")
	}
	if err := link(k, kubernetes.Options{}).Resume(within(t)); err != nil {
		t.Errorf("resume, of which nothing is left to undo: %v", err)
	}
	if ails, err := link(k, kubernetes.Options{}).Ailments(within(t)); err != nil || len(ails) != 1 || !strings.Contains(ails[0].Why, "it is not registered") {
		t.Errorf("ailments: %v, %v", ails, err)
	}
	p.Register(k)
	if s, err := link(k, kubernetes.Options{}).Standing(within(t)); err != nil || s.Ours {
		t.Errorf("a node made anew: %+v, %v", s, err)
	}
}

// testRestart: a drain outlives its API server, as on a control plane's node.
func testRestart(t *testing.T, p *kubetest.Plane) {
	y := p.Yard(2)
	defer y.Close()
	k := y.Nodes[0]
	k.Ends = 2 * time.Second
	var names []string
	for i := range 20 {
		names = append(names, y.Pod(k, fmt.Sprintf("web-%d", i)))
	}
	d := begin(t, link(k, kubernetes.Options{InFlight: 2, Timeout: 5 * time.Second}), fleetlink.Order{})
	d.says(t, "it was told to end")
	p.StopAPI()
	d.says(t, "the Kubernetes API", "does not answer")
	if _, err := link(k, kubernetes.Options{Timeout: time.Second}).Ailments(within(t)); err == nil {
		t.Error("ailments without an API server")
	}
	p.StartAPI()
	d.must(t)
	for _, name := range y.On(k) {
		if slices.Contains(names, name) {
			t.Errorf("%s is here", name)
		}
	}
}

// testExclude: NodeRestriction lets a kubelet set and remove the label.
func testExclude(t *testing.T, p *kubetest.Plane) {
	y := p.Yard(1)
	defer y.Close()
	k := y.Nodes[0]
	l := link(k, kubernetes.Options{LeaveLoadBalancers: true})
	if err := l.Cordon(within(t), "x"); err != nil {
		t.Fatal(err)
	}
	if _, labelled := y.Node(k).Labels[kubernetes.Exclude]; !labelled {
		t.Error("the cordon did not set the label")
	}
	if err := l.Resume(within(t)); err != nil {
		t.Fatal(err)
	}
	if n := y.Node(k); n.Labels[kubernetes.Exclude] != "" || n.Spec.Unschedulable || n.Annotations[kubernetes.Annotation] != "" {
		t.Errorf("after the resume: %v %v", n.Labels, n.Annotations)
	}
}

// testRights: what a kubelet's credential lacks is named.
func testRights(t *testing.T, p *kubetest.Plane) {
	y := p.Yard(2)
	defer y.Close()
	k, other := y.Nodes[0], y.Nodes[1]
	y.Pod(k, "web")
	for name, c := range map[string]struct {
		kubeconfig string
		options    kubernetes.Options
		want       string
	}{
		"budgets":              {k.Kubeconfig, kubernetes.Options{Budgets: true}, "lacks the right to list poddisruptionbudgets"},
		"another node":         {other.Kubeconfig, kubernetes.Options{Node: k.Name}, "lacks the right to get nodes"},
		"nobody":               {p.Kubeconfig("nobody"), kubernetes.Options{Node: k.Name}, "lacks the right to get nodes"},
		"nobody, without name": {p.Kubeconfig("nobody"), kubernetes.Options{}, "lacks the right to get nodes"},
	} {
		o := c.options
		o.Kubeconfig = c.kubeconfig
		if _, err := link(k, o).Preflight(within(t)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	// What a kubelet may, and what only the manifest's account: all of it is asked
	// without doing it.
	full := kubernetes.Options{Surge: true, Budgets: true}
	if lacking, err := link(k, kubernetes.Options{}).Lacking(within(t), true); err != nil || len(lacking) > 0 {
		t.Errorf("a kubelet lacks %v, %v", lacking, err)
	}
	lacking, err := link(k, full).Lacking(within(t), false)
	if want := []string{"list pods (in all", "get replicasets.apps (", "get statefulsets.apps (", "get replicationcontrollers (", "list poddisruptionbudgets.policy ("}; err != nil ||
		!slices.EqualFunc(lacking, want, strings.HasPrefix) {
		t.Errorf("a kubelet lacks %q, %v; want %q", lacking, err, want)
	}
	full.Kubeconfig = manifest(t, p)
	y.Until("the manifest's account lacks nothing", func(ctx context.Context) bool {
		lacking, err := link(k, full).Lacking(ctx, true)
		return err == nil && len(lacking) == 0
	})
	// Another node's credential, by its own name, finds its own node: not this machine's.
	if err := link(k, kubernetes.Options{Kubeconfig: other.Kubeconfig}).Cordon(within(t), "x"); err == nil || !strings.Contains(err.Error(), "two machines use its name") {
		t.Errorf("with another node's credential: %v", err)
	}
	d := begin(t, link(k, kubernetes.Options{Surge: true}), fleetlink.Order{})
	if err := <-d.done; err == nil || !strings.Contains(err.Error(), "lacks the right to get replicasets") {
		t.Errorf("surge with a kubelet's credential: %v", err)
	}
}

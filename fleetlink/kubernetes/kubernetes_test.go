package kubernetes

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/fleetlink/linktest"
)

func TestLinkOnTwin(t *testing.T) {
	linktest.Test(t, func(t *testing.T) linktest.Cluster {
		a := newTwin(t)
		boot := atomic.Int64{}
		boot.Store(1)
		bootID := func() (string, error) { return fmt.Sprintf("boot-%d", boot.Load()), nil }
		config := a.kubeconfig(t)
		return linktest.Cluster{
			Pace: 2 * time.Second,
			Open: func() fleetlink.Link {
				return New(fleetlink.Machine{ID: machineID, Hostname: nodeName, BootID: bootID},
					Options{Kubeconfig: config, Retry: 200 * time.Millisecond, Timeout: 3 * time.Second, BlockingNode: "maintenance=never"})
			},
			Place: func(name string) string { return a.place(nodeName, name) },
			Here:  func() []string { return a.on(nodeName) },
			Hold: func(name string) func() {
				return a.refuse(strings.TrimPrefix(name, "shop/"), "The disruption budget web needs 1 healthy pods and has 1 currently")
			},
			Bar: func() func() {
				a.editNode(nodeName, func(n *corev1.Node) { n.Labels["maintenance"] = "never" })
				return func() { a.editNode(nodeName, func(n *corev1.Node) { delete(n.Labels, "maintenance") }) }
			},
			Closed:   func() bool { return a.readNode(nodeName).Spec.Unschedulable },
			Claim:    func() { a.editNode(nodeName, func(n *corev1.Node) { n.Spec.Unschedulable = true }) },
			Uncordon: func() { a.editNode(nodeName, func(n *corev1.Node) { n.Spec.Unschedulable = false }) },
			Reboot: func() {
				id := fmt.Sprintf("boot-%d", boot.Add(1))
				a.editNode(nodeName, func(n *corev1.Node) { n.Status.NodeInfo.BootID = id })
			},
			Silence: func() func() { return a.obstruct(hang) },
		}
	})
}

// obstruct has the twin answer otherwise until speak.
func (a *twin) obstruct(fault func(http.ResponseWriter, *http.Request) bool) (speak func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fault = fault
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.fault = nil
	}
}

// hang answers nothing for as long as the client waits.
func hang(_ http.ResponseWriter, r *http.Request) bool {
	io.Copy(io.Discard, r.Body) // a server hears that a client is gone when it has heard it out
	<-r.Context().Done()
	return true
}

// on answers requests that begin so with fault.
func only(prefix string, fault func(http.ResponseWriter, *http.Request) bool) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		return strings.HasPrefix(r.Method+" "+r.URL.RequestURI(), prefix) && fault(w, r)
	}
}

// says answers with a status.
func says(s metav1.Status) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		fail(w, s)
		return true
	}
}

const evictions = "POST /api/v1/namespaces/"

// TestRefusals is what stands in the way of a drain, and what is said of it.
func TestRefusals(t *testing.T) {
	local := func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "cache", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	}
	alone := func(p *corev1.Pod) { p.OwnerReferences = nil }
	late := func(p *corev1.Pod) {
		at := metav1.NewTime(time.Now().Add(-time.Hour))
		p.DeletionTimestamp, p.Finalizers = &at, []string{"example.com/backup"}
	}
	for name, c := range map[string]struct {
		options Options
		pod     []func(*corev1.Pod)
		answer  func(http.ResponseWriter, *http.Request) bool
		want    string // of the workload; "": it may leave
		err     string
	}{
		"a pod of a ReplicaSet":   {},
		"an emptyDir":             {pod: []func(*corev1.Pod){local}, want: "it keeps data in an emptyDir"},
		"an emptyDir, allowed":    {options: Options{EmptyDir: true}, pod: []func(*corev1.Pod){local}},
		"no controller":           {pod: []func(*corev1.Pod){alone}, want: "no controller would make it anew"},
		"no controller, allowed":  {options: Options{Unmanaged: true}, pod: []func(*corev1.Pod){alone}},
		"a DaemonSet":             {pod: []func(*corev1.Pod){ownedBy("DaemonSet", "logs")}},
		"a DaemonSet, forbidden":  {options: Options{RefuseDaemonSets: true}, pod: []func(*corev1.Pod){ownedBy("DaemonSet", "logs")}, want: "it is of DaemonSet logs"},
		"blocking pods":           {options: Options{BlockingPods: "app=web"}, want: "its labels match app=web"},
		"other blocking pods":     {options: Options{BlockingPods: "app=db"}},
		"a pod that does not end": {pod: []func(*corev1.Pod){late}, want: "its finalizers are example.com/backup"},
		"two budgets": {answer: only(evictions, says(metav1.Status{Code: 500, Message: "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."})),
			want: "more than one budget (PodDisruptionBudget) selects it"},
		"a webhook": {answer: only(evictions, says(metav1.Status{Code: 400, Message: `admission webhook "guard" denied the request: rebuild runs`})),
			want: `admission webhook "guard" denied the request: rebuild runs`},
		"no right to evict": {answer: only(evictions, says(metav1.Status{Code: 403, Reason: metav1.StatusReasonForbidden,
			Message: `pods "web" is forbidden: User "system:serviceaccount:x:y" cannot create resource "pods/eviction" in API group "" in the namespace "shop"`})),
			err: "lacks the right to create pods/eviction: "},
		"no right to list": {answer: only("GET /api/v1/pods", says(metav1.Status{Code: 403, Reason: metav1.StatusReasonForbidden,
			Message: `pods is forbidden: User "x" cannot list resource "pods" in API group "" at the cluster scope`})), err: "lacks the right to list pods: "},
		"expired": {answer: says(metav1.Status{Code: 401, Reason: metav1.StatusReasonUnauthorized, Message: "Unauthorized"}), err: "does not accept the credential in "},
		"500":     {answer: only(evictions, says(metav1.Status{Code: 500, Message: "etcdserver: leader changed"})), err: "etcdserver: leader changed"},
		"garbage": {answer: func(w http.ResponseWriter, _ *http.Request) bool { w.Write([]byte("<html>login</html>")); return true }, err: "does not speak as an API server does"},
		"a list that is another node's": {answer: only("GET /api/v1/pods", func(w http.ResponseWriter, _ *http.Request) bool {
			p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "b"}, Spec: corev1.PodSpec{NodeName: "web-2"}}
			reply(w, 200, corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}, Items: []corev1.Pod{p}})
			return true
		}), err: `a/b, which is on node "web-2"`},
		"a list of nothing": {answer: only("GET /api/v1/pods", func(w http.ResponseWriter, _ *http.Request) bool {
			reply(w, 200, map[string]string{"apiVersion": "v1", "kind": "PodList"})
			return true
		}), err: "has no version"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newTwin(t)
			a.place(nodeName, "web", c.pod...)
			if c.answer != nil {
				a.obstruct(c.answer)
			}
			held, err := a.link(t, c.options).Preflight(soon(t))
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("got %v, %v; want an error with %q", held, err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if c.want == "" && len(held) > 0 || c.want != "" && (len(held) != 1 || held[0].Name != "shop/web" || !strings.Contains(held[0].Why, c.want)) {
				t.Errorf("got %v, want %q", held, c.want)
			}
			if got := a.on(nodeName); len(got) != 1 || len(a.evicted) > 0 {
				t.Errorf("preflight removed it: %v %v", got, a.evicted)
			}
		})
	}
}

// TestNodeOf is how the machine's node is found, and who else may claim it.
func TestNodeOf(t *testing.T) {
	other := func(n *corev1.Node) { n.Status.NodeInfo.MachineID = strings.Repeat("f", 32) }
	for name, c := range map[string]struct {
		options Options
		edit    map[string]func(*corev1.Node)
		answer  func(http.ResponseWriter, *http.Request) bool
		err     string
	}{
		"by machine-id":           {},
		"by name":                 {options: Options{Node: nodeName}},
		"machine-id as a UUID":    {edit: map[string]func(*corev1.Node){nodeName: func(n *corev1.Node) { n.Status.NodeInfo.MachineID = "01234567-89AB-CDEF-0123-456789ABCDEF" }}},
		"host name":               {answer: only("GET /api/v1/nodes?", says(metav1.Status{Code: 403, Reason: "Forbidden", Message: `nodes is forbidden: User "x" cannot list resource "nodes"`}))},
		"a clone":                 {edit: map[string]func(*corev1.Node){"web-2": func(n *corev1.Node) { n.Status.NodeInfo.MachineID = machineID }}, err: "web-1, web-2 all claim machine-id"},
		"none":                    {edit: map[string]func(*corev1.Node){nodeName: other}, err: "none of the cluster's has machine-id"},
		"another machine's":       {options: Options{Node: nodeName}, edit: map[string]func(*corev1.Node){nodeName: other}, err: "two machines use its name"},
		"not there":               {options: Options{Node: "web-9"}, err: "node web-9 is not in the cluster"},
		"another boot":            {edit: map[string]func(*corev1.Node){nodeName: func(n *corev1.Node) { n.Status.NodeInfo.BootID = "boot-0" }}, err: "another machine uses its name"},
		"another machine's drain": {edit: map[string]func(*corev1.Node){nodeName: func(n *corev1.Node) { n.Annotations = map[string]string{Annotation: `{"by":"drydock","machine":"x"}`} }}, err: "was taken out of service by machine x"},
		"a word that is none":     {edit: map[string]func(*corev1.Node){nodeName: func(n *corev1.Node) { n.Annotations = map[string]string{Annotation: `yes`} }}, err: "is not one of ours"},
		"a lie": {options: Options{Node: nodeName}, answer: only("GET /api/v1/nodes/", func(w http.ResponseWriter, _ *http.Request) bool {
			reply(w, 200, corev1.Node{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: metav1.ObjectMeta{Name: "web-2"}})
			return true
		}), err: `"web-2" is what the API server sent`},
	} {
		t.Run(name, func(t *testing.T) {
			a := newTwin(t)
			for node, edit := range c.edit {
				a.editNode(node, edit)
			}
			if c.answer != nil {
				a.obstruct(c.answer)
			}
			err := a.link(t, c.options).Cordon(soon(t), "why")
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("got %v, want %q", err, c.err)
			}
			if got := a.readNode(nodeName).Spec.Unschedulable; got != (c.err == "") {
				t.Errorf("cordoned: %t", got)
			}
			if a.readNode("web-2").Spec.Unschedulable {
				t.Error("another machine's node was cordoned")
			}
		})
	}
}

func TestKubeconfigs(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "missing"): "no such file",
		dir:                           "want a regular file",
		write("empty", ""):            "no current context",
		write("text", "hello"):        "cannot unmarshal",
		write("big", strings.Repeat(" ", maxKubeconfig+1)):                           "at most",
		write("nobody", `{"apiVersion":"v1","kind":"Config","current-context":"c"}`): "context was not found",
		write("cert", `{"apiVersion":"v1","kind":"Config","current-context":"c","clusters":[{"name":"k","cluster":{"server":"https://127.0.0.1:1","certificate-authority":"gone.pem"}}],"contexts":[{"name":"c","context":{"cluster":"k","user":"u"}}],"users":[{"name":"u","user":{}}]}`): filepath.Join(dir, "gone.pem"),
		write("away", `{"apiVersion":"v1","kind":"Config","current-context":"c","clusters":[{"name":"k","cluster":{"server":"http://127.0.0.1:1"}}],"contexts":[{"name":"c","context":{"cluster":"k","user":"u"}}],"users":[{"name":"u","user":{}}]}`):                                     "the API server http://127.0.0.1:1 does not answer",
	} {
		l := New(fleetlink.Machine{ID: machineID, Hostname: nodeName, BootID: func() (string, error) { return "b", nil }}, Options{Kubeconfig: path, Node: nodeName})
		if _, err := l.Standing(soon(t)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", filepath.Base(path), err, want)
		}
	}
	saved := Kubeconfigs
	defer func() { Kubeconfigs = saved }()
	Kubeconfigs = []string{filepath.Join(dir, "none")}
	if _, err := New(fleetlink.Machine{}, Options{}).Standing(soon(t)); err == nil || !strings.Contains(err.Error(), "this machine has not joined a cluster") {
		t.Errorf("without any: %v", err)
	}
}

// TestWord is what a cordon leaves on the node, and what a resume takes off.
func TestWord(t *testing.T) {
	a := newTwin(t)
	l := a.link(t, Options{LeaveLoadBalancers: true, Now: func() time.Time { return time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC) }})
	for range 2 {
		if err := l.Cordon(soon(t), "drydock: reboot into 1.1.0"); err != nil {
			t.Fatal(err)
		}
	}
	want := `{"by":"drydock","machine":"` + machineID + `","boot":"boot-1","since":"2026-05-01T12:00:00Z","why":"drydock: reboot into 1.1.0","cordoned":true,"excluded":true}`
	n := a.readNode(nodeName)
	if n.Annotations[Annotation] != want || !n.Spec.Unschedulable || n.Labels[Exclude] == "" {
		t.Errorf("after the cordon: %v %v %v", n.Annotations, n.Spec.Unschedulable, n.Labels)
	}
	if got := a.asked["PATCH /api/v1/nodes/"+nodeName]; got != 1 {
		t.Errorf("%d writes of the node, want 1: the second cordon had nothing to do", got)
	}
	if err := l.Resume(soon(t)); err != nil {
		t.Fatal(err)
	}
	n = a.readNode(nodeName)
	if _, labelled := n.Labels[Exclude]; labelled || n.Spec.Unschedulable || n.Annotations[Annotation] != "" || n.Labels["rack"] != "r1" {
		t.Errorf("after the resume: %v %v %v", n.Annotations, n.Spec.Unschedulable, n.Labels)
	}

	a.editNode(nodeName, func(n *corev1.Node) { n.Labels[Exclude] = "operator" })
	if err := errors.Join(l.Cordon(soon(t), "x"), l.Resume(soon(t))); err != nil {
		t.Fatal(err)
	}
	if got := a.readNode(nodeName).Labels[Exclude]; got != "operator" {
		t.Errorf("somebody else's label became %q", got)
	}
}

// TestConflict: others write the node while we do.
func TestConflict(t *testing.T) {
	a := newTwin(t)
	times := atomic.Int64{}
	a.obstruct(only("PATCH", func(http.ResponseWriter, *http.Request) bool {
		if times.Add(1) < 4 {
			a.editNode(nodeName, func(n *corev1.Node) { n.Labels["beat"] = fmt.Sprint(times.Load()) })
		}
		return false
	}))
	if err := a.link(t, Options{}).Cordon(soon(t), "x"); err != nil {
		t.Fatal(err)
	}
	if n := a.readNode(nodeName); !n.Spec.Unschedulable || n.Labels["beat"] != "3" {
		t.Errorf("after conflicts: %v %v", n.Spec.Unschedulable, n.Labels)
	}
	a.obstruct(only("PATCH", func(w http.ResponseWriter, _ *http.Request) bool {
		n := a.readNode(nodeName)
		n.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}
		reply(w, 200, n)
		return true
	}))
	if err := a.link(t, Options{}).Resume(soon(t)); err == nil || !strings.Contains(err.Error(), "the node is as before") {
		t.Errorf("a write that changed nothing: %v", err)
	}
}

// TestAilments is a node after its boot.
func TestAilments(t *testing.T) {
	for name, c := range map[string]struct {
		node func(*corev1.Node)
		pod  []func(*corev1.Pod)
		want string
	}{
		"well": {pod: []func(*corev1.Pod){ownedBy("DaemonSet", "logs")}},
		"not ready": {node: func(n *corev1.Node) {
			n.Status.Conditions[0].Status, n.Status.Conditions[0].Message = "False", "PLEG is not healthy"
		}, want: "node web-1: it is not ready: PLEG is not healthy"},
		"unheard":              {node: func(n *corev1.Node) { n.Status.Conditions[0].Status = "Unknown" }, want: "its kubelet is not heard"},
		"no condition":         {node: func(n *corev1.Node) { n.Status.Conditions = nil }, want: "it does not say whether it is ready"},
		"another boot":         {node: func(n *corev1.Node) { n.Status.NodeInfo.BootID = "boot-0" }, want: `was last reported by boot "boot-0"`},
		"a sick DaemonSet pod": {pod: []func(*corev1.Pod){ownedBy("DaemonSet", "logs"), sick}, want: "shop/web: it is not ready"},
		"a sick static pod": {pod: []func(*corev1.Pod){ownedBy("Node", nodeName), sick, func(p *corev1.Pod) {
			p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
		}}, want: "shop/web: it is not ready"},
		"a sick pod that left or came": {pod: []func(*corev1.Pod){sick}},
		"not reported since the boot": {
			node: func(n *corev1.Node) {
				n.Annotations = map[string]string{Annotation: `{"by":"drydock","machine":"` + machineID + `","boot":"boot-0","since":"2026-05-01T12:00:00Z"}`}
			},
			pod: []func(*corev1.Pod){ownedBy("DaemonSet", "logs"), func(p *corev1.Pod) {
				at := metav1.NewTime(time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC))
				p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: at}}}}
			}}, want: "has not reported it since the reboot"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newTwin(t)
			if c.pod != nil {
				a.place(nodeName, "web", c.pod...)
			}
			if c.node != nil {
				a.editNode(nodeName, c.node)
			}
			ails, err := a.link(t, Options{}).Ailments(soon(t))
			if err != nil {
				t.Fatal(err)
			}
			if c.want == "" && len(ails) > 0 || c.want != "" && (len(ails) != 1 || !strings.Contains(ails[0].String(), c.want)) {
				t.Errorf("got %v, want %q", ails, c.want)
			}
		})
	}
}

// FuzzWord: whatever stands in the annotation, it is ours, nothing, or an error.
func FuzzWord(f *testing.F) {
	for _, text := range []string{`{"by":"drydock","machine":"x","since":"2026-05-01T12:00:00Z","cordoned":true}`, `{"by":"kured"}`, `null`, `[]`, ``} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{Annotation: text}}}
		if w, err := readWord(n); err == nil && (w == nil || w.By != "drydock") {
			t.Errorf("%q is read as %+v", text, w)
		}
	})
}

func TestValidate(t *testing.T) {
	for _, o := range []Options{{BlockingPods: "a in"}, {BlockingNode: "=="}, {InFlight: -1}, {InFlight: 1000}, {Timeout: time.Millisecond},
		{GracePeriod: 1500 * time.Millisecond}, {SkipOverdue: -1}, {LoadBalancerWait: 48 * time.Hour}, {Retry: -1}} {
		if o.Validate() == nil {
			t.Errorf("%+v is valid", o)
		}
	}
	if err := (Options{BlockingPods: "app in (a,b)", GracePeriod: time.Minute}).Validate(); err != nil {
		t.Error(err)
	}
}

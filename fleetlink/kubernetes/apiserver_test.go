package kubernetes

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/drydock-os/drydock/fleetlink"
)

// A twin stands in for an API server, a controller manager and kubelets, for
// answers that the real ones (kubetest) are hard to bring to give. It was modelled
// on kube-apiserver 1.34's answers: status bodies, watch frames, precondition and
// version checks, evictions as in pkg/registry/core/pod/storage/eviction.go.
type twin struct {
	*httptest.Server
	// fault answers a request in the twin's stead, if it returns true.
	fault func(w http.ResponseWriter, r *http.Request) bool

	mu      sync.Mutex
	version int
	nodes   map[string]*corev1.Node
	pods    map[string]*corev1.Pod
	log     []logged
	grown   chan struct{} // closed by the next change
	budgets map[string]budget
	ends    time.Duration // pods take to end
	evicted []string      // that were accepted, in order
	asked   map[string]int
	objects map[string]any // others that can be read, by path
	end     sync.WaitGroup
}

type logged struct {
	version int
	kind    string
	pod     corev1.Pod
}

// A budget refuses the pods whose label app it names.
type budget struct{ why string }

const (
	machineID = "0123456789abcdef0123456789abcdef"
	nodeName  = "web-1"
)

func newTwin(t *testing.T) *twin {
	a := &twin{nodes: map[string]*corev1.Node{}, pods: map[string]*corev1.Pod{}, budgets: map[string]budget{}, grown: make(chan struct{}),
		ends: 20 * time.Millisecond, asked: map[string]int{}, objects: map[string]any{}}
	a.Server = httptest.NewServer(a)
	t.Cleanup(func() {
		a.CloseClientConnections()
		a.Close()
		a.end.Wait()
	})
	for i, name := range []string{nodeName, "web-2"} {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("node-" + name), Labels: map[string]string{"rack": "r1"}}}
		n.Status.NodeInfo = corev1.NodeSystemInfo{MachineID: strings.Replace(machineID, "0", strconv.Itoa(i), 1), BootID: "boot-1"}
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		a.setNode(n)
	}
	return a
}

// link returns a link that speaks to the twin.
func (a *twin) link(t *testing.T, o Options) *Link {
	t.Helper()
	if o.Kubeconfig == "" {
		o.Kubeconfig = a.kubeconfig(t)
	}
	if o.Retry == 0 {
		o.Retry = 200 * time.Millisecond
	}
	if err := o.Validate(); err != nil {
		t.Fatal(err)
	}
	return New(fleetlink.Machine{ID: machineID, Hostname: "WEB-1", BootID: func() (string, error) { return "boot-1", nil }}, o)
}

func (a *twin) kubeconfig(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"c","clusters":[{"name":"k","cluster":{"server":%q}}],
"contexts":[{"name":"c","context":{"cluster":"k","user":"u"}}],"users":[{"name":"u","user":{"token":"t"}}]}`, a.URL)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// setNode writes a node.
func (a *twin) setNode(n *corev1.Node) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.version++
	n.ResourceVersion = strconv.Itoa(a.version)
	a.nodes[n.Name] = n
}

// editNode changes the node as somebody else does.
func (a *twin) editNode(name string, edit func(*corev1.Node)) {
	a.mu.Lock()
	n := a.nodes[name].DeepCopy()
	a.mu.Unlock()
	was := n.Spec.Unschedulable
	if edit(n); was != n.Spec.Unschedulable {
		n.ManagedFields = nil // it is that one's now
	}
	a.setNode(n)
}

// readNode is the node as it is.
func (a *twin) readNode(name string) *corev1.Node {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.nodes[name].DeepCopy()
}

// ownedBy makes a pod one of a controller's.
func ownedBy(kind, name string) func(*corev1.Pod) {
	yes := true
	api := map[string]string{"ReplicaSet": "apps/v1", "DaemonSet": "apps/v1", "Node": "v1"}[kind]
	return func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: api, Kind: kind, Name: name, UID: types.UID(kind + name), Controller: &yes}}
	}
}

// place runs a pod on a node, of a ReplicaSet unless told otherwise.
func (a *twin) place(node, name string, as ...func(*corev1.Pod)) string {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: map[string]string{"app": name}}}
	p.Spec.NodeName = node
	p.Status.Phase = corev1.PodRunning
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	ownedBy("ReplicaSet", name)(p)
	for _, f := range as {
		f(p)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	p.UID = types.UID(fmt.Sprintf("%s-%d", name, a.version))
	a.change("ADDED", p)
	return p.Namespace + "/" + p.Name
}

// change writes a pod. The caller holds mu.
func (a *twin) change(kind string, p *corev1.Pod) {
	a.version++
	p.ResourceVersion = strconv.Itoa(a.version)
	name := p.Namespace + "/" + p.Name
	if a.pods[name] = p; kind == "DELETED" {
		delete(a.pods, name)
	}
	a.log = append(a.log, logged{a.version, kind, *p.DeepCopy()})
	close(a.grown)
	a.grown = make(chan struct{})
}

// editPod changes a pod as its kubelet or a person does.
func (a *twin) editPod(name string, edit func(*corev1.Pod)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.pods[name].DeepCopy()
	edit(p)
	a.change("MODIFIED", p)
}

// vanish removes a pod at once.
func (a *twin) vanish(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if p := a.pods[name]; p != nil {
		a.change("DELETED", p.DeepCopy())
	}
}

// on lists the pods of a node.
func (a *twin) on(node string) (names []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for name, p := range a.pods {
		if p.Spec.NodeName == node {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// refuse has a budget hold an app's pods until release.
func (a *twin) refuse(app, why string) (release func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.budgets[app] = budget{why}
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.budgets, app)
	}
}

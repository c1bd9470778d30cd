package kubernetes

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
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

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
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
		ends: 20 * time.Millisecond, asked: map[string]int{}}
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
	edit(n)
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

// ServeHTTP implements http.Handler.
func (a *twin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	fault := a.fault
	a.asked[r.Method+" "+r.URL.Path]++
	a.mu.Unlock()
	if fault != nil && fault(w, r) {
		return
	}
	path, q := r.URL.Path, r.URL.Query()
	switch {
	case strings.HasPrefix(path, "/apis/storage.k8s.io/"):
		a.forbid(w, "list", "volumeattachments")
	case path == "/api/v1/nodes":
		a.mu.Lock()
		defer a.mu.Unlock()
		list := corev1.NodeList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "NodeList"}}
		for _, name := range slices.Sorted(maps.Keys(a.nodes)) {
			list.Items = append(list.Items, *a.nodes[name])
		}
		reply(w, 200, list)
	case strings.HasPrefix(path, "/api/v1/nodes/"):
		a.serveNode(w, r, strings.TrimPrefix(path, "/api/v1/nodes/"))
	case path == "/api/v1/pods" && q.Get("watch") != "":
		a.serveWatch(w, r, strings.TrimPrefix(q.Get("fieldSelector"), "spec.nodeName="))
	case path == "/api/v1/pods":
		a.serveList(w, strings.TrimPrefix(q.Get("fieldSelector"), "spec.nodeName="))
	case strings.HasPrefix(path, "/api/v1/namespaces/") && (r.Method == "POST" || r.Method == "DELETE"):
		a.serveRemoval(w, r)
	default:
		fail(w, metav1.Status{Code: 404, Reason: metav1.StatusReasonNotFound, Message: "not here: " + path})
	}
}

func reply(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(body)
}

func fail(w http.ResponseWriter, s metav1.Status) {
	s.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
	s.Status = metav1.StatusFailure
	if s.Details != nil && s.Details.RetryAfterSeconds > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(s.Details.RetryAfterSeconds)))
	}
	reply(w, int(s.Code), s)
}

// forbid refuses as the RBAC authorizer does.
func (a *twin) forbid(w http.ResponseWriter, verb, resource string) {
	fail(w, metav1.Status{Code: 403, Reason: metav1.StatusReasonForbidden,
		Message: fmt.Sprintf(`%s is forbidden: User "system:node:web-1" cannot %s resource %q in API group "" at the cluster scope`, resource, verb, resource)})
}

func (a *twin) serveNode(w http.ResponseWriter, r *http.Request, name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := a.nodes[name]
	if n == nil {
		fail(w, metav1.Status{Code: 404, Reason: metav1.StatusReasonNotFound, Message: fmt.Sprintf("nodes %q not found", name)})
		return
	}
	if n = n.DeepCopy(); r.Method == "PATCH" {
		var change struct {
			Metadata struct {
				UID                 types.UID
				ResourceVersion     string
				Annotations, Labels map[string]*string
			}
			Spec map[string]*bool
		}
		if err := json.NewDecoder(r.Body).Decode(&change); err != nil || change.Metadata.UID != n.UID || change.Metadata.ResourceVersion != n.ResourceVersion {
			fail(w, metav1.Status{Code: 409, Reason: metav1.StatusReasonConflict, Message: fmt.Sprint("the object has been modified ", err)})
			return
		}
		n.Annotations, n.Labels = merge(n.Annotations, change.Metadata.Annotations), merge(n.Labels, change.Metadata.Labels)
		if v, there := change.Spec["unschedulable"]; there {
			n.Spec.Unschedulable = v != nil && *v
		}
		a.version++
		n.ResourceVersion = strconv.Itoa(a.version)
		a.nodes[name] = n
	}
	n.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}
	reply(w, 200, n)
}

func merge(into map[string]string, change map[string]*string) map[string]string {
	merged := maps.Clone(into)
	if merged == nil {
		merged = map[string]string{}
	}
	for k, v := range change {
		if delete(merged, k); v != nil {
			merged[k] = *v
		}
	}
	return merged
}

func (a *twin) serveList(w http.ResponseWriter, node string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}, ListMeta: metav1.ListMeta{ResourceVersion: strconv.Itoa(a.version)}}
	for _, p := range a.pods {
		if p.Spec.NodeName == node {
			list.Items = append(list.Items, *p)
		}
	}
	reply(w, 200, list)
}

func (a *twin) serveWatch(w http.ResponseWriter, r *http.Request, node string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(200)
	w.(http.Flusher).Flush()
	since, _ := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	for r.Context().Err() == nil {
		a.mu.Lock()
		grown := a.grown
		for _, e := range a.log {
			if e.version > since && e.pod.Spec.NodeName == node {
				e.pod.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
				json.NewEncoder(w).Encode(map[string]any{"type": e.kind, "object": e.pod})
				since = e.version
			}
		}
		a.mu.Unlock()
		w.(http.Flusher).Flush()
		select {
		case <-grown:
		case <-r.Context().Done():
		}
	}
}

// serveRemoval evicts (POST) or deletes.
func (a *twin) serveRemoval(w http.ResponseWriter, r *http.Request) {
	var o metav1.DeleteOptions
	parts := strings.Split(r.URL.Path, "/") // "", api, v1, namespaces, N, pods, P[, eviction]
	if r.Method == "POST" {
		var e policyv1.Eviction
		if err := decode(r, &e); err != nil || e.DeleteOptions == nil {
			fail(w, metav1.Status{Code: 400, Message: fmt.Sprint("no eviction: ", err)})
			return
		}
		o = *e.DeleteOptions
	} else if err := decode(r, &o); err != nil {
		fail(w, metav1.Status{Code: 400, Message: err.Error()})
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.pods[parts[4]+"/"+parts[6]]
	switch {
	case p == nil:
		fail(w, metav1.Status{Code: 404, Reason: metav1.StatusReasonNotFound, Message: "pods not found"})
	case o.Preconditions != nil && o.Preconditions.UID != nil && *o.Preconditions.UID != p.UID:
		fail(w, metav1.Status{Code: 409, Reason: metav1.StatusReasonConflict, Message: "the UID in the precondition does not match"})
	case r.Method == "POST" && a.budgets[p.Labels["app"]].why != "":
		fail(w, metav1.Status{Code: 429, Reason: metav1.StatusReasonTooManyRequests, Message: "Cannot evict pod as it would violate the pod's disruption budget.",
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: policyv1.DisruptionBudgetCause, Message: a.budgets[p.Labels["app"]].why}}}})
	case len(o.DryRun) > 0:
		reply(w, 201, metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusSuccess})
	default:
		a.finish(p.DeepCopy())
		reply(w, 201, metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusSuccess})
	}
}

// decode reads a body that client-go sends, which is protobuf.
func decode(r *http.Request, into any) error {
	data := make([]byte, 1<<16)
	n, _ := r.Body.Read(data)
	object, _, err := codecs.UniversalDeserializer().Decode(data[:n], nil, nil)
	if err != nil {
		return err
	}
	switch into := into.(type) {
	case *policyv1.Eviction:
		*into = *object.(*policyv1.Eviction)
	case *metav1.DeleteOptions:
		*into = *object.(*metav1.DeleteOptions)
	case *authorizationv1.SelfSubjectAccessReview:
		*into = *object.(*authorizationv1.SelfSubjectAccessReview)
	}
	return nil
}

// finish ends a pod, and has its controller make another one elsewhere. The
// caller holds mu.
func (a *twin) finish(p *corev1.Pod) {
	a.evicted = append(a.evicted, p.Namespace+"/"+p.Name)
	if p.DeletionTimestamp != nil {
		return
	}
	at := metav1.NewTime(time.Now().Add(a.ends))
	p.DeletionTimestamp = &at
	a.change("MODIFIED", p)
	if len(p.Finalizers) > 0 {
		return
	}
	a.end.Go(func() {
		<-time.After(a.ends)
		a.vanish(p.Namespace + "/" + p.Name)
	})
}

// soon bounds a call that is to end by itself.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

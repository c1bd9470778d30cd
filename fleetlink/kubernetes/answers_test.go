package kubernetes

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

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
	case r.Method == "GET" && a.serveObject(w, path):
	case path == "/apis/storage.k8s.io/v1/volumeattachments":
		a.forbid(w, "list", "volumeattachments")
	case strings.HasPrefix(path, "/apis/storage.k8s.io/v1/volumeattachments/"):
		a.forbid(w, "get", "volumeattachments") // as the node authorizer says of one that is not there
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
		node := strings.TrimPrefix(q.Get("fieldSelector"), "spec.nodeName=")
		a.serveList(w, func(p *corev1.Pod) bool { return p.Spec.NodeName == node })
	case r.Method == "GET" && path == "/api/v1/namespaces/shop/pods":
		a.serveList(w, func(p *corev1.Pod) bool { return "app="+p.Labels["app"] == q.Get("labelSelector") })
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
		fail(w, metav1.Status{Code: 404, Reason: metav1.StatusReasonNotFound, Message: fmt.Sprintf("nodes %q not found", name), Details: &metav1.StatusDetails{Kind: "nodes", Name: name}})
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
			n.ManagedFields = nil
			if n.Spec.Unschedulable = v != nil && *v; n.Spec.Unschedulable {
				n.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "drydockd", Operation: "Update", APIVersion: "v1", FieldsType: "FieldsV1",
					FieldsV1: &metav1.FieldsV1{Raw: []byte(`{"f:metadata":{"f:annotations":{"f:x":{}}},"f:spec":{"f:unschedulable":{}}}`)}}}
			}
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

// serveObject answers with one of the other objects.
func (a *twin) serveObject(w http.ResponseWriter, path string) bool {
	a.mu.Lock()
	o := a.objects[path]
	a.mu.Unlock()
	if o != nil {
		reply(w, 200, o)
	}
	return o != nil
}

// keep has an object be read at a path; nil: no more.
func (a *twin) keep(path string, o any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.objects[path] = o
}

func (a *twin) serveList(w http.ResponseWriter, match func(*corev1.Pod) bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}, ListMeta: metav1.ListMeta{ResourceVersion: strconv.Itoa(a.version)}}
	for _, p := range a.pods {
		if match(p) {
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

// at is a time as objects have it.
func at(t time.Time) *metav1.Time {
	m := metav1.NewTime(t)
	return &m
}

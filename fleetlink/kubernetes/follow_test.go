package kubernetes

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/drydock-os/drydock/fleetlink"
)

// watches answers the n-th watch, from 1, with fault.
func watches(fault func(n int64, w http.ResponseWriter, r *http.Request) bool) func(http.ResponseWriter, *http.Request) bool {
	var n atomic.Int64
	return only("GET /api/v1/pods", func(w http.ResponseWriter, r *http.Request) bool {
		return r.URL.Query().Get("watch") != "" && fault(n.Add(1), w, r)
	})
}

// TestWatchThatFails: a list that works and a watch that does not are not asked
// three times a second.
func TestWatchThatFails(t *testing.T) {
	for name, fault := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"500":          says(metav1.Status{Code: 500, Message: "etcdserver: no leader"}),
		"ends at once": func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(200); return true },
		"expired": func(w http.ResponseWriter, r *http.Request) bool {
			return frame(w, "ERROR", metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure", Code: 410, Reason: metav1.StatusReasonExpired})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newTwin(t)
			a.place(nodeName, "held")
			a.refuse("held", "The disruption budget held needs 1 healthy pods and has 1 currently")
			a.obstruct(watches(func(_ int64, w http.ResponseWriter, r *http.Request) bool { return fault(w, r) }))
			log, _, stop := begin(t, a.link(t, Options{Retry: 5 * time.Second}), fleetlink.Order{})
			log.says(t, "shop/held")
			<-time.After(8 * time.Second)
			stop()
			a.mu.Lock()
			defer a.mu.Unlock()
			if n := a.asked["GET /api/v1/pods"]; n > 16 {
				t.Errorf("pods were listed and watched %d times in 8 s", n)
			}
		})
	}
}

// frame sends one event of a watch.
func frame(w http.ResponseWriter, kind string, o any) bool {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{"type": kind, "object": o})
	w.(http.Flusher).Flush()
	return true
}

// TestMissingRightToWatch ends a drain with its name: lists that work say nothing
// of it.
func TestMissingRightToWatch(t *testing.T) {
	t.Parallel()
	a := newTwin(t)
	a.place(nodeName, "held")
	a.refuse("held", "The disruption budget held needs 1 healthy pods and has 1 currently")
	a.obstruct(watches(func(_ int64, w http.ResponseWriter, r *http.Request) bool {
		return says(metav1.Status{Code: 403, Reason: metav1.StatusReasonForbidden,
			Message: `pods is forbidden: User "x" cannot watch resource "pods" in API group "" at the cluster scope`})(w, r)
	}))
	log, done, _ := begin(t, a.link(t, Options{}), fleetlink.Order{})
	log.says(t, "the Kubernetes API", "lacks the right to watch pods")
	if err := wait(t, done); err == nil || !strings.Contains(err.Error(), "lacks the right to watch pods") {
		t.Errorf("got %v", err)
	}
}

// TestDenialsApart: what is denied, then answered, then denied is not denied for
// as long as that took.
func TestDenialsApart(t *testing.T) {
	t.Parallel()
	a := newTwin(t)
	a.place(nodeName, "a")
	var n atomic.Int64
	a.obstruct(only(evictions, func(w http.ResponseWriter, r *http.Request) bool {
		switch k := n.Add(1); {
		case k > 3:
			return false
		case k%2 == 1:
			return says(metav1.Status{Code: 403, Reason: metav1.StatusReasonForbidden,
				Message: `pods "a" is forbidden: User "x" cannot create resource "pods/eviction" in API group "" in the namespace "shop"`})(w, r)
		}
		return says(metav1.Status{Code: 429, Reason: metav1.StatusReasonTooManyRequests, Message: "busy", Details: &metav1.StatusDetails{RetryAfterSeconds: 11}})(w, r)
	}))
	_, done, _ := begin(t, a.link(t, Options{}), fleetlink.Order{})
	if err := wait(t, done); err != nil {
		t.Error(err)
	}
}

// TestExpired: a version that the server has forgotten is no trouble, and what
// happened meanwhile is seen.
func TestExpired(t *testing.T) {
	for name, fault := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"as an event": func(w http.ResponseWriter, _ *http.Request) bool {
			return frame(w, "ERROR", metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure", Code: 410,
				Reason: metav1.StatusReasonExpired, Message: "too old resource version"})
		},
		"as an answer": says(metav1.Status{Code: 410, Reason: metav1.StatusReasonGone, Message: "too old resource version"}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newTwin(t)
			a.place(nodeName, "a", func(p *corev1.Pod) { p.Finalizers = []string{"example.com/x"} })
			a.obstruct(watches(func(n int64, w http.ResponseWriter, r *http.Request) bool {
				if n > 1 {
					return false
				}
				a.vanish("shop/a")
				a.place(nodeName, "b")
				return fault(w, r)
			}))
			log, done, _ := begin(t, a.link(t, Options{}), fleetlink.Order{})
			if err := wait(t, done); err != nil || len(a.on(nodeName)) > 0 {
				t.Errorf("%v; here are %v", err, a.on(nodeName))
			}
			for _, line := range log.all {
				if strings.Contains(line, "too old") {
					t.Errorf("it told %q", line)
				}
			}
		})
	}
}

// TestBookmark: a watch goes on from the version that a bookmark named, without
// another list.
func TestBookmark(t *testing.T) {
	t.Parallel()
	a := newTwin(t)
	a.place(nodeName, "held")
	release := a.refuse("held", "The disruption budget held needs 1 healthy pods and has 1 currently")
	var from atomic.Value
	a.obstruct(watches(func(n int64, w http.ResponseWriter, r *http.Request) bool {
		if n == 2 {
			from.Store(r.URL.Query().Get("resourceVersion"))
			release()
		}
		if n > 1 {
			return false
		}
		a.mu.Lock()
		a.version += 1000
		version := strconv.Itoa(a.version)
		a.mu.Unlock()
		frame(w, "BOOKMARK", corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{ResourceVersion: version}})
		<-time.After(lively + time.Second)
		return true
	}))
	_, done, _ := begin(t, a.link(t, Options{Retry: 300 * time.Millisecond}), fleetlink.Order{})
	if err := wait(t, done); err != nil {
		t.Fatal(err)
	}
	if got := from.Load(); got == nil || got.(string) < "1000" {
		t.Errorf("the second watch began at %v", got)
	}
	if n := a.asked["GET /api/v1/pods"]; n != 4 {
		t.Errorf("pods were asked for %d times, want a list, two watches and the look at the end", n)
	}
}

// TestSilenceIsTold: a drain that hears nothing from the beginning says so.
func TestSilenceIsTold(t *testing.T) {
	for name, prefix := range map[string]string{"of the node": "GET /api/v1/nodes", "of the pods": "GET /api/v1/pods"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newTwin(t)
			a.place(nodeName, "a")
			l := a.link(t, Options{Node: nodeName})
			if err := l.Cordon(soon(t), "test"); err != nil {
				t.Fatal(err)
			}
			speak := a.obstruct(only(prefix, says(metav1.Status{Code: 500, Message: "etcdserver: no leader"})))
			log, done := &told{}, make(chan error, 1)
			go func() { done <- l.Drain(soon(t), fleetlink.Order{Progress: log.progress}) }()
			log.says(t, "the Kubernetes API", "etcdserver: no leader")
			<-time.After(checkEvery + time.Second) // the node's answer says nothing of the pods'
			log.mu.Lock()
			if len(log.last) != 1 {
				t.Errorf("what it told last is %v", log.last)
			}
			log.mu.Unlock()
			speak()
			if err := wait(t, done); err != nil {
				t.Error(err)
			}
		})
	}
}

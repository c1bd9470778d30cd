package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/drydock-os/drydock/fleetlink"
)

// A log keeps what a drain told.
type told struct {
	mu   sync.Mutex
	last []fleetlink.Workload
	all  []string
}

func (l *told) progress(left []fleetlink.Workload) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = left
	for _, w := range left {
		l.all = append(l.all, w.String())
	}
}

// says waits until something was told that contains all the words.
func (l *told) says(t *testing.T, words ...string) {
	t.Helper()
	for ctx := soon(t); ; {
		l.mu.Lock()
		said := slices.ContainsFunc(l.all, func(line string) bool {
			return !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(line, word) })
		})
		l.mu.Unlock()
		if said {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("never told %v; last %v", words, l.last)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// begin cordons and drains in the background; the channel has the drain's error.
func begin(t *testing.T, l *Link, o fleetlink.Order) (*told, <-chan error, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithCancel(soon(t))
	if err := l.Cordon(ctx, "test"); err != nil {
		t.Fatal(err)
	}
	log, done := &told{}, make(chan error, 1)
	o.Progress = log.progress
	go func() { done <- l.Drain(ctx, o) }()
	t.Cleanup(cancel)
	return log, done, cancel
}

func wait(t *testing.T, done <-chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-soon(t).Done():
		t.Fatal("the drain did not end")
		return nil
	}
}

// TestWhatStays: a drain leaves what kubectl leaves, and takes what it takes.
func TestWhatStays(t *testing.T) {
	a := newTwin(t)
	mirror := func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"} }
	finished := func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded; p.OwnerReferences = nil }
	a.place(nodeName, "logs", ownedBy("DaemonSet", "logs"))
	a.place(nodeName, "apiserver", ownedBy("Node", nodeName), mirror)
	a.place(nodeName, "job", finished)
	a.place(nodeName, "web")
	a.place("web-2", "other")
	_, done, _ := begin(t, a.link(t, Options{}), fleetlink.Order{})
	if err := wait(t, done); err != nil {
		t.Fatal(err)
	}
	if got, want := a.on(nodeName), []string{"shop/apiserver", "shop/logs"}; !slices.Equal(got, want) {
		t.Errorf("%v are here, want %v", got, want)
	}
	if got := a.on("web-2"); len(got) != 1 {
		t.Errorf("another node's pods: %v", got)
	}
}

// TestForcedKinds: by force goes what the policy would not evict, but by deletion
// and with its time to end.
func TestForcedKinds(t *testing.T) {
	a := newTwin(t)
	a.place(nodeName, "alone", func(p *corev1.Pod) { p.OwnerReferences = nil })
	a.place(nodeName, "held")
	a.refuse("held", "The disruption budget held needs 1 healthy pods and has 1 currently")
	log, done, stop := begin(t, a.link(t, Options{}), fleetlink.Order{})
	log.says(t, "shop/alone", "no controller")
	log.says(t, "shop/held", "The disruption budget held needs 1")
	stop()
	if err := wait(t, done); !errors.Is(err, context.Canceled) {
		t.Errorf("a drain that was stopped: %v", err)
	}
	_, done, _ = begin(t, a.link(t, Options{GracePeriod: 7 * time.Second}), fleetlink.Order{Force: true})
	if err := wait(t, done); err != nil {
		t.Fatal(err)
	}
	if got := a.on(nodeName); len(got) > 0 {
		t.Errorf("%v are here", got)
	}
}

// TestRetryAfter: what the server asks for is waited, and by nobody else.
func TestRetryAfter(t *testing.T) {
	a := newTwin(t)
	a.place(nodeName, "busy")
	a.place(nodeName, "free")
	var mu sync.Mutex
	var asked []time.Time
	a.obstruct(only(evictions+"shop/pods/busy", func(w http.ResponseWriter, _ *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if asked = append(asked, time.Now()); len(asked) > 1 {
			return false
		}
		fail(w, metav1.Status{Code: 429, Reason: metav1.StatusReasonTooManyRequests, Message: "busy", Details: &metav1.StatusDetails{RetryAfterSeconds: 2}})
		return true
	}))
	log, done, _ := begin(t, a.link(t, Options{InFlight: 1}), fleetlink.Order{})
	log.says(t, "shop/busy: busy")
	if err := wait(t, done); err != nil {
		t.Fatal(err)
	}
	if len(asked) != 2 || asked[1].Sub(asked[0]) < 2*time.Second {
		t.Errorf("asked at %v, want twice, 2 s between", asked)
	}
	if a.evicted[0] != "shop/free" {
		t.Errorf("evicted %v: one pod's wait held another up", a.evicted)
	}
}

// TestServerThatComesBack: a drain outlives an API server that hangs, fails, or
// ends its watches.
func TestServerThatComesBack(t *testing.T) {
	for name, fault := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"hangs": hang,
		"500":   says(metav1.Status{Code: 500, Message: "etcdserver: request timed out"}),
		"503":   says(metav1.Status{Code: 503, Reason: metav1.StatusReasonServiceUnavailable, Message: "shutting down", Details: &metav1.StatusDetails{RetryAfterSeconds: 2}}),
		"cut": func(w http.ResponseWriter, _ *http.Request) bool {
			panic(http.ErrAbortHandler)
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := newTwin(t)
			names := []string{a.place(nodeName, "a"), a.place(nodeName, "b")}
			release := a.refuse("b", "The disruption budget b needs 1 healthy pods and has 1 currently")
			log, done, _ := begin(t, a.link(t, Options{Timeout: 3 * time.Second}), fleetlink.Order{})
			log.says(t, names[1], "The disruption budget b")
			speak := a.obstruct(fault)
			a.CloseClientConnections()
			log.says(t, "b", map[string]string{"hangs": "does not answer", "500": "etcdserver", "503": "shutting down", "cut": "does not answer"}[name])
			release()
			speak()
			if err := wait(t, done); err != nil {
				t.Fatal(err)
			}
			if got := a.on(nodeName); len(got) > 0 {
				t.Errorf("%v are here", got)
			}
		})
	}
}

// TestWatchThatLies: a pod that nobody told of is found before the drain says that
// it is done, and one that is told of for ever is not believed to be here.
func TestWatchThatLies(t *testing.T) {
	a := newTwin(t)
	a.place(nodeName, "a")
	once := atomic.Bool{}
	a.obstruct(only("GET /api/v1/pods", func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case r.URL.Query().Get("watch") != "":
			return hang(w, r) // headers never come
		case once.Swap(true):
			return false
		}
		p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "ghost", UID: "ghost"}, Spec: corev1.PodSpec{NodeName: nodeName}}
		ownedBy("ReplicaSet", "ghost")(&p)
		reply(w, 200, corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}, ListMeta: metav1.ListMeta{ResourceVersion: "1"}, Items: []corev1.Pod{p}})
		return true
	}))
	_, done, _ := begin(t, a.link(t, Options{Timeout: 3 * time.Second}), fleetlink.Order{})
	if err := wait(t, done); err != nil {
		t.Fatal(err)
	}
	if got := a.on(nodeName); len(got) > 0 {
		t.Errorf("%v are here", got)
	}
}

// TestSameName: another pod under the name of one that was seen is not evicted in
// its stead, and leaves as itself.
func TestSameName(t *testing.T) {
	a := newTwin(t)
	a.place(nodeName, "db-0")
	swapped := atomic.Bool{}
	a.obstruct(only(evictions, func(w http.ResponseWriter, r *http.Request) bool {
		if !swapped.Swap(true) {
			a.vanish("shop/db-0")
			a.place(nodeName, "db-0")
		}
		return false
	}))
	_, done, _ := begin(t, a.link(t, Options{}), fleetlink.Order{})
	if err := wait(t, done); err != nil {
		t.Fatal(err)
	}
	if len(a.evicted) != 1 || len(a.on(nodeName)) > 0 {
		t.Errorf("evicted %v, here %v", a.evicted, a.on(nodeName))
	}
	if got := a.asked["POST /api/v1/namespaces/shop/pods/db-0/eviction"]; got != 2 {
		t.Errorf("%d evictions asked for, want one of each pod", got)
	}
}

// TestGoneThatIsNot: an API server that has just begun says of a pod that is there
// that it is not (seen on 1.34, whose NodeRestriction asks a cache).
func TestGoneThatIsNot(t *testing.T) {
	a := newTwin(t)
	a.place(nodeName, "a")
	once := atomic.Bool{}
	a.obstruct(only(evictions, func(w http.ResponseWriter, r *http.Request) bool {
		return !once.Swap(true) && says(metav1.Status{Code: 404, Reason: metav1.StatusReasonNotFound, Message: `pod "a" not found`})(w, r)
	}))
	_, done, _ := begin(t, a.link(t, Options{}), fleetlink.Order{})
	if err := wait(t, done); err != nil {
		t.Fatal(err)
	}
	if got := a.on(nodeName); len(got) > 0 {
		t.Errorf("%v are here", got)
	}
}

// TestNodeThatGoes: nobody waits for the pods of a node that is not there.
func TestNodeThatGoes(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*twin)
		want   string
	}{
		"deleted": {func(a *twin) {
			a.mu.Lock()
			delete(a.nodes, nodeName)
			a.mu.Unlock()
			a.vanish("shop/a")
		}, "is not in the cluster"},
		"opened": {func(a *twin) {
			a.editNode(nodeName, func(n *corev1.Node) { n.Spec.Unschedulable = false })
			a.vanish("shop/a")
		}, "somebody took the cordon off"},
		"made anew": {func(a *twin) {
			a.editNode(nodeName, func(n *corev1.Node) { n.Annotations, n.Spec.Unschedulable = nil, false })
			a.vanish("shop/a")
		}, "not out of service on our word"},
		"our word taken": {func(a *twin) { a.editNode(nodeName, func(n *corev1.Node) { n.Annotations = nil }); a.vanish("shop/a") }, "is cordoned, by us, and annotation"},
		"stolen": {func(a *twin) {
			a.editNode(nodeName, func(n *corev1.Node) { n.Status.NodeInfo.MachineID = strings.Repeat("f", 32) })
			a.vanish("shop/a")
		}, "two machines use its name"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newTwin(t)
			a.place(nodeName, "a")
			a.refuse("a", "The disruption budget a needs 1 healthy pods and has 1 currently")
			log, done, _ := begin(t, a.link(t, Options{}), fleetlink.Order{})
			log.says(t, "shop/a")
			c.change(a)
			if err := wait(t, done); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// TestInFlight bounds what is asked at a time.
func TestInFlight(t *testing.T) {
	a := newTwin(t)
	for i := range 40 {
		a.place(nodeName, fmt.Sprintf("web-%d", i))
	}
	var now, most atomic.Int64
	a.obstruct(only(evictions, func(http.ResponseWriter, *http.Request) bool {
		n := now.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		<-time.After(10 * time.Millisecond)
		now.Add(-1)
		return false
	}))
	_, done, _ := begin(t, a.link(t, Options{InFlight: 4}), fleetlink.Order{})
	if err := wait(t, done); err != nil {
		t.Fatal(err)
	}
	if most.Load() > 4 {
		t.Errorf("%d evictions at a time, want 4", most.Load())
	}
	lists := a.asked["GET /api/v1/pods"]
	if lists > 8 {
		t.Errorf("pods were read %d times: a list, a watch and the look at the end are 3", lists)
	}
	for path, n := range a.asked {
		if strings.HasPrefix(path, "GET /api/v1/namespaces/") {
			t.Errorf("%s was polled %d times", path, n)
		}
	}
}

// TestLoadBalancers have their time before the first pod leaves.
func TestLoadBalancers(t *testing.T) {
	a := newTwin(t)
	a.place(nodeName, "a")
	began := time.Now()
	log, done, _ := begin(t, a.link(t, Options{LeaveLoadBalancers: true, LoadBalancerWait: 1500 * time.Millisecond}), fleetlink.Order{})
	log.says(t, "shop/a", "load balancers are given until")
	if err := wait(t, done); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 1400*time.Millisecond {
		t.Errorf("drained after %s", took)
	}
}

// TestLabelThatComesLater: a label that is set after the cordon has its wait as
// well.
func TestLabelThatComesLater(t *testing.T) {
	a := newTwin(t)
	a.place(nodeName, "a")
	early := a.link(t, Options{Now: func() time.Time { return time.Now().Add(-time.Hour) }})
	if err := early.Cordon(soon(t), "test"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	l := a.link(t, Options{LeaveLoadBalancers: true, LoadBalancerWait: 2 * time.Second})
	if err := l.Cordon(soon(t), "test"); err != nil {
		t.Fatal(err)
	}
	if err := l.Drain(soon(t), fleetlink.Order{}); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 1900*time.Millisecond {
		t.Errorf("the first pod left after %s", took)
	}
	if err := l.Resume(soon(t)); err != nil || a.readNode(nodeName).Labels[Exclude] != "" {
		t.Errorf("%v %v", err, a.readNode(nodeName).Labels)
	}
}

// TestVolumes are detached before a drain is done.
func TestVolumes(t *testing.T) {
	a := newTwin(t)
	a.place(nodeName, "db")
	a.editNode(nodeName, func(n *corev1.Node) {
		n.Status.VolumesAttached = []corev1.AttachedVolume{{Name: "kubernetes.io/csi/disk.example.com^vol-1"}}
	})
	log, done, _ := begin(t, a.link(t, Options{}), fleetlink.Order{})
	log.says(t, "volume kubernetes.io/csi/disk.example.com^vol-1", "attached to this node")
	s, err := a.link(t, Options{}).Standing(soon(t))
	if err != nil || s.Drained() {
		t.Errorf("with a volume attached: %+v, %v", s, err)
	}
	a.editNode(nodeName, func(n *corev1.Node) { n.Status.VolumesAttached = nil })
	if err := wait(t, done); err != nil {
		t.Fatal(err)
	}
}

// TestMissingRightEndsADrain: it would never come by waiting.
func TestMissingRightEndsADrain(t *testing.T) {
	a := newTwin(t)
	a.place(nodeName, "a")
	a.obstruct(only(evictions, says(metav1.Status{Code: 403, Reason: metav1.StatusReasonForbidden,
		Message: `pods "a" is forbidden: User "x" cannot create resource "pods/eviction" in API group "" in the namespace "shop"`})))
	_, done, _ := begin(t, a.link(t, Options{}), fleetlink.Order{})
	err := wait(t, done)
	if u := (fleetlink.Unfinished{}); !errors.As(err, &u) || !strings.Contains(err.Error(), "lacks the right to create pods/eviction") {
		t.Errorf("got %v", err)
	}
}

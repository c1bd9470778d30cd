package kubetest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// NeverEnds is the annotation of a pod that its kubelet does not end.
const NeverEnds = "kubetest/never-ends"

// A Kubelet plays one node's, with a kubelet's rights and no others. It registers
// its node, keeps its lease, says of each pod on it that it runs and is ready, and
// ends those that are deleted. It was modelled on what kubelet 1.34 sends.
type Kubelet struct {
	*API
	Name, MachineID string
	// Kubeconfig is its credential.
	Kubeconfig string
	// Starts and Ends are how long its pods take to.
	Starts, Ends time.Duration

	plane  *Plane
	boot   atomic.Pointer[string]
	stop   context.CancelFunc
	done   sync.WaitGroup
	mu     sync.Mutex
	busy   map[types.UID]bool
	labels map[string]string
}

// now is the clock of these machines.
func now() time.Time { return time.Now() }

// Join has a node join the cluster, and returns when it takes pods. It ends with
// the plane, or with Leave.
func (p *Plane) Join(name string, labels map[string]string) *Kubelet {
	p.t.Helper()
	return p.JoinAs(Machine{Name: name, ID: machineID(name), Boot: name + "-boot-1"}, labels)
}

// A Machine is what a kubelet reads of the one that it runs on.
type Machine struct{ Name, ID, Boot string }

// JoinAs is Join for a machine that says itself who it is.
func (p *Plane) JoinAs(m Machine, labels map[string]string) *Kubelet {
	p.t.Helper()
	k := &Kubelet{Name: m.Name, MachineID: m.ID, plane: p, Starts: 50 * time.Millisecond, Ends: 50 * time.Millisecond,
		busy: map[types.UID]bool{}, labels: labels}
	k.Kubeconfig = p.Kubeconfig("system:node:"+m.Name, "system:nodes")
	k.boot.Store(&m.Boot)
	var err error
	k.API, err = newAPI(k.Kubeconfig)
	p.must("make a kubelet's client", err)
	p.Register(k)
	k.begin()
	p.t.Cleanup(k.Leave)
	p.Until("node "+m.Name+" is ready", func(ctx context.Context) bool {
		n := &corev1.Node{}
		return p.Read(ctx, "/api/v1/nodes/"+m.Name, metav1.ListOptions{}, n) == nil && len(n.Spec.Taints) == 0
	})
	return k
}

// begin is the kubelet's start.
func (k *Kubelet) begin() {
	ctx, cancel := context.WithCancel(context.Background())
	k.stop = cancel
	k.done.Go(func() { k.beat(ctx) })
	k.done.Go(func() { k.serve(ctx) })
}

// machineID makes one of a name.
func machineID(name string) string {
	return (strings.ToLower(fmt.Sprintf("%x", name)) + strings.Repeat("0", 32))[:32]
}

// Register makes the node, as its kubelet does when it starts.
func (p *Plane) Register(k *Kubelet) {
	p.t.Helper()
	labels := map[string]string{"kubernetes.io/hostname": k.Name}
	for key, value := range k.labels {
		labels[key] = value
	}
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: k.Name, Labels: labels}, Status: k.status()}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	p.must("register node "+k.Name, k.Create(ctx, "/api/v1/nodes", n))
}

// BootID is the one of its machine now.
func (k *Kubelet) BootID() string { return *k.boot.Load() }

// Leave ends the kubelet, as a machine that is switched off.
func (k *Kubelet) Leave() {
	k.stop()
	k.done.Wait()
}

// PowerOn boots a machine that was switched off: its kubelet reports the node. It
// says nothing yet of the pods that were on it before: see Revive.
func (k *Kubelet) PowerOn(ctx context.Context, boot string) error {
	k.boot.Store(&boot)
	k.begin()
	return k.Report(ctx)
}

// Reboot has the machine come up anew: another boot-id, which the kubelet reports
// before it has looked at its pods, and all their containers started since.
func (k *Kubelet) Reboot(ctx context.Context) error {
	k.Boot()
	if err := k.Report(ctx); err != nil {
		return err
	}
	return k.Revive(ctx)
}

// Boot gives the machine another boot-id, of which nobody knows yet.
func (k *Kubelet) Boot() {
	boot := k.BootID() + "+"
	k.boot.Store(&boot)
}

// Revive starts the containers of all pods that are on the node.
func (k *Kubelet) Revive(ctx context.Context) error {
	var list corev1.PodList
	if err := k.Read(ctx, "/api/v1/pods", metav1.ListOptions{FieldSelector: "spec.nodeName=" + k.Name}, &list); err != nil {
		return err
	}
	for i := range list.Items {
		if err := k.run(ctx, &list.Items[i]); err != nil {
			return err
		}
	}
	return nil
}

func (k *Kubelet) status() corev1.NodeStatus {
	room := corev1.ResourceList{"cpu": resource.MustParse("64"), "memory": resource.MustParse("256Gi"), "pods": resource.MustParse("1000")}
	at := metav1.NewTime(now())
	s := corev1.NodeStatus{Capacity: room, Allocatable: room}
	s.NodeInfo = corev1.NodeSystemInfo{MachineID: k.MachineID, BootID: k.BootID(), KubeletVersion: "v1.34.2", OperatingSystem: "linux", Architecture: "amd64"}
	s.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", LastHeartbeatTime: at, LastTransitionTime: at}}
	return s
}

// Report says what its node is.
func (k *Kubelet) Report(ctx context.Context) error {
	return k.Patch(ctx, "/api/v1/nodes/"+k.Name+"/status", map[string]any{"status": k.status()})
}

// beat keeps the node's lease.
func (k *Kubelet) beat(ctx context.Context) {
	const leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
	seconds := int32(40)
	for ctx.Err() == nil {
		at := metav1.NewMicroTime(now())
		renewal := map[string]any{"spec": map[string]any{"renewTime": at}}
		if k.Patch(ctx, leases+"/"+k.Name, renewal) != nil {
			l := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: k.Name, Namespace: "kube-node-lease"},
				Spec: coordinationv1.LeaseSpec{HolderIdentity: &k.Name, LeaseDurationSeconds: &seconds, RenewTime: &at}}
			k.Create(ctx, leases, l) // again in ten seconds, if that did not work
			k.Report(ctx)
		}
		wait(ctx, 10*time.Second)
	}
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// serve runs and ends pods.
func (k *Kubelet) serve(ctx context.Context) {
	for ctx.Err() == nil {
		k.spell(ctx)
		wait(ctx, 200*time.Millisecond)
	}
}

// spell is one list and one watch.
func (k *Kubelet) spell(ctx context.Context) {
	seconds := int64(15) // what an API server that had just begun denied is tried again
	o := metav1.ListOptions{FieldSelector: "spec.nodeName=" + k.Name, TimeoutSeconds: &seconds}
	var list corev1.PodList
	if k.Read(ctx, "/api/v1/pods", o, &list) != nil {
		return
	}
	for i := range list.Items {
		k.see(ctx, &list.Items[i])
	}
	o.ResourceVersion = list.ResourceVersion
	w, err := k.Watch(ctx, "/api/v1/pods", o)
	if err != nil {
		return
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case e, open := <-w.ResultChan():
			if !open || e.Type == watch.Error {
				return
			}
			if o, isPod := e.Object.(*corev1.Pod); isPod && e.Type != watch.Deleted {
				k.see(ctx, o)
			}
		}
	}
}

// see does what a pod's state asks for, one thing at a time.
func (k *Kubelet) see(ctx context.Context, o *corev1.Pod) {
	delay, act := k.Starts, func() error { return k.run(ctx, o) }
	switch {
	case o.DeletionTimestamp != nil && (o.Annotations[NeverEnds] != "" || len(o.Finalizers) > 0 && o.DeletionGracePeriodSeconds != nil && *o.DeletionGracePeriodSeconds == 0):
		return
	case o.DeletionTimestamp != nil:
		delay, act = k.Ends, func() error { return k.kill(ctx, o) }
	case o.Status.Phase != corev1.PodPending:
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.busy[o.UID] {
		return
	}
	k.busy[o.UID] = true
	k.done.Add(1)
	time.AfterFunc(delay, func() {
		defer k.done.Done()
		for ctx.Err() == nil && act() != nil {
			wait(ctx, 500*time.Millisecond)
		}
		k.mu.Lock()
		delete(k.busy, o.UID)
		k.mu.Unlock()
		k.again(ctx, o)
	})
}

// again looks at a pod that may have been told to end meanwhile.
func (k *Kubelet) again(ctx context.Context, o *corev1.Pod) {
	now := &corev1.Pod{}
	err := k.Read(ctx, "/api/v1/namespaces/"+o.Namespace+"/pods/"+o.Name, metav1.ListOptions{}, now)
	if err == nil && now.UID == o.UID && now.DeletionTimestamp != nil && o.DeletionTimestamp == nil {
		k.see(ctx, now)
	}
}

// run says that a pod runs and is ready, since now.
func (k *Kubelet) run(ctx context.Context, o *corev1.Pod) error {
	at := metav1.NewTime(now())
	s := corev1.PodStatus{Phase: corev1.PodRunning, StartTime: &at, PodIP: "10.1.0.1", HostIP: "127.0.0.1"}
	for _, c := range []corev1.PodConditionType{corev1.PodScheduled, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady} {
		s.Conditions = append(s.Conditions, corev1.PodCondition{Type: c, Status: corev1.ConditionTrue, LastTransitionTime: at})
	}
	for _, c := range o.Spec.Containers {
		s.ContainerStatuses = append(s.ContainerStatuses, corev1.ContainerStatus{Name: c.Name, Ready: true, Image: c.Image,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: at}}})
	}
	err := k.Patch(ctx, "/api/v1/namespaces/"+o.Namespace+"/pods/"+o.Name+"/status", map[string]any{"metadata": map[string]any{"uid": o.UID}, "status": s})
	if err != nil && !k.Exists(ctx, "/api/v1/namespaces/"+o.Namespace+"/pods/"+o.Name) && ctx.Err() == nil {
		return nil
	}
	return err
}

// kill removes a pod that has ended.
func (k *Kubelet) kill(ctx context.Context, o *corev1.Pod) error {
	zero := int64(0)
	return k.Delete(ctx, "/api/v1/namespaces/"+o.Namespace+"/pods/"+o.Name,
		metav1.DeleteOptions{GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &o.UID}})
}

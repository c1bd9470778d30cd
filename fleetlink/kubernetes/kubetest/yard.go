package kubetest

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// A Yard is a namespace and nodes of its own in a Plane: what is scheduled in it
// runs on those nodes alone.
type Yard struct {
	*Plane
	Namespace string
	Nodes     []*Kubelet
}

// yards counts them.
var yards atomic.Int64

// Yard makes a yard of so many nodes, which goes with the test.
func (p *Plane) Yard(nodes int) *Yard {
	p.t.Helper()
	y := &Yard{Plane: p, Namespace: fmt.Sprintf("yard-%d", yards.Add(1))}
	ctx := context.Background()
	p.must("make a namespace", p.Create(ctx, "/api/v1/namespaces", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: y.Namespace}}))
	p.Until("pods can be made in "+y.Namespace, func(ctx context.Context) bool {
		return p.Exists(ctx, y.Path("serviceaccounts", "default"))
	})
	for i := range nodes {
		y.Nodes = append(y.Nodes, p.Join(fmt.Sprintf("%s-n%d", y.Namespace, i), map[string]string{"yard": y.Namespace}))
	}
	return y
}

// Add has a machine join the yard.
func (y *Yard) Add(m Machine) *Kubelet {
	y.t.Helper()
	k := y.JoinAs(m, map[string]string{"yard": y.Namespace})
	y.Nodes = append(y.Nodes, k)
	return k
}

// Close takes the yard's nodes and pods away.
func (y *Yard) Close() {
	ctx := context.Background()
	y.Delete(ctx, "/api/v1/namespaces/"+y.Namespace, metav1.DeleteOptions{})
	for _, k := range y.Nodes {
		y.Delete(ctx, "/api/v1/nodes/"+k.Name, metav1.DeleteOptions{})
		k.Leave()
	}
}

// Path is that of an object of the yard; an empty name: of the collection.
func (y *Yard) Path(resource, name string) string {
	group := map[string]string{"replicasets": "/apis/apps/v1", "deployments": "/apis/apps/v1", "daemonsets": "/apis/apps/v1",
		"statefulsets": "/apis/apps/v1", "poddisruptionbudgets": "/apis/policy/v1"}[resource]
	if group == "" {
		group = "/api/v1"
	}
	return strings.TrimSuffix(group+"/namespaces/"+y.Namespace+"/"+resource+"/"+name, "/")
}

// Template is the yard's pods, with a label app.
func (y *Yard) Template(app string) corev1.PodTemplateSpec {
	grace := int64(2)
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}}, Spec: corev1.PodSpec{
		TerminationGracePeriodSeconds: &grace, NodeSelector: map[string]string{"yard": y.Namespace},
		Containers: []corev1.Container{{Name: "main", Image: "example.com/nothing"}}}}
}

// Pod makes a pod on a node, which a ReplicaSet of one then takes as its own: where
// it leaves, another one comes elsewhere. It returns when it is ready.
func (y *Yard) Pod(node *Kubelet, app string, as ...func(*corev1.Pod)) string {
	y.t.Helper()
	ctx := context.Background()
	t := y.Template(app)
	pod := &corev1.Pod{ObjectMeta: t.ObjectMeta, Spec: *t.Spec.DeepCopy()}
	pod.Name, pod.Namespace, pod.Spec.NodeName = app, y.Namespace, node.Name
	alone := false
	for _, f := range as {
		f(pod)
		alone = true
	}
	y.must("make a pod", y.Create(ctx, y.Path("pods", ""), pod))
	if !alone {
		one := int32(1)
		set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: app, Namespace: y.Namespace}, Spec: appsv1.ReplicaSetSpec{
			Replicas: &one, Selector: &metav1.LabelSelector{MatchLabels: t.Labels}, Template: t}}
		y.must("make a ReplicaSet", y.Create(ctx, y.Path("replicasets", ""), set))
	}
	y.Until("pod "+app+" is ready and has its owner", func(ctx context.Context) bool {
		var now corev1.Pod
		return y.Read(ctx, y.Path("pods", app), metav1.ListOptions{}, &now) == nil && Ready(&now) && (alone || len(now.OwnerReferences) > 0)
	})
	return y.Namespace + "/" + app
}

// Ready reports whether a pod is ready and not told to end.
func Ready(o *corev1.Pod) bool {
	for _, c := range o.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue && o.DeletionTimestamp == nil
		}
	}
	return false
}

// Deployment makes one, and returns when its pods are ready.
func (y *Yard) Deployment(app string, replicas int32, wait bool) {
	y.t.Helper()
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: app, Namespace: y.Namespace}, Spec: appsv1.DeploymentSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}, Template: y.Template(app)}}
	y.must("make a Deployment", y.Create(context.Background(), y.Path("deployments", ""), d))
	if wait {
		y.AwaitDeployment(app, replicas)
	}
}

// DaemonSet makes one, and returns when all its pods are ready.
func (y *Yard) DaemonSet(app string) {
	y.t.Helper()
	set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: app, Namespace: y.Namespace}, Spec: appsv1.DaemonSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}, Template: y.Template(app)}}
	y.must("make a DaemonSet", y.Create(context.Background(), y.Path("daemonsets", ""), set))
	y.Until("the pods of DaemonSet "+app+" are ready", func(ctx context.Context) bool {
		var d appsv1.DaemonSet
		return y.Read(ctx, y.Path("daemonsets", app), metav1.ListOptions{}, &d) == nil && int(d.Status.NumberReady) == len(y.Nodes)
	})
}

// Stick keeps a pod's kubelet from ending it, until release.
func (y *Yard) Stick(pod string) (release func()) {
	y.t.Helper()
	annotate := func(value any) {
		y.must("annotate a pod", y.Patch(context.Background(), y.Path("pods", pod), map[string]any{"metadata": map[string]any{"annotations": map[string]any{NeverEnds: value}}}))
	}
	annotate("yes")
	return func() { annotate(nil) }
}

// AwaitDeployment returns when a Deployment's pods are ready.
func (y *Yard) AwaitDeployment(app string, replicas int32) {
	y.t.Helper()
	y.Until("Deployment "+app+" is ready", func(ctx context.Context) bool {
		var d appsv1.Deployment
		return y.Read(ctx, y.Path("deployments", app), metav1.ListOptions{}, &d) == nil && d.Status.ReadyReplicas == replicas
	})
}

// Budget makes one over an app's pods, and returns when it is observed. Removal
// takes it away.
func (y *Yard) Budget(name, app string, least intstr.IntOrString) (removal func()) {
	y.t.Helper()
	b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: y.Namespace}, Spec: policyv1.PodDisruptionBudgetSpec{
		MinAvailable: &least, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}}}
	y.must("make a budget", y.Create(context.Background(), y.Path("poddisruptionbudgets", ""), b))
	y.Until("budget "+name+" is observed", func(ctx context.Context) bool {
		var now policyv1.PodDisruptionBudget
		return y.Read(ctx, y.Path("poddisruptionbudgets", name), metav1.ListOptions{}, &now) == nil &&
			now.Status.ObservedGeneration >= now.Generation && now.Status.CurrentHealthy > 0
	})
	return func() {
		y.must("remove a budget", y.Delete(context.Background(), y.Path("poddisruptionbudgets", name), metav1.DeleteOptions{}))
	}
}

// On lists the pods on a node, as namespace/name.
func (y *Yard) On(k *Kubelet) (names []string) {
	y.t.Helper()
	var list corev1.PodList
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	y.must("list pods", y.Read(ctx, "/api/v1/pods", metav1.ListOptions{FieldSelector: "spec.nodeName=" + k.Name}, &list))
	for i := range list.Items {
		names = append(names, list.Items[i].Namespace+"/"+list.Items[i].Name)
	}
	return names
}

// Node reads a kubelet's node.
func (y *Yard) Node(k *Kubelet) *corev1.Node {
	y.t.Helper()
	n := &corev1.Node{}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	y.must("read node", y.Read(ctx, "/api/v1/nodes/"+k.Name, metav1.ListOptions{}, n))
	return n
}

// Unschedulable cordons a node, or with false takes its cordon off, as kubectl
// does.
func (y *Yard) Unschedulable(k *Kubelet, yes bool) {
	y.t.Helper()
	y.must("cordon", y.Patch(context.Background(), "/api/v1/nodes/"+k.Name, map[string]any{"spec": map[string]any{"unschedulable": yes}}))
}

// Label gives a node a label, as an operator does, or with nil takes it off.
func (y *Yard) Label(k *Kubelet, name string, value any) {
	y.t.Helper()
	y.must("label", y.Patch(context.Background(), "/api/v1/nodes/"+k.Name, map[string]any{"metadata": map[string]any{"labels": map[string]any{name: value}}}))
}

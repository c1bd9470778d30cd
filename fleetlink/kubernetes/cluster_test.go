package kubernetes_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/fleetlink/kubernetes"
	"github.com/drydock-os/drydock/fleetlink/kubernetes/kubetest"
)

// An outcome is what kubectl's own drain says.
type outcome struct {
	Leaves  []string
	Refuses string
	Failed  string
	Took    time.Duration
}

// kubectl runs kubectl's own drain, with every right.
func kubectl(t testing.TB, p *kubetest.Plane, args ...string) (o outcome) {
	t.Helper()
	cmd := exec.Command(p.Binary(), append([]string{"drain", "--kubeconfig=" + p.Kubeconfig("admin", "system:masters")}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, &o)
	}
	if err != nil {
		t.Fatalf("kubectl's drain: %v\n%s", err, out)
	}
	slices.Sort(o.Leaves)
	return o
}

// testKinds: of each kind of pod the drain thinks as kubectl's own.
func testKinds(t *testing.T, p *kubetest.Plane) {
	y := p.Yard(1)
	defer y.Close()
	k, ctx := y.Nodes[0], within(t)
	y.Pod(k, "web")
	y.Pod(k, "alone", func(*corev1.Pod) {})
	y.Pod(k, "cache", func(o *corev1.Pod) {
		o.Spec.Volumes = []corev1.Volume{{Name: "c", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	})
	y.Pod(k, "job", func(*corev1.Pod) {})
	if err := y.Patch(ctx, y.Path("pods", "job")+"/status", map[string]any{"status": map[string]any{"phase": "Succeeded"}}); err != nil {
		t.Fatal(err)
	}
	remain := []string{daemonSet(t, y, k, "logs"), static(t, y, k, "static")}
	if err := link(k, kubernetes.Options{}).Cordon(ctx, "x"); err != nil {
		t.Fatal(err)
	}
	for _, force := range []bool{false, true} {
		for _, empty := range []bool{false, true} {
			want := kubectl(t, p, "--list", "--node="+k.Name, fmt.Sprint("--force=", force), fmt.Sprint("--delete-emptydir-data=", empty))
			s, err := link(k, kubernetes.Options{Unmanaged: force, EmptyDir: empty}).Standing(ctx)
			if err != nil {
				t.Fatal(err)
			}
			leaves := []string{}
			for _, w := range s.Left {
				if w.Why == "" {
					leaves = append(leaves, w.Name)
				} else if !strings.Contains(want.Refuses, w.Name) {
					t.Errorf("force %t, emptyDir %t: %s is refused, and kubectl refuses %s", force, empty, w, want.Refuses)
				}
			}
			if slices.Sort(leaves); !slices.Equal(leaves, want.Leaves) {
				t.Errorf("force %t, emptyDir %t: %v leave, kubectl's are %v", force, empty, leaves, want.Leaves)
			}
			if (want.Refuses == "") != (len(leaves) == len(s.Left)) {
				t.Errorf("force %t, emptyDir %t: kubectl refuses %q, here %v", force, empty, want.Refuses, s.Left)
			}
		}
	}
	if err := link(k, kubernetes.Options{Unmanaged: true, EmptyDir: true}).Drain(ctx, fleetlink.Order{}); err != nil {
		t.Fatal(err)
	}
	here := y.On(k)
	if slices.Sort(here); !slices.Equal(here, remain) {
		t.Errorf("after the drain %v are here, want %v", here, remain)
	}
	if left := kubectl(t, p, "--list", "--node="+k.Name); len(left.Leaves) > 0 || left.Refuses != "" {
		t.Errorf("kubectl has something left: %+v", left)
	}
}

// static makes a mirror pod, as a kubelet does of a static one, and returns its
// name when it is ready.
func static(t *testing.T, y *kubetest.Yard, k *kubetest.Kubelet, name string) string {
	t.Helper()
	yes := true
	mirror := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name + "-" + k.Name, Namespace: y.Namespace, Annotations: map[string]string{corev1.MirrorPodAnnotationKey: "x"},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: k.Name, UID: y.Node(k).UID, Controller: &yes}}},
		Spec: corev1.PodSpec{NodeName: k.Name, Containers: []corev1.Container{{Name: "main", Image: "example.com/nothing"}}}}
	if err := k.Create(within(t), y.Path("pods", ""), mirror); err != nil {
		t.Fatal(err)
	}
	y.Until("the static pod is ready", func(ctx context.Context) bool {
		var now corev1.Pod
		return y.Read(ctx, y.Path("pods", mirror.Name), metav1.ListOptions{}, &now) == nil && kubetest.Ready(&now)
	})
	return y.Namespace + "/" + mirror.Name
}

// daemonSet makes a DaemonSet, and returns the name of its pod on a node when all
// its pods are ready.
func daemonSet(t *testing.T, y *kubetest.Yard, k *kubetest.Kubelet, name string) string {
	t.Helper()
	set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: y.Namespace}, Spec: appsv1.DaemonSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}, Template: y.Template(name)}}
	if err := y.Create(within(t), y.Path("daemonsets", ""), set); err != nil {
		t.Fatal(err)
	}
	y.Until("the DaemonSet's pods are ready", func(ctx context.Context) bool {
		var d appsv1.DaemonSet
		return y.Read(ctx, y.Path("daemonsets", name), metav1.ListOptions{}, &d) == nil && int(d.Status.NumberReady) == len(y.Nodes)
	})
	var pods corev1.PodList
	if err := y.Read(within(t), y.Path("pods", ""), metav1.ListOptions{LabelSelector: "app=" + name, FieldSelector: "spec.nodeName=" + k.Name}, &pods); err != nil || len(pods.Items) != 1 {
		t.Fatalf("%v: %d pods of DaemonSet %s", err, len(pods.Items), name)
	}
	return y.Namespace + "/" + pods.Items[0].Name
}

// manifest applies rbac.yaml, and returns a kubeconfig of its account.
func manifest(t *testing.T, p *kubetest.Plane) string {
	if p.Exists(t.Context(), "/api/v1/namespaces/drydock/serviceaccounts/drydock") {
		return p.TokenKubeconfig("drydock", "drydock")
	}
	text, err := os.ReadFile("rbac.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, document := range strings.Split(string(text), "\n---\n") {
		var o struct{ Kind string }
		body, err := yaml.YAMLToJSON([]byte(document))
		if err == nil {
			err = yaml.Unmarshal([]byte(document), &o)
		}
		if err == nil {
			err = p.Apply(t.Context(), map[string]string{"Namespace": "/api/v1/namespaces", "ServiceAccount": "/api/v1/namespaces/drydock/serviceaccounts",
				"ClusterRole":        "/apis/rbac.authorization.k8s.io/v1/clusterroles",
				"ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"}[o.Kind], body)
		}
		if err != nil {
			t.Fatalf("%s: %v", o.Kind, err)
		}
	}
	return p.TokenKubeconfig("drydock", "drydock")
}

// testAccount: the manifest's rights do for all that is more than a kubelet's.
func testAccount(t *testing.T, p *kubetest.Plane) {
	y := p.Yard(2)
	defer y.Close()
	k, ctx := y.Nodes[0], within(t)
	account := manifest(t, p)
	y.Unschedulable(y.Nodes[1], true)
	y.Deployment("web", 3, true)
	y.Unschedulable(y.Nodes[1], false)
	y.Nodes[1].Starts = time.Second
	volume := "vol-1"
	a := &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: y.Namespace}, Spec: storagev1.VolumeAttachmentSpec{
		Attacher: "disk.example.com", NodeName: k.Name, Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &volume}}}
	if err := p.Create(ctx, "/apis/storage.k8s.io/v1/volumeattachments", a); err != nil {
		t.Fatal(err)
	}
	o := kubernetes.Options{Kubeconfig: account, Surge: true, Budgets: true, LeaveLoadBalancers: true, Retry: 300 * time.Millisecond}
	y.Until("the account's rights have come into force", func(ctx context.Context) bool {
		held, err := link(k, o).Preflight(ctx)
		return err == nil && len(held) == 0
	})
	end := watched(t, y, 2, "web")
	d := begin(t, link(k, o), fleetlink.Order{})
	d.says(t, "it waits for replacements: ", "of 3 pods of ReplicaSet")
	d.says(t, "volume vol-1", "VolumeAttachment "+y.Namespace)
	if err := p.Delete(ctx, "/apis/storage.k8s.io/v1/volumeattachments/"+y.Namespace, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	d.must(t)
	end()
	if err := link(k, o).Resume(ctx); err != nil {
		t.Fatal(err)
	}
}

// testForce: by force a budget does not count. That the watcher sees it says that
// it would have seen it in the other tests.
func testForce(t *testing.T, p *kubetest.Plane) {
	y := p.Yard(2)
	defer y.Close()
	k := y.Nodes[0]
	y.Unschedulable(y.Nodes[1], true)
	y.Deployment("web", 3, true)
	y.Budget("web", "web", intstr.FromInt32(3))
	y.Unschedulable(y.Nodes[1], false)
	g := guard(t, y, 3, "web")
	d := begin(t, link(k, kubernetes.Options{Kubeconfig: manifest(t, p)}), fleetlink.Order{Force: true})
	d.must(t)
	if fallen := g.end(t); len(fallen) == 0 {
		t.Error("three pods were ended at once, and the watcher saw nothing")
	}
}

// testRoll reboots 20 nodes with 400 pods, two at a time, and no Deployment is ever
// below its budget.
func testRoll(t *testing.T, p *kubetest.Plane) {
	const nodes, deployments, replicas, least = 20, 40, 10, 8
	y := p.Yard(nodes)
	defer y.Close()
	var apps []string
	for i := range deployments {
		apps = append(apps, fmt.Sprintf("app-%d", i))
		y.Deployment(apps[i], replicas, false)
	}
	for _, app := range apps {
		y.AwaitDeployment(app, replicas)
		y.Budget(app, app, intstr.FromInt32(least))
	}
	began := time.Now()
	end := watched(t, y, least, apps...)
	permits := make(chan struct{}, 2)
	var wg sync.WaitGroup
	for _, k := range y.Nodes {
		permits <- struct{}{}
		wg.Go(func() {
			defer func() { <-permits }()
			if err := reboot(within(t), y, k); err != nil {
				t.Errorf("%s: %v", k.Name, err)
			}
		})
	}
	wg.Wait()
	end()
	t.Logf("%d nodes with %d pods in %s", nodes, deployments*replicas, time.Since(began).Round(time.Second))
	for _, app := range apps {
		y.AwaitDeployment(app, replicas)
	}
}

// reboot takes a node out of service, boots it, and brings it back.
func reboot(ctx context.Context, y *kubetest.Yard, k *kubetest.Kubelet) error {
	l := link(k, kubernetes.Options{})
	if err := l.Cordon(ctx, "kubetest: a reboot"); err != nil {
		return err
	}
	if err := l.Drain(ctx, fleetlink.Order{}); err != nil {
		return err
	}
	if s, err := l.Standing(ctx); err != nil || !s.Drained() {
		return fmt.Errorf("after the drain: %+v, %w", s, err)
	}
	if here := y.On(k); len(here) > 0 {
		return fmt.Errorf("drained, and here are %v", here)
	}
	if err := k.Reboot(ctx); err != nil {
		return err
	}
	for {
		if ails, err := l.Ailments(ctx); err == nil && len(ails) == 0 {
			return l.Resume(ctx)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		<-time.After(50 * time.Millisecond)
	}
}

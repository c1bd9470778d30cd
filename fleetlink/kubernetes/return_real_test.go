package kubernetes_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/fleetlink/kubernetes"
	"github.com/drydock-os/drydock/fleetlink/kubernetes/kubetest"
)

// out cordons and drains, and checks that it is drained.
func out(t *testing.T, l *kubernetes.Link) {
	t.Helper()
	begin(t, l, fleetlink.Order{}).must(t)
	if s, err := l.Standing(within(t)); err != nil || !s.Drained() {
		t.Fatalf("after the drain: %+v, %v", s, err)
	}
	<-time.After(1100 * time.Millisecond) // objects tell time in seconds, and a reboot takes more than one
}

// ails are a link's, as text.
func ails(t *testing.T, l *kubernetes.Link) string {
	t.Helper()
	said, err := l.Ailments(within(t))
	if err != nil {
		t.Fatal(err)
	}
	return fleetlink.Names(said)
}

// back resumes a machine, and returns when nothing ails it.
func back(t *testing.T, y *kubetest.Yard, l *kubernetes.Link) {
	t.Helper()
	if err := l.Resume(within(t)); err != nil {
		t.Fatal(err)
	}
	y.Until("nothing ails it", func(ctx context.Context) bool {
		said, err := l.Ailments(ctx)
		return err == nil && len(said) == 0
	})
}

// testStays: a kubelet reports the new boot before it has looked at its pods, whose
// readiness is that of before.
func testStays(t *testing.T, p *kubetest.Plane) {
	y := p.Yard(2)
	defer y.Close()
	k := y.Nodes[0]
	y.Pod(k, "web")
	remain := []string{daemonSet(t, y, k, "logs"), static(t, y, k, "proxy")}
	l := link(k, kubernetes.Options{})
	out(t, l)
	here := y.On(k)
	if slices.Sort(here); !slices.Equal(here, remain) {
		t.Errorf("drained, and here are %v; want %v", here, remain)
	}
	k.Boot()
	if got := ails(t, l); !strings.Contains(got, "was last reported by boot") {
		t.Errorf("before the kubelet has reported: %q", got)
	}
	if err := k.Report(within(t)); err != nil {
		t.Fatal(err)
	}
	for _, name := range remain {
		if got := ails(t, l); !strings.Contains(got, name+" (its kubelet has not reported it since the reboot") {
			t.Errorf("before the kubelet has reported its pods: %q", got)
		}
	}
	if err := k.Revive(within(t)); err != nil {
		t.Fatal(err)
	}
	if got := ails(t, l); got != "" {
		t.Errorf("after: %q", got)
	}
	back(t, y, l)
}

// testHosted: a node that hosts the only API server, as a static pod. That stays
// until the machine goes down, and as long as it is down there is no answer.
func testHosted(t *testing.T, p *kubetest.Plane) {
	y := p.Yard(2)
	defer y.Close()
	k := y.Nodes[0]
	y.Pod(k, "web")
	api := static(t, y, k, "kube-apiserver")
	l := link(k, kubernetes.Options{Timeout: 5 * time.Second})
	out(t, l)
	if here := y.On(k); !slices.Equal(here, []string{api}) {
		t.Errorf("drained, and here are %v; want %s", here, api)
	}
	p.StopAPI()
	k.Boot()
	for name, call := range map[string]func() error{
		"standing": func() error { _, err := l.Standing(within(t)); return err },
		"ailments": func() error { _, err := l.Ailments(within(t)); return err },
		"resume":   func() error { return l.Resume(within(t)) },
	} {
		if err := call(); err == nil || !strings.Contains(err.Error(), "does not answer") {
			t.Errorf("%s without an API server: %v", name, err)
		}
	}
	p.StartAPI()
	if got := ails(t, l); got == "" {
		t.Error("nothing ails a node whose static pods are not reported")
	}
	if s, err := l.Standing(within(t)); err != nil || !s.Ours {
		t.Errorf("after the boot: %+v, %v", s, err)
	}
	for _, report := range []func(context.Context) error{k.Report, k.Revive} {
		if err := report(within(t)); err != nil {
			t.Fatal(err)
		}
	}
	if got := ails(t, l); got != "" {
		t.Errorf("when all is reported: %q", got)
	}
	back(t, y, l)
	if n := y.Node(k); n.Spec.Unschedulable || n.Annotations[kubernetes.Annotation] != "" {
		t.Errorf("after the resume: %v %v", n.Spec, n.Annotations)
	}
}

// testNoRoom: what found no room elsewhere comes back when its node does, and the
// permit waits for it.
func testNoRoom(t *testing.T, p *kubetest.Plane) {
	y := p.Yard(2)
	defer y.Close()
	k, replicas := y.Nodes[0], int32(2)
	template := y.Template("web")
	template.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{
		{TopologyKey: "kubernetes.io/hostname", LabelSelector: &metav1.LabelSelector{MatchLabels: template.Labels}}}}}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: y.Namespace}, Spec: appsv1.DeploymentSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: template.Labels}, Template: template}}
	if err := y.Create(within(t), y.Path("deployments", ""), d); err != nil {
		t.Fatal(err)
	}
	y.AwaitDeployment("web", replicas)
	l := link(k, kubernetes.Options{})
	out(t, l)
	if err := k.Reboot(within(t)); err != nil {
		t.Fatal(err)
	}
	ready := func() int32 {
		t.Helper()
		if err := y.Read(within(t), y.Path("deployments", "web"), metav1.ListOptions{}, d); err != nil {
			t.Fatal(err)
		}
		return d.Status.ReadyReplicas
	}
	if got := ails(t, l); got != "" || ready() != 1 {
		t.Errorf("before the resume: %q, %d are ready", got, ready())
	}
	k.Starts = 25 * time.Second // longer than the scheduler has
	back(t, y, l)
	if n := ready(); n != replicas {
		t.Errorf("nothing ails the machine, and %d of %d pods are ready", n, replicas)
	}
}

// testWordGone: that we set a cordon the API server knows without our annotation.
func testWordGone(t *testing.T, p *kubetest.Plane) {
	y := p.Yard(1)
	defer y.Close()
	k := y.Nodes[0]
	l := link(k, kubernetes.Options{})
	if err := l.Cordon(within(t), "kubetest: a reboot"); err != nil {
		t.Fatal(err)
	}
	remove := map[string]any{"metadata": map[string]any{"annotations": map[string]any{kubernetes.Annotation: nil}}}
	if err := y.Patch(within(t), "/api/v1/nodes/"+k.Name, remove); err != nil {
		t.Fatal(err)
	}
	const want = "is cordoned, by us, and annotation"
	if s, err := l.Standing(within(t)); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("standing: %+v, %v", s, err)
	}
	if err := l.Resume(within(t)); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("resume: %v", err)
	}
	if got := ails(t, l); !strings.Contains(got, want) {
		t.Errorf("ailments: %q", got)
	}
	y.Unschedulable(k, false)
	if s, err := l.Standing(within(t)); err != nil || s.Ours || ails(t, l) != "" {
		t.Errorf("uncordoned: %+v, %v", s, err)
	}
	y.Unschedulable(k, true)
	if err := l.Resume(within(t)); err != nil || !y.Node(k).Spec.Unschedulable {
		t.Errorf("somebody else's cordon: %v", err)
	}
}

// testAttachment: a kubelet may read the VolumeAttachment of a volume of its node,
// and one that is not there it may not.
func testAttachment(t *testing.T, p *kubetest.Plane) {
	y := p.Yard(1)
	defer y.Close()
	k, ctx, volume := y.Nodes[0], within(t), "vol-1"
	a := &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("csi-%x", sha256.Sum256([]byte(volume+"disk.example.com"+k.Name)))},
		Spec: storagev1.VolumeAttachmentSpec{Attacher: "disk.example.com", NodeName: k.Name, Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &volume}}}
	if err := p.Create(ctx, "/apis/storage.k8s.io/v1/volumeattachments", a); err != nil {
		t.Fatal(err)
	}
	status := func(volumes ...corev1.AttachedVolume) {
		t.Helper()
		if err := y.Patch(ctx, "/api/v1/nodes/"+k.Name+"/status", map[string]any{"status": map[string]any{"volumesAttached": volumes}}); err != nil {
			t.Fatal(err)
		}
	}
	status(corev1.AttachedVolume{Name: "kubernetes.io/csi/disk.example.com^vol-1", DevicePath: "x"})
	d := begin(t, link(k, kubernetes.Options{}), fleetlink.Order{})
	d.says(t, "volume kubernetes.io/csi/disk.example.com^vol-1", "it is attached to this node")
	status()
	d.says(t, "volume kubernetes.io/csi/disk.example.com^vol-1", "VolumeAttachment "+a.Name+" ties it")
	if err := p.Delete(ctx, "/apis/storage.k8s.io/v1/volumeattachments/"+a.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	d.must(t)
}

package kubernetes

import (
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/drydock-os/drydock/fleetlink"
)

const disk = "kubernetes.io/csi/disk.example.com^vol-1"

func attached(names ...corev1.UniqueVolumeName) func(*corev1.Node) {
	return func(n *corev1.Node) {
		n.Status.VolumesAttached, n.Status.VolumesInUse = nil, nil
		for _, name := range names {
			n.Status.VolumesAttached = append(n.Status.VolumesAttached, corev1.AttachedVolume{Name: name})
		}
	}
}

func holding(claim string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}}
	}
}

// bind has the twin know a claim and its volume.
func (a *twin) bind(claim, handle string) {
	a.keep("/api/v1/namespaces/shop/persistentvolumeclaims/"+claim, &corev1.PersistentVolumeClaim{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolumeClaim"},
		Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv-" + handle}})
	a.keep("/api/v1/persistentvolumes/pv-"+handle, &corev1.PersistentVolume{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolume"}, ObjectMeta: metav1.ObjectMeta{Name: "pv-" + handle},
		Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "disk.example.com", VolumeHandle: handle}}}})
}

// TestVolumesThatStay: those of pods that stay are not waited for, others are, and
// with volumes = false none is.
func TestVolumesThatStay(t *testing.T) {
	a := newTwin(t)
	a.bind("data", "vol-1")
	a.place(nodeName, "logs", ownedBy("DaemonSet", "logs"), holding("data"))
	a.place(nodeName, "new", ownedBy("DaemonSet", "new"), holding("not-made-yet"), func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending })
	a.editNode(nodeName, attached(disk))
	l := a.link(t, Options{})
	if err := l.Cordon(soon(t), "test"); err != nil {
		t.Fatal(err)
	}
	if s, err := l.Standing(soon(t)); err != nil || !s.Drained() {
		t.Errorf("with the volume of a pod that stays: %+v, %v", s, err)
	}
	a.editNode(nodeName, attached(disk, "kubernetes.io/csi/disk.example.com^vol-2"))
	if s, err := l.Standing(soon(t)); err != nil || len(s.Left) != 1 || !strings.Contains(s.Left[0].Name, "vol-2") {
		t.Errorf("with another volume: %+v, %v", s, err)
	}
	if s, err := a.link(t, Options{IgnoreVolumes: true}).Standing(soon(t)); err != nil || !s.Drained() {
		t.Errorf("volumes ignored: %+v, %v", s, err)
	}
	_, done, _ := begin(t, a.link(t, Options{IgnoreVolumes: true}), fleetlink.Order{})
	if err := wait(t, done); err != nil {
		t.Errorf("volumes ignored: %v", err)
	}
}

// TestVolumesPolled: while a volume is waited for, the node is asked every two
// seconds, and the rest seldom.
func TestVolumesPolled(t *testing.T) {
	t.Parallel()
	a := newTwin(t)
	a.bind("data", "vol-9")
	a.place(nodeName, "logs", ownedBy("DaemonSet", "logs"), holding("data"))
	a.editNode(nodeName, attached(disk))
	log, done, _ := begin(t, a.link(t, Options{}), fleetlink.Order{})
	log.says(t, "volume "+disk, "attached to this node")
	<-time.After(12 * time.Second)
	a.mu.Lock()
	nodes, pods, claims := a.asked["GET /api/v1/nodes/"+nodeName], a.asked["GET /api/v1/pods"], a.asked["GET /api/v1/namespaces/shop/persistentvolumeclaims/data"]
	a.mu.Unlock()
	if pods > 4 || claims > 2 || nodes < 4 {
		t.Errorf("in 12 s the node was asked %d times, pods %d, a claim %d", nodes, pods, claims)
	}
	a.editNode(nodeName, attached())
	began := time.Now()
	if err := wait(t, done); err != nil || time.Since(began) > 8*time.Second {
		t.Errorf("%v, after %s", err, time.Since(began))
	}
}

// TestAttachmentByName: with a kubelet's credential, which may not list them, the
// VolumeAttachments that it knows the names of are followed until they are gone:
// the controller takes a volume off the node's status before the driver detaches.
func TestAttachmentByName(t *testing.T) {
	t.Parallel()
	a := newTwin(t)
	// The sum is that of "vol-1disk.example.comweb-1" (pkg/volume/csi/csi_attacher.go).
	const name = "csi-d57465f90d79872a3e8ec80895b32f64940469e8e78c361b975e5934bb7f9414"
	const where = "/apis/storage.k8s.io/v1/volumeattachments/" + name
	a.editNode(nodeName, attached(disk))
	tie := &storagev1.VolumeAttachment{TypeMeta: metav1.TypeMeta{APIVersion: "storage.k8s.io/v1", Kind: "VolumeAttachment"}, ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: storagev1.VolumeAttachmentSpec{NodeName: nodeName}}
	tie.Status.DetachError = &storagev1.VolumeError{Message: "device is busy"}
	a.keep(where, tie)
	log, done, _ := begin(t, a.link(t, Options{}), fleetlink.Order{})
	log.says(t, "volume "+disk, "attached to this node")
	a.editNode(nodeName, attached())
	log.says(t, "volume "+disk, "VolumeAttachment "+name, "device is busy")
	a.keep(where, nil)
	if err := wait(t, done); err != nil {
		t.Fatal(err)
	}
}

// TestFinishedStay: with finished = false what has ended is left alone.
func TestFinishedStay(t *testing.T) {
	a := newTwin(t)
	ended := func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }
	a.place(nodeName, "job", ended)
	a.place(nodeName, "alone", ended, func(p *corev1.Pod) { p.OwnerReferences = nil })
	a.place(nodeName, "logs", ended, ownedBy("DaemonSet", "logs"))
	a.place(nodeName, "web")
	_, done, _ := begin(t, a.link(t, Options{KeepFinished: true}), fleetlink.Order{})
	if err := wait(t, done); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(a.on(nodeName), " "); got != "shop/alone shop/job shop/logs" {
		t.Errorf("%s are here", got)
	}
	for what := range a.asked {
		if strings.HasPrefix(what, http.MethodPost) && !strings.Contains(what, "/web/") {
			t.Errorf("it asked %s", what)
		}
	}
	_, done, _ = begin(t, a.link(t, Options{}), fleetlink.Order{})
	if err := wait(t, done); err != nil || len(a.on(nodeName)) > 0 {
		t.Errorf("%v; here are %v", err, a.on(nodeName))
	}
}

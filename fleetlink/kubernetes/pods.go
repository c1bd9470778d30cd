package kubernetes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/drydock-os/drydock/fleetlink"
)

// What becomes of a pod in a drain.
type fate uint8

const (
	leaves  fate = iota // it is evicted
	stays               // it ends with the machine: of a DaemonSet, or the kubelet's own
	refuses             // it would have to leave, and the policy does not allow to evict it
)

// A pod is what is kept of one: pods are read in full, and only this is remembered.
type pod struct {
	namespace, name string
	uid             types.UID
	fate            fate
	finished        bool
	why             string // it refuses
	forbids         string // why an operator has nothing moved while it is here; "": nobody does
	owner           *metav1.OwnerReference
	labels          map[string]string
	made            time.Time // by the API server's clock
	end             time.Time // when it is to have ended, by the same, if it was told to; zero: it was not
	finalizers      string
	unready         string   // why it is not ready; "": it is
	started         []start  // its containers that run
	claims          []string // of volumes
	pending         bool     // none of its containers has begun: its claims may be anything
}

// A start is when a container began.
type start struct {
	container string
	at        time.Time
}

// String is the pod as kubectl's users write it.
func (p *pod) String() string { return p.namespace + "/" + p.name }

// judge keeps of a pod what matters, and decides its fate as kubectl drain does
// (k8s.io/kubectl/pkg/drain/filters.go), but for one thing: whether a pod's
// DaemonSet still exists is not asked, for a kubelet may not. Pods whose DaemonSet
// is gone are removed by the garbage collector.
func (l *Link) judge(o *corev1.Pod) *pod {
	p := &pod{namespace: o.Namespace, name: o.Name, uid: o.UID, owner: metav1.GetControllerOf(o),
		labels: o.Labels, made: o.CreationTimestamp.Time, finalizers: strings.Join(o.Finalizers, ", ")}
	if p.owner != nil {
		p.owner = &metav1.OwnerReference{APIVersion: p.owner.APIVersion, Kind: p.owner.Kind, Name: p.owner.Name, UID: p.owner.UID}
	}
	if t := o.DeletionTimestamp; t != nil {
		p.end = t.Time
	}
	finished := o.Status.Phase == corev1.PodSucceeded || o.Status.Phase == corev1.PodFailed
	p.finished = finished
	_, mirror := o.Annotations[corev1.MirrorPodAnnotationKey]
	switch {
	case !finished && p.owner != nil && p.owner.Kind == "DaemonSet" && p.owner.APIVersion == appsv1.SchemeGroupVersion.String():
		// Removed, it would come again at once, cordon or not: so it stays, and what
		// the policy then forbids is the drain.
		if p.fate = stays; l.RefuseDaemonSets {
			p.forbids = "it is of DaemonSet " + p.owner.Name + ", and the policy says not to drain past those"
		}
	case mirror, finished && l.KeepFinished:
		p.fate = stays
	case finished:
	case !l.EmptyDir && slices.ContainsFunc(o.Spec.Volumes, func(v corev1.Volume) bool { return v.EmptyDir != nil }):
		p.fate, p.why = refuses, "it keeps data in an emptyDir, which the policy says not to lose"
	case !l.Unmanaged && p.owner == nil:
		p.fate, p.why = refuses, "no controller would make it anew, and the policy says not to end such pods"
	}
	if !finished {
		p.inspect(o)
		if selects(l.BlockingPods, o.Labels) {
			p.forbids = "its labels match " + l.BlockingPods + ", which the policy says forbids a reboot"
		}
	}
	return p
}

// inspect keeps what is asked of pods that run: whether they are ready, and which
// volumes they hold.
func (p *pod) inspect(o *corev1.Pod) {
	p.pending = o.Status.Phase == corev1.PodPending
	p.unready = "it does not say whether it is ready"
	for _, c := range o.Status.Conditions {
		switch {
		case c.Type != corev1.PodReady:
		case c.Status == corev1.ConditionTrue:
			p.unready = ""
		default:
			p.unready = strings.TrimSuffix("it is not ready: "+cmp.Or(c.Message, c.Reason), ": ")
		}
	}
	for _, c := range o.Status.ContainerStatuses {
		if c.State.Waiting != nil && p.unready != "" {
			p.unready += fmt.Sprintf(" (%s: %s)", c.Name, c.State.Waiting.Reason)
		}
		if r := c.State.Running; r != nil {
			p.started = append(p.started, start{c.Name, r.StartedAt.Time})
		}
	}
	for _, v := range o.Spec.Volumes {
		switch {
		case v.PersistentVolumeClaim != nil:
			p.claims = append(p.claims, v.PersistentVolumeClaim.ClaimName)
		case v.Ephemeral != nil:
			p.claims = append(p.claims, o.Name+"-"+v.Name)
		}
	}
}

// pods reads all pods of the node, page by page, by name, and the version of the
// list.
func (s *session) pods(ctx context.Context) (pods []*pod, version string, err error) {
	o := metav1.ListOptions{FieldSelector: "spec.nodeName=" + s.node, Limit: pageOfPods}
	for {
		var page corev1.PodList
		if err := s.list(ctx, "pods", "/api/v1/pods", o, &page); err != nil {
			return nil, "", err
		}
		for i := range page.Items {
			if page.Items[i].Spec.NodeName != s.node {
				return nil, "", fmt.Errorf("list pods of node %s: the API server sent %s/%s, which is on node %q", s.node, page.Items[i].Namespace, page.Items[i].Name, page.Items[i].Spec.NodeName)
			}
			pods = append(pods, s.link.judge(&page.Items[i]))
		}
		if len(pods) > maxPods {
			return nil, "", fmt.Errorf("list pods of node %s: more than %d", s.node, maxPods)
		}
		if o.Continue = page.Continue; o.Continue == "" {
			version = page.ResourceVersion
			break
		}
	}
	if version == "" {
		return nil, "", errors.New("list pods: the answer has no version: it is none of an API server")
	}
	slices.SortFunc(pods, func(a, b *pod) int { return strings.Compare(a.String(), b.String()) })
	return pods, version, nil
}

// still tells of a pod what keeps this machine; here is false where nothing of it
// does. By force all that does not stay can be removed.
func (s *session) still(p *pod, force bool) (w fleetlink.Workload, here bool) {
	w.Name = p.String()
	switch {
	case s.skips(p):
		return w, false
	case p.forbids != "":
		w.Why, w.Forbids = p.forbids, true
	case p.fate == stays:
		return w, false
	case p.fate == refuses && !force:
		w.Why = p.why
	default:
		w.Why = p.ending(s.now())
	}
	return w, true
}

// left lists what still keeps this machine of its pods.
func (s *session) left(pods []*pod, force bool) (left []fleetlink.Workload) {
	for _, p := range pods {
		if w, here := s.still(p, force); here {
			left = append(left, w)
		}
	}
	return left
}

// skips reports whether a pod should have ended so long ago that the policy does
// not count it. That is asked of the API server's clock, which told it to end:
// where it says no time, nothing is skipped.
func (s *session) skips(p *pod) bool {
	now, told := s.clock()
	return told && s.link.SkipOverdue > 0 && !p.end.IsZero() && now.Sub(p.end) > s.link.SkipOverdue
}

// ending tells of a pod that was told to end; "": it was not.
func (p *pod) ending(now time.Time) string {
	switch {
	case p.end.IsZero():
		return ""
	case !now.After(p.end.Add(overdue)):
		return "it was told to end, and has until " + p.end.UTC().Format(time.TimeOnly) + " UTC"
	case p.finalizers != "":
		return "it was to end by " + p.end.UTC().Format(time.DateTime) + " UTC; its finalizers are " + p.finalizers
	}
	return "it was to end by " + p.end.UTC().Format(time.DateTime) + " UTC; its kubelet has not ended it"
}

// overdue is how long after its time a pod is not worth a word: kubelets kill
// first and report then, and clocks differ.
const overdue = 15 * time.Second

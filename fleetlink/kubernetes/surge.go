package kubernetes

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// replaced says whether as many pods as their owner wants are ready and not on
// their way out: accepted, or refused and what is missing. The pods themselves are
// counted, since the owner's own count lags behind an eviction. A pod that is not
// ready itself is no loss, and those on this node that are not cannot be waited for:
// their replacements come when they are gone.
//
// Beforehand, it is enough that the drain can begin with those.
func (s *session) replaced(ctx context.Context, p *pod, beforehand bool) verdict {
	want, selector, err := s.wanted(ctx, p)
	if err != nil || selector == nil {
		return s.link.weigh(err)
	}
	match, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil || match.Empty() {
		return verdict{answer: refused, why: fmt.Sprintf("the selector of %s %s is none", p.owner.Kind, p.owner.Name), after: refusals * s.link.Retry}
	}
	ready, idle, itself := int32(0), int32(0), false
	o := metav1.ListOptions{LabelSelector: match.String(), Limit: pageOfPods}
	for {
		var page corev1.PodList
		if err := s.list(ctx, "pods", "/api/v1/namespaces/"+p.namespace+"/pods", o, &page); err != nil {
			return s.link.weigh(err)
		}
		for i := range page.Items {
			switch o := &page.Items[i]; {
			case !owned(o, p.owner) || o.DeletionTimestamp != nil:
			case readyNow(o):
				ready++
			case o.Spec.NodeName == s.node:
				idle++
				itself = itself || o.UID == p.uid
			}
		}
		if o.Continue = page.Continue; o.Continue == "" {
			break
		}
	}
	if itself || beforehand {
		want -= idle
	}
	if ready < want {
		return verdict{answer: refused, why: fmt.Sprintf("it waits for replacements: %d of %d pods of %s %s are ready", ready, want, p.owner.Kind, p.owner.Name)}
	}
	return verdict{answer: accepted}
}

// wanted is how many pods a pod's owner wants, and how it selects them; nil: its
// owner is of a kind that has no such number.
func (s *session) wanted(ctx context.Context, p *pod) (int32, *metav1.LabelSelector, error) {
	if p.owner == nil {
		return 0, nil, nil
	}
	name := p.namespace + "/" + p.owner.Name
	switch p.owner.Kind {
	case "ReplicaSet":
		var o appsv1.ReplicaSet
		err := s.get(ctx, deed{"", "replicasets", name}, "/apis/apps/v1/namespaces/"+p.namespace+"/replicasets/"+p.owner.Name, &o)
		return one(o.Spec.Replicas), o.Spec.Selector, err
	case "StatefulSet":
		var o appsv1.StatefulSet
		err := s.get(ctx, deed{"", "statefulsets", name}, "/apis/apps/v1/namespaces/"+p.namespace+"/statefulsets/"+p.owner.Name, &o)
		return one(o.Spec.Replicas), o.Spec.Selector, err
	case "ReplicationController":
		var o corev1.ReplicationController
		err := s.get(ctx, deed{"", "replicationcontrollers", name}, "/api/v1/namespaces/"+p.namespace+"/replicationcontrollers/"+p.owner.Name, &o)
		return one(o.Spec.Replicas), &metav1.LabelSelector{MatchLabels: o.Spec.Selector}, err
	}
	return 0, nil, nil
}

// one is a count whose default is one.
func one(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}

// owned reports whether a pod belongs to an owner.
func owned(o *corev1.Pod, owner *metav1.OwnerReference) bool {
	c := metav1.GetControllerOfNoCopy(o)
	return c != nil && c.UID == owner.UID
}

// readyNow reports whether a pod says that it is ready.
func readyNow(o *corev1.Pod) bool {
	for _, c := range o.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

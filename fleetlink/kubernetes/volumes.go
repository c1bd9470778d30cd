package kubernetes

import (
	"context"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/drydock-os/drydock/fleetlink"
)

// volumes lists what is still attached to the node, or in use there, but for what
// pods hold that stay. A machine that goes down with a volume attached keeps the
// pod that needs it waiting elsewhere, for six minutes and more.
//
// The node says what the attach controller and its kubelet believe; a
// VolumeAttachment, where they may be listed, goes only when the driver has
// detached.
func (s *session) volumes(ctx context.Context, pods []*pod) (left []fleetlink.Workload, err error) {
	if s.link.IgnoreVolumes {
		return nil, nil
	}
	attached := map[string]string{}
	for _, v := range s.object.Status.VolumesInUse {
		attached[string(v)] = "it is in use on this node"
	}
	for _, v := range s.object.Status.VolumesAttached {
		attached[string(v.Name)] = "it is attached to this node"
	}
	claims, err := s.attachments(ctx)
	if err != nil || len(attached)+len(claims) == 0 {
		return nil, err
	}
	for _, p := range pods {
		if _, here := s.still(p, false); here {
			continue
		}
		for _, claim := range p.claims {
			volume, err := s.volume(ctx, p.namespace, claim)
			if err != nil {
				return nil, err
			}
			delete(claims, volume.Name)
			if csi := volume.Spec.CSI; csi != nil {
				delete(attached, "kubernetes.io/csi/"+csi.Driver+"^"+csi.VolumeHandle)
			}
		}
	}
	for name, why := range attached {
		left = append(left, fleetlink.Workload{Name: "volume " + name, Why: why})
	}
	for name, why := range claims {
		left = append(left, fleetlink.Workload{Name: "volume " + name, Why: why})
	}
	slices.SortFunc(left, func(a, b fleetlink.Workload) int { return strings.Compare(a.Name, b.Name) })
	return left, nil
}

// attachments are the volumes (by name) that a VolumeAttachment ties to the node.
// Kubelets may not list them: that is no error, the node's own word must do.
func (s *session) attachments(ctx context.Context) (map[string]string, error) {
	claims := map[string]string{}
	o := metav1.ListOptions{Limit: pageOfPods}
	for !s.plain {
		var page storagev1.VolumeAttachmentList
		err := s.list(ctx, "volumeattachments", "/apis/storage.k8s.io/v1/volumeattachments", o, &page)
		if apierrors.IsForbidden(err) {
			s.plain = true
			break
		}
		if err != nil {
			return nil, err
		}
		for _, a := range page.Items {
			name := a.Spec.Source.PersistentVolumeName
			if a.Spec.NodeName != s.node || name == nil {
				continue
			}
			claims[*name] = "VolumeAttachment " + a.Name + " ties it to this node"
			if e := a.Status.DetachError; e != nil {
				claims[*name] += "; it cannot be detached: " + clip(e.Message)
			}
		}
		if o.Continue = page.Continue; o.Continue == "" {
			break
		}
	}
	return claims, nil
}

// volume reads the volume of a claim of a pod on this node. Kubelets may read
// those.
func (s *session) volume(ctx context.Context, namespace, claim string) (*corev1.PersistentVolume, error) {
	var c corev1.PersistentVolumeClaim
	d := deed{"", "persistentvolumeclaims", namespace + "/" + claim}
	if err := s.get(ctx, d, "/api/v1/namespaces/"+namespace+"/persistentvolumeclaims/"+claim, &c); err != nil {
		return nil, err
	}
	v := &corev1.PersistentVolume{}
	if c.Spec.VolumeName == "" {
		return v, nil
	}
	return v, s.get(ctx, deed{"", "persistentvolumes", c.Spec.VolumeName}, "/api/v1/persistentvolumes/"+c.Spec.VolumeName, v)
}

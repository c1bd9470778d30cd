package kubernetes

import (
	"context"
	"crypto/sha256"
	"fmt"
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
// VolumeAttachment goes only when the driver has detached. Where they may not be
// listed, those are asked for that the node's status has spoken of in this session.
func (s *session) volumes(ctx context.Context, pods []*pod) (left []fleetlink.Workload, err error) {
	if s.link.IgnoreVolumes {
		return nil, nil
	}
	attached := s.inUse()
	claims, err := s.attachments(ctx)
	if err != nil {
		return nil, err
	}
	tied, err := s.tied(ctx)
	if err != nil {
		return nil, err
	}
	if len(attached)+len(claims) > 0 {
		if err := s.spare(ctx, pods, attached, claims); err != nil {
			return nil, err
		}
	}
	for _, of := range []map[string]string{attached, claims, tied} {
		for name, why := range of {
			left = append(left, fleetlink.Workload{Name: "volume " + name, Why: why})
		}
	}
	slices.SortFunc(left, func(a, b fleetlink.Workload) int { return strings.Compare(a.Name, b.Name) })
	return left, nil
}

// inUse are the volumes that the node's status names, and how.
func (s *session) inUse() map[string]string {
	attached := map[string]string{}
	for _, v := range s.object.Status.VolumesInUse {
		attached[string(v)] = "it is in use on this node"
	}
	for _, v := range s.object.Status.VolumesAttached {
		attached[string(v.Name)] = "it is attached to this node"
	}
	return attached
}

// spare takes the volumes of pods that stay off both lists.
func (s *session) spare(ctx context.Context, pods []*pod, attached, claims map[string]string) error {
	for _, p := range pods {
		if _, here := s.still(p, false); here {
			continue
		}
		for _, claim := range p.claims {
			volume, err := s.volume(ctx, p.namespace, claim)
			if p.pending && (apierrors.IsNotFound(err) || apierrors.IsForbidden(err)) {
				continue // it is made by and by, and holds nothing before
			}
			if err != nil {
				return err
			}
			delete(claims, volume.Name)
			if csi := volume.Spec.CSI; csi != nil {
				delete(attached, csiVolume+csi.Driver+csiHandle+csi.VolumeHandle)
			}
		}
	}
	return nil
}

// How a node's status names a volume of a CSI driver: between these its driver,
// after them its handle (k8s.io/kubernetes/pkg/volume/csi/csi_plugin.go).
const (
	csiVolume = "kubernetes.io/csi/"
	csiHandle = "^"
)

// maxTies bounds what is remembered of attachments: nodes have room for tens.
const maxTies = 1000

// A tie is a VolumeAttachment that the node's status spoke of.
type tie struct {
	volume string // as the status names it
	missed bool   // it was denied once, as one is that is not there
}

// note remembers the VolumeAttachments of what the node's status names: it stops to
// name a volume before the driver has detached that, and a kubelet may ask for an
// attachment by its name alone (csi_attacher.go, getAttachmentName).
func (s *session) note() {
	for _, v := range s.object.Status.VolumesAttached {
		what, isCSI := strings.CutPrefix(string(v.Name), csiVolume)
		driver, handle, parted := strings.Cut(what, csiHandle)
		if !isCSI || !parted || len(s.ties) >= maxTies {
			continue
		}
		if s.ties == nil {
			s.ties = map[string]*tie{}
		}
		s.ties[fmt.Sprintf("csi-%x", sha256.Sum256([]byte(handle+driver+s.node)))] = &tie{volume: string(v.Name)}
	}
}

// tied asks, where they may not be listed, for the attachments of volumes that the
// node's status names no more. One that is not there a kubelet may not read, and an
// API server that has just begun denies what is: so it is believed the second time.
func (s *session) tied(ctx context.Context) (map[string]string, error) {
	left, named := map[string]string{}, s.inUse()
	for name, t := range s.ties {
		if named[t.volume] != "" || !s.plain {
			continue
		}
		var a storagev1.VolumeAttachment
		err := s.get(ctx, deed{"", "volumeattachments", name}, "/apis/storage.k8s.io/v1/volumeattachments/"+name, &a)
		switch {
		case err == nil && a.Spec.NodeName == s.node:
			t.missed = false
			left[t.volume] = tells(&a)
		case err == nil, apierrors.IsNotFound(err), apierrors.IsForbidden(err) && t.missed:
			delete(s.ties, name)
		case apierrors.IsForbidden(err):
			t.missed = true
			left[t.volume] = "VolumeAttachment " + name + " is gone, it seems"
		default:
			return nil, err
		}
	}
	return left, nil
}

// tells is what there is to say of an attachment.
func tells(a *storagev1.VolumeAttachment) string {
	why := "VolumeAttachment " + a.Name + " ties it to this node"
	if e := a.Status.DetachError; e != nil {
		why += "; it cannot be detached: " + clip(e.Message)
	}
	return why
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
			claims[*name] = tells(&a)
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

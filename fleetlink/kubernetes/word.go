package kubernetes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Annotation is where our word stands on a node that is out of service: a Word in
// JSON. Kubelets may write annotations of their own node.
const Annotation = "drydock.io/out-of-service"

// Returned is the annotation that says since when a node is in service again, by
// the API server's clock (RFC 3339), after we took it out. It stays until the next
// time.
const Returned = "drydock.io/returned"

// manager is our name among those who write a node. The API server notes who wrote
// which field last.
const manager = "drydockd"

// Exclude is the label that takes a node out of the external load balancers. It is
// below node.kubernetes.io/, where NodeRestriction lets kubelets set labels.
const Exclude = corev1.LabelNodeExcludeBalancers

// A Word says who took a node out of service, why, and what to undo.
type Word struct {
	By       string    `json:"by"`      // "drydock"
	Machine  string    `json:"machine"` // machine-id
	Boot     string    `json:"boot"`    // boot-id when it was cordoned
	Since    time.Time `json:"since"`
	Why      string    `json:"why"`
	Cordoned bool      `json:"cordoned"`      // by us; false: it was already, and stays so
	Excluded bool      `json:"excluded"`      // from load balancers, by us
	Left     time.Time `json:"left,omitzero"` // when it was excluded, if that was later than Since
}

// maxWord bounds an annotation that is read: a Word is a few hundred bytes.
const maxWord = 16 << 10

// maxWhy bounds what is told.
const maxWhy = 1 << 10

// readWord is our word on a node; nil if there is none.
func readWord(n *corev1.Node) (*Word, error) {
	text, there := n.Annotations[Annotation]
	if !there {
		return nil, nil
	}
	w := &Word{}
	if len(text) > maxWord {
		return nil, fmt.Errorf("annotation %s has %d bytes", Annotation, len(text))
	}
	if err := json.Unmarshal([]byte(text), w); err != nil || w.By != "drydock" {
		return nil, fmt.Errorf("annotation %s is not one of ours (%.80q): remove it, and the cordon if that was ours", Annotation, text)
	}
	return w, nil
}

// orphaned is why a cordon is nobody's: we set it, as the API server noted, and our
// word is gone; nil: it is not so. That a person removed the one and left the other
// says nothing of what that person wants, so it is not undone, and not forgotten.
func (s *session) orphaned() error {
	if s.word != nil || !s.object.Spec.Unschedulable || !slices.ContainsFunc(s.object.ManagedFields, cordons) {
		return nil
	}
	return fmt.Errorf("node %s is cordoned, by us, and annotation %s is gone: somebody removed it. `kubectl uncordon %s` gives the node back; `kubectl cordon` after that keeps it, as yours", s.node, Annotation, s.node)
}

// cordons reports whether fields of a node are ours, and its cordon among them.
func cordons(f metav1.ManagedFieldsEntry) bool {
	var fields struct {
		Spec struct {
			Unschedulable json.RawMessage `json:"f:unschedulable"`
		} `json:"f:spec"`
	}
	return f.Manager == manager && f.FieldsV1 != nil && json.Unmarshal(f.FieldsV1.Raw, &fields) == nil && fields.Spec.Unschedulable != nil
}

// A patch is a change of a node, in one write.
type patch struct {
	word     *Word  // nil: none any more
	returned string // time of that; "": none any more
	cordon   *bool  // nil: as it is
	excluded *bool  // nil: as it is
}

// cordon is what is missing to a node out of service on our word; nil: nothing.
func (s *session) cordon(why string) (*patch, error) {
	if err := s.orphaned(); err != nil {
		return nil, err
	}
	p, on := &patch{}, true
	why = strings.ToValidUTF8(why[:min(len(why), maxWhy)], "")
	if s.word == nil {
		boot, err := s.link.machine.BootID()
		if err != nil {
			return nil, fmt.Errorf("read the boot-id: %w", err)
		}
		p.word = &Word{By: "drydock", Machine: s.link.machine.ID, Boot: boot, Since: s.link.Now().UTC().Truncate(time.Millisecond)}
	} else {
		copied := *s.word
		p.word = &copied
	}
	changed := s.word == nil || s.word.Why != why
	p.word.Why = why
	if !s.object.Spec.Unschedulable {
		p.cordon, p.word.Cordoned, changed = &on, true, true
	}
	if _, labelled := s.object.Labels[Exclude]; s.link.LeaveLoadBalancers && !labelled {
		p.excluded, p.word.Excluded, changed = &on, true, true
		if s.word != nil {
			p.word.Left = s.link.Now().UTC().Truncate(time.Millisecond)
		}
	}
	if !changed {
		return nil, nil
	}
	return p, nil
}

// resume undoes what our word says that we did; nil: nothing.
func (s *session) resume() (*patch, error) {
	if s.word == nil {
		return nil, s.orphaned()
	}
	p, off := &patch{}, false
	if s.word.Cordoned {
		p.cordon, p.returned = &off, s.now().UTC().Format(time.RFC3339)
	}
	if s.word.Excluded {
		p.excluded = &off
	}
	return p, nil
}

// body is a patch of this version of the node, as a JSON merge patch (RFC 7396).
func (s *session) body(p *patch) ([]byte, error) {
	annotations := map[string]any{Annotation: nil, Returned: nil}
	if p.word != nil {
		text, err := json.Marshal(p.word)
		if err != nil {
			return nil, err
		}
		annotations[Annotation] = string(text)
	}
	if p.returned != "" {
		annotations[Returned] = p.returned
	}
	meta := map[string]any{"uid": s.object.UID, "resourceVersion": s.object.ResourceVersion, "annotations": annotations}
	if p.excluded != nil {
		meta["labels"] = map[string]any{Exclude: map[bool]any{true: "drydock", false: nil}[*p.excluded]}
	}
	change := map[string]any{"metadata": meta}
	if p.cordon != nil {
		change["spec"] = map[string]any{"unschedulable": map[bool]any{true: true, false: nil}[*p.cordon]}
	}
	return json.Marshal(change)
}

// conflicts bounds how often a change meets another writer of the node: its
// kubelet writes every few seconds at most.
const conflicts = 8

// change reads the node, works out what is to change, and writes it if nobody wrote
// in between; else once more.
func (l *Link) change(ctx context.Context, plan func(*session) (*patch, error)) error {
	s, err := l.open(ctx)
	for range conflicts {
		if err != nil {
			return err
		}
		p, refused := plan(s)
		if p == nil || refused != nil {
			return refused
		}
		err = s.write(ctx, p)
		if !apierrors.IsConflict(err) {
			return err
		}
		if err = pause(ctx, jitter(100*time.Millisecond)); err == nil {
			err = s.look(ctx)
		}
	}
	return fmt.Errorf("patch nodes %s: others write it without a pause", s.node)
}

// write patches the node, and believes what came back only.
func (s *session) write(ctx context.Context, p *patch) error {
	body, err := s.body(p)
	if err != nil {
		return err
	}
	after := &corev1.Node{}
	err = s.do(ctx, deed{"patch", "nodes", s.node}, s.rest.Patch(types.MergePatchType).AbsPath("/api/v1/nodes/"+s.node).Param("fieldManager", manager).Body(body), after)
	if err != nil {
		return err
	}
	if err := s.take(after); err != nil {
		return err
	}
	if (s.word == nil) != (p.word == nil) || p.cordon != nil && s.object.Spec.Unschedulable != *p.cordon {
		return fmt.Errorf("patch nodes %s: %w", s.node, errors.New("the API server accepted it, and the node is as before (does an admission webhook change it back?)"))
	}
	return nil
}

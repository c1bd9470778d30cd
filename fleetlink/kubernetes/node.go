package kubernetes

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/drydock-os/drydock/fleetlink"
)

// Annotation is where our word stands on a node that is out of service: a Word in
// JSON. Kubelets may write annotations of their own node.
const Annotation = "drydock.io/out-of-service"

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
	Cordoned bool      `json:"cordoned"` // by us; false: it was already, and stays so
	Excluded bool      `json:"excluded"` // from load balancers, by us
}

// maxWord bounds an annotation that is read: a Word is a few hundred bytes.
const maxWord = 16 << 10

// maxWhy bounds what is told.
const maxWhy = 1 << 10

// A session is one call's view: a client, and the node as it was when it began.
type session struct {
	*client
	link   *Link
	node   string
	object *corev1.Node
	word   *Word // nil: not out of service on our word
	ledger ledger
	plain  bool // VolumeAttachments may not be listed
}

// open finds the node of this machine and reads it.
func (l *Link) open(ctx context.Context) (*session, error) {
	c, err := l.client()
	if err != nil {
		return nil, err
	}
	s := &session{client: c, link: l}
	if s.node, err = s.find(ctx); err != nil {
		return nil, err
	}
	if err := s.look(ctx); err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.node = s.node
	l.mu.Unlock()
	return s, nil
}

// find returns the node's name: as configured, or of the credential, or of the
// node that has this machine's id, or, where nodes may not be listed, of the host.
func (s *session) find(ctx context.Context) (string, error) {
	s.link.mu.Lock()
	known := s.link.node
	s.link.mu.Unlock()
	if known != "" {
		return known, nil
	}
	if s.link.Node != "" {
		return s.link.Node, nil
	}
	if name := s.credentialed(); name != "" {
		return name, nil
	}
	name, err := s.search(ctx)
	if err != nil && missingRight(err) {
		return strings.ToLower(s.link.machine.Hostname), nil
	}
	return name, err
}

// credentialed is the node that the client certificate belongs to, as the node
// authorizer reads it; "" if it is none of a node.
func (s *session) credentialed() string {
	data := s.config.CertData
	if len(data) == 0 && s.config.CertFile != "" {
		info, err := os.Stat(s.config.CertFile)
		if err != nil || info.Size() > maxKubeconfig {
			return ""
		}
		data, _ = os.ReadFile(s.config.CertFile) // "" is none; the API server will say what is wrong
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			name, _ := strings.CutPrefix(cert.Subject.CommonName, "system:node:")
			if name != cert.Subject.CommonName {
				return name
			}
		}
		return ""
	}
	return ""
}

// search looks for the node that has this machine's id.
func (s *session) search(ctx context.Context) (string, error) {
	var names []string
	o := metav1.ListOptions{Limit: pageOfPods}
	for {
		var page corev1.NodeList
		if err := s.list(ctx, "nodes", "/api/v1/nodes", o, &page); err != nil {
			return "", err
		}
		for i := range page.Items {
			if sameID(page.Items[i].Status.NodeInfo.MachineID, s.link.machine.ID) {
				names = append(names, page.Items[i].Name)
			}
		}
		if o.Continue = page.Continue; o.Continue == "" {
			break
		}
	}
	switch len(names) {
	case 0:
		return "", fmt.Errorf("find this machine's node: none of the cluster's has machine-id %s: it has not joined, or another one's kubeconfig is used; name the node in the policy", s.link.machine.ID)
	case 1:
		return names[0], nil
	}
	return "", fmt.Errorf("find this machine's node: %s all claim machine-id %s: machines were cloned with it; give each its own, or name the node in the policy", strings.Join(names, ", "), s.link.machine.ID)
}

// sameID compares machine-ids: some report them as UUIDs, with dashes.
func sameID(a, b string) bool {
	plain := func(id string) string { return strings.ToLower(strings.ReplaceAll(strings.TrimSpace(id), "-", "")) }
	return a != "" && plain(a) == plain(b)
}

// look reads the node, and makes sure that it is this machine's.
func (s *session) look(ctx context.Context) error {
	n := &corev1.Node{}
	err := s.get(ctx, deed{"", "nodes", s.node}, "/api/v1/nodes/"+s.node, n)
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("%w: node %s is not in the cluster: it was deleted, or never joined under this name: %w", errSettled, s.node, err)
	}
	if err != nil {
		return err
	}
	return s.take(n)
}

// take makes a node the session's.
func (s *session) take(n *corev1.Node) error {
	if n.Name != s.node {
		return fmt.Errorf("node %s was asked for, and %q is what the API server sent", s.node, n.Name)
	}
	id := n.Status.NodeInfo.MachineID
	if !sameID(id, s.link.machine.ID) && (id != "" || s.link.Node == "") {
		return fmt.Errorf("%w: node %s is machine %q and this is machine %s: two machines use its name, or this one was installed anew and its kubelet has not reported since", errSettled, s.node, id, s.link.machine.ID)
	}
	word, err := readWord(n)
	if err != nil {
		return fmt.Errorf("%w: node %s: %w", errSettled, s.node, err)
	}
	if word != nil && !sameID(word.Machine, s.link.machine.ID) {
		return fmt.Errorf("%w: node %s was taken out of service by machine %s and this is machine %s: two machines use its name; remove the annotation %s when there is one again", errSettled, s.node, word.Machine, s.link.machine.ID, Annotation)
	}
	s.object, s.word = n, word
	return nil
}

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

// here makes sure that the node's last report came from the running system: else
// another machine's pods might be evicted.
func (s *session) here() error {
	boot, err := s.link.machine.BootID()
	if err != nil {
		return fmt.Errorf("read the boot-id: %w", err)
	}
	if reported := s.object.Status.NodeInfo.BootID; reported != boot {
		return fmt.Errorf("node %s was last reported by boot %q and this is boot %s: its kubelet has not reported since this machine booted, or another machine uses its name", s.node, reported, boot)
	}
	return nil
}

// blocked names what forbids a reboot of this node as a whole.
func (s *session) blocked() []fleetlink.Workload {
	if selects(s.link.BlockingNode, s.object.Labels) {
		return []fleetlink.Workload{{Name: "node " + s.node, Why: "its labels match " + s.link.BlockingNode + ", which the policy says forbids its reboot"}}
	}
	return nil
}

// A patch is a change of a node, in one write.
type patch struct {
	word     *Word // nil: none any more
	cordon   *bool // nil: as it is
	excluded *bool // nil: as it is
}

// cordon is what is missing to a node out of service on our word; nil: nothing.
func (s *session) cordon(why string) (*patch, error) {
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
	}
	if !changed {
		return nil, nil
	}
	return p, nil
}

// resume undoes what our word says that we did; nil: nothing.
func (s *session) resume() *patch {
	if s.word == nil {
		return nil
	}
	p, off := &patch{}, false
	if s.word.Cordoned {
		p.cordon = &off
	}
	if s.word.Excluded {
		p.excluded = &off
	}
	return p
}

// body is a patch of this version of the node, as a JSON merge patch (RFC 7396).
func (s *session) body(p *patch) ([]byte, error) {
	annotation := any(nil)
	if p.word != nil {
		text, err := json.Marshal(p.word)
		if err != nil {
			return nil, err
		}
		annotation = string(text)
	}
	meta := map[string]any{"uid": s.object.UID, "resourceVersion": s.object.ResourceVersion,
		"annotations": map[string]any{Annotation: annotation}}
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
	err = s.do(ctx, deed{"patch", "nodes", s.node}, s.rest.Patch(types.MergePatchType).AbsPath("/api/v1/nodes/"+s.node).Body(body), after)
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

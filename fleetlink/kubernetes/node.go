package kubernetes

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/drydock-os/drydock/fleetlink"
)

// A session is one call's view: a client, and the node as it was when it began.
type session struct {
	*client
	link   *Link
	node   string
	object *corev1.Node
	word   *Word // nil: not out of service on our word
	ledger ledger
	plain  bool            // VolumeAttachments may not be listed
	ties   map[string]*tie // VolumeAttachments that the node's status spoke of, by name
}

// now is the API server's time, or where it says none this machine's.
func (s *session) now() time.Time {
	if now, told := s.clock(); told {
		return now
	}
	return s.link.Now()
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
	if missing(err, s.node) {
		return absent{s.node, err}
	}
	if err != nil {
		return err
	}
	return s.take(n)
}

// An absent is the error of a node that the API server does not know.
type absent struct {
	node string
	err  error
}

// Error says what that means.
func (a absent) Error() string {
	return fmt.Sprintf("%v: node %s is not in the cluster: it was deleted, or never joined under this name: %v", errSettled, a.node, a.err)
}

// Unwrap is that nothing changes it, and what the API server said.
func (a absent) Unwrap() []error { return []error{errSettled, a.err} }

// missing reports whether an API server says that it has no such node. Others, on
// the way to it, say 404 of a page.
func missing(err error, node string) bool {
	s := apierrors.APIStatus(nil)
	if !apierrors.IsNotFound(err) || !errors.As(err, &s) || apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse) {
		return false
	}
	d := s.Status().Details
	return d != nil && d.Kind == "nodes" && d.Name == node
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
	s.note()
	return nil
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
	if s.object != nil && selects(s.link.BlockingNode, s.object.Labels) {
		return []fleetlink.Workload{{Name: "node " + s.node, Why: "its labels match " + s.link.BlockingNode + ", which the policy says forbids its reboot", Forbids: true}}
	}
	return nil
}

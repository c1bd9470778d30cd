// Package kubernetes takes a node's pods away before its machine reboots, through
// the Kubernetes API alone: a cordon that says whose it is, evictions that respect
// budgets, and the node's own word that it is back.
//
// By default it speaks with the kubelet's credential. The node authorizer and the
// NodeRestriction admission plugin let that read and cordon its own node, and
// read, evict and delete the pods on it, and nothing else: a machine that is broken
// into holds no right over the cluster that it did not have before. What needs more
// says so (Options.Surge, Options.Budgets, VolumeAttachments); rbac.yaml beside this
// file grants it to a service account, and no more than it.
//
// A node that runs the API server itself (or the only one) needs no other
// treatment: its static pods stay, so the API answers until the reboot, and while
// the machine boots every call is an error, which is what it is: unknown.
package kubernetes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/drydock-os/drydock/fleetlink"
)

// Kubeconfigs are where a kubelet's credential is looked for, in this order: as
// Flatcar, kubeadm, k3s, and RKE2 keep it.
var Kubeconfigs = []string{"/var/lib/kubelet/kubeconfig", "/etc/kubernetes/kubelet.conf", "/var/lib/rancher/k3s/agent/kubelet.kubeconfig",
	"/var/lib/rancher/rke2/agent/kubelet.kubeconfig"}

// Options say how a node is taken out of service. The zero value evicts as
// `kubectl drain --ignore-daemonsets` does.
type Options struct {
	Kubeconfig string // "": the first of Kubeconfigs that exists
	Node       string // the node's name; "": the one of the credential, or else of the machine-id, or else of the host name

	Unmanaged        bool          // evict pods that nothing will make anew: they are gone then (kubectl's --force)
	EmptyDir         bool          // evict pods that keep data in an emptyDir: it is lost then (kubectl's --delete-emptydir-data)
	RefuseDaemonSets bool          // pods of DaemonSets forbid the drain; otherwise they stay and end with the machine
	KeepFinished     bool          // leave pods that have ended; otherwise they are removed, as kubectl does
	GracePeriod      time.Duration // for pods to end; 0: each pod's own
	SkipOverdue      time.Duration // pods that should have ended so long ago do not count any more; 0: they do

	// Label selectors: pods on this node, or this node itself, that forbid its reboot,
	// before a drain and in it; "": none. A label below node-restriction.kubernetes.io/
	// is one that no kubelet can take off its node.
	BlockingPods, BlockingNode string

	LeaveLoadBalancers bool          // label the node as excluded from external load balancers while it is out of service
	LoadBalancerWait   time.Duration // from then to the first eviction
	IgnoreVolumes      bool          // do not wait until the node's volumes are detached

	// Surge evicts one pod of a ReplicaSet, StatefulSet or ReplicationController at
	// a time, and the next when as many as it wants are ready elsewhere, whatever its
	// budget. Needs the right to read those, and pods everywhere.
	Surge bool
	// Budgets names all budgets that select a pod which may not be evicted, and those
	// that can never allow it. Needs the right to list them.
	Budgets bool

	InFlight int           // evictions at a time; 0: 16
	Retry    time.Duration // after an eviction that a budget refused, about; 0: 5 s, as kubectl
	Timeout  time.Duration // of one request; 0: 30 s, which is more than the server gives an eviction

	Now func() time.Time // nil: the clock
}

// The bounds of Options.
const (
	maxInFlight = 256              // each is a request and its goroutine
	maxWait     = 24 * time.Hour   // nobody means longer, and a drain's deadline is far below
	minTimeout  = time.Second      // less than that is a busy server's normal answer
	maxTimeout  = 10 * time.Minute // a request that hangs must not hang the daemon
)

// Validate says what cannot be.
func (o Options) Validate() error {
	_, err := labels.Parse(o.BlockingPods)
	if err != nil {
		return fmt.Errorf("selector of blocking pods %q: %w", o.BlockingPods, err)
	}
	if _, err := labels.Parse(o.BlockingNode); err != nil {
		return fmt.Errorf("selector of a blocking node %q: %w", o.BlockingNode, err)
	}
	if o.InFlight < 0 || o.InFlight > maxInFlight {
		return fmt.Errorf("%d evictions at a time: want 1 to %d", o.InFlight, maxInFlight)
	}
	if o.Timeout != 0 && (o.Timeout < minTimeout || o.Timeout > maxTimeout) {
		return fmt.Errorf("timeout %s: want %s to %s", o.Timeout, minTimeout, maxTimeout)
	}
	for what, d := range map[string]time.Duration{"grace period": o.GracePeriod, "skip overdue": o.SkipOverdue,
		"load balancer wait": o.LoadBalancerWait, "retry": o.Retry} {
		if d < 0 || d > maxWait {
			return fmt.Errorf("%s %s: want 0s to %s", what, d, maxWait)
		}
	}
	if o.GracePeriod%time.Second != 0 {
		return fmt.Errorf("grace period %s: want whole seconds", o.GracePeriod)
	}
	return nil
}

// selects reports whether a selector is given and matches. It has been validated.
func selects(selector string, set map[string]string) bool {
	s, err := labels.Parse(selector)
	return err == nil && !s.Empty() && s.Matches(labels.Set(set))
}

// A Link is the link of a machine that is a Kubernetes node.
type Link struct {
	machine fleetlink.Machine
	Options

	mu   sync.Mutex
	node string    // found, for as long as this process lives
	kept *client   // nil: none yet
	well time.Time // since when a kubelet of this boot is seen to be ready; zero: it is not
}

// New returns the link of a machine. It asks nobody yet; the options are valid.
func New(m fleetlink.Machine, o Options) *Link {
	o.InFlight = cmp.Or(o.InFlight, 16)
	o.Retry = cmp.Or(o.Retry, 5*time.Second)
	o.Timeout = cmp.Or(o.Timeout, 30*time.Second)
	if o.Now == nil {
		o.Now = now
	}
	return &Link{machine: m, Options: o}
}

func now() time.Time { return time.Now() }

// kubeconfig is the path of the credential.
func (l *Link) kubeconfig() (string, error) {
	if l.Kubeconfig != "" {
		return l.Kubeconfig, nil
	}
	for _, path := range Kubeconfigs {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		} else if !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("look for the kubelet's kubeconfig: %w", err)
		}
	}
	return "", fmt.Errorf("none of %v is there: this machine has not joined a cluster, or keeps the kubelet's kubeconfig elsewhere; name it in the policy", Kubeconfigs)
}

// Preflight implements fleetlink.Link: each pod that has to leave is evicted as a
// dry run, and with Surge its owner is asked whether a drain could begin. Budgets are asked one pod at a time, so two pods of one budget both may
// leave although not at once, which is how a drain does it.
func (l *Link) Preflight(ctx context.Context) ([]fleetlink.Workload, error) {
	s, err := l.open(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.here(); err != nil {
		return nil, err
	}
	held := s.blocked()
	for _, w := range s.ails() {
		w.Why += kept
		held = append(held, w)
	}
	pods, _, err := s.pods(ctx)
	if err != nil {
		return nil, err
	}
	refused, err := s.rehearse(ctx, pods)
	return append(held, refused...), err
}

// Standing implements fleetlink.Link.
func (l *Link) Standing(ctx context.Context) (fleetlink.Standing, error) {
	s, err := l.open(ctx)
	if err != nil {
		return fleetlink.Standing{}, err
	}
	if s.word == nil {
		return fleetlink.Standing{}, s.orphaned()
	}
	pods, _, err := s.pods(ctx)
	if err != nil {
		return fleetlink.Standing{}, err
	}
	standing := fleetlink.Standing{Ours: true, Open: !s.object.Spec.Unschedulable, Left: append(s.blocked(), s.left(pods, false)...)}
	if len(standing.Left) == 0 {
		standing.Left, err = s.volumes(ctx, pods)
	}
	return standing, err
}

// Cordon implements fleetlink.Link. Cordon, label and our word about both are one
// write.
func (l *Link) Cordon(ctx context.Context, why string) error {
	return l.change(ctx, func(s *session) (*patch, error) {
		if err := s.here(); err != nil {
			return nil, err
		}
		return s.cordon(why)
	})
}

// Resume implements fleetlink.Link. Without our word on the node nothing is done;
// that is an error where the cordon is ours. What we did to a node that was deleted
// went with it.
func (l *Link) Resume(ctx context.Context) error {
	err := l.change(ctx, (*session).resume)
	if errors.As(err, &absent{}) {
		return nil
	}
	return err
}

// jitter spreads a wait, so that a fleet's retries do not come together.
func jitter(d time.Duration) time.Duration {
	return d*3/4 + time.Duration(rand.Int64N(int64(d/2)+1))
}

// pause waits, unless ctx ends before.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

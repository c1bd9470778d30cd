package daemon_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/drydock-os/drydock/fleetlink/kubernetes/kubetest"
)

// kubeDock is a node of the real control plane, with the credential of its
// kubelet, which is played; two pods of ReplicaSets are on it, and one of a
// DaemonSet.
func kubeDock(t *testing.T, p *kubetest.Plane) dock {
	y := p.Yard(1)
	t.Cleanup(y.Close)
	k := y.Add(kubetest.Machine{Name: y.Namespace + "-this", ID: machineID(0), Boot: bootID(1)})
	work := []string{y.Pod(k, "db"), y.Pod(k, "web")}
	y.DaemonSet("logs")
	return dock{
		tables: fmt.Sprintf("[scheduler]\nkind = \"kubernetes\"\n[scheduler.kubernetes]\nkubeconfig = %q\n", k.Kubeconfig),
		heard: func() bool {
			return slices.ContainsFunc(p.Audit(), func(d kubetest.Deed) bool { return d.Verb == "get" && d.User == "system:node:"+k.Name })
		},
		work: work, why: "it was told to end",
		keep: func() func() { return y.Stick("web") },
		here: func() []string {
			return slices.DeleteFunc(y.On(k), func(name string) bool { return strings.HasPrefix(name, y.Namespace+"/logs-") })
		},
		closed: func() bool { return y.Node(k).Spec.Unschedulable },
		down:   k.Leave,
		phases: []phase{
			{reason: "its kubelet has not reported since this machine booted", closed: true},
			{begin: func() {
				if err := k.PowerOn(t.Context(), bootID(2)); err != nil {
					t.Fatal(err)
				}
			}, reason: "its kubelet has not reported it since the reboot", closed: true},
		},
		last: func() {
			if err := k.Revive(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
		record: func() (all []moment) {
			me := "system:node:" + k.Name
			for _, d := range p.Audit() {
				what := ""
				switch {
				case d.User != me:
				case d.Object == "nodes/"+k.Name && strings.Contains(d.Body, `"unschedulable":true`):
					what = "cordon"
				case d.Object == "nodes/"+k.Name && strings.Contains(d.Body, `"unschedulable":null`):
					what = "uncordon"
				case d.Verb == "create" && strings.HasSuffix(d.Object, "/eviction"):
					what = strings.TrimPrefix(d.Object, "pods/")
				case d.Verb == "delete":
					what = strings.TrimPrefix(d.Object, "pods/") + " is gone"
				}
				if what != "" {
					all = append(all, moment{d.At, what})
				}
			}
			return all
		},
		story: []string{"permit: granted", "cordon", work[0] + " is gone", work[1] + " is gone", "the reboot is asked for", "the machine is down", "uncordon", "permit: updated"},
	}
}

// TestWholeMachineOfKubernetes: a node's pods are evicted before the reboot is
// asked for, and the permit is kept until the node is ready in the new boot, its
// DaemonSets' pods run, and it takes pods again. API server, scheduler and
// controller manager are the real ones.
func TestWholeMachineOfKubernetes(t *testing.T) {
	t.Parallel() // it mostly waits
	p := kubetest.StartAudited(t)
	t.Run("updates", func(t *testing.T) {
		newWhole(t, "", func(t *testing.T, _ *host) dock { return kubeDock(t, p) }).updates()
	})
	t.Run("aborts", func(t *testing.T) {
		newWhole(t, retriesLate, func(t *testing.T, _ *host) dock { return kubeDock(t, p) }).aborts()
	})
}

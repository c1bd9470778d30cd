package kubernetes_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/fleetlink/kubernetes"
	"github.com/drydock-os/drydock/fleetlink/kubernetes/kubetest"
)

// child is the variable by which this program is told to be one drain of its own,
// as kubectl's is: what it needs of time and memory is then its alone.
const child = "KUBETEST_DRAIN"

// A job is what a child is told.
type job struct{ Kubeconfig, Machine, Boot string }

// A cost is what it says.
type cost struct {
	Took time.Duration
	Peak int // KiB of memory, at most
}

func TestMain(m *testing.M) {
	if text := os.Getenv(child); text != "" {
		c, err := drainOnce(text)
		if err == nil {
			err = json.NewEncoder(os.Stdout).Encode(c)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func drainOnce(text string) (c cost, err error) {
	var j job
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		return c, err
	}
	l := kubernetes.New(fleetlink.Machine{ID: j.Machine, BootID: func() (string, error) { return j.Boot, nil }}, kubernetes.Options{Kubeconfig: j.Kubeconfig})
	began := time.Now()
	if err := l.Drain(context.Background(), fleetlink.Order{}); err != nil {
		return c, err
	}
	c.Took = time.Since(began)
	status, err := os.ReadFile("/proc/self/status")
	for _, line := range strings.Split(string(status), "\n") {
		if size, is := strings.CutPrefix(line, "VmHWM:"); is {
			c.Peak, err = strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(size, "kB")))
		}
	}
	return c, err
}

// ours runs a drain in a process of its own.
func ours(b *testing.B, k *kubetest.Kubelet) (c cost) {
	text, err := json.Marshal(job{k.Kubeconfig, k.MachineID, k.BootID()})
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), child+"="+string(text))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, &c)
	}
	if err != nil {
		b.Fatalf("drain: %v\n%s", err, out)
	}
	return c
}

// BenchmarkDrain500 drains 500 pods of 50 Deployments from one node to another,
// with this package and with kubectl's own drain in turn, under the same budgets.
func BenchmarkDrain500(b *testing.B) {
	p := kubetest.Start(b)
	y := p.Yard(2)
	defer y.Close()
	const deployments, replicas = 50, 10
	y.Unschedulable(y.Nodes[1], true)
	for i := range deployments {
		y.Deployment(fmt.Sprintf("app-%d", i), replicas, false)
	}
	settle(y, deployments, replicas)
	for i := range deployments {
		app := fmt.Sprintf("app-%d", i)
		y.Budget(app, app, intstr.FromInt32(replicas/2))
	}
	y.Unschedulable(y.Nodes[1], false)
	var mine, theirs time.Duration
	var runs, peak, failures int
	for b.Loop() {
		k := y.Nodes[0]
		l := link(k, kubernetes.Options{})
		if err := l.Cordon(b.Context(), "benchmark"); err != nil {
			b.Fatal(err)
		}
		c := ours(b, k)
		mine, peak, runs = mine+c.Took, max(peak, c.Peak), runs+1
		settle(y, deployments, replicas)
		if err := l.Resume(b.Context()); err != nil {
			b.Fatal(err)
		}
		k = y.Nodes[1]
		y.Unschedulable(k, true)
		took, failed := insist(b, y, k)
		theirs, failures = theirs+took, failures+failed
		settle(y, deployments, replicas)
		y.Unschedulable(k, false)
		b.Logf("500 pods: %s, kubectl %s and %d failures", c.Took, took, failed)
	}
	b.ReportMetric(mine.Seconds()/float64(runs), "s/drain")
	b.ReportMetric(theirs.Seconds()/float64(runs), "s/kubectl")
	b.ReportMetric(float64(failures)/float64(runs), "kubectl-failures")
	b.ReportMetric(mine.Seconds()/theirs.Seconds(), "times-kubectl")
	b.ReportMetric(float64(peak)/1024, "MiB-peak")
}

// insist runs kubectl's drain until it has drained a node, as a person does: it
// gives up on a pod whose eviction the server did not finish in time, which 300
// requests at once bring about on a busy machine.
func insist(b *testing.B, y *kubetest.Yard, k *kubetest.Kubelet) (took time.Duration, failures int) {
	for {
		o := kubectl(b, y.Plane, "--node="+k.Name)
		if took += o.Took; o.Refuses != "" || failures > 20 {
			b.Fatalf("kubectl: %+v", o)
		}
		if o.Failed == "" {
			return took, failures
		}
		failures++
	}
}

// settle waits until all pods are ready, and budgets have their full allowance
// again.
func settle(y *kubetest.Yard, deployments, replicas int) {
	for i := range deployments {
		y.AwaitDeployment(fmt.Sprintf("app-%d", i), int32(replicas))
	}
}

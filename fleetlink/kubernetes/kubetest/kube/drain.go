//go:build !race

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/kubectl/pkg/drain"
)

// An outcome is what kubectl's own drain did, or would do, for tests that compare
// with it.
type outcome struct {
	Leaves  []string      `json:"leaves"`  // namespace/name of the pods that it evicts
	Refuses string        `json:"refuses"` // why it does not begin
	Failed  string        `json:"failed"`  // what it gave up on
	Took    time.Duration `json:"took"`    // nanoseconds, from the list to the last pod's end
}

// newDrain is kubectl's drain of a node, as `kubectl drain` sets it up.
func newDrain() *cobra.Command {
	var kubeconfig, node string
	var force, emptyDir, list bool
	cmd := &cobra.Command{Use: "drain", SilenceUsage: true}
	cmd.Flags().StringVar(&kubeconfig, "kubeconfig", "", "")
	cmd.Flags().StringVar(&node, "node", "", "")
	cmd.Flags().BoolVar(&force, "force", false, "")
	cmd.Flags().BoolVar(&emptyDir, "delete-emptydir-data", false, "")
	cmd.Flags().BoolVar(&list, "list", false, "say what would be evicted, and evict nothing")
	cmd.RunE = func(*cobra.Command, []string) error {
		config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		if err != nil {
			return err
		}
		config.QPS, config.Burst = 50, 300 // as kubectl's own
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			return err
		}
		h := &drain.Helper{Ctx: context.Background(), Client: client, Force: force, DeleteEmptyDirData: emptyDir, IgnoreAllDaemonSets: true,
			GracePeriodSeconds: -1, Out: io.Discard, ErrOut: io.Discard}
		return json.NewEncoder(os.Stdout).Encode(outcomeOf(h, node, list))
	}
	return cmd
}

func now() time.Time { return time.Now() }

// outcomeOf drains, or says what it would do.
func outcomeOf(h *drain.Helper, node string, list bool) (o outcome) {
	began := now()
	pods, errs := h.GetPodsForDeletion(node)
	if o.Leaves = []string{}; pods != nil {
		for _, p := range pods.Pods() {
			o.Leaves = append(o.Leaves, p.Namespace+"/"+p.Name)
		}
	}
	if len(errs) > 0 {
		o.Refuses = fmt.Sprint(errs)
	} else if !list {
		if err := h.DeleteOrEvictPods(pods.Pods()); err != nil {
			o.Failed = err.Error()
		}
	}
	o.Took = time.Since(began)
	return o
}

//go:build !race

package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	manager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
)

// run is the part of the control plane that the first argument names.
func run() int {
	parts := map[string]func() *cobra.Command{
		"apiserver":          apiserver.NewAPIServerCommand,
		"scheduler":          func() *cobra.Command { return scheduler.NewSchedulerCommand() },
		"controller-manager": manager.NewControllerManagerCommand,
		"drain":              newDrain,
	}
	if len(os.Args) > 1 {
		if part, known := parts[os.Args[1]]; known {
			cmd := part()
			cmd.SetArgs(os.Args[2:])
			return cli.Run(cmd)
		}
	}
	fmt.Fprintln(os.Stderr, "usage: kube apiserver|scheduler|controller-manager|drain FLAG...")
	return 2
}

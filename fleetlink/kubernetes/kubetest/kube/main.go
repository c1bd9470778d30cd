// Command kube is Kubernetes' own control plane in one program, built for tests:
// kube apiserver|scheduler|controller-manager, with the flags of each.
package main

import "os"

func main() { os.Exit(run()) }

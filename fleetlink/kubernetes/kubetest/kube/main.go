// Command kube is Kubernetes' own control plane in one program, built for tests:
// kube apiserver|scheduler|controller-manager, with the flags of each. Beside them,
// kube drain is kubectl's drain, to compare with.
//
// It is a module of its own so that it is built with the versions that Kubernetes
// was released with, and so that nothing else is.
package main

import "os"

func main() { os.Exit(run()) }

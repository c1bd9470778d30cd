//go:build etcdlinked

package rebootlock

// The lock in etcd is to come; what its client costs a daemon at rest is
// measured already (testdata/bench/install/idle.sh).
import (
	_ "go.etcd.io/etcd/client/v3"
	_ "go.etcd.io/etcd/client/v3/concurrency"
)

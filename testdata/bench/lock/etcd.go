package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// server is one real etcd process.
type server struct {
	dir, url string
	process  *exec.Cmd
	client   *clientv3.Client
}

func startEtcd(ctx context.Context) (*server, error) {
	dir, err := os.MkdirTemp("", "drydock-bench-lock-")
	if err != nil {
		return nil, err
	}
	binary := filepath.Join(dir, "etcd")
	build := exec.CommandContext(ctx, "go", "build", "-o", binary, "github.com/drydock-os/drydock/rebootlock/etcdtest/etcd")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return nil, fmt.Errorf("build etcd: %w", err)
	}
	client, peer, err := freePorts()
	if err != nil {
		return nil, err
	}
	s := &server{dir: dir, url: "http://127.0.0.1:" + client}
	s.process = exec.Command(binary, "--name=bench", "--data-dir="+filepath.Join(dir, "data"), "--log-level=error",
		"--listen-client-urls="+s.url, "--advertise-client-urls="+s.url, "--listen-peer-urls=http://127.0.0.1:"+peer,
		"--initial-advertise-peer-urls=http://127.0.0.1:"+peer, "--initial-cluster=bench=http://127.0.0.1:"+peer)
	if s.process.Stderr, err = os.Create(filepath.Join(dir, "etcd.log")); err != nil {
		return nil, err
	}
	s.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.process.Start(); err != nil {
		return nil, err
	}
	if s.client, err = s.dial(nil); err != nil {
		return nil, err
	}
	ready, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	_, err = s.client.Get(ready, "ready")
	return s, err
}

func (s *server) stop() {
	_ = s.client.Close()
	_ = s.process.Process.Kill()
	_ = s.process.Wait()
	_ = os.RemoveAll(s.dir)
}

// dial connects, and counts the requests of the connection, but for those that
// keep leases alive, which are streams.
func (s *server) dial(count *atomic.Int64) (*clientv3.Client, error) {
	config := clientv3.Config{Endpoints: []string{s.url}, DialTimeout: 10 * time.Second, Logger: zap.NewNop()}
	if count != nil {
		config.DialOptions = []grpc.DialOption{grpc.WithUnaryInterceptor(
			func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				count.Add(1)
				return invoke(ctx, method, req, reply, cc, opts...)
			})}
	}
	return clientv3.New(config)
}

// put is the median time of a put by one client.
func (s *server) put(ctx context.Context) (time.Duration, error) {
	var all []time.Duration
	for range 300 {
		began := time.Now()
		if _, err := s.client.Put(ctx, "bench/put", "value"); err != nil {
			return 0, err
		}
		all = append(all, time.Since(began))
	}
	return percentile(all, 50), nil
}

func freePorts() (a, b string, err error) {
	var ports [2]string
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", "", err
		}
		defer l.Close()
		_, ports[i], _ = net.SplitHostPort(l.Addr().String())
	}
	return ports[0], ports[1], nil
}

// Package kubetest runs a real Kubernetes control plane for tests: API server,
// scheduler and controller manager of the version in kube/go.mod, on an etcd, with
// the node authorizer and NodeRestriction on. Kubelets are played by this package.
package kubetest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/drydock-os/drydock/rebootlock/etcdtest"
	"github.com/drydock-os/drydock/testdata/real"
)

// Wanted is the variable that must be 1 for these tests to run: the first build of
// the control plane takes five minutes on two cores.
const Wanted = "DRYDOCK_KUBE"

// startTimeout is how long a part may take to come up on a busy machine.
const startTimeout = 5 * time.Minute

// controllers are those that what is tested needs; each one that is left out
// watches nothing.
var controllers = []string{"deployment-controller", "replicaset-controller", "daemonset-controller", "statefulset-controller",
	"disruption-controller", "pod-garbage-collector-controller", "garbage-collector-controller", "node-lifecycle-controller",
	"taint-eviction-controller", "namespace-controller", "serviceaccount-controller", "root-ca-certificate-publisher-controller",
	"persistentvolume-attach-detach-controller", "persistentvolume-binder-controller", "serviceaccount-token-controller"}

// A Plane is a control plane that runs. It ends with its test; its last logs are
// printed if that has failed.
type Plane struct {
	// API speaks with every right.
	*API

	t      testing.TB
	dir    string
	url    string
	binary string
	pki    *pki
	etcd   *etcdtest.Cluster

	audit bool

	mu    sync.Mutex
	parts map[string]*part
}

// A part is one process.
type part struct {
	cmd  *exec.Cmd
	gone chan struct{}
	log  string
}

// Start runs a control plane and returns when its API server answers and pods can
// be made. Without DRYDOCK_KUBE=1 it skips the test.
func Start(t testing.TB) *Plane {
	t.Helper()
	return start(t, false)
}

// StartAudited is Start with an API server that keeps an audit log: see Audit.
func StartAudited(t testing.TB) *Plane {
	t.Helper()
	return start(t, true)
}

func start(t testing.TB, audit bool) *Plane {
	t.Helper()
	if os.Getenv(Wanted) != "1" {
		t.Skipf("runs Kubernetes' control plane, which takes minutes to build: set %s=1", Wanted)
	}
	p := &Plane{t: t, dir: t.TempDir(), parts: map[string]*part{}, binary: build(t), audit: audit}
	p.etcd = etcdtest.Start(t, etcdtest.Options{Direct: true})
	t.Cleanup(p.end)
	p.must("make keys", func() (err error) { p.pki, err = newPKI(p.dir); return err }())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	p.must("find a port", err)
	p.url = "https://" + listener.Addr().String()
	listener.Close()
	p.API = p.As("admin", "system:masters")
	p.startAPI()
	admin := p.Kubeconfig("admin", "system:masters")
	p.run("scheduler", "--kubeconfig="+p.Kubeconfig("system:kube-scheduler"), "--leader-elect=false", "--secure-port=0",
		"--kube-api-qps=500", "--kube-api-burst=1000")
	p.run("controller-manager", "--kubeconfig="+admin, "--leader-elect=false", "--secure-port=0", "--kube-api-qps=500", "--kube-api-burst=1000",
		"--controllers="+strings.Join(controllers, ","), "--root-ca-file="+p.pki.caFile, "--service-account-private-key-file="+p.pki.caKeyFile)
	p.Until("the default service account is there", func(ctx context.Context) bool {
		return p.Exists(ctx, "/api/v1/namespaces/default/serviceaccounts/default")
	})
	return p
}

func (p *Plane) must(what string, err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatalf("%s: %v", what, err)
	}
}

// Until waits until something is so.
func (p *Plane) Until(what string, ok func(context.Context) bool) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for !ok(ctx) {
		select {
		case <-ctx.Done():
			p.t.Fatalf("never: %s", what)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// startAPI runs the API server.
func (p *Plane) startAPI() {
	p.t.Helper()
	host, port, _ := net.SplitHostPort(strings.TrimPrefix(p.url, "https://"))
	args := []string{"--etcd-servers=" + strings.Join(p.etcd.Endpoints(), ","), "--bind-address=" + host, "--advertise-address=" + host, "--secure-port=" + port,
		"--tls-cert-file=" + p.pki.serverFile, "--tls-private-key-file=" + p.pki.serverKeyFile, "--client-ca-file=" + p.pki.caFile,
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=" + p.pki.caKeyFile, "--service-account-signing-key-file=" + p.pki.caKeyFile,
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--endpoint-reconciler-type=none",
		"--service-cluster-ip-range=10.0.0.0/24", "--max-requests-inflight=1000", "--max-mutating-requests-inflight=500"}
	if p.audit {
		args = append(args, p.auditFlags()...)
	}
	p.run("apiserver", args...)
	p.Until("the API server is ready", func(ctx context.Context) bool {
		body, err := p.rest.Get().AbsPath("/readyz").MaxRetries(0).DoRaw(ctx)
		return err == nil && string(body) == "ok"
	})
}

// run starts a part.
func (p *Plane) run(name string, args ...string) {
	p.t.Helper()
	x := &part{cmd: exec.Command(p.binary, append([]string{name, "--v=1"}, args...)...), gone: make(chan struct{}), log: filepath.Join(p.dir, name+".log")}
	log, err := os.OpenFile(x.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	p.must("open a log", err)
	defer log.Close()
	x.cmd.Stdout, x.cmd.Stderr = log, log
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.must("start "+name, x.cmd.Start())
	p.mu.Lock()
	defer p.mu.Unlock()
	p.parts[name] = x
	time.AfterFunc(0, func() {
		x.cmd.Wait()
		close(x.gone)
	})
}

// StopAPI kills the API server, as a crash does.
func (p *Plane) StopAPI() {
	p.mu.Lock()
	x := p.parts["apiserver"]
	p.mu.Unlock()
	x.cmd.Process.Kill()
	<-x.gone
}

// StartAPI runs the API server again, at the same address, and returns when it is
// ready.
func (p *Plane) StartAPI() { p.startAPI() }

// Silence has the API server hang, with all its connections, until speak.
func (p *Plane) Silence() (speak func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	process := p.parts["apiserver"].cmd.Process
	process.Signal(syscall.SIGSTOP)
	return func() { process.Signal(syscall.SIGCONT) }
}

func (p *Plane) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, x := range p.parts {
		x.cmd.Process.Kill()
		<-x.gone
		if p.t.Failed() {
			p.t.Logf("last log of the %s:\n%s", name, tail(x.log))
		}
	}
}

// tail is the end of a file.
func tail(name string) string {
	data, err := os.ReadFile(name)
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-4000):])
}

// Binary is the program of kube/, of which "drain" is kubectl's.
func (p *Plane) Binary() string { return p.binary }

// build returns the path of the control plane's program, which it builds if it is
// not there or is of another version. All test programs of a user share it.
func build(t testing.TB) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	dir := filepath.Join(cache, "drydock-kubetest")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatalf("make directory for kube: %v", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatalf("lock the build of kube: %v", err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatalf("lock the build of kube: %v", err)
	}
	binary := filepath.Join(dir, "kube")
	const version = "v1.34.2"
	cmd := exec.Command(real.Program(t, "go"), "build", "-trimpath", "-ldflags", "-s -w -X k8s.io/component-base/version.gitVersion="+version, "-o", binary, ".")
	cmd.Dir = filepath.Join(real.Module(t), "fleetlink", "kubernetes", "kubetest", "kube")
	cmd.Env = append(os.Environ(), "GOFLAGS=-buildvcs=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build kube: %v\n%s", err, out)
	}
	return binary
}

// As returns a client of a user in groups.
func (p *Plane) As(user string, groups ...string) *API {
	p.t.Helper()
	api, err := newAPI(p.Kubeconfig(user, groups...))
	p.must("make a client", err)
	return api
}

// Kubeconfig writes the credential of a user in groups, and returns its path. The
// kubelet of node N is system:node:N in system:nodes.
func (p *Plane) Kubeconfig(user string, groups ...string) string {
	p.t.Helper()
	cert, key, err := p.pki.issue(user, groups)
	p.must("make a certificate", err)
	return p.config(user, fmt.Sprintf(`{"client-certificate":%q,"client-key":%q}`, cert, key))
}

// TokenKubeconfig writes the credential of a service account that exists, and
// returns its path.
func (p *Plane) TokenKubeconfig(namespace, account string) string {
	p.t.Helper()
	return p.config(namespace+"-"+account, fmt.Sprintf(`{"token":%q}`, p.token(namespace, account)))
}

func (p *Plane) config(name, user string) string {
	path := filepath.Join(p.dir, strings.ReplaceAll(name, ":", "-")+".kubeconfig")
	text := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"test","clusters":[{"name":"test","cluster":{"server":%q,"certificate-authority":%q}}],
"contexts":[{"name":"test","context":{"cluster":"test","user":"test"}}],"users":[{"name":"test","user":%s}]}`, p.url, p.pki.caFile, user)
	p.must("write a kubeconfig", os.WriteFile(path, []byte(text), 0o600))
	return path
}

package etcdtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/drydock-os/drydock/testdata/real"
)

// build returns the path of the etcd server, which it builds if it is not
// there or is of another version. All test programs of a user share it.
func build(t testing.TB) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	dir := filepath.Join(cache, "drydock-etcdtest")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatalf("make directory for etcd: %v", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatalf("lock the build of etcd: %v", err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatalf("lock the build of etcd: %v", err)
	}
	binary := filepath.Join(dir, "etcd")
	cmd := exec.Command(real.Program(t, "go"), "build", "-o", binary, "./rebootlock/etcdtest/etcd")
	cmd.Dir = real.Module(t)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-trimpath") // one binary for all, also under -race
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build etcd: %v\n%s", err, out)
	}
	return binary
}

// A member is one process of etcd, from start to start.
type member struct {
	cluster      *Cluster
	index        int
	binary       string
	client, peer string // host:port under which others know it
	// own are the addresses at which its process listens. A proxied member has
	// new ones with each start.
	ownClient, ownPeer string

	mu      sync.Mutex
	process *os.Process
	gone    chan struct{} // closed when the process has ended
}

func newMember(c *Cluster, index int, binary string) (m *member, err error) {
	m = &member{cluster: c, index: index, binary: binary}
	if c.options.Direct {
		m.client, m.peer = freshAddress(), freshAddress()
		m.ownClient, m.ownPeer = m.client, m.peer
		return m, nil
	}
	if m.client, err = c.net.serve(m, func() string { return m.address(&m.ownClient) }); err == nil {
		m.peer, err = c.net.serve(m, func() string { return m.address(&m.ownPeer) })
	}
	return m, err
}

func (m *member) address(own *string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return *own
}

// ports counts the addresses that were given out.
var ports atomic.Int64

// freshAddress is a loopback address at which nobody listens: an address of this
// process alone, and a port below those that the kernel gives to connections.
func freshAddress() string {
	return net.JoinHostPort(ownIP().String(), strconv.FormatInt(20000+ports.Add(1)%10000, 10))
}

// ownIP is a loopback address that no other process that lives has. There are
// at most 1<<22 of those on Linux.
func ownIP() net.IP {
	pid := os.Getpid()
	return net.IPv4(127, byte(64+pid>>16), byte(pid>>8), byte(pid))
}

func (m *member) clientURL() string {
	if m.cluster.options.TLS != Plain {
		return "https://" + m.client
	}
	return "http://" + m.client
}

func (m *member) name() string { return fmt.Sprintf("m%d", m.index) }

func (m *member) args() []string {
	c := m.cluster
	var all []string
	for _, other := range c.members {
		all = append(all, other.name()+"=http://"+other.peer)
	}
	scheme, _, _ := strings.Cut(m.clientURL(), "://")
	args := []string{"--name=" + m.name(), "--data-dir=" + filepath.Join(c.data, m.name()),
		"--listen-client-urls=" + scheme + "://" + m.ownClient, "--advertise-client-urls=" + m.clientURL(),
		"--listen-peer-urls=http://" + m.ownPeer, "--initial-advertise-peer-urls=http://" + m.peer,
		"--initial-cluster=" + strings.Join(all, ","), "--initial-cluster-state=new",
		"--logger=zap", "--log-level=warn"}
	if c.options.TLS != Plain {
		args = append(args, "--cert-file="+c.pki.certFile, "--key-file="+c.pki.keyFile)
	}
	if c.options.TLS == Mutual {
		args = append(args, "--client-cert-auth", "--trusted-ca-file="+c.CAFile)
	}
	return append(args, c.options.Flags...)
}

// start runs the process, which ends with this one.
func (m *member) start() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.process != nil && !closed(m.gone) {
		return fmt.Errorf("member %d runs already", m.index)
	}
	if !m.cluster.options.Direct {
		m.ownClient, m.ownPeer = freshAddress(), freshAddress()
	}
	log, err := os.OpenFile(m.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(context.Background(), m.binary, m.args()...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, gone := make(chan error), make(chan struct{})
	m.cluster.running.Go(func() {
		defer close(gone)
		defer log.Close()
		// The signal comes when the thread ends that made the process, not only
		// with this program: the thread is kept.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait() // how it ended shows in its log
		}
	})
	if err := <-started; err != nil {
		return err
	}
	m.process, m.gone = cmd.Process, gone
	m.cluster.net.setPID(m.index, cmd.Process.Pid)
	return nil
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// running is the process, and what is closed when it has ended; nil before the
// first start.
func (m *member) running() (*os.Process, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.process, m.gone
}

func (m *member) exited() bool {
	_, gone := m.running()
	return gone == nil || closed(gone)
}

func (m *member) signal(s syscall.Signal) {
	process, _ := m.running()
	if process == nil {
		return
	}
	if err := process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		m.cluster.t.Errorf("send %s to etcd member %d: %v", s, m.index, err)
	}
}

func (m *member) kill() {
	if _, gone := m.running(); gone != nil {
		m.signal(syscall.SIGKILL)
		<-gone
	}
}

func (m *member) stop() {
	if _, gone := m.running(); gone != nil {
		m.signal(syscall.SIGTERM)
		<-gone
	}
}

// pause returns when all threads of the process stand still: a signal is only
// on its way when it was sent.
func (m *member) pause() {
	process, gone := m.running()
	if gone == nil {
		return
	}
	m.signal(syscall.SIGSTOP)
	for tick := time.NewTicker(time.Millisecond); !closed(gone) && !stopped(process.Pid); {
		<-tick.C
	}
}

func (m *member) resume() { m.signal(syscall.SIGCONT) }

// stopped says whether all threads of a process are in state T (proc_pid_stat(5)).
func stopped(pid int) bool {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, thread := range threads {
		stat, err := os.ReadFile(thread)
		// The state follows the name in parentheses, which may hold any character.
		if _, rest, ok := strings.Cut(string(stat), ") "); err == nil && ok && !strings.HasPrefix(rest, "T") {
			return false
		}
	}
	return err == nil
}

func (m *member) logFile() string { return filepath.Join(m.cluster.dir, m.name()+".log") }

// shownLog is how much of a member's log a failed test prints, in bytes.
const shownLog = 8 << 10

func (m *member) lastLog() string {
	f, err := os.Open(m.logFile())
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > shownLog {
		f.Seek(-shownLog, io.SeekEnd)
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

package bus

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/drydock-os/drydock/testdata/real"
	"github.com/drydock-os/drydock/updater"
	"github.com/godbus/dbus/v5"
)

// patience bounds every wait of these tests; nothing in them takes long.
const patience = 20 * time.Second

// nobody is the uid of a caller without any right.
const nobody = 65534

// busConfig is the private bus: the rules of Debian's and Flatcar's
// /usr/share/dbus-1/system.conf, then our policy files from dist/. The last
// rules let root play logind, systemd and polkit, whose own policy files would.
const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>%s</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Introspectable"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Properties"/>
  </policy>
  <policy user="root">
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Monitoring"/>
  </policy>
  %s
  <policy user="root">
    <allow own="org.freedesktop.login1"/>
    <allow own="org.freedesktop.systemd1"/>
    <allow own="org.freedesktop.PolicyKit1"/>
    <allow send_destination="org.freedesktop.login1"/>
    <allow send_destination="org.freedesktop.systemd1"/>
  </policy>
  <policy context="default">
    <allow send_destination="org.freedesktop.PolicyKit1"/>
  </policy>
</busconfig>
`

// privateBus is a real dbus-daemon that only this test talks to.
type privateBus struct {
	t       *testing.T
	address string
	config  string
	daemon  *exec.Cmd
}

// buses counts the buses of this process, to name their sockets.
var buses atomic.Int32

// startBus starts a dbus-daemon with the policy files, those of dist/ if none
// are named.
func startBus(t *testing.T, policies ...string) *privateBus {
	t.Helper()
	real.Root(t)
	if policies == nil {
		// The order in which dbus-daemon reads a directory is not defined: this is
		// the one in which a careless denial would hurt.
		policies = []string{distFile(t, "dbus-1/system.d/io.drydock.Drydock1.conf"), distFile(t, "dbus-1/system.d/com.coreos.update1.conf")}
	}
	dir := t.TempDir()
	var includes strings.Builder
	for _, p := range policies {
		fmt.Fprintf(&includes, "<include>%s</include>\n", p)
	}
	b := &privateBus{t: t, config: filepath.Join(dir, "bus.conf")}
	// In the abstract name space, so that another uid can reach it.
	b.address = fmt.Sprintf("unix:abstract=drydock-test-%d-%d", os.Getpid(), buses.Add(1))
	if err := os.WriteFile(b.config, fmt.Appendf(nil, busConfig, b.address, includes.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	b.start()
	t.Cleanup(b.stop)
	return b
}

func (b *privateBus) start() {
	b.t.Helper()
	b.daemon = exec.Command(real.Program(b.t, "dbus-daemon"), "--config-file="+b.config, "--nofork", "--nopidfile", "--print-address")
	said := new(bytes.Buffer)
	b.daemon.Stderr = said
	b.t.Cleanup(func() {
		if b.t.Failed() {
			b.stop()
			b.t.Logf("dbus-daemon: %s", said)
		}
	})
	out, err := b.daemon.StdoutPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	if err := b.daemon.Start(); err != nil {
		b.t.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		b.t.Fatalf("dbus-daemon did not start: %v", err)
	}
}

func (b *privateBus) stop() {
	if b.daemon == nil {
		return
	}
	b.daemon.Process.Kill()
	b.daemon.Wait()
	b.daemon = nil
}

// connect is a connection of a program that is not ours.
func (b *privateBus) connect() *connection {
	b.t.Helper()
	conn, err := connect(b.t.Context(), b.address)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { conn.Close() })
	return conn
}

// own is a connection that has taken a name.
func (b *privateBus) own(name string) *connection {
	b.t.Helper()
	conn := b.connect()
	reply, err := conn.RequestName(name, dbus.NameFlagDoNotQueue)
	if err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
		b.t.Fatalf("own %s: %v %v", name, reply, err)
	}
	return conn
}

// client is a Client of this bus.
func (b *privateBus) client() *Client {
	b.t.Helper()
	c, err := Dial(b.t.Context(), b.address)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { c.Close() })
	return c
}

// as runs a program under another uid on this bus and returns what it printed.
func (b *privateBus) as(uid uint32, name string, args ...string) (string, error) {
	b.t.Helper()
	cmd := exec.CommandContext(b.t.Context(), real.Program(b.t, name), args...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS="+b.address)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// yard is an updater.Controller that a test plays. It is not the updater: it
// says what the test set, and asks the test what to do.
type yard struct {
	mu      sync.Mutex
	status  updater.Status
	history []updater.HistoryEntry
	plan    updater.Plan
	asked   chan updater.Request
	do      func(ctx context.Context, r updater.Request) (updater.Outcome, error)
}

func newYard(s updater.Status) *yard {
	y := &yard{status: s, asked: make(chan updater.Request, 64)}
	y.do = func(context.Context, updater.Request) (updater.Outcome, error) { return updater.Done, nil }
	return y
}

func (y *yard) Status() updater.Status {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.status
}

func (y *yard) Do(ctx context.Context, r updater.Request) (updater.Outcome, error) {
	y.asked <- r
	return y.do(ctx, r)
}

func (y *yard) Plan(context.Context) (updater.Plan, error) { return y.plan, nil }

func (y *yard) History() []updater.HistoryEntry { return y.history }

// change sets the status and returns the event that tells of it.
func (y *yard) change(at time.Time, t updater.EventType, f func(*updater.Status)) updater.Event {
	y.mu.Lock()
	defer y.mu.Unlock()
	f(&y.status)
	return updater.Event{At: at, Type: t, Status: y.status}
}

// serve runs s on b until the test ends, and returns when it can be called.
func serve(t *testing.T, b *privateBus, s *Server) {
	t.Helper()
	s.Address = b.address
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	awaitOwner(t, b, Name)
	awaitOwner(t, b, Update1Name)
}

// awaitOwner waits until somebody owns name.
func awaitOwner(t *testing.T, b *privateBus, name string) {
	t.Helper()
	conn := b.connect()
	signals := listen(t, conn, "type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged',arg0='"+name+"'")
	var owned bool
	if err := conn.BusObject().Call("org.freedesktop.DBus.NameHasOwner", 0, name).Store(&owned); err != nil {
		t.Fatal(err)
	}
	for !owned {
		signal := receive(t, signals)
		owned = signal.Name == nameOwnerChanged && signal.Body[0] == name && signal.Body[2] != ""
	}
}

// listen adds a match rule, written as its program writes it.
func listen(t *testing.T, conn *connection, rule string) chan *dbus.Signal {
	t.Helper()
	signals := make(chan *dbus.Signal, 1024)
	conn.Signal(signals)
	if err := conn.BusObject().Call("org.freedesktop.DBus.AddMatch", 0, rule).Err; err != nil {
		t.Fatal(err)
	}
	return signals
}

func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v, open := <-from:
		if !open {
			t.Fatal("channel closed")
		}
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
	}
	panic("unreachable")
}

func distFile(t testing.TB, name string) string {
	return filepath.Join(real.Module(t), "dist", name)
}

func TestConnectTakesUnixAddressesOnly(t *testing.T) {
	for address, want := range map[string]string{
		"unix:path=/run/bus":             "/run/bus",
		"unix:abstract=x,guid=00":        "@x",
		"unix:guid=00,path=/run/a%20bus": "/run/a bus",
	} {
		if got, err := socketPath(address); got != want || err != nil {
			t.Errorf("socketPath(%q) = %q, %v; want %q", address, got, err, want)
		}
	}
	for _, address := range []string{"tcp:host=localhost,port=1", "unix:", "unix:tmpdir=/tmp", "", "unix:path=%zz"} {
		if got, err := socketPath(address); err == nil {
			t.Errorf("socketPath(%q) = %q, want an error", address, got)
		}
	}
}

func TestDialTriesEachAddress(t *testing.T) {
	b := startBus(t)
	c, err := Dial(t.Context(), "unix:path=/nonexistent;"+b.address)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestDialEndsWithItsContext(t *testing.T) {
	// A socket that accepts and says nothing.
	path := filepath.Join(t.TempDir(), "mute")
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}), syscall.Listen(fd, 1)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, "unix:path="+path); err == nil {
		t.Error("connected to a socket that says nothing")
	}
}

func TestClientSaysThatTheDaemonIsNotRunning(t *testing.T) {
	b := startBus(t)
	c := b.client()
	_, err := c.Status(t.Context())
	if !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), "systemctl status drydockd") {
		t.Errorf("Status: %v", err)
	}
	if _, err := c.Start(t.Context(), updater.Request{Action: updater.ActUpdate}); !errors.Is(err, ErrNotRunning) {
		t.Errorf("Start of a job: %v", err)
	}
	if _, err := c.Start(t.Context(), updater.Request{Action: updater.ActPause}); !errors.Is(err, ErrNotRunning) {
		t.Errorf("Start: %v", err)
	}
	if err := c.Watch(t.Context(), func(updater.Status) {}); !errors.Is(err, ErrNotRunning) {
		t.Errorf("Watch: %v", err)
	}
}

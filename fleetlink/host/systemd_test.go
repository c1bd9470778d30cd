package host_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/fleetlink/host"
	"github.com/drydock-os/drydock/fleetlink/linktest"
	"github.com/drydock-os/drydock/testdata/real"
	"github.com/drydock-os/drydock/updater/bus"
)

// systemd is a real service manager and its dbus-daemon, beside the machine's
// own: a user's instance, in name spaces of its own, for nothing but a test. It
// has the manager's interface that the system's has.
type systemd struct {
	t    *testing.T
	dir  string
	life *exec.Cmd // ends, and everything in its PID name space with it
	boot int
}

// busConfig is of a bus that anybody may use for anything.
const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path=%s</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/></policy></busconfig>
`

// bootScript has systemd believe that the machine was booted with it, and run as
// another process than the first, where it would take itself for the system's.
const bootScript = `set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system
/usr/lib/systemd/systemd --user
`

func startSystemd(t *testing.T) *systemd {
	t.Helper()
	real.Root(t)
	for _, name := range []string{"unshare", "systemctl", "dbus-daemon", "sh"} {
		real.Program(t, name)
	}
	if _, err := os.Stat("/usr/lib/systemd/systemd"); err != nil {
		real.Missing(t, "systemd is not installed")
	}
	dir, err := os.MkdirTemp("", "host") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	s := &systemd{t: t, dir: dir}
	t.Cleanup(func() { s.stop(); os.RemoveAll(dir) })
	for name, text := range map[string]string{
		"bus.conf":              fmt.Sprintf(busConfig, s.path("run/bus")),
		"boot.sh":               bootScript,
		"units/basic.target":    "[Unit]\nDefaultDependencies=no\n",
		"units/shutdown.target": "[Unit]\nDefaultDependencies=no\n",
		"units/sockets.target":  "[Unit]\nDefaultDependencies=no\n",
		"units/default.target":  "[Unit]\nWants=dbus.service\n",
		"units/dbus.socket":     "[Socket]\nListenStream=%t/bus\n",
		"units/dbus.service":    "[Unit]\nRequires=dbus.socket\nAfter=dbus.socket\n[Service]\nExecStart=" + real.Program(t, "dbus-daemon") + " --config-file=" + s.path("bus.conf") + " --nofork --nopidfile --address=systemd:\n",
	} {
		s.write(name, text)
	}
	s.start()
	return s
}

func (s *systemd) path(name string) string { return filepath.Join(s.dir, name) }

func (s *systemd) write(name, text string) {
	s.t.Helper()
	if err := os.MkdirAll(filepath.Dir(s.path(name)), 0o700); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *systemd) env() []string {
	return append(os.Environ(), "XDG_RUNTIME_DIR="+s.path("run"), "DBUS_SESSION_BUS_ADDRESS=unix:path="+s.path("run/bus"), "SYSTEMD_UNIT_PATH="+s.path("units"), "HOME="+s.dir, "SYSTEMD_LOG_TARGET=console")
}

// start boots it, and waits until it is on its bus.
func (s *systemd) start() {
	s.t.Helper()
	os.RemoveAll(s.path("run"))
	if err := os.Mkdir(s.path("run"), 0o700); err != nil {
		s.t.Fatal(err)
	}
	said := new(bytes.Buffer)
	s.boot++
	s.life = exec.Command("unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", s.path("boot.sh"))
	s.life.Env, s.life.Stdout, s.life.Stderr = s.env(), said, said
	s.life.WaitDelay = time.Second
	if err := s.life.Start(); err != nil {
		s.t.Fatal(err)
	}
	u := bus.Units{Address: "unix:path=" + s.path("run/bus")}
	for deadline := time.Now().Add(30 * time.Second); ; {
		ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Second)
		_, err := u.Running(ctx)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			s.stop()
			real.Missing(s.t, fmt.Sprintf("a systemd of a test's own does not run here: %v: %s", err, said))
		}
		<-time.After(50 * time.Millisecond)
	}
}

// stop has everything end at once.
func (s *systemd) stop() {
	if s.life != nil {
		s.life.Process.Kill()
		s.life.Wait()
		s.life = nil
	}
}

// ctl runs systemctl, over the bus: the manager's private socket takes nobody from
// another PID name space.
func (s *systemd) ctl(args ...string) string {
	s.t.Helper()
	cmd := exec.Command("systemctl", append([]string{"--user"}, args...)...)
	cmd.Env = append(s.env(), "SYSTEMCTL_FORCE_BUS=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("systemctl %v: %v: %s", args, err, out)
	}
	return string(out)
}

// place has a service of one process run.
func (s *systemd) place(name string) string {
	s.t.Helper()
	s.write("units/"+name+".service", "[Service]\nExecStart="+real.Program(s.t, "sleep")+" 100000\n")
	s.ctl("daemon-reload")
	s.ctl("start", name+".service")
	return name + ".service"
}

func (s *systemd) here() (names []string) {
	for line := range strings.Lines(s.ctl("list-units", "--plain", "--no-legend", "--state=active,activating,deactivating", "work-*")) {
		names = append(names, strings.Fields(line)[0])
	}
	return names
}

// hold has systemd refuse to stop a unit.
func (s *systemd) hold(unit string) func() {
	dropIn := "units/" + unit + ".d/held.conf"
	s.write(dropIn, "[Unit]\nRefuseManualStop=yes\n")
	s.ctl("daemon-reload")
	return func() { os.Remove(s.path(dropIn)); s.ctl("daemon-reload") }
}

// silence stops the manager's process.
func (s *systemd) silence() func() {
	s.t.Helper()
	shell := children(s.t, s.life.Process.Pid)
	managers := children(s.t, shell[0])
	send := func(sig syscall.Signal) {
		if err := syscall.Kill(managers[0], sig); err != nil {
			s.t.Fatal(err)
		}
	}
	send(syscall.SIGSTOP)
	return func() { send(syscall.SIGCONT) }
}

// children are the processes that a process has started.
func children(t *testing.T, parent int) (pids []int) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		_, after, _ := strings.Cut(string(text), ") ") // proc(5): state, then the parent
		if fields := strings.Fields(after); len(fields) > 1 && fields[1] == strconv.Itoa(parent) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			pids = append(pids, pid)
		}
	}
	if len(pids) == 0 {
		t.Fatalf("process %d has no child", parent)
	}
	return pids
}

// link is a new link of this host.
func (s *systemd) link(record fleetlink.Record) *host.Link {
	return &host.Link{
		Units:   bus.Units{Address: "unix:path=" + s.path("run/bus"), Patterns: []string{"work-*"}},
		Record:  record,
		Machine: fleetlink.Machine{BootID: func() (string, error) { return strconv.Itoa(s.boot), nil }},
		Grace:   time.Second, Pause: 50 * time.Millisecond,
	}
}

// TestRealSystemd: the units of a real service manager, over a real bus, keep the
// contract. Nobody cordons a host but us: those tests are skipped.
func TestRealSystemd(t *testing.T) {
	linktest.Test(t, func(t *testing.T) linktest.Cluster {
		s, record := startSystemd(t), &note{}
		return linktest.Cluster{
			Open:    func() fleetlink.Link { return s.link(record) },
			Place:   s.place,
			Here:    s.here,
			Hold:    s.hold,
			Reboot:  func() { s.stop(); s.start() },
			Silence: s.silence,
			Pace:    time.Second,
		}
	})
}

// TestRealUnits: what linktest does not ask of systemd.
func TestRealUnits(t *testing.T) {
	s := startSystemd(t)
	l, ctx := s.link(&note{}), t.Context()
	web := s.place("work-web")
	s.write("units/work-deaf.service", "[Service]\nExecStart=/bin/sh -c 'trap \"\" TERM; while :; do sleep 1; done'\nTimeoutStopSec=infinity\n")
	s.write("units/work-job.service", "[Service]\nType=oneshot\nExecStart=/bin/sleep 100000\n")
	s.write("units/work-x\\x2dy.service", "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n")
	s.write("units/work-old.service", "[Service]\nExecStart=/bin/sleep 100000\n")
	s.ctl("daemon-reload")
	s.ctl("start", "work-deaf.service", `work-x\x2dy.service`, "work-old.service")
	s.ctl("start", "--no-block", "work-job.service")
	var first []fleetlink.Workload
	order := fleetlink.Order{Force: true, Progress: func(left []fleetlink.Workload) {
		if first == nil {
			first = left
		}
	}}
	if err := l.Cordon(ctx, "a reboot"); err != nil {
		t.Fatal(err)
	}
	if err := l.Drain(ctx, order); err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(first), `[work-deaf.service: it is being stopped work-job.service: it ends by itself work-old.service work-web.service work-x\x2dy.service]`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if here := s.here(); len(here) > 0 {
		t.Errorf("drained, and %v run", here)
	}
	// The next release has no work-old, and a work-web that ends at once.
	os.Remove(s.path("units/work-old.service"))
	s.write("units/"+web, "[Service]\nExecStart=/bin/false\n")
	s.ctl("daemon-reload")
	err := l.Resume(ctx)
	if err == nil || !strings.Contains(err.Error(), "work-old.service was stopped for the reboot and is not on this machine any more") {
		t.Errorf("resume: %v", err)
	}
	if err := os.Symlink("/dev/null", s.path("units/work-old.service")); err != nil { // systemctl mask
		t.Fatal(err)
	}
	s.ctl("daemon-reload")
	var ails []fleetlink.Workload
	for deadline := time.Now().Add(20 * time.Second); ; {
		if err = l.Resume(ctx); err == nil {
			ails, err = l.Ailments(ctx)
		}
		if strings.Contains(fmt.Sprint(ails, err), "work-web.service") && strings.Contains(fmt.Sprint(ails, err), "failed (exit-code)") {
			break // which of the two says so is a race of its end with our look
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v, %v, want work-web.service to be named", ails, err)
		}
		<-time.After(50 * time.Millisecond)
	}
	s.place("work-web")
	if err := l.Resume(ctx); err != nil {
		t.Error(err)
	}
	if ails, err := l.Ailments(ctx); err != nil || len(ails) > 0 {
		t.Errorf("after all: %v, %v", ails, err)
	}
	if here := strings.Join(s.here(), " "); here != `work-deaf.service work-web.service work-x\x2dy.service` {
		t.Errorf("here is %s", here)
	}
}

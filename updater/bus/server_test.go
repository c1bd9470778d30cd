package bus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drydock-os/drydock/testdata/real"
	"github.com/drydock-os/drydock/updater"
)

func TestWithoutABusTheServerWaitsAndSaysSoOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []error
		s := &Server{Controller: newYard(updater.Status{}), Address: "unix:path=/nonexistent/bus", Trouble: func(err error) { told = append(told, err) }}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		for range 10 * maxWaiting {
			s.Observe(updater.Event{Type: updater.EventStep}) // nobody listens: nothing is kept
		}
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
		if len(told) != 1 || !strings.Contains(told[0].Error(), "/nonexistent/bus") {
			t.Errorf("told %v", told)
		}
		if len(s.news.waiting) != 0 {
			t.Errorf("%d notices are kept", len(s.news.waiting))
		}
	})
}

func TestServerComesBackAfterABusRestart(t *testing.T) {
	b := startBus(t)
	y := newYard(updater.Status{})
	release := make(chan struct{})
	y.do = func(ctx context.Context, _ updater.Request) (updater.Outcome, error) {
		select {
		case <-release:
			return updater.Updated, nil
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	troubles := make(chan error, 16)
	s := &Server{Controller: y, Trouble: func(err error) { troubles <- err }}
	serve(t, b, s)
	job, err := b.client().Start(t.Context(), updater.Request{Action: updater.ActUpdate})
	if err != nil {
		t.Fatal(err)
	}
	receive(t, y.asked)
	b.stop()
	if _, err := job.Wait(t.Context(), nil); !errors.Is(err, errBusLost) {
		t.Errorf("Wait: %v", err)
	}
	receive(t, troubles)
	s.Observe(y.change(time.Time{}, updater.EventStep, func(s *updater.Status) { s.Operation = updater.Downloading }))
	b.start()
	awaitOwner(t, b, Name)
	status, err := b.client().Status(t.Context())
	if err != nil || status.Operation != updater.Downloading {
		t.Errorf("after the restart: %+v, %v", status, err)
	}
	// The job outlived the bus, and ends when it is cancelled on the new one.
	signals := listen(t, b.connect(), "type='signal',member='JobRemoved'")
	var state string
	state, err = getString(t.Context(), b.connect().Object(Name, job.path), JobInterface, "State")
	if state != stateRunning || err != nil {
		t.Errorf("State = %q, %v", state, err)
	}
	close(release)
	for signal := receive(t, signals); ; signal = receive(t, signals) {
		if signal.Name == ManagerInterface+".JobRemoved" {
			if signal.Body[1] != job.path || signal.Body[2] != string(updater.Updated) {
				t.Errorf("JobRemoved %v", signal.Body)
			}
			break
		}
	}
}

// TestABusThatHangsHoldsNobodyUp stops the bus daemon's process while events
// pour in: Observe returns at once, and what matters is told when it goes on.
func TestABusThatHangsHoldsNobodyUp(t *testing.T) {
	b := startBus(t)
	y := newYard(updater.Status{})
	s := &Server{Controller: y}
	serve(t, b, s)
	signals := listen(t, b.connect(), locksmithRule)
	b.daemon.Process.Signal(syscall.SIGSTOP)
	defer b.daemon.Process.Signal(syscall.SIGCONT)
	blob := strings.Repeat("x", 1<<16)
	done := make(chan bool, 1)
	go func() {
		defer func() { done <- true }()
		for i := range 2000 {
			s.Observe(y.change(time.Unix(int64(i), 0), updater.EventProgress, func(s *updater.Status) {
				s.Operation, s.NewVersion, s.Progress = updater.Downloading, "1.1.0", float64(i)/2000
				s.LastError = fmt.Sprint(i) + blob // so that the socket's buffer fills
			}))
		}
		s.Observe(y.change(time.Unix(2001, 0), updater.EventStaged, func(s *updater.Status) { s.Operation = updater.NeedReboot }))
	}()
	receive(t, done)
	b.daemon.Process.Signal(syscall.SIGCONT)
	for statusUpdate(t, signals).Operation != "UPDATE_STATUS_UPDATED_NEED_REBOOT" {
	}
}

// TestABusThatTakesNothingIsGivenUp has one end of a pipe that nobody reads
// stand in for the bus.
func TestABusThatTakesNothingIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, _ := net.Pipe()
		upstream, _ := net.Pipe()
		teller := teller{ours: &connection{socket: ours}, upstream: &connection{socket: upstream}}
		begin := time.Now()
		err := teller.guarded(func() error { _, err := ours.Write([]byte("x")); return err })
		if took := time.Since(begin); err == nil || took != writePatience {
			t.Errorf("after %s: %v", took, err)
		}
	})
}

func TestAQueueThatRunsOverIsGivenUp(t *testing.T) {
	var q queue
	q.listen()
	for range maxWaiting {
		q.push(notice{event: updater.Event{Type: updater.EventStep}})
	}
	if waiting, ok := q.take(); len(waiting) != maxWaiting || !ok {
		t.Errorf("%d notices, %v", len(waiting), ok)
	}
	for range maxWaiting + 1 {
		q.push(notice{event: updater.Event{Type: updater.EventStep}})
	}
	if _, ok := q.take(); ok {
		t.Error("a queue that ran over says that it holds everything")
	}
}

func TestProgressIsCoalescedAndStateChangesAreNot(t *testing.T) {
	var q queue
	q.listen()
	event := func(kind updater.EventType, o updater.Operation, progress float64) notice {
		return notice{event: updater.Event{Type: kind, Status: updater.Status{Operation: o, Progress: progress}}}
	}
	for _, n := range []notice{
		event(updater.EventProgress, updater.Downloading, 0.1),
		event(updater.EventProgress, updater.Downloading, 0.2),
		event(updater.EventStep, updater.Finalizing, 0),
		event(updater.EventProgress, updater.Finalizing, 0.1),
		{removed: &removal{id: 1}},
		{removed: &removal{id: 2}},
		event(updater.EventProgress, updater.Finalizing, 0.2),
		event(updater.EventProgress, updater.NeedReboot, 0),
	} {
		q.push(n)
	}
	waiting, _ := q.take()
	if len(waiting) != 7 || waiting[0].event.Status.Progress != 0.2 {
		t.Errorf("%d notices: %+v", len(waiting), waiting)
	}
}

func TestASecondDaemonDoesNotServe(t *testing.T) {
	b := startBus(t)
	serve(t, b, &Server{Controller: newYard(updater.Status{Release: "first"})})
	told := make(chan error, 16)
	second := &Server{Controller: newYard(updater.Status{Release: "second"}), Address: b.address, Trouble: func(err error) { told <- err }}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { second.Run(ctx) })
	if err := receive(t, told); !strings.Contains(err.Error(), "another drydockd") {
		t.Errorf("told %v", err)
	}
	cancel()
	wg.Wait()
	if s, err := b.client().Status(t.Context()); s.Release != "first" || err != nil {
		t.Errorf("Status = %+v, %v", s, err)
	}
}

func TestAServerWithoutAControllerSaysSo(t *testing.T) {
	if err := new(Server).Run(t.Context()); err == nil {
		t.Error("it runs")
	}
}

func TestRunEndsItsJobs(t *testing.T) {
	b := startBus(t)
	y := newYard(updater.Status{})
	ended := false
	y.do = func(ctx context.Context, _ updater.Request) (updater.Outcome, error) {
		<-ctx.Done()
		ended = true
		return "", ctx.Err()
	}
	s := &Server{Controller: y, Address: b.address}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	awaitOwner(t, b, Name)
	if _, err := b.client().Start(t.Context(), updater.Request{Action: updater.ActCheck}); err != nil {
		t.Fatal(err)
	}
	receive(t, y.asked)
	cancel()
	if err := receive(t, done); err != nil || !ended {
		t.Errorf("Run returned %v, the job had ended: %v", err, ended)
	}
	if _, err := s.start(updater.Request{}, "x"); !errors.Is(err, updater.ErrRefused) {
		t.Errorf("a job after Run: %v", err)
	}
}

// TestForeignClients has systemd's, GLib's and libdbus's own tools look at us.
func TestForeignClients(t *testing.T) {
	b := startBus(t)
	y := newYard(full())
	y.do = func(ctx context.Context, _ updater.Request) (updater.Outcome, error) {
		<-ctx.Done()
		return "", ctx.Err()
	}
	serve(t, b, &Server{Controller: y})
	job, err := b.client().Start(t.Context(), updater.Request{Action: updater.ActUpdate})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		command string
		want    []string
	}{
		{"busctl tree " + Name, []string{Path + "/job", string(job.path)}},
		{"busctl introspect " + Name + " " + Path, []string{".Explain", "a(ssx)", ".NewVersion", `"1.1.0"`, ".JobRemoved", "uoss", "a(ssyyb)"}},
		{"busctl introspect " + Name + " " + string(job.path), []string{".Cancel", ".Progress", "0.25", `"running"`, `"update"`}},
		{"busctl introspect " + Update1Name + " " + Update1Path, []string{".AttemptUpdate", ".GetStatus", "xdssx", ".StatusUpdate"}},
		{"gdbus introspect --system --recurse --dest " + Name + " --object-path /io/drydock/Drydock1", []string{"readonly s Step = 'write'", "readonly b OnTrial = true"}},
		{"gdbus call --system --dest " + Name + " --object-path " + Path + " --method " + ManagerInterface + ".Explain", []string{"'window', 'reboots wait'", "1778634123"}},
		{"dbus-send --system --print-reply --dest=" + Update1Name + " " + Update1Path + " " + Update1Interface + ".GetStatus",
			[]string{"int64 1778634123", "double 0.25", `"UPDATE_STATUS_DOWNLOADING"`, `"1.1.0"`, "int64 808010"}},
		{"dbus-send --system --print-reply --dest=" + Name + " " + Path + " org.freedesktop.DBus.Peer.Ping", nil},
	} {
		words := strings.Fields(test.command)
		out, err := b.as(0, words[0], words[1:]...)
		if err != nil {
			t.Errorf("%s: %v\n%s", test.command, err, out)
		}
		for _, want := range test.want {
			if !strings.Contains(out, want) {
				t.Errorf("%s does not show %s:\n%s", test.command, want, out)
			}
		}
	}
	for _, call := range []string{
		Path + "/job/99 " + JobInterface + " Cancel",
		Path + "/job/x " + JobInterface + " Cancel",
		Path + " " + ManagerInterface + " Nonsense",
	} {
		if out, err := b.as(0, "busctl", append([]string{"call", Name}, strings.Fields(call)...)...); err == nil {
			t.Errorf("%s: %s", call, out)
		}
	}
}

// TestBusctlMonitorsTheSignals has another program read what we send.
func TestBusctlMonitorsTheSignals(t *testing.T) {
	b := startBus(t)
	y := newYard(updater.Status{})
	s := &Server{Controller: y}
	serve(t, b, s)
	cmd := exec.CommandContext(t.Context(), real.Program(t, "dbus-monitor"), "--address", b.address, "--monitor", "path="+Path, "path="+Update1Path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 1024)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(lines)
		buffer := make([]byte, 4096)
		for {
			n, err := out.Read(buffer)
			if err != nil {
				return
			}
			lines <- string(buffer[:n])
		}
	})
	t.Cleanup(func() { cmd.Process.Kill(); wg.Wait(); cmd.Wait() })
	receive(t, lines) // it says that it was named: it listens
	s.Observe(y.change(time.Unix(1, 0), updater.EventStaged, func(s *updater.Status) { s.Operation, s.Staged = updater.NeedReboot, true }))
	awaitIdle(t, b)
	var heard strings.Builder
	for !strings.Contains(heard.String(), "JobRemoved") {
		heard.WriteString(receive(t, lines))
	}
	for _, want := range []string{"member=PropertiesChanged", `"Staged"`, "member=StatusUpdate", "UPDATE_STATUS_UPDATED_NEED_REBOOT"} {
		if !strings.Contains(heard.String(), want) {
			t.Errorf("did not hear %s:\n%s", want, heard.String())
		}
	}
}

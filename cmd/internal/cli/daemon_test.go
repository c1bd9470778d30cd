package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drydock-os/drydock/testdata/real"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/bus"
	"github.com/rogpeppe/go-internal/testscript"
)

// standIn takes the updater's place behind a real bus.Server on a real
// dbus-daemon: it says what a script tells it to say, and decides nothing. That
// the real updater says such things is tested with the updater and with the
// daemon.
type standIn struct {
	Now      json.RawMessage                    `json:"status"` // of updater.Status
	Then     json.RawMessage                    `json:"then"`   // status after a request; as before if absent
	Steps    []json.RawMessage                  `json:"steps"`  // statuses during one
	Planned  updater.Plan                       `json:"plan"`
	Past     []updater.HistoryEntry             `json:"history"`
	Outcomes map[updater.Action]updater.Outcome `json:"outcomes"`
	Fail     string                             `json:"fail"` // what every request fails with: busy, refused, or a text

	cluster bus.Cluster // nil: of none

	mu     sync.Mutex
	status updater.Status
	asked  []updater.Request
	server *bus.Server
	hold   chan struct{} // if not nil, a request lasts until it is closed or cancelled
}

// Status implements updater.Controller.
func (s *standIn) Status() updater.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// become changes the status and tells the server.
func (s *standIn) become(text json.RawMessage) error {
	if text == nil {
		return nil
	}
	status, err := decodeStatus(text)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.status = status
	s.mu.Unlock()
	s.server.Observe(updater.Event{Type: updater.EventStep, Status: status})
	return nil
}

func decodeStatus(text json.RawMessage) (status updater.Status, err error) {
	err = json.Unmarshal(text, &status)
	for step := updater.Wait; step <= updater.Release; step++ {
		if step.String() == status.StepName {
			status.Step = step
		}
	}
	return status, err
}

// Do implements updater.Controller.
func (s *standIn) Do(ctx context.Context, r updater.Request) (updater.Outcome, error) {
	s.mu.Lock()
	s.asked = append(s.asked, r)
	s.mu.Unlock()
	switch s.Fail {
	case "":
	case "busy":
		return "", fmt.Errorf("%s: %w", r.Action, updater.ErrBusy)
	case "refused":
		return "", fmt.Errorf("%s: %w: the other slot holds no release that was good", r.Action, updater.ErrRefused)
	default:
		return "", errors.New(s.Fail)
	}
	for _, step := range s.Steps {
		if err := s.become(step); err != nil {
			return "", err
		}
	}
	if s.hold != nil {
		select {
		case <-s.hold:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	return s.Outcomes[r.Action], s.become(s.Then)
}

// Plan implements updater.Controller.
func (s *standIn) Plan(context.Context) (updater.Plan, error) { return s.Planned, nil }

// History implements updater.Controller.
func (s *standIn) History() []updater.HistoryEntry { return s.Past }

// daemon FILE starts a D-Bus daemon and the service of drydockd on it, whose
// updater is what the file says. With -deny nobody may do anything.
func daemon(ts *testscript.TestScript, _ bool, args []string) {
	s := &standIn{}
	deny := len(args) == 2 && args[0] == "-deny"
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[len(args)-1])), s))
	address, stop, err := s.start(ts.Getenv("WORK"), deny)
	ts.Check(err)
	ts.Setenv("DRYDOCK_BUS", address)
	ts.Defer(stop)
}

// busConfig lets everybody do everything: what drydockd allows is its own
// affair, and that of the policy files, which the daemon's tests cover.
const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path=%s</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
`

// broker starts a dbus-daemon and returns the address on which it listens.
func broker(dir string) (address string, stop func(), err error) {
	program, err := exec.LookPath("dbus-daemon")
	if err != nil {
		return "", nil, err
	}
	socket, config := filepath.Join(dir, "bus"), filepath.Join(dir, "bus.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, busConfig, socket), 0o600); err != nil {
		return "", nil, err
	}
	cmd := exec.Command(program, "--config-file="+config, "--nofork", "--nopidfile", "--print-address")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
	line, err := bufio.NewReader(out).ReadString('\n') // it listens now
	if err != nil {
		stop()
		return "", nil, fmt.Errorf("start dbus-daemon: %w", err)
	}
	return strings.TrimSpace(line), stop, nil
}

// startBus starts a dbus-daemon for a test.
func startBus(t *testing.T) (address string) {
	t.Helper()
	real.Program(t, "dbus-daemon")
	address, stop, err := broker(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return address
}

// start starts bus and service, and returns once the service answers.
func (s *standIn) start(dir string, deny bool) (address string, stop func(), err error) {
	address, stopBus, err := broker(dir)
	if err != nil {
		return "", nil, err
	}
	s.server = &bus.Server{Address: address, Controller: s, Cluster: s.cluster, Authorize: func(context.Context, bus.Caller, string) error {
		if deny {
			return errors.New("this test lets nobody do anything")
		}
		return nil
	}}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	stop = func() {
		cancel()
		group.Wait()
		stopBus()
	}
	if s.status, err = decodeStatus(s.Now); err != nil {
		stop()
		return "", nil, err
	}
	group.Go(func() { s.server.Run(ctx) })
	if err := answers(address); err != nil {
		stop()
		return "", nil, err
	}
	return address, stop, nil
}

// answers waits until the service is on the bus.
func answers(address string) error {
	c, err := bus.Dial(context.Background(), address)
	if err != nil {
		return err
	}
	defer c.Close()
	for range 1000 {
		if _, err = c.Status(context.Background()); !errors.Is(err, bus.ErrNotRunning) {
			return err
		}
		<-time.After(10 * time.Millisecond)
	}
	return err
}

// serve starts a stand-in for a test in this process.
func serve(t *testing.T, s *standIn) string {
	t.Helper()
	real.Program(t, "dbus-daemon")
	address, stop, err := s.start(t.TempDir(), false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return address
}

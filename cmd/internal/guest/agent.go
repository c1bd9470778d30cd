package guest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"time"

	"github.com/drydock-os/drydock/updater"
)

// agent is a connection to the guest's qemu-ga (QEMU Guest Agent Protocol
// Reference). There is one at a time.
type agent struct {
	net.Conn
	lines *bufio.Reader
}

// dial reaches the agent, and throws away what it may still have to say to
// somebody who went away.
func (m *Machine) dial(ctx context.Context) (*agent, error) {
	if !m.On() {
		return nil, errOff
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(m.Dir, "agent"))
	if err != nil {
		return nil, err
	}
	limit := time.Now().Add(10 * time.Second)
	if end, ok := ctx.Deadline(); ok && end.Before(limit) {
		limit = end
	}
	conn.SetDeadline(limit)
	a := &agent{Conn: conn, lines: bufio.NewReader(conn)}
	id := rand.Int64N(1 << 40)
	fmt.Fprintf(conn, "\xff{\"execute\":\"guest-sync\",\"arguments\":{\"id\":%d}}\n", id)
	for {
		line, err := a.lines.ReadBytes('\n')
		if err != nil {
			conn.Close()
			return nil, fmt.Errorf("agent does not answer: %w", err)
		}
		var got struct{ Return int64 }
		if json.Unmarshal(line, &got) == nil && got.Return == id {
			conn.SetDeadline(time.Time{})
			return a, nil
		}
	}
}

// ask sends one command and decodes what it returns.
func (a *agent) ask(command string, arguments, into any) error {
	a.SetDeadline(time.Now().Add(20 * time.Second))
	if err := json.NewEncoder(a).Encode(map[string]any{"execute": command, "arguments": arguments}); err != nil {
		return err
	}
	line, err := a.lines.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	got := struct {
		Return any
		Error  *struct{ Desc string }
	}{Return: into}
	if err := json.Unmarshal(line, &got); err != nil {
		return fmt.Errorf("%s: %w: %q", command, err, line)
	}
	if got.Error != nil {
		return fmt.Errorf("%s: %s", command, got.Error.Desc)
	}
	return nil
}

// Result is what a command of the guest did.
type Result struct {
	Code        int // exit status
	Out, Stderr string
}

// Run runs a program in the guest, outside every sandbox, and waits for its end.
// An error means that nobody knows what became of it: the machine is off, or
// went down meanwhile.
func (m *Machine) Run(ctx context.Context, name string, args ...string) (Result, error) {
	a, err := m.dial(ctx)
	if err != nil {
		return Result{}, err
	}
	defer a.Close()
	var started struct{ PID int }
	if err := a.ask("guest-exec", map[string]any{"path": name, "arg": args, "capture-output": true,
		"env": []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}}, &started); err != nil {
		return Result{}, err
	}
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		var s struct {
			Exited   bool
			ExitCode int    `json:"exitcode"`
			Signal   int    `json:"signal"`
			Out, Err []byte // base64, as encoding/json has it
			OutData  []byte `json:"out-data"`
			ErrData  []byte `json:"err-data"`
		}
		if err := a.ask("guest-exec-status", map[string]any{"pid": started.PID}, &s); err != nil {
			return Result{}, err
		}
		if s.Exited {
			if s.Signal != 0 {
				s.ExitCode = 128 + s.Signal
			}
			return Result{Code: s.ExitCode, Out: string(s.OutData), Stderr: string(s.ErrData)}, nil
		}
		select {
		case <-ctx.Done():
			return Result{}, ctx.Err()
		case <-time.After(wait):
		}
	}
}

// Do runs a shell command in the guest that must succeed, and returns what it
// printed.
func (m *Machine) Do(command string) string {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	r, err := m.Run(ctx, "/bin/sh", "-c", command)
	if err != nil || r.Code != 0 {
		m.t.Fatalf("%s: %s: %v: status %d: %s%s", m.Name, command, err, r.Code, r.Out, r.Stderr)
	}
	return r.Out
}

// Up waits until the agent answers: the system has come up so far.
func (m *Machine) Up() {
	m.t.Helper()
	m.Until(5*time.Minute, "it comes up", func(ctx context.Context) bool {
		a, err := m.dial(ctx)
		if err == nil {
			a.Close()
		}
		return err == nil
	})
}

// Status is what drydockd says of itself.
func (m *Machine) Status(ctx context.Context) (updater.Status, error) {
	var s updater.Status
	r, err := m.Run(ctx, "/usr/bin/drydock", "status", "--json")
	if err != nil {
		return s, err
	}
	if r.Code != 0 {
		return s, fmt.Errorf("drydock status: %s", r.Stderr)
	}
	return s, json.Unmarshal([]byte(r.Out), &s)
}

// Start switches the machine on, and waits until it has settled on version.
func (m *Machine) Start(limit time.Duration, version string) {
	m.t.Helper()
	m.PowerOn()
	m.Settled(limit, version)
}

// Settled waits until the machine runs a release that is good, with nothing
// under way: no trial, no permit, no boot flags that name another.
func (m *Machine) Settled(limit time.Duration, version string) {
	m.t.Helper()
	var last string
	defer func() {
		if m.t.Failed() {
			m.t.Logf("%s: last status: %s", m.Name, last)
		}
	}()
	m.Until(limit, "release "+version+" runs and is good", func(ctx context.Context) bool {
		s, err := m.Status(ctx)
		last = fmt.Sprintf("%+v %v", s, err)
		return err == nil && s.Release == version && !s.OnTrial && !s.Staged && (s.Permit == "none" || s.Permit == "")
	})
}

// Events counts what QEMU told of the machine since it was built: "WATCHDOG",
// "SHUTDOWN" and so on (QEMU QMP Reference Manual, "Events").
func (m *Machine) Events(name string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.events[name]
}

// listen keeps what a QEMU tells until it has ended.
func (m *Machine) listen(told chan<- struct{}) {
	defer close(told)
	var conn net.Conn
	for range 50 {
		var err error
		if conn, err = net.Dial("unix", filepath.Join(m.Dir, "qmp")); err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if conn == nil {
		return
	}
	defer conn.Close()
	fmt.Fprintln(conn, `{"execute":"qmp_capabilities"}`)
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		var said struct {
			Event string
			Data  struct{ Reason string }
		}
		if json.Unmarshal(lines.Bytes(), &said) != nil || said.Event == "" {
			continue
		}
		m.mu.Lock()
		m.note("%s", lines.Text())
		m.events[said.Event]++
		m.halted = m.halted || said.Data.Reason == "guest-shutdown"
		m.mu.Unlock()
	}
}

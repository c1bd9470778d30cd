package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

const (
	// killDelay is how long a program may take to end after SIGTERM.
	killDelay = 5 * time.Second
	// maxLine is the longest line of output passed on, in bytes; a longer one
	// is cut.
	maxLine = 1024
	// maxOutput bounds what one program may say, in bytes. The rest is read,
	// so that the program does not stop, and dropped.
	maxOutput = 256 << 10
)

// ExitError says that a program ended with a code other than 0.
type ExitError struct {
	Program string
	Code    int    // -1 if a signal ended it
	Signal  string // the signal's name, or ""
}

// Error says how the program ended.
func (e *ExitError) Error() string {
	if e.Signal != "" {
		return fmt.Sprintf("%s was ended by signal: %s", e.Program, e.Signal)
	}
	return fmt.Sprintf("%s exited with code %d", e.Program, e.Code)
}

// program is one run of an executable, in a process group of its own.
type program struct {
	Name    string // as errors call it
	Path    string
	Args    []string
	Env     []string
	Timeout time.Duration
	Output  func(line string)
}

// run runs p until it ends, its time is up or ctx is. Then its whole process
// group is killed: nothing that it started in it goes on. An output that a
// process which left the group holds open does not keep run.
func (p program) run(parent context.Context) error {
	ctx, cancel := context.WithTimeout(parent, p.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.Path, p.Args...)
	cmd.Env, cmd.Dir = p.Env, "/"
	// Pdeathsig: a daemon that was killed does not leave a hook behind that
	// changes boot flags under the next one. The kernel means the thread that
	// forked, which must therefore stay.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = killDelay
	out := &lines{emit: p.Output}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	err := cmd.Wait()
	syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	out.flush()
	switch {
	case err != nil && parent.Err() != nil:
		return fmt.Errorf("run %s: %w", p.Name, parent.Err())
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("%s did not end within %s: %w", p.Name, p.Timeout, ctx.Err())
	}
	return p.explain(err)
}

// explain says what the end of a program, that was not ended by us, means.
func (p program) explain(err error) error {
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		e := &ExitError{Program: p.Name, Code: exit.ExitCode()}
		if st, ok := exit.Sys().(syscall.WaitStatus); ok && st.Signaled() {
			e.Signal = st.Signal().String()
		}
		return e
	case errors.Is(err, exec.ErrWaitDelay):
		return nil // it ended well; something it started keeps its output open
	case err != nil:
		return fmt.Errorf("run %s: %w", p.Name, err)
	}
	return nil
}

// lines passes output on line by line, within bounds.
type lines struct {
	emit func(string)
	line []byte
	seen int
}

// Write takes output as it comes, and never fails: a program must not stop
// because nobody wants to hear more of it.
func (l *lines) Write(p []byte) (int, error) {
	n := len(p)
	if l.emit == nil || l.seen > maxOutput {
		return n, nil
	}
	for len(p) > 0 {
		head, rest, found := bytes.Cut(p, []byte{'\n'})
		l.line = append(l.line, head[:min(len(head), maxLine-len(l.line))]...)
		if p = rest; found {
			l.flushLine()
		}
	}
	if l.seen += n; l.seen > maxOutput {
		l.flush()
		l.emit(fmt.Sprintf("(output after %d KiB is dropped)", maxOutput>>10))
	}
	return n, nil
}

func (l *lines) flushLine() {
	l.emit(string(bytes.ToValidUTF8(bytes.TrimRight(l.line, "\r"), []byte{'?'})))
	l.line = l.line[:0]
}

// flush passes on what stands after the last end of line.
func (l *lines) flush() {
	if len(l.line) > 0 {
		l.flushLine()
	}
}

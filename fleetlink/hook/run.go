package hook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

const (
	// killDelay is how long a hook may take to end after SIGTERM. It is short:
	// every call of a link ends soon after its context.
	killDelay = 2 * time.Second
	// maxLine is the longest line that is taken from a hook, in bytes; the rest of
	// a longer one is dropped.
	maxLine = 4096
	// maxLog bounds what one call may have logged, in bytes. The rest is read, so
	// that the hook does not stop, and dropped.
	maxLog = 256 << 10
	// maxOutput bounds what one call may write at all, in bytes: half an hour of
	// progress, each second 500 workloads. Who writes more is killed.
	maxOutput = 64 << 20
)

// errLoud ends a hook that writes without end.
var errLoud = fmt.Errorf("it wrote more than %d MiB and was killed", maxOutput>>20)

// process is one run of an executable, in a process group of its own.
type process struct {
	path, verb string
	env        []string
	input      []byte
	bound      time.Duration // zero: as long as the context
	out, err   func(line string)
}

// run runs p until it ends, its time is up, parent ends, or out leaves an error in
// broken; then its whole process group is killed. It returns the exit code of one
// that ended by itself.
func (p process) run(parent context.Context, broken *error) (int, error) {
	ctx, stop := context.WithCancelCause(parent)
	defer stop(nil)
	if p.bound > 0 {
		slow := fmt.Errorf("it did not end within %s and was killed", p.bound)
		bounded, cancel := context.WithTimeoutCause(ctx, p.bound, slow)
		defer cancel()
		ctx = bounded
	}
	cmd := exec.CommandContext(ctx, p.path, p.verb)
	cmd.Env, cmd.Dir, cmd.Stdin = p.env, "/", bytes.NewReader(p.input)
	// Pdeathsig: a daemon that was killed leaves no hook behind that drains under
	// the next one. The kernel means the thread that forked, which must stay.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = killDelay
	purse := &purse{left: maxOutput, spent: func() { stop(errLoud) }}
	out := &lines{purse: purse, most: maxOutput, emit: func(line string) {
		if p.out(line); *broken != nil {
			stop(*broken)
		}
	}}
	err := &lines{purse: purse, most: maxLog, emit: p.err}
	cmd.Stdout, cmd.Stderr = out, err
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start it: %w", err)
	}
	ended := cmd.Wait()
	syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	out.flush()
	err.flush()
	return p.explain(ended, context.Cause(ctx), *broken)
}

// explain says what the end of a hook means. The exit code of one that was told
// to end is no answer: many a shell script ends with 0 then.
func (p process) explain(ended, cause, broken error) (int, error) {
	var exit *exec.ExitError
	switch {
	case broken != nil:
		return 0, broken
	case cause != nil:
		return 0, cause
	case ended == nil, errors.Is(ended, exec.ErrWaitDelay): // what it started keeps its output open
		return exitDone, nil
	case errors.As(ended, &exit) && exit.Exited():
		return exit.ExitCode(), nil
	case exit != nil:
		return 0, fmt.Errorf("it was ended by signal: %s", exit.Sys().(syscall.WaitStatus).Signal())
	}
	return 0, fmt.Errorf("run it: %w", ended)
}

// purse is what both outputs of a hook may still cost.
type purse struct {
	mu    sync.Mutex
	left  int
	spent func()
}

func (p *purse) pay(n int) (paid bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left -= n; p.left < 0 {
		p.spent()
	}
	return p.left >= 0
}

// lines passes output on line by line, within bounds.
type lines struct {
	purse *purse
	most  int // bytes that are passed on
	emit  func(string)
	line  []byte
	seen  int
}

// Write takes output as it comes, and never fails: a hook must not stop because
// nobody wants to hear more of it.
func (l *lines) Write(p []byte) (int, error) {
	n := len(p)
	if !l.purse.pay(n) || l.seen > l.most {
		return n, nil
	}
	for len(p) > 0 {
		head, rest, found := bytes.Cut(p, []byte{'\n'})
		l.line = append(l.line, head[:min(len(head), maxLine-len(l.line))]...)
		if p = rest; found {
			l.flushLine()
		}
	}
	if l.seen += n; l.seen > l.most {
		l.flush()
		l.emit(fmt.Sprintf("(output after %d KiB is dropped)", l.most>>10))
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

package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxReason bounds what a check's output adds to its reason, in bytes.
	maxReason = 2048
	// defaultCheckTimeout is for a caller that names none.
	defaultCheckTimeout = time.Minute
	// maxChecks bounds the checks of a directory: each takes time that a
	// trial's deadline does not have.
	maxChecks = 256
)

// Check is the verdict of one health check.
type Check struct {
	Name    string // the executable's file name
	Healthy bool
	Reason  string // why not, with the end of its output; "" if healthy
	Elapsed time.Duration
}

// RunChecks runs the executables in dir one after the other, in the order of
// their names, and returns a verdict for each. Every check runs, also after
// one that failed. A check is healthy if it ends with code 0 within timeout,
// a minute if that is zero. It gets env, and PATH of ours where env has none.
//
// Files that are not executable, names that begin with a dot and what editors
// and package managers leave behind are no checks. Run by root, a check that
// someone else could have written (not owned by root, or writable for others)
// is not run and not healthy: a health that nobody may trust is none. A
// directory that is not there holds no checks; one that cannot be read, or
// that others may write to, is an error. So is an end of ctx.
func RunChecks(ctx context.Context, dir string, env []string, timeout time.Duration) ([]Check, error) {
	names, err := checkNames(dir)
	if err != nil {
		return nil, fmt.Errorf("list health checks: %w", err)
	}
	if timeout <= 0 {
		timeout = defaultCheckTimeout
	}
	var checks []Check
	for _, name := range names {
		c, err := runCheck(ctx, program{
			Name: name, Path: filepath.Join(dir, name), Env: withPath(env), Timeout: timeout,
		})
		if ctx.Err() != nil {
			return checks, fmt.Errorf("run health check %s: %w", name, ctx.Err())
		}
		if errors.Is(err, errNoCheck) {
			continue
		}
		checks = append(checks, c)
	}
	return checks, nil
}

// errNoCheck says that a file of the directory is not a check.
var errNoCheck = errors.New("not a check")

func checkNames(dir string) ([]string, error) {
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := owned(info); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	entries, err := os.ReadDir(dir) // sorted by name
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if isCheckName(e.Name()) {
			names = append(names, e.Name())
		}
	}
	if len(names) > maxChecks {
		return nil, fmt.Errorf("%s: %d files, limit %d", dir, len(names), maxChecks)
	}
	return names, nil
}

// leftOver are endings of files that no one meant to be run (run-parts(8)).
var leftOver = []string{"~", "#", ".bak", ".orig", ".rej", ".swp", ".tmp", ".rpmsave", ".rpmorig", ".rpmnew", ".dpkg-old", ".dpkg-new", ".dpkg-dist", ".dpkg-tmp"}

func isCheckName(name string) bool {
	for _, end := range leftOver {
		if strings.HasSuffix(name, end) {
			return false
		}
	}
	return name[0] != '.' && name[0] != '#'
}

// owned refuses, for root, what someone else could have written.
func owned(info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if os.Geteuid() != 0 || !ok {
		return nil
	}
	switch {
	case st.Uid != 0:
		return fmt.Errorf("refused: owned by user %d, not by root", st.Uid)
	case info.Mode()&0o002 != 0, info.Mode()&0o020 != 0 && st.Gid != 0:
		return fmt.Errorf("refused: others than root may write to it (mode %#o)", info.Mode().Perm())
	}
	return nil
}

func runCheck(ctx context.Context, p program) (Check, error) {
	c := Check{Name: p.Name}
	info, err := os.Stat(p.Path)
	switch {
	case err != nil:
		c.Reason = err.Error() // a dangling link, say: someone meant a check
		return c, nil
	case !info.Mode().IsRegular() || info.Mode()&0o111 == 0:
		return c, errNoCheck
	}
	if err := owned(info); err != nil {
		c.Reason = err.Error()
		return c, nil
	}
	var said tail
	p.Output = said.add
	began := monotonic()
	err = p.run(ctx)
	c.Elapsed = monotonic() - began
	if c.Healthy = err == nil; err != nil {
		c.Reason = strings.Join(append([]string{err.Error()}, said.lines...), "\n")
	}
	return c, nil
}

// tail keeps the last lines, as many as maxReason holds.
type tail struct {
	lines []string
	size  int
}

func (t *tail) add(line string) {
	t.lines = append(t.lines, line)
	for t.size += len(line) + 1; t.size > maxReason; t.lines = t.lines[1:] {
		t.size -= len(t.lines[0]) + 1
	}
}

// withPath returns env with our PATH if it has none.
func withPath(env []string) []string {
	for _, entry := range env {
		if strings.HasPrefix(entry, "PATH=") {
			return env
		}
	}
	return append([]string{"PATH=" + os.Getenv("PATH")}, env...)
}

// monotonic is the kernel's clock since the boot. It measures processes, which
// no test's clock could make run faster, and decides nothing.
func monotonic() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

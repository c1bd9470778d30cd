package survey

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Command is the word that has drydockd make a survey, and print it as JSON.
const Command = "survey"

// Limits of what a drydockd prints.
const (
	maxPrinted = 8 << 20 // bytes; a node of 500 pods that all stay is 0.2 MB
	maxSaid    = 4 << 10 // bytes of what it says beside it
	// ending is how long it may take to end its hooks when it was told to end.
	ending = time.Second
)

// A Surveyor is a drydockd that can be run, on the system that it belongs to.
type Surveyor struct {
	Program string // absolute path, below Root
	Root    string // directory to change the root to; "": none
	Args    []string
}

// environment is what systemd gives a service: the proxies of an operator's shell
// are none of the daemon's.
var environment = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}

// Survey runs the program. Whoever may write it runs as root: the caller has looked
// at that.
func (s Surveyor) Survey(ctx context.Context) (Survey, error) {
	cmd := exec.CommandContext(ctx, s.Program, append(s.Args, Command)...)
	if s.Root != "" {
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: s.Root}
	}
	cmd.Dir, cmd.Env = "/", environment
	out, said := &clipped{left: maxPrinted}, &clipped{left: maxSaid}
	cmd.Stdout, cmd.Stderr = out, said
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = ending
	err := cmd.Run()
	switch text := strings.Join(strings.Fields(said.kept.String()), " "); {
	case ctx.Err() != nil:
		return Survey{}, fmt.Errorf("run %s: it did not end in its time: %w", s.Program, ctx.Err())
	case err != nil && text != "":
		return Survey{}, fmt.Errorf("run %s: %w: %s", s.Program, err, text)
	case err != nil:
		return Survey{}, fmt.Errorf("run %s: %w", s.Program, err)
	case out.cut:
		return Survey{}, fmt.Errorf("run %s: it printed more than %d bytes", s.Program, maxPrinted)
	}
	return read(out.kept.Bytes())
}

// read takes what was printed apart.
func read(printed []byte) (s Survey, err error) {
	if err := json.Unmarshal(printed, &s); err != nil {
		return Survey{}, fmt.Errorf("read the survey: %w", err)
	}
	if s.Version != Version {
		return Survey{}, fmt.Errorf("read the survey: %w", errors.New("drydockd is of another release than drydock"))
	}
	return s, nil
}

// clipped keeps the beginning of what is written to it.
type clipped struct {
	kept bytes.Buffer // not embedded: its ReadFrom would pass Write by
	left int
	cut  bool
}

// Write implements io.Writer. What is too much is dropped, for a program that is
// not read does not end.
func (c *clipped) Write(p []byte) (int, error) {
	n := min(len(p), c.left)
	c.left, c.cut = c.left-n, c.cut || n < len(p)
	c.kept.Write(p[:n])
	return len(p), nil
}

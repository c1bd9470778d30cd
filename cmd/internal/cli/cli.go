// Package cli is the operator's command drydock.
//
// What concerns the running machine it asks of the daemon over D-Bus; it never
// reads the daemon's configuration, but to judge it (doctor). Payloads and the
// boot flags of a disk it reads and writes itself.
package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// The exit codes. Scripts rely on them.
const (
	exitDone    = 0
	exitFailed  = 1
	exitUsage   = 2
	exitNothing = 3 // update: nothing to do
)

// exitCodes says it in the help of the commands that work on files and disks.
const exitCodes = "They exit 0 when what they say is true, 1 with one line that says why not, and 2, as all commands do, when the\n" +
	"command line itself is not understood."

// A Program is the command and what it speaks to.
type Program struct {
	In       io.Reader
	Out, Err io.Writer
	Now      func() time.Time
	// Demo runs the demonstration and reports on out; nil leaves the
	// command out.
	Demo func(ctx context.Context, out io.Writer) error
	// Version of this program; empty for that of its module.
	Version string
}

// Run runs one command line, without the program's name, and returns the exit
// code: 0 done, 1 failed, 2 not understood, 3 nothing to do (update alone).
// What went wrong is one line on Err.
func (p Program) Run(ctx context.Context, args []string) int {
	s := &session{Program: p}
	root := s.root()
	root.SetArgs(args)
	return s.conclude(root.ExecuteContext(ctx))
}

// session is one command line being carried out.
type session struct {
	Program
	bus   string // address, "" for the default
	json  bool
	etcd  etcdFlags
	began bool   // the command line was understood
	name  string // of the command, for its errors
	code  int    // when there is no error
}

// root is the whole tree of commands.
func (s *session) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "drydock",
		Short: "Keep this machine's operating system current",
		Long: "drydock shows and steers how this machine updates its operating system.\n" +
			"It asks drydockd, the daemon, over D-Bus; lock and fleet can ask etcd as well, and payload and slots work without it.",
		Version:       s.version(),
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	root.SetIn(s.In)
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	root.PersistentFlags().StringVar(&s.bus, "bus", "", "D-Bus `ADDRESS` on which drydockd is (default $DRYDOCK_BUS, else the system bus)")
	root.PersistentFlags().BoolVar(&s.json, "json", false, "print facts as JSON")
	root.AddCommand(s.daemonCommands()...)
	root.AddCommand(s.lock(), s.fleetCommands(), s.payload(), s.slots(), s.simulate(), s.migrate(), s.doctor(), s.completion(), s.man())
	if s.Demo != nil {
		root.AddCommand(s.demo())
	}
	s.finish(root)
	return root
}

// finish has every command say when it begins, and those that only hold others
// ask for one of them.
func (s *session) finish(c *cobra.Command) {
	run := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		if run == nil {
			return fmt.Errorf("%s needs a command (see %[1]s --help)", c.CommandPath())
		}
		s.began = true
		s.name = strings.TrimPrefix(c.CommandPath(), "drydock ")
		return run(c, args)
	}
	if run == nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			c.SuggestionsMinimumDistance = 2
			hint := ""
			if near := c.SuggestionsFor(args[0]); len(near) > 0 {
				hint = fmt.Sprintf(": did you mean %s?", strings.Join(near, " or "))
			}
			return fmt.Errorf("unknown command %q for %q%s", args[0], c.CommandPath(), hint)
		}
	}
	c.DisableFlagsInUseLine = true
	c.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return fmt.Errorf("%w (see %s --help)", err, c.CommandPath()) })
	for _, sub := range c.Commands() {
		s.finish(sub)
	}
}

// conclude turns how the command ended into an exit code and one line.
func (s *session) conclude(err error) int {
	switch {
	case err == nil:
		return s.code
	case !s.began:
		fmt.Fprintf(s.Err, "drydock: %s\n", oneLine(err.Error()))
		return exitUsage
	}
	fmt.Fprintf(s.Err, "drydock %s: %s\n", s.name, oneLine(withAdvice(err)))
	if isUsage(err) {
		return exitUsage
	}
	return exitFailed
}

// print gives v as JSON where that was asked for, else as text says it.
func (s *session) print(v any, text func(w io.Writer)) error {
	if !s.json {
		page := &strings.Builder{}
		text(page)
		_, err := io.WriteString(s.Out, page.String())
		return err
	}
	return s.encode(v, "  ")
}

func (s *session) encode(v any, indent string) error {
	e := json.NewEncoder(s.Out)
	e.SetEscapeHTML(false)
	e.SetIndent("", indent)
	return e.Encode(v)
}

// version is the program's, or else that of the module as the Go command built
// it in.
func (s *session) version() string {
	if s.Version != "" {
		return s.Version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}

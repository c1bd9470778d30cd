package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/bus"
	"github.com/spf13/cobra"
)

// ask connects to the daemon for as long as f takes.
func (s *session) ask(ctx context.Context, f func(*bus.Client) error) error {
	c, err := bus.Dial(ctx, s.bus)
	if err != nil {
		return advised{err, "drydockd may be at work all the same; look at systemctl status dbus, or name another bus with --bus"}
	}
	defer c.Close()
	c.Interactive = isTerminal(s.In)
	return f(c)
}

// order is a command that has the daemon do one thing.
type order struct {
	use, short, long string
	action           updater.Action
	done             string // what to say when it is done
	// reason: 'r' the command must say why, 'o' it may.
	reason rune
}

var orders = []order{
	{
		use: "rollback", short: "Go back to the release in the other slot", action: updater.ActRollback,
		long: "Go back to the release in the other slot, if it was marked good. The release that is left is rejected and not taken\nagain until drydock retry. The way there is that of an update: permit, drain, reboot, health.",
		done: "nothing to roll back: the machine runs that release already",
	},
	{
		use: "retry [VERSION]", short: "Take rejected releases again", action: updater.ActRetry,
		long: "Forget that VERSION, or every version, was rejected on this machine.",
		done: "what was rejected may be taken again",
	},
	{
		use: "pause --reason TEXT", short: "Begin nothing new until unpause", action: updater.ActPause, reason: 'r',
		long: "Begin nothing new: no download, no permit, no reboot. A trial that runs is still judged.",
		done: "paused; drydock unpause ends it",
	},
	{use: "unpause", short: "End a pause", action: updater.ActUnpause, done: "not paused any more"},
	{
		use: "reboot --reason TEXT", short: "Reboot into the same slot, when that is allowed", action: updater.ActReboot, reason: 'r',
		long: "Reboot into the same slot, through permit and drain, when policy, lock and scheduler allow it.\nTo reboot at once, whatever runs here, is systemctl reboot.",
		done: "rebooting",
	},
	{
		use: "cancel", short: "Drop an accepted rollback or reboot", action: updater.ActCancel,
		done: "no rollback or reboot is pending",
	},
}

var marks = []order{
	{use: "good", short: "End the trial of the running release well", action: updater.ActMarkGood, done: "the running release is marked good"},
	{
		use: "bad [--reason TEXT]", short: "Reject the release that is on trial, or the one that is written", action: updater.ActMarkBad, reason: 'o',
		done: "rejected: it is left, and not taken again until drydock retry",
	},
}

// daemonCommands are those that ask the daemon.
func (s *session) daemonCommands() []*cobra.Command {
	commands := []*cobra.Command{s.status(), s.explain(), s.history(), s.check(), s.update()}
	for _, o := range orders {
		commands = append(commands, s.order(o))
	}
	mark := &cobra.Command{Use: "mark", Short: "Judge a release by hand"}
	for _, o := range marks {
		mark.AddCommand(s.order(o))
	}
	return append(commands, mark)
}

func (s *session) order(o order) *cobra.Command {
	r := updater.Request{Action: o.action}
	c := &cobra.Command{Use: o.use, Short: o.short, Long: o.long, Args: cobra.NoArgs}
	if o.action == updater.ActRetry {
		c.Args = cobra.MaximumNArgs(1)
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) > 0 {
			r.Version = args[0]
		}
		if o.reason == 'r' && r.Reason == "" {
			return usage("--reason is empty")
		}
		return s.ask(c.Context(), func(client *bus.Client) error { return s.carryOut(c.Context(), client, r, o.done) })
	}
	if o.reason != 0 {
		c.Flags().StringVar(&r.Reason, "reason", "", "`TEXT` that everybody sees who asks")
	}
	if o.reason == 'r' {
		c.MarkFlagRequired("reason")
	}
	return c
}

// answer is how a request ended, as JSON.
type answer struct {
	Outcome updater.Outcome `json:"outcome"`
	Status  updater.Status  `json:"status"` // right after it
}

// carryOut asks for r, waits until it has ended, and says how.
func (s *session) carryOut(ctx context.Context, client *bus.Client, r updater.Request, done string) error {
	a, err := s.request(ctx, client, r)
	if err != nil {
		return err
	}
	return s.print(a, func(w io.Writer) {
		if a.Outcome != updater.Accepted {
			fmt.Fprintln(w, done)
			return
		}
		fmt.Fprintln(w, "accepted: it is done when policy, lock and scheduler allow it")
		page{w, s.Now()}.reasons(a.Status.Reasons)
	})
}

// request asks for r and shows its progress until it has ended. Who interrupts
// the wait cancels the request.
func (s *session) request(ctx context.Context, client *bus.Client, r updater.Request) (answer, error) {
	j, err := client.Start(ctx, r)
	if err != nil && ctx.Err() != nil {
		return answer{}, advised{errors.New("interrupted before the daemon has answered"), "it may have begun: see drydock status"}
	}
	if err != nil {
		return answer{}, err
	}
	f := s.follow()
	outcome, err := j.Wait(ctx, f.show)
	f.end()
	if ctx.Err() != nil {
		return answer{}, advised{stop(ctx, j), "nothing is lost: what is downloaded is kept"}
	}
	if err != nil {
		return answer{}, err
	}
	status, err := client.Status(ctx)
	return answer{outcome, status}, err
}

// patience is how long the daemon may take to hear that a job is cancelled.
const patience = 5 * time.Second

// stop cancels a job after the wait for it was interrupted.
func stop(ctx context.Context, j *bus.Job) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	if err := j.Cancel(ctx); err != nil {
		return fmt.Errorf("interrupted, but the daemon goes on: cancel: %w", err)
	}
	return errors.New("interrupted and cancelled")
}

func (s *session) explain() *cobra.Command {
	return &cobra.Command{
		Use: "explain", Short: "Say why this machine is not updating right now", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return s.ask(c.Context(), func(client *bus.Client) error {
				status, err := client.Status(c.Context())
				if err != nil {
					return err
				}
				reasons := status.Reasons
				if reasons == nil {
					reasons = []updater.Reason{}
				}
				return s.print(reasons, func(w io.Writer) {
					p := page{w, s.Now()}
					fmt.Fprintln(w, p.doing(status))
					p.reasons(status.Reasons)
				})
			})
		},
	}
}

func (s *session) history() *cobra.Command {
	return &cobra.Command{
		Use: "history", Short: "Show what happened to this machine's releases, newest first", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return s.ask(c.Context(), func(client *bus.Client) error {
				entries, err := client.History(c.Context())
				if err != nil {
					return err
				}
				if entries == nil {
					entries = []updater.HistoryEntry{}
				}
				return s.print(entries, func(w io.Writer) { page{w, s.Now()}.history(entries) })
			})
		},
	}
}

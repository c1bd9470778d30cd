package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/bus"
	"github.com/spf13/cobra"
)

func (s *session) check() *cobra.Command {
	return &cobra.Command{
		Use: "check", Short: "Ask the update server now", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return s.ask(c.Context(), func(client *bus.Client) error {
				a, err := s.request(c.Context(), client, updater.Request{Action: updater.ActCheck})
				if err != nil {
					return err
				}
				return s.print(a, func(w io.Writer) {
					p := page{w, s.Now()}
					p.running(a.Status)
					p.update(a.Status)
					p.line("Now", "%s", p.doing(a.Status))
					p.reasons(a.Status.Reasons)
				})
			})
		},
	}
}

func (s *session) update() *cobra.Command {
	var dry, older bool
	c := &cobra.Command{
		Use:   "update",
		Short: "Check, and write what is offered now",
		Long: "Check, and write what is offered to the other slot now, whatever the download windows say. The reboot stays the\n" +
			"policy's affair: the command ends when the release is written and verified. Who interrupts it cancels the download.\n\n" +
			"Exit codes: 0 updated, 1 failed, 2 usage, 3 nothing to do.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return s.ask(c.Context(), func(client *bus.Client) error {
				if dry {
					return s.plan(c.Context(), client)
				}
				return s.updateNow(c.Context(), client, older)
			})
		},
	}
	c.Flags().BoolVarP(&dry, "dry-run", "n", false, "say what would be done, and do nothing")
	c.Flags().BoolVar(&older, "allow-downgrade", false, "take an older release this once, if that is what is offered")
	c.MarkFlagsMutuallyExclusive("dry-run", "allow-downgrade")
	return c
}

func (s *session) updateNow(ctx context.Context, client *bus.Client, older bool) error {
	a, err := s.request(ctx, client, updater.Request{Action: updater.ActUpdate, AllowDowngrade: older, OnDemand: true})
	if err != nil {
		return err
	}
	if a.Outcome == updater.NothingToDo {
		s.code = exitNothing
	}
	return s.print(a, func(w io.Writer) {
		p := page{w, s.Now()}
		if a.Outcome == updater.NothingToDo {
			fmt.Fprintf(w, "nothing to do: %s stays\n", orUnknown(clean(a.Status.Release)))
		} else {
			p.update(a.Status)
		}
		p.line("Now", "%s", p.doing(a.Status))
		p.reasons(a.Status.Reasons)
	})
}

// plan says what an update would do. Its exit code is that of the update.
func (s *session) plan(ctx context.Context, client *bus.Client) error {
	plan, err := client.Plan(ctx)
	if err != nil {
		return err
	}
	if !plan.Wanted {
		s.code = exitNothing
	}
	return s.print(plan, func(w io.Writer) { page{w, s.Now()}.plan(plan) })
}

func (p page) plan(plan updater.Plan) {
	p.line("Running", "%s", orUnknown(plan.Running))
	switch {
	case plan.Offered == "":
		p.line("Offered", "nothing newer")
	case plan.Wanted:
		p.line("Offered", "%s", plan.Offered)
	default:
		p.line("Offered", "%s, which is not wanted: %s", plan.Offered, plan.Why)
	}
	if !plan.Wanted {
		p.reasons(plan.Reasons)
		return
	}
	p.line("Download", "%s", size(plan.Download))
	label := "From"
	for _, url := range plan.URLs {
		p.line(label, "%s", url)
		label = ""
	}
	p.line("Written", "slot %s", plan.WrittenSlot)
	label = "Then"
	for _, step := range plan.Steps {
		p.line(label, "%s", step)
		label = ""
	}
	if len(plan.Reasons) > 0 {
		p.line("Held up", "by:")
		p.reasons(plan.Reasons)
	}
}

// follower shows how a request goes on: on a terminal a bar, elsewhere a line
// at each step and each tenth of a download. With --json it is silent.
type follower struct {
	*session
	step  string
	tenth int64
	bar   *bar
}

func (s *session) follow() *follower { return &follower{session: s} }

func (f *follower) show(status updater.Status) {
	if f.json {
		return
	}
	if status.StepName != f.step {
		f.end()
		f.step, f.tenth = status.StepName, 0
		if status.Step != updater.Wait {
			fmt.Fprintf(f.Err, "%s\n", clean(page{now: f.Now()}.doing(status)))
		}
	}
	if status.Step != updater.Write || status.Total <= 0 {
		return
	}
	if f.bar == nil {
		f.bar = f.session.bar(clean(status.NewVersion))
	}
	f.bar.show(status.Done, status.Total)
	if tenth := 10 * status.Done / status.Total; f.bar.out == nil && tenth > f.tenth {
		f.tenth = tenth
		fmt.Fprintf(f.Err, "%s: %d %%, %s of %s\n", clean(status.NewVersion), 10*tenth, amount(status.Done), amount(status.Total))
	}
}

// end takes the bar away.
func (f *follower) end() {
	if f.bar != nil {
		f.bar.end()
		f.bar = nil
	}
}

package cli

import (
	"errors"
	"fmt"
	"io"

	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/updater/link"
	"github.com/spf13/cobra"
)

// changed is a change that was made, as JSON.
type changed struct {
	Verb     string `json:"verb"`
	Group    string `json:"group,omitempty"`
	Machine  string `json:"machine,omitempty"`
	Hostname string `json:"hostname,omitempty"`
	link.Outcome
}

// alter carries out a verb and says what came of it.
func (s *session) alter(c *cobra.Command, of fleet, verb string, ch link.Change, text func(changed) string) error {
	done, err := of.change(c.Context(), verb, ch)
	if err != nil {
		return err
	}
	report := changed{Verb: verb, Group: ch.Group, Machine: ch.Machine, Outcome: done}
	return s.print(report, func(w io.Writer) { fmt.Fprintln(w, clean(text(report))) })
}

// deed is a command that does something about one machine.
type deed struct {
	use, short, long string
	verb             string
	args             cobra.PositionalArgs
	strangers        inGroup // see ofMachine
	grouped          bool    // --group says in which of its groups
	unexplained      bool    // it needs no reason
	force            string  // what --force is for; "": there is none
	said             func(subject) string
}

func (s *session) deed(d deed) *cobra.Command {
	f := &lockFlags{}
	c := &cobra.Command{
		Use: d.use, Short: d.short, Long: d.long, Args: d.args,
		RunE: func(c *cobra.Command, args []string) error {
			return s.ofMachine(c, f, args, d.strangers, func(of fleet, m subject) error {
				ch := link.Change{Machine: m.machine, Reason: f.reason, Force: f.force}
				if d.grouped {
					ch.Group = m.group
				}
				return s.alter(c, of, d.verb, ch, func(changed) string { return d.said(m) })
			})
		},
	}
	if d.grouped {
		f.ofGroup(c, "in the group `NAME`")
	}
	f.because(c, !d.unexplained)
	if d.force != "" {
		c.Flags().BoolVar(&f.force, "force", false, d.force)
	}
	return c
}

func (s *session) lockAcquire() *cobra.Command {
	return s.deed(deed{
		use: "acquire [MACHINE] --reason TEXT", short: "Ask for a permit by hand, and keep it until release", args: cobra.MaximumNArgs(1),
		long: "Put MACHINE, or this machine, into the queue by hand. Its permit is granted in its turn, uses up one of the group's, and\n" +
			"stays until drydock lock release, whatever the machine does meanwhile.",
		verb: link.VerbAcquire, strangers: groupOf, grouped: true,
		said: func(m subject) string {
			return fmt.Sprintf("%s waits for a permit of group %s, or has one: drydock lock status", m, m.group)
		},
	})
}

func (s *session) lockRelease() *cobra.Command {
	return s.deed(deed{
		use: "release [MACHINE]", short: "Give back what acquire asked for", args: cobra.MaximumNArgs(1),
		long: "Give back the ticket or permit of MACHINE, or of this machine, that acquire asked for. What a machine asked for itself\n" +
			"it gives back itself, when it is healthy; drydock lock take-away takes it from it.",
		verb: link.VerbRelease, strangers: groupOf, grouped: true, unexplained: true,
		said: func(m subject) string {
			return fmt.Sprintf("%s neither waits nor holds by hand in group %s any more", m, m.group)
		},
	})
}

func (s *session) lockTakeAway() *cobra.Command {
	return s.deed(deed{
		use: "take-away MACHINE --reason TEXT", short: "Take a permit from a machine that does not give it back", args: cobra.ExactArgs(1),
		long: "Take a permit away. While a machine is rebooting that takes evidence that it came back, or --force: the next machine may\n" +
			"go down while this one is.",
		verb: link.VerbTakeAway, strangers: groupOf, grouped: true, force: "also where the machine may be down",
		said: func(m subject) string {
			return fmt.Sprintf("the permit of %s in group %s is taken away", m, m.group)
		},
	})
}

// inGroup says which group is meant, given the one that was named.
type inGroup func(v rebootlock.View, named string) (string, error)

// ofMachine finds the machine that args name, or this one, and has f do
// something about it. Where strangers says which group they are in, a machine-id
// will do that nobody knows yet.
func (s *session) ofMachine(c *cobra.Command, f *lockFlags, args []string, strangers inGroup, do func(fleet, subject) error) error {
	if len(args) == 0 {
		id, err := hereID()
		if err != nil {
			return err
		}
		args = []string{id}
	}
	return s.fleet(c, func(of fleet) error {
		v, err := of.look(c.Context())
		if err != nil {
			return err
		}
		m, err := find(v, args[0], f.group)
		if errors.Is(err, errUnknown) && strangers != nil && rebootlock.CheckMachineID(args[0]) == nil {
			m.machine = args[0]
			m.group, err = strangers(v, f.group)
		}
		if err != nil {
			return err
		}
		return do(of, m)
	})
}

func (s *session) lockSetMax() *cobra.Command {
	f := &lockFlags{}
	c := &cobra.Command{
		Use: "set-max N|N%", Short: "Change how many machines of a group may be down at once", Args: cobra.ExactArgs(1),
		Long: "Change how many machines of a group may be down at once: a number, or a share of its members. What is held stays held.\n" +
			"To let nothing reboot is drydock lock freeze.",
		RunE: func(c *cobra.Command, args []string) error {
			limit, err := rebootlock.ParseMax(args[0])
			if err != nil {
				return usage("%v", err)
			}
			return s.ofGroup(c, f, func(of fleet, group string) error {
				return s.alter(c, of, link.VerbSetMax, link.Change{Group: group, Max: &limit}, func(done changed) string {
					return fmt.Sprintf("max of group %s is %s, it was %s", group, limit, done.Max)
				})
			})
		},
	}
	f.ofGroup(c, "of the group `NAME`")
	return c
}

// ofGroup finds the group that is meant.
func (s *session) ofGroup(c *cobra.Command, f *lockFlags, do func(fleet, string) error) error {
	return s.fleet(c, func(of fleet) error {
		if f.group != "" {
			return do(of, f.group)
		}
		v, err := of.look(c.Context())
		if err != nil {
			return err
		}
		group, err := groupOf(v, "")
		if err != nil {
			return err
		}
		return do(of, group)
	})
}

// ofScope is ofGroup, where the whole cluster may be meant as well.
func (s *session) ofScope(c *cobra.Command, f *lockFlags, do func(of fleet, group string) error) error {
	if f.everywhere && f.group != "" {
		return usage("--cluster-wide and --group exclude each other")
	}
	if f.everywhere {
		return s.fleet(c, func(of fleet) error { return do(of, "") })
	}
	return s.ofGroup(c, f, do)
}

// scope names what was frozen or thawed.
func scope(group string) string {
	if group == "" {
		return "the whole cluster"
	}
	return "group " + group
}

func (s *session) lockFreeze() *cobra.Command {
	f := &lockFlags{}
	c := &cobra.Command{
		Use: "freeze --reason TEXT", Short: "Stop all reboots of a group, or of the cluster, until thaw", Args: cobra.NoArgs,
		Long: "Grant no permit, and let no machine that has one begin to drain, to stage or to reboot. What is rebooting already comes\n" +
			"back and gives its permit back.",
		RunE: func(c *cobra.Command, _ []string) error {
			return s.ofScope(c, f, func(of fleet, group string) error {
				return s.alter(c, of, link.VerbFreeze, link.Change{Group: group, Reason: f.reason}, func(changed) string {
					if group == "" {
						return scope(group) + " is frozen: drydock lock thaw --cluster-wide ends it"
					}
					return scope(group) + " is frozen: drydock lock thaw ends it"
				})
			})
		},
	}
	f.ofGroup(c, "the group `NAME`")
	f.because(c, true)
	c.Flags().BoolVar(&f.everywhere, "cluster-wide", false, "the whole cluster")
	return c
}

func (s *session) lockThaw() *cobra.Command {
	f := &lockFlags{}
	c := &cobra.Command{
		Use: "thaw", Short: "End a freeze, and the stop of releases that failed", Args: cobra.NoArgs,
		Long: "End the freeze of a group and forgive its failed reboots, so that the releases that were stopped go on. With --release\n" +
			"only that release's failures are forgiven. A freeze of the cluster ends with --cluster-wide alone.",
		RunE: func(c *cobra.Command, _ []string) error {
			only := c.Flags().Changed("release")
			if only && f.everywhere {
				return usage("--release is of a group, not of the whole cluster")
			}
			return s.ofScope(c, f, func(of fleet, group string) error {
				return s.thaw(c, of, link.Change{Group: group, Release: f.release}, only)
			})
		},
	}
	f.ofGroup(c, "the group `NAME`")
	c.Flags().StringVar(&f.release, "release", "", "forgive only the failures of `VERSION`, and leave a freeze")
	c.Flags().BoolVar(&f.everywhere, "cluster-wide", false, "the whole cluster")
	return c
}

// thaw ends a freeze, unless only a release is to go on, and forgives.
func (s *session) thaw(c *cobra.Command, of fleet, ch link.Change, only bool) error {
	if only {
		return s.alter(c, of, link.VerbForgive, ch, func(changed) string {
			return fmt.Sprintf("release %s may go on in group %s", ch.Release, ch.Group)
		})
	}
	if ch.Group != "" {
		if _, err := of.change(c.Context(), link.VerbForgive, link.Change{Group: ch.Group}); err != nil {
			return err
		}
	}
	return s.alter(c, of, link.VerbThaw, link.Change{Group: ch.Group}, func(changed) string {
		if ch.Group == "" {
			return "the whole cluster is not frozen; a group may be"
		}
		return fmt.Sprintf("group %s is not frozen, and no release is stopped in it", ch.Group)
	})
}

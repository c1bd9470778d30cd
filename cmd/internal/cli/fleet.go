package cli

import (
	"fmt"
	"io"

	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/updater/link"
	"github.com/spf13/cobra"
)

func (s *session) fleetCommands() *cobra.Command {
	c := &cobra.Command{
		Use:   "fleet",
		Short: "See the machines of the cluster, and how far a release has come",
		Long: "See the machines of the cluster: what each runs, what it does and why it waits. The local drydockd is asked, or etcd\n" +
			"itself with --endpoints. Machines are named by machine-id, by a beginning of it that no other has, or by hostname.",
	}
	s.etcdFlags(c)
	c.AddCommand(s.fleetStatus(), s.fleetExplain(), s.fleetRemove())
	return c
}

func (s *session) fleetStatus() *cobra.Command {
	f := &lockFlags{}
	c := &cobra.Command{
		Use: "status", Short: "Show who runs what, who waits for what and why, and the rollout", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return s.show(c, f, func(p page, v rebootlock.View) { p.fleet(v) })
		},
	}
	f.ofGroup(c, "only the group `NAME`")
	c.Flags().StringArrayVar(&f.labels, "label", nil, "only machines with the label `NAME=VALUE`; again for several, all of which they have")
	c.Flags().BoolVarP(&f.watch, "watch", "w", false, "go on, and show each change; with --json a line each")
	return c
}

func (s *session) fleetExplain() *cobra.Command {
	return &cobra.Command{
		Use: "explain MACHINE", Short: "Say why a machine is not updating", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return s.ofMachine(c, &lockFlags{}, args, noGroup, func(of fleet, m subject) error {
				v, err := of.look(c.Context())
				if err != nil {
					return err
				}
				why := rebootlock.Explain(v, m.machine)
				return s.print(why, func(w io.Writer) { page{w, v.At}.why(v, m, why) })
			})
		},
	}
}

// noGroup lets a stranger be in no group.
func noGroup(rebootlock.View, string) (string, error) { return "", nil }

func (s *session) fleetRemove() *cobra.Command {
	return s.deed(deed{
		use: "remove MACHINE --reason TEXT", short: "Forget a machine that is gone for good", args: cobra.ExactArgs(1),
		long: "Forget a machine that is gone for good, so that it uses up none of its group's max any more. One that is there, or holds\n" +
			"a permit, takes --force: its permit goes as well, and a machine that lives joins again.",
		verb: link.VerbRemove, force: "also one that is there, or holds a permit",
		said: func(m subject) string { return fmt.Sprintf("%s is forgotten", m) },
	})
}

package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/drydock-os/drydock/cmd/internal/config"
	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/updater/link"
	"github.com/spf13/cobra"
)

// lockFlags are what the commands of lock are told beside their arguments.
type lockFlags struct {
	group, reason, release string
	everywhere             bool // of the whole cluster
	force, watch           bool
	entries                int
	labels                 []string // "name=value"
}

func (s *session) lock() *cobra.Command {
	c := &cobra.Command{
		Use:   "lock",
		Short: "See and steer which machines may reboot",
		Long: "See and steer the reboot lock of a cluster: who holds a permit, who waits and why, and the rules of each group.\n" +
			"The local drydockd is asked, or etcd itself with --endpoints. Machines are named by machine-id, by a beginning of it\n" +
			"that no other has, or by hostname. A group need not be named where there is only one.",
	}
	s.etcdFlags(c)
	c.AddCommand(s.lockStatus(), s.lockQueue(), s.lockAcquire(), s.lockRelease(), s.lockSetMax(), s.lockApply(), s.lockShow(),
		s.lockFreeze(), s.lockThaw(), s.lockJournal(), s.lockTakeAway())
	return c
}

func (f *lockFlags) ofGroup(c *cobra.Command, usage string) {
	c.Flags().StringVar(&f.group, "group", "", usage)
}

func (f *lockFlags) because(c *cobra.Command, required bool) {
	c.Flags().StringVar(&f.reason, "reason", "", "`TEXT` that everybody sees, and the journal keeps")
	if required {
		c.MarkFlagRequired("reason")
	}
}

func (s *session) lockStatus() *cobra.Command {
	f := &lockFlags{}
	c := &cobra.Command{
		Use: "status", Short: "Show permits, holders and queue, and why nothing is granted", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return s.show(c, f, func(p page, v rebootlock.View) { p.lock(v) })
		},
	}
	f.ofGroup(c, "only the group `NAME`")
	c.Flags().BoolVarP(&f.watch, "watch", "w", false, "go on, and show each change; with --json a line each")
	return c
}

// show prints a view of the lock once, or again and again.
func (s *session) show(c *cobra.Command, f *lockFlags, text func(page, rebootlock.View)) error {
	return s.fleet(c, func(of fleet) error {
		if f.watch {
			return s.watchFleet(c.Context(), of, func(v rebootlock.View) error { return s.redraw(f, v, text) })
		}
		v, err := of.look(c.Context())
		if err == nil {
			v, err = f.part(v)
		}
		if err != nil {
			return err
		}
		return s.print(v, func(w io.Writer) { text(page{w, v.At}, v) })
	})
}

// redraw shows one of many views.
func (s *session) redraw(f *lockFlags, v rebootlock.View, text func(page, rebootlock.View)) error {
	v, err := f.part(v)
	switch {
	case err != nil:
		return err
	case s.json:
		return s.encode(v, "")
	}
	return s.print(nil, func(w io.Writer) {
		if isTerminal(s.Out) {
			io.WriteString(w, clearScreen)
		}
		text(page{w, v.At}, v)
		fmt.Fprintln(w)
	})
}

// part is the part of a view that was asked for: of a group, and with labels.
func (f *lockFlags) part(v rebootlock.View) (rebootlock.View, error) {
	for _, label := range f.labels {
		name, value, ok := strings.Cut(label, "=")
		if !ok || name == "" {
			return v, usage("--label %s: write NAME=VALUE", label)
		}
		v.Machines = slices.DeleteFunc(slices.Clone(v.Machines), func(m rebootlock.MachineView) bool {
			has, ok := m.Labels[name]
			return !ok || has != value
		})
	}
	return only(v, f.group)
}

// only is the part of a view that is about a group; all of it with "".
func only(v rebootlock.View, group string) (rebootlock.View, error) {
	if group == "" {
		return v, nil
	}
	groups, machines := v.Groups, v.Machines
	v.Groups, v.Machines = []rebootlock.GroupView{}, []rebootlock.MachineView{}
	for _, g := range groups {
		if g.Group == group {
			v.Groups = append(v.Groups, g)
		}
	}
	for _, m := range machines {
		if m.Group == group {
			v.Machines = append(v.Machines, m)
		}
	}
	if len(v.Groups) == 0 {
		return v, fmt.Errorf("cluster %s has no group %s", v.Cluster, group)
	}
	return v, nil
}

// ofView looks at one group, or at all with "", and has something done about it.
func (s *session) ofView(c *cobra.Command, group string, do func(rebootlock.View) error) error {
	return s.fleet(c, func(of fleet) error {
		v, err := of.look(c.Context())
		if err == nil {
			v, err = only(v, group)
		}
		if err != nil {
			return err
		}
		return do(v)
	})
}

func (s *session) lockQueue() *cobra.Command {
	f := &lockFlags{}
	c := &cobra.Command{
		Use: "queue", Short: "Show who waits for a permit, in order, and why", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return s.ofView(c, f.group, func(v rebootlock.View) error {
				queue := []rebootlock.Waiter{}
				for _, g := range v.Groups {
					queue = append(queue, g.Queue...)
				}
				return s.print(queue, func(w io.Writer) { page{w, v.At}.queues(v) })
			})
		},
	}
	f.ofGroup(c, "only the group `NAME`")
	return c
}

func (s *session) lockShow() *cobra.Command {
	f := &lockFlags{}
	c := &cobra.Command{
		Use: "show", Short: "Print the rules of the groups, as apply takes them", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return s.ofView(c, f.group, func(v rebootlock.View) error {
				return s.showRules(v)
			})
		},
	}
	f.ofGroup(c, "only the group `NAME`")
	return c
}

// ruled is a group's rules, as JSON.
type ruled struct {
	Group string           `json:"group"`
	Rules rebootlock.Rules `json:"rules"`
}

func (s *session) showRules(v rebootlock.View) error {
	all, groups := []ruled{}, []config.Group{}
	for _, g := range v.Groups {
		if g.Rules != nil {
			all = append(all, ruled{g.Group, *g.Rules})
			groups = append(groups, config.Group{Name: g.Group, Rules: *g.Rules})
		}
	}
	if len(all) == 0 {
		return fmt.Errorf("no group of cluster %s has rules, so nothing is granted: drydock lock apply writes them", v.Cluster)
	}
	text := &bytes.Buffer{}
	if err := config.WriteGroups(text, groups); err != nil {
		return err
	}
	return s.print(all, func(w io.Writer) { text.WriteTo(w) })
}

func (s *session) lockApply() *cobra.Command {
	return &cobra.Command{
		Use: "apply FILE", Short: "Make the rules in a TOML file those of its groups", Args: cobra.ExactArgs(1),
		Long: "Make the rules in a TOML file those of its groups: tables [[group]] with name, max, zone_max, one_zone, pause, windows,\n" +
			"timezone, deadline, on_overdue, stop_after. What a table leaves out is set to its default. Groups that the file does\n" +
			"not name stay as they are, and so does a freeze. drydock lock show prints such a file.",
		RunE: func(c *cobra.Command, args []string) error {
			groups, err := config.ReadGroups(args[0])
			if err != nil {
				return err
			}
			return s.fleet(c, func(of fleet) error { return s.applyGroups(c, of, groups) })
		},
	}
}

// applyGroups applies one group after the other, and says which were done even
// if a later one was not.
func (s *session) applyGroups(c *cobra.Command, of fleet, groups []config.Group) error {
	all, failed := []applied{}, error(nil)
	for _, g := range groups {
		done, err := of.change(c.Context(), link.VerbApply, link.Change{Group: g.Name, Rules: &g.Rules})
		if err != nil {
			failed = err
			break
		}
		all = append(all, applied{g.Name, done})
	}
	said := s.print(all, func(w io.Writer) {
		for _, a := range all {
			fmt.Fprintf(w, "group %s: %s\n", clean(a.Group), a.text())
		}
	})
	return errors.Join(failed, said)
}

// applied is what became of a group, as JSON.
type applied struct {
	Group string `json:"group"`
	link.Outcome
}

func (a applied) text() string {
	switch {
	case a.Changed == nil || !*a.Changed:
		return "as it was"
	case a.Rules == nil:
		return "created"
	}
	return "changed (drydock lock journal says what)"
}

func (s *session) lockJournal() *cobra.Command {
	f := &lockFlags{}
	c := &cobra.Command{
		Use: "journal", Short: "Show what happened to the lock: who, what, why, when; newest first", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if f.entries < 0 {
				return usage("-n is %d: it is 0 for all, or more", f.entries)
			}
			return s.fleet(c, func(of fleet) error {
				entries, err := of.journal(c.Context(), f.group, f.entries)
				if err != nil {
					return err
				}
				return s.print(entries, func(w io.Writer) { page{w, s.Now()}.journal(entries) })
			})
		},
	}
	f.ofGroup(c, "only the group `NAME`, and the cluster itself")
	c.Flags().IntVarP(&f.entries, "entries", "n", 50, "the last `N` entries; 0: all that are kept")
	return c
}

package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

func (s *session) migrate() *cobra.Command {
	c := &cobra.Command{
		Use:   "migrate",
		Short: "Turn another updater's configuration into Drydock's",
		Long:  "Turn another updater's configuration into Drydock's. Nothing on the machine is changed but the files that are named.\n\n" + exitCodes,
	}
	c.AddCommand(s.migrateLocksmith())
	return c
}

// legacy is what migrate locksmith was told.
type legacy struct {
	updateConf, root, semaphore string
	outPolicy, outGroups        string
	cluster                     string
}

func (s *session) migrateLocksmith() *cobra.Command {
	var l legacy
	c := &cobra.Command{
		Use:   "locksmith [--update-conf FILE] [--root DIR] [--semaphore FILE] [--cluster ID] [--out-policy FILE] [--out-groups FILE] [--json]",
		Short: "Turn update.conf and locksmithd's settings into a policy and a group's rules",
		Long: "Read update.conf and the settings of locksmithd.service, as the machine whose files are below DIR (or /) has them, or\n" +
			"one update.conf alone, and write the policy that means the same. Under etcd-lock there is a group too: its rules\n" +
			"are for drydock lock apply. What has no counterpart is a comment in the policy and a line on stderr.\n\n" +
			"Without --out-policy the policy is printed, with the group's rules as comments at its end. Files that are there\n" +
			"already are not written over. Judge the policy with drydockd --check-config before it is used.",
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return s.fromLocksmith(l) },
	}
	f := c.Flags()
	f.StringVar(&l.updateConf, "update-conf", "", "`FILE` to read in the place of the machine's own")
	f.StringVar(&l.root, "root", "", "`DIR` below which the machine's files are (default /; with --update-conf: none)")
	f.StringVar(&l.semaphore, "semaphore", "", "`FILE` with the value of locksmith's semaphore in etcd, for the group's max")
	f.StringVar(&l.cluster, "cluster", "default", "`ID` of the cluster, the same for all machines on one etcd that take turns")
	f.StringVar(&l.outPolicy, "out-policy", "", "`FILE` to write the policy to")
	f.StringVar(&l.outGroups, "out-groups", "", "`FILE` to write the group's rules to")
	return c
}

// migratedFacts is what was found and made, as JSON.
type migratedFacts struct {
	Settings []migratedSetting `json:"settings"`
	Notes    []string          `json:"notes"`  // beside those of settings
	Policy   string            `json:"policy"` // TOML
	Groups   string            `json:"groups"` // TOML; "" without etcd-lock
}

// migratedSetting is one setting of the old configuration.
type migratedSetting struct {
	Name    string `json:"name"`
	Value   string `json:"value"` // "(hidden)" for a password
	From    string `json:"from"`  // file
	Becomes string `json:"becomes,omitempty"`
	Note    string `json:"note,omitempty"`
}

func (s *session) fromLocksmith(l legacy) error {
	if l.outPolicy != "" && l.outPolicy == l.outGroups {
		return usage("--out-policy and --out-groups name the same file")
	}
	for _, name := range []string{l.outPolicy, l.outGroups} {
		if err := absent(name); err != nil {
			return err
		}
	}
	m, err := readLocksmith(l)
	if err != nil {
		return err
	}
	facts, err := m.convert()
	if err != nil {
		return err
	}
	if err := writeText(l.outPolicy, facts.Policy); err != nil {
		return err
	}
	if err := writeText(l.outGroups, facts.Groups); err != nil {
		return err
	}
	for _, line := range facts.warnings() {
		fmt.Fprintf(s.Err, "drydock %s: %s\n", s.name, oneLine(line))
	}
	if s.json {
		return s.encode(facts, "  ")
	}
	return s.showMigrated(l, facts)
}

// showMigrated prints what was written to no file.
func (s *session) showMigrated(l legacy, facts migratedFacts) error {
	var b strings.Builder
	if l.outPolicy == "" {
		b.WriteString(facts.Policy)
	}
	if l.outGroups == "" && facts.Groups != "" {
		if b.Len() > 0 {
			b.WriteString("\n\n# The rules of its group, for drydock lock apply (--out-groups writes them to a file):\n#\n")
			for line := range strings.Lines(facts.Groups) {
				b.WriteString(strings.TrimRight("#     "+line, " \n") + "\n")
			}
		} else {
			b.WriteString(facts.Groups)
		}
	}
	_, err := fmt.Fprint(s.Out, b.String())
	return err
}

// warnings are what an operator must know, a line each.
func (f migratedFacts) warnings() []string {
	var lines []string
	for _, setting := range f.Settings {
		if setting.Note != "" {
			lines = append(lines, fmt.Sprintf("%s=%s (%s): %s", setting.Name, setting.Value, setting.From, setting.Note))
		}
	}
	return append(lines, f.Notes...)
}

// absent refuses to write over a file: it may be the policy in force.
func absent(name string) error {
	if name == "" {
		return nil
	}
	_, err := os.Lstat(name)
	switch {
	case err == nil:
		return fmt.Errorf("write %s: it is there already; nothing was changed: name another file, or remove it first", name)
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// writeText writes a file that is there only when it is whole; "" is none.
func writeText(name, text string) error {
	if name == "" || text == "" {
		return nil
	}
	o, err := newFile(name, 0o644)
	if err != nil {
		return err
	}
	defer o.close()
	if _, err := o.file.WriteString(text); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return o.commit()
}

package cli

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/drydock-os/drydock/cmd/internal/config"
	"github.com/drydock-os/drydock/cmd/internal/doctor"
)

func (s *session) doctor() *cobra.Command {
	d := doctor.Doctor{Now: s.Now, Built: built()}
	var every bool
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Look at how this host is set up, and say what is wrong and how to mend it",
		Long: "Look at how this host is set up: policy, keys, slots, boot loader, trial guard, reboot lock, scheduler, gates, D-Bus,\n" +
			"units, space, clock, update server. It says what is wrong, what that means for the machine, and how to mend it. Run it as root. It needs no\n" +
			"daemon, asks one that runs, and changes nothing; no check takes longer than 10 seconds. Where the policy names a scheduler\n" +
			"or gates, `drydockd survey` asks them: it calls hooks and gates that are executables, to ask, as drydockd does, but outside of\n" +
			"its sandbox; evictions are dry runs.\n\n" +
			"A check is ok, a warning (it works, and may not when it matters), wrong, or unknown, which is never as good as ok.\n" +
			"Strategy \"coordinated\" must not be used where trial.coordinated is wrong.\n\n" +
			"With --root DIR it looks at another system: every file is looked for below DIR, also those that the policy names, but not\n" +
			"the devices. A tree that does not run (an image that is being made) has only its files looked at. Of one that runs, with\n" +
			"its --bus, the scheduler is asked by its own drydockd, which is run with DIR as its root.\n\n" +
			"With --json it prints version (of this form, 1), at, config, root, image, healthy, counts by verdict, and checks: each with\n" +
			"id, verdict, seen, and where it is not ok means, mend, because (the id of the check that comes first) and minor (that it\n" +
			"is unknown fails nothing). Fields and ids are added; what is there keeps its meaning.\n\n" +
			"It exits 0 when nothing is wrong (warnings are allowed), 1 when something is wrong, or unknown where it matters, and 2\n" +
			"when the command line is not understood.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if d.Root != "" {
				root, err := filepath.Abs(d.Root)
				if err != nil {
					return err
				}
				d.Root = root
			}
			if d.Bus = s.bus; d.Bus == "" {
				d.Bus = os.Getenv("DRYDOCK_BUS")
			}
			d.Config = cmp.Or(d.Config, filepath.Join(d.Root, config.DefaultPath))
			report := d.Examine(c.Context())
			if !report.Healthy {
				s.code = exitFailed
			}
			return s.print(report, func(w io.Writer) { chart{w: w, every: every}.write(report) })
		},
	}
	flags := c.Flags()
	flags.StringVar(&d.Config, "config", "", "policy `FILE` (default "+config.DefaultPath+", below --root)")
	flags.StringVar(&d.Root, "root", "", "`DIR` that stands for /")
	flags.BoolVarP(&every, "all", "a", false, "show also what is ok")
	return c
}

// built is when this program was made, as far as the Go command noted it.
func built() time.Time {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return time.Time{}
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.time" {
			t, _ := time.Parse(time.RFC3339, s.Value) // else it is not known
			return t
		}
	}
	return time.Time{}
}

// A chart shows what a doctor found.
type chart struct {
	w     io.Writer
	every bool
}

// chartGroups are the groups of checks, by the first part of their ids.
var chartGroups = map[string]string{
	"policy": "Policy and keys", "machine": "Machine", "slots": "Slots", "boot": "Boot loader", "trial": "Trial guard", "etcd": "Reboot lock in etcd", "fleetlock": "FleetLock",
	"scheduler": "Scheduler", "gates": "Gates",
	"bus": "D-Bus", "daemon": "The daemon", "health": "Health checks", "space": "Space", "clock": "Clock", "server": "Update server",
}

// chartSigns stand before the words, for who looks for them; in ASCII, since a
// machine's console may know nothing else.
var chartSigns = map[doctor.Verdict]string{doctor.OK: "+ ok", doctor.Warning: "! warning", doctor.Wrong: "X WRONG", doctor.Unknown: "? unknown"}

func (c chart) write(r doctor.Report) {
	where := r.Config
	if r.Root != "" {
		where += ", below " + r.Root
	}
	fmt.Fprintf(c.w, "%s, by %s\n", stamp(r.At), clean(where))
	if r.Image {
		fmt.Fprintln(c.w, "This system does not run: only its files were looked at.")
	}
	for len(r.Checks) > 0 {
		group, _, _ := strings.Cut(r.Checks[0].ID, ".")
		n := 1
		for n < len(r.Checks) && strings.HasPrefix(r.Checks[n].ID, group+".") {
			n++
		}
		c.group(cmp.Or(chartGroups[group], group), r.Checks[:n])
		r.Checks = r.Checks[n:]
	}
	warnings := "warnings"
	if r.Counts[doctor.Warning] == 1 {
		warnings = "warning"
	}
	fmt.Fprintf(c.w, "\n%d ok, %d %s, %d wrong, %d unknown. ", r.Counts[doctor.OK], r.Counts[doctor.Warning], warnings, r.Counts[doctor.Wrong], r.Counts[doctor.Unknown])
	switch {
	case !r.Healthy:
		fmt.Fprintln(c.w, "This host is not well: mend what is wrong, from the top down.")
	case r.Counts[doctor.Warning] > 0:
		fmt.Fprintln(c.w, "Nothing is wrong; the warnings are worth a look.")
	default:
		fmt.Fprintln(c.w, "This host is well.")
	}
}

// group shows in full what is not ok, and counts the rest. What only waits for
// another check is one line.
func (c chart) group(name string, checks []doctor.Finding) {
	well := 0
	waiting, firsts := []string{}, map[string]bool{}
	var ill []doctor.Finding
	for _, f := range checks {
		switch {
		case f.Verdict == doctor.OK:
			well++
		case f.Because != "" && f.Means == "":
			waiting, firsts[f.Because] = append(waiting, f.ID), true
		default:
			ill = append(ill, f)
		}
	}
	summary := fmt.Sprintf("%d ok", well)
	if well < len(checks) {
		summary = fmt.Sprintf("%d of %d ok", well, len(checks))
	}
	fmt.Fprintf(c.w, "\n%-22s%s\n", name, summary)
	for _, f := range checks {
		if c.every && f.Verdict == doctor.OK {
			c.line(chartSigns[f.Verdict], f.ID, clean(f.Seen))
		}
	}
	for _, f := range ill {
		c.line(chartSigns[f.Verdict], f.ID, clean(f.Seen))
		c.line("", "  it means", clean(f.Means))
		c.line("", "  to mend", clean(f.Mend))
	}
	if len(waiting) > 0 {
		c.line(chartSigns[doctor.Unknown], strings.Join(waiting, ", "), "not looked at before "+strings.Join(roots(firsts, waiting), " and ")+" is well")
	}
}

// roots are the checks that others wait for, without those that wait themselves.
func roots(ids map[string]bool, waiting []string) (list []string) {
	for id := range ids {
		if !slices.Contains(waiting, id) {
			list = append(list, id)
		}
	}
	slices.Sort(list)
	return list
}

// chartWidth is where text is wrapped, and chartIndent where it begins.
const (
	chartWidth  = 110
	chartIndent = 34
)

// line writes a sign, a name, and a text that is wrapped beside them. A long
// name has a line of its own.
func (c chart) line(sign, name, text string) {
	if text == "" {
		return
	}
	head := fmt.Sprintf("  %-10s %s", sign, name)
	if len(head) >= chartIndent {
		fmt.Fprintln(c.w, head)
		head = ""
	}
	column := 0
	for _, word := range strings.Fields(text) {
		if column > 0 && chartIndent+column+1+len(word) > chartWidth {
			fmt.Fprintln(c.w)
			column, head = 0, ""
		}
		if column == 0 {
			fmt.Fprintf(c.w, "%-*s", chartIndent, head)
		} else {
			fmt.Fprint(c.w, " ")
		}
		fmt.Fprint(c.w, word)
		column += len(word) + 1
	}
	fmt.Fprintln(c.w)
}

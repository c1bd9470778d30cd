package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/updater/sim/rollout"
	"github.com/spf13/cobra"
)

// A simulation is what simulate was told.
type simulation struct {
	config  rollout.Config
	permits string
	svg     string
}

func (s *session) simulate() *cobra.Command {
	var m simulation
	c := &cobra.Command{
		Use:   "simulate --machines N --permits K --reboot DURATION --faults RATE --seed S [--svg FILE]",
		Short: "Simulate a rollout through a fleet, with faults",
		Long: "Let a release go through a fleet of machines in this process, on virtual time: the daemon's own code on disks in memory,\n" +
			"with its lock, scheduler and server. Faults happen at random: machines die or lose their power in any step, releases are bad,\n" +
			"drains are slow, clocks step, etcd is away, the coordinator stalls, an operator freezes the group. All the while it is checked that\n" +
			"never more machines than permits are down, that nothing is drained or staged without a permit, that nothing begins in a freeze,\n" +
			"that no torn slot boots, and that nobody waits for ever.\n" +
			"The same command line gives the same result. It exits 1 when one of these did not hold.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if !c.Flags().Changed("seed") {
				m.config.Seed = uint64(s.Now().UnixNano()) % 1e9
			}
			return s.runSimulation(c.Context(), m)
		},
	}
	f := c.Flags()
	f.IntVar(&m.config.Machines, "machines", 100, "`N` machines")
	f.StringVar(&m.permits, "permits", "5", "`K` machines reboot at once; or a share of them, as 5%")
	f.DurationVar(&m.config.Reboot, "reboot", 3*time.Minute, "`DURATION` for which a healthy machine holds its permit")
	f.Float64Var(&m.config.Faults, "faults", 0, "chance of a fault per machine, `RATE` from 0 to 1")
	f.Uint64Var(&m.config.Seed, "seed", 0, "`S`, from which all that is random follows (default by the clock)")
	f.StringVar(&m.svg, "svg", "", "`FILE` for a timeline of the rollout")
	f.IntVar(&m.config.Zones, "zones", 0, "`Z` failure domains that the machines are spread over")
	f.IntVar(&m.config.ZoneMax, "zone-max", 0, "`M` machines of one zone reboot at once")
	f.BoolVar(&m.config.OneZone, "one-zone", false, "machines of one zone at a time")
	f.DurationVar(&m.config.Deadline, "deadline", 0, "`DURATION` after which a permit is taken away (default three times --reboot)")
	return c
}

// fewerCollections lets garbage grow to twice what lives: a simulation makes a
// lot of it, and ends soon.
const fewerCollections = 200

func (s *session) runSimulation(ctx context.Context, m simulation) error {
	var err error
	if m.config.Max, err = rebootlock.ParseMax(m.permits); err != nil {
		return usage("--permits: %v", err)
	}
	if err := m.config.Check(); err != nil {
		return usage("%v", err)
	}
	defer debug.SetGCPercent(debug.SetGCPercent(fewerCollections))
	if isTerminal(s.Err) && !s.json {
		m.config.Progress = func(done int, at time.Duration) {
			fmt.Fprintf(s.Err, "\r%d of %d machines after %s \x1b[K", done, m.config.Machines, at.Truncate(time.Second))
		}
		defer fmt.Fprint(s.Err, "\r\x1b[K")
	}
	result, timeline, err := rollout.Run(ctx, m.config)
	if err != nil {
		return err
	}
	if m.svg != "" {
		if err := draw(m.svg, timeline); err != nil {
			return err
		}
	}
	if len(result.Violations) > 0 {
		s.code = exitFailed
	}
	return s.print(result, func(w io.Writer) { simulated(w, m, result) })
}

// draw writes the timeline; the file is there only when it is whole.
func draw(name string, t *rollout.Timeline) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".timeline-*")
	if err != nil {
		return fmt.Errorf("write timeline: %w", err)
	}
	defer os.Remove(f.Name()) // gone, once it has its name
	err = errors.Join(t.WriteSVG(f), f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return fmt.Errorf("write timeline: %w", err)
	}
	return nil
}

// simulated is the result for people.
func simulated(w io.Writer, m simulation, r rollout.Result) {
	fmt.Fprintf(w, "%d machines, %d at once, seed %d\n\n", r.Machines, r.Permits, r.Seed)
	fmt.Fprintf(w, "%8d  updated\n%8d  rolled back\n%8d  died with a permit, which was taken away\n\n", r.Updated, r.RolledBack, r.Overdue)
	took, least := seconds(r.Makespan), seconds(r.Bound)
	over := 0.0
	if r.Bound > 0 {
		over = 100 * (r.Makespan/r.Bound - 1)
	}
	fmt.Fprintf(w, "took       %s (%.1f %% more than the least that it can take, %s)\n", took, max(over, 0), least)
	fmt.Fprint(w, "faults     ")
	for i, kind := range slices.Sorted(maps.Keys(r.Faults)) {
		if i > 0 {
			fmt.Fprint(w, ", ")
		}
		fmt.Fprintf(w, "%d %s", r.Faults[kind], kind)
	}
	if len(r.Faults) == 0 {
		fmt.Fprint(w, "none")
	}
	if m.svg != "" {
		fmt.Fprintf(w, "\ntimeline   %s", m.svg)
	}
	fmt.Fprint(w, "\ninvariants ")
	if len(r.Violations) == 0 {
		fmt.Fprintln(w, "held, at every step")
		return
	}
	fmt.Fprintln(w, "VIOLATED")
	for _, v := range r.Violations {
		fmt.Fprintf(w, "  %s\n", v)
	}
}

func seconds(s float64) time.Duration {
	return time.Duration(s * float64(time.Second)).Round(time.Second)
}

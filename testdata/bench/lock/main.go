// Command lock measures how a fleet of machines takes turns on real etcd: by
// Drydock's lock, by locksmith's scheme (one JSON document, compare-and-swap,
// its back-off) and by airlock's (the same document, and clients that poll), side
// by side in one run. It prints Markdown.
//
//	go run ./testdata/bench/lock            all cells, about a quarter of an hour
//	go run ./testdata/bench/lock -quick     a few, to see that it works
//	go run ./testdata/bench/lock -rollout   the rollout of 1,000 machines on 10 permits
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"strings"
	"syscall"
	"time"
)

// scale is what the times of real machines are divided by where they are
// simulated: pauses of the polling schemes, and reboots. A reboot of 100 s takes
// one.
const scale = 100

// What bounds one measurement: what has not ended by then is reported as far as
// it came. Those that poll get less, beside the time that the reboots alone take:
// they would need hours.
const (
	queueLimit = 2 * time.Minute
	pollLimit  = 8 * time.Second
)

// bound is how long the reboots take alone.
func (l load_) bound() time.Duration {
	return time.Duration((l.machines+l.permits-1)/l.permits) * l.hold
}

func main() {
	quick := flag.Bool("quick", false, "a few cells only")
	rollout := flag.Bool("rollout", false, "only the rollout of 1,000 machines on 10 permits")
	only := flag.String("only", "", "only the scheme of this name")
	machines := flag.Int("machines", 0, "only so many machines")
	permits := flag.Int("permits", 0, "only so many permits")
	reboots := flag.Duration("reboots", 30*time.Second, "leave out the loads whose reboots alone take longer")
	profile := flag.String("cpuprofile", "", "write a CPU profile of this program to `FILE`")
	flag.Parse()
	if *profile != "" {
		f, err := os.Create(*profile)
		if err != nil || pprof.StartCPUProfile(f) != nil {
			fmt.Fprintln(os.Stderr, "lock: no profile:", err)
			os.Exit(1)
		}
		defer pprof.StopCPUProfile()
	}
	debug.SetGCPercent(400) // one process stands for thousands of machines: its collector is not theirs
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, choice{*quick, *rollout, *only, *machines, *permits, *reboots}); err != nil {
		fmt.Fprintln(os.Stderr, "lock:", err)
		os.Exit(1)
	}
}

// choice is what to measure.
type choice struct {
	quick, rollout    bool
	only              string
	machines, permits int // 0: all
	reboots           time.Duration
}

// loads lists the cells.
func (c choice) loads() (all []load_) {
	sizes, permits := []int{100, 1000, 10_000}, []int{1, 10, 50}
	if c.quick {
		sizes, permits = []int{100}, []int{1, 10}
	}
	for _, n := range sizes {
		for _, k := range permits {
			for _, hold := range []time.Duration{0, time.Second} {
				switch {
				case (load_{n, k, hold}).bound() > c.reboots:
				case c.machines != 0 && c.machines != n, c.permits != 0 && c.permits != k:
				default:
					all = append(all, load_{n, k, hold})
				}
			}
		}
	}
	return all
}

func run(ctx context.Context, c choice) error {
	server, err := startEtcd(ctx)
	if err != nil {
		return err
	}
	defer server.stop()
	fmt.Printf("%s, %s, %d cores, etcd of go.mod, one member on loopback, data in %s; load average before %s\n\n", time.Now().UTC().Format(time.DateOnly), runtime.Version(), runtime.NumCPU(), server.dir, load())
	if c.rollout {
		return rollouts(ctx, server)
	}
	fmt.Println("| machines | permits | hold | scheme | hand-over ms, median (p99) | to a put | whole, s | ms a machine | requests a machine | out of order | not served |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|---|---|")
	for _, l := range c.loads() {
		for _, s := range schemes {
			if c.only != "" && s.name != c.only {
				continue
			}
			if err := cell(ctx, server, s, l); err != nil {
				return fmt.Errorf("%s, %d machines: %w", s.name, l.machines, err)
			}
		}
	}
	if c.quick || c.machines != 0 || c.permits != 0 || c.only != "" {
		return nil
	}
	return rollouts(ctx, server)
}

// load_ is what one cell does: machines that reboot once each.
type load_ struct {
	machines, permits int
	hold              time.Duration
}

// scheme is one way to take turns.
type scheme struct {
	name string
	open func(ctx context.Context, s *server, l load_) (fleet, error)
}

// fleet is machines that take turns. Acquire returns when machine i holds.
type fleet interface {
	acquire(ctx context.Context, i int) error
	release(ctx context.Context, i int) error
	// disorder counts the machines that the store has granted before one that had
	// asked earlier; -1 where there is no order to keep.
	disorder(ctx context.Context) int
	requests() int64
	close()
}

var schemes = []scheme{
	{"drydock", openDrydock},
	{"drydock, with an update's four fences", openFencing},
	{"locksmith: one document, CAS, its back-off / 100", openLocksmith},
	{"airlock: one document, CAS, polls every 5 min / 100", openAirlock},
	{"one document, CAS, polls every 1-50 ms", openPoller},
}

// cell measures one scheme under one load, beside the price of a put.
func cell(ctx context.Context, s *server, how scheme, l load_) error {
	before, err := s.put(ctx)
	if err != nil {
		return err
	}
	f, err := how.open(ctx, s, l)
	if err != nil {
		return err
	}
	limit := pollLimit + l.bound()
	if _, queue := f.(*drydock); queue {
		limit = queueLimit + l.bound()
	}
	r := drive(ctx, f, l, limit)
	disorder := f.disorder(ctx)
	f.close()
	after, err := s.put(ctx)
	if err != nil {
		return err
	}
	put := (before + after) / 2
	handover, order := "–", "–"
	if len(r.handovers) > 0 {
		m := percentile(r.handovers, 50)
		handover = fmt.Sprintf("%s (%s)", ms(m), ms(percentile(r.handovers, 99)))
		if m > 0 {
			handover += " |" + fmt.Sprintf(" %.1f", float64(m)/float64(put))
		}
	} else {
		handover += " | –"
	}
	if disorder >= 0 {
		order = fmt.Sprint(disorder)
	}
	served := max(r.served, 1)
	fmt.Printf("| %d | %d | %s | %s | %s | %.2f | %.2f | %.1f | %s | %d |\n", l.machines, l.permits, l.hold, how.name, handover,
		r.took.Seconds(), float64(r.took.Microseconds())/1000/float64(served), float64(r.requests)/float64(served), order, l.machines-r.served)
	return nil
}

func ms(d time.Duration) string { return fmt.Sprintf("%.2f", float64(d.Microseconds())/1000) }

func percentile(of []time.Duration, p int) time.Duration {
	if len(of) == 0 {
		return 0
	}
	of = slices.Sorted(slices.Values(of))
	return of[min(len(of)*p/100, len(of)-1)]
}

func load() string {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(data))[:3], " ")
}

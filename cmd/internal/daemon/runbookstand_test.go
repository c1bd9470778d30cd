package daemon_test

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/drydock-os/drydock/cmd/internal/daemon"
	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/rebootlock"
)

// runScheduled is drydockd with a scheduler that has work on this machine, which
// does not leave while there is a file that says why.
func runScheduled(budget string) int {
	o := daemon.Options{Version: "test", Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	flags := flag.NewFlagSet("drydockd", flag.ExitOnError)
	flags.StringVar(&o.Config, "config", "", "")
	flags.StringVar(&o.Root, "root", "", "")
	flags.StringVar(&o.Bus, "bus", "", "")
	flags.Parse(os.Args[1:])
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	o.Reload = reload
	d, err := daemon.New(o)
	if err == nil {
		d.Schedule(&budgeted{Link: (&fleetlink.Memory{}).On("this"), budget: budget})
		err = d.Run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "drydockd:", err)
		return 1
	}
	return 0
}

// budgeted is a scheduler with one workload, whose drain waits while a file says
// why it may not leave. By force it leaves all the same.
type budgeted struct {
	fleetlink.Link
	budget string
}

// Drain implements fleetlink.Link.
func (b *budgeted) Drain(ctx context.Context, o fleetlink.Order) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for told := false; ; told = true {
		why, err := os.ReadFile(b.budget)
		if err != nil || o.Force {
			return b.Link.Drain(ctx, o)
		}
		left := []fleetlink.Workload{{Name: "shop/db-0", Why: strings.TrimSpace(string(why))}}
		if !told {
			o.Tell(left)
		}
		select {
		case <-ctx.Done():
			return fleetlink.Unfinished{Left: left, Err: ctx.Err()}
		case <-tick.C:
		}
	}
}

// TestRunbookClockWrong: the clocks of web-1 and web-2 and that of the
// coordinator, which is here a process of the test, are ten minutes apart, until
// they are not. No clock of a machine can be set for one process alone, so it is
// the coordinator's that differs: the machines cannot tell.
func TestRunbookClockWrong(t *testing.T) {
	d := newDrill(t, "clock-wrong", setUp{hosts: 2, tables: func(p string) string {
		return later(strings.Replace(p, "[cluster]\n", "[cluster]\ncoordinate = false\n", 1))
	}})
	var off atomic.Int64
	off.Store(int64(-10 * time.Minute))
	coordinator := rebootlock.Coordinator{Store: d.operator.Store, Keys: d.operator.Keys, Machine: strings.Repeat("9", 32),
		Now: func() time.Time { return time.Now().Add(time.Duration(off.Load())) }}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = coordinator.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	d.started()
	d.upgrade("1.1.0", "web-1")
	d.play(1)
	if one := d.host("web-1"); one.boots != 1 {
		t.Errorf("it rebooted by a clock that is wrong")
	}
	off.Store(0)
	d.play(1)
	d.settled("1.1.0", d.host("web-1"))
}

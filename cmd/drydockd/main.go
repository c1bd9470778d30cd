// Command drydockd keeps this machine's operating system current.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/drydock-os/drydock/cmd/internal/config"
	"github.com/drydock-os/drydock/cmd/internal/daemon"
	"github.com/drydock-os/drydock/cmd/internal/survey"
)

// version is set by the linker in packages.
var version = "0.1-dev"

func main() { os.Exit(run()) }

func run() int {
	o := daemon.Options{Version: version, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	check := flag.Bool("check-config", false, "judge the policy file alone, and exit 0 or 1")
	show := flag.Bool("version", false, "print the version and exit")
	flag.StringVar(&o.Config, "config", config.DefaultPath, "policy `file`")
	flag.StringVar(&o.Bus, "bus", os.Getenv("DRYDOCK_BUS"), "D-Bus `address`; empty for the system bus")
	flag.StringVar(&o.Root, "root", "", "`directory` that stands for / when the running system is looked at (tests)")
	flag.Usage = usage
	flag.Parse()
	if flag.NArg() == 1 && flag.Arg(0) == "trial-state" {
		return trialState(o)
	}
	if flag.NArg() == 1 && flag.Arg(0) == "discard-damaged" {
		return discardDamaged(o)
	}
	if flag.NArg() == 1 && flag.Arg(0) == survey.Command {
		return makeSurvey(o)
	}
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "drydockd: unexpected argument %q; see drydockd -help\n", flag.Arg(0))
		return 2
	}
	switch {
	case *show:
		fmt.Println("drydockd", version)
		return 0
	case *check:
		return say(checkConfig(o.Config))
	}
	// Payloads pass through a bounded window; the collector need not wait for
	// twice of it. GOGC and GOMEMLIMIT still override.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	o.Reload = reload
	d, err := daemon.New(o)
	if err == nil {
		err = d.Run(ctx)
	}
	return say(err)
}

// usage is what -help says.
func usage() {
	w := flag.CommandLine.Output()
	fmt.Fprint(w, "drydockd keeps this machine's operating system current.\n\n"+
		"  drydockd [FLAGS]              run, until SIGTERM; SIGHUP reads the policy file again\n"+
		"  drydockd [FLAGS] trial-state  exit 0 where the booted slot is good, 3 where it is on trial, 1 where neither can be\n"+
		"                                told; no daemon is needed (the trial guard asks)\n"+
		"  drydockd [FLAGS] discard-damaged\n"+
		"                                make the booted slot unbootable, which cannot be read in full, where the other one was good:\n"+
		"                                exit 0; 3 where it was not, 1 on failure (the initrd runs this: see verity-guard)\n"+
		"  drydockd [FLAGS] survey       ask the scheduler and the gates of the policy all that changes nothing, and print what they\n"+
		"                                say as JSON; no daemon is needed (drydock doctor asks, and judges it)\n\nFlags:\n")
	flag.PrintDefaults()
}

// trialState exits 0 for a good slot, 3 for one on trial, and 1 when it cannot
// tell.
func trialState(o daemon.Options) int {
	err := daemon.TrialState(o)
	if errors.Is(err, daemon.ErrOnTrial) {
		fmt.Println(err)
		return 3
	}
	return say(err)
}

// discardDamaged exits 0 when the next boot takes the other slot, 3 when there is
// no other to take, and 1 when it did not succeed.
func discardDamaged(o daemon.Options) int {
	err := daemon.DiscardDamaged(o)
	if errors.Is(err, daemon.ErrNoOther) {
		fmt.Println(err)
		return 3
	}
	return say(err)
}

// makeSurvey prints what scheduler and gates say, and exits 1 where they cannot be
// asked at all.
func makeSurvey(o daemon.Options) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	s, err := daemon.Survey(ctx, o)
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(s)
	}
	return say(err)
}

func checkConfig(path string) error {
	_, err := config.Load(path)
	return err
}

func say(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, "drydockd:", err)
		return 1
	}
	return 0
}

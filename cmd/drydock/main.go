// Command drydock is the operator's view of a machine's updates: it asks the
// daemon over D-Bus, and reads, makes and applies payloads and boot flags.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/drydock-os/drydock/cmd/internal/cli"
	"github.com/drydock-os/drydock/cmd/internal/demo"
)

// version is set by the linker in packages; empty, the module's holds.
var version string

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	program := cli.Program{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Now: time.Now, Demo: demo.Run, Version: version}
	code := program.Run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

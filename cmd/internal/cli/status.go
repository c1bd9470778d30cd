package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/bus"
	"github.com/spf13/cobra"
)

func (s *session) status() *cobra.Command {
	var watch bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Show what runs, what is offered, written or staged, and why nothing happens",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return s.ask(c.Context(), func(client *bus.Client) error {
				if watch {
					return s.watch(c.Context(), client)
				}
				status, err := client.Status(c.Context())
				if err != nil {
					return err
				}
				return s.print(status, func(w io.Writer) { page{w, s.Now()}.status(status) })
			})
		},
	}
	c.Flags().BoolVarP(&watch, "watch", "w", false, "go on, and show each change; with --json a line each")
	return c
}

// clearScreen is understood by every terminal that people use.
const clearScreen = "\x1b[H\x1b[2J"

// watch shows the status after each change, until it is interrupted.
func (s *session) watch(ctx context.Context, client *bus.Client) error {
	var broken error
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	err := client.Watch(ctx, func(status updater.Status) {
		if s.json {
			broken = s.encode(status, "")
		} else {
			broken = s.print(nil, func(w io.Writer) {
				if isTerminal(s.Out) {
					io.WriteString(w, clearScreen)
				}
				page{w, s.Now()}.status(status)
				fmt.Fprintln(w)
			})
		}
		if broken != nil {
			cancel(broken)
		}
	})
	if broken == nil && errors.Is(err, context.Canceled) {
		return nil // this is how a watch ends
	}
	return errors.Join(broken, err)
}

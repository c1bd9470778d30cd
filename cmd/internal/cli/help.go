package cli

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

func (s *session) demo() *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Show five machines that take a release in turn, a bad one, and a freeze",
		Long: "Make five machines with a disk image each, and an etcd on loopback ports that are free, and show how a release goes\n" +
			"through them two at a time, how one that is not healthy stops after one machine, and what a freeze holds up.\n" +
			"It needs no root, no network but loopback and nothing installed, and ends within two minutes.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return s.Demo(c.Context(), s.Out) },
	}
}

func (s *session) completion() *cobra.Command {
	return &cobra.Command{
		Use:       "completion bash|zsh|fish",
		Short:     "Print the completion script for a shell",
		Long:      "Print the completion script for a shell. For bash: source <(drydock completion bash)",
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{"bash", "zsh", "fish"},
		RunE: func(c *cobra.Command, args []string) error {
			switch root := c.Root(); args[0] {
			case "bash":
				return root.GenBashCompletionV2(s.Out, true)
			case "zsh":
				return root.GenZshCompletion(s.Out)
			default:
				return root.GenFishCompletion(s.Out, true)
			}
		},
	}
}

func (s *session) man() *cobra.Command {
	return &cobra.Command{
		Use:   "man DIR",
		Short: "Write the man pages of all commands",
		Long:  "Write the man pages of all commands into DIR. SOURCE_DATE_EPOCH dates them.",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fmt.Errorf("write man pages: %w", err)
			}
			root := c.Root()
			root.DisableAutoGenTag = true
			header := &doc.GenManHeader{Section: "8", Source: "Drydock", Manual: "Drydock"}
			if err := doc.GenManTree(root, header, args[0]); err != nil {
				return fmt.Errorf("write man pages: %w", err)
			}
			return nil
		},
	}
}

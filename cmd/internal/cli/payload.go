package cli

import (
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/drydock-os/drydock/updater/fetch"
	"github.com/drydock-os/drydock/updater/payload"
	"github.com/spf13/cobra"
)

// maxKeyFile bounds a PEM file: a hundred keys are less.
const maxKeyFile = 1 << 20

func (s *session) payload() *cobra.Command {
	c := &cobra.Command{
		Use:   "payload",
		Short: "Read, verify, apply and make update payloads",
		Long: "Read, verify, apply and make update payloads (CrAU major 1 and 2). No daemon is needed.\n\n" +
			exitCodes,
	}
	c.AddCommand(s.payloadInfo(), s.payloadVerify(), s.payloadApply(), s.payloadCreate())
	return c
}

func (s *session) payloadInfo() *cobra.Command {
	return &cobra.Command{
		Use:   "info [--json] FILE",
		Short: "Show what a payload says of itself",
		Long: "Show what a payload says of itself. Nothing of it is verified: see payload verify.\n" +
			"FILE may be an http or https URL.",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			info, err := payload.Inspect(c.Context(), s.source(args[0]))
			if err == nil {
				err = checkLength(args[0], info.Size)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			return s.showPayload(info, false)
		},
	}
}

func (s *session) payloadVerify() *cobra.Command {
	var keys []string
	c := &cobra.Command{
		Use:   "verify --key PEM FILE",
		Short: "Check a payload's signatures and all its data",
		Long: "Check a payload's signatures, sizes and the hash of every operation, without applying it.\n" +
			"One good signature by one of the keys is enough. FILE may be an http or https URL.",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			trusted, err := readKeys(keys)
			if err != nil {
				return err
			}
			spare()
			info, err := payload.Verify(c.Context(), s.source(args[0]), trusted)
			if err == nil && expired(info, s.Now()) {
				err = fmt.Errorf("%w: on %s", payload.ErrExpired, stamp(info.Expires))
			}
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			return s.showPayload(info, true)
		},
	}
	c.Flags().StringArrayVar(&keys, "key", nil, "file with a trusted public key in `PEM`; may be repeated")
	return c
}

func expired(info payload.Info, now time.Time) bool {
	return !info.Expires.IsZero() && now.After(info.Expires)
}

// source is a payload in a file or at a URL.
func (s *session) source(name string) payload.Source {
	if !isURL(name) {
		return payload.FileSource(name)
	}
	return &fetch.Source{
		URLs:  []string{name},
		Pause: 2 * time.Second, // a person waits
		OnRetry: func(err error) {
			fmt.Fprintf(s.Err, "drydock %s: trying again: %s\n", s.name, oneLine(err.Error()))
		},
	}
}

func isURL(name string) bool {
	return strings.HasPrefix(name, "http://") || strings.HasPrefix(name, "https://")
}

// checkLength compares a file's length with what its manifest makes it. A
// server's file is measured only by who reads it whole.
func checkLength(name string, want int64) error {
	if isURL(name) {
		return nil
	}
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	if info.Mode().IsRegular() && info.Size() != want {
		return fmt.Errorf("%w: the file has %d bytes, its manifest makes it %d", payload.ErrPayloadSize, info.Size(), want)
	}
	return nil
}

// readKeys reads public keys. Without any nothing can be verified.
func readKeys(files []string) (payload.Keys, error) {
	if len(files) == 0 {
		return nil, usage("--key is missing: without a trusted key nothing can be verified")
	}
	var pems [][]byte
	for _, name := range files {
		pem, err := readSmall(name)
		if err != nil {
			return nil, fmt.Errorf("read key: %w", err)
		}
		if _, err := payload.ParseKeys(pem); err != nil {
			return nil, fmt.Errorf("read key %s: %w", name, err)
		}
		pems = append(pems, pem)
	}
	return payload.ParseKeys(pems...)
}

func readSmall(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err == nil && len(data) > maxKeyFile {
		err = fmt.Errorf("%s: more than %d bytes", name, maxKeyFile)
	}
	return data, err
}

// payloadFacts is payload.Info as JSON.
type payloadFacts struct {
	Major        int              `json:"major"`
	Minor        int              `json:"minor"`
	Version      string           `json:"version,omitempty"`
	Expires      time.Time        `json:"expires,omitzero"`
	Size         int64            `json:"size"`
	MetadataSize int64            `json:"metadata_size"`
	BlockSize    int64            `json:"block_size"`
	Delta        bool             `json:"delta"`
	Signed       bool             `json:"signed"`
	Verified     bool             `json:"verified"`
	Partitions   []partitionFacts `json:"partitions"`
}

type partitionFacts struct {
	Name         string         `json:"name"`
	Size         int64          `json:"size"`
	SHA256       string         `json:"sha256"`
	SourceSize   int64          `json:"source_size,omitempty"`
	SourceSHA256 string         `json:"source_sha256,omitempty"`
	Operations   map[string]int `json:"operations"`
	Bytes        int64          `json:"bytes"` // of payload
}

func factsOf(i payload.Info, verified bool) payloadFacts {
	facts := payloadFacts{
		Major: i.Major, Minor: i.Minor, Version: i.Version, Expires: i.Expires, Size: i.Size, MetadataSize: i.MetadataSize,
		BlockSize: i.BlockSize, Delta: i.Delta, Signed: i.Signed, Verified: verified, Partitions: []partitionFacts{},
	}
	for _, p := range i.Partitions {
		facts.Partitions = append(facts.Partitions, partitionFacts{
			Name: p.Name, Size: p.Size, SHA256: hex.EncodeToString(p.Hash),
			SourceSize: p.SourceSize, SourceSHA256: hex.EncodeToString(p.SourceHash), Operations: p.Operations, Bytes: p.Bytes,
		})
	}
	return facts
}

func (s *session) showPayload(info payload.Info, verified bool) error {
	facts := factsOf(info, verified)
	return s.print(facts, func(w io.Writer) { facts.write(w) })
}

func (f payloadFacts) write(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	kind := "full"
	if f.Delta {
		kind = "delta: it needs the old image"
	}
	fmt.Fprintf(w, "format\tCrAU major %d, minor %d\n", f.Major, f.Minor)
	fmt.Fprintf(w, "kind\t%s\n", kind)
	fmt.Fprintf(w, "version\t%s\n", orDash(clean(f.Version)))
	if !f.Expires.IsZero() {
		fmt.Fprintf(w, "expires\t%s\n", stamp(f.Expires))
	}
	fmt.Fprintf(w, "size\t%s, %d of it metadata\n", size(f.Size), f.MetadataSize)
	switch {
	case f.Verified:
		fmt.Fprintf(w, "signature\tgood, by a key that was given\n")
	case f.Signed:
		fmt.Fprintf(w, "signature\tthere, not verified: see payload verify\n")
	default:
		fmt.Fprintf(w, "signature\tnone\n")
	}
	for _, p := range f.Partitions {
		fmt.Fprintf(w, "partition\t%s\n", p.Name)
		fmt.Fprintf(w, "  image\t%s, sha256 %s\n", size(p.Size), p.SHA256)
		if p.SourceSHA256 != "" {
			fmt.Fprintf(w, "  from\t%s, sha256 %s\n", size(p.SourceSize), p.SourceSHA256)
		}
		var ops []string
		for _, name := range slices.Sorted(maps.Keys(p.Operations)) {
			ops = append(ops, fmt.Sprintf("%d %s", p.Operations[name], name))
		}
		fmt.Fprintf(w, "  operations\t%s\n", orDash(strings.Join(ops, ", ")))
	}
	w.Flush()
}

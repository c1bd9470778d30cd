// Command package builds drydock's packages from the repository that it lies
// in: a deb, an rpm, a system extension, what they hold as an SBOM, and the
// sums of all. The same commit and version give the same bytes.
package main

import (
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

func main() { os.Exit(run()) }

func run() int {
	source := flag.String("source", "../..", "`directory` of the repository")
	out := flag.String("out", "", "`directory` for the packages; made if need be")
	version := flag.String("version", "", "`semver` of the packages (default: what git says)")
	bin := flag.String("bin", "", "`directory` with a drydockd and a drydock to take instead of building them")
	arch := flag.String("arch", runtime.GOARCH, "`architecture`, as Go names it")
	flag.Parse()
	if *out == "" || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "package: say where the packages go: go -C dist/package run . --out DIR")
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	r, err := Open(ctx, *source, *version)
	if err == nil {
		r.Arch = *arch
		err = publish(ctx, r, *bin, *out)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "package:", err)
		return 1
	}
	return 0
}

// publish makes the packages and prints where they are.
func publish(ctx context.Context, r Release, bin, out string) error {
	made, err := Make(ctx, r, bin, out)
	for _, name := range made {
		fmt.Println(filepath.Join(out, name))
	}
	return err
}

// Make builds r, or takes the programs in bin, and writes everything that is
// published of it to the directory out. It returns the files' names.
func Make(ctx context.Context, r Release, bin, out string) ([]string, error) {
	stage, err := os.MkdirTemp("", "drydock-package-")
	if err != nil {
		return nil, fmt.Errorf("make a build directory: %w", err)
	}
	defer os.RemoveAll(stage)
	if err := os.MkdirAll(out, 0o755); err != nil {
		return nil, fmt.Errorf("make the output directory: %w", err)
	}
	programs := Programs{Release: r, Dir: stage}
	if err := programs.Make(ctx, bin); err != nil {
		return nil, err
	}
	made, err := Package(r, stage, out)
	if err != nil {
		return nil, err
	}
	bill, err := Bill(r, stage)
	if err != nil {
		return nil, err
	}
	name := "drydock-" + r.Version.String() + ".spdx.json"
	if err := os.WriteFile(filepath.Join(out, name), bill, 0o644); err != nil {
		return nil, fmt.Errorf("write SBOM: %w", err)
	}
	made = append(made, name)
	if err := sums(out, made); err != nil {
		return nil, err
	}
	return append(made, "SHA256SUMS"), nil
}

// sums writes SHA256SUMS, as sha256sum -c and systemd-sysupdate read it.
func sums(dir string, names []string) error {
	text := &strings.Builder{}
	for _, name := range slices.Sorted(slices.Values(names)) {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return fmt.Errorf("sum packages: %w", err)
		}
		fmt.Fprintf(text, "%x  %s\n", sha256.Sum256(data), name)
	}
	if err := os.WriteFile(filepath.Join(dir, "SHA256SUMS"), []byte(text.String()), 0o644); err != nil {
		return fmt.Errorf("sum packages: %w", err)
	}
	return nil
}

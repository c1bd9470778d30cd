package main

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
)

// Programs is a directory with what has to be made before it can be packaged:
//
//	drydockd, drydock
//	man/         gzipped manual pages, all of section 8
//	completion/  bash, zsh, fish
//	extension-release
type Programs struct {
	Release Release
	Dir     string
}

// names of the programs, each of cmd/<name>, and the variables that the linker
// writes the version to.
var names = []string{"drydockd", "drydock"}

// Make fills the directory. Programs in bin are taken as they are; without bin
// they are built.
func (p Programs) Make(ctx context.Context, bin string) error {
	for _, name := range names {
		path := filepath.Join(p.Dir, name)
		var err error
		if bin == "" {
			err = p.compile(ctx, name, p.Release.Arch, path)
		} else {
			err = copyFile(filepath.Join(bin, name), path)
		}
		if err != nil {
			return err
		}
	}
	drydock := filepath.Join(p.Dir, "drydock")
	if p.Release.Arch != runtime.GOARCH {
		// The pages are the same everywhere; this one runs here.
		drydock += ".here"
		if err := p.compile(ctx, "drydock", runtime.GOARCH, drydock); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(p.Dir, "extension-release"), []byte(extensionRelease(p.Release)), 0o644); err != nil {
		return fmt.Errorf("write extension-release: %w", err)
	}
	if err := p.complete(ctx, drydock); err != nil {
		return err
	}
	return p.manual(ctx, drydock)
}

// compile builds cmd/name, static, stripped, and free of whatever differs from
// one building machine to the next.
func (p Programs) compile(ctx context.Context, name, arch, path string) error {
	c := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-mod=readonly",
		"-tags=grpcnotrace", // gRPC's traces, which nothing reads, cost a megabyte
		"-ldflags=-s -w -buildid= -X main.version="+p.Release.Version.String(),
		"-o", path, "./cmd/"+name)
	c.Dir = p.Release.Root
	c.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch,
		"GOAMD64=v1", "GOARM64=v8.0", "GOFLAGS=", "GOEXPERIMENT=", "GOWORK=off")
	if _, err := output(c); err != nil {
		return fmt.Errorf("build %s: %w", name, err)
	}
	return nil
}

// complete writes the completion of the command line for each shell.
func (p Programs) complete(ctx context.Context, drydock string) error {
	dir := filepath.Join(p.Dir, "completion")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("write completion: %w", err)
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		text, err := output(exec.CommandContext(ctx, drydock, "completion", shell))
		if err != nil {
			return fmt.Errorf("write completion for %s: %w", shell, err)
		}
		if err := os.WriteFile(filepath.Join(dir, shell), []byte(text+"\n"), 0o644); err != nil {
			return fmt.Errorf("write completion for %s: %w", shell, err)
		}
	}
	return nil
}

// manual writes the pages: the daemon's from dist, the command's by itself.
func (p Programs) manual(ctx context.Context, drydock string) error {
	plain, dir := filepath.Join(p.Dir, "plain"), filepath.Join(p.Dir, "man")
	c := exec.CommandContext(ctx, drydock, "man", plain)
	c.Env = append(os.Environ(), "SOURCE_DATE_EPOCH="+strconv.FormatInt(p.Release.Time.Unix(), 10))
	if _, err := output(c); err != nil {
		return fmt.Errorf("write man pages: %w", err)
	}
	pages, err := filepath.Glob(filepath.Join(plain, "*.8"))
	if err != nil {
		return fmt.Errorf("list man pages: %w", err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("write man pages: %w", err)
	}
	for _, page := range append(pages, filepath.Join(p.Release.Root, "dist", "man", "drydockd.8")) {
		if err := zip(page, filepath.Join(dir, filepath.Base(page)+".gz")); err != nil {
			return err
		}
	}
	return nil
}

// zip writes a file as gzip does with --no-name: without its name and time.
func zip(from, to string) error {
	return transfer(from, to, func(w io.Writer, r io.Reader) error {
		z, err := gzip.NewWriterLevel(w, gzip.BestCompression)
		if err != nil {
			return err
		}
		if _, err := io.Copy(z, r); err != nil {
			return err
		}
		return z.Close()
	})
}

func copyFile(from, to string) error {
	return transfer(from, to, func(w io.Writer, r io.Reader) error {
		_, err := io.Copy(w, r)
		return err
	})
}

// transfer makes the file to, which may be run, of what is in from.
func transfer(from, to string, how func(io.Writer, io.Reader) error) error {
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("copy %s: %w", filepath.Base(from), err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return fmt.Errorf("copy %s: %w", filepath.Base(from), err)
	}
	err = how(out, in)
	if e := out.Close(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("copy %s: %w", filepath.Base(from), err)
	}
	return nil
}

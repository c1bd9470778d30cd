package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/goreleaser/nfpm/v2"
	"github.com/goreleaser/nfpm/v2/files"
)

// sysext packs a system extension (systemd-sysext(8)): a squashfs with the
// files of the package that lie below /usr. It runs mksquashfs.
type sysext struct{}

func init() { nfpm.RegisterPackager("sysext", sysext{}) }

// architectures are those that systemd.unit(5), ConditionArchitecture=, names
// otherwise than Go does.
var architectures = map[string]string{"amd64": "x86-64", "386": "x86"}

func architecture(arch string) string {
	if name, ok := architectures[arch]; ok {
		return name
	}
	return arch
}

// extensionRelease is the file by which a host judges whether the extension is
// made for it (os-release(5)). The programs are static and ask nothing of the
// host but its kernel, hence any operating system. The file's name, and so the
// image's on the host, is drydock: drydock.raw.
func extensionRelease(r Release) string {
	return "ID=_any\nARCHITECTURE=" + architecture(r.Arch) + "\nEXTENSION_RELOAD_MANAGER=1\nDRYDOCK_VERSION=" + r.Version.String() + "\n"
}

// ConventionalFileName is what the sysext bakery of Flatcar and the patterns of
// systemd-sysupdate are used to: name, version and architecture.
func (sysext) ConventionalFileName(info *nfpm.Info) string {
	version := info.Version
	if info.Prerelease != "" {
		version += "-" + info.Prerelease
	}
	if info.VersionMetadata != "" {
		version += "+" + info.VersionMetadata
	}
	return info.Name + "-" + version + "-" + architecture(info.Arch) + ".raw"
}

// Package writes the image.
func (sysext) Package(info *nfpm.Info, w io.Writer) error {
	if err := nfpm.PrepareForPackager(info, "sysext"); err != nil {
		return fmt.Errorf("list files: %w", err)
	}
	dir, err := os.MkdirTemp("", "drydock-sysext-")
	if err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	defer os.RemoveAll(dir)
	tree, image := filepath.Join(dir, "tree"), filepath.Join(dir, "image")
	if err := lay(info, tree); err != nil {
		return err
	}
	// Inodes, sizes of blocks and times as on every machine that builds this.
	c := exec.CommandContext(context.Background(), "mksquashfs", tree, image, "-noappend", "-no-progress", "-quiet",
		"-all-root", "-no-xattrs", "-comp", "gzip")
	c.Env = append(os.Environ(), "SOURCE_DATE_EPOCH="+strconv.FormatInt(info.MTime.Unix(), 10))
	if _, err := output(c); err != nil {
		return fmt.Errorf("%w (mksquashfs is in the package squashfs-tools)", err)
	}
	in, err := os.Open(image)
	if err != nil {
		return fmt.Errorf("read image: %w", err)
	}
	defer in.Close()
	if _, err := io.Copy(w, in); err != nil {
		return fmt.Errorf("copy image: %w", err)
	}
	return nil
}

// lay makes the tree of the package's files in dir.
func lay(info *nfpm.Info, dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("make tree: %w", err)
	}
	var dirs []string
	for _, c := range info.Contents {
		// A host merges /usr alone: what lies elsewhere would silently be missing.
		if !strings.HasPrefix(c.Destination, "/usr/") {
			return fmt.Errorf("put %s into a system extension: it is not below /usr", c.Destination)
		}
		path := filepath.Join(dir, c.Destination)
		var err error
		switch c.Type {
		case files.TypeDir, files.TypeImplicitDir:
			dirs = append(dirs, path)
			err = os.Mkdir(path, 0o755)
		case files.TypeSymlink:
			err = os.Symlink(c.Source, path)
		default:
			err = place(c, path)
		}
		if err != nil {
			return fmt.Errorf("put %s into a system extension: %w", c.Destination, err)
		}
	}
	// Last, because a file's making is a directory's change.
	for _, path := range append(dirs, dir) {
		if err := os.Chtimes(path, info.MTime, info.MTime); err != nil {
			return fmt.Errorf("date %s: %w", path, err)
		}
	}
	return nil
}

// place copies one file with its mode and time.
func place(c *files.Content, path string) error {
	if err := copyFile(c.Source, path); err != nil {
		return err
	}
	if err := os.Chmod(path, c.Mode()); err != nil {
		return err
	}
	return os.Chtimes(path, c.ModTime(), c.ModTime())
}

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/deb" // registers itself
	"github.com/goreleaser/nfpm/v2/files"
	_ "github.com/goreleaser/nfpm/v2/rpm"
)

// formats are the packages that are made, as nfpm names them.
var formats = []string{"deb", "rpm", "sysext"}

// Package writes the packages of r to out, in each format, and returns their
// names. What has to be made for them is in stage.
func Package(r Release, stage, out string) ([]string, error) {
	var made []string
	for _, format := range formats {
		info, err := describe(r, stage, format)
		if err != nil {
			return nil, err
		}
		packager, err := nfpm.Get(format)
		if err != nil {
			return nil, fmt.Errorf("make %s: %w", format, err)
		}
		content := &bytes.Buffer{}
		if err := packager.Package(info, content); err != nil {
			return nil, fmt.Errorf("make %s: %w", format, err)
		}
		name := packager.ConventionalFileName(info)
		if err := os.WriteFile(filepath.Join(out, name), content.Bytes(), 0o644); err != nil {
			return nil, fmt.Errorf("make %s: %w", format, err)
		}
		made = append(made, name)
	}
	return made, nil
}

// describe reads nfpm.yaml for a format, and finds its sources.
func describe(r Release, stage, format string) (*nfpm.Info, error) {
	values := map[string]string{"VERSION": r.Version.String(), "ARCH": r.Arch}
	config, err := nfpm.ParseFileWithEnvMapping(filepath.Join(r.Root, "dist", "package", "nfpm.yaml"),
		func(name string) string { return values[name] })
	if err != nil {
		return nil, fmt.Errorf("read nfpm.yaml: %w", err)
	}
	info, err := config.Get(format)
	if err != nil {
		return nil, fmt.Errorf("read nfpm.yaml for %s: %w", format, err)
	}
	info.MTime = r.Time
	place := func(path string) string {
		if made, ok := strings.CutPrefix(path, "build/"); ok {
			return filepath.Join(stage, made)
		}
		return filepath.Join(r.Root, path)
	}
	for _, c := range info.Contents {
		if c.Source != "" && c.Type != files.TypeSymlink {
			c.Source = place(c.Source)
		}
		if c.FileInfo == nil {
			c.FileInfo = &files.ContentFileInfo{}
		}
		c.FileInfo.MTime = r.Time
	}
	for _, script := range []*string{&info.Scripts.PreInstall, &info.Scripts.PostInstall, &info.Scripts.PreRemove, &info.Scripts.PostRemove} {
		*script = place(*script)
	}
	return info, nil
}

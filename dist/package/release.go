package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"
)

// A Release is what is packaged: a source tree, as which version, and when it
// came about. All that distinguishes two packages of one format is in it.
type Release struct {
	Root    string          // of the repository, absolute
	Version *semver.Version // with neither v nor epoch
	Time    time.Time       // of the commit; the time of every file in the packages
	Arch    string          // as GOARCH
}

// Open returns the release in the repository at dir. Without a version, git
// names it, as Version says. The time is SOURCE_DATE_EPOCH of the environment
// (reproducible-builds.org), or else the commit's. The architecture is this
// machine's.
func Open(ctx context.Context, dir, version string) (Release, error) {
	root, err := filepath.Abs(dir)
	if err != nil {
		return Release{}, fmt.Errorf("find repository: %w", err)
	}
	if _, err := os.Stat(filepath.Join(root, "cmd", "drydockd")); err != nil {
		return Release{}, fmt.Errorf("find repository: %w: run it in dist/package, or name the repository with --source", err)
	}
	r := Release{Root: root, Arch: runtime.GOARCH}
	if version == "" {
		if version, err = r.described(ctx); err != nil {
			return Release{}, err
		}
	}
	if r.Version, err = semver.StrictNewVersion(strings.TrimPrefix(version, "v")); err != nil {
		return Release{}, fmt.Errorf("read version %q: %w", version, err)
	}
	r.Time, err = r.time(ctx)
	return r, err
}

// described is the version by git: that of the tag (v1.4.0 gives 1.4.0). After
// the tag it is a pre-release of the next patch, which sorts between the two:
// five commits after v1.4.0 are 1.4.1-dev.5+g244b2c0, and before any tag
// 0.0.0-dev.5+g244b2c0. Uncommitted changes add ".dirty".
func (r Release) described(ctx context.Context) (string, error) {
	text, err := r.git(ctx, "describe", "--tags", "--long", "--always", "--dirty", "--abbrev=12", "--match=v[0-9]*")
	if err != nil {
		return "", fmt.Errorf("ask git for a version: %w: give one with --version", err)
	}
	text, dirty := strings.CutSuffix(text, "-dirty")
	parts := strings.Split(text, "-")
	if len(parts) == 1 { // no tag at all
		count, err := r.git(ctx, "rev-list", "--count", "HEAD")
		if err != nil {
			return "", fmt.Errorf("count commits: %w", err)
		}
		parts = []string{"", count, "g" + parts[0]}
	}
	n := len(parts)
	return versionAfter(strings.Join(parts[:n-2], "-"), parts[n-2], parts[n-1], dirty)
}

// versionAfter is the version count commits after tag, which is empty before
// the first one.
func versionAfter(tag, count, commit string, dirty bool) (string, error) {
	next := semver.New(0, 0, 0, "", "")
	if tag != "" {
		v, err := semver.StrictNewVersion(strings.TrimPrefix(tag, "v"))
		if err != nil {
			return "", fmt.Errorf("read tag %s: %w", tag, err)
		}
		if count == "0" && !dirty {
			return v.String(), nil
		}
		next = v
		if v.Prerelease() == "" {
			patch := v.IncPatch()
			next = &patch
		}
	}
	pre := strings.TrimPrefix(next.Prerelease()+".dev."+count, ".")
	meta := commit
	if dirty {
		meta += ".dirty"
	}
	return semver.New(next.Major(), next.Minor(), next.Patch(), pre, meta).String(), nil
}

func (r Release) time(ctx context.Context) (time.Time, error) {
	text, from := os.Getenv("SOURCE_DATE_EPOCH"), "SOURCE_DATE_EPOCH"
	if text == "" {
		var err error
		if text, err = r.git(ctx, "log", "-1", "--format=%ct"); err != nil {
			return time.Time{}, fmt.Errorf("ask git for the commit's time: %w: set SOURCE_DATE_EPOCH where there is no repository", err)
		}
		from = "git"
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("read %s: %w", from, err)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

func (r Release) git(ctx context.Context, args ...string) (string, error) {
	return output(exec.CommandContext(ctx, "git", append([]string{"-C", r.Root}, args...)...))
}

// output runs c and returns what it printed, without the last newline. An error
// carries what it said on standard error.
func output(c *exec.Cmd) (string, error) {
	said := &strings.Builder{}
	c.Stderr = said
	out, err := c.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", filepath.Base(c.Path), err, strings.TrimSpace(said.String()))
	}
	return strings.TrimSuffix(string(out), "\n"), nil
}

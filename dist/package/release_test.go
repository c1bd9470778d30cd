package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Masterminds/semver/v3"
)

func TestVersionAfter(t *testing.T) {
	for _, c := range []struct {
		tag, count string
		dirty      bool
		want       string
	}{
		{"v1.4.0", "0", false, "1.4.0"},
		{"v1.4.0", "0", true, "1.4.1-dev.0+gabc.dirty"},
		{"v1.4.0", "5", false, "1.4.1-dev.5+gabc"},
		{"v1.4.0-rc.1", "0", false, "1.4.0-rc.1"},
		{"v1.4.0-rc.1", "2", false, "1.4.0-rc.1.dev.2+gabc"},
		{"", "7", false, "0.0.0-dev.7+gabc"},
		{"", "7", true, "0.0.0-dev.7+gabc.dirty"},
	} {
		got, err := versionAfter(c.tag, c.count, "gabc", c.dirty)
		if err != nil || got != c.want {
			t.Errorf("%q %s %v: got %q, %v; want %q", c.tag, c.count, c.dirty, got, err, c.want)
		}
	}
	if _, err := versionAfter("vnext", "1", "gabc", false); err == nil {
		t.Error("a tag that is no version was taken")
	}
}

// TestVersionsSortAsTheyCameAbout: in the order of semver, and of dpkg.
func TestVersionsSortAsTheyCameAbout(t *testing.T) {
	order := []string{"0.0.0-dev.7+gabc", "1.4.0-rc.1", "1.4.0-rc.1.dev.2+gabc", "1.4.0", "1.4.1-dev.5+gabc", "1.4.1-dev.12+gabc", "1.4.1"}
	for i := 1; i < len(order); i++ {
		a, b := semver.MustParse(order[i-1]), semver.MustParse(order[i])
		if !a.LessThan(b) {
			t.Errorf("%s is not before %s", a, b)
		}
		// As nfpm writes them into a deb.
		debA, debB := strings.Replace(order[i-1], "-", "~", 1), strings.Replace(order[i], "-", "~", 1)
		if err := exec.Command(program(t, "dpkg"), "--compare-versions", debA, "lt", debB).Run(); err != nil {
			t.Errorf("dpkg: %s is not before %s", debA, debB)
		}
	}
}

// TestGitNamesTheVersion in a repository of its own.
func TestGitNamesTheVersion(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("GIT_CONFIG_GLOBAL", "/dev/null")
	t.Setenv("GIT_COMMITTER_DATE", "2030-01-02T03:04:05Z")
	git := func(args ...string) {
		t.Helper()
		command(t, "git", append([]string{"-C", dir, "-c", "user.name=t", "-c", "user.email=t@example.com"}, args...)...)
	}
	write := func(text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(dir, "cmd/drydockd"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "cmd/drydockd/main.go"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	says := func(prefix, suffix string) {
		t.Helper()
		r, err := Open(t.Context(), dir, "")
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Version.String(); !strings.HasPrefix(got, prefix) || !strings.HasSuffix(got, suffix) {
			t.Errorf("got %s, want %s…%s", got, prefix, suffix)
		}
		if want := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC); !r.Time.Equal(want) {
			t.Errorf("time %s, want the commit's", r.Time)
		}
	}
	git("init", "-q")
	write("1")
	git("add", ".")
	git("commit", "-q", "-m", "one")
	says("0.0.0-dev.1+g", "")
	git("tag", "v1.4.0")
	says("1.4.0", "1.4.0")
	write("2")
	says("1.4.1-dev.0+g", ".dirty")
	git("commit", "-q", "-a", "-m", "two")
	says("1.4.1-dev.1+g", "")
}

func TestATreeWithoutGitIsToldItsTime(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "cmd/drydockd"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GIT_CEILING_DIRECTORIES", filepath.Dir(dir))
	if _, err := Open(t.Context(), dir, "1.4.0"); err == nil || !strings.Contains(err.Error(), "SOURCE_DATE_EPOCH") {
		t.Errorf("got %v", err)
	}
	t.Setenv("SOURCE_DATE_EPOCH", "1600000000")
	r, err := Open(t.Context(), dir, "v1.4.0")
	if err != nil || r.Version.String() != "1.4.0" || r.Time.Unix() != 1600000000 {
		t.Errorf("got %+v, %v", r, err)
	}
	if _, err := Open(t.Context(), dir, "1.4"); err == nil {
		t.Error("1.4 was taken as a version")
	}
}

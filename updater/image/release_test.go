package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseOSRelease(t *testing.T) {
	const flatcar = `NAME="Flatcar Container Linux by Kinvolk"
ID=flatcar
ID_LIKE=coreos
VERSION=4593.1.0
VERSION_ID=4593.1.0
BUILD_ID=2026-01-20-1741
SYSEXT_LEVEL=1.0
PRETTY_NAME="Flatcar Container Linux by Kinvolk 4593.1.0 (Oklo)"
ANSI_COLOR="38;5;75"
HOME_URL="https://flatcar.org/"
FLATCAR_BOARD="amd64-usr"
`
	got, err := ParseOSRelease([]byte(flatcar))
	if err != nil {
		t.Fatal(err)
	}
	want := Release{
		ID: "flatcar", Version: "4593.1.0", VersionID: "4593.1.0",
		Name:   "Flatcar Container Linux by Kinvolk",
		Pretty: "Flatcar Container Linux by Kinvolk 4593.1.0 (Oklo)",
		Fields: got.Fields,
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %+v", got)
	}
	if got.Fields["FLATCAR_BOARD"] != "amd64-usr" || len(got.Fields) != 11 {
		t.Errorf("fields %v", got.Fields)
	}
}

func TestParseOSReleaseQuoting(t *testing.T) {
	for _, tc := range []struct{ line, want string }{
		{`X=plain`, "plain"},
		{`X=`, ""},
		{`X=''`, ""},
		{`X="a b"`, "a b"},
		{`X='a "b" $c \'`, `a "b" $c \`},
		{`X="a \"b\" \$c \\ \x"`, `a "b" $c \ \x`},
		{`X=a\ b`, "a b"},
		{`X="a"'b'c`, "abc"},
		{"  X=trimmed\t\r", "trimmed"},
		{"X=1\nX=2", "2"},
		{"# c\n\nX=1 ", "1"},
	} {
		got, err := ParseOSRelease([]byte(tc.line))
		if err != nil || got.Fields["X"] != tc.want {
			t.Errorf("%q: %q, %v; want %q", tc.line, got.Fields["X"], err, tc.want)
		}
	}
	for _, line := range []string{
		`X`, `=1`, `1X=1`, `X Y=1`, `export X=1`, `X="a`, `X='a`, `X=a\`, `X=a b`, `X=$HOME`,
		"X=`id`", `X="$(id)"`, `X=a;b`, "X=\xff", strings.Repeat("#", maxRelease+1),
	} {
		if got, err := ParseOSRelease([]byte(line)); err == nil {
			t.Errorf("%.40q: accepted as %v", line, got.Fields)
		}
	}
}

func TestParseOSReleaseDefaults(t *testing.T) {
	got, err := ParseOSRelease(nil)
	if err != nil || got.ID != "linux" || got.Name != "Linux" || got.Pretty != "Linux" || got.VersionID != "" {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestParseOSReleaseBoundsFields(t *testing.T) {
	var b strings.Builder
	for i := range maxFields + 1 {
		fmt.Fprintf(&b, "X%d=\n", i)
	}
	if _, err := ParseOSRelease([]byte(b.String())); err == nil {
		t.Error("accepted more fields than the limit")
	}
}

// A release's own lib/os-release decides, not what /etc says.
func TestTreeReleaseOrder(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	tree := root.FS().(fs.ReadLinkFS)
	if _, err := TreeRelease(tree); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("empty tree: %v", err)
	}
	for _, step := range []struct{ name, version string }{
		{"etc/os-release", "1"}, {"usr/lib/os-release", "2"}, {"lib/os-release", "3"},
	} {
		write(step.name, "VERSION_ID="+step.version)
		if got, err := TreeRelease(tree); err != nil || got.VersionID != step.version {
			t.Errorf("with %s: %q, %v", step.name, got.VersionID, err)
		}
	}
	// The first that is there counts, also if it cannot be read.
	write("lib/os-release", "garbage")
	if got, err := TreeRelease(tree); err == nil {
		t.Errorf("garbage: %+v", got)
	}
}

// An absolute link means the tree's own root, not ours.
func TestTreeReleaseFollowsInside(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "usr/lib"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "usr/lib/release"), []byte("VERSION_ID=7"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/usr/lib/release", filepath.Join(dir, "usr/lib/os-release")); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	got, err := TreeRelease(root.FS().(fs.ReadLinkFS))
	if err != nil || got.VersionID != "7" {
		t.Errorf("got %+v, %v", got, err)
	}
}

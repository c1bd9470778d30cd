package guest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/drydock-os/drydock/testdata/real"
)

// Drydock runs the repository's drydock on the host, as an operator's laptop does,
// and returns what it printed.
func (l *Lab) Drydock(t testing.TB, args ...string) string {
	t.Helper()
	out, err := run(l.tools.drydock, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// former builds the programs of an earlier commit, told a version, as
// dist/package does.
const former = `
mkdir -p "$4/source" && git -C "$1" archive "$2" | tar -x -C "$4/source"
cd "$4/source"
for name in drydockd drydock; do
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags="-s -w -X main.version=$3" -o "$4/$name" "./cmd/$name"
done
rm -rf "$4/source"
`

// Former is the Debian package of a version with the programs of an earlier
// commit. It skips t where the history does not hold that.
func (l *Lab) Former(t testing.TB, commit, version string) string {
	t.Helper()
	if _, err := run("git", "-C", l.Module, "cat-file", "-e", commit+"^{commit}"); err != nil {
		real.Missing(t, "commit "+commit+" is not in this clone: git fetch --unshallow")
	}
	bin, err := l.cached("former", commit+version+former, func(path string) error {
		_, err := shell(former, l.Module, commit, version, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	deb, err := l.Package(version, bin, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	kept, err := l.keep(deb)
	if err != nil {
		t.Fatal(err)
	}
	return kept
}

// Deb is the repository's package.
func (l *Lab) Deb() string { return l.tools.deb }

// Put returns a file of the host as content for Spec.Files.
func Put(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// Extension builds the system extension of the repository's drydock, and returns
// its path.
func (l *Lab) Extension(t testing.TB, version string) string {
	t.Helper()
	dir := t.TempDir()
	if _, err := l.Package(version, "", dir); err != nil {
		t.Fatal(err)
	}
	all, err := filepath.Glob(filepath.Join(dir, "*.raw"))
	if err != nil || len(all) != 1 {
		t.Fatalf("system extensions %v: %v", all, err)
	}
	return all[0]
}

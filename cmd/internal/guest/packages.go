package guest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/drydock-os/drydock/testdata/real"
)

// Version is what the repository's drydock is called in the guests.
const Version = "1.4.0"

// Packages are the files of one version of drydock in every form.
type Packages struct{ Deb, RPM, Extension string }

// Packages are the repository's.
func (l *Lab) Packages() Packages { return l.tools.packages }

// Former are the packages of a version with the programs of an earlier commit. It
// skips t where the history does not hold that.
func (l *Lab) Former(t testing.TB, commit, version string) Packages {
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
	made, err := l.pack(version, bin)
	if err != nil {
		t.Fatal(err)
	}
	return made
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

// pack builds the packages of a version, out of the repository or of the programs
// in bin, and keeps them.
func (l *Lab) pack(version, bin string) (p Packages, err error) {
	dir, err := os.MkdirTemp(l.Dir, "build-")
	if err != nil {
		return p, err
	}
	defer os.RemoveAll(dir)
	args := []string{"-C", filepath.Join(l.Module, "dist/package"), "run", ".", "--version", version, "--out", dir}
	if bin != "" {
		args = append(args, "--bin", bin)
	}
	if _, err := run("go", args...); err != nil {
		return p, err
	}
	for name, kept := range map[string]*string{
		"drydock_" + version + "_amd64.deb": &p.Deb, "drydock-" + version + "-1.x86_64.rpm": &p.RPM, "drydock-" + version + "-x86-64.raw": &p.Extension,
	} {
		if *kept, err = l.keep(filepath.Join(dir, name)); err != nil {
			return p, err
		}
	}
	return p, nil
}

// keep copies a file into the cache under the name of its content, so that what
// is made from it is made anew when it changes.
func (l *Lab) keep(path string) (string, error) {
	sum, err := run("sha256sum", path)
	if err != nil {
		return "", err
	}
	to := filepath.Join(l.Dir, filepath.Base(path)+"-"+sum[:16])
	_, err = shell(`[ -e "$2" ] || { cp "$1" "$2.part.$$" && mv "$2.part.$$" "$2"; }`, path, to)
	return to, err
}

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

// Put returns a file of the host as content for Spec.Files.
func Put(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

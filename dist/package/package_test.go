package main

import (
	"bytes"
	"debug/elf"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// missing skips t, or fails it under REQUIRE_REAL=1, as in CI.
func missing(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("REQUIRE_REAL") == "1" {
		t.Fatalf("REQUIRE_REAL=1: %s", why)
	}
	t.Skip(why)
}

func program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		missing(t, "program "+name+" is not installed")
	}
	return path
}

func root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, "needs root")
	}
}

// command returns what a command printed, all of it.
func command(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(program(t, name), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// made are the directories of what all tests share, removed at the end.
var made []string

func shared() (string, error) {
	dir, err := os.MkdirTemp("", "drydock-package-test-")
	made = append(made, dir)
	return dir, err
}

// packer is the command, built without what tests add: the race detector would
// make its compressors many times slower.
var packer = sync.OnceValues(func() (string, error) {
	dir, err := shared()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "package")
	_, err = output(exec.Command("go", "build", "-o", path, "."))
	return path, err
})

// pack runs the command.
func pack(args ...string) error {
	path, err := packer()
	if err != nil {
		return err
	}
	_, err = output(exec.Command(path, args...))
	return err
}

// built is 1.4.0 of this repository.
var built = sync.OnceValues(func() (string, error) {
	dir, err := shared()
	if err != nil {
		return "", err
	}
	return dir, pack("--version", "1.4.0", "--out", dir)
})

// later is 1.4.1, of other programs that were built before.
var later = sync.OnceValues(func() (string, error) {
	dir, err := shared()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "bin")
	if err := errors.Join(os.Mkdir(bin, 0o755),
		os.WriteFile(filepath.Join(bin, "drydockd"), []byte("#!/bin/sh\necho drydockd 1.4.1\n"), 0o755),
		os.WriteFile(filepath.Join(bin, "drydock"), []byte(`#!/bin/sh
case $1 in
man) mkdir "$2" && echo page >"$2/drydock.8" ;;
esac
`), 0o755)); err != nil {
		return "", err
	}
	return dir, pack("--version", "1.4.1", "--bin", bin, "--out", dir)
})

func TestMain(m *testing.M) {
	code := m.Run()
	for _, dir := range made {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// packages is the directory of the packages of 1.4.0.
func packages(t testing.TB) string { return from(t, built) }

// next is the directory of the packages of 1.4.1.
func next(t testing.TB) string { return from(t, later) }

func from(t testing.TB, source func() (string, error)) string {
	t.Helper()
	program(t, "mksquashfs")
	dir, err := source()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func one(t testing.TB, dir, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: %q, %v", pattern, found, err)
	}
	return found[0]
}

// unpacked is the tree in the deb.
func unpacked(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	command(t, "dpkg-deb", "-x", one(t, packages(t), "*.deb"), dir)
	return dir
}

func TestTheNamesAreThePublishedOnes(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the names say amd64")
	}
	var got []string
	entries, err := os.ReadDir(packages(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		got = append(got, e.Name())
	}
	want := []string{"SHA256SUMS", "drydock-1.4.0-1.x86_64.rpm", "drydock-1.4.0-x86-64.raw", "drydock-1.4.0.spdx.json", "drydock_1.4.0_amd64.deb"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	c := exec.Command(program(t, "sha256sum"), "--check", "--strict", "SHA256SUMS")
	c.Dir = packages(t)
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// line is one of tar's verbose lists: mode, owner, size, date, time, name.
var line = regexp.MustCompile(`(?m)^(\S+) (\S+)\s+\d+ \S+ \S+ \.(/\S*)`)

func TestContents(t *testing.T) {
	modes := map[string]string{}
	for _, found := range line.FindAllStringSubmatch(command(t, "dpkg-deb", "-c", one(t, packages(t), "*.deb")), -1) {
		mode, owner, name := found[1], found[2], found[3]
		modes[name] = mode
		if owner != "root/root" {
			t.Errorf("%s is owned by %s", name, owner)
		}
		if !slices.Contains([]string{"drwxr-xr-x", "-rw-r--r--", "-rwxr-xr-x"}, mode) {
			t.Errorf("%s has mode %s", name, mode)
		}
		if !strings.HasPrefix(name, "/usr/") && !slices.Contains([]string{"/usr", "/etc/", "/etc/drydock/"}, name) {
			t.Errorf("%s is outside of /usr", name)
		}
	}
	const file, executable = "-rw-r--r--", "-rwxr-xr-x"
	for name, want := range map[string]string{
		"/usr/bin/drydockd":                                               executable,
		"/usr/bin/drydock":                                                executable,
		"/usr/lib/drydock/trial-guard":                                    executable,
		"/usr/lib/drydock/external-only":                                  executable,
		"/usr/lib/systemd/system/drydockd.service":                        file,
		"/usr/lib/systemd/system/drydock-trial.timer":                     file,
		"/usr/lib/systemd/system/drydock-trial.service":                   file,
		"/usr/lib/systemd/system/drydock-good.service":                    file,
		"/usr/lib/systemd/system/update-engine.service.d/10-drydock.conf": file,
		"/usr/lib/systemd/system/locksmithd.service.d/10-drydock.conf":    file,
		"/usr/lib/systemd/system-preset/80-drydock.preset":                file,
		"/usr/lib/systemd/system.conf.d/10-drydock-watchdog.conf":         file,
		"/usr/share/dbus-1/system.d/io.drydock.Drydock1.conf":             file,
		"/usr/share/dbus-1/system.d/com.coreos.update1.conf":              file,
		"/usr/share/polkit-1/actions/io.drydock.policy":                   file,
		"/usr/share/man/man8/drydockd.8.gz":                               file,
		"/usr/share/man/man8/drydock.8.gz":                                file,
		"/usr/share/man/man8/drydock-update.8.gz":                         file,
		"/usr/share/bash-completion/completions/drydock":                  file,
		"/usr/share/zsh/site-functions/_drydock":                          file,
		"/usr/share/fish/vendor_completions.d/drydock.fish":               file,
		"/usr/share/doc/drydock/README.md":                                file,
		"/usr/share/doc/drydock/drydock.toml":                             file,
		"/usr/share/doc/drydock/etcd/roles":                               executable,
		"/usr/share/drydock/grub/drydock.cfg":                             file,
		"/etc/drydock/":                                                   "drwxr-xr-x",
	} {
		if modes[name] != want {
			t.Errorf("%s: mode %q, want %q", name, modes[name], want)
		}
	}
}

// TestNothingOfDistIsForgotten: whoever adds a file there says where it goes.
func TestNothingOfDistIsForgotten(t *testing.T) {
	tree := unpacked(t)
	var packaged [][]byte
	err := filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || filepath.Dir(path) == filepath.Join(tree, "usr/bin") {
			return err
		}
		data, err := os.ReadFile(path)
		packaged = append(packaged, data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := regexp.MustCompile(`^(package/|man/|prometheus/.*test)`) // this module; pages are gzipped
	for _, name := range strings.Fields(command(t, "git", "-C", "..", "ls-files")) {
		data, err := os.ReadFile(filepath.Join("..", name))
		if elsewhere.MatchString(name) || os.IsNotExist(err) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(packaged, func(have []byte) bool { return bytes.Equal(have, data) }) {
			t.Errorf("dist/%s is in no package: say in nfpm.yaml where it goes", name)
		}
	}
}

// TestThePolicyIsTheOperators: a policy file that a package brought would be
// asked about at each upgrade that changes the example, and an upgrade that
// nobody watches would stop at the question.
func TestThePolicyIsTheOperators(t *testing.T) {
	deb := one(t, packages(t), "*.deb")
	if files := command(t, "dpkg-deb", "--ctrl-tarfile", deb); strings.Contains(files, "conffiles") {
		t.Error("the deb has conffiles")
	}
	if out := command(t, "rpm", "-qcp", one(t, packages(t), "*.rpm")); strings.TrimSpace(out) != "" {
		t.Errorf("the rpm has configuration files: %s", out)
	}
	if _, err := os.Stat(filepath.Join(unpacked(t), "etc/drydock/drydock.toml")); !os.IsNotExist(err) {
		t.Errorf("the policy file is in the package: %v", err)
	}
}

// TestDebAndRPMHoldTheSame compares their lists, with modes.
func TestDebAndRPMHoldTheSame(t *testing.T) {
	deb := map[string]string{}
	for _, found := range line.FindAllStringSubmatch(command(t, "dpkg-deb", "-c", one(t, packages(t), "*.deb")), -1) {
		if !strings.HasSuffix(found[3], "/") { // an rpm lists no directory that it does not own
			deb[found[3]] = found[1]
		}
	}
	rpm := map[string]string{}
	for _, l := range strings.Split(strings.TrimSpace(command(t, "rpm", "-qp", "--qf", "[%{FILEMODES:perms} %{FILENAMES} %{FILEUSERNAME}\n]", one(t, packages(t), "*.rpm"))), "\n") {
		f := strings.Fields(l)
		if len(f) != 3 || f[2] != "root" {
			t.Fatalf("rpm -qp says %q", l)
		}
		if !strings.HasPrefix(f[0], "d") {
			rpm[f[1]] = f[0]
		}
	}
	for name, mode := range deb {
		if rpm[name] != mode {
			t.Errorf("%s: deb %s, rpm %q", name, mode, rpm[name])
		}
	}
	if len(rpm) != len(deb) {
		t.Errorf("%d files in the rpm, %d in the deb", len(rpm), len(deb))
	}
}

func TestDependencies(t *testing.T) {
	deb := command(t, "dpkg-deb", "-f", one(t, packages(t), "*.deb"), "Depends", "Recommends")
	if want := "Depends: systemd, dbus | dbus-system-bus\nRecommends: polkitd | policykit-1, ca-certificates\n"; deb != want {
		t.Errorf("got %s, want %s", deb, want)
	}
	rpm := command(t, "rpm", "-qp", "--requires", "--recommends", one(t, packages(t), "*.rpm"))
	for _, want := range []string{"systemd", "dbus", "polkit"} {
		if !slices.Contains(strings.Fields(rpm), want) {
			t.Errorf("the rpm does not ask for %s:\n%s", want, rpm)
		}
	}
}

// TestTheProgramsAreStatic: no interpreter, no libraries, no symbols, and the
// version of the package.
// executed are the programs that a unit names.
var executed = regexp.MustCompile(`(?m)^Exec\w+=[-@:+!]*(\S+)`)

// Found in a whole machine: drydockd was reloaded by /bin/kill, which is in no
// package that every Debian has, so that no other policy could be put in force.
func TestUnitsRunWhatEverySystemHas(t *testing.T) {
	dir := unpacked(t)
	units, err := filepath.Glob(filepath.Join(dir, "usr/lib/systemd/system/*.service"))
	if err != nil || len(units) < 3 {
		t.Fatalf("units %v: %v", units, err)
	}
	for _, unit := range units {
		text, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range executed.FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(filepath.Join(dir, found[1])); err != nil && found[1] != "/bin/sh" {
				t.Errorf("%s runs %s, which is neither in the package nor everywhere", filepath.Base(unit), found[1])
			}
		}
	}
}

func TestTheProgramsAreStatic(t *testing.T) {
	tree := unpacked(t)
	for _, name := range names {
		path := filepath.Join(tree, "usr/bin", name)
		f, err := elf.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range f.Progs {
			if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
				t.Errorf("%s is linked dynamically", name)
			}
		}
		if f.Section(".symtab") != nil || f.Section(".debug_info") != nil {
			t.Errorf("%s is not stripped", name)
		}
		f.Close()
		if out := command(t, path, "--version"); out != name+" 1.4.0\n" {
			t.Errorf("%s says %q", name, out)
		}
	}
}

// TestSameCommitSameBytes builds a copy of the repository elsewhere, with files
// of other times and modes, as another user would have them.
func TestSameCommitSameBytes(t *testing.T) {
	dir := packages(t)
	here, err := Open(t.Context(), "../..", "1.4.0")
	if err != nil {
		t.Fatal(err)
	}
	there := filepath.Join(t.TempDir(), "elsewhere")
	copyRepository(t, here.Root, there)
	again := t.TempDir()
	t.Setenv("SOURCE_DATE_EPOCH", strconv.FormatInt(here.Time.Unix(), 10)) // there is no git there
	if err := pack("--source", there, "--version", "1.4.0", "--out", again); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 5 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		name := file.Name()
		a, errA := os.ReadFile(filepath.Join(dir, name))
		b, errB := os.ReadFile(filepath.Join(again, name))
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("%s differs", name)
		}
	}
}

// copyRepository copies what is built and packaged.
func copyRepository(t *testing.T, from, to string) {
	t.Helper()
	for _, name := range strings.Fields(command(t, "git", "-C", from, "ls-files", "--cached", "--others", "--exclude-standard")) {
		data, err := os.ReadFile(filepath.Join(from, name))
		if os.IsNotExist(err) || strings.HasPrefix(name, "testdata/") {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(to, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		old := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
}

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// A host is a small root file system made of this machine's programs, in which
// package managers run maintainer scripts.
type host struct {
	testing.TB
	dir string
}

// image is a host on which no systemd runs, as while an image is made.
func image(t testing.TB) host {
	t.Helper()
	root(t)
	h := host{t, t.TempDir()}
	for _, dir := range []string{"usr/bin", "usr/lib/systemd/system", "usr/lib64", "etc", "run", "tmp", "dev", "var/lib/dpkg/info", "var/lib/dpkg/updates"} {
		h.do(os.MkdirAll(h.path(dir), 0o755))
	}
	for _, dir := range []string{"bin", "lib", "lib64"} {
		h.do(os.Symlink("usr/"+dir, h.path(dir)))
	}
	h.do(syscall.Mknod(h.path("dev/null"), syscall.S_IFCHR|0o666, 1<<8|3))
	h.write("var/lib/dpkg/status", "")
	h.write("usr/lib/os-release", "ID=test\n")
	for _, name := range []string{"sh", "rm", "systemctl"} {
		h.bring(name)
	}
	for _, name := range []string{"multi-user.target", "sysinit.target", "boot-complete.target"} {
		h.write("usr/lib/systemd/system/"+name, "[Unit]\nDescription=test\n")
	}
	return h
}

// running is a host on which systemd seems to run: its systemctl writes down
// what it is told.
func running(t testing.TB) host {
	h := image(t)
	h.do(os.MkdirAll(h.path("run/systemd/system"), 0o755))
	h.write("usr/bin/systemctl", "#!/bin/sh\necho \"$*\" >>/told\n")
	h.do(os.Chmod(h.path("usr/bin/systemctl"), 0o755))
	return h
}

func (h host) do(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

func (h host) path(name string) string { return filepath.Join(h.dir, name) }

func (h host) write(name, text string) {
	h.Helper()
	h.do(os.MkdirAll(filepath.Dir(h.path(name)), 0o755))
	h.do(os.WriteFile(h.path(name), []byte(text), 0o644))
}

var library = regexp.MustCompile(`/\S+\.so\S*`)

// bring copies a program of this machine and its libraries.
func (h host) bring(name string) {
	h.Helper()
	from, err := filepath.EvalSymlinks(program(h, name))
	h.do(err)
	h.do(copyFile(from, h.path("usr/bin/"+name)))
	for _, lib := range library.FindAllString(command(h, "ldd", from), -1) {
		h.do(os.MkdirAll(filepath.Dir(h.path(lib)), 0o755))
		h.do(copyFile(lib, h.path(lib)))
	}
}

func (h host) dpkg(args ...string) {
	h.Helper()
	command(h, "dpkg", append([]string{"--root=" + h.dir, "--force-depends"}, args...)...)
}

func (h host) rpm(args ...string) {
	h.Helper()
	command(h, "rpm", append([]string{"--root=" + h.dir, "--nodeps"}, args...)...)
}

// told is what the running host's systemctl heard since it was last asked.
func (h host) told() []string {
	h.Helper()
	data, err := os.ReadFile(h.path("told"))
	if os.IsNotExist(err) {
		return nil
	}
	h.do(err)
	h.do(os.Remove(h.path("told")))
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

func (h host) heard(when string, want ...string) {
	h.Helper()
	if got := h.told(); !slices.Equal(got, want) {
		h.Errorf("%s: systemctl heard %q, want %q", when, got, want)
	}
}

// enabled are the links that enable our units.
func (h host) enabled() []string {
	h.Helper()
	links, err := filepath.Glob(h.path("etc/systemd/system/*.*/drydock*"))
	h.do(err)
	for i := range links {
		links[i] = strings.TrimPrefix(links[i], h.path("etc/systemd/system")+"/")
	}
	return links
}

func (h host) holds(when, name, want string) {
	h.Helper()
	if got, err := os.ReadFile(h.path(name)); err != nil || string(got) != want {
		h.Errorf("%s: %s is %q, %v; want %q", when, name, got, err, want)
	}
}

func (h host) gone(when, name string) {
	h.Helper()
	if _, err := os.Lstat(h.path(name)); !os.IsNotExist(err) {
		h.Errorf("%s: %s is still there (%v)", when, name, err)
	}
}

var (
	all = []string{
		"boot-complete.target.requires/drydock-good.service",
		"multi-user.target.wants/drydockd.service",
		"sysinit.target.wants/drydock-trial.timer",
	}
	units = "drydockd.service drydock-trial.timer drydock-good.service"
)

const (
	policy = "etc/drydock/drydock.toml"
	memory = "var/lib/drydock/memory.json"
)

func TestLifeOfADebInAnImage(t *testing.T) {
	h := image(t)
	before, after := one(t, packages(t), "*.deb"), one(t, next(t), "*.deb")
	h.dpkg("--install", before)
	if got := h.enabled(); !slices.Equal(got, all) {
		t.Errorf("installed: %q are enabled, want %q", got, all)
	}
	h.gone("installed", policy)
	h.gone("installed", "var/lib/drydock")
	h.gone("installed", "run/drydock.installing")

	h.write(policy, "the operator's")
	h.write(memory, "the machine's")
	h.do(os.Remove(h.path("etc/systemd/system/" + all[1]))) // as systemctl disable does
	h.dpkg("--install", after)
	h.holds("upgraded", "usr/bin/drydockd", "#!/bin/sh\necho drydockd 1.4.1\n")
	h.holds("upgraded", policy, "the operator's")
	h.holds("upgraded", memory, "the machine's")
	if got, want := h.enabled(), []string{all[0], all[2]}; !slices.Equal(got, want) {
		t.Errorf("upgraded: %q are enabled, want what the operator left enabled, %q", got, want)
	}

	h.dpkg("--remove", "drydock")
	h.holds("removed", policy, "the operator's")
	h.holds("removed", memory, "the machine's")
	h.gone("removed", "usr/bin/drydockd")
	if got := h.enabled(); len(got) > 0 {
		t.Errorf("removed: %q are enabled", got)
	}

	h.dpkg("--install", before) // dpkg names the version before, as at an upgrade
	if got := h.enabled(); !slices.Equal(got, all) {
		t.Errorf("installed again: %q are enabled, want %q", got, all)
	}
	h.dpkg("--purge", "drydock")
	h.holds("purged", policy, "the operator's")
	h.gone("purged", "var/lib/drydock")
}

// TestLifeOfADebOnARunningHost: what is stopped and started, and no more.
func TestLifeOfADebOnARunningHost(t *testing.T) {
	h := running(t)
	before, after := one(t, packages(t), "*.deb"), one(t, next(t), "*.deb")
	h.dpkg("--install", before)
	h.heard("install", "preset "+units, "daemon-reload")
	h.dpkg("--install", after)
	h.heard("upgrade", "daemon-reload", "daemon-reload", "try-restart drydockd.service") // the first by the old package's postrm
	h.dpkg("--install", before)
	h.heard("downgrade", "daemon-reload", "daemon-reload", "try-restart drydockd.service")
	h.dpkg("--remove", "drydock")
	h.heard("remove", "stop drydock-good.service drydock-trial.timer drydockd.service", "disable "+units, "daemon-reload")
	h.dpkg("--purge", "drydock")
	h.heard("purge", "daemon-reload")
}

func TestLifeOfAnRPMInAnImage(t *testing.T) {
	h := image(t)
	before, after := one(t, packages(t), "*.rpm"), one(t, next(t), "*.rpm")
	h.rpm("--install", before)
	if got := h.enabled(); !slices.Equal(got, all) {
		t.Errorf("installed: %q are enabled, want %q", got, all)
	}
	h.write(policy, "the operator's")
	h.write(memory, "the machine's")
	h.do(os.Remove(h.path("etc/systemd/system/" + all[1])))
	h.rpm("--upgrade", after)
	h.holds("upgraded", policy, "the operator's")
	if got, want := h.enabled(), []string{all[0], all[2]}; !slices.Equal(got, want) {
		t.Errorf("upgraded: %q are enabled, want %q", got, want)
	}
	h.rpm("--erase", "drydock")
	if got := h.enabled(); len(got) > 0 {
		t.Errorf("erased: %q are enabled", got)
	}
	h.holds("erased", policy, "the operator's")
	h.holds("erased", memory, "the machine's")
	h.gone("erased", "usr/bin/drydockd")
}

func TestLifeOfAnRPMOnARunningHost(t *testing.T) {
	h := running(t)
	before, after := one(t, packages(t), "*.rpm"), one(t, next(t), "*.rpm")
	h.rpm("--install", before)
	h.heard("install", "preset "+units, "daemon-reload")
	h.rpm("--upgrade", after)
	h.heard("upgrade", "daemon-reload", "try-restart drydockd.service", "daemon-reload") // the last by the old package
	h.rpm("--erase", "drydock")
	h.heard("erase", "stop drydock-good.service drydock-trial.timer drydockd.service", "disable "+units, "daemon-reload")
}

// TestAnImageWithoutSystemctl: the package may be unpacked into anything.
func TestAnImageWithoutSystemctl(t *testing.T) {
	h := image(t)
	h.do(os.Remove(h.path("usr/bin/systemctl")))
	h.dpkg("--install", one(t, packages(t), "*.deb"))
	h.dpkg("--purge", "drydock")
}

func TestScriptsParse(t *testing.T) {
	scripts, err := filepath.Glob("scripts/*")
	if err != nil || len(scripts) != 4 {
		t.Fatalf("%q, %v", scripts, err)
	}
	for _, s := range scripts {
		command(t, "sh", "-n", s)
	}
	command(t, "bash", "-n", filepath.Join(unpacked(t), "usr/share/bash-completion/completions/drydock"))
}

// TestSystemdFindsWhatTheUnitsStart verifies them in the unpacked package, with
// the other units and programs of this machine.
func TestSystemdFindsWhatTheUnitsStart(t *testing.T) {
	h := image(t)
	h.bring("kill")
	h.do(os.CopyFS(h.path("usr/lib/systemd/other"), os.DirFS("/usr/lib/systemd/system")))
	h.do(os.RemoveAll(h.path("usr/lib/systemd/system")))
	h.do(os.Rename(h.path("usr/lib/systemd/other"), h.path("usr/lib/systemd/system")))
	h.dpkg("--install", one(t, packages(t), "*.deb"))
	c := exec.Command(program(t, "systemd-analyze"), "verify", "--root="+h.dir, "--man=no",
		"drydockd.service", "drydock-trial.timer", "drydock-trial.service", "drydock-good.service")
	if out, err := c.CombinedOutput(); err != nil || strings.Contains(string(out), "drydock") {
		t.Errorf("%v\n%s", err, out)
	}
}

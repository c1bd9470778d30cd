// Package real says what a test needs of the machine it runs on, and skips
// the test where that is missing, or fails it under REQUIRE_REAL=1.
package real

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Missing skips t because of why. With REQUIRE_REAL=1 in the environment, as
// in CI, it fails t instead: there, what is missing must be installed.
func Missing(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("REQUIRE_REAL") == "1" {
		t.Fatalf("REQUIRE_REAL=1: %s", why)
	}
	t.Skip(why)
}

// Program returns the path of a program that t runs for real.
func Program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		for _, dir := range []string{"/usr/sbin", "/sbin"} {
			if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
				return filepath.Join(dir, name)
			}
		}
		Missing(t, "program "+name+" is not installed")
	}
	return path
}

// Root skips t unless it runs as root.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, "needs root")
	}
}

// Shared returns the path of a file of the reference material beside the
// repository. It is absent from most checkouts, which always skips t.
func Shared(t testing.TB, elem ...string) string {
	t.Helper()
	dir := Module(t)
	path := filepath.Join(append([]string{dir, "..", "shared"}, elem...)...)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("reference material %s is not here", filepath.Join(elem...))
	}
	return path
}

// Module returns the directory that holds go.mod.
func Module(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("no go.mod above the test")
		}
		dir = parent
	}
}

// Loop attaches the disk image to a loop device, adds its partitions, and
// returns the device's path. Partition n is at the path followed by "pn".
func Loop(t testing.TB, image string) string {
	t.Helper()
	Root(t)
	losetup, partx := Program(t, "losetup"), Program(t, "partx")
	out, err := exec.Command(losetup, "--find", "--show", image).CombinedOutput()
	if err != nil {
		Missing(t, "loop device: "+string(out))
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		exec.Command(partx, "-d", dev).Run()
		exec.Command(losetup, "-d", dev).Run()
	})
	if out, err := exec.Command(partx, "-a", dev).CombinedOutput(); err != nil {
		t.Logf("partx -a %s: %v: %s", dev, err, out)
	}
	return dev
}

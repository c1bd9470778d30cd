package host

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/drydock-os/drydock/testdata/real"
	"github.com/drydock-os/drydock/updater/image"
)

// A slot that cannot be mounted beside its twin was told as an image of a
// format that nobody knows.
func TestTwinIsNoVerdictOnTheImage(t *testing.T) {
	_, err := readRelease("/dev/sda4", image.Release{}, image.ErrFormat, ErrTwin)
	if !errors.Is(err, ErrTwin) || errors.Is(err, image.ErrFormat) || !strings.Contains(err.Error(), "/dev/sda4 holds cannot be read") {
		t.Errorf("err = %v", err)
	}
}

// A real twin: kernels from 6.7 mount it, under an identity made for the
// moment, older ones refuse it.
func TestRealTwin(t *testing.T) {
	dev := slot(t, "exit 0", "mkfs.btrfs", "-q", "--rootdir", "DIR", "IMG")
	backing, err := exec.Command(real.Program(t, "losetup"), "-nO", "BACK-FILE", dev).Output()
	if err != nil {
		t.Fatal(err)
	}
	img := strings.TrimSpace(string(backing))
	if out, err := exec.Command("cp", "--sparse=always", img, img+".twin").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	dir := t.TempDir()
	if err := syscall.Mount(dev, dir, "btrfs", syscall.MS_RDONLY, ""); err != nil {
		real.Missing(t, "mount btrfs: "+err.Error())
	}
	t.Cleanup(func() { syscall.Unmount(dir, 0) })
	release, err := OSRelease(real.Loop(t, img+".twin"))
	switch {
	case errors.Is(err, ErrTwin) && !errors.Is(err, image.ErrFormat):
	case err != nil || release.VersionID != "3.1.0":
		t.Errorf("OSRelease = %+v, %v", release, err)
	}
	os.Remove(img + ".twin")
}

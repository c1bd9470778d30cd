package image

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/drydock-os/drydock/testdata/real"
)

var sample = []File{
	{Name: "lib/os-release", Data: []byte("ID=demo\nVERSION_ID=2.0.0\n")},
	{Name: "postinst", Mode: 0o755, Data: []byte("#!/bin/sh\nexit 0\n")},
	{Name: "share/filler", Data: bytes.Repeat([]byte("filler"), 100_000)},
	{Name: "etc/os-release", Mode: fs.ModeSymlink, Data: []byte("../lib/os-release")},
}

func create(t *testing.T, files ...File) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "img")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Create(f, files...); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCreateReadsBack(t *testing.T) {
	img, size := openImage(t, create(t, sample...))
	for _, f := range sample {
		want := f.Data
		if f.Mode.Type() == fs.ModeSymlink {
			want = sample[0].Data
		}
		got, err := ReadFile(img, size, f.Name, 1<<20)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v; want %d", f.Name, len(got), err, len(want))
		}
	}
	release, err := OSRelease(img, size)
	if err != nil || release.VersionID != "2.0.0" {
		t.Errorf("OSRelease = %+v, %v", release, err)
	}
}

func TestCreateIsReproducible(t *testing.T) {
	var images [2][]byte
	for i := range images {
		var err error
		if images[i], err = os.ReadFile(create(t, sample...)); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("the same files made two different images")
	}
}

func TestCreateRefusesNames(t *testing.T) {
	for _, name := range []string{"", ".", "../x", "/x", "a//b"} {
		f, err := os.Create(filepath.Join(t.TempDir(), "img"))
		if err != nil {
			t.Fatal(err)
		}
		if err := Create(f, File{Name: name}); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: %v, want ErrInvalid", name, err)
		}
		f.Close()
	}
}

// What the demo boots, a real machine could mount.
func TestCreateMountsForReal(t *testing.T) {
	dev := real.Loop(t, create(t, sample...))
	dir := t.TempDir()
	if out, err := exec.Command(real.Program(t, "mount"), "-t", "erofs", "-o", "ro", dev, dir).CombinedOutput(); err != nil {
		real.Missing(t, "mount of erofs: "+string(out))
	}
	defer exec.Command("umount", dir).Run()
	for _, f := range sample[:3] {
		got, err := os.ReadFile(filepath.Join(dir, f.Name))
		if err != nil || !bytes.Equal(got, f.Data) {
			t.Errorf("%s: %d bytes, %v", f.Name, len(got), err)
		}
	}
	if out, err := exec.Command(filepath.Join(dir, "postinst")).CombinedOutput(); err != nil {
		t.Errorf("postinst: %v %s", err, out)
	}
}

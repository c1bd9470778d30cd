package image

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ulikunitz/xz"

	"github.com/drydock-os/drydock/testdata/real"
)

// tree makes a directory with what a reader may meet, and returns it with the
// content that each path must read as.
func tree(t *testing.T) (string, map[string][]byte) {
	t.Helper()
	dir := t.TempDir()
	random := rand.NewChaCha8([32]byte{1})
	big := make([]byte, 700<<10) // past the direct and the single indirect blocks of 1 KiB
	random.Read(big[:300<<10])   // half of it compresses
	want := map[string][]byte{
		"usr/lib/os-release": []byte("ID=flatcar\nVERSION_ID=4593.1.0\n"),
		"usr/big":            big,
		"usr/empty":          {},
		"usr/block":          bytes.Repeat([]byte{'b'}, 128<<10),
	}
	for i := range 300 { // a directory of several blocks
		want[fmt.Sprintf("usr/many/a-name-of-some-length-%03d", i)] = []byte(fmt.Sprint(i))
	}
	for name, data := range want {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	sparse := append(make([]byte, 300<<10), "end"...)
	if err := os.WriteFile(filepath.Join(dir, "usr/sparse"), sparse[:0], 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "usr/sparse"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte("end"), 300<<10)
	f.Close()
	want["usr/sparse"] = sparse

	release := want["usr/lib/os-release"]
	long := strings.Repeat("./", 60) + "../usr/lib/os-release"
	for link, target := range map[string]string{
		"lib": "usr/lib", "etc": "usr", "usr/os-release": "../usr/lib/os-release",
		"usr/absolute": "/usr/lib/os-release", "usr/out": "../../../../lib/os-release", "usr/long": long,
		"loop": "loop2", "loop2": "loop", "dangling": "/nothing",
	} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"lib/os-release", "etc/os-release", "usr/absolute", "usr/out", "usr/long", "/usr//./lib/../lib/os-release"} {
		want[path] = release
	}
	return dir, want
}

// run runs a program that makes an image.
func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(real.Program(t, name), args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}

func openImage(t *testing.T, path string) (*os.File, int64) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		t.Fatal(err)
	}
	return f, size
}

// manyShare is how many of the many files of tree are read: one of so many.
const manyShare = 5

func TestReadFileOfRealImages(t *testing.T) {
	for _, tc := range []struct {
		name, program string
		args          []string // "DIR" and "IMG" stand for the two paths
	}{
		{"ext2 1k blocks", "mke2fs", []string{"-q", "-t", "ext2", "-b", "1024", "-d", "DIR", "IMG", "8M"}},
		{"ext2 upstream", "mke2fs", []string{"-q", "-t", "ext2", "-O", "^resize_inode,^dir_index", "-d", "DIR", "IMG", "8M"}},
		{"ext2 revision 0", "mke2fs", []string{"-q", "-t", "ext2", "-r", "0", "-b", "1024", "-d", "DIR", "IMG", "8M"}},
		{"ext3", "mke2fs", []string{"-q", "-t", "ext3", "-b", "1024", "-d", "DIR", "IMG", "16M"}},
		{"ext4", "mke2fs", []string{"-q", "-t", "ext4", "-d", "DIR", "IMG", "32M"}},
		{"ext4 1k 64bit", "mke2fs", []string{"-q", "-t", "ext4", "-b", "1024", "-O", "64bit,metadata_csum", "-d", "DIR", "IMG", "32M"}},
		{"squashfs gzip", "mksquashfs", []string{"DIR", "IMG", "-quiet", "-no-progress", "-noappend"}},
		{"squashfs xz", "mksquashfs", []string{"DIR", "IMG", "-quiet", "-no-progress", "-noappend", "-comp", "xz"}},
		{"squashfs zstd", "mksquashfs", []string{"DIR", "IMG", "-quiet", "-no-progress", "-noappend", "-comp", "zstd", "-b", "1M"}},
		{"squashfs plain", "mksquashfs", []string{"DIR", "IMG", "-quiet", "-no-progress", "-noappend", "-noI", "-noD", "-noF"}},
		{"squashfs no fragments", "mksquashfs", []string{"DIR", "IMG", "-quiet", "-no-progress", "-noappend", "-no-fragments"}},
		{"erofs", "mkfs.erofs", []string{"--quiet", "IMG", "DIR"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir, want := tree(t)
			path := filepath.Join(t.TempDir(), "img")
			for i, a := range tc.args {
				tc.args[i] = strings.NewReplacer("DIR", dir, "IMG", path).Replace(a)
			}
			run(t, tc.program, tc.args...)
			img, size := openImage(t, path)
			draw := seeded(t)
			for name, data := range want {
				if strings.HasPrefix(name, "usr/many/") && draw.IntN(manyShare) != 0 {
					continue // each costs a walk through the same directory, and a block
				}
				got, err := ReadFile(img, size, name, 1<<20)
				if err != nil {
					t.Errorf("%s: %v", name, err)
				} else if !bytes.Equal(got, data) {
					t.Errorf("%s: %d bytes differ from the %d written", name, len(got), len(data))
				}
			}
			checkRefusals(t, img, size)
			release, err := OSRelease(img, size)
			if err != nil || release.VersionID != "4593.1.0" {
				t.Errorf("OSRelease = %+v, %v", release, err)
			}
		})
	}
}

// checkRefusals asks an image of tree for what it must not give.
func checkRefusals(t *testing.T, img io.ReaderAt, size int64) {
	t.Helper()
	for _, tc := range []struct {
		name  string
		limit int64
		want  error
	}{
		{"usr/nothing", 1 << 20, fs.ErrNotExist},
		{"usr/lib/os-release/below", 1 << 20, fs.ErrNotExist},
		{"dangling", 1 << 20, fs.ErrNotExist},
		{"loop", 1 << 20, ErrCorrupt},
		{"usr", 1 << 20, fs.ErrInvalid},
		{"usr/big", 1 << 10, fs.ErrInvalid},
		{"usr/big", -1, fs.ErrInvalid},
		{strings.Repeat("usr/../", 200) + "lib/os-release", 1 << 10, ErrCorrupt},
	} {
		if _, err := ReadFile(img, size, tc.name, tc.limit); !errors.Is(err, tc.want) {
			t.Errorf("%s, limit %d: %v, want %v", tc.name, tc.limit, err, tc.want)
		}
	}
}

func TestReadFileNeedsAMount(t *testing.T) {
	for _, tc := range []struct {
		name, program string
		args          []string
	}{
		{"squashfs lzo", "mksquashfs", []string{"DIR", "IMG", "-quiet", "-no-progress", "-comp", "lzo"}},
		{"squashfs xz with bcj", "mksquashfs", []string{"DIR", "IMG", "-quiet", "-no-progress", "-comp", "xz", "-Xbcj", "x86"}},
		{"erofs compressed", "mkfs.erofs", []string{"--quiet", "-zlz4", "IMG", "DIR"}},
		{"ext4 inline data", "mke2fs", []string{"-q", "-t", "ext4", "-O", "inline_data", "-d", "DIR", "IMG", "32M"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir, _ := tree(t)
			path := filepath.Join(t.TempDir(), "img")
			for i, a := range tc.args {
				tc.args[i] = strings.NewReplacer("DIR", dir, "IMG", path).Replace(a)
			}
			run(t, tc.program, tc.args...)
			img, size := openImage(t, path)
			_, err := ReadFile(img, size, "usr/lib/os-release", 1<<20)
			if tc.name == "squashfs xz with bcj" && err == nil {
				return // no block of this tree gains by the filter
			}
			if !errors.Is(err, ErrFormat) {
				t.Errorf("err = %v, want ErrFormat", err)
			}
		})
	}
}

func TestKind(t *testing.T) {
	at := func(offset int, magic string) []byte {
		return append(make([]byte, offset), magic...)
	}
	for _, tc := range []struct {
		img  []byte
		want string
	}{
		{nil, ""},
		{make([]byte, 70<<10), ""},
		{at(0, "hsqs"), "squashfs"},
		{at(1024, "\xe2\xe1\xf5\xe0"), "erofs"},
		{at(1024, "\xe2\xe1\xf5"), ""},
		{at(0x10040, "_BHRfS_M"), "btrfs"},
		{at(0, "XFSB"), "xfs"},
		{at(1080, "\x53\xef"), "ext4"},
	} {
		if got := Kind(bytes.NewReader(tc.img), int64(len(tc.img))); got != tc.want {
			t.Errorf("Kind of %d bytes = %q, want %q", len(tc.img), got, tc.want)
		}
	}
	btrfs := at(0x10040, "_BHRfS_M")
	if _, err := OSRelease(bytes.NewReader(btrfs), int64(len(btrfs))); !errors.Is(err, ErrFormat) {
		t.Errorf("btrfs: %v, want ErrFormat", err)
	}
}

// The journal of a dirty ext4 says something else than its blocks do.
func TestDirtyJournalIsRefused(t *testing.T) {
	dir, _ := tree(t)
	path := filepath.Join(t.TempDir(), "img")
	run(t, "mke2fs", "-q", "-t", "ext4", "-d", dir, path, "32M")
	run(t, "debugfs", "-w", "-R", "feature needs_recovery", path)
	img, size := openImage(t, path)
	if _, err := OSRelease(img, size); !errors.Is(err, ErrCorrupt) {
		t.Errorf("err = %v, want ErrCorrupt", err)
	}
}

func TestUpstreamVector(t *testing.T) {
	f, err := os.Open(real.Shared(t, "vectors", "crau", "new.ext2.img.xz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := xz.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	img, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	release, err := OSRelease(bytes.NewReader(img), int64(len(img)))
	if err != nil || release.VersionID != "1.1.0" {
		t.Errorf("OSRelease = %+v, %v; want VERSION_ID 1.1.0", release, err)
	}
	hook, err := ReadFile(bytes.NewReader(img), int64(len(img)), "postinst", 1<<10)
	if err != nil || !bytes.HasPrefix(hook, []byte("#!/bin/sh\n")) {
		t.Errorf("postinst = %q, %v", hook, err)
	}
}

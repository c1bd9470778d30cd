package guest_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drydock-os/drydock/testdata/real"
)

// TestKernelHalfWrittenOnTheESP: the power fails while a file is written, and its
// chain of clusters ends in a free one. It is found when the file has a name
// that the firmware looks at, and no matter before.
func TestKernelHalfWrittenOnTheESP(t *testing.T) {
	for _, name := range []string{"mkfs.vfat", "mcopy", "mdir", "mmd"} {
		real.Program(t, name)
	}
	for name, want := range map[string]string{"::EFI/drydock/b.efi": "", "::loader/loader.conf": "", "::EFI/Linux/b.efi": "mcopy"} {
		image, content := filepath.Join(t.TempDir(), "esp"), bytes.Repeat([]byte("kernel\n"), 100_000)
		if err := os.WriteFile(image+".efi", content, 0o644); err != nil {
			t.Fatal(err)
		}
		for _, c := range [][]string{
			{"mkfs.vfat", "-C", "-F", "32", "-s", "1", image, "65536"},
			{"mmd", "-i", image, "::EFI", "::EFI/Linux", "::EFI/drydock", "::loader"},
			{"mcopy", "-i", image, image + ".efi", "::EFI/Linux/a.efi"},
			{"mcopy", "-i", image, image + ".efi", name},
		} {
			if err := program(c[0], c[1:]...); err != nil {
				t.Fatal(err)
			}
		}
		freeLast(t, image, 100)
		dir := t.TempDir()
		err := copyESP(image, 0, dir)
		if (err != nil) != (want != "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("with half of %s: %v, want %q", name, err, want)
		}
		if got, err := os.ReadFile(filepath.Join(dir, "EFI/Linux/a.efi")); !bytes.Equal(got, content) {
			t.Errorf("with half of %s: the whole kernel beside it: %d bytes, %v", name, len(got), err)
		}
		if _, err := os.Stat(filepath.Join(dir, strings.TrimPrefix(name, "::"))); want == "" && err == nil {
			t.Errorf("half of %s was taken for it", name)
		}
	}
}

// freeLast frees the last n clusters that a FAT32 has in use, in both tables
// (Microsoft FAT Specification, 2005, 3.2 and 4.1).
func freeLast(t *testing.T, image string, n int) {
	t.Helper()
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	boot := make([]byte, 512)
	if _, err := f.ReadAt(boot, 0); err != nil {
		t.Fatal(err)
	}
	sector := int64(binary.LittleEndian.Uint16(boot[11:]))
	first, size := sector*int64(binary.LittleEndian.Uint16(boot[14:])), sector*int64(binary.LittleEndian.Uint32(boot[36:]))
	table := make([]byte, size)
	if _, err := f.ReadAt(table, first); err != nil {
		t.Fatal(err)
	}
	for at := int(size) - 4; at > 8 && n > 0; at -= 4 {
		if binary.LittleEndian.Uint32(table[at:]) != 0 {
			binary.LittleEndian.PutUint32(table[at:], 0)
			n--
		}
	}
	for copied := range int64(boot[16]) {
		if _, err := f.WriteAt(table, first+copied*size); err != nil {
			t.Fatal(err)
		}
	}
}

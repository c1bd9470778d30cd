package partition

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func openBoot(t *testing.T) BootDir {
	t.Helper()
	dir, err := OpenPlainDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	return dir
}

func TestBootDir(t *testing.T) {
	dir := openBoot(t)
	if err := replaceFile(dir, "EFI/Linux/x.efi", "EFI/x.new", []byte("one")); err != nil {
		t.Fatal(err)
	}
	if err := replaceFile(dir, "EFI/Linux/x.efi", "EFI/x.new", []byte("2")); err != nil {
		t.Fatal(err)
	}
	if data, err := readFile(dir, "EFI/Linux/x.efi"); err != nil || string(data) != "2" {
		t.Errorf("read %q: %v", data, err)
	}
	if names, err := dir.ReadDir("EFI/Linux"); err != nil || !slices.Equal(names, []string{"x.efi"}) {
		t.Errorf("names %q: %v", names, err)
	}
	if names, err := dir.ReadDir("EFI"); err != nil || len(names) != 0 {
		t.Errorf("names %q: %v", names, err)
	}
	if _, err := dir.ReadDir("none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("list what is not there: %v", err)
	}
	if _, err := dir.Open("none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open what is not there: %v", err)
	}
	for range 2 {
		if err := dir.Remove("EFI/Linux/x.efi"); err != nil {
			t.Errorf("remove: %v", err)
		}
	}
	if _, err := os.Stat(dir.Path("EFI/Linux")); err != nil {
		t.Error(err)
	}
}

// TestBootDirKeepsInside gives names and links that lead out of the directory.
func TestBootDirKeepsInside(t *testing.T) {
	dir := openBoot(t)
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, dir.Path("link")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"link", "../secret", outside} {
		if f, err := dir.Open(name); err == nil {
			t.Errorf("opened %s: %v", name, f)
		}
		if f, err := dir.Create(name); err == nil {
			t.Errorf("created %s: %v", name, f)
		}
	}
	if data, err := os.ReadFile(outside); err != nil || string(data) != "secret" {
		t.Errorf("outside is now %q: %v", data, err)
	}
}

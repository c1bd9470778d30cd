package partition

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
)

func TestReadBootDirChangesNothing(t *testing.T) {
	path := t.TempDir()
	if err := os.WriteFile(filepath.Join(path, "file"), []byte("kept"), 0o444); err != nil {
		t.Fatal(err)
	}
	dir, err := ReadBootDir(path)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if data, err := readFile(dir, "file"); err != nil || string(data) != "kept" {
		t.Errorf("read %q, %v", data, err)
	}
	_, created := dir.Create("file")
	for what, err := range map[string]error{"create": created, "rename": dir.Rename("file", "other"), "remove": dir.Remove("file")} {
		if !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s: %v", what, err)
		}
	}
	f, err := dir.Open("file")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("x"), 0); err == nil {
		t.Error("a file that was opened for reading took a write")
	}
}

func TestInspect(t *testing.T) {
	dir := openBoot(t)
	c := SystemdBoot{Dir: dir, Variables: info(257)}
	if loader, err := c.Loader(); err != nil || loader != "systemd-boot 257.1-2" {
		t.Errorf("loader %q, %v", loader, err)
	}
	if loader, err := (SystemdBoot{Dir: dir, Variables: fstest.MapFS{}}).Loader(); err != nil || loader != "" {
		t.Errorf("no variable: %q, %v", loader, err)
	}
	if err := c.Pinned(); err != nil {
		t.Errorf("nothing is pinned: %v", err)
	}
	if err := replaceFile(dir, loaderConf, loaderConfNew, []byte("default arch.conf\n")); err != nil {
		t.Fatal(err)
	}
	if err := c.Pinned(); !errors.Is(err, ErrPinned) {
		t.Errorf("a pinned entry: %v", err)
	}
	for version, want := range map[int]bool{252: true, 257: true, 258: false, 259: false, 260: true} {
		if SelectsTrials(version) != want {
			t.Errorf("version %d: %v", version, !want)
		}
	}
}

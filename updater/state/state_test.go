package state

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

type doc struct {
	Version int      `json:"version,omitempty"`
	Name    string   `json:"name"`
	List    []string `json:"list,omitempty"`
}

func file(t *testing.T, content string) File[doc] {
	t.Helper()
	f := File[doc]{Path: filepath.Join(t.TempDir(), "state.json")}
	if err := os.WriteFile(f.Path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return f
}

func onDisk(t *testing.T, path string) map[string]any {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMissingOrEmptyIsZero(t *testing.T) {
	f := File[doc]{Path: filepath.Join(t.TempDir(), "none")}
	if got, err := f.Load(); err != nil || got.Name != "" {
		t.Errorf("missing: %+v, %v", got, err)
	}
	for _, content := range []string{"", " \n", "{}"} {
		f := file(t, content)
		if got, err := f.Load(); err != nil || got.Name != "" {
			t.Errorf("%q: %+v, %v", content, got, err)
		}
	}
}

func TestSaveLoad(t *testing.T) {
	f := file(t, "")
	f.Version = 2
	if err := f.Save(doc{Name: "x", List: []string{"a"}}); err != nil {
		t.Fatal(err)
	}
	got, err := f.Load()
	if err != nil || got.Name != "x" || len(got.List) != 1 || got.Version != 2 {
		t.Errorf("got %+v, %v", got, err)
	}
	if info, _ := os.Stat(f.Path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
}

func TestCorruptIsKeptAside(t *testing.T) {
	for _, content := range []string{
		"{", "null garbage", `{"name": 1}`, "[]", "\x00\x00\x00", `{"name":"` + strings.Repeat("x", 1000) + `"}`, `{"version": 3}`, `{"version": "new"}`,
	} {
		f := file(t, content)
		f.Limit, f.Version = 500, 2
		got, err := f.Load()
		if !errors.Is(err, ErrCorrupt) || got.Name != "" || got.Version != 0 || got.List != nil {
			t.Errorf("%.20q: %+v, %v", content, got, err)
			continue
		}
		if kept, err := os.ReadFile(f.Path + ".bad"); err != nil || string(kept) != content {
			t.Errorf("%.20q: kept %.20q, %v", content, kept, err)
		}
		if got, err := f.Load(); err != nil || got.Name != "" {
			t.Errorf("%.20q: second load %+v, %v", content, got, err)
		}
		if err := f.Save(doc{Name: "fresh"}); err != nil {
			t.Errorf("%.20q: %v", content, err)
		}
	}
}

// After a rollback the older release must not lose what the newer one noted.
func TestUnknownFieldsSurvive(t *testing.T) {
	f := file(t, `{"name": "old", "list": ["gone"], "later": {"a": [1, 2]}, "LIST": ["also"]}`)
	v, err := f.Load()
	if err != nil {
		t.Fatal(err)
	}
	v.Name, v.List = "new", nil
	if err := f.Save(v); err != nil {
		t.Fatal(err)
	}
	got := onDisk(t, f.Path)
	if got["name"] != "new" || got["later"] == nil || got["list"] != nil || got["LIST"] != nil {
		t.Errorf("got %v", got)
	}
}

func TestSaveOverCorrupt(t *testing.T) {
	f := file(t, "garbage")
	if err := f.Save(doc{Name: "x"}); err != nil {
		t.Fatal(err)
	}
	if got, err := f.Load(); err != nil || got.Name != "x" {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestSaveWithinLimit(t *testing.T) {
	f := file(t, "")
	f.Limit = 100
	if err := f.Save(doc{Name: strings.Repeat("x", 100)}); err == nil {
		t.Error("saved what Load would refuse")
	}
	for n := range 100 {
		if f.Save(doc{Name: strings.Repeat("x", n)}) != nil {
			break
		}
		if got, err := f.Load(); err != nil || len(got.Name) != n {
			t.Fatalf("%d: saved but not loaded: %v", n, err)
		}
	}
}

// An unreadable file is not an empty one: nobody may take it for "nothing".
func TestUnreadableIsAnError(t *testing.T) {
	f := File[doc]{Path: t.TempDir()} // a directory
	if _, err := f.Load(); err == nil || errors.Is(err, ErrCorrupt) {
		t.Errorf("Load = %v", err)
	}
	if err := f.Save(doc{}); err == nil {
		t.Error("Save wrote over a directory")
	}
}

func TestInstanceID(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "drydock")
	first, err := InstanceID(dir)
	if err != nil || len(first) != 32 {
		t.Fatalf("%q, %v", first, err)
	}
	if again, err := InstanceID(dir); err != nil || again != first {
		t.Errorf("%q, %v; want %q", again, err, first)
	}
	other, err := InstanceID(t.TempDir())
	if err != nil || other == first {
		t.Errorf("another machine is %q too (%v)", other, err)
	}
	for _, bad := range []string{"", "short", strings.Repeat("g", 32), first + "00"} {
		path := filepath.Join(dir, instanceFile)
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		id, err := InstanceID(dir)
		if err != nil || len(id) != 32 || id == first {
			t.Errorf("%q became %q, %v", bad, id, err)
		}
		if kept, _ := os.ReadFile(path + ".bad"); string(kept) != bad {
			t.Errorf("kept %q, want %q", kept, bad)
		}
	}
	if _, err := InstanceID(filepath.Join(put(t), "below")); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file as directory: %v", err)
	}
}

// put makes a file.
func put(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte(`{"version":1,"name":"x","list":["a"],"later":{}}`))
	f.Add([]byte(`{"NAME":null}`))
	path := filepath.Join(f.TempDir(), "state")
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		file := File[doc]{Path: path, Limit: 4096, Version: 1}
		v, err := file.Load()
		if err != nil && !errors.Is(err, ErrCorrupt) {
			t.Fatal(err)
		}
		if err != nil {
			return
		}
		if file.Save(v) != nil {
			return // too large with its indentation
		}
		again, err := file.Load()
		if err != nil || again.Name != v.Name || len(again.List) != len(v.List) {
			t.Fatalf("%+v became %+v, %v", v, again, err)
		}
	})
}

package state

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/drydock-os/drydock/testdata/real"
)

var errCut = errors.New("power is cut")

// cutDisk is a directory as a disk keeps it, whose power is cut before the
// step number left runs out. Names and contents that were not synced may or
// may not have reached the disk: crash returns every world that can be found
// after it.
type cutDisk struct {
	left    int
	inodes  []*inode       // contents, by number
	names   map[string]int // names as a program sees them
	durable map[string]int // names as of the last sync of the directory
	history []map[string]int
}

type inode struct {
	data   string
	synced string
	worlds []string // what else the disk may hold: any prefix written since
}

func newCutDisk(left int, files map[string]string) *cutDisk {
	d := &cutDisk{left: left, names: map[string]int{}}
	for name, data := range files {
		d.names[name] = len(d.inodes)
		d.inodes = append(d.inodes, &inode{data: data, synced: data})
	}
	d.durable = maps.Clone(d.names)
	return d
}

func (d *cutDisk) step() error {
	if d.left--; d.left < 0 {
		return errCut
	}
	return nil
}

// changed notes that the directory may be found as it is now.
func (d *cutDisk) changed() { d.history = append(d.history, maps.Clone(d.names)) }

func (d *cutDisk) Create(path string, _ os.FileMode) (handle, error) {
	if err := d.step(); err != nil {
		return nil, err
	}
	n, ok := d.names[path]
	if !ok {
		n = len(d.inodes)
		d.inodes = append(d.inodes, &inode{})
		d.names[path] = n
		d.changed()
	}
	node := d.inodes[n]
	node.data = ""
	node.worlds = append(node.worlds, "")
	return &cutFile{d, node}, nil
}

func (d *cutDisk) Rename(from, to string) error {
	if err := d.step(); err != nil {
		return err
	}
	d.names[to] = d.names[from]
	delete(d.names, from)
	d.changed()
	return nil
}

func (d *cutDisk) SyncDir(string) error {
	if err := d.step(); err != nil {
		return err
	}
	d.durable, d.history = maps.Clone(d.names), nil
	return nil
}

func (d *cutDisk) Remove(path string) error {
	if err := d.step(); err != nil {
		return err
	}
	delete(d.names, path)
	d.changed()
	return nil
}

type cutFile struct {
	d    *cutDisk
	node *inode
}

// Write takes two steps, so that a cut may leave half of it.
func (f *cutFile) Write(p []byte) (int, error) {
	for _, half := range []string{string(p[:len(p)/2]), string(p[len(p)/2:])} {
		if err := f.d.step(); err != nil {
			return 0, err
		}
		f.node.data += half
		f.node.worlds = append(f.node.worlds, f.node.data)
	}
	return len(p), nil
}

func (f *cutFile) Sync() error {
	if err := f.d.step(); err != nil {
		return err
	}
	f.node.synced, f.node.worlds = f.node.data, nil
	return nil
}

func (f *cutFile) Close() error { return nil }

// crash returns what path may hold after the power comes back.
func (d *cutDisk) crash(path string) map[string]bool {
	found := map[string]bool{}
	for _, names := range append(d.history, d.durable) {
		n, ok := names[path]
		if !ok {
			found["(missing)"] = true
			continue
		}
		for _, data := range append(d.inodes[n].worlds, d.inodes[n].synced) {
			found[data] = true
		}
	}
	return found
}

// The power is cut before each step of a write, for every one: what is found
// is the old content or the new, whole; after success, the new alone.
func TestPowerCutAtEveryStep(t *testing.T) {
	for _, before := range []map[string]string{
		{"/s/state": "old"},
		{"/s/state": "old", "/s/state.tmp": "left by an earlier cut"},
	} {
		for left := range 20 {
			d := newCutDisk(left, before)
			err := write(d, "/s/state", []byte("new content"), 0o600)
			found := d.crash("/s/state")
			for data := range found {
				if data != "old" && data != "new content" {
					t.Errorf("cut before step %d: found %q", left, data)
				}
			}
			if err == nil && (len(found) != 1 || !found["new content"]) {
				t.Errorf("no cut within %d steps, yet one may find %v", left, found)
			}
			if left == 0 && err == nil || left == 19 && err != nil {
				t.Errorf("%d steps: %v", left, err)
			}
		}
	}
}

// The cut disk itself must catch a writer that is careless.
func TestCutDiskCatchesMissingSync(t *testing.T) {
	d := newCutDisk(100, map[string]string{"state": "old"})
	f, _ := d.Create("tmp", 0)
	f.Write([]byte("new"))
	d.Rename("tmp", "state")
	if found := d.crash("state"); !found[""] || !found["n"] || !found["old"] {
		t.Errorf("a rename without sync looks safe: %v", found)
	}
}

func TestWriteFailsCleanly(t *testing.T) {
	d := newCutDisk(2, map[string]string{"/s/state": "old"})
	err := write(d, "/s/state", []byte("new"), 0o600)
	if !errors.Is(err, errCut) || !strings.HasPrefix(err.Error(), "write /s/state: ") {
		t.Errorf("err = %v", err)
	}
}

func TestWriteReal(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	for i, perm := range []os.FileMode{0o600, 0o666, 0o400, 0o644} {
		want := fmt.Sprint("content ", i)
		if err := Write(path, []byte(want), perm); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		info, _ := os.Stat(path)
		if err != nil || string(got) != want || info.Mode().Perm() != perm {
			t.Errorf("%q, %v, %v; want %q, %v", got, info.Mode(), err, want, perm)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
	if err := Write(filepath.Join(dir, "no/state"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing directory: %v", err)
	}
}

// A disk that is full keeps the old state, and has no half of the new one.
func TestFullDiskKeepsOldState(t *testing.T) {
	real.Root(t)
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		real.Missing(t, "mount tmpfs: "+err.Error())
	}
	t.Cleanup(func() { syscall.Unmount(dir, 0) })
	f := File[doc]{Path: filepath.Join(dir, "state")}
	if err := f.Save(doc{Name: "old"}); err != nil {
		t.Fatal(err)
	}
	if err := f.Save(doc{Name: strings.Repeat("x", 100<<10)}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("err = %v, want ENOSPC", err)
	}
	if got, err := f.Load(); err != nil || got.Name != "old" {
		t.Errorf("got %+v, %v", got, err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

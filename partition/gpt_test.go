package partition

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drydock-os/drydock/testdata/real"
)

const mib = 1 << 20

// flatcarImage makes a disk image like Flatcar's, with slots of 8 MiB, and
// returns its path.
func flatcarImage(t *testing.T) string {
	t.Helper()
	return imageOf(t, Flatcar(4*mib, 8*mib, 4*mib, 512))
}

func imageOf(t *testing.T, entries []Entry) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, FlatcarSize(entries, 512)); err != nil {
		t.Fatal(err)
	}
	disk := openImage(t, path)
	if err := Format(disk, entries); err != nil {
		t.Fatal(err)
	}
	return path
}

func openImage(t *testing.T, path string) *Disk {
	t.Helper()
	disk, err := OpenDisk(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { disk.Close() })
	return disk
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestOtherToolsReadWhatWeFormat(t *testing.T) {
	path := flatcarImage(t)
	out := run(t, real.Program(t, "sgdisk"), "--verify", path)
	if !strings.Contains(out, "No problems found") {
		t.Errorf("sgdisk --verify:\n%s", out)
	}
	out = run(t, real.Program(t, "sgdisk"), "-i", "3", path)
	for _, want := range []string{strings.ToUpper(UniqueUSRA.String()), strings.ToUpper(TypeUSR.String()), "Attribute flags: 0101000000000000", "'USR-A'"} {
		if !strings.Contains(out, want) {
			t.Errorf("sgdisk -i 3 has no %q:\n%s", want, out)
		}
	}
	out = run(t, real.Program(t, "sfdisk"), "--dump", path)
	if !strings.Contains(out, "name=\"USR-B\"") || strings.Contains(strings.ToLower(out), "corrupt") {
		t.Errorf("sfdisk --dump:\n%s", out)
	}
	out = run(t, real.Program(t, "partx"), "--show", path)
	if !strings.Contains(out, "EFI-SYSTEM") || !strings.Contains(out, UniqueUSRB.String()) {
		t.Errorf("partx --show:\n%s", out)
	}
}

func TestWeReadWhatOtherToolsFormat(t *testing.T) {
	for _, tool := range []struct{ name, make string }{
		{"sgdisk", "sgdisk -n 3:2048:+8M -t 3:5dfbf5f4-2848-4bac-aa5e-0d9a20b745a6 -c 3:USR-A -n 4:0:+8M -t 4:5dfbf5f4-2848-4bac-aa5e-0d9a20b745a6 -c 4:USR-B -A 4:set:48 -A 4:set:56"},
		{"sfdisk", "printf 'label: gpt\n3: size=8M, type=5dfbf5f4-2848-4bac-aa5e-0d9a20b745a6, name=USR-A\n4: size=8M, type=5dfbf5f4-2848-4bac-aa5e-0d9a20b745a6, name=USR-B, attrs=\"GUID:48,56\"\n' | sfdisk -q"},
	} {
		t.Run(tool.name, func(t *testing.T) {
			real.Program(t, tool.name)
			path := filepath.Join(t.TempDir(), "disk.raw")
			run(t, "sh", "-c", "PATH=$PATH:/usr/sbin:/sbin; truncate -s 64M "+path+"; "+tool.make+" "+path)
			g, err := ReadGPT(openImage(t, path))
			if err != nil {
				t.Fatal(err)
			}
			slots, err := g.FindSlots(Layout{})
			if err != nil || slots[A].Number != 3 || slots[B].Number != 4 || g.Primary != nil || g.Backup != nil {
				t.Fatalf("slots %+v, primary %v, backup %v: %v", slots, g.Primary, g.Backup, err)
			}
			if got, want := slots[B].Flags(), (Flags{1, 0, true}); got != want {
				t.Errorf("flags of B %+v, want %+v", got, want)
			}
		})
	}
}

func TestDamagedCopyIsNoticedAndRepaired(t *testing.T) {
	for _, c := range []struct {
		name            string
		damage          func(*Disk) []int64 // bytes to flip
		primary, backup bool
		lost            bool
	}{
		{"primary header", func(d *Disk) []int64 { return []int64{512 + 60} }, true, false, false},
		{"primary entries", func(d *Disk) []int64 { return []int64{1024 + 60} }, true, false, false},
		{"backup header", func(d *Disk) []int64 { return []int64{d.Size() - 512 + 60} }, false, true, false},
		{"backup entries", func(d *Disk) []int64 { return []int64{d.Size() - 512*33 + 60} }, false, true, false},
		{"both", func(d *Disk) []int64 { return []int64{512 + 60, d.Size() - 1} }, true, false, false},
		{"both headers", func(d *Disk) []int64 { return []int64{512 + 60, d.Size() - 512 + 60} }, true, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			disk := openImage(t, flatcarImage(t))
			for _, at := range c.damage(disk) {
				b := make([]byte, 1)
				disk.ReadAt(b, at)
				b[0] ^= 0xff
				disk.WriteAt(b, at)
			}
			g, err := ReadGPT(disk)
			if c.lost {
				if !errors.Is(err, ErrNoGPT) {
					t.Fatalf("got %v, want ErrNoGPT", err)
				}
				return
			}
			if err != nil || (g.Primary != nil) != c.primary || (g.Backup != nil) != c.backup {
				t.Fatalf("primary %v, backup %v: %v", g.Primary, g.Backup, err)
			}
			if err := g.Repair(disk); err != nil {
				t.Fatal(err)
			}
			g, err = ReadGPT(disk)
			if err != nil || g.Primary != nil || g.Backup != nil || len(g.Entries) != 4 {
				t.Fatalf("after repair: %+v: %v", g, err)
			}
			out := run(t, real.Program(t, "sgdisk"), "--verify", disk.Name())
			if !strings.Contains(out, "No problems found") {
				t.Errorf("sgdisk --verify:\n%s", out)
			}
		})
	}
}

// A backup with the same entries passed for good whatever its header said: of
// another disk, after a table was copied, or of other usable sectors.
func TestBackupHeaderOfAnotherDiskIsStale(t *testing.T) {
	for name, change := range map[string]func(header []byte){
		"disk":                func(h []byte) { h[56]++ },
		"first usable sector": func(h []byte) { h[40]++ },
		"last usable sector":  func(h []byte) { h[48]-- },
	} {
		disk := smallDisk(t)
		last := len(disk.data)/512 - 1
		change(disk.data[last*512:])
		sum(disk.data, last)
		g, err := ReadGPT(disk)
		if err != nil || g.Primary != nil || !errors.Is(g.Backup, ErrStale) {
			t.Fatalf("%s: the backup is not stale: %v", name, err)
		}
		if err := g.Repair(disk); err != nil {
			t.Fatal(err)
		}
		if g, err = ReadGPT(disk); err != nil || g.Primary != nil || g.Backup != nil {
			t.Errorf("%s: still not repaired: %v", name, err)
		}
	}
}

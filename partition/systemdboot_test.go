package partition

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"unicode/utf16"
)

// esp makes an EFI system partition with the files given.
func esp(t *testing.T, files map[string]string) SystemdBoot {
	t.Helper()
	dir := openBoot(t)
	for name, content := range files {
		path := dir.Path(name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return SystemdBoot{Dir: dir, Variables: fstest.MapFS{}}
}

func release(t *testing.T, version string) string {
	return string(uki(t, "ID=os\nVERSION_ID="+version+"\n"))
}

func mustBoot(t *testing.T, c SystemdBoot, want ...Slot) {
	t.Helper()
	for _, want := range want {
		if got, err := c.Boot(); err != nil || got != want {
			t.Fatalf("booted %v: %v, want %v", got, err, want)
		}
	}
}

// versions are systemd-boots that differ in how they are told what to boot.
var versions = []int{stripsCounters - 1, stripsCounters, knowsPreferred}

// info is the variable by which a systemd-boot tells its version.
func info(version int) fstest.MapFS {
	data := []byte{6, 0, 0, 0}
	for _, u := range utf16.Encode([]rune(fmt.Sprintf("systemd-boot %d.1-2", version))) {
		data = binary.LittleEndian.AppendUint16(data, u)
	}
	return fstest.MapFS{"LoaderInfo-" + loaderVendor: {Data: data}}
}

// TestFlagsOfNames reads flags off an EFI system partition as it is found.
func TestFlagsOfNames(t *testing.T) {
	old, fresh := release(t, "1.9"), release(t, "1.10")
	for name, c := range map[string]struct {
		files map[string]string
		want  Table
		boots Slot
	}{
		"one slot":              {map[string]string{"EFI/Linux/drydock-a.efi": old}, Table{{1, 0, true}, {}}, A},
		"the newest first":      {map[string]string{"EFI/Linux/drydock-a.efi": fresh, "EFI/Linux/drydock-b.efi": old}, Table{{2, 0, true}, {1, 0, true}}, A},
		"the newest on trial":   {map[string]string{"EFI/Linux/drydock-a.efi": old, "EFI/Linux/drydock-b+2-1.efi": fresh}, Table{{1, 0, true}, {2, 2, false}}, B},
		"the newest used up":    {map[string]string{"EFI/Linux/drydock-a.efi": old, "EFI/Linux/drydock-b+0-3.efi": fresh}, Table{{2, 0, true}, {1, 0, false}}, A},
		"chosen against order":  {map[string]string{"EFI/Linux/drydock-a.efi": old, "EFI/Linux/drydock-b.efi": fresh, loaderConf: selection{A, true}.text()}, Table{{2, 0, true}, {1, 0, true}}, A},
		"chosen on trial":       {map[string]string{"EFI/Linux/drydock-a+1-4.efi": old, "EFI/Linux/drydock-b.efi": fresh, loaderConf: selection{A, false}.text()}, Table{{2, 1, false}, {1, 0, true}}, A},
		"chosen and used up":    {map[string]string{"EFI/Linux/drydock-a+0-4.efi": old, "EFI/Linux/drydock-b.efi": fresh, loaderConf: selection{A, false}.text()}, Table{{2, 0, false}, {1, 0, true}}, B},
		"chosen and not there":  {map[string]string{"EFI/Linux/drydock-a.efi": old, loaderConf: selection{B, false}.text()}, Table{{1, 0, true}, {}}, A},
		"emptied by fsck":       {map[string]string{"EFI/Linux/drydock-a.efi": old, "EFI/Linux/drydock-b+3.efi": "", loaderConf: selection{B, false}.text()}, Table{{1, 0, true}, {}}, A},
		"two names of one slot": {map[string]string{"EFI/Linux/drydock-a.efi": old, "EFI/Linux/drydock-b+1-2.efi": fresh, "EFI/Linux/drydock-b+2-1.efi": fresh, loaderConf: selection{B, false}.text()}, Table{{1, 0, true}, {2, 2, false}}, B},
	} {
		t.Run(name, func(t *testing.T) {
			control := esp(t, c.files)
			got, err := control.Table()
			if err != nil || got != c.want {
				t.Errorf("flags %+v: %v, want %+v", got, err, c.want)
			}
			if next, ok := got.Next(); !ok || next != c.boots {
				t.Errorf("Next is %v %v, want %v", next, ok, c.boots)
			}
			mustBoot(t, control, c.boots)
		})
	}
}

// TestDowngradeIsCounted puts an older release on trial, which systemd-boot would
// never choose by itself, and lets it fail: its tries are spent, and the newer
// one is back. A systemd-boot that cannot be told is refused.
func TestDowngradeIsCounted(t *testing.T) {
	for _, version := range versions {
		c := esp(t, map[string]string{"EFI/Linux/drydock-a.efi": release(t, "2.0"), "EFI/drydock/b.efi": release(t, "1.0")})
		c.Variables = info(version)
		table, err := c.Table()
		if err != nil {
			t.Fatal(err)
		}
		err = c.SetTable(table.Stage(B, 2))
		if version == stripsCounters {
			if err == nil || !strings.Contains(err.Error(), "bootctl update") {
				t.Errorf("version %d: %v", version, err)
			}
			mustBoot(t, c, A)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		mustBoot(t, c, B, B, A, A)
		names, err := c.Dir.ReadDir(ukiDir)
		if err != nil || !slices.Equal(names, []string{"drydock-a.efi", "drydock-b+0-2.efi"}) {
			t.Errorf("version %d: names %q: %v", version, names, err)
		}
	}
}

// TestUpdateIsCounted puts a newer release on trial, lets it fail, tries it again,
// marks it good, and goes back to the older one and forth, with every version.
func TestUpdateIsCounted(t *testing.T) {
	for _, version := range versions {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			c := esp(t, map[string]string{"EFI/Linux/drydock-a.efi": release(t, "1.0"), "EFI/drydock/b.efi": release(t, "2.0")})
			c.Variables = info(version)
			change := func(change func(Table) Table) {
				t.Helper()
				table, err := c.Table()
				if err == nil {
					err = c.SetTable(change(table))
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			change(func(t Table) Table { return t.Stage(B, 2) })
			mustBoot(t, c, B, B, A, A)
			change(func(t Table) Table { return t.Good(A).Discard(B) })
			mustBoot(t, c, A)
			change(func(t Table) Table { return t.Stage(B, 2) })
			mustBoot(t, c, B)
			change(func(t Table) Table { return t.Good(B) })
			mustBoot(t, c, B, B, B)
			change(func(t Table) Table { return t.Select(A) })
			mustBoot(t, c, A, A)
			change(func(t Table) Table { return t.Select(B) })
			mustBoot(t, c, B, B)
			change(func(t Table) Table { return t.Discard(A) })
			mustBoot(t, c, B)
		})
	}
}

// TestRollbackToAnOlderRelease selects an older release that is good, and then
// the newer one again.
func TestRollbackToAnOlderRelease(t *testing.T) {
	for _, version := range versions {
		c := esp(t, map[string]string{"EFI/Linux/drydock-a.efi": release(t, "1.0"), "EFI/Linux/drydock-b.efi": release(t, "2.0")})
		c.Variables = info(version)
		for _, s := range []Slot{A, B, A} {
			table, err := c.Table()
			if err != nil {
				t.Fatal(err)
			}
			if err := c.SetTable(table.Select(s)); err != nil {
				t.Fatal(err)
			}
			mustBoot(t, c, s, s)
		}
	}
}

func TestStageIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  string
		is    error
	}{
		"pinned":         {map[string]string{loaderConf: "default drydock-a*\n"}, "remove that line", ErrPinned},
		"foreign UKI":    {map[string]string{"EFI/Linux/arch.efi": "x"}, "EFI/Linux/arch.efi is an entry of no slot", nil},
		"short name":     {map[string]string{"EFI/Linux/DRYDOC~1.EFI": "x"}, "DRYDOC~1.EFI is an entry of no slot", nil},
		"foreign entry":  {map[string]string{"loader/entries/arch.conf": "x"}, "loader/entries/arch.conf is an entry of no slot", nil},
		"nothing to see": {map[string]string{"EFI/Linux/.x.efi": "x", "EFI/Linux/auto-x.efi": "x", "EFI/Linux/README": "x", "loader/entries/README": "x"}, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			c.files["EFI/Linux/drydock-a.efi"], c.files["EFI/drydock/b.efi"] = "old", "new"
			control := esp(t, c.files)
			staged := Table{{1, 0, true}, {2, 3, false}}
			err := control.SetTable(staged)
			if c.want == "" {
				if err != nil {
					t.Errorf("SetTable: %v", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("SetTable: %v, want %q", err, c.want)
			}
			if got, err := control.Table(); err != nil || got[B] != (Flags{}) {
				t.Errorf("flags are now %+v: %v", got, err)
			}
			if err := control.SetTable(Table{{1, 0, true}, {}}); err != nil {
				t.Errorf("making a slot unbootable is refused: %v", err)
			}
		})
	}
}

func TestStageWithoutKernelIsRefused(t *testing.T) {
	c := esp(t, map[string]string{"EFI/Linux/drydock-a.efi": "old"})
	if err := c.SetTable(Table{{1, 0, true}, {2, 3, false}}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("SetTable: %v", err)
	}
}

// TestSelectionIsChangedInPlace keeps the rest of loader.conf, and the file.
func TestSelectionIsChangedInPlace(t *testing.T) {
	dir := openBoot(t)
	name := dir.Path(loaderConf)
	if err := replaceFile(dir, loaderConf, loaderConfNew, []byte("timeout 5\n# mine")); err != nil {
		t.Fatal(err)
	}
	if err := choose(dir, selection{A, true}); err != nil {
		t.Fatal(err)
	}
	first, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []selection{{A, true}, {B, false}, {B, true}, {A, false}} {
		if err := choose(dir, s); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(name)
		if err != nil || string(data) != s.text()+"timeout 5\n# mine" || len(s.text()) > envSector {
			t.Errorf("loader.conf is %q: %v", data, err)
		}
		if again, err := os.Stat(name); err != nil || !os.SameFile(first, again) {
			t.Errorf("loader.conf was replaced: %v", err)
		}
	}
	// Our lines, moved by an editor, are found and moved back.
	if err := os.WriteFile(name, []byte("timeout 5\n"+selection{A, false}.text()), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := choose(dir, selection{B, false}); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(name); err != nil || string(data) != (selection{B, false}).text()+"timeout 5\n" {
		t.Errorf("loader.conf is %q: %v", data, err)
	}
}

package partition

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"errors"
	"path"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"unicode/utf16"
)

func TestParseEntry(t *testing.T) {
	for _, c := range []struct {
		name       string
		ours       bool
		slot       Slot
		left, done int64
		bumped     string
	}{
		{"drydock-a.efi", true, A, -1, 0, ""},
		{"drydock-b+3.efi", true, B, 3, 0, "drydock-b+2-1.efi"},
		{"drydock-b+2-1.efi", true, B, 2, 1, "drydock-b+1-2.efi"},
		{"drydock-b+1-2.efi", true, B, 1, 2, "drydock-b+0-3.efi"},
		{"drydock-b+0-3.efi", true, B, 0, 3, "drydock-b+0-4.efi"},
		{"DRYDOCK-B+3.EFI", true, B, 3, 0, "DRYDOCK-B+2-1.efi"},
		{"drydock-b+3-.efi", false, A, -1, 0, ""},
		{"drydock-b+.efi", false, A, -1, 0, ""},
		{"drydock-b+x.efi", false, A, -1, 0, ""},
		{"drydock-b+3+2.efi", false, A, 2, 0, "drydock-b+3+1-1.efi"},
		{"drydock-b+99999999999.efi", false, A, -1, 0, ""},
		{"drydock-c.efi", false, A, -1, 0, ""},
		{"DRYDOC~1.EFI", false, A, -1, 0, ""},
		{".efi", false, A, -1, 0, ""},
	} {
		e := parseEntry(c.name)
		if e.ours != c.ours || e.slot != c.slot || e.left != c.left || e.done != c.done {
			t.Errorf("%s: %+v", c.name, e)
		}
		if c.bumped != "" && e.bumped() != c.bumped {
			t.Errorf("%s is bumped to %s, want %s", c.name, e.bumped(), c.bumped)
		}
	}
}

// TestEntryOrder sorts names and versions as systemd-boot shows them
// (UAPI.1 "Sorting", systemd test/test-boot-entries).
func TestEntryOrder(t *testing.T) {
	named := func(name, key, version string) entry {
		e := parseEntry(name)
		e.sortKey, e.version = key, version
		return e
	}
	want := []entry{
		named("n.efi", "a-os", "1"),
		named("drydock-b+3.efi", "os", "10.0"),
		named("drydock-a.efi", "os", "9.1"),
		named("old.efi", "os", "9.1~rc1"),
		named("z.efi", "", ""),
		named("m+2.efi", "", ""),
		named("m+1.efi", "", ""),
		named("spent+0-3.efi", "a-os", "99"),
	}
	got := slices.Clone(want)
	slices.Reverse(got)
	sortEntries(got)
	for i := range want {
		if got[i].name != want[i].name {
			t.Fatalf("entry %d is %s, want %s", i, got[i].name, want[i].name)
		}
	}
}

// TestCompareVersions has the examples of the version format specification
// (UAPI.10, "Examples").
func TestCompareVersions(t *testing.T) {
	for _, c := range []struct{ a, b string }{ // a is older
		{"11~rc1", "11"}, {"122.1", "123"}, {"123~rc1-1", "123"}, {"123", "123-a"}, {"123-a", "123-a.1"}, {"123-a.1", "123-1"}, {"123-1", "123-1.1"},
		{"123-1.1", "123^post1"}, {"123^post1", "123.a-1"}, {"123.a-1", "123.1-1"}, {"123.1-1", "123a-1"}, {"123a-1", "124-1"}, {"9", "10"}, {"", "1"}, {"1_2", "1_3"}, {"007", "8"},
	} {
		if compareVersions(c.a, c.b) >= 0 || compareVersions(c.b, c.a) <= 0 {
			t.Errorf("%q and %q compare %d and %d", c.a, c.b, compareVersions(c.a, c.b), compareVersions(c.b, c.a))
		}
	}
	for _, v := range []string{"", "1", "123-a.1", "~"} {
		if compareVersions(v, v) != 0 {
			t.Errorf("%q is not itself", v)
		}
	}
}

// memFile is a file in memory.
type memFile struct{ *bytes.Reader }

func (memFile) WriteAt([]byte, int64) (int, error) { return 0, errors.ErrUnsupported }
func (memFile) Truncate(int64) error               { return errors.ErrUnsupported }
func (memFile) Sync() error                        { return nil }
func (memFile) Close() error                       { return nil }

// uki is a PE image with a section .osrel.
func uki(t testing.TB, osrel string) []byte {
	var b bytes.Buffer
	b.WriteString("MZ")
	b.Write(make([]byte, 58))
	binary.Write(&b, binary.LittleEndian, uint32(64))
	b.WriteString("PE\x00\x00")
	err := errors.Join(
		binary.Write(&b, binary.LittleEndian, pe.FileHeader{Machine: pe.IMAGE_FILE_MACHINE_AMD64, NumberOfSections: 1}),
		binary.Write(&b, binary.LittleEndian, pe.SectionHeader32{Name: [8]uint8{'.', 'o', 's', 'r', 'e', 'l'}, SizeOfRawData: uint32(len(osrel)), VirtualSize: uint32(len(osrel)), PointerToRawData: uint32(64 + 4 + 20 + 40)}),
	)
	if err != nil {
		t.Fatal(err)
	}
	b.WriteString(osrel)
	return b.Bytes()
}

func TestOSReleaseOfUKI(t *testing.T) {
	image := uki(t, "ID=other\nIMAGE_ID=\"drydock\"\nVERSION_ID=1\nIMAGE_VERSION=4459.2.1\n")
	key, version := osRelease(memFile{bytes.NewReader(image)})
	if key != "drydock" || version != "4459.2.1" {
		t.Errorf("sort key %q, version %q", key, version)
	}
	if key, version := osRelease(memFile{bytes.NewReader([]byte("no PE"))}); key != "" || version != "" {
		t.Errorf("no PE: %q, %q", key, version)
	}
}

func TestParseConf(t *testing.T) {
	for conf, want := range map[string]string{
		"":                           "",
		"timeout 3\n":                "",
		"# default x\n":              "",
		"defaults x\n":               "",
		"default x":                  "default x",
		"default x\ndefault y\n":     "default y",
		"preferred z":                "preferred z",
		"\tdefault \t \"x y\" \r\nq": "default x y",
		selection{A, true}.text():    "",
		selection{B, false}.text():   "",
		"default drydock-a.efi\n":    "default drydock-a.efi", // half of ours
		"default drydock-a.efi\npreferred drydock-b.efi\n":          "default drydock-a.efi",
		"default x\n" + selection{B, false}.text():                  "",
		selection{B, false}.text() + "default drydock-b*":           "default drydock-b*",
		"default   \"drydock-b+[1-9]*\"\npreferred drydock-b.efi\n": "",
	} {
		if got := parseConf([]byte(conf)).foreign(); got != want {
			t.Errorf("%q: foreign line %q, want %q", conf, got, want)
		}
	}
}

// TestPatternsMatchOnlyWhatMayBoot matches the value of "default" with the names
// that systemd-boot gives entries. Up to version 257 they have their counters,
// since then they have not: there a slot on trial must not match at all, since
// whether its tries are spent cannot be seen.
func TestPatternsMatchOnlyWhatMayBoot(t *testing.T) {
	for name, want := range map[string]struct{ good, trial bool }{
		"drydock-b.efi":       {true, false},
		"drydock-b+3.efi":     {false, true},
		"drydock-b+1-2.efi":   {false, true},
		"drydock-b+15.efi":    {false, true},
		"drydock-b+0.efi":     {false, false},
		"drydock-b+0-3.efi":   {false, false},
		"drydock-a.efi":       {false, false},
		"drydock-a+3.efi":     {false, false},
		"drydock-b-other.efi": {false, false},
	} {
		for good, want := range map[bool]bool{true: want.good, false: want.trial} {
			s := selection{B, good}
			got, err := path.Match(s.value(), name) // as efi_fnmatch, for these patterns
			if err != nil || got != want {
				t.Errorf("%s matches %s: %v %v, want %v", s.value(), name, got, err, want)
			}
			if e := parseEntry(name); e.slot == B && e.ours && s.matches(e, stripsCounters-1) != want {
				t.Errorf("our model of version 257 says otherwise of %s and %s", s.value(), name)
			}
		}
	}
	for version, want := range map[int]bool{stripsCounters: false, knowsPreferred - 1: false, knowsPreferred: true} {
		if got := (selection{B, false}).matches(parseEntry("drydock-b+1.efi"), version); got != want {
			t.Errorf("version %d boots a selected slot on trial: %v", version, got)
		}
		if (selection{B, false}).matches(parseEntry("drydock-b+0-1.efi"), version) {
			t.Errorf("version %d boots a slot whose tries are spent", version)
		}
	}
}

func TestPinned(t *testing.T) {
	boot := func(conf string) BootDir {
		dir := openBoot(t)
		f, err := dir.Create(loaderConf)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte(conf), 0); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	variable := func(name, value string) fstest.MapFS {
		data := []byte{7, 0, 0, 0}
		for _, u := range utf16.Encode([]rune(value + "\x00")) {
			data = binary.LittleEndian.AppendUint16(data, u)
		}
		return fstest.MapFS{name + "-" + loaderVendor: {Data: data}}
	}
	for name, c := range map[string]struct {
		conf      string
		variables fstest.MapFS
		pinned    string
	}{
		"nothing":            {"timeout 3\n", fstest.MapFS{}, ""},
		"our line":           {selection{B, false}.text(), fstest.MapFS{}, ""},
		"another entry":      {"default arch.conf\n", fstest.MapFS{}, "arch.conf"},
		"our slot, for ever": {"default drydock-b*\n", fstest.MapFS{}, "drydock-b*"},
		"saved":              {"default @saved\n", fstest.MapFS{}, "@saved"},
		"over our line":      {selection{B, false}.text() + "default x\n", fstest.MapFS{}, "x"},
		"variable":           {"", variable("LoaderEntryDefault", "drydock-a.efi"), "LoaderEntryDefault"},
		"one shot":           {"", variable("LoaderEntryOneShot", "drydock-a.efi"), "set-oneshot"},
		"preferred":          {"", variable("LoaderEntryPreferred", "drydock-a.efi"), "set-preferred"},
		"emptied variable":   {"", variable("LoaderEntryDefault", ""), ""},
	} {
		err := pinned(boot(c.conf), c.variables)
		if c.pinned == "" && err != nil || c.pinned != "" && (!errors.Is(err, ErrPinned) || !strings.Contains(err.Error(), c.pinned)) {
			t.Errorf("%s: %v, want %q", name, err, c.pinned)
		}
	}
}

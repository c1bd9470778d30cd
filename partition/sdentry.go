package partition

import (
	"bufio"
	"bytes"
	"cmp"
	"debug/pe"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// An entry is a UKI in EFI/Linux as systemd-boot lists it.
type entry struct {
	name       string
	ours       bool // named after a slot
	slot       Slot
	prefix     string // the name up to the last "+", or up to ".efi"
	left, done int64  // counters; left is -1 without
	sortKey    string
	version    string
}

// isEntryFile says whether systemd-boot takes a file for an entry
// (valid_type1_filename, config_load_type2_entries).
func isEntryFile(name, suffix string) bool {
	name = strings.ToLower(name)
	return !strings.HasPrefix(name, ".") && !strings.HasPrefix(name, "auto-") && strings.HasSuffix(name, suffix)
}

// parseEntry reads a UKI's name. A counter that does not parse is part of the
// name, as for systemd-boot (boot_entry_parse_tries).
func parseEntry(name string) entry {
	base := name[:len(name)-len(".efi")]
	e := entry{name: name, prefix: base, left: -1}
	if plus := strings.LastIndexByte(base, '+'); plus >= 0 {
		left, done, counted := strings.Cut(base[plus+1:], "-")
		l, err := parseCounter(left)
		d, errDone := int64(0), error(nil)
		if counted {
			d, errDone = parseCounter(done)
		}
		if err == nil && errDone == nil {
			e.prefix, e.left, e.done = base[:plus], l, d
		}
	}
	switch strings.ToLower(e.prefix) {
	case "drydock-a":
		e.ours, e.slot = true, A
	case "drydock-b":
		e.ours, e.slot = true, B
	}
	return e
}

func parseCounter(digits string) (int64, error) {
	n, err := strconv.ParseUint(digits, 10, 31)
	return int64(n), err
}

// flags are the entry's, without a priority.
func (e entry) flags() Flags {
	if e.left < 0 {
		return Flags{Successful: true}
	}
	return Flags{Tries: uint8(min(e.left, MaxTries))}
}

// names is the part of flags that a name tells.
func (f Flags) names() Flags {
	if f.Successful {
		return Flags{Successful: true}
	}
	return Flags{Tries: f.Tries}
}

// ukiName is the name of a slot's UKI with flags.
func ukiName(s Slot, f Flags) string {
	if f.Successful {
		return "drydock-" + s.letter() + ".efi"
	}
	return fmt.Sprintf("drydock-%s+%d.efi", s.letter(), f.Tries)
}

// bumped is the name after one more boot (boot_entry_parse_tries, next_name).
func (e entry) bumped() string {
	return fmt.Sprintf("%s+%d-%d.efi", e.prefix, max(e.left-1, 0), e.done+1)
}

// readEntry reads what a file says of itself, as an entry of a name in EFI/Linux.
// It is no entry when systemd-boot would not list it, as it does not an emptied
// file.
func readEntry(dir BootDir, path, name string) (entry, bool, error) {
	if !isEntryFile(name, ".efi") {
		return entry{}, false, nil
	}
	e := parseEntry(name)
	f, err := dir.Open(path)
	if err != nil {
		return e, false, fmt.Errorf("read boot entry: %w", err)
	}
	defer f.Close()
	if f.Size() == 0 {
		return e, false, nil
	}
	e.sortKey, e.version = osRelease(f)
	return e, true, nil
}

// maxOSRelease bounds the section .osrel of a UKI: os-release files have a
// kilobyte.
const maxOSRelease = 64 << 10

// osRelease reads the sort key and version from a UKI (boot_entry_add_type2).
// A kernel that is no UKI has neither; systemd-boot would not list it.
func osRelease(f File) (key, version string) {
	image, err := pe.NewFile(f)
	if err != nil {
		return "", ""
	}
	section := image.Section(".osrel")
	if section == nil || section.Size > maxOSRelease {
		return "", ""
	}
	data, err := section.Data()
	if err != nil {
		return "", ""
	}
	values := map[string]string{}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		k, v, ok := strings.Cut(strings.Trim(lines.Text(), " \t\x00"), "=")
		if ok {
			values[k] = strings.Trim(v, `"'`)
		}
	}
	return cmp.Or(values["IMAGE_ID"], values["ID"]),
		cmp.Or(values["IMAGE_VERSION"], values["VERSION"], values["VERSION_ID"], values["BUILD_ID"])
}

// sortEntries sorts as systemd-boot does (boot_entry_compare).
func sortEntries(entries []entry) {
	slices.SortStableFunc(entries, func(a, b entry) int {
		return cmp.Or(
			cmp.Compare(btoi(a.left == 0), btoi(b.left == 0)),
			cmp.Compare(btoi(a.sortKey == ""), btoi(b.sortKey == "")),
			strings.Compare(a.sortKey, b.sortKey),
			compareWhere(a.sortKey != "", b.version, a.version),
			compareVersions(strings.ToLower(b.prefix), strings.ToLower(a.prefix)),
			compareTries(a, b),
		)
	})
}

func compareWhere(compare bool, a, b string) int {
	if !compare {
		return 0
	}
	return compareVersions(a, b)
}

// compareTries puts first what has more tries left, then what was tried less.
func compareTries(a, b entry) int {
	if a.left < 0 || b.left < 0 {
		return 0
	}
	return cmp.Or(cmp.Compare(b.left, a.left), cmp.Compare(a.done, b.done))
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// compareVersions orders versions (UAPI.10 version format specification, which
// strverscmp_improved implements).
func compareVersions(a, b string) int {
	const separators = "~-^."
	valid := func(r rune) bool {
		return r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune(separators, r)
	}
	skip := func(s string) string { return strings.TrimLeftFunc(s, func(r rune) bool { return !valid(r) }) }
	for a, b = skip(a), skip(b); a != "" || b != ""; a, b = skip(a), skip(b) {
		if strings.HasPrefix(a, "~") || strings.HasPrefix(b, "~") {
			if d := btoi(strings.HasPrefix(b, "~")) - btoi(strings.HasPrefix(a, "~")); d != 0 {
				return d
			}
			a, b = a[1:], b[1:]
			continue
		}
		if a == "" || b == "" {
			return cmp.Compare(len(a), len(b))
		}
		done := false
		for _, sep := range separators[1:] {
			x, y := a[0] == byte(sep), b[0] == byte(sep)
			if x != y {
				return btoi(y) - btoi(x)
			}
			if x {
				a, b, done = a[1:], b[1:], true
				break
			}
		}
		if done {
			continue
		}
		var d int
		if d, a, b = compareSegment(a, b); d != 0 {
			return d
		}
	}
	return 0
}

// compareSegment compares leading numbers where either has one, else leading
// letters.
func compareSegment(a, b string) (order int, restA, restB string) {
	digit := func(r rune) bool { return r < '0' || r > '9' }
	letter := func(r rune) bool { return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') }
	lead := func(s string, stop func(rune) bool) (string, string) {
		if i := strings.IndexFunc(s, stop); i >= 0 {
			return s[:i], s[i:]
		}
		return s, ""
	}
	if !digit(rune(a[0])) || !digit(rune(b[0])) {
		x, a := lead(a, digit)
		y, b := lead(b, digit)
		if (x == "") != (y == "") {
			return cmp.Compare(len(x), len(y)), a, b
		}
		x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
		return cmp.Or(cmp.Compare(len(x), len(y)), strings.Compare(x, y)), a, b
	}
	x, a := lead(a, letter)
	y, b := lead(b, letter)
	return strings.Compare(x, y), a, b
}

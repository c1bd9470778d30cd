package partition

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/drydock-os/drydock/testdata/real"
)

// allFlags are flags of every kind.
func allFlags() []Flags {
	var all []Flags
	for _, p := range []uint8{0, 1, 2, 3, 15} {
		for _, n := range []uint8{0, 1, 5, 15} {
			all = append(all, Flags{p, n, false}, Flags{p, n, true})
		}
	}
	return all
}

func allTables(yield func(Table) bool) {
	for _, a := range allFlags() {
		for _, b := range allFlags() {
			if !yield(Table{a, b}) {
				return
			}
		}
	}
}

// TestEveryTable checks what must hold of every table and slot.
func TestEveryTable(t *testing.T) {
	for table := range allTables {
		for _, s := range []Slot{A, B} {
			if next, ok := table.Stage(s, 3).Next(); !ok || next != s || !table.Stage(s, 3)[s].OnTrial() {
				t.Errorf("%+v: Stage(%v) selects %v", table, s, next)
			}
			if next, ok := table.Good(s).Next(); !ok || next != s || table.Good(s)[s].OnTrial() {
				t.Errorf("%+v: Good(%v) selects %v", table, s, next)
			}
			other := s.Other()
			for name, changed := range map[string]Table{"Stage": table.Stage(s, 1), "Good": table.Good(s), "Discard": table.Discard(s), "Unstage": table.Unstage(s), "Select": table.Select(s)} {
				if changed[other].Bootable() != table[other].Bootable() || changed[other].Successful != table[other].Successful {
					t.Errorf("%+v: %s(%v) makes the other slot %+v", table, name, s, changed[other])
				}
			}
			if table.Discard(s)[s].Bootable() || table.Discard(s)[other] != table[other] {
				t.Errorf("%+v: Discard(%v) is %+v", table, s, table.Discard(s))
			}
			if table[s].Successful && table[s].Bootable() {
				if next, _ := table.Select(s).Next(); next != s {
					t.Errorf("%+v: Select(%v) selects %v", table, s, next)
				}
			} else if table.Select(s) != table {
				t.Errorf("%+v: Select(%v) of a slot that is not good", table, s)
			}
		}
		if !table.Same(table) {
			t.Errorf("%+v is not the same as itself", table)
		}
	}
}

func TestTrialEnds(t *testing.T) {
	for table := range allTables {
		if !table[A].Successful || !table[A].Bootable() {
			continue
		}
		table = table.Stage(B, MaxTries)
		for range MaxTries {
			s, after, ok := table.Boot()
			if !ok || s != B || after[B].Tries != table[B].Tries-1 {
				t.Fatalf("%+v boots %v, leaves %+v", table, s, after)
			}
			table = after
		}
		if s, _, ok := table.Boot(); !ok || s != A {
			t.Fatalf("%+v boots %v after its trial", table, s)
		}
	}
}

func TestParseSlot(t *testing.T) {
	for name, want := range map[string]Slot{"a": A, "A": A, "b": B, "B": B} {
		if got, err := ParseSlot(name); err != nil || got != want || !strings.EqualFold(got.String(), name) {
			t.Errorf("%q is %v: %v", name, got, err)
		}
	}
	for _, name := range []string{"", "c", "ab", "0"} {
		if got, err := ParseSlot(name); err == nil {
			t.Errorf("%q is %v", name, got)
		}
	}
}

// TestAgainstCgpt makes each change with ours and with cgpt, which upstream's
// hooks call, and compares the disks byte for byte. ChromeOS's own cgpt
// prioritizes its kernel partitions alone, so the slots have their type here.
func TestAgainstCgpt(t *testing.T) {
	t.Parallel()
	cgpt := real.Program(t, "cgpt")
	flag := func(f Flags) []string {
		return []string{fmt.Sprintf("-P%d", f.Priority), fmt.Sprintf("-T%d", f.Tries), fmt.Sprintf("-S%d", btoi(f.Successful))}
	}
	const kernel = "fe3a2a5d-4f32-41a7-b725-accc3285a309"
	path := imageOf(t, Flatcar(mib, mib, mib, 512))
	run(t, cgpt, "add", "-i", "3", "-t", kernel, path)
	run(t, cgpt, "add", "-i", "4", "-t", kernel, path)
	layout := Layout{Type: mustGUID(kernel), Labels: [2]string{"USR-A", "USR-B"}}
	tables := []Table{
		{{1, 0, true}, {0, 0, false}}, {{1, 0, true}, {2, 1, false}}, {{1, 0, true}, {2, 0, false}}, {{2, 0, true}, {1, 0, true}},
		{{1, 0, true}, {1, 0, true}}, {{0, 0, false}, {0, 0, false}}, {{15, 15, true}, {3, 2, false}}, {{0, 0, true}, {7, 1, true}},
	}
	for _, table := range tables {
		for name, c := range map[string]struct {
			ours   func(Table) Table
			theirs [][]string
		}{
			"stage": {func(t Table) Table { return t.Stage(B, 1) }, [][]string{{"add", "-i", "4", "-S0", "-T1"}, {"prioritize", "-i", "4"}}},
			"good":  {func(t Table) Table { return t.Good(B) }, [][]string{{"add", "-i", "4", "-S1", "-T0"}, {"prioritize", "-i", "4"}}},
			"back":  {func(t Table) Table { return t.Good(A) }, [][]string{{"add", "-i", "3", "-S1", "-T0"}, {"prioritize", "-i", "3"}}},
			"none":  {func(t Table) Table { return t.Discard(B) }, [][]string{{"add", "-i", "4", "-S0", "-T0", "-P0"}}},
		} {
			disk := openImage(t, path)
			control := GPTPrio{Disk: disk, Layout: layout}
			run(t, cgpt, append(append([]string{"add", "-i", "3"}, flag(table[A])...), path)...)
			run(t, cgpt, append(append([]string{"add", "-i", "4"}, flag(table[B])...), path)...)
			if got, err := control.Table(); err != nil || got != table {
				t.Fatalf("cgpt wrote %+v, we read %+v: %v", table, got, err)
			}
			for _, args := range c.theirs {
				run(t, cgpt, append(args, path)...)
			}
			theirs, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			got, err := control.Table()
			if want := c.ours(table); err != nil || got != want {
				t.Errorf("%s of %+v: cgpt says %+v, we say %+v", name, table, got, want)
			}
			// Ours, from the same start.
			if err := control.SetTable(table); err != nil {
				t.Fatal(err)
			}
			if err := control.SetTable(c.ours(table)); err != nil {
				t.Fatal(err)
			}
			ours, err := os.ReadFile(path)
			if err != nil || !bytes.Equal(ours, theirs) {
				t.Errorf("%s of %+v: the disks differ", name, table)
			}
		}
	}
	run(t, cgpt, "show", path)
}

// TestUpstreamTraces compares the flags that upstream's update engine left after
// its runs with what our life cycle says.
func TestUpstreamTraces(t *testing.T) {
	factory := Table{{1, 0, true}, {}}
	for name, want := range map[string]Table{
		"full_ok":             factory.Stage(B, 1),
		"postinst_fail":       factory,
		"rebooted_rolledback": factory.Stage(B, 1).Good(A),
	} {
		data, err := os.ReadFile(filepath.Join(real.Module(t), "testdata/partition/gpt_after", name+".txt"))
		if err != nil {
			t.Fatal(err)
		}
		var got Table
		for s, m := range regexp.MustCompile(`priority=(\d+) tries=(\d+) successful=(\d)`).FindAllStringSubmatch(string(data), -1) {
			var good int
			fmt.Sscan(m[1], &got[s].Priority)
			fmt.Sscan(m[2], &got[s].Tries)
			fmt.Sscan(m[3], &good)
			got[s].Successful = good == 1
		}
		if got != want {
			t.Errorf("%s: upstream leaves %+v, we say %+v", name, got, want)
		}
	}
}

package partition

import (
	"errors"
	"fmt"
	"io/fs"
)

// bootState is what systemd-boot would find.
type bootState struct {
	entries  []entry // of our slots and others, as sorted
	chosen   selection
	selects  bool // whether loader.conf has our lines, which say chosen
	version  int  // of systemd-boot
	pending  [2]bool
	leftover []string // names in EFI/Linux that are no entries: emptied by fsck
}

func (c SystemdBoot) read() (bootState, error) {
	var st bootState
	names, err := c.Dir.ReadDir(ukiDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return st, fmt.Errorf("read boot entries: %w", err)
	}
	for _, name := range names {
		e, ok, err := readEntry(c.Dir, ukiDir+"/"+name, name)
		if err != nil {
			return st, err
		}
		switch {
		case ok:
			st.entries = append(st.entries, e)
		case e.ours:
			st.leftover = append(st.leftover, name)
		}
	}
	sortEntries(st.entries)
	conf, err := readConf(c.Dir)
	if err != nil {
		return st, err
	}
	st.chosen, st.selects = conf.selected()
	if st.version, err = loaderVersion(c.Variables); err != nil {
		return st, err
	}
	for _, s := range []Slot{A, B} {
		if st.pending[s], err = (kernels{boot: c.Dir}).has(pendingUKI(s)); err != nil {
			return st, err
		}
	}
	return st, nil
}

// pick is the entry that systemd-boot boots: the first that the selection
// matches, else the first (config_select_default_entry).
func (st bootState) pick() (entry, bool) {
	for _, e := range st.entries {
		if st.selects && e.ours && e.slot == st.chosen.slot && st.chosen.matches(e, st.version) {
			return e, true
		}
	}
	if len(st.entries) == 0 {
		return entry{}, false
	}
	return st.entries[0], true
}

// matches says whether a version of systemd-boot boots an entry of the slot
// because of our lines.
func (s selection) matches(e entry, version int) bool {
	switch {
	case version < stripsCounters:
		return s.good && e.left < 0 || !s.good && e.left > 0
	case s.good:
		return true // whatever its counter
	}
	return version >= knowsPreferred && e.left != 0
}

// entry is the first entry of a slot, and the others that say they are it.
func (st bootState) entry(s Slot) (first *entry, others []string) {
	for i, e := range st.entries {
		switch {
		case !e.ours || e.slot != s:
		case first == nil:
			first = &st.entries[i]
		default:
			others = append(others, e.name)
		}
	}
	return first, others
}

// table reads the flags off the names.
func (st bootState) table() Table {
	var t Table
	first := true
	for _, e := range st.entries {
		if !e.ours || t[e.slot].Priority > 0 {
			continue
		}
		t[e.slot] = e.flags()
		t[e.slot].Priority = 1
		if first {
			t[e.slot].Priority = 2
		}
		first = false
	}
	if st.selects && t[A].Priority > 0 && t[B].Priority > 0 {
		t[st.chosen.slot].Priority, t[st.chosen.slot.Other()].Priority = 2, 1
	}
	for s := range t {
		if t[Slot(s).Other()].Priority == 0 {
			t[s].Priority = min(t[s].Priority, 1)
		}
	}
	return t
}

func (st bootState) leftoverOf(s Slot) []string {
	var names []string
	for _, name := range st.leftover {
		if e := parseEntry(name); e.slot == s {
			names = append(names, name)
		}
	}
	return names
}

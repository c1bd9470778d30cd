package partition

import "errors"

// Sentinels that callers branch on.
var (
	// ErrNoSlot says that no slot can be booted.
	ErrNoSlot = errors.New("no bootable slot")
	// ErrBootable refuses to touch what the flags could still boot.
	ErrBootable = errors.New("slot is bootable: discard it first")
	// ErrPinned says that the boot loader is told to boot a fixed entry, which
	// bypasses the flags.
	ErrPinned = errors.New("boot loader is pinned to an entry")
)

// The largest priority and number of tries: four bits of a GPT attribute each
// (flatcar/seismograph cgptlib_internal.h).
const (
	MaxPriority = 15
	MaxTries    = 15
)

// Flags are the boot attributes of one slot, as the boot loader reads them.
type Flags struct {
	Priority   uint8 // 0: never boot; the highest is booted first
	Tries      uint8 // boots left before an unproven slot counts as bad
	Successful bool  // a boot of this slot was marked good
}

// Bootable reports whether the loader may pick a slot with these flags
// (flatcar/grub gptprio.c: tries left or successful, and a priority).
func (f Flags) Bootable() bool { return f.Priority > 0 && (f.Successful || f.Tries > 0) }

// OnTrial reports whether a slot with these flags is bootable but not yet
// proven good.
func (f Flags) OnTrial() bool { return f.Bootable() && !f.Successful }

// A Table holds the flags of both slots, indexed by Slot. Its methods return
// changed copies; only a Control writes one.
type Table [2]Flags

// Next returns the slot that the loader picks, and false if there is none. The
// highest priority wins, and the first slot among equals.
func (t Table) Next() (Slot, bool) {
	best, ok := A, false
	for i, f := range t {
		if f.Bootable() && (!ok || f.Priority > t[best].Priority) {
			best, ok = Slot(i), true
		}
	}
	return best, ok
}

// Boot is the loader's step: it picks a slot and spends one of its tries. Tries
// are spent of a successful slot too, as gptprio.c does.
func (t Table) Boot() (Slot, Table, bool) {
	s, ok := t.Next()
	if ok && t[s].Tries > 0 {
		t[s].Tries--
	}
	return s, t, ok
}

// Stage makes s the next slot to boot, on trial for so many boots: what
// `cgpt add -S0 -T<tries>` and `cgpt prioritize` do. Tries are at least 1 and
// at most MaxTries.
func (t Table) Stage(s Slot, tries uint8) Table {
	t[s].Successful, t[s].Tries = false, min(max(tries, 1), MaxTries)
	return t.prioritize(s)
}

// Good ends the trial of s, and puts it before the other slot: what
// `cgpt add -S1 -T0` and `cgpt prioritize` do.
func (t Table) Good(s Slot) Table {
	t[s].Successful, t[s].Tries = true, 0
	return t.prioritize(s)
}

// Discard makes s unbootable: before the first byte is written to it, or after
// it failed its health check.
func (t Table) Discard(s Slot) Table {
	t[s] = Flags{}
	return t
}

// Unstage takes back Stage: s holds a release but is not booted. The other slot
// keeps its flags.
func (t Table) Unstage(s Slot) Table { return t.Discard(s) }

// Select makes s next without a trial, for a way back to a release that was
// good before. A slot that was never marked good is not selected: the table
// comes back unchanged, and Next says so.
func (t Table) Select(s Slot) Table {
	if !t[s].Bootable() || !t[s].Successful {
		return t
	}
	t[s].Tries = 0
	return t.prioritize(s)
}

// Same reports whether a loader treats both tables alike: the same slots may
// boot, in the same order, with the same tries. Not every loader keeps the
// numbers of priorities, so flags that were written are read back as the Same,
// not always as equal.
func (t Table) Same(o Table) bool {
	for s := range t {
		if (t[s].Priority > 0) != (o[s].Priority > 0) || t[s].Tries != o[s].Tries || t[s].Successful != o[s].Successful {
			return false
		}
	}
	first, _ := t.first()
	other, _ := o.first()
	return first == other
}

// first is the slot of the higher priority, bootable or not, and false if both
// are 0.
func (t Table) first() (Slot, bool) {
	s := A
	if t[B].Priority > t[A].Priority {
		s = B
	}
	return s, t[s].Priority > 0
}

// prioritize gives s the highest priority and keeps the other slot below it,
// with the smallest numbers that do: `cgpt prioritize` for two slots
// (flatcar/seismograph cgpt_prioritize.c). A slot of priority 0 stays there.
func (t Table) prioritize(s Slot) Table {
	t[s].Priority = 1
	if t[s.Other()].Priority > 0 {
		t[s].Priority, t[s.Other()].Priority = 2, 1
	}
	return t
}

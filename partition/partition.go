// Package partition models the two OS slots and the boot flags that choose
// between them, and reads and writes them on a disk.
package partition

import (
	"fmt"
	"io"
)

// A Slot names one of the two partitions that hold an operating system.
type Slot uint8

// The two slots. A is the one that the disk lists first.
const (
	A Slot = iota
	B
)

// Other returns the slot that is not s.
func (s Slot) Other() Slot { return 1 - s }

// String returns "A" or "B".
func (s Slot) String() string {
	if s > B {
		return fmt.Sprintf("Slot(%d)", uint8(s))
	}
	return "AB"[s : s+1]
}

// letter is the slot as boot loader files are named: "a" or "b".
func (s Slot) letter() string { return "ab"[s : s+1] }

// ParseSlot reads a slot's name: "a", "A", "b" or "B".
func ParseSlot(name string) (Slot, error) {
	switch name {
	case "a", "A":
		return A, nil
	case "b", "B":
		return B, nil
	}
	return 0, fmt.Errorf("parse slot %q: want a or b", name)
}

// A Device is what a slot's bytes, a kernel file or a whole disk are read from
// and written to.
type Device interface {
	io.ReaderAt
	io.WriterAt
	// Sync returns when everything written before is on stable storage.
	Sync() error
	// Size is in bytes; of a growing file, its present size.
	Size() int64
}

// A File is a Device that can grow and shrink.
type File interface {
	Device
	// Truncate sets the size in bytes.
	Truncate(size int64) error
	io.Closer
}

// A Control is how one firmware or boot loader chooses between the slots.
//
// The order that is safe at every step: SetTable(Discard(s)), write the slot
// and CreateKernel(s), Sync both, PlaceKernel(s), SetTable(Stage(s)).
type Control interface {
	// Table reads the flags as the loader would read them now.
	Table() (Table, error)
	// SetTable writes the flags, and is durable when it returns; Table then
	// returns the Same. A power cut
	// inside it leaves the old flags, the new ones, or a state between them
	// that boots what one of both would boot. ErrPinned says that the loader's
	// own configuration overrides the flags.
	SetTable(Table) error
	// CreateKernel makes a fresh, empty file for the kernel of s under a pending
	// name that no loader looks at, after it removed s's old kernel to have its
	// space. ErrBootable refuses a slot that the flags could still boot.
	CreateKernel(s Slot) (File, error)
	// OpenKernel opens the kernel of s, pending or placed, for reading and
	// writing. fs.ErrNotExist says that there is none.
	OpenKernel(s Slot) (File, error)
	// PlaceKernel moves the pending kernel of s to where the loader finds it once
	// the flags select s, and returns its path as a post-install hook is told in
	// KERNEL=, or "" when s has no kernel. With systemd-boot the name is itself
	// the flag: the kernel stays pending until SetTable makes s bootable.
	PlaceKernel(s Slot) (path string, err error)
}

// Firmware is the loader's own step on the same storage, at power-on.
type Firmware interface {
	// Boot picks a slot, spends a try on it where the loader would, and returns
	// it. ErrNoSlot says that nothing can be booted.
	Boot() (Slot, error)
}

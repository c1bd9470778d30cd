// Package partitiontest says what every boot control must do, as a test that
// each of them passes.
package partitiontest

import (
	"errors"
	"io"
	"io/fs"
	"testing"

	"github.com/drydock-os/drydock/partition"
)

// Test runs the life cycle of two slots against a control and the firmware that
// reads the same storage. Each part gets a fresh machine, as it leaves the
// factory: slot A good and with its kernel, slot B empty.
func Test(t *testing.T, fresh func(t *testing.T) (partition.Control, partition.Firmware)) {
	parts := []struct {
		name string
		run  func(*machine)
	}{
		{"factory", factory},
		{"update that becomes good", goodUpdate},
		{"update that never comes up", badUpdate},
		{"tries are spent one a boot", tries},
		{"unstage", unstage},
		{"discard in the middle of a trial", discard},
		{"rollback to the slot that was good", rollback},
		{"second update takes the slot back", secondUpdate},
		{"kernel", kernel},
		{"kernel of a bootable slot is left alone", kernelRefused},
		{"kernel survives being staged and unstaged", kernelKept},
		{"every step twice", twice},
		{"nothing bootable", nothing},
		{"flags that make no sense", nonsense},
	}
	for _, p := range parts {
		t.Run(p.name, func(t *testing.T) {
			control, firmware := fresh(t)
			p.run(&machine{T: t, control: control, firmware: firmware})
		})
	}
}

// machine is what a part works on.
type machine struct {
	*testing.T
	control  partition.Control
	firmware partition.Firmware
}

func (m *machine) table() partition.Table {
	m.Helper()
	table, err := m.control.Table()
	if err != nil {
		m.Fatalf("Table: %v", err)
	}
	return table
}

// set writes flags and reads them back.
func (m *machine) set(want partition.Table) {
	m.Helper()
	if err := m.control.SetTable(want); err != nil {
		m.Fatalf("SetTable(%+v): %v", want, err)
	}
	if got := m.table(); !got.Same(want) {
		m.Fatalf("flags are %+v, set %+v", got, want)
	}
}

func (m *machine) want(a, b partition.Flags) {
	m.Helper()
	if got, want := m.table(), (partition.Table{a, b}); !got.Same(want) {
		m.Fatalf("flags are %+v, want %+v", got, want)
	}
}

// boots powers on and expects a slot. Before, Next must have told the same.
func (m *machine) boots(want partition.Slot) {
	m.Helper()
	next, ok := m.table().Next()
	got, err := m.firmware.Boot()
	if err != nil || got != want {
		m.Fatalf("booted %v: %v, want %v", got, err, want)
	}
	if !ok || next != got {
		m.Fatalf("Next says %v %v, firmware booted %v", next, ok, got)
	}
}

// install writes a kernel for s and places it, as an update does before Stage.
func (m *machine) install(s partition.Slot, content string) {
	m.Helper()
	m.set(m.table().Discard(s))
	f, err := m.control.CreateKernel(s)
	if err != nil {
		m.Fatalf("CreateKernel(%v): %v", s, err)
	}
	if _, err := f.WriteAt([]byte(content), 0); err != nil {
		m.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		m.Fatal(err)
	}
	if err := f.Close(); err != nil {
		m.Fatal(err)
	}
	m.place(s)
}

func (m *machine) place(s partition.Slot) string {
	m.Helper()
	path, err := m.control.PlaceKernel(s)
	if err != nil || path == "" {
		m.Fatalf("PlaceKernel(%v): %q, %v", s, path, err)
	}
	return path
}

// kernel is the content of the kernel of s.
func (m *machine) kernel(s partition.Slot) string {
	m.Helper()
	f, err := m.control.OpenKernel(s)
	if err != nil {
		m.Fatalf("OpenKernel(%v): %v", s, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size()))
	if err != nil {
		m.Fatal(err)
	}
	return string(data)
}

const a, b = partition.A, partition.B

func factory(m *machine) {
	m.want(partition.Flags{Priority: 1, Successful: true}, partition.Flags{})
	for range 3 {
		m.boots(a)
	}
	m.want(partition.Flags{Priority: 1, Successful: true}, partition.Flags{})
}

func goodUpdate(m *machine) {
	m.install(b, "new kernel")
	m.boots(a) // written, not staged
	m.set(m.table().Stage(b, 1))
	m.want(partition.Flags{Priority: 1, Successful: true}, partition.Flags{Priority: 2, Tries: 1})
	m.boots(b)
	m.want(partition.Flags{Priority: 1, Successful: true}, partition.Flags{Priority: 2})
	m.set(m.table().Good(b))
	m.want(partition.Flags{Priority: 1, Successful: true}, partition.Flags{Priority: 2, Successful: true})
	for range 3 {
		m.boots(b)
	}
	if got := m.kernel(b); got != "new kernel" {
		m.Errorf("kernel of B is %q", got)
	}
}

func badUpdate(m *machine) {
	m.install(b, "kernel that hangs")
	m.set(m.table().Stage(b, 1))
	m.boots(b)
	m.boots(a)
	m.boots(a)
	m.set(m.table().Good(a))
	m.want(partition.Flags{Priority: 2, Successful: true}, partition.Flags{Priority: 1})
	m.boots(a)
}

func tries(m *machine) {
	m.install(b, "kernel")
	m.set(m.table().Stage(b, 3))
	for left := uint8(3); left > 0; left-- {
		if got := m.table()[b].Tries; got != left {
			m.Fatalf("%d tries left, want %d", got, left)
		}
		m.boots(b)
	}
	m.boots(a)
}

func unstage(m *machine) {
	m.install(b, "kernel")
	before := m.table()
	m.set(before.Stage(b, 2))
	m.set(m.table().Unstage(b))
	m.want(before[a], partition.Flags{})
	m.boots(a)
}

func discard(m *machine) {
	m.install(b, "kernel")
	m.set(m.table().Stage(b, 3))
	m.boots(b)
	m.set(m.table().Discard(b))
	m.want(partition.Flags{Priority: 1, Successful: true}, partition.Flags{})
	m.boots(a)
}

func rollback(m *machine) {
	goodUpdate(m)
	m.set(m.table().Select(a))
	m.want(partition.Flags{Priority: 2, Successful: true}, partition.Flags{Priority: 1, Successful: true})
	m.boots(a)
	m.boots(a)
	m.set(m.table().Select(b))
	m.boots(b)
	m.set(m.table().Select(a).Discard(b))
	m.boots(a)
}

func secondUpdate(m *machine) {
	goodUpdate(m)
	m.install(a, "newer kernel")
	m.boots(b)
	m.set(m.table().Stage(a, 1))
	m.boots(a)
	m.set(m.table().Good(a))
	m.boots(a)
	if got := m.kernel(a); got != "newer kernel" {
		m.Errorf("kernel of A is %q", got)
	}
	if got := m.kernel(b); got != "new kernel" {
		m.Errorf("kernel of B is %q", got)
	}
}

func kernel(m *machine) {
	if f, err := m.control.OpenKernel(b); !errors.Is(err, fs.ErrNotExist) {
		m.Fatalf("OpenKernel of none: %v, %v, want fs.ErrNotExist", f, err)
	}
	if path, err := m.control.PlaceKernel(b); path != "" || err != nil {
		m.Fatalf("PlaceKernel of none: %q, %v", path, err)
	}
	m.install(b, "kernel")
	if first, again := m.place(b), m.place(b); first != again {
		m.Errorf("placed at %q, then at %q", first, again)
	}
	m.install(b, "k2") // shorter: nothing of the old one may stay
	if got := m.kernel(b); got != "k2" {
		m.Errorf("kernel is %q", got)
	}
}

func kernelRefused(m *machine) {
	goodUpdate(m)
	for _, s := range []partition.Slot{a, b} {
		if f, err := m.control.CreateKernel(s); !errors.Is(err, partition.ErrBootable) {
			m.Errorf("CreateKernel(%v): %v, %v, want ErrBootable", s, f, err)
		}
	}
	if got := m.kernel(b); got != "new kernel" {
		m.Errorf("kernel of B is %q", got)
	}
}

func kernelKept(m *machine) {
	m.install(b, "kernel")
	m.set(m.table().Stage(b, 1))
	m.set(m.table().Unstage(b))
	if got := m.kernel(b); got != "kernel" {
		m.Errorf("kernel is %q after Unstage", got)
	}
	m.place(b)
	m.set(m.table().Stage(b, 1))
	m.boots(b)
	if got := m.kernel(b); got != "kernel" {
		m.Errorf("kernel is %q on trial", got)
	}
}

func twice(m *machine) {
	m.install(b, "kernel")
	for _, step := range []func(partition.Table) partition.Table{
		func(t partition.Table) partition.Table { return t.Stage(b, 2) },
		func(t partition.Table) partition.Table { return t.Unstage(b) },
		func(t partition.Table) partition.Table { return t.Stage(b, 2) },
		func(t partition.Table) partition.Table { return t.Good(b) },
		func(t partition.Table) partition.Table { return t.Select(a) },
		func(t partition.Table) partition.Table { return t.Discard(b) },
	} {
		m.set(step(m.table()))
		once := m.table()
		m.set(step(once))
		if again := m.table(); !again.Same(once) {
			m.Errorf("flags are %+v, and %+v the second time", once, again)
		}
	}
}

func nothing(m *machine) {
	m.set(partition.Table{})
	if s, err := m.firmware.Boot(); !errors.Is(err, partition.ErrNoSlot) {
		m.Errorf("booted %v: %v, want ErrNoSlot", s, err)
	}
	m.want(partition.Flags{}, partition.Flags{})
}

func nonsense(m *machine) {
	before := m.table()
	for _, f := range []partition.Flags{{Priority: 16, Tries: 1}, {Priority: 1, Tries: 16}} {
		if err := m.control.SetTable(partition.Table{before[a], f}); err == nil {
			m.Errorf("SetTable took %+v", f)
		}
	}
	m.set(before)
	m.boots(a)
}

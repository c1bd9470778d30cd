package daemon

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/drydock-os/drydock/cmd/internal/config"
	"github.com/drydock-os/drydock/cmd/internal/machine"
	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/host"
)

// ErrNoOther says that no other slot holds a release that was good.
var ErrNoOther = errors.New("no other slot holds a release that was good")

// DiscardDamaged makes the booted slot unbootable, of which the initrd found that
// it cannot be read in full and does not come up, and remembers why. It does so
// only where the other slot is bootable and was good; else ErrNoOther, and nothing
// is changed. No daemon runs meanwhile, and much of the booted system may be
// unreadable: it needs the policy, the state directory and the boot control.
func DiscardDamaged(o Options) error {
	p, err := config.LoadHost(o.Config, rootOf(o.Root))
	if err != nil {
		return err
	}
	if p.Shadow {
		return errors.New("in shadow mode the boot flags are upstream's")
	}
	slots, err := machine.OpenSlots(p.Slots, o.Root)
	if err != nil {
		return err
	}
	booted, err := slots.Booted()
	if err != nil {
		return err
	}
	table, err := slots.Control.Table()
	if err != nil {
		return err
	}
	other := booted.Other()
	if !table[other].Successful || !table[other].Bootable() {
		return fmt.Errorf("slot %s is damaged: %w", booted, ErrNoOther)
	}
	// First why, then the flags: when the power fails between the two, the initrd
	// comes here again.
	memory := updater.MemoryFile{Path: filepath.Join(p.State, "memory.json")}
	if err := leaveDamaged(memory, o.Root, booted); err != nil {
		o.Log.Error("why the slot is left is not written down; it is left all the same", "error", err)
	}
	if err := slots.Control.SetTable(table.Discard(booted)); err != nil {
		return fmt.Errorf("discard slot %s: %w", booted, err)
	}
	table, err = slots.Control.Table()
	if err != nil {
		return fmt.Errorf("read boot flags back: %w", err)
	}
	if next, ok := table.Next(); !ok || next != other {
		return fmt.Errorf("discard slot %s: read back %v, which does not select slot %s", booted, table, other)
	}
	return nil
}

// leaveDamaged writes into the memory that the booted slot is to be left; the next
// drydockd finds it done, and tells it.
func leaveDamaged(memory updater.MemoryFile, root string, booted partition.Slot) error {
	m, err := memory.Load()
	if err != nil {
		return err
	}
	observed := updater.Observed{Now: time.Now(), Booted: booted, Damage: "it did not come up, and cannot be read in full", Release: "slot " + booted.String()}
	if release, err := host.Running(rootOf(root)); err == nil { // it may be what is damaged
		observed.Release = release.Number()
	}
	return memory.Save(m.Damaged(observed))
}

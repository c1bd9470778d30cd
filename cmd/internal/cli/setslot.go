package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/drydock-os/drydock/partition"
	"github.com/spf13/cobra"
)

// setting is what slots set was told.
type setting struct {
	verb            string // "" for the flags below
	priority, tries uint8
	successful      bool
	force           bool
	given           func(flag string) bool
}

// verbs are the changes of flags that have a name.
var verbs = []string{"stage", "select", "good", "discard"}

func (s *session) slotsSet() *cobra.Command {
	var set setting
	c := &cobra.Command{
		Use:   "set DISK SLOT [stage | select | good | discard] [--priority N] [--tries N] [--successful] [--force]",
		Short: "Set the boot flags of a slot",
		Long: "Set the boot flags of slot A or B, in both copies of the partition table; a damaged copy is repaired with it.\n\n" +
			"    stage    boot the slot next, on trial, for --tries boots (1)\n" +
			"    select   boot the slot next, without a trial: it was marked good before\n" +
			"    good     mark the slot good, and put it before the other\n" +
			"    discard  make the slot unbootable\n\n" +
			"Flags that would leave nothing to boot are refused without --force. Do not use it on a disk that drydockd keeps.",
		Args:      cobra.RangeArgs(2, 3),
		ValidArgs: verbs,
		RunE:      func(_ *cobra.Command, args []string) error { return s.setSlot(args, set) },
	}
	f := c.Flags()
	f.Uint8Var(&set.priority, "priority", 0, "`N` from 0 (never boot) to 15; the highest is booted")
	f.Uint8Var(&set.tries, "tries", 1, "`N` boots, from 0 to 15, before an unproven slot counts as bad")
	f.BoolVar(&set.successful, "successful", false, "a boot of the slot was marked good")
	f.BoolVar(&set.force, "force", false, "even if nothing is left to boot")
	set.given = f.Changed
	return c
}

func (s *session) setSlot(args []string, set setting) error {
	slot, err := partition.ParseSlot(args[1])
	if err != nil {
		return usage("%s", err)
	}
	if len(args) == 3 {
		set.verb = args[2]
	}
	if err := set.check(); err != nil {
		return err
	}
	disk, err := partition.OpenDisk(args[0])
	if err != nil {
		return err
	}
	defer disk.Close()
	if err := set.write(disk, slot); err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	facts, err := readSlots(disk)
	if err != nil {
		return fmt.Errorf("%s: read what was written: %w", args[0], err)
	}
	return s.print(facts, facts.write)
}

// check says what is wrong with the command line.
func (set setting) check() error {
	flags := set.given("priority") || set.given("successful")
	switch {
	case set.priority > partition.MaxPriority || set.tries > partition.MaxTries:
		return usage("--priority and --tries are at most %d", partition.MaxPriority)
	case set.verb == "" && !flags && !set.given("tries"):
		return usage("say what to set: %s, or --priority, --tries, --successful", strings.Join(verbs, ", "))
	case set.verb != "" && !slices.Contains(verbs, set.verb):
		return usage("%q is none of %s", set.verb, strings.Join(verbs, ", "))
	case set.verb != "" && (flags || set.given("tries") && (set.verb != "stage" || set.tries == 0)):
		return usage("%s does not go with these flags", set.verb)
	}
	return nil
}

// change is what the command line does to a table.
func (set setting) change(t partition.Table, slot partition.Slot) partition.Table {
	switch set.verb {
	case "stage":
		return t.Stage(slot, set.tries)
	case "select":
		return t.Select(slot)
	case "good":
		return t.Good(slot)
	case "discard":
		return t.Discard(slot)
	}
	return set.flags(t, slot)
}

func (set setting) flags(t partition.Table, slot partition.Slot) partition.Table {
	if set.given("priority") {
		t[slot].Priority = set.priority
	}
	if set.given("tries") {
		t[slot].Tries = set.tries
	}
	if set.given("successful") {
		t[slot].Successful = set.successful
	}
	return t
}

// write writes the changed table and reads it back.
func (set setting) write(disk *partition.Disk, slot partition.Slot) error {
	control := partition.GPTPrio{Disk: disk, Layout: disk.Layout}
	old, err := control.Table()
	if err != nil {
		return err
	}
	wanted := set.change(old, slot)
	next, ok := wanted.Next()
	switch {
	case !ok && !set.force:
		return advised{errors.New("this would leave nothing to boot"), "nothing was changed; --force does it all the same"}
	case set.verb == "select" && next != slot:
		return advised{fmt.Errorf("slot %s was never marked good", slot), "nothing was changed; stage puts it on trial"}
	}
	if err := control.SetTable(wanted); err != nil {
		return err
	}
	got, err := control.Table()
	if err == nil && got != wanted {
		err = fmt.Errorf("the disk says %v after %v was written", got, wanted)
	}
	return err
}

package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/drydock-os/drydock/partition"
	"github.com/spf13/cobra"
)

// A founding is what slots init was told.
type founding struct {
	control, boot, good string
	force               bool
}

func (s *session) slotsInit() *cobra.Command {
	var f founding
	c := &cobra.Command{
		Use:   "init --control grub --boot DIR [--good A|B] [--force]",
		Short: "Make the boot flags of a new machine that GRUB boots",
		Long: "Make the environment block DIR/drydock/grubenv, in which GRUB keeps the boot flags of both slots. It is made once,\n" +
			"when the machine is installed: drydockd, with slots.control = \"grub\", and GRUB then only overwrite it.\n\n" +
			"DIR is where the boot partition is mounted: vfat, ext4 or XFS. One slot is good, and boots next; the other holds\n" +
			"nothing that may boot. A block that can be read is left alone without --force, one that cannot is replaced.\n" +
			"gptprio and systemd-boot need no such step: their flags are in the partition table and in the entries' names.",
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return s.initSlots(f) },
	}
	flags := c.Flags()
	flags.StringVar(&f.control, "control", "", "what chooses the slot at boot: `grub`")
	flags.StringVar(&f.boot, "boot", "", "`DIR` at which the boot partition is mounted")
	flags.StringVar(&f.good, "good", "A", "`SLOT` that holds a system that boots")
	flags.BoolVar(&f.force, "force", false, "set the flags even if they were made before")
	return c
}

func (s *session) initSlots(f founding) error {
	good, err := partition.ParseSlot(f.good)
	switch {
	case f.control != "grub":
		return usage("--control must be grub: the others need no init")
	case f.boot == "":
		return usage("--boot is missing: say where the boot partition is mounted")
	case err != nil:
		return usage("--good: %s", err)
	}
	dir, err := partition.OpenBootDir(f.boot)
	if err != nil {
		return err
	}
	defer dir.Close()
	table, err := f.make(partition.GRUB{Dir: dir}, good)
	if err != nil {
		return fmt.Errorf("%s: %w", f.boot, err)
	}
	facts := foundedFacts{Block: filepath.Join(f.boot, "drydock/grubenv"), Next: good.String()}
	kernel := filepath.Join(f.boot, "drydock", "vmlinuz-"+strings.ToLower(good.String()))
	if _, err := os.Stat(kernel); err != nil {
		facts.MissingKernel = kernel
	}
	for i, flags := range table {
		facts.Slots[i] = flagFacts{partition.Slot(i).String(), flags.Priority, flags.Tries, flags.Successful, flags.Bootable()}
	}
	return s.print(facts, facts.write)
}

// make makes the block, or overwrites one by force, and reads it back.
func (f founding) make(control partition.GRUB, good partition.Slot) (partition.Table, error) {
	wanted := partition.Table{}.Good(good)
	err := control.Init(wanted)
	if errors.Is(err, fs.ErrExist) {
		if !f.force {
			return wanted, advised{err, "nothing was changed; --force sets its flags all the same"}
		}
		err = control.SetTable(wanted)
	}
	if err != nil {
		return wanted, err
	}
	got, err := control.Table()
	if err == nil && got != wanted {
		err = fmt.Errorf("the block says %v after %v was written", got, wanted)
	}
	return got, err
}

// foundedFacts is what slots init made.
type foundedFacts struct {
	Block         string       `json:"block"`
	Next          string       `json:"next"` // slot that GRUB picks
	Slots         [2]flagFacts `json:"slots"`
	MissingKernel string       `json:"missing_kernel,omitempty"` // path at which GRUB looks for the kernel of Next
}

type flagFacts struct {
	Slot       string `json:"slot"`
	Priority   uint8  `json:"priority"`
	Tries      uint8  `json:"tries"`
	Successful bool   `json:"successful"`
	Bootable   bool   `json:"bootable"`
}

func (f foundedFacts) write(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SLOT\tPRIORITY\tTRIES\tSUCCESSFUL\tSTATE")
	for _, slot := range f.Slots {
		state := slotFacts{Slot: slot.Slot, Successful: slot.Successful, Bootable: slot.Bootable}.state(f.Next)
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\n", slot.Slot, slot.Priority, slot.Tries, yesNo(slot.Successful), state)
	}
	w.Flush()
	fmt.Fprintf(out, "Next boot: slot %s, as %s says.\n", f.Next, f.Block)
	if f.MissingKernel != "" {
		fmt.Fprintf(out, "GRUB finds no kernel yet: put that of slot %s at %s before the machine boots, unless grub.cfg sets drydock_kernel.\n", f.Next, f.MissingKernel)
	}
}

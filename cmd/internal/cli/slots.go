package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/drydock-os/drydock/partition"
	"github.com/spf13/cobra"
)

func (s *session) slots() *cobra.Command {
	c := &cobra.Command{
		Use:   "slots",
		Short: "Show, set and make the boot flags of two slots",
		Long: "Show and set the boot flags of the two slots of a disk, or of a disk's image, as they are in its partition table\n" +
			"(gptprio), and make those of a machine that GRUB boots. No daemon is needed.\n\n" +
			"The flags that systemd-boot and GRUB keep are on the boot partition: drydock status shows those of this machine.\n\n" +
			exitCodes,
	}
	c.AddCommand(s.slotsShow(), s.slotsSet(), s.slotsInit())
	return c
}

func (s *session) slotsShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show [--json] DISK",
		Short: "Show both slots, what the loader boots next, and the state of the partition table",
		Long: "Show both slots of a disk or an image, what a loader of gptprio boots next, and the state of the partition table.\n" +
			"The flags that systemd-boot and GRUB keep are not in it: see drydock status.",
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			disk, err := partition.ReadDisk(args[0])
			if err != nil {
				return err
			}
			defer disk.Close()
			facts, err := readSlots(disk)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			return s.print(facts, facts.write)
		},
	}
}

// slotsFacts is what a disk's partition table says of its slots.
type slotsFacts struct {
	Disk  string       `json:"disk"`
	Next  string       `json:"next"` // slot that the loader picks, "" if none
	Slots [2]slotFacts `json:"slots"`
	GPT   gptFacts     `json:"gpt"`
}

type slotFacts struct {
	Slot       string `json:"slot"`
	Label      string `json:"label"`
	Number     int    `json:"number"`
	GUID       string `json:"guid"` // unique: PARTUUID
	Bytes      int64  `json:"bytes"`
	Priority   uint8  `json:"priority"`
	Tries      uint8  `json:"tries"`
	Successful bool   `json:"successful"`
	Bootable   bool   `json:"bootable"`
}

// gptFacts says of each copy of the table "good", or what is wrong with it.
type gptFacts struct {
	Primary string `json:"primary"`
	Backup  string `json:"backup"`
}

func readSlots(disk *partition.Disk) (slotsFacts, error) {
	facts := slotsFacts{Disk: disk.Name()}
	g, err := partition.ReadGPT(disk)
	if err != nil {
		return facts, err
	}
	facts.GPT = gptFacts{state(g.Primary), state(g.Backup)}
	entries, err := g.FindSlots(disk.Layout)
	if err != nil {
		return facts, err
	}
	// The same reading as the loader's, with what it refuses.
	table, err := partition.GPTPrio{Disk: disk, Layout: disk.Layout}.Table()
	if err != nil {
		return facts, err
	}
	if next, ok := table.Next(); ok {
		facts.Next = next.String()
	}
	for i, e := range entries {
		f := table[i]
		facts.Slots[i] = slotFacts{
			Slot: partition.Slot(i).String(), Label: e.Label, Number: e.Number, GUID: e.Unique.String(), Bytes: e.Size(g.SectorSize),
			Priority: f.Priority, Tries: f.Tries, Successful: f.Successful, Bootable: f.Bootable(),
		}
	}
	return facts, nil
}

func state(damage error) string {
	switch {
	case damage == nil:
		return "good"
	case errors.Is(damage, partition.ErrStale):
		return "stale: " + oneLine(damage.Error())
	}
	return "damaged: " + oneLine(damage.Error())
}

func (f slotsFacts) write(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SLOT\tLABEL\tPRIORITY\tTRIES\tSUCCESSFUL\tSTATE\tSIZE\tGUID")
	for _, slot := range f.Slots {
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%s\t%s\t%s\n", slot.Slot, clean(slot.Label), slot.Priority, slot.Tries,
			yesNo(slot.Successful), slot.state(f.Next), amount(slot.Bytes), slot.GUID)
	}
	w.Flush()
	if f.Next == "" {
		fmt.Fprintln(out, "Next boot: none. The loader finds no slot that it may boot.")
	} else {
		fmt.Fprintf(out, "Next boot: slot %s\n", f.Next)
	}
	fmt.Fprintf(out, "GPT primary: %s\nGPT backup: %s\n", f.GPT.Primary, f.GPT.Backup)
	if f.GPT.Primary != "good" || f.GPT.Backup != "good" {
		fmt.Fprintln(out, "The next write of boot flags repairs the bad copy; drydockd and slots set do so.")
	}
}

func (f slotFacts) state(next string) string {
	var words []string
	switch {
	case !f.Bootable:
		words = append(words, "not bootable")
	case f.Successful:
		words = append(words, "good")
	default:
		words = append(words, "on trial")
	}
	if f.Slot == next {
		words = append(words, "next")
	}
	return strings.Join(words, ", ")
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

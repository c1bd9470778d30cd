package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drydock-os/drydock/cmd/internal/machine"
	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/updater/host"
	"github.com/drydock-os/drydock/updater/policy"
)

var slotChecks = []check{
	{id: "slots.disk", look: slotted(judgeDisk)},
	{id: "slots.table", look: slotted(judgeGPT)},
	{id: "slots.labels", look: slotted(judgeLabels)},
	{id: "slots.size", look: slotted(judgeSizes)},
	{id: "slots.booted", look: slotted(judgeBooted)},
	{id: "slots.flags", look: slotted(judgeFlags)},
	{id: "slots.good", look: slotted(judgeGood)},
	{id: "slots.next", look: slotted(judgeNext)},
	{id: "slots.passive", look: slotted(judgePassive)},
}

// slotFacts are what the disk, the boot control and the running system say of
// the slots. What depends on a fact that could not be had has its zero value.
type slotFacts struct {
	settings policy.Slots
	deadline time.Duration // of a trial
	up       time.Duration // since the boot; 0: not known

	disk       string
	diskErr    error
	gpt        *partition.GPT
	gptErr     error
	entries    [2]partition.Entry
	entriesErr error
	booted     partition.Slot
	bootedErr  error
	table      partition.Table
	tableErr   error
	held       string // what uses the passive slot; "": nothing that is known
	heldErr    error
}

func slotted(judge func(slotFacts) Finding) func(context.Context, *patient) Finding {
	return func(_ context.Context, p *patient) Finding { return judge(p.slots()) }
}

// gatherSlots looks at the disk as machine.OpenSlots does, for reading alone.
func gatherSlots(p *patient) slotFacts {
	f := slotFacts{settings: p.policy.Slots, deadline: p.policy.Trial.Deadline}
	if id, err := host.Identify(p.path()); err == nil {
		f.up = id.Up
	}
	running := partition.System{Root: p.Root}
	if f.disk = f.settings.Disk; f.disk == "" {
		origins, err := running.Origins()
		if err != nil {
			f.diskErr = err
			return f
		}
		f.disk = origins[0].Disk
	}
	disk, err := partition.ReadDisk(f.disk)
	if err != nil {
		f.diskErr = err
		return f
	}
	defer disk.Close()
	disk.Sysfs = p.path("sys")
	if len(f.settings.Labels) == 2 {
		disk.Layout.Labels = [2]string{f.settings.Labels[0], f.settings.Labels[1]}
	}
	if f.gpt, f.gptErr = partition.ReadGPT(disk); f.gptErr != nil {
		return f
	}
	f.table, f.tableErr = readFlags(f.settings, disk)
	if f.entries, f.entriesErr = f.gpt.FindSlots(disk.Layout); f.entriesErr != nil {
		return f
	}
	f.booted, f.bootedErr = bootedOf(f.settings, running, f.disk, f.entries)
	if f.bootedErr == nil {
		f.held, f.heldErr = holderOf(p, disk, f.booted.Other())
	}
	return f
}

// bootedOf is machine.Slots.Booted: what the policy says holds only where the
// running system does not contradict it.
func bootedOf(s policy.Slots, running partition.System, disk string, entries [2]partition.Entry) (partition.Slot, error) {
	found, err := running.Booted(disk, entries)
	if s.Booted == "" || s.Booted == "auto" {
		return found, err
	}
	said, parseErr := partition.ParseSlot(s.Booted)
	if parseErr == nil && err == nil && found != said {
		return found, fmt.Errorf("slots.booted says %s and the system runs from slot %s", said, found)
	}
	return said, parseErr
}

// readFlags reads the flags as the boot control does.
func readFlags(s policy.Slots, disk *partition.Disk) (partition.Table, error) {
	var dir partition.BootDir
	if s.BootDirectory != "" {
		d, err := partition.ReadBootDir(s.BootDirectory)
		if err != nil {
			return partition.Table{}, err
		}
		defer d.Close()
		dir = d
	}
	c, err := machine.ControlOf(s, disk, dir)
	if err != nil {
		return partition.Table{}, err
	}
	return c.Table()
}

// holderOf says what uses a slot that nothing should: a mount, or a device on
// top of it. The slot is not opened exclusively to find out: drydockd might want
// it just then.
func holderOf(p *patient, disk *partition.Disk, s partition.Slot) (string, error) {
	section, err := disk.Slot(s)
	if err != nil {
		return "", err
	}
	defer section.Close()
	info, err := os.Stat(section.Path())
	node, known := (*syscall.Stat_t)(nil), false
	if err == nil {
		node, known = info.Sys().(*syscall.Stat_t)
	}
	if !known || section.Offset() != 0 { // part of an image: nothing holds it alone
		return "", err
	}
	number := deviceNumber(node.Rdev)
	above, err := os.ReadDir(p.path("sys/dev/block", number, "holders"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if len(above) > 0 {
		return "device " + above[0].Name(), nil
	}
	mounts, err := p.read("proc/self/mountinfo")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	for line := range strings.Lines(mounts) {
		if fields := strings.Fields(line); len(fields) > 4 && fields[2] == number {
			return "the mount " + fields[4], nil
		}
	}
	return "", nil
}

// deviceNumber is a device as sysfs and mountinfo have it, "major:minor".
func deviceNumber(dev uint64) string { return fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev)) }

func judgeDisk(f slotFacts) Finding {
	if f.diskErr == nil {
		return ok("%s", f.disk)
	}
	if errors.Is(f.diskErr, fs.ErrPermission) && os.Geteuid() != 0 {
		return unread("disk "+f.disk, f.diskErr)
	}
	return Finding{Verdict: Wrong, Seen: f.diskErr.Error(), Means: "drydockd does not start: it finds no slots",
		Mend: "name the disk that holds both slots in slots.disk, as /dev/disk/by-id/…"}
}

func judgeGPT(f slotFacts) Finding {
	switch {
	case f.diskErr != nil:
		return because("slots.disk")
	case f.gptErr != nil:
		return Finding{Verdict: Wrong, Seen: fmt.Sprintf("%s: %v", f.disk, f.gptErr), Means: "a reboot may find no partition table, and boot nothing; no release is written",
			Mend: "while this system still runs, write the table anew from what the kernel knows (sgdisk, or restore a backup of it)"}
	}
	damage := errors.Join(copyOf("primary", f.gpt.Primary), copyOf("backup", f.gpt.Backup))
	if damage != nil {
		return Finding{Verdict: Wrong, Seen: strings.ReplaceAll(damage.Error(), "\n", "; "), Means: "one copy of the partition table is left: the next fault makes the disk unbootable",
			Mend: "drydockd repairs it from the good copy within seconds of its start; if it stays, look at dmesg for a disk that fails, or run sgdisk --verify " + f.disk}
	}
	return ok("both copies of the partition table are whole")
}

func copyOf(which string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("the %s copy of the partition table: %w", which, err)
}

func judgeLabels(f slotFacts) Finding {
	switch {
	case f.diskErr != nil || f.gptErr != nil:
		return because("slots.table")
	case f.entriesErr != nil:
		return Finding{Verdict: Wrong, Seen: f.entriesErr.Error(), Means: "which partitions are the slots is not known: nothing is written",
			Mend: "give each label of slots.labels to one partition alone (sgdisk -c NUMBER:LABEL " + f.disk + "), or name the labels that they have"}
	}
	return ok("A is %s (partition %d), B is %s (partition %d)", f.entries[0].Label, f.entries[0].Number, f.entries[1].Label, f.entries[1].Number)
}

func judgeSizes(f slotFacts) Finding {
	if f.diskErr != nil || f.gptErr != nil || f.entriesErr != nil {
		return because("slots.labels")
	}
	a, b := f.entries[0].Size(f.gpt.SectorSize), f.entries[1].Size(f.gpt.SectorSize)
	if a != b {
		return Finding{Verdict: Warning, Seen: fmt.Sprintf("slot A has %s, slot B %s", amount(a), amount(b)), Means: "a release that fits one slot may not fit the other: every second update fails",
			Mend: "give both slots the same size when the machine is installed anew"}
	}
	return ok("both have %s", amount(a))
}

func judgeBooted(f slotFacts) Finding {
	switch {
	case f.diskErr != nil || f.gptErr != nil || f.entriesErr != nil:
		return because("slots.labels")
	case f.bootedErr != nil:
		return Finding{Verdict: Wrong, Seen: f.bootedErr.Error(), Means: "which slot runs is not known, so none is written: writing the wrong one would destroy the running system",
			Mend: `have the kernel's command line name the slot (root=PARTLABEL=…, or drydock.slot=A), and leave slots.booted = "auto"`}
	}
	return ok("slot %s", f.booted)
}

func judgeFlags(f slotFacts) Finding {
	switch {
	case f.diskErr != nil || f.gptErr != nil:
		return because("slots.table")
	case f.tableErr == nil:
		return ok("%s reads: A %s, B %s", f.settings.Control, flagsText(f.table[0]), flagsText(f.table[1]))
	case errors.Is(f.tableErr, fs.ErrPermission) && os.Geteuid() != 0:
		return unread("the boot flags", f.tableErr)
	}
	mend := "mend what is said, or set slots.control to what boots this machine"
	if f.settings.Control == policy.GRUB {
		mend = "with the slot that is whole: `drydock slots init --control grub --boot " + f.settings.BootDirectory + " --good A`"
	}
	return Finding{Verdict: Wrong, Seen: fmt.Sprintf("%s: %v", f.settings.Control, f.tableErr), Means: "what the next boot would take is not known: nothing is staged, and nothing reboots", Mend: mend}
}

func flagsText(f partition.Flags) string {
	switch {
	case !f.Bootable() && f.Priority == 0:
		return "not bootable"
	case f.Successful:
		return fmt.Sprintf("good, priority %d", f.Priority)
	}
	return fmt.Sprintf("not good, priority %d, %d tries", f.Priority, f.Tries)
}

func judgeGood(f slotFacts) Finding {
	flags := f.table[f.booted]
	switch {
	case f.diskErr != nil || f.gptErr != nil || f.entriesErr != nil || f.bootedErr != nil:
		return because("slots.booted")
	case f.tableErr != nil:
		return because("slots.flags")
	case flags.Successful:
		return ok("slot %s is good", f.booted)
	case flags.Priority == 0:
		return Finding{Verdict: Wrong, Seen: fmt.Sprintf("slot %s runs and is not bootable: it was rejected", f.booted), Means: "the next boot takes the other slot, if that is good",
			Mend: "drydock status says why; let it reboot, or mend what the health check names and release it again"}
	case f.up == 0:
		return Finding{Verdict: Unknown, Seen: fmt.Sprintf("slot %s is not marked good, and how long the machine runs is not known", f.booted), Mend: "see drydock status"}
	case f.up > f.deadline:
		return Finding{Verdict: Wrong, Seen: fmt.Sprintf("slot %s is not marked good %s after the boot; trial.deadline is %s", f.booted, f.up.Round(time.Minute), f.deadline),
			Means: "the release was neither judged good nor rejected: a reboot may go back to the old one, and no update is taken until it is decided",
			Mend:  "start drydockd (systemctl status drydockd); drydock status says what it waits for. On a new machine whose flags were never set: drydock slots"}
	}
	return Finding{Verdict: Warning, Seen: fmt.Sprintf("slot %s is on trial, %s after the boot", f.booted, f.up.Round(time.Second)), Means: "a reboot now may go back to the release before",
		Mend: fmt.Sprintf("wait for the verdict, at most %s after the boot", f.deadline)}
}

func judgeNext(f slotFacts) Finding {
	next, any := f.table.Next()
	switch {
	case f.diskErr != nil || f.gptErr != nil || f.entriesErr != nil || f.bootedErr != nil:
		return because("slots.booted")
	case f.tableErr != nil:
		return because("slots.flags")
	case !any && !f.table[f.booted].Successful && f.table[f.booted].Priority > 0:
		return Finding{Verdict: Warning, Seen: "the loader would find no slot: the trial's last try is spent, and the other slot is not bootable", Means: "should this release fail, there is none to go back to",
			Mend: "see that this release becomes good (drydock status)"}
	case !any:
		return Finding{Verdict: Wrong, Seen: "no slot may be booted", Means: "the machine does not come up from its next reboot", Mend: "mark the slot that runs good: with gptprio `drydock slots set`, with GRUB `drydock slots init --force`"}
	case next != f.booted && f.table[next].Successful:
		return Finding{Verdict: Warning, Seen: fmt.Sprintf("the next boot takes slot %s; slot %s runs", next, f.booted), Means: "a reboot changes the release, whoever asks for it",
			Mend: "that is right while a rollback or a rejected release waits for its reboot: see drydock status"}
	case next != f.booted:
		return ok("a release is staged in slot %s, on trial", next)
	}
	return ok("slot %s again", next)
}

func judgePassive(f slotFacts) Finding {
	if f.diskErr != nil || f.gptErr != nil || f.entriesErr != nil || f.bootedErr != nil {
		return because("slots.booted")
	}
	passive := f.booted.Other()
	switch {
	case f.heldErr != nil:
		return Finding{Verdict: Wrong, Seen: fmt.Sprintf("slot %s: %v", passive, f.heldErr), Means: "no release can be written", Mend: "have the kernel read the partition table again (partprobe " + f.disk + "), or reboot"}
	case f.held != "":
		return Finding{Verdict: Wrong, Seen: fmt.Sprintf("slot %s, which does not run, is used by %s", passive, f.held), Means: "no release can be written to it", Mend: "unmount it, and take it out of fstab or whatever mounts it"}
	case f.tableErr != nil:
		return because("slots.flags")
	case f.table[passive].Successful:
		return ok("slot %s is good: there is a release to go back to", passive)
	}
	return ok("slot %s: %s", passive, flagsText(f.table[passive]))
}

// kernelSize is how large the kernel of a slot is that lies in a boot directory;
// 0: there is none.
func kernelSize(c partition.Control, s partition.Slot) (int64, error) {
	k, err := c.OpenKernel(s)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer k.Close()
	return k.Size(), nil
}

// below reports whether path is dir or in it.
func below(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

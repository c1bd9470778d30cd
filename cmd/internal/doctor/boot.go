package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/drydock-os/drydock/cmd/internal/machine"
	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/updater/policy"
)

var bootChecks = []check{
	{id: "boot.directory", applies: usesBoot, look: func(_ context.Context, p *patient) Finding { return judgeBoot(p.boot()) }},
	{id: "boot.space", applies: func(p policy.Policy) bool { return usesBoot(p) && p.Slots.Kernel }, look: func(_ context.Context, p *patient) Finding { return judgeBootSpace(p.boot()) }},
	{id: "boot.fsck", look: lookFsck},
	{id: "boot.loader", applies: controlled(policy.SystemdBoot), look: lookLoader},
	{id: "boot.pinned", applies: controlled(policy.SystemdBoot), look: lookPinned},
	{id: "boot.order", image: true, applies: notShadow, look: lookOrder},
	{id: "boot.fragment", applies: controlled(policy.GRUB), look: lookFragment},
	{id: "boot.grub", applies: controlled(policy.GRUB), look: lookGRUB},
}

// usesBoot: gptprio alone can do without a boot directory, where the slots hold
// the kernels.
func usesBoot(p policy.Policy) bool {
	return p.Slots.Control != policy.GPTPrio || p.Slots.BootDirectory != "" && p.Slots.Kernel
}

func controlled(c policy.Control) func(policy.Policy) bool {
	return func(p policy.Policy) bool { return p.Slots.Control == c }
}

// bootFacts are what is known of the boot directory.
type bootFacts struct {
	control  policy.Control
	path     string
	err      error
	kind     string // of file system; "" for one that is not known
	own      bool   // it is a file system of its own
	readOnly bool
	stacked  string // what device mapper or RAID lies below it; "" for none that is seen
	free     int64  // bytes
	kernels  [2]int64
	kernel   error // that the kernels could not be looked at
	booted   partition.Slot
	running  error // that booted is not known
}

func gatherBoot(p *patient) bootFacts {
	s := p.policy.Slots
	f := bootFacts{control: s.Control, path: s.BootDirectory}
	dir, err := partition.ReadBootDir(f.path)
	if err != nil {
		f.err = err
		return f
	}
	defer dir.Close()
	if f.kind, f.err = dir.FileSystem(); f.err != nil {
		return f
	}
	var here, above unix.Stat_t
	var st unix.Statfs_t
	if f.err = errors.Join(unix.Stat(f.path, &here), unix.Stat(filepath.Join(f.path, ".."), &above), unix.Statfs(f.path, &st)); f.err != nil {
		return f
	}
	f.own = here.Dev != above.Dev
	f.readOnly = st.Flags&unix.ST_RDONLY != 0
	f.free = int64(st.Bavail) * st.Bsize
	f.stacked = stacked(p, here.Dev)
	c, err := machine.ControlOf(s, &partition.Disk{}, dir) // for the kernels alone
	for i := range f.kernels {
		if err == nil {
			f.kernels[i], err = kernelSize(c, partition.Slot(i))
		}
	}
	f.kernel = err
	slots := p.slots()
	f.booted, f.running = slots.booted, errors.Join(slots.diskErr, slots.gptErr, slots.entriesErr, slots.bootedErr)
	return f
}

// stacked names the device of a file system that is no plain partition or disk.
func stacked(p *patient, dev uint64) string {
	node := p.path("sys/dev/block", deviceNumber(dev))
	for _, what := range []string{"dm", "md"} {
		if _, err := os.Stat(filepath.Join(node, what)); err == nil {
			return map[string]string{"dm": "device mapper (LVM, encryption)", "md": "software RAID"}[what]
		}
	}
	return ""
}

// bootKinds are the file systems that each loader reads, and GRUB writes.
var bootKinds = map[policy.Control][]string{
	policy.SystemdBoot: {"vfat"},
	policy.GRUB:        {"vfat", "ext4", "xfs"},
}

func judgeBoot(f bootFacts) Finding {
	wrong := func(seen, means, mend string) Finding {
		return Finding{Verdict: Wrong, Seen: seen, Means: means, Mend: mend}
	}
	kinds, limited := bootKinds[f.control]
	switch {
	case errors.Is(f.err, fs.ErrPermission) && os.Geteuid() != 0:
		return unread(f.path, f.err)
	case f.err != nil:
		return wrong(f.err.Error(), "drydockd does not start: it cannot see what boots", "mount the boot partition there, or set slots.boot_directory")
	case !f.own:
		return wrong(f.path+" is no file system of its own: the boot partition is not mounted there", "kernels and flags would be written where no boot loader looks",
			"mount the partition that the boot loader reads (fstab, or a mount unit), or set slots.boot_directory to where it is mounted")
	case f.readOnly:
		return wrong(f.path+" is mounted read-only", "no kernel and no flags can be written: an update fails when it is staged", "remount it for writing; if the kernel did it, look at dmesg and run fsck")
	case limited && !slices.Contains(kinds, f.kind):
		return wrong(fmt.Sprintf("%s is %s", f.path, orElse(f.kind, "a file system that is not known")), fmt.Sprintf("%s needs %s", f.control, strings.Join(kinds, ", ")),
			"make a boot partition with one of those, or set slots.boot_directory to where it is")
	case f.control == policy.GRUB && f.stacked != "":
		return wrong(f.path+" lies on "+f.stacked, "GRUB cannot write there: it would boot an update on trial for ever", "put the boot partition on a plain partition")
	}
	return ok("%s, %s, %s free", f.path, orElse(f.kind, "file system not known"), amount(f.free))
}

// growth is how much larger than today's a release's kernel may be, in per cent,
// before a full /boot is worth a word.
const growth = 30

// judgeBootSpace: the passive slot's old kernel goes before the new one comes
// (Control.CreateKernel), so two must have room at once, not three.
func judgeBootSpace(f bootFacts) Finding {
	if f.err != nil {
		return because("boot.directory")
	}
	if f.kernel != nil {
		return unread("the kernels in "+f.path, f.kernel)
	}
	largest := max(f.kernels[0], f.kernels[1])
	if largest == 0 {
		return ok("%s free; it holds no kernel of either slot", amount(f.free))
	}
	if f.running != nil {
		return because("slots.booted")
	}
	room := f.free + f.kernels[f.booted.Other()]
	need := largest + largest*growth/100
	seen := fmt.Sprintf("%s has room for %s beside the kernel that runs; the largest kernel has %s", f.path, amount(room), amount(largest))
	const mend = "remove what is not needed there (old kernels, initrds, crash dumps), or make the boot partition larger when the machine is installed anew"
	switch {
	case room < largest:
		return Finding{Verdict: Wrong, Seen: seen, Means: "the next release's kernel does not fit, and the update fails", Mend: mend}
	case room < need:
		return Finding{Verdict: Warning, Seen: seen, Means: "a kernel that grows a little no longer fits", Mend: mend}
	}
	return ok("%s", seen)
}

// systemdBoot is the boot control of a machine that runs, for reading.
func systemdBoot(p *patient) (c partition.SystemdBoot, done func() error, err error) {
	dir, err := partition.ReadBootDir(p.policy.Slots.BootDirectory)
	if err != nil {
		return c, nil, err
	}
	return partition.SystemdBoot{Dir: dir, Variables: os.DirFS(p.path("sys/firmware/efi/efivars"))}, dir.Close, nil
}

func lookLoader(_ context.Context, p *patient) Finding {
	c, done, err := systemdBoot(p)
	if err != nil {
		return because("boot.directory")
	}
	defer done()
	loader, err := c.Loader()
	if err != nil {
		return unread("the EFI variable LoaderInfo", err)
	}
	return judgeLoader(loader)
}

func judgeLoader(loader string) Finding {
	var version int
	if loader == "" {
		return Finding{Verdict: Wrong, Seen: "the firmware has no variable LoaderInfo: systemd-boot did not start this machine, or efivarfs is not mounted",
			Means: "nothing counts a trial's boots: one that fails is booted for ever", Mend: "boot by systemd-boot (bootctl status), or set slots.control to what boots this machine"}
	}
	if _, err := fmt.Sscanf(loader, "systemd-boot %d", &version); err != nil {
		return Finding{Verdict: Wrong, Seen: fmt.Sprintf("%q started this machine", loader), Means: "it does not count a trial's boots as systemd-boot does", Mend: "boot by systemd-boot, or set slots.control to what boots this machine"}
	}
	if !partition.SelectsTrials(version) {
		return Finding{Verdict: Warning, Seen: loader + " started this machine", Means: "versions 258 and 259 cannot be told to try an older release: a downgrade is refused when it is staged",
			Mend: "`bootctl update` with systemd 260 or later, or with 257"}
	}
	return ok("%s", loader)
}

func lookPinned(_ context.Context, p *patient) Finding {
	c, done, err := systemdBoot(p)
	if err != nil {
		return because("boot.directory")
	}
	defer done()
	err = c.Pinned()
	if errors.Is(err, partition.ErrPinned) {
		return Finding{Verdict: Wrong, Seen: err.Error(), Means: "the boot loader goes past the counters: an update is refused when it is staged", Mend: "remove it as said; drydockd selects the slot itself"}
	}
	if err != nil {
		return unread("what is selected for boot", err)
	}
	return ok("nothing is pinned: no other line in loader.conf, no variable of the firmware")
}

const (
	goodUnit   = "drydock-good.service"
	bootTarget = "boot-complete.target"
	blessUnit  = "systemd-bless-boot.service"
)

// lookOrder looks whether drydock-good.service stands before what marks a boot
// good.
func lookOrder(_ context.Context, p *patient) Finding {
	units, err := p.units()
	if err != nil {
		return unasked(p, err)
	}
	return judgeOrder(p.said.Slots.Control, units[goodUnit].FileState, units[goodUnit].LoadState, units[goodUnit].Before)
}

func judgeOrder(control policy.Control, fileState, load string, before []string) Finding {
	const mend = "install drydock-good.service from the package, and `systemctl enable drydock-good.service`"
	means := "systemd-bless-boot marks a trial good before its health was looked at: a bad release is kept"
	verdict := Wrong
	if control != policy.SystemdBoot {
		verdict, means = Warning, "what waits for boot-complete.target (locksmithd beside strategy external, units of your own) does not wait for the verdict"
	}
	switch {
	case load != "loaded":
		return Finding{Verdict: verdict, Seen: fmt.Sprintf("%s is %s", goodUnit, orElse(load, "not there")), Means: means, Mend: mend}
	case fileState != "enabled" && fileState != "enabled-runtime":
		return Finding{Verdict: verdict, Seen: fmt.Sprintf("%s is %s", goodUnit, orElse(fileState, "not enabled")), Means: means, Mend: mend}
	case before != nil && !slices.Contains(before, bootTarget):
		return Finding{Verdict: verdict, Seen: fmt.Sprintf("%s is not before %s", goodUnit, bootTarget), Means: means, Mend: "take back the drop-in that says so (systemctl cat " + goodUnit + ")"}
	}
	return ok("%s stands before %s, which %s waits for", goodUnit, bootTarget, blessUnit)
}

// grubConfigs are where distributions have grub.cfg, below the boot directory.
var grubConfigs = []string{"grub/grub.cfg", "grub2/grub.cfg", "EFI/*/grub.cfg", "efi/EFI/*/grub.cfg"}

func lookFragment(_ context.Context, p *patient) Finding {
	boot := p.policy.Slots.BootDirectory
	const fragment = "drydock/drydock.cfg"
	absent, err := missing(filepath.Join(boot, fragment))
	if err != nil {
		return unread(fragment, err)
	}
	if absent {
		return Finding{Verdict: Wrong, Seen: "there is no " + filepath.Join(boot, fragment), Means: "GRUB does not look at the flags: it boots what grub.cfg says", Mend: "copy drydock.cfg of the package there, and source it in grub.cfg (its README says how)"}
	}
	var looked []string
	for _, dir := range []string{boot, p.path("boot")} {
		for _, pattern := range grubConfigs {
			found, _ := filepath.Glob(filepath.Join(dir, pattern)) // a pattern of ours
			for _, name := range found {
				data, err := document(name)
				if err != nil {
					return unread(name, err)
				}
				if sources(string(data), fragment) {
					return ok("%s sources %s", name, fragment)
				}
				looked = add(looked, name)
			}
		}
	}
	if len(looked) == 0 {
		return Finding{Verdict: Unknown, Minor: true, Seen: "no grub.cfg was found below " + boot, Means: "whether GRUB reads the fragment cannot be seen from here", Mend: "see that the grub.cfg that this machine boots by sources ($drydock_root)/" + fragment}
	}
	return Finding{Verdict: Wrong, Seen: strings.Join(looked, ", ") + ": no line sources " + fragment, Means: "GRUB does not look at the flags: an update is never booted, or for ever",
		Mend: "add the two lines of dist/grub/README.md to it"}
}

// sources reports whether a line of grub.cfg that is no comment reads a file.
func sources(text, file string) bool {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) > 1 && slices.Contains([]string{"source", ".", "configfile"}, words[0]) && strings.Contains(words[1], file) {
			return true
		}
	}
	return false
}

var grubVersion = regexp.MustCompile(`(?m)^grub_version="?([0-9]+)\.([0-9]+)`)

// lookGRUB looks for the modules of the GRUB that is installed: they have its
// version beside them.
func lookGRUB(_ context.Context, p *patient) Finding {
	boot := p.policy.Slots.BootDirectory
	for _, pattern := range []string{filepath.Join(boot, "grub*/*/modinfo.sh"), p.path("boot/grub*/*/modinfo.sh"), p.path("usr/lib/grub/*/modinfo.sh")} {
		found, _ := filepath.Glob(pattern)
		for _, name := range found {
			data, err := document(name)
			if err != nil {
				continue
			}
			if m := grubVersion.FindStringSubmatch(string(data)); m != nil {
				return judgeGRUB(m[1], m[2])
			}
		}
	}
	return Finding{Verdict: Unknown, Minor: true, Seen: "no modules of GRUB were found, which would say its version", Means: "the fragment needs GRUB 2.02 or later", Mend: "see that the installed GRUB is as new"}
}

func judgeGRUB(major, minor string) Finding {
	if major != "2" || minor < "02" {
		return Finding{Verdict: Wrong, Seen: fmt.Sprintf("GRUB %s.%s", major, minor), Means: "the fragment of grub.cfg needs 2.02 or later", Mend: "install a newer GRUB (grub-install)"}
	}
	return ok("GRUB %s.%s", major, minor)
}

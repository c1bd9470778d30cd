package partition

import (
	"fmt"
	"slices"
)

// What follows is for who judges a machine's set-up and changes nothing.

// Pinned says, as ErrPinned, what selects a boot entry past the boot counting:
// SetTable would refuse for it. Any other error says that it is not known.
func (c SystemdBoot) Pinned() error { return pinned(c.Dir, c.Variables) }

// Loader is what started this machine by its own word, the variable LoaderInfo:
// "systemd-boot 257.7-1". It is "" where the firmware has no such variable.
func (c SystemdBoot) Loader() (string, error) { return variable(c.Variables, "LoaderInfo") }

// SelectsTrials says whether a version of systemd-boot can be told to boot an
// older release on trial: 258 and 259 cannot.
func SelectsTrials(version int) bool { return version < stripsCounters || version >= knowsPreferred }

// Supported says why GRUB could not spend tries in the boot directory: it reads
// file systems that it does not write.
func (c GRUB) Supported() error {
	kind, err := c.Dir.FileSystem()
	if err != nil {
		return err
	}
	if !slices.Contains(grubWrites, kind) {
		return fmt.Errorf("environment block is on %q: GRUB can spend no tries there; put it on vfat, ext4 or xfs", kind)
	}
	return nil
}

// grubWrites are the file systems that GRUB writes to by a list of blocks
// (grub-core/commands/loadenv.c).
var grubWrites = []string{"vfat", "ext4", "xfs"}

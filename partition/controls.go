package partition

// GPTPrio is Flatcar's and ChromeOS's boot control: priority, tries and
// successful in the attributes of the slots' GPT entries, which the loader's
// gptprio.next reads and spends (flatcar/grub gptprio.c).
type GPTPrio struct {
	Disk   Device  // the whole disk, or its image
	Boot   BootDir // holds the kernels; nil where the slots hold them
	Layout Layout  // how the slots are found; zero: as Flatcar lays them out
}

// SystemdBoot is systemd-boot's boot counting: UKIs in EFI/Linux, named with
// the tries that are left.
type SystemdBoot struct {
	Boot BootDir // the EFI system partition, or XBOOTLDR
}

// GRUB keeps the flags in GRUB's environment block, which the fragment of
// grub.cfg in dist/grub reads and spends.
type GRUB struct {
	Boot BootDir // the directory that holds grub/grubenv and the kernels
}

// A Layout says how the slots are recognised in a partition table.
type Layout struct {
	Type   string    // type GUID of both slots; "" allows any
	Labels [2]string // labels of A and B; empty: USR-A and USR-B, or ROOT-A and ROOT-B
}

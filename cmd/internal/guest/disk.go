package guest

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/drydock-os/drydock/partition"
)

// A place is a partition of the guest's disk.
type place struct {
	label string
	size  int64
	kind  string // partition type GUID
}

const (
	kindESP   = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
	kindBIOS  = "21686148-6449-6e6f-744e-656564454649"
	kindSlot  = "5dfbf5f4-2848-4bac-aa5e-0d9a20b745a6" // gptprio's
	kindLinux = "0fc63daf-8483-4772-8e79-3d69d8477de4"
)

// layout is the disk of every guest, whichever loader it has.
var layout = []place{
	{"EFI-SYSTEM", 112 * mib, kindESP},
	{"BIOS-BOOT", 1 * mib, kindBIOS},
	{"BOOT", 48 * mib, kindLinux},
	{"ROOT-A", slotSize, kindSlot},
	{"ROOT-B", slotSize, kindSlot},
	{"DATA", 448 * mib, kindLinux},
}

// offset is where a partition begins, in bytes; the first begins at 1 MiB.
func offset(label string) int64 {
	at := int64(mib)
	for _, p := range layout {
		if p.label == label {
			return at
		}
		at += p.size
	}
	panic("no partition " + label)
}

func diskSize() int64 { return offset("DATA") + layout[len(layout)-1].size + mib }

// makeDisk makes a disk with a release in slot A, good, and slot B empty.
func (l *Lab) makeDisk(path string, s Spec) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	f.Close()
	if err := os.Truncate(path, diskSize()); err != nil {
		return err
	}
	disk, err := partition.OpenDisk(path)
	if err != nil {
		return err
	}
	defer disk.Close()
	var entries []partition.Entry
	for _, p := range layout {
		kind, err := partition.ParseGUID(p.kind)
		if err != nil {
			return err
		}
		at := offset(p.label)
		entries = append(entries, partition.Entry{Type: kind, Label: p.label, First: uint64(at / 512), Last: uint64((at+p.size)/512) - 1})
	}
	if err := partition.Format(disk, entries); err != nil {
		return err
	}
	if err := (partition.GPTPrio{Disk: disk, Layout: Layout()}).SetTable(partition.Table{{Priority: 1, Successful: true}, {}}); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(path), "parts-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	parts := map[string]func(string) (string, error){
		"ROOT-A": func(string) (string, error) { return s.Release.Root, nil },
		"DATA":   func(tmp string) (string, error) { return l.dataPartition(tmp, s) },
	}
	switch s.Release.Release.Loader {
	case SystemdBoot:
		parts["EFI-SYSTEM"] = func(tmp string) (string, error) { return l.espPartition(tmp, s) }
	case GRUB:
		parts["BOOT"] = func(tmp string) (string, error) { return l.bootPartition(tmp, s) }
		if err := l.installGRUB(path, tmp); err != nil {
			return err
		}
	}
	for label, make := range parts {
		from, err := make(tmp)
		if err != nil {
			return fmt.Errorf("make %s: %w", label, err)
		}
		if _, err := run("dd", "if="+from, "of="+path, "bs=1M", fmt.Sprintf("seek=%d", offset(label)/mib), "conv=notrunc,sparse", "status=none"); err != nil {
			return err
		}
	}
	return nil
}

// Layout is how the guests' slots are found.
func Layout() partition.Layout {
	return partition.Layout{Labels: [2]string{"ROOT-A", "ROOT-B"}}
}

// dataPartition holds /var and what the machine has of its own below /etc.
func (l *Lab) dataPartition(tmp string, s Spec) (string, error) {
	dir := filepath.Join(tmp, "data")
	tree, err := l.installed(s.Release.Release)
	if err != nil {
		return "", err
	}
	if _, err := shell(`mkdir -p "$1"/var/log/journal "$1"/etc/drydock/keys "$1"/work
		cp -a "$2"/var/. "$1"/var/; openssl pkey -in "$3" -pubout -out "$1"/etc/drydock/keys/release.pem`, dir, tree, l.key()); err != nil {
		return "", err
	}
	boot := "PARTLABEL=BOOT /boot ext4 defaults 0 2\n"
	if s.Release.Release.Loader == SystemdBoot {
		boot = "PARTLABEL=EFI-SYSTEM /boot vfat umask=0077 0 2\n"
	}
	own := map[string]string{
		"etc/fstab":                boot,
		"etc/machine-id":           s.ID() + "\n",
		"etc/hostname":             s.Name + "\n",
		"etc/drydock/drydock.toml": s.policy(l.server),
	}
	if s.Release.Release.Loader == Modelled {
		own["etc/fstab"] = ""
	}
	if err := writeFiles(dir, own); err != nil {
		return "", err
	}
	if err := writeFiles(dir, s.Files); err != nil {
		return "", err
	}
	return makeExt4(tmp, "DATA", dir)
}

// makeExt4 makes the file system of a partition out of a directory.
func makeExt4(tmp, label, dir string) (string, error) {
	out := filepath.Join(tmp, label+".img")
	for _, p := range layout {
		if p.label == label {
			_, err := run("mke2fs", "-q", "-t", "ext4", "-m", "0", "-O", "^metadata_csum,^64bit,^orphan_file,^metadata_csum_seed", "-L", label, "-d", dir, out, fmt.Sprintf("%dk", p.size/1024))
			return out, err
		}
	}
	return "", fmt.Errorf("no partition %s", label)
}

// espPartition holds systemd-boot and slot A's UKI.
func (l *Lab) espPartition(tmp string, s Spec) (string, error) {
	out := filepath.Join(tmp, "esp.img")
	conf := filepath.Join(tmp, "loader.conf")
	if err := os.WriteFile(conf, []byte("timeout 0\n"), 0o644); err != nil {
		return "", err
	}
	_, err := shell(`truncate -s "$2" "$1"; mkfs.vfat -F 32 -n ESP "$1" >/dev/null
		mmd -i "$1" ::EFI ::EFI/BOOT ::EFI/Linux ::EFI/drydock ::loader
		mcopy -i "$1" "$3"/usr/lib/systemd/boot/efi/systemd-bootx64.efi ::EFI/BOOT/BOOTX64.EFI
		mcopy -i "$1" "$4" ::EFI/Linux/drydock-a.efi
		mcopy -i "$1" "$5" ::loader/loader.conf`,
		out, fmt.Sprint(layout[0].size), filepath.Join(l.base, "root"), s.Release.Kernel, conf)
	return out, err
}

// grubModules are what the fragment of dist/grub names, and a PC's disk.
var grubModules = strings.Fields("biosdisk part_gpt ext2 squash4 search search_label regexp test true loadenv echo sleep reboot linux normal configfile serial terminal")

const grubConf = `serial --unit=0 --speed=115200
terminal_output serial
search --no-floppy --set=drydock_root --label BOOT
set drydock_kernel=/boot/vmlinuz
set drydock_initrd=/boot/initrd.img
set drydock_part_A=gpt4
set drydock_part_B=gpt5
set drydock_slot_cfg=/boot/drydock-slot.cfg
set drydock_options="` + commandLine + `"
source ($drydock_root)/drydock/drydock.cfg
set timeout=0
`

// bootPartition holds GRUB's configuration, our fragment and its block.
func (l *Lab) bootPartition(tmp string, s Spec) (string, error) {
	dir, conf := filepath.Join(tmp, "boot"), grubConf
	if s.Release.Release.Verity {
		conf = strings.Replace(conf, "/boot/drydock-slot.cfg", fmt.Sprintf("%d+8", behind/512), 1)
	}
	if err := writeFiles(dir, map[string]string{"grub/grub.cfg": conf}); err != nil {
		return "", err
	}
	if _, err := shell(`mkdir -p "$1/drydock"; cp "$2" "$1/drydock/drydock.cfg"`, dir, filepath.Join(l.Module, "dist/grub/drydock.cfg")); err != nil {
		return "", err
	}
	if _, err := run(l.tools.drydock, "slots", "init", "--control", "grub", "--boot", dir, "--good", "A"); err != nil {
		return "", err
	}
	return makeExt4(tmp, "BOOT", dir)
}

// installGRUB does what grub-install does, without a device: boot.img into the
// first sector, told where the core is, and the core into the BIOS boot
// partition, told where the rest of itself is (GRUB manual, "BIOS installation";
// grub-core/boot/i386/pc/boot.S and diskboot.S for the places).
func (l *Lab) installGRUB(disk, tmp string) error {
	dir := "/usr/lib/grub/i386-pc"
	core := filepath.Join(tmp, "core.img")
	if _, err := run("grub-mkimage", append([]string{"-O", "i386-pc", "-d", dir, "-o", core, "-p", "(hd0,gpt3)/grub"}, grubModules...)...); err != nil {
		return err
	}
	data, err := os.ReadFile(core)
	if err != nil {
		return err
	}
	boot, err := os.ReadFile(filepath.Join(dir, "boot.img"))
	if err != nil {
		return err
	}
	le, start := binary.LittleEndian, uint64(offset("BIOS-BOOT")/512)
	le.PutUint64(boot[0x5c:], start)
	le.PutUint64(data[0x1f4:], start+1)
	le.PutUint16(data[0x1fc:], uint16((len(data)+511)/512-1))
	f, err := os.OpenFile(disk, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(boot[:440], 0); err != nil {
		return err
	}
	_, err = f.WriteAt(data, offset("BIOS-BOOT"))
	return err
}

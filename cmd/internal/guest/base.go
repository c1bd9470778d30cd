package guest

import (
	"embed"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

//go:embed files
var files embed.FS

// packages is what a guest is made of.
var packages = []string{
	"systemd", "systemd-sysv", "dbus", "udev", "libpam-systemd", "polkitd", "qemu-guest-agent", "linux-image-amd64",
	"cryptsetup-bin", "systemd-boot-efi", "systemd-boot", "busybox-static", "kmod", "iproute2", "login", "dosfstools", "e2fsprogs", "cpio",
}

// modules are what the initrd loads, in this order.
var modules = []string{
	"virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk",
	"failover", "net_failover", "virtio_net", "virtio_console", "rng-core", "virtio-rng", "watchdog", "i6300esb",
	"crc32c_generic", "libcrc32c", "crc16", "mbcache", "jbd2", "ext4", "overlay", "efivarfs", "fat", "vfat", "nls_ascii", "nls_cp437", "dm-mod", "dm-bufio", "reed_solomon", "dm-verity", "squashfs", "loop",
}

// prune takes out of Debian's tree what no guest needs: the image is written,
// read back and hashed many times under emulation.
const prune = `
cd "$1"
rm -rf usr/share/{doc,man,locale,info,perl,perl5,lintian,zsh,gcc,i18n,initramfs-tools,common-licenses,zoneinfo} usr/share/bash-completion/completions/[a-z]*
rm -rf usr/lib/x86_64-linux-gnu/{perl,perl-base,gconv} usr/lib/{klibc,locale} usr/include usr/lib/udev/hwdb.* usr/lib/x86_64-linux-gnu/lib{perl,stdc++,gmp}*.so.*
rm -rf var/lib/apt var/cache/apt var/cache/debconf var/lib/dpkg/info/*.md5sums var/backups
rm -f usr/bin/perl* boot/initrd.img* boot/System.map* etc/machine-id
ln -sf /bin/true usr/bin/perl
`

// baseRecipe is what the base's content depends on.
func baseRecipe() string {
	init, _ := files.ReadFile("files/init")
	return strings.Join(packages, " ") + strings.Join(modules, " ") + prune + configure + initrd + string(init) + "9"
}

// configure makes a tree that boots quickly and needs no network set-up.
const configure = `
cd "$1"
for u in getty.target getty@tty1.service serial-getty@ttyS0.service systemd-networkd.service systemd-timesyncd.service apt-daily.timer \
	apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer dpkg-db-backup.timer systemd-update-utmp.service \
	systemd-update-utmp-runlevel.service systemd-pcrphase.service systemd-pcrphase-sysinit.service systemd-boot-update.service \
	systemd-boot-system-token.service systemd-firstboot.service systemd-hwdb-update.service systemd-machine-id-commit.service rc-local.service modprobe@configfs.service modprobe@drm.service modprobe@fuse.service modprobe@efi_pstore.service \
	proc-sys-fs-binfmt_misc.automount systemd-ask-password-console.path systemd-ask-password-wall.path systemd-tmpfiles-clean.timer systemd-rfkill.socket \
	dev-mqueue.mount dev-hugepages.mount sys-kernel-tracing.mount sys-kernel-debug.mount ldconfig.service systemd-journal-catalog-update.service; do
	ln -sf /dev/null "etc/systemd/system/$u"
done
mkdir -p etc/systemd/journald.conf.d efi
printf '[Journal]\nStorage=persistent\nRateLimitIntervalSec=0\nForwardToConsole=no\n' > etc/systemd/journald.conf.d/guest.conf
rm -f etc/resolv.conf; echo guest > etc/hostname
echo 'root::0:0:root:/root:/bin/bash' > /tmp/passwd.$$; sed -n '/^root:/!p' etc/passwd >> /tmp/passwd.$$; cp /tmp/passwd.$$ etc/passwd; rm /tmp/passwd.$$
`

// initrd packs kernel modules, busybox, veritysetup and files/init. What it
// makes, and the kernel, lie in /boot of the tree.
const initrd = `
cd "$1"; init=$2; bootslot=$3; shift 3
k=$(ls usr/lib/modules); d=$(mktemp -d)
mkdir -p "$d"/{bin,sbin,lib,lib64,usr/lib}
cp usr/bin/busybox "$d/bin/"; ln -s busybox "$d/bin/sh"; cp "$init" "$d/init"; cp "$bootslot" "$d/boot-slot"; chmod 755 "$d/init" "$d/boot-slot"
for m in "$@"; do
	f=$(find "usr/lib/modules/$k" -name "$m.ko" | head -n 1)
	if [ -n "$f" ]; then cp "$f" "$d/lib/$m.ko"; strip --strip-debug "$d/lib/$m.ko"; echo "$m" >> "$d/modules"; fi
done
cp usr/sbin/veritysetup "$d/sbin/"
copy() { # a program's libraries, as the tree's own loader finds them
	chroot . /lib64/ld-linux-x86-64.so.2 --list "$1" | grep -o '/[^ ]*\.so[^ ]*' | while read -r l; do mkdir -p "$d/$(dirname "$l")"; cp -L ".$l" "$d/$l"; done
}
copy /usr/sbin/veritysetup
(cd "$d" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 | gzip -1) > boot/initrd.img
mv boot/vmlinuz-* boot/vmlinuz; rm -rf "$d"
# Only what may be loaded later stays.
find usr/lib/modules -name '*.ko' | grep -v -E '/(xfs|squashfs|erofs|loop|libcrc32c|crc32c_generic|nls_[a-z0-9]*|vfat|fat|softdog|i6300esb|watchdog)\.ko$' | xargs rm -f
chroot . depmod "$k"
`

// bootstrap fetches Debian's packages and unpacks them, as a tar file.
func bootstrap(path string) error {
	_, err := run("mmdebstrap", "--quiet", "--format=tar", "--variant=essential", "--include="+strings.Join(packages, ","),
		"--aptopt=APT::Install-Recommends \"false\"", "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
		"--dpkgopt=path-exclude=/usr/share/man/*", "bookworm", path)
	return err
}

// makeBase makes the guests' tree of Debian's.
func (l *Lab) makeBase(path string) error {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	tar, err := l.cached("debian", strings.Join(packages, " "), bootstrap)
	if err != nil {
		return err
	}
	root := filepath.Join(path, "root")
	if _, err := shell(`mkdir -p "$1" && tar -xf "$2" -C "$1" --exclude='./dev/*'`, root, tar); err != nil {
		return err
	}
	if _, err := shell(prune, root); err != nil {
		return err
	}
	if _, err := shell(configure, root); err != nil {
		return err
	}
	init := filepath.Join(path, "init")
	data, err := files.ReadFile("files/init")
	if err != nil {
		return err
	}
	if err := os.WriteFile(init, data, 0o755); err != nil {
		return err
	}
	args := append([]string{root, init, filepath.Join(l.Module, "dist/lib/boot-slot")}, modules...)
	if _, err := shell(initrd, args...); err != nil {
		return fmt.Errorf("make initrd: %w", err)
	}
	return nil
}

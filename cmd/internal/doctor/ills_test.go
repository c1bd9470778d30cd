package doctor

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/testdata/real"
	"github.com/drydock-os/drydock/updater"
)

// An ill is one thing that is wrong with a host that is healthy else: what a
// check must find, and what it must say of it.
type ill struct {
	id, what string
	control  string // "": gptprio
	make     func(*body)
	verdict  Verdict
	seen     string // part of what is seen
	mend     string // part of how to mend it
}

// slotFlags are flags of both slots, as the ills have them.
func slotFlags(a, b partition.Flags) func(*body) {
	return func(h *body) { h.flags(partition.Table{a, b}) }
}

var goodFlags = partition.Flags{Priority: 2, Successful: true}

// damage overwrites bytes of the disk.
func damage(at int64) func(*body) {
	return func(b *body) {
		b.onDisk(func(d *partition.Disk) error {
			if at < 0 {
				at += d.Size()
			}
			_, err := d.WriteAt(make([]byte, 512), at)
			return err
		})
	}
}

// entries changes the partitions before the disk is formatted anew.
func entries(change func([]partition.Entry)) func(*body) {
	return func(b *body) {
		list := partition.Flatcar(1<<20, 2<<20, 1<<20, 512)
		change(list)
		b.format(list)
	}
}

func setUnit(name string, change func(*unit)) func(*body) {
	return func(b *body) {
		if b.units[name] == nil {
			b.units[name] = &unit{load: "loaded", file: "enabled"}
		}
		change(b.units[name])
	}
}

func put(name, text string) func(*body) { return func(b *body) { b.write(name, text, 0o644) } }
func gone(name string) func(*body)      { return func(b *body) { b.remove(name) } }
func said(table, lines string) func(*body) {
	return func(b *body) { b.set(table, b.lines[table]+lines) }
}

func remount(source, kind string, flags uintptr, data string) func(*body) {
	return func(b *body) {
		syscall.Unmount(b.boot, syscall.MNT_DETACH)
		if kind != "" {
			b.mount(source, kind, flags, data)
		}
	}
}

var ills = []ill{
	{id: "policy.file", what: "no file", make: func(b *body) { b.set("gone", ""); b.remove("etc/drydock/drydock.toml") }, verdict: Wrong, seen: "no policy file", mend: "write one there"},
	{id: "policy.file", what: "unknown key", make: said("update", "chek_interval = \"1h\"\n"), verdict: Wrong, seen: "did you mean update.check_interval", mend: "--check-config"},
	{id: "policy.file", what: "writable", make: func(b *body) { b.policy(); b.mode("etc/drydock/drydock.toml", 0o666) }, verdict: Wrong, seen: "written by others", mend: "chmod go-w"},
	{id: "policy.sense", what: "no lock", make: func(b *body) { b.set("reboot", "strategy = \"coordinated\"\n") }, verdict: Wrong, seen: "neither cluster.id", mend: "[cluster]"},
	{id: "policy.sense", what: "downgrades", make: said("update", "allow_downgrade = true\n"), verdict: Warning, seen: "allow_downgrade", mend: "false"},
	{id: "policy.sense", what: "disabled", make: said("update", "enabled = false\n"), verdict: Warning, seen: "enabled is false", mend: "true"},
	{id: "policy.keys", what: "missing", make: gone("etc/drydock/keys/release.pem"), verdict: Wrong, seen: "release.pem", mend: "trust.keys"},
	{id: "policy.keys", what: "none", make: func(b *body) { b.set("trust", "") }, verdict: Wrong, seen: "names no key", mend: "trust.keys"},
	{id: "policy.keys", what: "no key", make: put("etc/drydock/keys/release.pem", "hello\n"), verdict: Wrong, seen: "release.pem", mend: "public key"},
	{id: "policy.keys", what: "RSA of 1024 bits", make: put("etc/drydock/keys/release.pem", smallKey), verdict: Wrong, seen: "1024", mend: "public key"},
	{id: "policy.keys", what: "writable", make: func(b *body) { b.mode("etc/drydock/keys/release.pem", 0o664) }, verdict: Wrong, seen: "written by others", mend: "chmod go-w"},
	{id: "policy.keys", what: "of a user", make: func(b *body) { os.Chown(b.path("etc/drydock/keys/release.pem"), 1000, -1) }, verdict: Wrong, seen: "belongs to user 1000", mend: "chown root"},
	{id: "policy.secrets", what: "readable", make: func(b *body) { b.secret("pass\n", 0o644) }, verdict: Wrong, seen: "read by others", mend: "chmod 0600"},
	{id: "policy.secrets", what: "empty", make: func(b *body) { b.secret("\n", 0o600) }, verdict: Wrong, seen: "empty", mend: "write the secret"},
	{id: "policy.secrets", what: "missing", make: func(b *body) { b.secret("x\n", 0o600); b.remove("etc/drydock/password") }, verdict: Wrong, seen: "password", mend: "mode 0600"},
	{id: "policy.certificates", what: "no certificate", make: put("etc/drydock/server-ca.pem", "hello\n"), verdict: Wrong, seen: "no PEM certificate", mend: "PEM"},
	{id: "policy.certificates", what: "missing", make: gone("etc/drydock/server-ca.pem"), verdict: Wrong, seen: "server-ca.pem", mend: "PEM"},

	{id: "machine.id", what: "none", make: put("etc/machine-id", "uninitialized\n"), verdict: Wrong, seen: "no machine-id", mend: "systemd-machine-id-setup"},
	{id: "machine.release", what: "none", make: gone("usr/lib/os-release"), verdict: Wrong, seen: "os-release", mend: "VERSION_ID"},
	{id: "machine.release", what: "no version", make: put("usr/lib/os-release", "ID=x\nVERSION_ID=rolling\n"), verdict: Wrong, seen: "rolling", mend: "VERSION_ID"},
	{id: "machine.memory", what: "damaged", make: put("var/lib/drydock/memory.json", "{"), verdict: Warning, seen: "memory.json", mend: "fsck"},

	{id: "slots.disk", what: "none", make: func(b *body) { os.Remove(b.disk) }, verdict: Wrong, seen: "no such file", mend: "slots.disk"},
	{id: "slots.disk", what: "not found", make: func(b *body) { b.set("slots", "control = \"gptprio\"\n") }, verdict: Wrong, seen: "no block device", mend: "slots.disk"},
	{id: "slots.table", what: "primary damaged", make: damage(512), verdict: Wrong, seen: "primary copy", mend: "repairs it"},
	{id: "slots.table", what: "backup damaged", make: damage(-512), verdict: Wrong, seen: "backup copy", mend: "repairs it"},
	{id: "slots.table", what: "both", make: func(b *body) { damage(512)(b); damage(-512)(b) }, verdict: Wrong, seen: "no intact partition table", mend: "sgdisk"},
	{id: "slots.labels", what: "one missing", make: entries(func(e []partition.Entry) { e[2].Label = "OTHER" }), verdict: Wrong, seen: "USR-B", mend: "slots.labels"},
	{id: "slots.labels", what: "twice", make: entries(func(e []partition.Entry) { e[3].Label, e[3].Type = "USR-A", partition.TypeUSR }), verdict: Wrong, seen: "both USR-A", mend: "sgdisk -c"},
	{id: "slots.size", what: "differ", make: entries(func(e []partition.Entry) { e[2].Last -= 8 }), verdict: Warning, seen: "slot A has", mend: "same size"},
	{id: "slots.booted", what: "unknown", make: put("proc/cmdline", "panic=30\n"), verdict: Wrong, seen: "find booted", mend: "drydock.slot="},
	{id: "slots.booted", what: "both", make: put("proc/cmdline", "panic=30 drydock.slot=A root=PARTLABEL=USR-B\n"), verdict: Wrong, seen: "both slots", mend: "slots.booted"},
	{id: "slots.booted", what: "the policy lies", make: said("slots", "booted = \"B\"\n"), verdict: Wrong, seen: "slots.booted says B", mend: "auto"},
	{id: "slots.flags", what: "a third slot", make: entries(func(e []partition.Entry) { e[3].Type, e[3].Attributes = partition.TypeUSR, 1<<56|3<<48 }), verdict: Wrong, seen: "bootable too", mend: "slots.control"},
	{id: "slots.flags", what: "torn block", control: "grub", make: put("boot/drydock/grubenv", "# GRUB Environment Block\n"), verdict: Wrong, seen: "environment block", mend: "drydock slots init"},
	{id: "slots.good", what: "on trial", make: slotFlags(partition.Flags{Priority: 3}, goodFlags), verdict: Warning, seen: "on trial", mend: "verdict"},
	{id: "slots.good", what: "for too long", make: func(b *body) {
		slotFlags(partition.Flags{Priority: 3}, goodFlags)(b)
		b.write("proc/uptime", "90000.0 1.0\n", 0o644)
	}, verdict: Wrong, seen: "trial.deadline", mend: "start drydockd"},
	{id: "slots.good", what: "rejected", make: slotFlags(partition.Flags{}, goodFlags), verdict: Wrong, seen: "rejected", mend: "drydock status"},
	{id: "slots.next", what: "none", make: slotFlags(partition.Flags{}, partition.Flags{}), verdict: Wrong, seen: "no slot may be booted", mend: "drydock slots"},
	{id: "slots.next", what: "the other", make: slotFlags(goodFlags, partition.Flags{Priority: 3, Successful: true}), verdict: Warning, seen: "takes slot B", mend: "drydock status"},
	{id: "slots.next", what: "no way back", make: slotFlags(partition.Flags{Priority: 2}, partition.Flags{}), verdict: Warning, seen: "last try is spent", mend: "becomes good"},
	{id: "slots.passive", what: "mounted", make: mountPassive, verdict: Wrong, seen: "the mount /mnt", mend: "unmount"},

	{id: "boot.directory", what: "not mounted", make: remount("", "", 0, ""), verdict: Wrong, seen: "no file system of its own", mend: "mount the partition"},
	{id: "boot.directory", what: "missing", make: said("slots", "boot_directory = \"/nowhere\"\n"), verdict: Wrong, seen: "nowhere", mend: "slots.boot_directory"},
	{id: "boot.directory", what: "read-only", make: remount("tmpfs", "tmpfs", syscall.MS_RDONLY, ""), verdict: Wrong, seen: "read-only", mend: "remount"},
	{id: "boot.directory", what: "another file system", control: "systemd-boot", make: remount("tmpfs", "tmpfs", 0, "mode=755"), verdict: Wrong, seen: "is tmpfs", mend: "boot partition"},
	{id: "boot.directory", what: "GRUB cannot write it", control: "grub", make: remount("tmpfs", "tmpfs", 0, "mode=755"), verdict: Wrong, seen: "is tmpfs", mend: "boot partition"},
	{id: "boot.space", what: "full", make: func(b *body) { b.write("boot/core", strings.Repeat("x", 930<<10), 0o644) }, verdict: Wrong, seen: "the largest kernel", mend: "remove"},
	{id: "boot.space", what: "tight", make: func(b *body) { b.write("boot/core", strings.Repeat("x", 888<<10), 0o644) }, verdict: Warning, seen: "the largest kernel", mend: "remove"},
	{id: "boot.fsck", what: "no program", control: "systemd-boot", make: gone("usr/sbin/fsck.vfat"), verdict: Warning, seen: "no fsck.vfat", mend: "dosfstools"},
	{id: "boot.fsck", what: "not executable", control: "systemd-boot", make: func(b *body) { b.mode("usr/sbin/fsck.vfat", 0o644) }, verdict: Warning, seen: "no fsck.vfat", mend: "dosfstools"},
	{id: "boot.fsck", what: "pass 0", control: "systemd-boot", make: put("etc/fstab", "LABEL=BOOT /boot/ vfat umask=0077 0 0\n"), verdict: Warning, seen: "pass number 0", mend: "sixth field"},
	{id: "boot.fsck", what: "no pass", control: "systemd-boot", make: put("etc/fstab", "LABEL=BOOT /boot vfat defaults\n"), verdict: Warning, seen: "pass number 0", mend: "sixth field"},
	{id: "boot.fsck", what: "nobody mounts it", control: "systemd-boot", make: put("etc/fstab", "#LABEL=BOOT /boot vfat defaults 0 2\nLABEL=X /boot/x vfat defaults 0 2\n"), verdict: Warning, seen: "neither /etc/fstab nor", mend: "pass number 2"},
	{id: "boot.fsck", what: "a unit without a check", control: "systemd-boot", make: put("etc/systemd/system/boot.mount", "[Unit]\nAfter=systemd-fsck@dev-vda1.service\n[Mount]\nWhat=/dev/vda1\n"), verdict: Warning, seen: "/etc/systemd/system/boot.mount asks for no check", mend: "a drop-in for boot.mount"},
	{id: "boot.fsck", what: "turned off", control: "systemd-boot", make: put("proc/cmdline", "panic=30 drydock.slot=A fsck.mode=skip\n"), verdict: Warning, seen: "fsck.mode=skip", mend: "take it out"},
	{id: "boot.loader", what: "cannot downgrade", control: "systemd-boot", make: func(b *body) { b.variable("LoaderInfo", "systemd-boot 258.1") }, verdict: Warning, seen: "258.1", mend: "bootctl update"},
	{id: "boot.loader", what: "another", control: "systemd-boot", make: func(b *body) { b.variable("LoaderInfo", "GRUB 2.12") }, verdict: Wrong, seen: "GRUB", mend: "slots.control"},
	{id: "boot.loader", what: "none", control: "systemd-boot", make: gone("sys/firmware"), verdict: Wrong, seen: "LoaderInfo", mend: "bootctl status"},
	{id: "boot.pinned", what: "loader.conf", control: "systemd-boot", make: put("boot/loader/loader.conf", "default arch.conf\n"), verdict: Wrong, seen: "arch.conf", mend: "remove"},
	{id: "boot.pinned", what: "variable", control: "systemd-boot", make: func(b *body) { b.variable("LoaderEntryDefault", "arch.conf") }, verdict: Wrong, seen: "LoaderEntryDefault", mend: "remove"},
	{id: "boot.order", what: "not enabled", control: "systemd-boot", make: setUnit(goodUnit, func(u *unit) { u.file = "disabled" }), verdict: Wrong, seen: "disabled", mend: "systemctl enable"},
	{id: "boot.order", what: "not before", control: "systemd-boot", make: setUnit(goodUnit, func(u *unit) { u.before = []string{"x.target"} }), verdict: Wrong, seen: "not before", mend: "drop-in"},
	{id: "boot.order", what: "missing", make: func(b *body) { delete(b.units, goodUnit) }, verdict: Warning, seen: "not-found", mend: "install"},
	{id: "boot.fragment", what: "missing", control: "grub", make: gone("boot/drydock/drydock.cfg"), verdict: Wrong, seen: "drydock.cfg", mend: "copy drydock.cfg"},
	{id: "boot.fragment", what: "not sourced", control: "grub", make: put("boot/grub/grub.cfg", "# source ($root)/drydock/drydock.cfg\nlinux /vmlinuz\n"), verdict: Wrong, seen: "no line sources", mend: "dist/grub/README.md"},
	{id: "boot.fragment", what: "no grub.cfg", control: "grub", make: gone("boot/grub/grub.cfg"), verdict: Unknown, seen: "no grub.cfg", mend: "sources"},
	{id: "boot.grub", what: "old", control: "grub", make: put("boot/grub/i386-pc/modinfo.sh", "grub_version=\"1.99\"\n"), verdict: Wrong, seen: "GRUB 1.99", mend: "newer GRUB"},
	{id: "boot.grub", what: "unknown", control: "grub", make: gone("boot/grub/i386-pc"), verdict: Unknown, seen: "no modules", mend: "as new"},

	{id: "trial.panic", what: "stays", make: func(b *body) {
		b.write("proc/cmdline", "drydock.slot=A\n", 0o644)
		b.write("proc/sys/kernel/panic", "0\n", 0o644)
	}, verdict: Wrong, seen: "does not reboot", mend: "panic=30"},
	{id: "trial.panic", what: "late", make: put("proc/cmdline", "drydock.slot=A\n"), verdict: Warning, seen: "no panic=", mend: "panic=30"},
	{id: "trial.panic", what: "reset", make: put("proc/sys/kernel/panic", "0\n"), verdict: Wrong, seen: "is 0 now", mend: "sysctl.d"},
	{id: "trial.panic", what: "slow", make: put("proc/sys/kernel/panic", "86400\n"), verdict: Warning, seen: "86400", mend: "30"},
	{id: "trial.watchdog", what: "none", make: func(b *body) { b.remove("sys/class/watchdog"); b.remove("dev/watchdog0") }, verdict: Warning, seen: "no watchdog device", mend: "driver"},
	{id: "trial.watchdog", what: "not armed", make: func(b *body) { b.fed = 0; b.write("sys/class/watchdog/watchdog0/state", "inactive\n", 0o644) }, verdict: Wrong, seen: "RuntimeWatchdogSec=0", mend: "10-drydock-watchdog.conf"},
	{id: "trial.watchdog", what: "another's", make: func(b *body) { b.fed = 0 }, verdict: Warning, seen: "not by systemd", mend: "systemd"},
	{id: "trial.watchdog", what: "not taken", make: put("sys/class/watchdog/watchdog0/state", "inactive\n"), verdict: Wrong, seen: "not armed", mend: "journalctl"},
	{id: "trial.guard", what: "missing", make: gone(guardScript), verdict: Wrong, seen: "no /usr/lib/drydock/trial-guard", mend: "package"},
	{id: "trial.guard", what: "not executable", make: func(b *body) { b.mode(guardScript, 0o644) }, verdict: Wrong, seen: "not executable", mend: "chmod 0755"},
	{id: "trial.guard", what: "writable", make: func(b *body) { b.mode(guardScript, 0o777) }, verdict: Wrong, seen: "written by others", mend: "go-w"},
	{id: "trial.timer", what: "missing", make: func(b *body) { delete(b.units, trialTimer) }, verdict: Wrong, seen: "not-found", mend: "systemctl enable --now"},
	{id: "trial.timer", what: "disabled", make: setUnit(trialTimer, func(u *unit) { u.file = "disabled" }), verdict: Wrong, seen: "disabled", mend: "systemctl enable --now"},
	{id: "trial.timer", what: "stopped", make: setUnit(trialTimer, func(u *unit) { u.active = "inactive" }), verdict: Wrong, seen: "inactive", mend: "systemctl enable --now"},
	{id: "trial.timer", what: "no service", make: func(b *body) { delete(b.units, trialUnit) }, verdict: Wrong, seen: trialUnit, mend: "package"},
	{id: "trial.deadline", what: "too early", make: said("trial", "deadline = \"25m\"\n"), verdict: Wrong, seen: "25m", mend: "OnBootSec=30m"},
	{id: "trial.deadline", what: "none", make: setUnit(trialTimer, func(u *unit) { u.onBoot = nil }), verdict: Wrong, seen: "no OnBootSec", mend: "drop-in"},
	{id: "trial.state", what: "elsewhere", make: func(b *body) { b.set("", "state = \"/srv/drydock\"\n") }, verdict: Wrong, seen: "/srv/drydock", mend: "DRYDOCK_STATE=/srv/drydock/memory.json"},
	{id: "trial.coordinated", what: "no guard", make: func(b *body) {
		b.set("reboot", "strategy = \"coordinated\"\n")
		b.set("fleetlock", fmt.Sprintf("url = %q\nca_file = \"/etc/drydock/server-ca.pem\"\n", b.server.URL))
		delete(b.units, trialTimer)
	}, verdict: Wrong, seen: "trial.timer", mend: "reboot.strategy"},
	{id: "trial.coordinated", what: "not coordinated", make: func(b *body) { delete(b.units, trialTimer) }, verdict: Warning, seen: "trial.timer", mend: "mend these"},

	{id: "fleetlock.server", what: "away", make: said("fleetlock", "url = \"http://127.0.0.1:9/\"\n"), verdict: Wrong, seen: "connection refused", mend: "fleetlock.url"},
	{id: "fleetlock.server", what: "another CA", make: func(b *body) { b.set("fleetlock", fmt.Sprintf("url = %q\n", b.server.URL)) }, verdict: Wrong, seen: "x509", mend: "fleetlock.ca_file"},
	{id: "fleetlock.listen", what: "open", make: func(b *body) {
		b.set("fleetlock", "listen = \"0.0.0.0:9999\"\n")
		b.set("cluster", "id = \"prod\"\nendpoints = [\"http://127.0.0.1:9\"]\n")
	}, verdict: Warning, seen: "no certificate", mend: "client_ca_file"},

	{id: "bus.files", what: "missing", make: gone("usr/share/dbus-1/system.d/io.drydock.Drydock1.conf"), verdict: Wrong, seen: "io.drydock.Drydock1.conf", mend: "reload dbus"},
	{id: "bus.files", what: "no actions", make: gone("usr/share/polkit-1"), verdict: Warning, seen: "io.drydock.policy", mend: "package"},
	{id: "bus.logind", what: "away", make: func(b *body) { b.logind = false }, verdict: Wrong, seen: "logind", mend: "systemd-logind.service"},

	{id: "daemon.unit", what: "stopped", make: setUnit(daemonUnit, func(u *unit) { u.active = "failed" }), verdict: Wrong, seen: "failed", mend: "systemctl status drydockd"},
	{id: "daemon.unit", what: "disabled", make: setUnit(daemonUnit, func(u *unit) { u.file = "disabled" }), verdict: Wrong, seen: "disabled", mend: "systemctl enable --now"},
	{id: "daemon.unit", what: "outdated", make: setUnit(daemonUnit, func(u *unit) { u.outdated = true }), verdict: Warning, seen: "changed", mend: "daemon-reload"},
	{id: "daemon.answers", what: "stopped", make: setUnit(daemonUnit, func(u *unit) { u.active = "failed" }), verdict: Wrong, seen: "not running", mend: "journalctl"},
	{id: "daemon.policy", what: "another strategy", make: func(b *body) { b.status.Strategy = "off" }, verdict: Warning, seen: "strategy off", mend: "systemctl reload"},
	{id: "daemon.policy", what: "older", make: setUnit(daemonUnit, func(u *unit) { u.changed = time.Now().Add(-time.Hour) }), verdict: Warning, seen: "was changed", mend: "systemctl reload"},
	{id: "daemon.policy", what: "refused", make: func(b *body) { b.status.Reasons = []updater.Reason{{Kind: "policy", Text: "it is bad"}} }, verdict: Wrong, seen: "it is bad", mend: "reload"},
	{id: "daemon.checked", what: "long ago", make: func(b *body) { b.status.LastChecked, b.status.LastError = time.Now().Add(-48*time.Hour), "no route" }, verdict: Warning, seen: "no route", mend: "drydock explain"},
	{id: "daemon.checked", what: "never", make: func(b *body) { b.status.LastChecked = time.Time{}; b.write("proc/uptime", "900000.0 1.0\n", 0o644) }, verdict: Warning, seen: "never", mend: "server.reachable"},
	{id: "daemon.sandbox", what: "state elsewhere", make: func(b *body) { b.set("", "state = \"/srv/drydock\"\n") }, verdict: Wrong, seen: "state is /srv/drydock", mend: "ReadWritePaths=/srv/drydock"},
	{id: "daemon.sandbox", what: "checks in /home", make: said("health", "directory = \"/home/me/health.d\"\n"), verdict: Wrong, seen: "ProtectHome", mend: "/etc/drydock"},
	{id: "daemon.rivals", what: "update-engine", make: setUnit(upstream, func(u *unit) { u.active = "active" }), verdict: Wrong, seen: "update-engine", mend: "mask --now"},
	{id: "daemon.rivals", what: "locksmithd", make: setUnit(locksmith, func(u *unit) { u.active = "active" }), verdict: Wrong, seen: "locksmithd", mend: "external"},
	{id: "daemon.rivals", what: "in shadow of nobody", make: func(b *body) { b.set("", "shadow = true\n") }, verdict: Wrong, seen: "shadow", mend: "start update-engine"},

	{id: "health.directory", what: "not executable", make: put("etc/drydock/health.d/10-net", "#!/bin/sh\n"), verdict: Warning, seen: "10-net", mend: "chmod 0755"},
	{id: "health.directory", what: "writable", make: func(b *body) { b.write("etc/drydock/health.d/10-net", "#!/bin/sh\n", 0o777) }, verdict: Wrong, seen: "written by others", mend: "go-w"},
	{id: "health.units", what: "missing", make: func(b *body) { delete(b.units, "app.service") }, verdict: Wrong, seen: "app.service is not-found", mend: "health.units"},
	{id: "health.units", what: "failed", make: setUnit("app.service", func(u *unit) { u.active = "failed" }), verdict: Warning, seen: "failed", mend: "systemctl status app.service"},

	{id: "space.state", what: "full", make: func(b *body) { b.set("", "state = \"/boot/state\"\n") }, verdict: Wrong, seen: "left", mend: "free space"},
	{id: "space.state", what: "no directory", make: func(b *body) { b.remove("var/lib/drydock"); b.write("var/lib/drydock", "", 0o644) }, verdict: Wrong, seen: "no directory", mend: "move it away"},
	{id: "space.packages", what: "full", make: said("update", "extra_packages_dir = \"/boot/packages\"\n"), verdict: Warning, seen: "left", mend: "free space"},
	{id: "clock.sane", what: "went back", make: func(b *body) {
		later := time.Now().Add(100 * time.Hour)
		os.Chtimes(b.path("var/lib/drydock/memory.json"), later, later)
	}, verdict: Wrong, seen: "memory.json", mend: "timedatectl"},

	{id: "server.reachable", what: "away", make: func(b *body) { b.set("server", "url = \"http://127.0.0.1:9/\"\n") }, verdict: Wrong, seen: "connection refused", mend: "server.url"},
	{id: "server.reachable", what: "another CA", make: func(b *body) { b.set("server", fmt.Sprintf("url = %q\n", b.server.URL)) }, verdict: Wrong, seen: "x509", mend: "server.ca_file"},
	{id: "server.reachable", what: "proxy away", make: said("server", "proxy = \"http://127.0.0.1:9\"\n"), verdict: Wrong, seen: "connection refused", mend: "proxy"},
}

// A key that is too short to be trusted.
const smallKey = `-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDJBSu7w8J6AHfXU4k0GHTmEgLr
0e4xe6RIIsqTAZHz4yNhulK6/vqquM2RimjQm1SEaHSmvxKGr4GZ5NaOzDKR7und
p2yotfVxOKcq1+Yw/5fqlSNYANXQp0gCutZLTn/eKxrQ96Yq8d7IQ0y4V9/a2/6v
DcgBFNPE5FtVBI9G2wIDAQAB
-----END PUBLIC KEY-----
`

// secret gives the update server a password.
func (b *body) secret(text string, mode os.FileMode) {
	b.write("etc/drydock/password", text, mode)
	b.set("server", b.lines["server"]+"user = \"u\"\npassword_file = \"/etc/drydock/password\"\n")
}

// mountPassive puts the disk on a loop device and says that slot B is mounted.
func mountPassive(b *body) {
	dev := real.Loop(b.t, b.disk)
	var st syscall.Stat_t
	if err := syscall.Stat(dev+"p4", &st); err != nil {
		real.Missing(b.t, "no partitions on "+dev)
	}
	number := deviceNumber(st.Rdev)
	base := strings.TrimPrefix(dev, "/dev/")
	if err := syscall.Stat(dev, &st); err != nil {
		b.t.Fatal(err)
	}
	b.write("sys/dev/block/"+deviceNumber(st.Rdev)+"/"+base+"p4/partition", "4\n", 0o644)
	b.write("proc/self/mountinfo", "21 1 0:20 / / rw - overlay overlay rw\n22 21 "+number+" / /mnt rw - ext4 "+dev+"p4 rw\n", 0o644)
	b.set("slots", fmt.Sprintf("control = \"gptprio\"\ndisk = %q\n", dev))
}

func TestEachIllIsFoundAndItsCureNamed(t *testing.T) {
	for _, i := range ills {
		t.Run(i.id+"/"+i.what, func(t *testing.T) {
			control := i.control
			if control == "" {
				control = "gptprio"
			}
			b := newBody(t, control)
			i.make(b)
			i.found(t, b.examine(func(d *Doctor) { d.Config = b.path("etc/drydock/drydock.toml") }))
		})
	}
}

func (i ill) found(t *testing.T, r Report) {
	t.Helper()
	f := finding(t, r, i.id)
	if f.Verdict != i.verdict || !strings.Contains(f.Seen, i.seen) || !strings.Contains(f.Mend, i.mend) || f.Means == "" {
		t.Errorf("got %+v\nwant %s, seen %q, mend %q", f, i.verdict, i.seen, i.mend)
	}
	if r.Healthy && f.Fails() {
		t.Error("the host is healthy all the same")
	}
}

// A check that nothing makes ill checks nothing. Those named here have tests of
// their own.
func TestEveryCheckHasAnIll(t *testing.T) {
	ill := map[string]bool{"bus.reachable": true, "bus.polkit": true, "daemon.names": true, "clock.synchronised": true,
		"etcd.rights": true, "etcd.space": true}
	for _, i := range slices.Concat(ills, etcdIlls, schedulerIlls) {
		ill[i.id] = true
	}
	for _, c := range all() {
		if !ill[c.id] {
			t.Errorf("nothing makes %s ill", c.id)
		}
	}
}

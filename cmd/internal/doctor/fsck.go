package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	systemd "github.com/coreos/go-systemd/v22/unit"

	"github.com/drydock-os/drydock/updater/policy"
)

// fatKinds are the file systems that keep no journal, and that loaders rename
// kernels on: a power cut leaves lost clusters there, or a name without a file.
var fatKinds = []string{"vfat"}

// fsckFacts are what is known of whether the boot partition is checked at boot.
type fsckFacts struct {
	path     string // where it is mounted
	program  string // fsck.vfat; "": there is none
	skipped  bool   // the kernel's command line turns all checks off
	unit     string // "boot.mount"
	file     string // of the unit that counts; "": there is none
	override bool   // it counts before what /etc/fstab says
	asks     bool   // the unit asks for a check
	line     bool   // /etc/fstab has the partition
	pass     int    // of that line
	err      error
}

func lookFsck(_ context.Context, p *patient) Finding {
	if p.said.Slots.Control == policy.GPTPrio {
		return ok("does not apply: gptprio counts boots in the partition table, no loader renames a kernel")
	}
	boot := p.boot()
	switch {
	case boot.err != nil:
		return because("boot.directory")
	case !slices.Contains(fatKinds, boot.kind):
		return ok("does not apply: %s is %s", boot.path, orElse(boot.kind, "a file system that is not known"))
	}
	return judgeFsck(gatherFsck(p))
}

func judgeFsck(f fsckFacts) Finding {
	warn := func(seen, mend string) Finding {
		return Finding{Verdict: Warning, Seen: seen, Mend: mend,
			Means: "FAT is not checked at boot: a power cut while the loader counts a boot, or while a kernel is written, may leave lost clusters or a name without a file, and nobody mends them: the partition fills up, and in the end no release fits"}
	}
	const pass = "write 2 as the sixth field of its line in /etc/fstab, then systemctl daemon-reload"
	switch {
	case f.err != nil:
		return unread("how "+f.path+" is mounted", f.err)
	case f.program == "":
		return warn("there is no fsck.vfat", "install dosfstools, then systemctl daemon-reload: systemd leaves the check out where its program is not there")
	case f.skipped:
		return warn("the kernel's command line says fsck.mode=skip", "take it out")
	case f.asks && (f.override || !f.line):
		return ok("%s checks it, with %s", f.file, f.program)
	case f.line && !f.override && (f.pass > 0 || f.asks):
		return ok("/etc/fstab has it checked (pass number %d), with %s", f.pass, f.program)
	case f.line && !f.override:
		return warn("in /etc/fstab "+f.path+" has pass number 0", pass)
	case f.file != "":
		return warn(f.file+" asks for no check of "+f.path, fmt.Sprintf("a drop-in for %s: [Unit] Wants=%[2]s and After=%[2]s, where DEVICE is `systemd-escape --path` of its device; or mount it by /etc/fstab, with pass number 2", f.unit, "systemd-fsck@DEVICE.service"))
	}
	return warn("neither /etc/fstab nor a unit of systemd mounts "+f.path, "mount it by /etc/fstab, with pass number 2")
}

// mountDirs are where systemd looks for the unit of a mount, the strongest first
// (systemd.unit(5), "Unit File Load Path"). systemd-fstab-generator(8) writes into
// the one, systemd-gpt-auto-generator(8) into the last.
var mountDirs = []string{"etc/systemd/system.control", "run/systemd/system.control", "run/systemd/transient", "run/systemd/generator.early",
	"etc/systemd/system", "run/systemd/system", fstabUnits, "usr/local/lib/systemd/system", "usr/lib/systemd/system", "lib/systemd/system", "run/systemd/generator.late"}

const fstabUnits = "run/systemd/generator"

func gatherFsck(p *patient) fsckFacts {
	where := p.said.Slots.BootDirectory
	f := fsckFacts{path: where, unit: systemd.UnitNamePathEscape(where) + ".mount"}
	for _, dir := range []string{"usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin"} { // where systemd looks for it
		if info, err := os.Stat(p.path(dir, "fsck.vfat")); f.program == "" && err == nil && info.Mode()&0o111 != 0 {
			f.program = "/" + dir + "/fsck.vfat"
		}
	}
	line, err := p.read("proc/cmdline")
	f.skipped = slices.Contains(strings.Fields(line), "fsck.mode=skip")
	fstab, fstabErr := p.read("etc/fstab")
	if errors.Is(fstabErr, fs.ErrNotExist) {
		fstabErr = nil
	}
	f.line, f.pass = passNumber(fstab, where)
	f.err = errors.Join(err, fstabErr, f.readUnit(p))
	return f
}

// readUnit reads the unit that mounts, and its drop-ins, as far as they say whether
// there is a check. A generator of systemd's asks for one where the partition is to
// be checked and the program is there (shared/generator.c, generator_write_fsck_deps).
func (f *fsckFacts) readUnit(p *patient) error {
	var texts []string
	for i, dir := range mountDirs {
		if text, err := p.read(dir, f.unit); err == nil && f.file == "" {
			f.file, f.override = "/"+filepath.Join(dir, f.unit), i < slices.Index(mountDirs, fstabUnits)
			texts = append(texts, text)
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		dropIns, _ := filepath.Glob(p.path(dir, f.unit+".d", "*.conf")) // patterns of ours
		for _, name := range dropIns {
			text, err := document(name)
			if err != nil {
				return err
			}
			texts = append(texts, string(text))
		}
		for _, kind := range []string{".wants", ".requires"} {
			links, _ := filepath.Glob(p.path(dir, f.unit+kind, checkUnit+"*"))
			f.asks = f.asks || len(links) > 0
		}
	}
	f.asks = f.asks || slices.ContainsFunc(texts, asksForCheck)
	return nil
}

// checkUnit begins the names of systemd's units that run fsck.
const checkUnit = "systemd-fsck@"

// asksForCheck reports whether a line of a unit pulls a check in.
func asksForCheck(text string) bool {
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if slices.Contains([]string{"Wants", "Requires", "BindsTo", "Requisite"}, strings.TrimSpace(key)) && strings.Contains(value, checkUnit) {
			return true
		}
	}
	return false
}

// passNumber finds the line of fstab(5) that mounts at a directory, and its sixth
// field, 0 where there is none. Of two lines the first counts.
func passNumber(fstab, where string) (found bool, pass int) {
	for line := range strings.Lines(fstab) {
		fields := strings.Fields(line)
		if len(fields) < 2 || strings.HasPrefix(fields[0], "#") || filepath.Clean(unescape(fields[1])) != filepath.Clean(where) {
			continue
		}
		if len(fields) > 5 {
			pass, _ = strconv.Atoi(fields[5]) // what is no number is none for systemd either
		}
		return true, pass
	}
	return false, 0
}

// unescape undoes what getmntent(3) does to spaces and the like.
func unescape(field string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(field)
}

package partition

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drydock-os/drydock/testdata/real"
)

// A guardTree is an initrd for dist/lib/verity-guard, whose programs only say that
// they were called; dd reads, and the kernel and dm-verity are files.
type guardTree struct{ base, root string }

func newGuardTree(t *testing.T, cmdline string, verified bool) guardTree {
	t.Helper()
	g := guardTree{base: t.TempDir()}
	g.root = filepath.Join(g.base, "root")
	g.write(t, "proc/cmdline", cmdline+"\n")
	g.write(t, "proc/self/mountinfo", "22 1 0:2 / / rw - rootfs rootfs rw\n30 22 253:0 / "+g.root+" ro,relatime shared:1 - squashfs /dev/mapper/root ro\n31 30 254:6 /var "+g.root+"/var rw - ext4 /dev/vda6 rw\n")
	g.write(t, "proc/sysrq-trigger", "")
	g.write(t, "root/etc/fstab", "# comment\n/dev/vda9 /data ext4 defaults 0 2\nPARTLABEL=ESP /boot vfat umask=0077 0 2\n")
	g.write(t, "dev/mapper/root", "whole")
	g.write(t, "root/var/x", "")
	if verified {
		g.write(t, "sys/dev/block/253:0/dm/uuid", "CRYPT-VERITY-00-root\n")
	}
	for name, script := range map[string]string{
		"boot-slot":  "echo A",
		"bin/mount":  `echo "mount $*" >&2`,
		"bin/umount": `echo "umount $*" >&2`,
		"bin/chroot": `echo "chroot $*" >&2; exit "${DISCARDED:-0}"`,
		"bin/sleep":  "exit 0",
	} {
		at := "usr/lib/drydock/" + name
		g.write(t, at, "#!/bin/sh\n"+script+"\n")
		if err := os.Chmod(filepath.Join(g.base, at), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return g
}

func (g guardTree) write(t *testing.T, name, content string) {
	t.Helper()
	path := filepath.Join(g.base, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// run runs the guard in a shell. What it prints is for a program, what it says for
// people.
func (g guardTree) run(t *testing.T, shell, discarded string, args ...string) (printed, said string, code int) {
	t.Helper()
	cmd := exec.Command(real.Program(t, shell), append([]string{filepath.Join(real.Module(t), "dist/lib/verity-guard")}, args...)...)
	cmd.Env = []string{"PATH=" + filepath.Join(g.base, "usr/lib/drydock/bin") + ":/usr/bin:/bin", "DRYDOCK_ROOT=" + g.base, "DISCARDED=" + discarded}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	exit := new(exec.ExitError)
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
}

func TestVerityGuardKnowsATrial(t *testing.T) {
	counted := "sys/firmware/efi/efivars/LoaderBootCountPath-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
	for _, c := range []struct {
		cmdline, variable string
		trial             bool
	}{
		{"ro drydock.slot=A drydock.trial=1 quiet", "", true},
		{"ro drydock.slot=A drydock.trial=0 quiet", "", false},
		{"ro drydock.slot=A drydock.trial=", "", false},
		{"quiet", counted, true},
		{"quiet", "", false},
		{"drydock.trial=0", counted, false},
		{"xdrydock.trial=1 drydock.trial=10", "", false},
		{"", "", false},
	} {
		for _, shell := range []string{"dash", "bash"} {
			g := newGuardTree(t, c.cmdline, true)
			if c.variable != "" {
				g.write(t, c.variable, "\x06\x00\x00\x00x\x00")
			}
			want, lost := "", 4
			if c.trial {
				want, lost = "--panic-on-corruption\n", 0
			}
			if out, said, code := g.run(t, shell, "0", "options"); out != want || said != "" || code != 0 {
				t.Errorf("%s %+v: options %q %q %d", shell, c, out, said, code)
			}
			// What cannot be mounted ends a trial, and stops a good slot.
			if _, said, code := g.run(t, shell, "0", "lost"); code != lost || (lost == 4) != strings.Contains(said, "HALTED: slot A, which was good, cannot be opened or mounted") {
				t.Errorf("%s %+v: lost: %d %q", shell, c, code, said)
			}
		}
	}
}

// A good slot that does not come up is read, left for a good one, or halted, and
// is never booted for ever.
func TestVerityGuardDoesNotLoop(t *testing.T) {
	const left = "the other slot holds a release that was good: restarting into it"
	for _, c := range []struct {
		name      string
		boots     string // the file, before
		damaged   bool
		discarded string // exit status of drydockd
		want      string // part of what it says, or "" for nothing
		code      int
		after     string // the file
		restarts  bool
	}{
		{name: "the boot before came up", damaged: true, after: "1"},
		{name: "it did not, and the slot is whole", boots: "1\n", want: "slot A is whole", after: "2"},
		{name: "it did not, and the slot is damaged", boots: "1\n", damaged: true, want: left, code: 1, after: "2", restarts: true},
		{name: "no other slot, first time", boots: "1\n", damaged: true, discarded: "3", want: "trying slot A all the same", after: "2"},
		{name: "no other slot, second time", boots: "2\n", damaged: true, discarded: "3", want: "trying slot A all the same", after: "3"},
		{name: "no other slot, third time", boots: "3\n", damaged: true, discarded: "3", want: "HALTED: slot A is damaged, and did not come up 3 times", code: 4, after: "4"},
		{name: "drydockd does not know", boots: "9\n", damaged: true, discarded: "1", want: "HALTED: ", code: 4, after: "10"},
		{name: "whole, whatever else stops it", boots: "9\n", want: "slot A is whole", after: "10"},
		{name: "torn file", boots: "\x00\x00", damaged: true, want: left, code: 1, after: "2", restarts: true},
		{name: "empty file", boots: "", damaged: true, want: left, code: 1, after: "2", restarts: true},
	} {
		for _, shell := range []string{"dash", "bash"} {
			g := newGuardTree(t, "drydock.trial=0", true)
			if c.name != "the boot before came up" {
				g.write(t, "root/var/lib/drydock/boots", c.boots)
			}
			if c.damaged {
				if err := os.Remove(filepath.Join(g.base, "dev/mapper/root")); err != nil {
					t.Fatal(err)
				}
			}
			out, said, code := g.run(t, shell, c.discarded, "check", g.root)
			if code != c.code || out != "" || !strings.Contains(said, c.want) || c.want == "" && said != "" {
				t.Errorf("%s: %s: %d %q %q, want %d %q", shell, c.name, code, out, said, c.code, c.want)
			}
			if got := strings.TrimSpace(readString(t, filepath.Join(g.root, "var/lib/drydock/boots"))); got != c.after {
				t.Errorf("%s: %s: counted %q, want %q", shell, c.name, got, c.after)
			}
			if restarts := readString(t, filepath.Join(g.base, "proc/sysrq-trigger")) == "b\n"; restarts != c.restarts {
				t.Errorf("%s: %s: restarts %v", shell, c.name, restarts)
			}
			if asked := strings.Contains(said, "chroot "+g.root+" /run/drydockd discard-damaged"); asked != (c.damaged && c.boots+c.after != "1") {
				t.Errorf("%s: %s: drydockd asked: %v: %s", shell, c.name, asked, said)
			}
			if strings.Contains(said, "chroot") && !strings.Contains(said, "mount -t vfat "+"/dev/disk/by-partlabel/ESP "+g.root+"/boot\n") {
				t.Errorf("%s: %s: the boot loader's partition is not mounted: %s", shell, c.name, said)
			}
		}
	}
}

// What is on its trial, or is not verified, is none of its business.
func TestVerityGuardLeavesOthersAlone(t *testing.T) {
	for _, g := range []guardTree{newGuardTree(t, "drydock.trial=1", true), newGuardTree(t, "drydock.trial=0", false)} {
		out, said, code := g.run(t, "dash", "0", "check", g.root)
		if _, err := os.Stat(filepath.Join(g.root, "var/lib/drydock/boots")); err == nil || out+said != "" || code != 0 {
			t.Errorf("%d %q %q, boots: %v", code, out, said, err)
		}
	}
}

// Boots that cannot be counted are read in full: one that does not come up would
// never be known.
func TestVerityGuardReadsWhatItCannotCount(t *testing.T) {
	g := newGuardTree(t, "drydock.trial=0", true)
	g.write(t, "root/var/lib/drydock", "no directory")
	if _, said, code := g.run(t, "dash", "0", "check", g.root); code != 0 || !strings.Contains(said, "cannot count boots") || !strings.Contains(said, "slot A is whole") {
		t.Errorf("%d %q", code, said)
	}
}

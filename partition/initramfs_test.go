package partition

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drydock-os/drydock/testdata/real"
)

// initramfs is a root directory like that of initramfs-tools with busybox, with our
// script of it, and a veritysetup that says what it was told and does as it is
// told: it "opens" a root, or fails.
func initramfs(t *testing.T, cmdline, veritysetup string) string {
	t.Helper()
	real.Root(t)
	busybox, root := real.Program(t, "busybox"), t.TempDir()
	for _, dir := range []string{"bin", "proc", "dev/drydock", "dev/mapper", "usr/lib/drydock", "scripts"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	dist := filepath.Join(real.Module(t), "dist")
	for to, from := range map[string]string{
		"bin/busybox": busybox, "scripts/drydock": dist + "/initrd/initramfs-tools/scripts/local-top/drydock",
		"usr/lib/drydock/verity-guard": dist + "/lib/verity-guard", "usr/lib/drydock/boot-slot": dist + "/lib/boot-slot",
	} {
		if err := os.WriteFile(filepath.Join(root, to), []byte(readString(t, from)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	libraries, _ := exec.Command("ldd", busybox).Output() // none, where it is static
	for _, library := range regexp.MustCompile(`/\S+`).FindAllString(string(libraries), -1) {
		to := filepath.Join(root, library)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, []byte(readString(t, library)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "chroot", root, "/bin/busybox", "--install", "-s", "/bin")
	for name, text := range map[string]string{"proc/cmdline": cmdline + "\n", "bin/veritysetup": "#!/bin/sh\necho \"veritysetup $*\"\n" + veritysetup + "\n"} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mknod(filepath.Join(root, "dev/drydock/root"), syscall.S_IFBLK|0o600, int(unix.Mkdev(7, 200))); err != nil {
		t.Fatal(err)
	}
	return root
}

// localTop runs the script and returns what it says within two seconds, in which a
// machine that halts says why.
func localTop(t *testing.T, root string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "chroot", root, "/bin/sh", "/scripts/drydock")
	cmd.Env = []string{"PATH=/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil && ctx.Err() == nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	return out.String()
}

// The root is opened as the command line says, but what a bad block does depends on
// whether this is a trial.
func TestInitramfsOpensAVerifiedRoot(t *testing.T) {
	const words = "root=/dev/mapper/root roothash=12ab systemd.verity_root_data=/dev/drydock/root systemd.verity_root_hash=/dev/drydock/root systemd.verity_root_options=hash-offset=4096,panic-on-corruption"
	const opened = "veritysetup open /dev/drydock/root root /dev/drydock/root 12ab --hash-offset=4096"
	const opens = "echo a root >/dev/mapper/root"
	for _, c := range []struct {
		name, cmdline, veritysetup, want string
		halts                            bool
	}{
		{name: "good", cmdline: words + " drydock.trial=0", veritysetup: opens, want: opened + "\n"},
		{name: "on trial", cmdline: words + " drydock.trial=1", veritysetup: opens, want: opened + " --panic-on-corruption\n"},
		{name: "nobody says which", cmdline: words, veritysetup: opens, want: opened + "\n"},
		{name: "not verified", cmdline: "root=/dev/drydock/root drydock.trial=1", veritysetup: opens, want: ""},
		{name: "good, no hash tree", cmdline: words + " drydock.trial=0 drydock.slot=B", veritysetup: "exit 1", want: "HALTED: slot B, which was good, cannot be opened", halts: true},
		{name: "good, first block unreadable", cmdline: words + " drydock.trial=0 drydock.slot=B", want: "HALTED: slot B, which was good, cannot be opened", halts: true},
		{name: "on trial, no hash tree", cmdline: words + " drydock.trial=1", veritysetup: "exit 1", want: "the root is not verified and not mounted"},
	} {
		said := localTop(t, initramfs(t, c.cmdline, c.veritysetup))
		if !strings.Contains(said, c.want) || c.want == "" && said != "" || strings.HasSuffix(c.want, "\n") && said != c.want || strings.Contains(said, "HALTED") != c.halts {
			t.Errorf("%s: %q, want %q", c.name, said, c.want)
		}
	}
}

package partition

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/drydock-os/drydock/testdata/real"
)

// bootSlots are boots, and the slot that dist/lib/boot-slot must find, or what it
// must say.
var bootSlots = []struct {
	name     string
	cmdline  string
	selected string // LoaderEntrySelected; "" for none
	stub     string // StubImageIdentifier
	bios     bool
	want     string // "A", "B", or a part of the refusal
}{
	{name: "GRUB", cmdline: "root=PARTLABEL=ROOT-B ro drydock.slot=B quiet", bios: true, want: "B"},
	{name: "GRUB, lower case", cmdline: "drydock.slot=a", bios: true, want: "A"},
	{name: "good entry", cmdline: "quiet", selected: "drydock-a.efi", want: "A"},
	{name: "entry on trial", cmdline: "quiet", selected: "drydock-b+3.efi", want: "B"},
	{name: "entry tried before", cmdline: "quiet", selected: "drydock-b+2-1.efi", want: "B"},
	{name: "entry of tries spent", cmdline: "quiet", selected: "drydock-b+0-3.efi", want: "B"},
	{name: "entry without its suffix", cmdline: "quiet", selected: "drydock-b", want: "B"},
	{name: "name in capitals", cmdline: "quiet", selected: "DRYDOCK-A+3.EFI", want: "A"},
	{name: "stub alone", cmdline: "quiet", stub: `\EFI\Linux\drydock-b+2-1.efi`, want: "B"},
	{name: "loader and stub", cmdline: "quiet", selected: "drydock-b.efi", stub: `\EFI\Linux\drydock-b+2-1.efi`, want: "B"},
	{name: "all three", cmdline: "drydock.slot=A", selected: "drydock-a.efi", stub: `\EFI\Linux\drydock-a.efi`, want: "A"},
	{name: "GRUB below EFI", cmdline: "drydock.slot=B", selected: "debian.conf", want: "B"},
	{name: "loader and stub differ", cmdline: "quiet", selected: "drydock-a.efi", stub: `\EFI\Linux\drydock-b.efi`,
		want: "the EFI variable LoaderEntrySelected names slot A, and the EFI variable StubImageIdentifier names slot B"},
	{name: "release that names its slot, in the other", cmdline: "drydock.slot=A", selected: "drydock-b+2-1.efi", want: "names slot A, and the EFI variable LoaderEntrySelected names slot B"},
	{name: "command line names both", cmdline: "drydock.slot=A drydock.slot=B", want: "names slot A, and the kernel's command line names slot B"},
	{name: "command line names another", cmdline: "drydock.slot=C", selected: "drydock-a.efi", want: "want drydock.slot=A or drydock.slot=B"},
	{name: "nothing, BIOS", cmdline: "quiet", bios: true, want: "not started by EFI"},
	{name: "variables not mounted", cmdline: "quiet", want: "mount -t efivarfs efivarfs /sys/firmware/efi/efivars"},
	{name: "entry of another", cmdline: "quiet", selected: "debian-6.1.efi", want: "no EFI variable names an entry"},
	{name: "entry like ours", cmdline: "quiet", selected: "drydock-b+x.efi", want: "no EFI variable names an entry"},
	{name: "counter of two signs", cmdline: "quiet", selected: "drydock-b+1-2-3.efi", want: "no EFI variable names an entry"},
	{name: "letter that ends in ours", cmdline: "quiet", selected: "drydock-bé.efi", want: "no EFI variable names an entry"},
	{name: "pattern", cmdline: "* drydock.slot=? quiet", want: "want drydock.slot=A"},
	{name: "empty command line", cmdline: "", want: "mount -t efivarfs"},
}

func TestBootSlotSaysWhatStartedTheKernel(t *testing.T) {
	for _, shell := range []string{"dash", "busybox", "bash"} {
		program := real.Program(t, shell)
		for _, test := range bootSlots {
			t.Run(shell+"/"+test.name, func(t *testing.T) {
				root := bootTree(t, test.cmdline, test.bios, map[string]string{"LoaderEntrySelected": test.selected, "StubImageIdentifier": test.stub})
				args := []string{program, filepath.Join(real.Module(t), "dist/lib/boot-slot")}
				if shell == "busybox" {
					args = []string{program, "sh", args[1]}
				}
				checkBootSlot(t, exec.Command(args[0], args[1:]...), root, test.want)
			})
		}
	}
}

func checkBootSlot(t *testing.T, cmd *exec.Cmd, root, want string) {
	t.Helper()
	var out, said strings.Builder
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), "DRYDOCK_ROOT="+root), &out, &said
	err := cmd.Run()
	if _, named := ParseSlot(want); named == nil {
		if err != nil || out.String() != want+"\n" || said.Len() > 0 {
			t.Errorf("printed %q, said %q: %v; want %s", out.String(), said.String(), err, want)
		}
		return
	}
	if err == nil || cmd.ProcessState.ExitCode() != 1 || out.Len() > 0 || !strings.Contains(said.String(), want) {
		t.Errorf("printed %q, said %q: %v; want a refusal with %q", out.String(), said.String(), err, want)
	}
}

// bootTree is what /proc and /sys show of a boot. The variables are as efivarfs
// shows them: attributes, then UTF-16LE with a NUL.
func bootTree(t *testing.T, cmdline string, bios bool, variables map[string]string) string {
	t.Helper()
	root := t.TempDir()
	vars := filepath.Join(root, "sys/firmware/efi/efivars")
	for _, dir := range []string{filepath.Join(root, "proc"), vars} {
		if bios && dir == vars {
			continue
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	files := map[string][]byte{filepath.Join(root, "proc/cmdline"): []byte(cmdline + "\n")}
	for name, value := range variables {
		if value == "" {
			continue
		}
		data := []byte{6, 0, 0, 0}
		for _, unit := range utf16.Encode([]rune(value + "\x00")) {
			data = append(data, byte(unit), byte(unit>>8))
		}
		files[filepath.Join(vars, name+"-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f")] = data
	}
	for path, data := range files {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// Without /proc nothing is known, whatever the variables say.
func TestBootSlotNeedsProc(t *testing.T) {
	cmd := exec.Command(real.Program(t, "dash"), filepath.Join(real.Module(t), "dist/lib/boot-slot"))
	checkBootSlot(t, cmd, t.TempDir(), "mount /proc first")
}

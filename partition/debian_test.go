package partition

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/drydock-os/drydock/testdata/real"
)

// debianBlocks are the named blocks of dist/debian.md: commands, and files that
// they install.
func debianBlocks(t *testing.T) map[string]string {
	t.Helper()
	text := readString(t, filepath.Join(real.Module(t), "dist/debian.md"))
	blocks := map[string]string{}
	for _, m := range regexp.MustCompile("(?ms)^```sh (\\S+)\n(.*?)^```").FindAllStringSubmatch(text, -1) {
		blocks[m[1]] = m[2]
	}
	return blocks
}

// shell runs a block in a directory, with variables, as a reader would.
func shell(t *testing.T, dir, block string, variables ...string) {
	t.Helper()
	cmd := exec.Command(real.Program(t, "sh"), "-eu")
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(block)
	cmd.Env = append(append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin"), variables...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s\n%v\n%s", block, err, out)
	}
}

func TestDebianCommandsParse(t *testing.T) {
	blocks := debianBlocks(t)
	for _, name := range []string{"disk", "machine", "release", "uki", "payload", "install", "systemd-boot", "grub", "verity", "verity-grub"} {
		block, ok := blocks[name]
		if !ok {
			t.Errorf("no block %q", name)
			continue
		}
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(block), 0o600); err != nil {
			t.Fatal(err)
		}
		run(t, real.Program(t, "sh"), "-n", path)
	}
	path := filepath.Join(t.TempDir(), "grub.cfg")
	if err := os.WriteFile(path, []byte(blocks["grub.cfg"]), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, real.Program(t, "grub-script-check"), path)
}

// The disk that debian.md makes has the slots that drydockd looks for, where its
// grub.cfg says that they are.
func TestDebianDiskHasTheSlotsThatGRUBIsTold(t *testing.T) {
	real.Program(t, "sgdisk")
	blocks, dir := debianBlocks(t), t.TempDir()
	image := filepath.Join(dir, "disk.img")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 2048*mib); err != nil {
		t.Fatal(err)
	}
	shell(t, dir, blocks["disk"], "DISK="+image, "SLOT=64M")
	disk, err := OpenDisk(image)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { disk.Close() })
	table, err := ReadGPT(disk)
	if err != nil {
		t.Fatal(err)
	}
	slots, err := table.FindSlots(Layout{Labels: [2]string{"ROOT-A", "ROOT-B"}})
	if err != nil {
		t.Fatal(err)
	}
	for s, e := range slots {
		want := "set drydock_part_" + Slot(s).String() + "=gpt" + string(rune('0'+e.Number)) + "\n"
		if !strings.Contains(blocks["grub.cfg"], want) {
			t.Errorf("grub.cfg has no %q: partition %d is %s", want, e.Number, e.Label)
		}
	}
}

// The hash tree that debian.md puts behind a file system verifies it, and GRUB is
// told the options where its block list looks.
func TestDebianVerityIsBehindTheFileSystem(t *testing.T) {
	verity, mkfs := real.Program(t, "veritysetup"), real.Program(t, "mkfs.ext4")
	blocks, dir := debianBlocks(t), t.TempDir()
	image := filepath.Join(dir, "root.img")
	run(t, mkfs, "-q", "-b", "4096", "-O", "^has_journal", image, "8M")
	shell(t, dir, blocks["verity"]+blocks["verity-grub"], "SLOT=16M")
	hash := strings.TrimSpace(readString(t, filepath.Join(dir, "roothash")))
	run(t, verity, "verify", image, image, hash, "--hash-offset=8388608")
	data := readString(t, image)
	if len(data) != 16*mib {
		t.Fatalf("image of %d bytes, want that of its slot", len(data))
	}
	behind := data[16*mib-4096:] // the block list 32760+8
	if !strings.HasPrefix(behind, "set drydock_slot_options=\"root=/dev/mapper/root roothash="+hash+" ") || !strings.Contains(behind, "hash-offset=8388608\"\n") {
		t.Errorf("the last 4 KiB begin %.400q", behind)
	}
	f, err := os.OpenFile(image, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("x"), 5*mib); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(verity, "verify", image, image, hash, "--hash-offset=8388608").CombinedOutput(); err == nil {
		t.Errorf("a changed byte verifies: %s", out)
	}
}

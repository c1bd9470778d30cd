package partition

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drydock-os/drydock/testdata/real"
)

// loads are what the fragment asks GRUB to load, with what grub.cfg set before.
var loads = []struct {
	name string
	set  string // in grub.cfg
	slot Slot
	want string // "linux", its words, "initrd" and its file, and "boot" where it came so far
}{
	{name: "kernel of the boot partition", slot: A,
		want: "linux (hd0,gpt1)/drydock/vmlinuz-a root=PARTLABEL=ROOT-A ro panic=30 drydock.slot=A drydock.trial=1|boot"},
	{name: "no kernel on the boot partition", slot: B,
		want: "linux (hd0,gpt1)/drydock/vmlinuz-b root=PARTLABEL=ROOT-B ro panic=30 drydock.slot=B drydock.trial=1"},
	{name: "kernel of slot A", set: inSlots + "set drydock_options=\"quiet x=y\"", slot: A,
		want: "linux (hd0,gpt4)/vmlinuz root=PARTLABEL=ROOT-A ro panic=30 drydock.slot=A drydock.trial=1 quiet x=y|initrd (hd0,gpt4)/initrd.img|boot"},
	{name: "no initrd in slot B", set: inSlots, slot: B,
		want: "linux (hd0,gpt5)/vmlinuz root=PARTLABEL=ROOT-B ro panic=30 drydock.slot=B drydock.trial=1|initrd (hd0,gpt5)/initrd.img"},
	{name: "no initrd asked for", set: inSlots + "set drydock_initrd=", slot: B,
		want: "linux (hd0,gpt5)/vmlinuz root=PARTLABEL=ROOT-B ro panic=30 drydock.slot=B drydock.trial=1|boot"},
	{name: "release's own options", set: inSlots + "set drydock_slot_cfg=/boot/drydock-slot.cfg", slot: A,
		want: "linux (hd0,gpt4)/vmlinuz root=PARTLABEL=ROOT-A ro panic=30 drydock.slot=A drydock.trial=1 roothash=12 z|initrd (hd0,gpt4)/initrd.img|boot"},
	{name: "release without options of its own gets none of another", set: inSlots + "set drydock_slot_cfg=/boot/drydock-slot.cfg\nset drydock_slot_options=stale", slot: B,
		want: "linux (hd0,gpt5)/vmlinuz root=PARTLABEL=ROOT-B ro panic=30 drydock.slot=B drydock.trial=1|initrd (hd0,gpt5)/initrd.img"},
	{name: "release's own options behind its file system", set: inSlots + "set drydock_slot_cfg=16376+8", slot: A,
		want: "linux (hd0,gpt4)/vmlinuz root=PARTLABEL=ROOT-A ro panic=30 drydock.slot=A drydock.trial=1 roothash=34 y|initrd (hd0,gpt4)/initrd.img|boot"},
	{name: "nothing behind the file system", set: inSlots + "set drydock_initrd=\nset drydock_slot_cfg=16376+8", slot: B,
		want: "linux (hd0,gpt5)/vmlinuz root=PARTLABEL=ROOT-B ro panic=30 drydock.slot=B drydock.trial=1|boot"},
	{name: "no such partition", set: inSlots + "set drydock_part_A=gpt9", slot: A,
		want: "linux (hd0,gpt9)/vmlinuz root=PARTLABEL=ROOT-A ro panic=30 drydock.slot=A drydock.trial=1"},
	{name: "partitions not named", set: "set drydock_kernel=/vmlinuz", slot: A,
		want: "linux (hd0,)/vmlinuz root=PARTLABEL=ROOT-A ro panic=30 drydock.slot=A drydock.trial=1"},
	{name: "slot A is good, and B is not", set: "set drydock_A_good=1\nset drydock_B_good=0", slot: A,
		want: "linux (hd0,gpt1)/drydock/vmlinuz-a root=PARTLABEL=ROOT-A ro panic=30 drydock.slot=A drydock.trial=0|boot"},
	{name: "slot A is good, and B is booted", set: "set drydock_A_good=1\nset drydock_B_good=0", slot: B,
		want: "linux (hd0,gpt1)/drydock/vmlinuz-b root=PARTLABEL=ROOT-B ro panic=30 drydock.slot=B drydock.trial=1"},
	{name: "slot B is good", set: "set drydock_B_good=1", slot: B,
		want: "linux (hd0,gpt1)/drydock/vmlinuz-b root=PARTLABEL=ROOT-B ro panic=30 drydock.slot=B drydock.trial=0"},
	{name: "other labels", set: inSlots + "set drydock_label_A=USR-A", slot: A,
		want: "linux (hd0,gpt4)/vmlinuz root=PARTLABEL=USR-A ro panic=30 drydock.slot=A drydock.trial=1|initrd (hd0,gpt4)/initrd.img|boot"},
}

const inSlots = "set drydock_kernel=/vmlinuz\nset drydock_initrd=/initrd.img\nset drydock_part_A=gpt4\nset drydock_part_B=gpt5\n"

// TestGRUBFragmentLoadsOnlyWhatIsThere runs the fragment's boot in GRUB itself,
// on a disk with a boot partition and two slots. grub-emu has no loader: linux
// and initrd are functions here, which succeed when GRUB finds their file, and
// GRUB's own boot says that it was called and has no kernel.
func TestGRUBFragmentLoadsOnlyWhatIsThere(t *testing.T) {
	disk := grubDisk(t)
	for _, test := range loads {
		t.Run(test.name, func(t *testing.T) {
			disk.write(t, "BOOT", map[string]string{
				"drydock/drydock.cfg": readString(t, fragment(t)),
				"drydock/vmlinuz-a":   "kernel",
				"boot/grub/grub.cfg":  loadScript(test.set, test.slot),
			})
			out := disk.run(t)
			var got []string
			for _, called := range strings.Split(out, "CALLED;")[1:] {
				called, _, _ = strings.Cut(called, ";END")
				got = append(got, strings.Join(strings.Fields(strings.ReplaceAll(called, ";", " ")), " "))
			}
			if strings.Contains(out, "you need to load the kernel first") {
				got = append(got, "boot")
			}
			if strings.Join(got, "|") != test.want {
				t.Errorf("GRUB did %q\nwant %q\n%s", strings.Join(got, "|"), test.want, out)
			}
		})
	}
}

// loadScript is a grub.cfg that boots a slot with stand-ins for the loader.
func loadScript(set string, s Slot) string {
	var b strings.Builder
	for _, command := range []string{"linux", "initrd"} {
		fmt.Fprintf(&b, "function %s {\n  echo \"CALLED;%s;$1;$2;$3;$4;$5;$6;$7;$8;$9;END\"\n  if [ -f \"$1\" ]; then\n    true\n  else\n    false\n  fi\n}\n", command, command)
	}
	fmt.Fprintf(&b, "search --no-floppy --set=drydock_root --label BOOT\n%s\nsource ($drydock_root)/drydock/drydock.cfg\nset drydock_slot=%s\ndrydock_boot\nexit\n", set, s)
	return b.String()
}

// fileSystemSize leaves the last 4 KiB of a slot free: sectors 16376 to 16383.
const fileSystemSize = 8*mib - 4096

// An emuDisk is a GPT disk for grub-emu.
type emuDisk struct {
	dir, image string
	at         map[string]int64 // where partitions begin, in bytes
}

// grubDisk makes a disk with BOOT, and slots of which A has all that a slot may
// have, and B only a kernel.
func grubDisk(t *testing.T) emuDisk {
	dir := t.TempDir()
	d := emuDisk{dir: dir, image: filepath.Join(dir, "disk.img"), at: map[string]int64{}}
	if err := os.WriteFile(d.image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(d.image, 40*mib); err != nil {
		t.Fatal(err)
	}
	run(t, real.Program(t, "sgdisk"), "-n", "1:1M:+8M", "-c", "1:BOOT", "-n", "4:9M:+8M", "-c", "4:ROOT-A", "-n", "5:17M:+8M", "-c", "5:ROOT-B", d.image)
	d.at = map[string]int64{"BOOT": 1 * mib, "ROOT-A": 9 * mib, "ROOT-B": 17 * mib}
	if err := os.WriteFile(filepath.Join(dir, "map"), []byte("(hd0) "+d.image+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.write(t, "ROOT-A", map[string]string{
		"boot/vmlinuz-6.1":      "kernel",
		"vmlinuz":               "-> boot/vmlinuz-6.1",
		"initrd.img":            "initrd",
		"boot/drydock-slot.cfg": "set drydock_slot_options=\"roothash=12 z\"\n",
	})
	d.write(t, "ROOT-B", map[string]string{"vmlinuz": "kernel"})
	f, err := os.OpenFile(d.image, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	behind := "set drydock_slot_options=\"roothash=34 y\"\n"
	if _, err := f.WriteAt([]byte(behind), d.at["ROOT-A"]+fileSystemSize); err != nil {
		t.Fatal(err)
	}
	return d
}

// write makes the file system of a partition, with files or "-> " links.
func (d emuDisk) write(t *testing.T, label string, files map[string]string) {
	t.Helper()
	tree := t.TempDir()
	for name, data := range files {
		path := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		to, link := strings.CutPrefix(data, "-> ")
		err := error(nil)
		if link {
			err = os.Symlink(to, path)
		} else {
			err = os.WriteFile(path, []byte(data), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	run(t, real.Program(t, "mkfs.ext4"), "-q", "-F", "-L", label, "-d", tree, "-E", fmt.Sprintf("offset=%d", d.at[label]), d.image, fmt.Sprint(fileSystemSize/1024, "k"))
}

// run starts grub-emu from the BOOT partition and returns what it printed,
// without its breaks of lines at the terminal's width, which may eat blanks.
func (d emuDisk) run(t *testing.T) string {
	t.Helper()
	cmd := exec.Command(real.Program(t, "grub-emu"), "-m", filepath.Join(d.dir, "map"), "-r", "hd0,gpt1", "-d", "/boot/grub")
	cmd.Env = append(os.Environ(), "TERM=dumb")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("grub-emu: %v\n%s", err, out)
	}
	return strings.NewReplacer("\r", "", "\n", "").Replace(string(out))
}

func readString(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// With kernels in the slots a release brings none, and is staged without.
func TestGRUBStagesAReleaseWithoutAKernel(t *testing.T) {
	boot, err := OpenPlainDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { boot.Close() })
	c := GRUB{Dir: anyFileSystem{boot}}
	if err := c.Init(Table{}.Good(A)); err != nil {
		t.Fatal(err)
	}
	for _, s := range []Slot{B, A, B} {
		table, err := c.Table()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.SetTable(table.Discard(s)); err != nil {
			t.Fatal(err)
		}
		if path, err := c.PlaceKernel(s); path != "" || err != nil {
			t.Fatalf("PlaceKernel(%s): %q, %v", s, path, err)
		}
		if err := c.SetTable(table.Discard(s).Stage(s, 1)); err != nil {
			t.Fatalf("stage %s: %v", s, err)
		}
		if booted, err := c.Boot(); err != nil || booted != s {
			t.Fatalf("booted %s: %v, want %s", booted, err, s)
		}
		if table, err = c.Table(); err != nil {
			t.Fatal(err)
		}
		if err := c.SetTable(table.Good(s)); err != nil {
			t.Fatalf("good %s: %v", s, err)
		}
	}
}

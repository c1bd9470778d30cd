package cli

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/testdata/real"
)

// bootPartition is a mounted ext4 of its own, as GRUB has one. Each kernel that
// runs tests can mount that; not each has vfat.
func bootPartition(t *testing.T) (dir string) {
	t.Helper()
	real.Root(t)
	image, dir := filepath.Join(t.TempDir(), "boot.img"), t.TempDir()
	if err := os.WriteFile(image, make([]byte, 16<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(real.Program(t, "mkfs.ext4"), "-q", image).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	dev := real.Loop(t, image)
	if out, err := exec.Command(real.Program(t, "mount"), dev, dir).CombinedOutput(); err != nil {
		real.Missing(t, "mount: "+string(out))
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}

// grubTable is what drydockd reads on that partition, and what GRUB boots.
func grubTable(t *testing.T, dir string) (partition.Table, partition.Slot) {
	t.Helper()
	boot, err := partition.OpenBootDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer boot.Close()
	c := partition.GRUB{Dir: boot}
	table, err := c.Table()
	if err != nil {
		t.Fatal(err)
	}
	next, err := c.Boot()
	if err != nil {
		t.Fatal(err)
	}
	return table, next
}

// No command made the environment block, so that no machine with
// slots.control = "grub" could be put into service.
func TestGRUBMachineIsPutIntoService(t *testing.T) {
	dir := bootPartition(t)
	code, out, errs := run(t.Context(), "slots", "init", "--control", "grub", "--boot", dir)
	if code != 0 || !strings.Contains(out, "Next boot: slot A") || !strings.Contains(out, "put that of slot A at "+dir+"/drydock/vmlinuz-a") {
		t.Fatalf("init: exit %d: %s%s", code, out, errs)
	}
	want := partition.Table{{Priority: 1, Successful: true}, {}}
	if got, next := grubTable(t, dir); got != want || next != partition.A {
		t.Fatalf("flags %+v, slot %s boots", got, next)
	}

	code, out, errs = run(t.Context(), "slots", "init", "--control", "grub", "--boot", dir, "--good", "B")
	if code != 1 || out != "" || !strings.Contains(errs, "nothing was changed; --force") {
		t.Errorf("a second time: exit %d: %s%s", code, out, errs)
	}
	if got, _ := grubTable(t, dir); got != want {
		t.Errorf("the refusal left %+v", got)
	}

	if err := os.WriteFile(filepath.Join(dir, "drydock/vmlinuz-b"), []byte("kernel"), 0o644); err != nil {
		t.Fatal(err)
	}
	code, out, errs = run(t.Context(), "slots", "init", "--json", "--control", "grub", "--boot", dir, "--good", "b", "--force")
	var facts foundedFacts
	if err := json.Unmarshal([]byte(out), &facts); code != 0 || err != nil || facts.Next != "B" || facts.MissingKernel != "" {
		t.Errorf("by force: exit %d, %v: %s%s", code, err, out, errs)
	}
	if got, next := grubTable(t, dir); got != (partition.Table{{}, {Priority: 1, Successful: true}}) || next != partition.B {
		t.Errorf("by force: flags %+v, slot %s boots", got, next)
	}

	if err := os.Truncate(filepath.Join(dir, "drydock/grubenv"), 100); err != nil {
		t.Fatal(err)
	}
	if code, out, errs = run(t.Context(), "slots", "init", "--control", "grub", "--boot", dir); code != 0 {
		t.Errorf("over a torn block: exit %d: %s%s", code, out, errs)
	}
	if got, _ := grubTable(t, dir); got != want {
		t.Errorf("over a torn block: flags %+v", got)
	}
}

// A block where GRUB can spend no tries would boot a trial for ever.
func TestSlotsInitRefusesWhatGRUBCannotWrite(t *testing.T) {
	const memory = "/dev/shm"
	dir, err := os.MkdirTemp(memory, "drydock")
	if err != nil {
		real.Missing(t, "a tmpfs at "+memory+": "+err.Error())
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	code, out, errs := run(t.Context(), "slots", "init", "--control", "grub", "--boot", dir)
	if code != 1 || out != "" || !strings.Contains(errs, `on "tmpfs": GRUB can spend no tries there`) {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v %v", entries, err)
	}
}

package machine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/testdata/real"
)

// TestConfiguredSlotMustNotContradictTheSystem: the policy file is the same in
// both slots, so after an update "A" would take the running slot for the
// passive one and overwrite it.
func TestConfiguredSlotMustNotContradictTheSystem(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	entries := partition.Flatcar(1<<20, 1<<20, 1<<20, 512)
	if err := os.Truncate(path, partition.FlatcarSize(entries, 512)); err != nil {
		t.Fatal(err)
	}
	disk, err := partition.OpenDisk(path)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	if err := partition.Format(disk, entries); err != nil {
		t.Fatal(err)
	}
	s := &Slots{disk: disk}
	recorded := partition.System{Root: filepath.Join(real.Module(t), "testdata/partition/booted/plain-usr-a")}
	if got, err := s.agree(partition.A, recorded, "/dev/nvme0n1"); err != nil || got != partition.A {
		t.Errorf("A, which runs: %v, %v", got, err)
	}
	if _, err := s.agree(partition.B, recorded, "/dev/nvme0n1"); err == nil || !strings.Contains(err.Error(), "auto") {
		t.Errorf("B, which does not run: %v", err)
	}
	if got, err := s.agree(partition.B, recorded, path); err != nil || got != partition.B {
		t.Errorf("a disk that the system does not run from: %v, %v: only the policy can tell", got, err)
	}
}

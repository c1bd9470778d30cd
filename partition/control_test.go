package partition_test

import (
	"encoding/binary"
	"fmt"
	"testing"
	"testing/fstest"
	"unicode/utf16"

	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/partition/partitiontest"
	"github.com/drydock-os/drydock/partition/powercut"
)

const mib = 1 << 20

// emptyVariables is a firmware without variables.
var emptyVariables = fstest.MapFS{}

// loader is a firmware that started a version of systemd-boot.
func loader(version int) fstest.MapFS {
	data := []byte{6, 0, 0, 0}
	for _, u := range utf16.Encode([]rune(fmt.Sprintf("systemd-boot %d", version))) {
		data = binary.LittleEndian.AppendUint16(data, u)
	}
	return fstest.MapFS{"LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f": {Data: data}}
}

// gptprio makes a machine as Flatcar's factory leaves it.
func gptprio(t testing.TB) (*powercut.Machine, partition.GPTPrio) {
	t.Helper()
	return gptprioOn(t, "vfat")
}

func gptprioOn(t testing.TB, fileSystem string) (*powercut.Machine, partition.GPTPrio) {
	t.Helper()
	entries := partition.Flatcar(mib, mib, mib, 512)
	m := powercut.New(partition.FlatcarSize(entries, 512), fileSystem)
	if err := partition.Format(m.Disk, entries); err != nil {
		t.Fatal(err)
	}
	writeBoot(t, m.Boot, "flatcar/vmlinuz-a", "old kernel")
	return m, partition.GPTPrio{Disk: m.Disk, Dir: m.Boot}
}

func writeBoot(t testing.TB, dir partition.BootDir, name, content string) {
	t.Helper()
	f, err := dir.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte(content), 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := dir.Sync(); err != nil {
		t.Fatal(err)
	}
}

func TestGPTPrio(t *testing.T) {
	partitiontest.Test(t, func(t *testing.T) (partition.Control, partition.Firmware) {
		_, c := gptprio(t)
		return c, c
	})
}

// systemdBoot makes a machine as an image builder leaves it: slot A's UKI alone.
func systemdBoot(t testing.TB) (*powercut.Machine, partition.SystemdBoot) {
	t.Helper()
	m := powercut.New(mib, "vfat")
	writeBoot(t, m.Boot, "EFI/Linux/drydock-a.efi", "old kernel")
	writeBoot(t, m.Boot, "loader/loader.conf", "timeout 3\n")
	return m, partition.SystemdBoot{Dir: m.Boot, Variables: emptyVariables}
}

func TestSystemdBoot(t *testing.T) {
	for name, variables := range map[string]fstest.MapFS{"newest": emptyVariables, "257": loader(257)} {
		t.Run(name, func(t *testing.T) {
			partitiontest.Test(t, func(t *testing.T) (partition.Control, partition.Firmware) {
				_, c := systemdBoot(t)
				c.Variables = variables
				return c, c
			})
		})
	}
}

// grub makes a machine whose /boot is on ext4.
func grub(t testing.TB) (*powercut.Machine, partition.GRUB) {
	t.Helper()
	m := powercut.New(mib, "ext4")
	writeBoot(t, m.Boot, "drydock/vmlinuz-a", "old kernel")
	c := partition.GRUB{Dir: m.Boot}
	if err := c.Init(partition.Table{{Priority: 1, Successful: true}}); err != nil {
		t.Fatal(err)
	}
	return m, c
}

func TestGRUB(t *testing.T) {
	partitiontest.Test(t, func(t *testing.T) (partition.Control, partition.Firmware) {
		_, c := grub(t)
		return c, c
	})
}

package partition

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/drydock-os/drydock/testdata/real"
)

func TestBooted(t *testing.T) {
	slots := [2]Entry{{Number: 3, Label: "USR-A", Unique: UniqueUSRA}, {Number: 4, Label: "USR-B", Unique: UniqueUSRB}}
	for _, c := range []struct {
		machine, disk string
		want          Slot
		refused       string // part of the error
	}{
		{"flatcar-verity-b", "/dev/sda", B, ""},
		{"flatcar-verity-b", "/dev/sdb", 0, "[{/dev/sda 4}], of which 0 are slots of /dev/sdb"},
		{"plain-usr-a", "/dev/nvme0n1", A, ""},
		{"root-b", "/dev/vda", B, ""},
		{"verity-hash-apart", "/dev/vda", A, ""},
		{"two-partitions", "/dev/vda", 0, "of which 2 are slots"},
		{"overlay-named", "/dev/sda", B, ""},
		{"overlay-unnamed", "/dev/sda", 0, "no block device"},
		// Found on a machine with drydock as a system extension: its drydockd did not
		// start, because /usr was an overlay.
		{"flatcar-extended-b", "/dev/sda", B, ""},
		{"root-extended-b", "/dev/vda", B, ""},
		{"usr-from-elsewhere", "/dev/vda", 0, "no block device"},
		{"disagree", "/dev/sda", 0, "runs from slot A, its command line names slot B"},
		{"both-named", "/dev/sda", 0, "names both slots"},
		{"no-slot", "/dev/sda", 0, "0 are slots"},
		{"absent", "/dev/sda", 0, "mountinfo"},
	} {
		t.Run(c.machine, func(t *testing.T) {
			sys := System{filepath.Join(real.Module(t), "testdata/partition/booted", c.machine)}
			got, err := sys.Booted(c.disk, slots)
			if c.refused != "" {
				if err == nil || !strings.Contains(err.Error(), c.refused) {
					t.Errorf("booted %v: %v, want an error with %q", got, err, c.refused)
				}
				return
			}
			if err != nil || got != c.want {
				t.Errorf("booted %v: %v, want %v", got, err, c.want)
			}
		})
	}
}

// TestBootedHere asks the machine that runs the test. What it answers depends on
// the machine; that it answers or says why is what is tested.
func TestBootedHere(t *testing.T) {
	origins, err := System{}.Origins()
	if err == nil && len(origins) == 0 {
		t.Error("no origins without an error")
	}
	t.Logf("this machine: %+v, %v", origins, err)
}

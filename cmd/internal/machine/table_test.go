package machine

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/partition"
)

// attended is a machine's slots, what is heard of the table, and a clock.
type attended struct {
	*Slots
	t     *testing.T
	disk  string
	heard []string // "" for well
	now   time.Time
}

func attend(t *testing.T) *attended {
	a := &attended{t: t, disk: diskImage(t), now: time.Unix(1e9, 0)}
	a.Slots = openSlots(t, a.disk, "")
	a.Now = func() time.Time { return a.now }
	a.Damaged = func(err error) {
		text := ""
		if err != nil {
			text = err.Error()
		}
		a.heard = append(a.heard, text)
	}
	return a
}

// after looks at the flags later, and returns what was heard then.
func (a *attended) after(d time.Duration) []string {
	a.heard, a.now = nil, a.now.Add(d)
	a.Control.Table()
	return a.heard
}

// flip damages a byte; behind the end counts from there.
func (a *attended) flip(at int64) {
	a.t.Helper()
	f, err := os.OpenFile(a.disk, os.O_RDWR, 0)
	if err != nil {
		a.t.Fatal(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && at < 0 {
		at += info.Size()
	}
	b := make([]byte, 1)
	f.ReadAt(b, at)
	b[0] ^= 0xff
	if _, err := f.WriteAt(b, at); err != nil {
		a.t.Fatal(err)
	}
}

func (a *attended) healthy() bool {
	g, err := partition.ReadGPT(a.Slots.disk)
	return err == nil && g.Primary == nil && g.Backup == nil
}

// primaryGUID and backupGUID are bytes of the headers.
const primaryGUID, backupGUID = 512 + 60, -512 + 60

// A damaged copy was noticed by nobody until the next write of flags.
func TestDamagedTableIsRepairedAndSaid(t *testing.T) {
	for which, at := range map[string]int64{"primary": primaryGUID, "backup": backupGUID} {
		a := attend(t)
		if heard := a.after(0); len(heard) != 1 || heard[0] != "" {
			t.Fatalf("well: %q", heard)
		}
		a.flip(at)
		if heard := a.after(time.Minute); heard != nil {
			t.Errorf("%s: read again after a minute: %q", which, heard)
		}
		if heard := a.after(time.Hour); len(heard) != 1 || !strings.Contains(heard[0], which+" copy") {
			t.Errorf("%s: %q", which, heard)
		}
		if heard := a.after(time.Second); heard != nil || a.healthy() {
			t.Errorf("%s: repaired while another program may be writing it: %q", which, heard)
		}
		if heard := a.after(2 * time.Second); len(heard) != 1 || heard[0] != "" || !a.healthy() {
			t.Errorf("%s: not repaired: %q", which, heard)
		}
	}
}

// Damage that another program mends by itself, or goes on changing, is none of
// ours.
func TestTableThatIsBeingWrittenIsLeftAlone(t *testing.T) {
	a := attend(t)
	a.flip(primaryGUID)
	if heard := a.after(0); len(heard) != 1 || heard[0] == "" {
		t.Fatalf("damaged: %q", heard)
	}
	a.flip(primaryGUID + 1)
	if heard := a.after(2 * time.Second); len(heard) != 1 || heard[0] == "" || a.healthy() {
		t.Errorf("other damage: %q", heard)
	}
	a.flip(primaryGUID)
	a.flip(primaryGUID + 1)
	if heard := a.after(2 * time.Second); len(heard) != 1 || heard[0] != "" {
		t.Errorf("mended by another: %q", heard)
	}
}

func TestTwoBadCopiesAreSaid(t *testing.T) {
	a := attend(t)
	a.flip(primaryGUID)
	a.flip(backupGUID)
	if heard := a.after(0); len(heard) != 1 || !strings.Contains(heard[0], "cannot be read") || !strings.Contains(heard[0], a.disk) {
		t.Errorf("both: %q", heard)
	}
	a.flip(backupGUID)
	if heard := a.after(time.Minute); len(heard) != 1 || !strings.Contains(heard[0], "one good copy") {
		t.Errorf("one is back: %q", heard)
	}
}

// A disk that takes no writes stays damaged, and that is said.
func TestTableThatCannotBeRepairedIsSaid(t *testing.T) {
	a := attend(t)
	a.flip(backupGUID)
	a.after(0)
	writable := a.Slots.disk
	readOnly, err := partition.ReadDisk(a.disk)
	if err != nil {
		t.Fatal(err)
	}
	defer readOnly.Close()
	a.Slots.disk = readOnly
	if heard := a.after(2 * time.Second); len(heard) != 1 || !strings.Contains(heard[0], "cannot be repaired") {
		t.Errorf("read-only: %q", heard)
	}
	a.Slots.disk = writable
	if heard := a.after(time.Minute); len(heard) != 1 || heard[0] != "" || !a.healthy() {
		t.Errorf("writable again: %q", heard)
	}
}

// The trial guard reads flags beside a running daemon and must write nothing.
func TestNobodyAskedNothingRepaired(t *testing.T) {
	a := attend(t)
	a.Damaged = nil
	a.flip(backupGUID)
	a.after(0)
	a.after(time.Hour)
	if a.healthy() {
		t.Error("repaired unasked")
	}
}

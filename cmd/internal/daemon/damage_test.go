package daemon

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/updater"
)

func (p *process) flags() partition.Table {
	p.t.Helper()
	d, err := partition.ReadDisk(p.disk)
	if err != nil {
		p.t.Fatal(err)
	}
	defer d.Close()
	table, err := (partition.GPTPrio{Disk: d}).Table()
	if err != nil {
		p.t.Fatal(err)
	}
	return table
}

// options are those of a drydockd that is run once, with no daemon.
func (p *process) options() Options {
	return Options{Config: filepath.Join(p.dir, "drydock.toml"), Root: filepath.Join(p.dir, "root"), Log: slog.New(slog.NewTextHandler(p.log, nil))}
}

// The initrd leaves a damaged slot only for one that was good.
func TestDamagedSlotIsDiscardedOnlyForOneThatWasGood(t *testing.T) {
	good, onTrial := partition.Flags{Priority: 2, Successful: true}, partition.Flags{Priority: 1, Tries: 1}
	for name, other := range map[string]partition.Flags{"nothing": {}, "never good": onTrial, "good and switched off": {Successful: true}} {
		p := prepare(t, noServer)
		p.stage(func(partition.Table) partition.Table { return partition.Table{good, other} })
		before := p.flags()
		if err := DiscardDamaged(p.options()); !errors.Is(err, ErrNoOther) {
			t.Errorf("%s: %v", name, err)
		}
		if p.flags() != before {
			t.Errorf("%s: flags %v, before %v", name, p.flags(), before)
		}
	}
	p := prepare(t, noServer)
	p.stage(func(partition.Table) partition.Table { return partition.Table{good, {Priority: 1, Successful: true}} })
	memory := updater.MemoryFile{Path: p.write("state/memory.json", "")}
	if err := memory.Save(updater.Memory{Version: 1, Aleph: "0.9.0"}); err != nil {
		t.Fatal(err)
	}
	if err := DiscardDamaged(p.options()); err != nil {
		t.Fatal(err)
	}
	if next, ok := p.flags().Next(); !ok || next != partition.B || p.flags()[partition.A].Bootable() {
		t.Errorf("flags %v: want slot B alone", p.flags())
	}
	m, err := memory.Load()
	if err != nil || m.Wish == nil || !m.Wish.Damage || m.Wish.Slot != partition.A || m.Aleph != "0.9.0" {
		t.Errorf("memory %+v, %v", m, err)
	}
}

// Upstream's flags are not touched in shadow mode.
func TestDamagedSlotIsUpstreamsInShadowMode(t *testing.T) {
	p := shadowed(t, noServer)
	p.stage(func(partition.Table) partition.Table {
		return partition.Table{{Priority: 2, Successful: true}, {Priority: 1, Successful: true}}
	})
	before := p.sum()
	if err := DiscardDamaged(p.options()); err == nil || p.sum() != before {
		t.Errorf("%v, disk written: %v", err, p.sum() != before)
	}
}

// The initrd's count of boots goes when this one came up; from a slot that is known
// to be damaged one is left, and never so many that the machine would halt.
func TestBootThatCameUpIsToldToTheInitrd(t *testing.T) {
	for _, c := range []struct {
		status updater.Status
		want   string
	}{
		{updater.Status{Booted: "A"}, ""},
		{updater.Status{Booted: "A", OnTrial: true}, "3\n"},
		{updater.Status{Booted: "A", Reasons: []updater.Reason{{Kind: "damage"}}}, "1\n"},
	} {
		p := prepare(t, noServer)
		boots := p.write("root/var/lib/drydock/boots", "3\n")
		t.Setenv("RUNTIME_DIRECTORY", filepath.Join(p.dir, "run"))
		newGoodMark(p.options()).Observe(updater.Event{Status: c.status})
		if left, err := os.ReadFile(boots); string(left) != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%+v: %q, %v, want %q", c.status, left, err, c.want)
		}
	}
}

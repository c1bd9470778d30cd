package partition_test

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/partition/powercut"
)

// A rig is a machine with one kind of control, whose power can be cut.
type rig struct {
	name  string
	fresh func(testing.TB) *powercut.Machine
	on    func(*powercut.Machine) control
}

type control interface {
	partition.Control
	partition.Firmware
}

var rigs = []rig{
	{
		"gptprio",
		func(t testing.TB) *powercut.Machine { m, _ := gptprio(t); return m },
		func(m *powercut.Machine) control { return partition.GPTPrio{Disk: m.Disk, Dir: m.Boot} },
	},
	{
		"gptprio with ext4",
		func(t testing.TB) *powercut.Machine { m, _ := gptprioOn(t, "ext4"); return m },
		func(m *powercut.Machine) control { return partition.GPTPrio{Disk: m.Disk, Dir: m.Boot} },
	},
	{
		"systemd-boot",
		func(t testing.TB) *powercut.Machine { m, _ := systemdBoot(t); return m },
		func(m *powercut.Machine) control {
			return partition.SystemdBoot{Dir: m.Boot, Variables: emptyVariables}
		},
	},
	{
		"systemd-boot 257",
		func(t testing.TB) *powercut.Machine { m, _ := systemdBoot(t); return m },
		func(m *powercut.Machine) control { return partition.SystemdBoot{Dir: m.Boot, Variables: loader(257)} },
	},
	{
		"systemd-boot 259",
		func(t testing.TB) *powercut.Machine { m, _ := systemdBoot(t); return m },
		func(m *powercut.Machine) control { return partition.SystemdBoot{Dir: m.Boot, Variables: loader(259)} },
	},
	{
		"grub",
		func(t testing.TB) *powercut.Machine { m, _ := grub(t); return m },
		func(m *powercut.Machine) control { return partition.GRUB{Dir: m.Boot} },
	},
}

const newKernel = "new kernel, a few sectors long"

// kernelBytes is a kernel that spans sectors, so that it can be torn.
var kernelBytes = sync.OnceValue(func() []byte {
	var data []byte
	for i := range 100 {
		data = fmt.Appendf(data, "%s %d\n", newKernel, i)
	}
	return data
})

func writeKernel(c partition.Control, s partition.Slot) error {
	f, err := c.CreateKernel(s)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(kernelBytes(), 0); err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func set(c partition.Control, change func(partition.Table) partition.Table) error {
	t, err := c.Table()
	if err != nil {
		return err
	}
	return c.SetTable(change(t))
}

// A step is one change of boot state, and the slots that may boot when the power
// fails inside it.
type step struct {
	name    string
	run     func(control) error
	allowed []partition.Slot
}

const a, b = partition.A, partition.B

// life is an update to B that is tried twice, becomes good, and is rolled back.
var life = []step{
	{"discard B", func(c control) error {
		return set(c, func(t partition.Table) partition.Table { return t.Discard(b) })
	}, []partition.Slot{a}},
	{"write kernel", func(c control) error { return writeKernel(c, b) }, []partition.Slot{a}},
	{"place kernel", func(c control) error { _, err := c.PlaceKernel(b); return err }, []partition.Slot{a}},
	{"stage B", func(c control) error {
		return set(c, func(t partition.Table) partition.Table { return t.Stage(b, 2) })
	}, []partition.Slot{a, b}},
	{"unstage B", func(c control) error {
		return set(c, func(t partition.Table) partition.Table { return t.Unstage(b) })
	}, []partition.Slot{a, b}},
	{"stage B again", func(c control) error {
		return set(c, func(t partition.Table) partition.Table { return t.Stage(b, 2) })
	}, []partition.Slot{a, b}},
	{"boot", func(c control) error { _, err := c.Boot(); return err }, []partition.Slot{a, b}},
	{"good B", func(c control) error {
		return set(c, func(t partition.Table) partition.Table { return t.Good(b) })
	}, []partition.Slot{a, b}},
	{"stage B that is good", func(c control) error {
		return set(c, func(t partition.Table) partition.Table { return t.Stage(b, 2) })
	}, []partition.Slot{a, b}},
	{"good B again", func(c control) error {
		return set(c, func(t partition.Table) partition.Table { return t.Good(b) })
	}, []partition.Slot{a, b}},
	{"select A", func(c control) error {
		return set(c, func(t partition.Table) partition.Table { return t.Select(a) })
	}, []partition.Slot{a, b}},
	{"discard B again", func(c control) error {
		return set(c, func(t partition.Table) partition.Table { return t.Select(a).Discard(b) })
	}, []partition.Slot{a}},
}

// TestPowerCutAtEveryOperation cuts the power inside every operation of every
// step, lets it survive in many ways, and boots: an allowed slot, with a kernel
// that is whole. Then the life goes on from there to its end.
func TestPowerCutAtEveryOperation(t *testing.T) {
	for _, r := range rigs {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			m := r.fresh(t)
			for i, s := range life {
				before := m.Clone()
				if err := s.run(r.on(m)); err != nil {
					t.Fatalf("%s: %v", s.name, err)
				}
				cutStep(t, r, before, life[i:])
				durable(t, r, m, s.name)
			}
		})
	}
}

// durable cuts the power behind a step that has returned: nothing of it may be
// lost.
func durable(t *testing.T, r rig, m *powercut.Machine, step string) {
	want, err := r.on(m).Table()
	if err != nil {
		t.Fatal(err)
	}
	for _, how := range powercut.Survivals(4) {
		up := m.Restart(how)
		got, err := r.on(up).Table()
		if err != nil || got != want {
			t.Errorf("%s, power cut behind it, survival %d: flags %+v, want %+v: %v", step, how, got, want, err)
		}
		booted, err := r.on(up).Boot()
		if err != nil {
			t.Errorf("%s, power cut behind it: %v", step, err)
		}
		if err := intact(up, r.on(up), booted); err != nil {
			t.Errorf("%s, power cut behind it: %v", step, err)
		}
	}
}

func cutStep(t *testing.T, r rig, before *powercut.Machine, rest []step) {
	for n := 0; ; n++ {
		m := before.Clone()
		m.CutAfter(n)
		err := rest[0].run(r.on(m))
		if !m.Stopped() {
			if err != nil {
				t.Fatalf("%s: %v", rest[0].name, err)
			}
			if n == 0 && rest[0].name != "discard B" && rest[0].name != "place kernel" {
				t.Fatalf("%s changes nothing", rest[0].name)
			}
			return
		}
		if !errors.Is(err, powercut.ErrPower) {
			t.Fatalf("%s, cut after %d: %v", rest[0].name, n, err)
		}
		for _, how := range powercut.Survivals(survivals) {
			if err := trialEnds(r.on(m.Restart(how))); err != nil {
				t.Errorf("%s, power cut after %d operations, survival %d: %v", rest[0].name, n, how, err)
			}
			for _, again := range []bool{true, false} {
				if err := comeBack(r, m.Restart(how), rest[0].allowed, again); err != nil {
					t.Errorf("%s, power cut after %d operations, survival %d, write again %v: %v", rest[0].name, n, how, again, err)
				}
			}
		}
	}
}

// comeBack boots a machine after a power cut and brings it to a good update. It
// writes the kernel again, or goes on with the one that it finds to be whole.
func comeBack(r rig, m *powercut.Machine, allowed []partition.Slot, again bool) error {
	c := r.on(m)
	was, err := c.Table()
	if err != nil {
		return fmt.Errorf("flags: %w", err)
	}
	next, _ := was.Next()
	booted, err := c.Boot()
	if err != nil || booted != next || !slices.Contains(allowed, booted) {
		return fmt.Errorf("booted %v: %w; flags %+v, allowed %v", booted, err, was, allowed)
	}
	if err := intact(m, c, booted); err != nil {
		return err
	}
	if booted == b { // the update came up
		if err := set(c, func(t partition.Table) partition.Table { return t.Good(b) }); err != nil {
			return fmt.Errorf("good: %w", err)
		}
		return boots(c, b)
	}
	steps := life[:4]
	if whole, err := kernelIs(c, b, string(kernelBytes())); err == nil && whole && !again {
		steps = life[2:4]
	}
	for _, s := range steps {
		if err := s.run(c); err != nil {
			return fmt.Errorf("again: %s: %w", s.name, err)
		}
	}
	if err := boots(c, b); err != nil {
		return err
	}
	return intact(m, c, b)
}

func kernelIs(c partition.Control, s partition.Slot, want string) (bool, error) {
	f, err := c.OpenKernel(s)
	if err != nil {
		return false, err
	}
	got, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size()))
	return string(got) == want, errors.Join(err, f.Close())
}

// trialEnds boots a machine whose system never comes up: with no try left a good
// slot must be booted.
func trialEnds(c control) error {
	was, err := c.Table()
	if err != nil {
		return err
	}
	booted := a
	for range max(was[a].Tries, was[b].Tries) + 2 {
		if booted, err = c.Boot(); err != nil {
			return err
		}
	}
	if now, err := c.Table(); err != nil || !now[booted].Successful {
		return fmt.Errorf("slot %v is booted for ever: %w; flags were %+v, are %+v", booted, err, was, now)
	}
	return nil
}

func boots(c control, want partition.Slot) error {
	if got, err := c.Boot(); err != nil || got != want {
		return fmt.Errorf("booted %v: %w, want %v", got, err, want)
	}
	return nil
}

// intact says whether the kernel of a booted slot is whole, and where a loader
// that replays no journal finds it.
func intact(m *powercut.Machine, c control, s partition.Slot) error {
	want := "old kernel"
	if s == b {
		want = string(kernelBytes())
	}
	if whole, err := kernelIs(c, s, want); err != nil || !whole {
		return fmt.Errorf("kernel of %v is torn: %w", s, err)
	}
	f, err := c.OpenKernel(s)
	if err != nil {
		return err
	}
	if kind, _ := m.Boot.FileSystem(); kind != "vfat" {
		name := strings.TrimPrefix(f.(interface{ Name() string }).Name(), "/")
		f, err := m.Boot.Loader().Open(name)
		if err != nil {
			return fmt.Errorf("GRUB's view: %w", err)
		}
		if got, _ := io.ReadAll(io.NewSectionReader(f, 0, f.Size())); string(got) != want {
			return fmt.Errorf("GRUB's view: kernel of %v is torn", s)
		}
	}
	return nil
}

// TestFailingStorage lets the storage fail after every operation: the error is
// told, and the machine still boots an allowed slot.
func TestFailingStorage(t *testing.T) {
	for _, r := range rigs {
		t.Run(r.name, func(t *testing.T) {
			m := r.fresh(t)
			for _, s := range life {
				for n := 0; ; n++ {
					failing := m.Clone()
					failing.FailAfter(n)
					err := s.run(r.on(failing))
					if !failing.Stopped() {
						break
					}
					if !errors.Is(err, powercut.ErrFault) {
						t.Errorf("%s, storage fails after %d: %v", s.name, n, err)
					}
					failing.Continue()
					booted, err := r.on(failing).Boot()
					if err != nil || !slices.Contains(s.allowed, booted) {
						t.Errorf("%s, storage failed after %d: booted %v: %v", s.name, n, booted, err)
					}
				}
				if err := s.run(r.on(m)); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestKilledProcess kills the process inside every operation, runs the step again
// in a new one, and cuts the power behind it: the step is done, and durable.
func TestKilledProcess(t *testing.T) {
	for _, r := range rigs {
		t.Run(r.name, func(t *testing.T) {
			m := r.fresh(t)
			for _, s := range life {
				before := m.Clone()
				if err := s.run(r.on(m)); err != nil {
					t.Fatal(err)
				}
				want, err := r.on(m).Table()
				if err != nil {
					t.Fatal(err)
				}
				for n := 0; s.name != "boot"; n++ { // a boot is no process, and spends another try
					killed := before.Clone()
					killed.CutAfter(n)
					if err := s.run(r.on(killed)); err == nil {
						break
					}
					killed.Continue()
					if err := s.run(r.on(killed)); err != nil {
						t.Errorf("%s, killed after %d: %v", s.name, n, err)
					}
					up := killed.Restart(powercut.Nothing)
					got, err := r.on(up).Table()
					if err != nil || !got.Same(want) {
						t.Errorf("%s, killed after %d, run again: flags %+v, want %+v: %v", s.name, n, got, want, err)
					}
					if booted, err := r.on(up).Boot(); err != nil || intact(up, r.on(up), booted) != nil {
						t.Errorf("%s, killed after %d, run again: booted %v: %v", s.name, n, booted, err)
					}
				}
			}
		})
	}
}

// TestRepairUnderPowerCut damages one copy of the table and cuts the power inside
// every write that repairs it, with and without a change of flags.
func TestRepairUnderPowerCut(t *testing.T) {
	for name, at := range map[string]func(*powercut.Machine) int64{
		"primary": func(*powercut.Machine) int64 { return 512 + 60 },
		"backup":  func(m *powercut.Machine) int64 { return m.Disk.Size() - 512 + 60 },
	} {
		for change, run := range map[string]func(control, *powercut.Machine) error{
			"repair": func(_ control, m *powercut.Machine) error {
				g, err := partition.ReadGPT(m.Disk)
				return errors.Join(err, g.Repair(m.Disk))
			},
			"stage": func(c control, _ *powercut.Machine) error {
				return set(c, func(t partition.Table) partition.Table { return t.Stage(b, 1) })
			},
		} {
			t.Run(name+" "+change, func(t *testing.T) {
				damaged, _ := gptprio(t)
				if _, err := damaged.Disk.WriteAt([]byte("damage"), at(damaged)); err != nil {
					t.Fatal(err)
				}
				damaged.Disk.Sync()
				for n := 0; ; n++ {
					m := damaged.Clone()
					m.CutAfter(n)
					if err := run(rigs[0].on(m), m); err == nil {
						return
					}
					for _, how := range powercut.Survivals(40) {
						up := m.Restart(how)
						got, err := rigs[0].on(up).Table()
						if err != nil || !got[a].Successful {
							t.Errorf("cut after %d, survival %d: %+v: %v", n, how, got, err)
						}
					}
				}
			})
		}
	}
}

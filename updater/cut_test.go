package updater_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/partition/powercut"
	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/sim"
)

// control is a boot control and its loader.
type control interface {
	partition.Control
	partition.Firmware
}

// rigs are the boot controls, each on a machine whose power can be cut.
var rigs = []struct {
	name, fileSystem, kernel string
	on                       func(*powercut.Machine) control
}{
	{"gptprio", "vfat", "flatcar/vmlinuz-a", func(m *powercut.Machine) control { return partition.GPTPrio{Disk: m.Disk, Dir: m.Boot} }},
	{"systemd-boot", "vfat", "EFI/Linux/drydock-a.efi", func(m *powercut.Machine) control {
		return partition.SystemdBoot{Dir: m.Boot, Variables: fstest.MapFS{}}
	}},
	{"grub", "ext4", "drydock/vmlinuz-a", func(m *powercut.Machine) control { return partition.GRUB{Dir: m.Boot} }},
}

const (
	smallSlot = 2 << 20
	oldKernel = "kernel of the old release"
)

// plugged is a Store on the same power cord as the disk: nothing is kept once
// the power is cut.
type plugged struct {
	m      *powercut.Machine
	memory *updater.Memory
}

func (p plugged) Load() (updater.Memory, error) { return *p.memory, nil }

func (p plugged) Save(m updater.Memory) error {
	if p.m.Stopped() {
		return powercut.ErrPower
	}
	*p.memory = m
	return nil
}

// factory is a machine with the old release in slot A.
func factory(t *testing.T, kind int, old []byte) *powercut.Machine {
	t.Helper()
	entries := partition.Flatcar(1<<20, smallSlot, 1<<20, 512)
	m := powercut.New(partition.FlatcarSize(entries, 512), rigs[kind].fileSystem)
	if err := partition.Format(m.Disk, entries); err != nil {
		t.Fatal(err)
	}
	f, err := m.Boot.Create(rigs[kind].kernel)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte(oldKernel), 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
	if g, ok := rigs[kind].on(m).(partition.GRUB); ok {
		if err := g.Init(partition.Table{{Priority: 1, Successful: true}}); err != nil {
			t.Fatal(err)
		}
	}
	s := &sim.Machine{Disk: m.Disk}
	if err := s.Install(partition.A, bytes.NewReader(old)); err != nil {
		t.Fatal(err)
	}
	return m
}

// powered is a run of the updater on a machine whose power can be cut.
type powered struct {
	*bench
	m      *powercut.Machine
	memory *updater.Memory
}

// on makes the machine with what survived.
func (b *bench) on(m *powercut.Machine, kind int, memory *updater.Memory) *powered {
	ctl := rigs[kind].on(m)
	b.machine = &sim.Machine{ID: "m", Disk: m.Disk, Control: ctl, Firmware: ctl}
	return &powered{b, m, memory}
}

// run boots the machine and runs the updater until done, or until the power is
// cut.
func (p *powered) run(done func(updater.Status) bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		boot, err := p.machine.PowerOn(ctx)
		if p.m.Stopped() {
			return nil
		}
		if err != nil {
			return err
		}
		run, stop := context.WithCancel(boot)
		u := p.daemon()
		u.Store = plugged{p.m, p.memory}
		var wg sync.WaitGroup
		wg.Go(func() { u.Run(run) })
		p.wait(run, func() bool { return p.m.Stopped() || done(u.Status()) })
		finished := p.m.Stopped() || done(u.Status())
		stop()
		wg.Wait()
		if finished {
			return nil
		}
	}
	return fmt.Errorf("did not come to rest: %+v", p.current.Status())
}

// intact says what is wrong with what the loader picks: nil if the slot holds
// one of the releases, whole, and its kernel.
func intact(m *powercut.Machine, kind int, releases map[string][]byte) error {
	c := rigs[kind].on(m)
	slot, err := c.Boot()
	if err != nil {
		return err
	}
	d, err := partition.SlotOf(m.Disk, partition.Layout{}, slot)
	if err != nil {
		return err
	}
	k, err := c.OpenKernel(slot)
	if err != nil {
		return fmt.Errorf("slot %s: %w", slot, err)
	}
	kernel := make([]byte, k.Size())
	if _, err := k.ReadAt(kernel, 0); err != nil && err != io.EOF {
		return err
	}
	for kernelText, image := range releases {
		got := make([]byte, len(image))
		if _, err := d.ReadAt(got, 0); err != nil {
			return err
		}
		if bytes.Equal(got, image) && string(kernel) == kernelText {
			return nil
		}
	}
	return fmt.Errorf("slot %s is booted and holds no whole release with its kernel (kernel %.20q)", slot, kernel)
}

// TestPowerCutAtEveryWrite cuts the power inside every operation of a whole
// update, with each boot control, on a machine whose passive slot holds an
// older release that was good: whatever survives, what the firmware boots is a
// whole release, and the machine ends on the new one. Then the same with a
// disk that dies instead.
func TestPowerCutAtEveryWrite(t *testing.T) {
	releases := map[string][]byte{oldKernel: smallImage(t, "1.0.0")}
	payloads := map[string][]byte{}
	for _, version := range []string{"1.1.0", "1.2.0"} {
		image := smallImage(t, version)
		releases[kernelText(version)], payloads[version] = image, releasePayload(t, version, image)
	}
	for kind, rig := range rigs {
		t.Run(rig.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, "1.0.0")
			b.quiet = true
			base, known := factory(t, kind, releases[oldKernel]), &updater.Memory{}
			b.publish("1.1.0", payloads["1.1.0"])
			if err := b.on(base, kind, known).run(arrived("1.1.0")); err != nil {
				t.Fatal(err)
			}
			b.publish("1.2.0", payloads["1.2.0"])
			arrived := arrived("1.2.0")
			total := 0
			for n := 0; n <= total; n++ {
				m, memory := base.Clone(), remembered(known)
				m.CutAfter(n)
				b.group, b.cluster = &rebootlock.Alone{}, &fleetlink.Memory{}
				if err := b.on(m, kind, memory).run(arrived); err != nil {
					t.Fatalf("cut after %d: %v", n, err)
				}
				if !m.Stopped() {
					break // a whole update needs fewer
				}
				total = max(total, n+1)
				for i, survival := range powercut.Survivals(3) {
					if err := intact(m.Restart(survival), kind, releases); err != nil {
						t.Fatalf("cut after %d, survival %d: %v", n, survival, err)
					}
					if i != n%5 {
						continue // one of them goes on to the end
					}
					again := *memory
					p := b.on(m.Restart(survival), kind, &again)
					if err := p.run(arrived); err != nil {
						t.Fatalf("cut after %d, survival %d, then well: %v", n, survival, err)
					}
				}
			}
			t.Logf("%d operations", total)
			for n := range total {
				m, memory := base.Clone(), remembered(known)
				m.FailAfter(n)
				b.group, b.cluster = &rebootlock.Alone{}, &fleetlink.Memory{}
				if err := b.on(m, kind, memory).run(arrived); err != nil && !errors.Is(err, powercut.ErrFault) {
					t.Fatalf("dead after %d: %v", n, err)
				}
				m.Continue()
				if err := intact(m, kind, releases); err != nil {
					t.Fatalf("dead after %d: %v", n, err)
				}
			}
		})
	}
}

func arrived(version string) func(updater.Status) bool {
	return func(s updater.Status) bool {
		return s.Release == version && !s.OnTrial && s.Step == updater.Wait && s.Permit == "none"
	}
}

func remembered(m *updater.Memory) *updater.Memory {
	c := *m
	return &c
}

// smallImage is a release that takes several operations and does not compress.
func smallImage(t *testing.T, version string) []byte {
	t.Helper()
	filler := make([]byte, 1200<<10)
	rand.Read(filler)
	return imageWith(t, version, filler)
}

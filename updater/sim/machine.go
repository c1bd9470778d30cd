// Package sim runs machines with their disks, firmware and workloads in one process.
package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/image"
	"github.com/drydock-os/drydock/updater/policy"
)

// A Machine is one machine: a disk, the loader's own step on it, and a running
// system that is whatever image the loader picked. It is an updater's Disk and
// Host; what it has no real counterpart for (a reboot, logind, units) it
// models.
type Machine struct {
	ID       string
	Disk     partition.Device // the whole disk, with its partition table
	Layout   partition.Layout
	Control  partition.Control
	Firmware partition.Firmware
	// Ails says what is not well when a release runs; nil: nothing ever is.
	Ails func(release string) []updater.Reason
	// PostInstall stands in for running the hook inside the image; nil:
	// releases have none.
	PostInstall func(ctx context.Context, h updater.HookRun) error
	// Block is what stands in the way of a reboot, as inhibitors do.
	Block []updater.Reason
	// Damage is what the running system says is wrong with the bytes of its slot.
	Damage [2]string
	// Wants is what the file says that asks for a reboot; it is gone with one.
	Wants string

	mu      sync.Mutex
	on      bool
	booted  partition.Slot
	boots   int
	running image.Release
	leave   context.CancelFunc // ends the running system
}

// ErrNoBoot says that the loader found nothing to boot, or that what it found
// is no system.
var ErrNoBoot = errors.New("machine does not boot")

// PowerOn lets the loader take its step and boots what it picked. The context
// returned ends when the system reboots or loses its power.
func (m *Machine) PowerOn(parent context.Context) (context.Context, error) {
	slot, err := m.Firmware.Boot()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoBoot, err)
	}
	release, err := m.release(slot)
	if err != nil {
		return nil, fmt.Errorf("%w: slot %s: %w", ErrNoBoot, slot, err)
	}
	ctx, cancel := context.WithCancel(parent)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.on, m.booted, m.running, m.leave = true, slot, release, cancel
	m.Wants = ""
	m.boots++
	return ctx, nil
}

// PowerOff ends the running system at once.
func (m *Machine) PowerOff() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.on = false
	if m.leave != nil {
		m.leave()
	}
}

func (m *Machine) release(s partition.Slot) (image.Release, error) {
	d, err := partition.SlotOf(m.Disk, m.Layout, s)
	if err != nil {
		return image.Release{}, err
	}
	return image.OSRelease(d, d.Size())
}

// Slot implements updater.Disk.
func (m *Machine) Slot(s partition.Slot) (updater.SlotDevice, error) {
	d, err := partition.SlotOf(m.Disk, m.Layout, s)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// Booted implements updater.Disk.
func (m *Machine) Booted() (partition.Slot, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.on {
		return 0, errors.New("machine is off")
	}
	return m.booted, nil
}

// Identity implements updater.Host.
func (m *Machine) Identity() (updater.Identity, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return updater.Identity{
		Release: m.running.Number(), MachineID: m.ID, Arch: "x86_64",
		Damage: m.Damage[m.booted],
		BootID: fmt.Sprintf("00000000-0000-4000-8000-%012d", m.boots),
	}, nil
}

// Blockers implements updater.Host.
func (m *Machine) Blockers(context.Context, policy.Policy) []updater.Reason {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.Block
}

// Required implements updater.Host.
func (m *Machine) Required(policy.Policy) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.Wants
}

// Ailments implements updater.Host.
func (m *Machine) Ailments(context.Context, policy.Policy) []updater.Reason {
	m.mu.Lock()
	running := m.running
	m.mu.Unlock()
	if m.Ails == nil {
		return nil
	}
	return m.Ails(running.Number())
}

// ImageRelease implements updater.Host.
func (m *Machine) ImageRelease(s partition.Slot) (string, error) {
	r, err := m.release(s)
	return r.Number(), err
}

// Hook implements updater.Host.
func (m *Machine) Hook(ctx context.Context, h updater.HookRun, line func(string)) error {
	if m.PostInstall == nil {
		line("release " + h.Version + " has no hook: nothing to run")
		return nil
	}
	return m.PostInstall(ctx, h)
}

// Reboot implements updater.Host: the running system ends.
func (m *Machine) Reboot(_ context.Context, _ string, forced bool) error {
	if blocked := m.Blockers(context.Background(), policy.Policy{}); len(blocked) > 0 && !forced {
		return fmt.Errorf("%w: %s", updater.ErrRefused, blocked[0].Text)
	}
	m.PowerOff()
	return nil
}

// Install puts an image into a slot, as a factory does.
func (m *Machine) Install(s partition.Slot, img io.Reader) error {
	d, err := partition.SlotOf(m.Disk, m.Layout, s)
	if err != nil {
		return err
	}
	if _, err := io.Copy(io.NewOffsetWriter(d, 0), img); err != nil {
		return fmt.Errorf("install slot %s: %w", s, err)
	}
	return d.Sync()
}

// OSRelease is the text of a release's os-release file.
func OSRelease(version string) string {
	return strings.Join([]string{"ID=drydock-demo", "NAME=\"Drydock demo OS\"", "VERSION=" + version, "VERSION_ID=" + version, ""}, "\n")
}

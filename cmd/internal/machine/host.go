// Package machine is the running system as the updater's disk and host.
package machine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/bus"
	"github.com/drydock-os/drydock/updater/host"
	"github.com/drydock-os/drydock/updater/image"
	"github.com/drydock-os/drydock/updater/policy"
)

// Host is the running system: its files below Root, and logind and systemd on
// the bus. It implements updater.Host.
type Host struct {
	Root    string // what stands for "/": "" for the system itself
	Slots   *Slots
	Login   bus.Login
	Now     func() time.Time
	Systemd bus.Systemd
	// Policy gives the policy in force, for the proxy that hooks are told of;
	// nil: none.
	Policy func() policy.Policy
}

// Identity implements updater.Host.
func (h *Host) Identity() (updater.Identity, error) {
	id, err := host.Identify(h.root())
	if err != nil {
		return updater.Identity{}, err
	}
	release, err := host.Running(h.root())
	if err != nil {
		return updater.Identity{}, err
	}
	return updater.Identity{Release: release.Number(), MachineID: id.MachineID, BootID: id.BootID, Arch: id.Arch, Up: id.Up, Damage: damage(h.Root)}, nil
}

// damage says what dm-verity met. What cannot be asked is not known to be damaged:
// nothing is left for a guess.
func damage(root string) string {
	if bad, err := (partition.System{Root: root}).Damaged(); err != nil || !bad {
		return ""
	}
	return "dm-verity met a block that is not what was built"
}

func (h *Host) root() string {
	if h.Root == "" {
		return "/"
	}
	return h.Root
}

// Blockers implements updater.Host: logind's blocking inhibitors and its
// sessions, as far as the policy respects them.
func (h *Host) Blockers(ctx context.Context, p policy.Policy) (reasons []updater.Reason) {
	unknown := func(err error) {
		reasons = append(reasons, updater.Reason{Kind: "logind", Text: "logind cannot be asked who is in the way of a reboot: " + err.Error()})
	}
	if p.Reboot.RespectInhibitors {
		held, err := h.Login.Inhibitors(ctx)
		if err != nil {
			unknown(err)
		}
		for _, i := range held {
			reasons = append(reasons, updater.Reason{Kind: "inhibitor", Text: fmt.Sprintf("%s (process %d) inhibits a shutdown: %s", i.Who, i.PID, i.Why)})
		}
	}
	if p.Reboot.RespectSessions {
		sessions, err := h.Login.Sessions(ctx)
		if err != nil {
			unknown(err)
		}
		for _, s := range sessions {
			if idle := p.Reboot.SessionIdle; idle > 0 && s.Idle && !s.IdleSince.IsZero() && h.Now().Sub(s.IdleSince) >= idle {
				continue
			}
			reasons = append(reasons, updater.Reason{Kind: "session", Text: fmt.Sprintf("%s is logged in (session %s, %s)", s.User, s.ID, s.Type)})
		}
	}
	return reasons
}

// Ailments implements updater.Host: units that are not active, and checks that
// fail.
func (h *Host) Ailments(ctx context.Context, p policy.Policy) (reasons []updater.Reason) {
	if len(p.Health.Units) > 0 {
		states, err := h.Systemd.UnitStates(ctx, p.Health.Units)
		if err != nil {
			reasons = append(reasons, updater.Reason{Kind: "unit", Text: "systemd cannot be asked for units: " + err.Error()})
		}
		for _, s := range states {
			if s.ActiveState != "active" {
				reasons = append(reasons, updater.Reason{Kind: "unit", Text: fmt.Sprintf("unit %s is %s (%s, %s)", s.Unit, s.ActiveState, s.LoadState, s.SubState)})
			}
		}
	}
	env := append(os.Environ(), h.checkEnvironment()...)
	checks, err := host.RunChecks(ctx, p.Health.Directory, env, p.Health.CheckTimeout)
	if err != nil {
		reasons = append(reasons, updater.Reason{Kind: "check", Text: "health checks cannot be run: " + err.Error()})
	}
	for _, c := range checks {
		if !c.Healthy {
			reasons = append(reasons, updater.Reason{Kind: "check", Text: fmt.Sprintf("check %s: %s", c.Name, c.Reason)})
		}
	}
	return reasons
}

// checkEnvironment tells checks which release they judge.
func (h *Host) checkEnvironment() []string {
	var env []string
	if id, err := h.Identity(); err == nil {
		env = append(env, "DRYDOCK_RELEASE="+id.Release)
	}
	if s, err := h.Slots.Booted(); err == nil {
		env = append(env, "DRYDOCK_SLOT="+s.String())
	}
	return env
}

// ImageRelease implements updater.Host. What no reader knows (btrfs) is
// mounted read-only and read.
func (h *Host) ImageRelease(s partition.Slot) (string, error) {
	d, err := h.Slots.Slot(s)
	if err != nil {
		return "", err
	}
	release, err := image.OSRelease(d, d.Size())
	path, whole := wholeDevice(d)
	if err := d.Close(); err != nil {
		return "", fmt.Errorf("close slot %s: %w", s, err)
	}
	if errors.Is(err, image.ErrFormat) && whole {
		release, err = host.OSRelease(path)
	}
	if err != nil {
		return "", err
	}
	return release.Number(), nil
}

// wholeDevice returns the device node of a slot that has one of its own.
func wholeDevice(d updater.SlotDevice) (string, bool) {
	at, ok := d.(interface {
		Path() string
		Offset() int64
	})
	if !ok || at.Path() == "" || at.Offset() != 0 {
		return "", false
	}
	return at.Path(), true
}

// Hook implements updater.Host.
func (h *Host) Hook(ctx context.Context, run updater.HookRun, line func(string)) error {
	d, err := h.Slots.Slot(run.Slot)
	if err != nil {
		return err
	}
	path, whole := wholeDevice(d)
	if err := d.Close(); err != nil {
		return fmt.Errorf("close slot %s: %w", run.Slot, err)
	}
	if !whole {
		return fmt.Errorf("%w: slot %s is part of a disk image, not a block device", host.ErrNoMount, run.Slot)
	}
	hook := host.Hook{
		Path: run.Policy.Path, Timeout: run.Policy.Timeout, Output: line, Environ: h.hookEnvironment(os.Environ()),
		Required: run.Policy.Postinstall == policy.PostinstallRequire,
		Running:  h.runningHook(run.Policy.Path),
	}
	return hook.Run(ctx, host.HookArgs{Device: path, Kernel: run.Kernel, PCRPolicy: run.PCRPolicy,
		Slot: run.Slot.String(), Version: run.Version, Packages: run.Packages, Response: run.Response})
}

// runningHook is where the running system has the hook that lies at path in a
// slot: a slot is what /usr is (update_engine, postinstall_runner_action.cc).
func (h *Host) runningHook(path string) string { return filepath.Join(h.root(), "usr", path) }

// hookEnvironment is env with the policy's proxy, for the tools of a hook.
// What the service was started with comes first.
func (h *Host) hookEnvironment(env []string) []string {
	if h.Policy == nil || h.Policy().Server.Proxy == "" {
		return env
	}
	env = slices.Clip(env)
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"} {
		lower := strings.ToLower(name)
		if slices.ContainsFunc(env, func(entry string) bool {
			return strings.HasPrefix(entry, name+"=") || strings.HasPrefix(entry, lower+"=")
		}) {
			continue
		}
		proxy := h.Policy().Server.Proxy
		env = append(env, name+"="+proxy, lower+"="+proxy)
	}
	return env
}

// Reboot implements updater.Host.
func (h *Host) Reboot(ctx context.Context, _ string, forced bool) error {
	return h.Login.Reboot(ctx, forced)
}

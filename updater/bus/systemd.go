package bus

import (
	"context"
	"fmt"
	"strings"

	"github.com/godbus/dbus/v5"
)

// Systemd asks the service manager (org.freedesktop.systemd1). The zero value
// asks on the system bus. Each method opens a connection of its own.
type Systemd struct {
	Address string // of the bus; empty for the system bus
}

const (
	systemdName    = "org.freedesktop.systemd1"
	systemdPath    = "/org/freedesktop/systemd1"
	systemdManager = "org.freedesktop.systemd1.Manager"
)

// maxUnits bounds the units that are asked for at once: a health check names
// a handful.
const maxUnits = 256

// A UnitState is one unit as systemd sees it.
type UnitState struct {
	Unit        string
	LoadState   string // "loaded", "not-found", "masked", "error", …
	ActiveState string // "active", "activating", "inactive", "failed", …
	SubState    string // "running", "exited", "dead", …
	Result      string // "success", "exit-code", "timeout", …; "" where the unit's type has none
}

// UnitStates returns the states of units, in their order. A unit that does
// not exist has LoadState "not-found".
func (s Systemd) UnitStates(ctx context.Context, units []string) (states []UnitState, err error) {
	if len(units) > maxUnits {
		return nil, fmt.Errorf("ask systemd for %d units: at most %d", len(units), maxUnits)
	}
	err = askOnce(ctx, s.Address, func(ctx context.Context, conn *connection) error {
		for _, unit := range units {
			state, err := unitState(ctx, conn, unit)
			if err != nil {
				return fmt.Errorf("ask systemd for %s: %w", unit, err)
			}
			states = append(states, state)
		}
		return nil
	})
	return states, err
}

func unitState(ctx context.Context, conn *connection, unit string) (UnitState, error) {
	var path dbus.ObjectPath
	manager := conn.Object(systemdName, systemdPath)
	// LoadUnit, not GetUnit: that one knows only units that are in memory.
	if err := manager.CallWithContext(ctx, systemdManager+".LoadUnit", 0, unit).Store(&path); err != nil {
		return UnitState{}, err
	}
	object := conn.Object(systemdName, path)
	all, err := getAll(ctx, object, systemdName+".Unit")
	if err != nil {
		return UnitState{}, err
	}
	state := UnitState{Unit: unit}
	err = store(all, map[string]any{"LoadState": &state.LoadState, "ActiveState": &state.ActiveState, "SubState": &state.SubState})
	if iface := resultInterface(unit); iface != "" && err == nil {
		state.Result, err = getString(ctx, object, iface, "Result")
	}
	return state, err
}

// resultInterface is the interface of a unit's type, if that type has the
// property Result (systemd, org.freedesktop.systemd1(5)).
func resultInterface(unit string) string {
	kind := unit[strings.LastIndexByte(unit, '.')+1:]
	switch kind {
	case "service", "socket", "timer", "mount", "automount", "swap", "path", "scope":
		return systemdName + "." + strings.ToUpper(kind[:1]) + kind[1:]
	}
	return ""
}

// SystemState is systemd's word for the whole system: "initializing",
// "starting", "running", "degraded" (a unit failed), "maintenance",
// "stopping". It stays "starting" while any job is queued, and with
// systemd-boot one is for as long as a trial lasts: drydock-good.service. A
// health check of a trial must not wait for "running".
func (s Systemd) SystemState(ctx context.Context) (state string, err error) {
	err = askOnce(ctx, s.Address, func(ctx context.Context, conn *connection) error {
		state, err = getString(ctx, conn.Object(systemdName, systemdPath), systemdManager, "SystemState")
		return err
	})
	return state, err
}

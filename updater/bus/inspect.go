package bus

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

// A UnitSetup is how systemd has set a unit up, its drop-ins included. Nothing
// in it is asked for while an update runs: it is for who judges the set-up.
type UnitSetup struct {
	UnitState
	FileState  string    // "enabled", "static", "masked", …; "" for a unit without a file
	Changed    time.Time // when the unit last started, stopped or reloaded; zero: never
	Outdated   bool      // its files were changed, and daemon-reload not called
	Before     []string  // units that start after it
	RequiredBy []string
	OnBoot     []time.Duration // of a timer: when it elapses, after the boot
	Service    ServiceSetup    // of a service
}

// A ServiceSetup is what a service sees and may write, as far as it concerns
// drydockd.
type ServiceSetup struct {
	Environment    []string // "NAME=value"
	ReadWritePaths []string // without the signs before them
	StateDirectory []string // below /var/lib
	ProtectSystem  string   // "no", "yes", "full", "strict"
	ProtectHome    string   // "no", "yes", "read-only", "tmpfs"
	PrivateTmp     bool
}

// UnitSetups returns how units are set up, in their order. A unit that does not
// exist has LoadState "not-found".
func (s Systemd) UnitSetups(ctx context.Context, units []string) (setups []UnitSetup, err error) {
	if len(units) > maxUnits {
		return nil, fmt.Errorf("ask systemd for %d units: at most %d", len(units), maxUnits)
	}
	err = askOnce(ctx, s.Address, func(ctx context.Context, conn *connection) error {
		for _, unit := range units {
			setup, err := unitSetup(ctx, conn, unit)
			if err != nil {
				return fmt.Errorf("ask systemd for %s: %w", unit, err)
			}
			setups = append(setups, setup)
		}
		return nil
	})
	return setups, err
}

func unitSetup(ctx context.Context, conn *connection, unit string) (UnitSetup, error) {
	var path dbus.ObjectPath
	if err := conn.Object(systemdName, systemdPath).CallWithContext(ctx, systemdManager+".LoadUnit", 0, unit).Store(&path); err != nil {
		return UnitSetup{}, err
	}
	object := conn.Object(systemdName, path)
	all, err := getAll(ctx, object, systemdName+".Unit")
	if err != nil {
		return UnitSetup{}, err
	}
	u := UnitSetup{UnitState: UnitState{Unit: unit}}
	var changed uint64 // microseconds since 1970
	err = store(all, map[string]any{
		"LoadState": &u.LoadState, "ActiveState": &u.ActiveState, "SubState": &u.SubState, "UnitFileState": &u.FileState,
		"StateChangeTimestamp": &changed, "NeedDaemonReload": &u.Outdated, "Before": &u.Before, "RequiredBy": &u.RequiredBy,
	})
	if changed > 0 {
		u.Changed = time.UnixMicro(int64(changed))
	}
	switch {
	case err != nil || u.LoadState != "loaded":
	case strings.HasSuffix(unit, ".timer"):
		u.OnBoot, err = onBoot(ctx, object)
	case strings.HasSuffix(unit, ".service"):
		u.Service, err = serviceSetup(ctx, object)
	}
	return u, err
}

// onBoot reads a timer's OnBootSec (org.freedesktop.systemd1(5),
// "TimersMonotonic").
func onBoot(ctx context.Context, object dbus.BusObject) (at []time.Duration, err error) {
	all, err := getAll(ctx, object, systemdName+".Timer")
	if err != nil {
		return nil, err
	}
	var timers []struct {
		Base          string
		Offset, Elaps uint64 // microseconds
	}
	err = store(all, map[string]any{"TimersMonotonic": &timers})
	for _, t := range timers {
		if t.Base == "OnBootUSec" {
			at = append(at, microseconds(t.Offset))
		}
	}
	return at, err
}

func serviceSetup(ctx context.Context, object dbus.BusObject) (s ServiceSetup, err error) {
	all, err := getAll(ctx, object, systemdName+".Service")
	if err != nil {
		return s, err
	}
	err = store(all, map[string]any{
		"Environment": &s.Environment, "ReadWritePaths": &s.ReadWritePaths, "StateDirectory": &s.StateDirectory,
		"ProtectSystem": &s.ProtectSystem, "ProtectHome": &s.ProtectHome, "PrivateTmp": &s.PrivateTmp,
	})
	for i, path := range s.ReadWritePaths {
		s.ReadWritePaths[i] = strings.TrimLeft(path, "-+")
	}
	return s, err
}

// microseconds is a time span of systemd's; "infinity", and what is as long, is
// the longest duration that there is.
func microseconds(n uint64) time.Duration {
	if n > math.MaxInt64/uint64(time.Microsecond) {
		return math.MaxInt64
	}
	return time.Duration(n) * time.Microsecond
}

// Watchdog is how soon the hardware's watchdog resets the machine when systemd
// no longer feeds it (RuntimeWatchdogSec=). 0: systemd does not use it; the
// longest duration: as the hardware has it.
func (s Systemd) Watchdog(ctx context.Context) (after time.Duration, err error) {
	err = askOnce(ctx, s.Address, func(ctx context.Context, conn *connection) error {
		var value dbus.Variant
		var span uint64
		object := conn.Object(systemdName, systemdPath)
		err := object.CallWithContext(ctx, propertiesInterface+".Get", 0, systemdManager, "RuntimeWatchdogUSec").Store(&value)
		if err == nil {
			err = value.Store(&span)
		}
		if err != nil {
			return fmt.Errorf("ask systemd for its watchdog: %w", err)
		}
		after = microseconds(span)
		return nil
	})
	return after, err
}

// A NameState says who answers to a name of the bus.
type NameState struct {
	Owned       bool // somebody does
	Activatable bool // somebody would be started who does
}

// Names asks the bus at address, "" for the system bus, about names.
func Names(ctx context.Context, address string, names []string) (states map[string]NameState, err error) {
	err = askOnce(ctx, address, func(ctx context.Context, conn *connection) error {
		states = map[string]NameState{}
		var activatable []string
		if err := conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.ListActivatableNames", 0).Store(&activatable); err != nil {
			return fmt.Errorf("ask the bus for names: %w", err)
		}
		for _, name := range names {
			var state NameState
			if err := conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.NameHasOwner", 0, name).Store(&state.Owned); err != nil {
				return fmt.Errorf("ask the bus for %s: %w", name, err)
			}
			for _, a := range activatable {
				state.Activatable = state.Activatable || a == name
			}
			states[name] = state
		}
		return nil
	})
	return states, err
}

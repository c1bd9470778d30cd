package bus

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/drydock-os/drydock/fleetlink/host"
	"github.com/godbus/dbus/v5"
)

// Units are the units of systemd that patterns name, as a host.Keeper. Each
// method opens a connection of its own.
type Units struct {
	Address  string   // as of Systemd
	Patterns []string // as systemctl takes them ("docker-*.service"), in the order in which to stop; "[", "?" and "*" are special
}

const (
	// stoppable are the kinds of units that a pattern names: the others (mounts,
	// devices, slices, targets) are no workloads.
	stoppable = "service socket timer path"
	// lookAgain is how often a job is looked at whose end was not signalled.
	lookAgain = 2 * time.Second
	// errorNoSuchUnit and its kin are how systemd says that there is none.
	errorNoSuchUnit = systemdName + ".NoSuchUnit"
	errorUnitMasked = systemdName + ".UnitMasked"
)

// spared are units that no pattern names: who stops them does not get to stop
// anything else.
var spared = []string{"drydockd.service", "dbus.service", "dbus.socket", "dbus-broker.service"}

// Running implements host.Keeper.
func (u Units) Running(ctx context.Context) (running []host.Unit, err error) {
	err = askOnce(ctx, u.Address, func(ctx context.Context, conn *connection) error {
		for _, pattern := range u.Patterns {
			names, err := listUnits(ctx, conn, pattern)
			if err != nil {
				return fmt.Errorf("ask systemd for %s: %w", pattern, err)
			}
			for _, name := range names {
				if slices.ContainsFunc(running, func(r host.Unit) bool { return r.Name == name }) {
					continue
				}
				unit, err := look(ctx, conn, name)
				if err != nil {
					return err
				}
				if unit.State.Runs() {
					running = append(running, unit)
				}
			}
			if len(running) > maxUnits {
				return fmt.Errorf("ask systemd for units to stop: the patterns name more than %d that run", maxUnits)
			}
		}
		if len(u.Patterns) == 0 { // still: can it be asked?
			_, err := getString(ctx, conn.Object(systemdName, systemdPath), systemdManager, "Version")
			return err
		}
		return nil
	})
	return running, err
}

// A listedUnit is a unit as systemd lists it (org.freedesktop.systemd1(5),
// ListUnits).
type listedUnit struct {
	Name, Description, Load, Active, Sub, Following string
	Path                                            dbus.ObjectPath
	JobID                                           uint32
	JobType                                         string
	Job                                             dbus.ObjectPath
}

// UnitStates says how far units are that others start and stop.
type UnitStates struct {
	Address string // as of Systemd
}

// Running says of those of some units that run, or are on their way up or down,
// how far they are: "deactivating (stop-sigterm)".
func (u UnitStates) Running(ctx context.Context, units []string) (map[string]string, error) {
	running := map[string]string{}
	err := askOnce(ctx, u.Address, func(ctx context.Context, conn *connection) error {
		var wire []listedUnit
		manager := conn.Object(systemdName, systemdPath)
		if err := manager.CallWithContext(ctx, systemdManager+".ListUnitsByNames", 0, units).Store(&wire); err != nil {
			return fmt.Errorf("ask systemd for %d units: %w", len(units), err)
		}
		if len(wire) != len(units) { // one for each, in their order: an alias has its unit's name
			return fmt.Errorf("ask systemd for %d units: it answers for %d", len(units), len(wire))
		}
		for i, w := range wire {
			if stateOf(w.Load, w.Active).Runs() {
				running[units[i]] = w.Active + " (" + w.Sub + ")"
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return running, nil
}

// listUnits lists the units that match a pattern and run, by name.
func listUnits(ctx context.Context, conn *connection, pattern string) (names []string, err error) {
	var wire []listedUnit
	manager := conn.Object(systemdName, systemdPath)
	err = manager.CallWithContext(ctx, systemdManager+".ListUnitsByPatterns", 0, []string{}, []string{pattern}).Store(&wire)
	for _, w := range wire {
		kind := w.Name[strings.LastIndexByte(w.Name, '.')+1:]
		if slices.Contains(strings.Fields(stoppable), kind) && !slices.Contains(spared, w.Name) && stateOf(w.Load, w.Active).Runs() {
			names = append(names, w.Name)
		}
	}
	slices.Sort(names)
	return names, err
}

// Look implements host.Keeper.
func (u Units) Look(ctx context.Context, name string) (unit host.Unit, err error) {
	err = askOnce(ctx, u.Address, func(ctx context.Context, conn *connection) error {
		unit, err = look(ctx, conn, name)
		return err
	})
	return unit, err
}

func look(ctx context.Context, conn *connection, name string) (host.Unit, error) {
	state, err := unitState(ctx, conn, name)
	if err != nil {
		return host.Unit{}, fmt.Errorf("ask systemd for %s: %w", name, err)
	}
	unit := host.Unit{Name: name, State: stateOf(state.LoadState, state.ActiveState), What: state.ActiveState + " (" + state.SubState + ")"}
	if state.Result != "" && state.Result != "success" {
		unit.What = state.ActiveState + " (" + state.Result + ")"
	}
	if !unit.State.Runs() {
		return unit, nil
	}
	var path dbus.ObjectPath
	if err := conn.Object(systemdName, systemdPath).CallWithContext(ctx, systemdManager+".LoadUnit", 0, name).Store(&path); err != nil {
		return host.Unit{}, fmt.Errorf("ask systemd for %s: %w", name, err)
	}
	object := conn.Object(systemdName, path)
	err = tend(ctx, object, &unit)
	if err != nil {
		err = fmt.Errorf("ask systemd for %s: %w", name, err)
	}
	return unit, err
}

// tend reads how a unit may be stopped (systemd.unit(5), RefuseManualStop=), and
// whether it is a job (systemd.service(5), Type=oneshot, RemainAfterExit=).
func tend(ctx context.Context, object dbus.BusObject, unit *host.Unit) error {
	all, err := getAll(ctx, object, systemdName+".Unit")
	if err != nil {
		return err
	}
	var refuses bool
	if err := store(all, map[string]any{"RefuseManualStop": &refuses}); err != nil {
		return err
	}
	if refuses {
		unit.Kept = "its unit has RefuseManualStop=yes"
	}
	if !strings.HasSuffix(unit.Name, ".service") {
		return nil
	}
	if all, err = getAll(ctx, object, systemdName+".Service"); err != nil {
		return err
	}
	var kind string
	var remains bool
	err = store(all, map[string]any{"Type": &kind, "RemainAfterExit": &remains})
	unit.Once = kind == "oneshot" && !remains
	return err
}

// stateOf reads a unit's LoadState and ActiveState (org.freedesktop.systemd1(5)).
// One whose file is gone or masked may still run. A state that is not known runs:
// nothing is built on it.
func stateOf(load, active string) host.State {
	switch active {
	case "active", "reloading", "refreshing":
		return host.Up
	case "activating":
		return host.Starting
	case "deactivating":
		return host.Ending
	case "inactive", "failed", "maintenance":
	default:
		return host.Starting
	}
	switch load {
	case "not-found":
		return host.Absent
	case "masked":
		return host.Off
	}
	return host.Down
}

// Stop implements host.Keeper. How long a unit has to end is its own
// TimeoutStopSec=. When ctx ends, systemd goes on stopping it.
func (u Units) Stop(ctx context.Context, name string, force bool) error {
	ended := func(s host.State) bool { return !s.Runs() }
	err := u.have(ctx, name, ended, func(manager dbus.BusObject) *dbus.Call {
		if force {
			return manager.CallWithContext(ctx, systemdManager+".KillUnit", 0, name, "all", int32(syscall.SIGKILL))
		}
		return manager.CallWithContext(ctx, systemdManager+".StopUnit", 0, name, "replace")
	})
	if errorName(err) == errorNoSuchUnit { // it ended, and systemd forgot it
		return nil
	}
	if err != nil {
		return fmt.Errorf("have systemd stop %s: %w", name, err)
	}
	return nil
}

// Start implements host.Keeper.
func (u Units) Start(ctx context.Context, name string) error {
	up := func(s host.State) bool { return s == host.Up }
	err := u.have(ctx, name, up, func(manager dbus.BusObject) *dbus.Call {
		return manager.CallWithContext(ctx, systemdManager+".StartUnit", 0, name, "replace")
	})
	if errorName(err) == errorUnitMasked {
		return nil // somebody decided that it is not to run
	}
	if err != nil {
		return fmt.Errorf("have systemd start %s: %w", name, err)
	}
	return nil
}

// have asks systemd for something, and returns when the unit is as it is to be, or
// the job has failed. That a job has ended is signalled, and looked at as well: a
// signal may be lost.
func (u Units) have(ctx context.Context, name string, is func(host.State) bool, ask func(dbus.BusObject) *dbus.Call) error {
	dialing, cancel := context.WithTimeout(ctx, systemPatience)
	defer cancel()
	conn, err := connect(dialing, u.Address)
	if err != nil {
		return err
	}
	defer conn.Close()
	signals := make(chan *dbus.Signal, 256)
	conn.Signal(signals)
	err = conn.AddMatchSignalContext(dialing, dbus.WithMatchSender(systemdName), dbus.WithMatchInterface(systemdManager), dbus.WithMatchMember("JobRemoved"))
	manager := conn.Object(systemdName, systemdPath)
	if err == nil {
		err = manager.CallWithContext(dialing, systemdManager+".Subscribe", 0).Err
	}
	if err != nil {
		return fmt.Errorf("listen to systemd: %w", err)
	}
	j := unitJob{conn: conn, signals: signals, unit: name}
	call := ask(manager)
	if err = call.Err; err == nil && len(call.Body) > 0 { // KillUnit is no job
		err = call.Store(&j.path)
	}
	if err != nil {
		return err
	}
	return j.await(ctx, is)
}

// unitJob is one of systemd's, on a unit.
type unitJob struct {
	conn    *connection
	signals <-chan *dbus.Signal
	unit    string
	path    dbus.ObjectPath // "": none, the unit alone is looked at
}

// await waits until the job has ended, or the unit is as it is to be without it.
func (j unitJob) await(ctx context.Context, is func(host.State) bool) error {
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for first := j.path == ""; ; first = false {
		result := ""
		if !first {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case signal, open := <-j.signals:
				if !open {
					return errBusLost
				}
				if result = j.result(signal); result == "" {
					continue
				}
			case <-tick.C:
			}
		}
		asking, cancel := context.WithTimeout(ctx, systemPatience)
		unit, err := look(asking, j.conn, j.unit)
		cancel()
		switch {
		case err != nil:
			return err
		case is(unit.State):
			return nil
		case result != "":
			return fmt.Errorf("its job ended with %q, and it is %s", result, unit.What)
		}
	}
}

// result is the job's, if that is what is signalled: "done",
// "canceled", "timeout", "failed", "dependency", "skipped".
func (j unitJob) result(signal *dbus.Signal) string {
	var id uint32
	var path dbus.ObjectPath
	var unit, result string
	if signal.Name != systemdManager+".JobRemoved" || dbus.Store(signal.Body, &id, &path, &unit, &result) != nil || path != j.path {
		return ""
	}
	return result
}

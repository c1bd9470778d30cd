package bus

import (
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// TestUnitSetups asks a stand-in for the service manager.
func TestUnitSetups(t *testing.T) {
	b := startBus(t)
	conn := b.own(systemdName)
	methods := map[string]any{"LoadUnit": func(name string) (dbus.ObjectPath, *dbus.Error) {
		return map[string]dbus.ObjectPath{"x.service": "/u/service", "x.timer": "/u/timer", "gone.service": "/u/gone"}[name], nil
	}}
	if err := conn.ExportMethodTable(methods, systemdPath, systemdManager); err != nil {
		t.Fatal(err)
	}
	unit := func(load, file string) map[string]dbus.Variant {
		return map[string]dbus.Variant{
			"LoadState": dbus.MakeVariant(load), "ActiveState": dbus.MakeVariant("active"), "SubState": dbus.MakeVariant("running"),
			"UnitFileState": dbus.MakeVariant(file), "StateChangeTimestamp": dbus.MakeVariant(uint64(1_700_000_000_000_000)),
			"NeedDaemonReload": dbus.MakeVariant(true), "Before": dbus.MakeVariant([]string{"boot-complete.target"}),
			"RequiredBy": dbus.MakeVariant([]string{"boot-complete.target"}),
		}
	}
	type span struct {
		Base string
		A, B uint64
	}
	interfaces := map[dbus.ObjectPath]map[string]map[string]dbus.Variant{
		"/u/service": {systemdName + ".Unit": unit("loaded", "enabled"), systemdName + ".Service": {
			"Environment": dbus.MakeVariant([]string{"A=b"}), "ReadWritePaths": dbus.MakeVariant([]string{"-/boot", "/run"}),
			"StateDirectory": dbus.MakeVariant([]string{"drydock"}), "ProtectSystem": dbus.MakeVariant("strict"),
			"ProtectHome": dbus.MakeVariant("yes"), "PrivateTmp": dbus.MakeVariant(true),
		}},
		"/u/timer": {systemdName + ".Unit": unit("loaded", "enabled"), systemdName + ".Timer": {
			"TimersMonotonic": dbus.MakeVariant([]span{{"OnBootUSec", 1_200_000_000, 0}, {"OnUnitActiveUSec", 5, 0}}),
		}},
		"/u/gone": {systemdName + ".Unit": unit("not-found", "")},
	}
	for path, all := range interfaces {
		export := map[string]any{"GetAll": func(i string) (map[string]dbus.Variant, *dbus.Error) { return all[i], nil }}
		if err := conn.ExportMethodTable(export, path, propertiesInterface); err != nil {
			t.Fatal(err)
		}
	}
	s := Systemd{Address: b.address}
	got, err := s.UnitSetups(t.Context(), []string{"x.service", "x.timer", "gone.service"})
	if err != nil {
		t.Fatal(err)
	}
	state := UnitState{LoadState: "loaded", ActiveState: "active", SubState: "running"}
	target := []string{"boot-complete.target"}
	want := []UnitSetup{
		{UnitState: state, FileState: "enabled", Service: ServiceSetup{[]string{"A=b"}, []string{"/boot", "/run"}, []string{"drydock"}, "strict", "yes", true}},
		{UnitState: state, FileState: "enabled", OnBoot: []time.Duration{20 * time.Minute}},
		{UnitState: UnitState{LoadState: "not-found", ActiveState: "active", SubState: "running"}},
	}
	for i, unit := range []string{"x.service", "x.timer", "gone.service"} {
		want[i].Unit, want[i].Changed, want[i].Outdated, want[i].Before, want[i].RequiredBy = unit, time.Unix(1_700_000_000, 0), true, target, target
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if _, err := s.UnitSetups(t.Context(), make([]string, maxUnits+1)); err == nil {
		t.Error("asked for too many units")
	}
}

func TestWatchdogIsWhatSystemdFeeds(t *testing.T) {
	b := startBus(t)
	conn := b.own(systemdName)
	s := Systemd{Address: b.address}
	if _, err := s.Watchdog(t.Context()); err == nil {
		t.Error("a systemd that does not answer has a watchdog")
	}
	for usec, want := range map[uint64]time.Duration{0: 0, 60_000_000: time.Minute, math.MaxUint64: math.MaxInt64} {
		export(t, conn, systemdPath, systemdManager, map[string]any{"RuntimeWatchdogUSec": usec})
		if got, err := s.Watchdog(t.Context()); got != want || err != nil {
			t.Errorf("%d µs: %v, %v", usec, got, err)
		}
	}
}

func TestNames(t *testing.T) {
	b := startBus(t)
	b.own(loginName)
	got, err := Names(t.Context(), b.address, []string{loginName, Name})
	if want := map[string]NameState{loginName: {Owned: true}, Name: {}}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("names %+v, %v", got, err)
	}
	if _, err := Names(t.Context(), "unix:path=/nonexistent", nil); err == nil {
		t.Error("no bus, and no error")
	}
}

package bus

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drydock-os/drydock/fleetlink/host"
	"github.com/godbus/dbus/v5"
)

// serviceManager stands in for the service manager where the real one would have to
// misbehave: it lists the units that a test gives it, and answers and signals as
// the test says. fleetlink/host runs Units against a real one.
type serviceManager struct {
	conn *connection
	mu   sync.Mutex
	list []wireUnit
	done map[string]string // the job's result that is signalled, by the unit; "": no signal
	then map[string]string // a unit's ActiveState after that
	hang chan struct{}     // closed at the end of the test
}

type wireUnit struct {
	Name, Description, Load, Active, Sub, Following string
	Path                                            dbus.ObjectPath
	JobID                                           uint32
	JobType                                         string
	Job                                             dbus.ObjectPath
}

func startManager(t *testing.T, b *privateBus) *serviceManager {
	t.Helper()
	m := &serviceManager{conn: b.own(systemdName), done: map[string]string{}, then: map[string]string{}, hang: make(chan struct{})}
	t.Cleanup(func() { close(m.hang) })
	job := func(name string) (dbus.ObjectPath, *dbus.Error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		result, known := m.done[name]
		switch {
		case name == "mute.service":
			<-m.hang
		case !known:
			return "", failure(errorNoSuchUnit, "Unit "+name+" not loaded.")
		}
		for i := range m.list {
			if m.list[i].Name == name {
				m.list[i].Active = m.then[name]
				m.export(t, m.list[i], nil)
			}
		}
		const path = "/org/freedesktop/systemd1/job/7"
		if result != "" {
			m.conn.Emit(systemdPath, systemdManager+".JobRemoved", uint32(6), dbus.ObjectPath("/org/freedesktop/systemd1/job/6"), name, "failed") // another's
			m.conn.Emit(systemdPath, systemdManager+".JobRemoved", uint32(7), dbus.ObjectPath(path), name, result)
		}
		return path, nil
	}
	methods := map[string]any{
		"ListUnitsByPatterns": func(_, patterns []string) ([]wireUnit, *dbus.Error) {
			var match []wireUnit
			for _, u := range m.list {
				if strings.HasPrefix(u.Name, strings.TrimSuffix(patterns[0], "*")) {
					match = append(match, u)
				}
			}
			return match, nil
		},
		"ListUnitsByNames": func(names []string) ([]wireUnit, *dbus.Error) {
			var found []wireUnit
			for _, name := range names {
				if name == "mute.service" {
					continue
				}
				u := wireUnit{Name: name, Load: "not-found", Active: "inactive", Sub: "dead", Path: "/u", Job: "/"}
				if i := slices.IndexFunc(m.list, func(u wireUnit) bool { return u.Name == name }); i >= 0 {
					u = m.list[i]
				}
				found = append(found, u)
			}
			return found, nil
		},
		"LoadUnit": func(name string) (dbus.ObjectPath, *dbus.Error) {
			return dbus.ObjectPath("/u/" + strings.NewReplacer(".", "_", "-", "_").Replace(name)), nil
		},
		"Subscribe": func() *dbus.Error { return nil },
		"StopUnit":  func(name, mode string) (dbus.ObjectPath, *dbus.Error) { return job(name) },
		"StartUnit": func(name, mode string) (dbus.ObjectPath, *dbus.Error) { return job(name) },
	}
	if err := m.conn.ExportMethodTable(methods, systemdPath, systemdManager); err != nil {
		t.Fatal(err)
	}
	export(t, m.conn, systemdPath, systemdManager, map[string]any{"Version": "252"})
	return m
}

// unit adds a unit, with what it has beside its states.
func (m *serviceManager) unit(t *testing.T, name, load, active string, more map[string]any) {
	t.Helper()
	m.list = append(m.list, wireUnit{Name: name, Load: load, Active: active, Path: "/", Job: "/"})
	m.export(t, m.list[len(m.list)-1], more)
}

func (m *serviceManager) export(t *testing.T, u wireUnit, more map[string]any) {
	values := map[string]any{"LoadState": u.Load, "ActiveState": u.Active, "SubState": "sub", "RefuseManualStop": false}
	service := map[string]any{"Type": "simple", "RemainAfterExit": false, "Result": "success"}
	for name, v := range more {
		if _, ok := service[name]; ok {
			service[name] = v
		} else {
			values[name] = v
		}
	}
	all := map[string]map[string]dbus.Variant{systemdName + ".Unit": {}, systemdName + ".Service": {}}
	for name, v := range values {
		all[systemdName+".Unit"][name] = dbus.MakeVariant(v)
	}
	for name, v := range service {
		all[systemdName+".Service"][name] = dbus.MakeVariant(v)
	}
	methods := map[string]any{
		"GetAll": func(i string) (map[string]dbus.Variant, *dbus.Error) { return all[i], nil },
		"Get":    func(i, name string) (dbus.Variant, *dbus.Error) { return all[i][name], nil },
	}
	path := dbus.ObjectPath("/u/" + strings.NewReplacer(".", "_", "-", "_").Replace(u.Name))
	if err := m.conn.ExportMethodTable(methods, path, propertiesInterface); err != nil {
		t.Error(err)
	}
}

// TestUnitsAreThoseThatRunAndMayBeStopped, in the order of the patterns.
func TestUnitsAreThoseThatRunAndMayBeStopped(t *testing.T) {
	b := startBus(t)
	m := startManager(t, b)
	m.unit(t, "web-b.service", "loaded", "active", nil)
	m.unit(t, "web-a.service", "not-found", "reloading", map[string]any{"RefuseManualStop": true})
	m.unit(t, "web-job.service", "loaded", "activating", map[string]any{"Type": "oneshot"})
	m.unit(t, "web-new.service", "loaded", "some state of tomorrow", nil)
	m.unit(t, "web-off.service", "masked", "inactive", nil)
	m.unit(t, "web.slice", "loaded", "active", nil)
	m.unit(t, "drydockd.service", "loaded", "active", nil)
	m.unit(t, "db.service", "loaded", "deactivating", map[string]any{"Result": "timeout"})
	got, err := Units{Address: b.address, Patterns: []string{"db*", "web*", "d*"}}.Running(t.Context())
	want := []host.Unit{
		{Name: "db.service", State: host.Ending, What: "deactivating (timeout)"},
		{Name: "web-a.service", State: host.Up, What: "reloading (sub)", Kept: "its unit has RefuseManualStop=yes"},
		{Name: "web-b.service", State: host.Up, What: "active (sub)"},
		{Name: "web-job.service", State: host.Starting, What: "activating (sub)", Once: true},
		{Name: "web-new.service", State: host.Starting, What: "some state of tomorrow (sub)"},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("Running = %+v, %v", got, err)
	}
	m.unit(t, "odd.service", "loaded", "active", map[string]any{"RefuseManualStop": "perhaps"})
	if got, err := (Units{Address: b.address, Patterns: []string{"odd*"}}).Running(t.Context()); err == nil {
		t.Errorf("a unit that cannot be read: %+v", got)
	}
	if got, err := (Units{Address: b.address}).Running(t.Context()); err != nil || got != nil {
		t.Errorf("no patterns: %+v, %v", got, err)
	}
	if _, err := (Units{Address: "unix:path=/nonexistent"}).Running(t.Context()); err == nil {
		t.Error("no patterns, and no bus: no error")
	}
	for name, want := range map[string]host.State{"web-off.service": host.Off, "web-b.service": host.Up} {
		if got, err := (Units{Address: b.address}).Look(t.Context(), name); err != nil || got.State != want {
			t.Errorf("Look(%s) = %+v, %v", name, got, err)
		}
	}
}

// TestAJobsEndIsSeen, signalled or not; one that failed, or that a unit did not
// come of, is an error, and so is a manager that does not answer.
func TestAJobsEndIsSeen(t *testing.T) {
	b := startBus(t)
	m := startManager(t, b)
	u := Units{Address: b.address}
	for _, tt := range []struct {
		name, result, then string
		stops, starts      string // what the errors say
	}{
		{"stopped.service", "done", "inactive", "", `job ended with "done", and it is inactive (sub)`},
		{"unheard.service", "", "failed", "", "deadline exceeded"},
		{"cancelled.service", "canceled", "active", `job ended with "canceled"`, ""},
		{"slow.service", "timeout", "deactivating", `job ended with "timeout", and it is deactivating (sub)`, `job ended with "timeout"`},
	} {
		m.mu.Lock()
		m.unit(t, tt.name, "loaded", "active", nil)
		m.done[tt.name], m.then[tt.name] = tt.result, tt.then
		m.mu.Unlock()
		ctx, cancel := context.WithTimeout(t.Context(), 3*lookAgain)
		defer cancel()
		for what, call := range map[string]struct {
			err  error
			want string
		}{"Stop": {u.Stop(ctx, tt.name, false), tt.stops}, "Start": {u.Start(ctx, tt.name), tt.starts}} {
			if call.want == "" && call.err != nil || call.want != "" && (call.err == nil || !strings.Contains(call.err.Error(), call.want)) {
				t.Errorf("%s(%s): %v, want %q", what, tt.name, call.err, call.want)
			}
		}
	}
	if err := u.Stop(t.Context(), "gone.service", false); err != nil {
		t.Errorf("what systemd forgot does not run: %v", err)
	}
	if err := u.Start(t.Context(), "gone.service"); err == nil {
		t.Error("what is not there was started")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := u.Stop(ctx, "mute.service", false); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > patience {
		t.Errorf("a manager that hangs: %v after %s", err, time.Since(began))
	}
}

// TestStatesOfNamedUnits: a unit that is being stopped still runs, one that systemd does
// not know does not, and an answer that leaves one out is none.
func TestStatesOfNamedUnits(t *testing.T) {
	b := startBus(t)
	m := startManager(t, b)
	m.unit(t, "ending.service", "not-found", "deactivating", nil)
	m.unit(t, "down.service", "loaded", "inactive", nil)
	m.unit(t, "up.service", "loaded", "active", nil)
	states := UnitStates{Address: b.address}
	got, err := states.Running(t.Context(), []string{"ending.service", "down.service", "up.service", "unknown.service"})
	if len(got) != 2 || !strings.HasPrefix(got["ending.service"], "deactivating") || !strings.HasPrefix(got["up.service"], "active") || err != nil {
		t.Errorf("running: %v, %v", got, err)
	}
	if got, err := states.Running(t.Context(), []string{"up.service", "mute.service"}); err == nil {
		t.Errorf("without one of them: %v", got)
	}
}

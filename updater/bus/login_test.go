package bus

import (
	"context"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/testdata/real"
	"github.com/drydock-os/drydock/updater"
	"github.com/godbus/dbus/v5"
)

// logind stands in for systemd-logind: it holds the lists that a test gives
// it, and answers a reboot as the test says. A real one cannot run beside the
// machine's, and would reboot it.
type logind struct {
	inhibitors []wireInhibitor
	refusal    *dbus.Error
	flags      chan uint64 // of each reboot that was agreed to
}

type wireInhibitor struct {
	What, Who, Why, Mode string
	UID, PID             uint32
}

type wireSession struct {
	ID   string
	UID  uint32
	User string
	Seat string
	Path dbus.ObjectPath
}

// plainReboot marks a call of Reboot in logind.flags.
const plainReboot = 1 << 63

// start exports l as a logind of a systemd version: one before 246 has no
// RebootWithFlags, one before 257 refuses the flag skipInhibitors.
func (l *logind) start(t *testing.T, b *privateBus, version int) *connection {
	t.Helper()
	l.flags = make(chan uint64, 8)
	conn := b.own(loginName)
	methods := map[string]any{
		"ListInhibitors": func() ([]wireInhibitor, *dbus.Error) { return l.inhibitors, nil },
		"Reboot": func(interactive bool) *dbus.Error {
			if l.refusal == nil {
				l.flags <- plainReboot
			}
			return l.refusal
		},
	}
	if version >= 246 {
		methods["RebootWithFlags"] = func(flags uint64) *dbus.Error {
			if version < 257 && flags&skipInhibitors != 0 {
				return failure(errorInvalidArgs, "Invalid flags parameter")
			}
			if l.refusal == nil {
				l.flags <- flags
			}
			return l.refusal
		}
	}
	if err := conn.ExportMethodTable(methods, loginPath, loginManager); err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestRebootAsksLogind(t *testing.T) {
	held := []wireInhibitor{{"sleep:shutdown", "apt", "installing", "block", 0, 7}}
	for _, test := range []struct {
		name       string
		version    int
		forced     bool
		inhibitors []wireInhibitor
		refusal    *dbus.Error
		want       uint64
		refused    bool
	}{
		{name: "plain", version: 257, want: checkInhibitors},
		{name: "forced", version: 257, forced: true, inhibitors: held, want: skipInhibitors},
		{name: "refused", version: 257, refusal: failure("org.freedesktop.login1.BlockedByInhibitorLock", "apt is installing"), refused: true},
		{name: "denied", version: 257, refusal: failure(errorAccessDenied, "no"), refused: true},
		{name: "252, plain", version: 252, want: checkInhibitors},
		{name: "252, forced", version: 252, forced: true, inhibitors: held, want: plainReboot},
		{name: "245, plain", version: 245, want: plainReboot},
		{name: "245, inhibited", version: 245, inhibitors: held, refused: true},
		{name: "245, forced", version: 245, forced: true, inhibitors: held, want: plainReboot},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := startBus(t)
			l := &logind{inhibitors: test.inhibitors, refusal: test.refusal}
			l.start(t, b, test.version)
			err := Login{Address: b.address}.Reboot(t.Context(), test.forced)
			if test.refused {
				if !errors.Is(err, ErrRefused) || !errors.Is(err, updater.ErrRefused) || len(l.flags) != 0 {
					t.Errorf("Reboot: %v, %d reboots", err, len(l.flags))
				}
				if test.refusal != nil && !strings.Contains(err.Error(), test.refusal.Error()) {
					t.Errorf("the reason is lost: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := receive(t, l.flags); got != test.want {
				t.Errorf("flags %#x, want %#x", got, test.want)
			}
		})
	}
}

func TestALogindThatDoesNotAnswerHasNotRefused(t *testing.T) {
	b := startBus(t)
	err := Login{Address: b.address}.Reboot(t.Context(), false)
	if err == nil || errors.Is(err, ErrRefused) {
		t.Errorf("without logind: %v", err)
	}
	conn := b.own(loginName)
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	methods := map[string]any{"RebootWithFlags": func(uint64) *dbus.Error { <-hang; return nil }}
	if err := conn.ExportMethodTable(methods, loginPath, loginManager); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := (Login{Address: b.address}).Reboot(ctx, false); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrRefused) {
		t.Errorf("a logind that hangs: %v", err)
	}
	if err := (Login{Address: "unix:path=/nonexistent"}).Reboot(t.Context(), false); err == nil || errors.Is(err, ErrRefused) {
		t.Errorf("without a bus: %v", err)
	}
}

func TestInhibitorsAreThoseThatBlockAShutdown(t *testing.T) {
	b := startBus(t)
	l := &logind{inhibitors: []wireInhibitor{
		{"shutdown", "backup", "tape is turning", "block", 1000, 42},
		{"sleep:shutdown:idle", "vm", "guests run", "block-weak", 0, 43},
		{"shutdown", "unattended-upgrades", "stop first", "delay", 0, 44},
		{"sleep", "player", "playing", "block", 1000, 45},
		{"handle-power-key", "desktop", "own menu", "block", 1000, 46},
	}}
	l.start(t, b, 257)
	got, err := Login{Address: b.address}.Inhibitors(t.Context())
	want := []Inhibitor{{"backup", "tape is turning", "block", 1000, 42}, {"vm", "guests run", "block-weak", 0, 43}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("Inhibitors = %+v, %v", got, err)
	}
}

func TestSessionsAreThoseOfPeople(t *testing.T) {
	b := startBus(t)
	conn := (&logind{}).start(t, b, 257)
	sessions := map[string]Session{
		"1":  {ID: "1", User: "core", Class: "user", Type: "tty", State: "active", Remote: true},
		"2":  {ID: "2", User: "ann", Class: "user-early", Type: "wayland", State: "online", Idle: true, IdleSince: time.UnixMicro(1778634123000000)},
		"3":  {ID: "3", User: "bob", Class: "user", Type: "tty", State: "closing"},
		"c1": {ID: "c1", User: "gdm", Class: "greeter", Type: "wayland", State: "active"},
		"4":  {ID: "4", User: "cron", Class: "background", Type: "unspecified", State: "active"},
		"5":  {ID: "5", User: "root", Class: "manager", Type: "unspecified", State: "active"},
	}
	var list []wireSession
	for _, id := range []string{"1", "2", "3", "c1", "4", "5", "gone"} {
		path := dbus.ObjectPath("/org/freedesktop/login1/session/" + id)
		list = append(list, wireSession{id, 1000, sessions[id].User, "", path})
		s, there := sessions[id]
		if !there {
			continue
		}
		export(t, conn, path, loginSession, map[string]any{"Class": s.Class, "Type": s.Type, "State": s.State, "IdleHint": s.Idle, "IdleSinceHint": uint64(1778634123000000), "Remote": s.Remote})
	}
	methods := map[string]any{"ListSessions": func() ([]wireSession, *dbus.Error) { return list, nil }}
	if err := conn.ExportMethodTable(methods, loginPath, loginManager); err != nil {
		t.Fatal(err)
	}
	got, err := Login{Address: b.address}.Sessions(t.Context())
	if want := []Session{sessions["1"], sessions["2"]}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("Sessions = %+v, %v", got, err)
	}
	// A session whose properties are not what we know is not overlooked.
	export(t, conn, "/org/freedesktop/login1/session/1", loginSession, map[string]any{"Class": 7})
	if got, err := (Login{Address: b.address}).Sessions(t.Context()); err == nil {
		t.Errorf("Sessions = %+v", got)
	}
}

// export gives an object properties of one interface. A name with dots is of
// the interface that it begins with.
func export(t *testing.T, conn *connection, path dbus.ObjectPath, iface string, values map[string]any) {
	t.Helper()
	all := map[string]dbus.Variant{}
	full := map[string]dbus.Variant{}
	for name, v := range values {
		if strings.Contains(name, ".") {
			full[name] = dbus.MakeVariant(v)
			continue
		}
		all[name] = dbus.MakeVariant(v)
		full[iface+"."+name] = all[name]
	}
	methods := map[string]any{
		"GetAll": func(i string) (map[string]dbus.Variant, *dbus.Error) {
			if i != iface {
				return nil, failure(errorUnknownInterface, i)
			}
			return all, nil
		},
		"Get": func(i, name string) (dbus.Variant, *dbus.Error) {
			if value, ok := full[i+"."+name]; ok {
				return value, nil
			}
			return dbus.Variant{}, unknownProperty(i, name)
		},
	}
	if err := conn.ExportMethodTable(methods, path, propertiesInterface); err != nil {
		t.Fatal(err)
	}
}

// TestUnitStates asks a stand-in for the service manager, which knows three
// units.
func TestUnitStates(t *testing.T) {
	b := startBus(t)
	conn := b.own(systemdName)
	paths := map[string]dbus.ObjectPath{"etcd.service": "/u/etcd", "multi-user.target": "/u/target", "nonsense.service": "/u/none"}
	methods := map[string]any{"LoadUnit": func(name string) (dbus.ObjectPath, *dbus.Error) {
		if path, ok := paths[name]; ok {
			return path, nil
		}
		return "", failure("org.freedesktop.DBus.Error.InvalidArgs", "Unit name "+name+" is not valid.")
	}}
	if err := conn.ExportMethodTable(methods, systemdPath, systemdManager); err != nil {
		t.Fatal(err)
	}
	unit := func(load, active, sub, result string) map[string]any {
		values := map[string]any{"LoadState": load, "ActiveState": active, "SubState": sub}
		if result != "" {
			values[systemdName+".Service.Result"] = result
		}
		return values
	}
	export(t, conn, "/u/etcd", systemdName+".Unit", unit("loaded", "failed", "failed", "exit-code"))
	export(t, conn, "/u/target", systemdName+".Unit", unit("loaded", "active", "active", ""))
	export(t, conn, "/u/none", systemdName+".Unit", unit("not-found", "inactive", "dead", "success"))
	export(t, conn, systemdPath, systemdManager, map[string]any{"SystemState": "degraded"})
	s := Systemd{Address: b.address}
	got, err := s.UnitStates(t.Context(), []string{"multi-user.target", "etcd.service", "nonsense.service"})
	want := []UnitState{
		{"multi-user.target", "loaded", "active", "active", ""},
		{"etcd.service", "loaded", "failed", "failed", "exit-code"},
		{"nonsense.service", "not-found", "inactive", "dead", "success"},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("UnitStates = %+v, %v", got, err)
	}
	if _, err := s.UnitStates(t.Context(), []string{"no unit"}); err == nil || !strings.Contains(err.Error(), "no unit") {
		t.Errorf("bad name: %v", err)
	}
	if _, err := s.UnitStates(t.Context(), make([]string, maxUnits+1)); err == nil {
		t.Error("asked for too many units")
	}
	if state, err := s.SystemState(t.Context()); state != "degraded" || err != nil {
		t.Errorf("SystemState = %q, %v", state, err)
	}
}

// TestRealSystemd asks the machine's own service manager, where there is one.
func TestRealSystemd(t *testing.T) {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		t.Skip("this machine was not booted with systemd, and a container cannot be")
	}
	real.Root(t)
	states, err := Systemd{}.UnitStates(t.Context(), []string{"sysinit.target", "drydock-no-such.service"})
	if err != nil || states[0].LoadState != "loaded" || states[1].LoadState != "not-found" {
		t.Errorf("UnitStates = %+v, %v", states, err)
	}
	if _, err := (Login{}).Inhibitors(t.Context()); err != nil {
		t.Error(err)
	}
}

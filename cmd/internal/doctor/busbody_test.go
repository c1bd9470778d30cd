package doctor

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/drydock-os/drydock/testdata/real"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/bus"
)

// A privateBus is a real dbus-daemon.
type privateBus struct{ address string }

var buses atomic.Int32

const busConfig = `<busconfig><type>system</type><listen>%s</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_type="method_call"/><allow send_type="signal"/>
<allow send_requested_reply="true" send_type="method_return"/><allow send_requested_reply="true" send_type="error"/>
<allow receive_type="method_call"/><allow receive_type="method_return"/><allow receive_type="error"/><allow receive_type="signal"/></policy></busconfig>`

// startBus starts a bus on which the body's systemd, logind, polkit and drydockd
// answer.
func startBus(b *body) *privateBus {
	b.t.Helper()
	p := &privateBus{address: fmt.Sprintf("unix:abstract=drydock-doctor-%d-%d", os.Getpid(), buses.Add(1))}
	config := filepath.Join(b.t.TempDir(), "bus.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, busConfig, p.address), 0o600); err != nil {
		b.t.Fatal(err)
	}
	daemon := exec.Command(real.Program(b.t, "dbus-daemon"), "--config-file="+config, "--nofork", "--nopidfile", "--print-address")
	out, err := daemon.StdoutPipe()
	if err == nil {
		err = daemon.Start()
	}
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { daemon.Process.Kill(); daemon.Wait() })
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		b.t.Fatalf("dbus-daemon did not start: %v", err)
	}
	p.own(b.t, "org.freedesktop.PolicyKit1")
	b.serveSystemd(p.own(b.t, "org.freedesktop.systemd1"))
	if b.logind {
		b.serveLogind(p.own(b.t, "org.freedesktop.login1"))
	}
	if u := b.units[daemonUnit]; u != nil && u.active == "active" {
		b.serveDaemon(p)
	}
	return p
}

func (p *privateBus) own(t *testing.T, name string) *dbus.Conn {
	t.Helper()
	conn, err := dbus.Connect(p.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if reply, err := conn.RequestName(name, dbus.NameFlagDoNotQueue); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
		t.Fatalf("own %s: %v %v", name, reply, err)
	}
	return conn
}

// A unit is one as the stand-in for systemd tells of it.
type unit struct {
	load, active, file string
	before             []string
	changed            time.Time
	outdated           bool
	onBoot             []time.Duration
	service            bus.ServiceSetup
}

func healthyUnits() map[string]*unit {
	return map[string]*unit{
		daemonUnit: {load: "loaded", active: "active", file: "enabled", changed: time.Now().Add(time.Hour), service: bus.ServiceSetup{
			ReadWritePaths: []string{"-/boot", "/run"}, StateDirectory: []string{"drydock"}, ProtectSystem: "strict", ProtectHome: "yes", PrivateTmp: true}},
		trialTimer:    {load: "loaded", active: "active", file: "enabled", onBoot: []time.Duration{20 * time.Minute}},
		trialUnit:     {load: "loaded", active: "inactive", file: "static"},
		goodUnit:      {load: "loaded", active: "active", file: "enabled", before: []string{bootTarget}},
		"app.service": {load: "loaded", active: "active", file: "enabled"},
	}
}

const systemdName = "org.freedesktop.systemd1"

// serveSystemd answers as org.freedesktop.systemd1(5) says.
func (b *body) serveSystemd(conn *dbus.Conn) {
	b.t.Helper()
	var mu sync.Mutex
	paths := 0
	load := func(name string) (dbus.ObjectPath, *dbus.Error) {
		mu.Lock()
		defer mu.Unlock()
		u := b.units[name]
		if u == nil {
			u = &unit{load: "not-found", active: "inactive"}
		}
		paths++
		path := dbus.ObjectPath(fmt.Sprintf("/unit/%d", paths))
		all := u.properties(name)
		b.export(conn, path, map[string]any{"GetAll": func(iface string) (map[string]dbus.Variant, *dbus.Error) { return all[iface], nil },
			"Get": func(iface, name string) (dbus.Variant, *dbus.Error) { return all[iface][name], nil }})
		return path, nil
	}
	if err := conn.ExportMethodTable(map[string]any{"LoadUnit": load}, "/org/freedesktop/systemd1", systemdName+".Manager"); err != nil {
		b.t.Fatal(err)
	}
	b.export(conn, "/org/freedesktop/systemd1", map[string]any{"Get": func(_, _ string) (dbus.Variant, *dbus.Error) {
		return dbus.MakeVariant(uint64(b.fed.Microseconds())), nil
	}})
}

func (b *body) export(conn *dbus.Conn, path dbus.ObjectPath, methods map[string]any) {
	if err := conn.ExportMethodTable(methods, path, "org.freedesktop.DBus.Properties"); err != nil {
		b.t.Error(err)
	}
}

func (u *unit) properties(name string) map[string]map[string]dbus.Variant {
	type span struct {
		Base string
		A, B uint64
	}
	spans := []span{}
	for _, d := range u.onBoot {
		spans = append(spans, span{"OnBootUSec", uint64(d.Microseconds()), 0})
	}
	changed := uint64(0)
	if !u.changed.IsZero() {
		changed = uint64(u.changed.UnixMicro())
	}
	v := dbus.MakeVariant
	kind := name[strings.LastIndexByte(name, '.')+1:]
	return map[string]map[string]dbus.Variant{
		systemdName + ".Unit": {"LoadState": v(u.load), "ActiveState": v(u.active), "SubState": v("running"), "UnitFileState": v(u.file),
			"StateChangeTimestamp": v(changed), "NeedDaemonReload": v(u.outdated), "Before": v(append([]string{}, u.before...)), "RequiredBy": v([]string{})},
		systemdName + "." + strings.ToUpper(kind[:1]) + kind[1:]: {"Result": v("success"), "TimersMonotonic": v(spans),
			"Environment": v(append([]string{}, u.service.Environment...)), "ReadWritePaths": v(append([]string{}, u.service.ReadWritePaths...)),
			"StateDirectory": v(append([]string{}, u.service.StateDirectory...)), "ProtectSystem": v(u.service.ProtectSystem),
			"ProtectHome": v(u.service.ProtectHome), "PrivateTmp": v(u.service.PrivateTmp)},
	}
}

func (b *body) serveLogind(conn *dbus.Conn) {
	type inhibitor struct {
		What, Who, Why, Mode string
		UID, PID             uint32
	}
	type session struct {
		ID         string
		UID        uint32
		User, Seat string
		Path       dbus.ObjectPath
	}
	methods := map[string]any{
		"ListInhibitors": func() ([]inhibitor, *dbus.Error) { return nil, nil },
		"ListSessions":   func() ([]session, *dbus.Error) { return nil, nil },
	}
	if err := conn.ExportMethodTable(methods, "/org/freedesktop/login1", "org.freedesktop.login1.Manager"); err != nil {
		b.t.Fatal(err)
	}
}

// A yard is what the bus's server asks: it says the body's status.
type yard struct{ b *body }

func (y yard) Status() updater.Status { return y.b.status }
func (y yard) Do(context.Context, updater.Request) (updater.Outcome, error) {
	return "", nil
}
func (y yard) Plan(context.Context) (updater.Plan, error) { return updater.Plan{}, nil }
func (y yard) History() []updater.HistoryEntry            { return nil }

// serveDaemon runs the daemon's own side of the bus.
func (b *body) serveDaemon(p *privateBus) {
	b.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	server := &bus.Server{Address: p.address, Controller: yard{b}}
	var running sync.WaitGroup
	running.Go(func() { server.Run(ctx) })
	b.t.Cleanup(func() { stop(); running.Wait() })
	bounded, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		names, err := bus.Names(bounded, p.address, []string{bus.Name, bus.Update1Name})
		if err == nil && names[bus.Name].Owned && names[bus.Update1Name].Owned {
			return
		}
		select {
		case <-bounded.Done():
			b.t.Fatal("drydockd's side of the bus does not come up")
		case <-tick.C:
		}
	}
}

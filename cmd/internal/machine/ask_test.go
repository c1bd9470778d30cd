package machine

import (
	"bufio"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/drydock-os/drydock/testdata/real"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/bus"
	"github.com/drydock-os/drydock/updater/policy"
)

const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><listen>unix:path=%s</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy>
</busconfig>`

// privateBus starts a real dbus-daemon for this test and returns its address.
func privateBus(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	put(t, dir, "bus.conf", fmt.Sprintf(busConfig, filepath.Join(dir, "bus")), 0o644)
	cmd := exec.Command(real.Program(t, "dbus-daemon"), "--config-file="+filepath.Join(dir, "bus.conf"), "--nofork", "--nopidfile", "--print-address")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("dbus-daemon did not start: %v", err)
	}
	return "unix:path=" + filepath.Join(dir, "bus")
}

// own connects a stand-in for a service: a real logind or systemd cannot run
// beside the machine's own.
func own(t *testing.T, address, name string) *dbus.Conn {
	t.Helper()
	conn, err := dbus.Connect(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := conn.RequestName(name, dbus.NameFlagDoNotQueue); err != nil {
		t.Fatal(err)
	}
	return conn
}

func export(t *testing.T, conn *dbus.Conn, methods map[string]any, path dbus.ObjectPath, iface string) {
	t.Helper()
	if err := conn.ExportMethodTable(methods, path, iface); err != nil {
		t.Fatal(err)
	}
}

// properties exports an object's properties, whatever the interface.
func properties(t *testing.T, conn *dbus.Conn, path dbus.ObjectPath, values map[string]any) {
	all := map[string]dbus.Variant{}
	for name, v := range values {
		all[name] = dbus.MakeVariant(v)
	}
	export(t, conn, map[string]any{
		"GetAll": func(string) (map[string]dbus.Variant, *dbus.Error) { return all, nil },
		"Get":    func(_, name string) (dbus.Variant, *dbus.Error) { return all[name], nil },
	}, path, "org.freedesktop.DBus.Properties")
}

// said is reasons as the tests write them.
func said(reasons []updater.Reason) string {
	var lines []string
	for _, r := range reasons {
		lines = append(lines, r.Kind+": "+r.Text)
	}
	return strings.Join(lines, "\n")
}

// TestBlockersAreWhatThePolicyRespects asks a stand-in for logind, which knows
// of one inhibitor that blocks and of three sessions.
func TestBlockersAreWhatThePolicyRespects(t *testing.T) {
	address := privateBus(t)
	conn := own(t, address, "org.freedesktop.login1")
	type inhibitor struct {
		What, Who, Why, Mode string
		UID, PID             uint32
	}
	type session struct {
		ID   string
		UID  uint32
		User string
		Seat string
		Path dbus.ObjectPath
	}
	export(t, conn, map[string]any{
		"ListInhibitors": func() ([]inhibitor, *dbus.Error) {
			return []inhibitor{{"shutdown", "backup", "tape is turning", "block", 0, 42}, {"shutdown", "apt", "stop first", "delay", 0, 43}}, nil
		},
		"ListSessions": func() ([]session, *dbus.Error) {
			return []session{{"1", 1000, "ann", "", "/s/1"}, {"2", 1001, "bob", "", "/s/2"}, {"3", 1002, "eve", "", "/s/3"}}, nil
		},
	}, "/org/freedesktop/login1", "org.freedesktop.login1.Manager")
	now := time.Unix(1.7e9, 0)
	at := func(path dbus.ObjectPath, idle bool, since time.Duration) {
		properties(t, conn, path, map[string]any{"Class": "user", "Type": "tty", "State": "active",
			"IdleHint": idle, "IdleSinceHint": uint64(now.Add(-since).UnixMicro()), "Remote": true})
	}
	at("/s/1", false, 0)
	at("/s/2", true, 29*time.Minute)
	at("/s/3", true, 30*time.Minute)
	h := &Host{Login: bus.Login{Address: address}, Now: func() time.Time { return now }}
	const tape = "inhibitor: backup (process 42) inhibits a shutdown: tape is turning"
	const ann, bob, eve = "session: ann is logged in (session 1, tty)", "session: bob is logged in (session 2, tty)", "session: eve is logged in (session 3, tty)"
	for _, c := range []struct {
		inhibitors, sessions bool
		idle                 time.Duration
		want                 []string
	}{
		{true, true, 30 * time.Minute, []string{tape, ann, bob}},
		{true, true, 0, []string{tape, ann, bob, eve}},
		{true, false, 30 * time.Minute, []string{tape}},
		{false, true, 10 * time.Minute, []string{ann}},
		{false, false, 0, nil},
	} {
		p := policy.Policy{Reboot: policy.Reboot{RespectInhibitors: c.inhibitors, RespectSessions: c.sessions, SessionIdle: c.idle}}
		if got, want := said(h.Blockers(t.Context(), p)), strings.Join(c.want, "\n"); got != want {
			t.Errorf("%+v\ngot  %s\nwant %s", c, got, want)
		}
	}
}

// What cannot be read is in the way.
func TestALogindThatDoesNotAnswerIsInTheWay(t *testing.T) {
	for what, address := range map[string]string{"no logind": privateBus(t), "no bus": "unix:path=/nonexistent"} {
		h := &Host{Login: bus.Login{Address: address}, Now: time.Now}
		for _, r := range []policy.Reboot{{RespectInhibitors: true}, {RespectSessions: true}} {
			got := h.Blockers(t.Context(), policy.Policy{Reboot: r})
			if len(got) != 1 || got[0].Kind != "logind" || !strings.Contains(got[0].Text, "cannot be asked") {
				t.Errorf("%s, %+v: %q", what, r, said(got))
			}
		}
		if got := h.Blockers(t.Context(), policy.Policy{}); got != nil {
			t.Errorf("%s, nothing respected: %q", what, said(got))
		}
	}
}

// TestAilmentsAreUnitsAndChecks asks a stand-in for systemd, and runs checks.
func TestAilmentsAreUnitsAndChecks(t *testing.T) {
	address := privateBus(t)
	conn := own(t, address, "org.freedesktop.systemd1")
	units := map[string]dbus.ObjectPath{"etcd.target": "/u/etcd", "kubelet.target": "/u/kubelet", "none.target": "/u/none"}
	export(t, conn, map[string]any{"LoadUnit": func(name string) (dbus.ObjectPath, *dbus.Error) { return units[name], nil }},
		"/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
	properties(t, conn, "/u/etcd", map[string]any{"LoadState": "loaded", "ActiveState": "active", "SubState": "active"})
	properties(t, conn, "/u/kubelet", map[string]any{"LoadState": "loaded", "ActiveState": "failed", "SubState": "dead"})
	properties(t, conn, "/u/none", map[string]any{"LoadState": "not-found", "ActiveState": "inactive", "SubState": "dead"})
	dir := t.TempDir()
	put(t, dir, "10-release", "#!/bin/sh\necho \"$DRYDOCK_RELEASE in $DRYDOCK_SLOT\"; exit 1\n", 0o755)
	put(t, dir, "20-well", "#!/bin/sh\nexit 0\n", 0o755)
	h := &Host{Root: system(t, "2.0.0"), Slots: openSlots(t, diskImage(t), ""), Systemd: bus.Systemd{Address: address}}
	p := policy.Policy{Health: policy.Health{Units: []string{"etcd.target", "kubelet.target", "none.target"}, Directory: dir, CheckTimeout: time.Minute}}
	want := `unit: unit kubelet.target is failed (loaded, dead)
unit: unit none.target is inactive (not-found, dead)
check: check 10-release: 10-release exited with code 1
2.0.0 in A`
	if got := said(h.Ailments(t.Context(), p)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	p.Health.Units, p.Health.Directory = []string{"etcd.target"}, filepath.Join(dir, "none")
	if got := h.Ailments(t.Context(), p); got != nil {
		t.Errorf("healthy: %q", said(got))
	}
	h.Systemd.Address = "unix:path=/nonexistent"
	if got := h.Ailments(t.Context(), p); len(got) != 1 || !strings.Contains(got[0].Text, "systemd cannot be asked") {
		t.Errorf("no systemd: %q", said(got))
	}
	p.Health.Units, p.Health.Directory = nil, filepath.Join(dir, "20-well")
	if got := h.Ailments(t.Context(), p); len(got) != 1 || !strings.Contains(got[0].Text, "cannot be run") {
		t.Errorf("a file for a directory: %q", said(got))
	}
}

package daemon_test

import (
	"cmp"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/drydock-os/drydock/fleetlink/fleet/etcd2"
	"github.com/drydock-os/drydock/fleetlink/fleet/fleettest"
	"github.com/drydock-os/drydock/fleetlink/nomad/nomadtest"
)

// nomadDock is a played Nomad of two nodes, of which the host is the first, with
// two jobs and a system job on it.
func nomadDock(t *testing.T, _ *host) dock {
	s, address := nomadtest.Open(t)
	s.Register(nomadtest.NewJob("service", "db", 1), "a")
	web := s.Register(nomadtest.NewJob("service", "web", 1), "a")
	s.Register(nomadtest.NewJob("system", "logs", 0), "a")
	stuck := func(is bool) { s.Do(func() { web.Stuck = is }) }
	return dock{
		tables: fmt.Sprintf("[scheduler]\nkind = \"nomad\"\n[scheduler.nomad]\naddress = %q\nnode = \"a\"\n", address),
		heard:  func() bool { return s.Asked.Load() > 0 },
		work:   []string{"db.main[0]", "web.main[0]"}, why: "was told to end, and has not yet",
		keep: func() func() { stuck(true); return func() { stuck(false) } },
		here: func() []string { return s.Here("a") },
		closed: func() (closed bool) {
			s.Do(func() { closed = s.Node("a").Closed() })
			return closed
		},
		down: func() { s.Down("a") },
		phases: []phase{
			{reason: "node a: is down", closed: true},
			{begin: func() {
				s.Do(func() { s.Idle = true })
				s.Up("a")
			}, reason: "the permit is kept until the work is back: logs.main (ran here before, and Nomad has not started it again)"},
		},
		last: func() { s.Do(func() { s.Idle = false }) },
		record: func() (all []moment) {
			for _, e := range s.Events() {
				all = append(all, moment{e.At, e.What})
			}
			return all
		},
		story: []string{"permit: granted", "node a is ineligible", "node a drains", "db.main[0] has ended on a", "web.main[0] has ended on a",
			"the drain of a is complete", "logs.main[0] has ended on a", "the reboot is asked for", "the machine is down", "node a is down",
			"node a is ready", "node a is eligible", "logs.main[0] runs on a", "permit: updated"},
	}
}

// fleetDock is a played fleet of three machines over a real etcd, of which the
// host is one, with two units and a Global one on it.
func fleetDock(t *testing.T, h *host) dock { return fleetDockOf(t, h, "db.service", "web.service") }

// fleetDockOf has other units, of which the last can be kept.
func fleetDockOf(t *testing.T, h *host, work ...string) dock {
	e, here := fleettest.StartEtcd(t), machineID(0)
	f := fleettest.Start(t, e, map[string]map[string]string{here: {"reboot": "ok"}, strings.Repeat("e", 32): {"reboot": "ok"}, strings.Repeat("f", 32): {"reboot": "ok"}})
	address, requests := e.Watched(t)
	for _, name := range work {
		f.Place(name, here)
	}
	f.Place("logs.service", "", fleettest.Option{Section: "X-Fleet", Name: "Global", Value: "true"})
	running := func() (names []string) {
		for _, name := range f.Agents[here].Up() {
			if name != "logs.service" { // it ends with the machine
				names = append(names, name)
			}
		}
		return names
	}
	f.Agents[here].Await(append(work, "logs.service")...)
	h.systemd(func(unit string) string {
		running, err := f.Agents[here].Running(t.Context(), []string{unit})
		if err != nil {
			t.Error(err)
		}
		active, _, _ := strings.Cut(running[unit], " ")
		return cmp.Or(active, "inactive")
	})
	one := work[len(work)-1]
	return dock{
		tables: fmt.Sprintf("[scheduler]\nkind = \"fleet\"\n[scheduler.fleet]\nendpoint = %q\netcd = [%q]\nprefix = %q\ncordon_key = \"reboot\"\ncordon_value = \"draining\"\nheartbeat = \"1s\"\nstop = \"5s\"\n",
			f.Endpoint, address, f.Prefix),
		heard: func() bool { return len(requests()) > 0 },
		work:  work, why: "it has not ended here yet",
		keep: func() func() {
			f.Lock()
			defer f.Unlock()
			f.Slow[one] = time.Hour
			return func() { f.Agents[here].End(one) }
		},
		here: running,
		closed: func() bool {
			n, _, err := f.Keys.Get(t.Context(), f.Key("machines", here, "metadata", "reboot"))
			if err != nil && !etcd2.Is(err, etcd2.KeyNotFound) {
				t.Error(err)
			}
			return n.Value == "draining"
		},
		down: func() {
			f.Agents[here].Vanish()
			f.Lock()
			defer f.Unlock()
			f.Broken["logs.service"] = here
		},
		phases: []phase{
			{reason: "fleet does not see this machine", closed: true},
			{begin: f.Agents[here].Start, reason: "logs.service", closed: true},
		},
		last: func() {
			f.Lock()
			clear(f.Broken)
			f.Unlock()
			f.Agents[here].Vanish() // somebody restarts fleet
			f.Agents[here].Start()
		},
		record: func() (all []moment) {
			f.Lock()
			for _, v := range f.Events {
				all = append(all, moment{v.At, fmt.Sprintf("%s %s on %.1s", v.What, v.Unit, v.Machine)})
			}
			f.Unlock()
			record, cordon := "/drydock"+f.Prefix+"/"+here, f.Key("machines", here, "metadata", "reboot")
			made := false
			for _, r := range requests() {
				switch {
				case r.Method == "GET" || !r.Well:
				case r.Key == record && r.Method == "DELETE":
					all = append(all, moment{r.At, "the record of the drain is gone"})
				case r.Key == record && !made:
					made = true
					all = append(all, moment{r.At, "the record of the drain is made"})
				case r.Key == cordon:
					all = append(all, moment{r.At, "the cordon is taken off"})
				}
			}
			return all
		},
		story: []string{"permit: granted", "the record of the drain is made", "stop db.service on 0", "stop web.service on 0",
			"the reboot is asked for", "the machine is down", "the cordon is taken off", "the record of the drain is gone", "permit: updated"},
	}
}

// TestWholeMachineOfNomad: a node's allocations are drained before the reboot is
// asked for, and the permit is kept until the node takes work again and its system
// jobs run. The Nomad is played: nomadtest says after what.
func TestWholeMachineOfNomad(t *testing.T) {
	t.Parallel() // it mostly waits
	newWhole(t, "", nomadDock).updates()
}

// TestWholeMachineOfNomadAborts: an allocation that does not end is named, and the
// node takes work again.
func TestWholeMachineOfNomadAborts(t *testing.T) {
	t.Parallel() // it mostly waits
	newWhole(t, retriesLate, nomadDock).aborts()
}

// TestWholeMachineOfFleet: units are moved one by one before the reboot is asked
// for, and the permit is kept until fleet sees the machine and its Global units
// are up. The fleet is played over a real etcd 3.4: fleettest says after what.
func TestWholeMachineOfFleet(t *testing.T) {
	t.Parallel() // it mostly waits
	newWhole(t, "", fleetDock).updates()
}

// TestWholeMachineOfFleetAborts: a unit that does not end is named, and nothing of
// the drain is left in fleet.
func TestWholeMachineOfFleetAborts(t *testing.T) {
	t.Parallel()                                                                        // it mostly waits
	one := func(t *testing.T, h *host) dock { return fleetDockOf(t, h, "web.service") } // units are moved one after the other
	newWhole(t, retriesLate, one).aborts()
}

// systemd stands in for the service manager on the host's bus, as far as it is
// asked for units: active is a unit's ActiveState.
func (h *host) systemd(active func(unit string) string) {
	h.t.Helper()
	conn, err := dbus.Connect(h.address)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { conn.Close() })
	const name = "org.freedesktop.systemd1"
	type unit struct { // org.freedesktop.systemd1(5), ListUnits
		Name, Description, Load, Active, Sub, Following string
		Path                                            dbus.ObjectPath
		JobID                                           uint32
		JobType                                         string
		Job                                             dbus.ObjectPath
	}
	list := func(names []string) (all []unit, _ *dbus.Error) {
		for _, name := range names {
			all = append(all, unit{Name: name, Load: "loaded", Active: active(name), Sub: "sub", Path: "/", Job: "/"})
		}
		return all, nil
	}
	if err = conn.ExportMethodTable(map[string]any{"ListUnitsByNames": list}, "/org/freedesktop/systemd1", name+".Manager"); err != nil {
		h.t.Fatal(err)
	}
	if _, err := conn.RequestName(name, dbus.NameFlagDoNotQueue); err != nil {
		h.t.Fatal(err)
	}
}

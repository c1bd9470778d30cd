package fleet

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/fleetlink/fleet/etcd2"
	"github.com/drydock-os/drydock/fleetlink/fleet/fleettest"
)

// TestDrain plays what happens to fleets, on the tests' own fleet over a real etcd.
func TestDrain(t *testing.T) {
	e := fleettest.StartEtcd(t)
	for name, test := range map[string]func(*scene){
		"an announcement is withdrawn before its unit stops": (*scene).testAnnouncement,
		"an announcement that does not end stops the move":   (*scene).testStubbornAnnouncement,
		"conflicts are named":                                (*scene).testConflicts,
		"a pinned unit is stopped by force":                  (*scene).testPinned,
		"what fleet puts back is moved again":                (*scene).testPutBack,
		"a unit that ends slowly is waited for":              (*scene).testSlow,
		"a unit of which systemd is not asked":               (*scene).testUnasked,
		"a unit that ends well is well":                      (*scene).testEnds,
		"a unit that was stopped ends well":                  (*scene).testStoppedEnds,
		"a unit that ended where it went stays there":        (*scene).testStaysEnded,
		"a job that fleet did not start is waited for":       (*scene).testJob,
		"a socket's daemon moves":                            (*scene).testSocket,
		"what a person stops stays stopped":                  (*scene).testStopped,
		"fleet's API lags behind":                            (*scene).testLag,
		"a unit that flaps is named":                         (*scene).testFlapping,
		"a unit that fails stops the drain, and comes home":  (*scene).testFails,
		"a machine that vanishes":                            (*scene).testVanishes,
		"a machine-id that two machines claim":               (*scene).testTwins,
		"metadata closes when nobody is evicted by it":       (*scene).testMetadata,
		"metadata is given back as it was":                   (*scene).testOverride,
		"no work for a machine that is drained too":          (*scene).testOthers,
		"503 for a while":                                    (*scene).testAway,
		"another etcd than fleet's":                          (*scene).testWrongEtcd,
		"work that does not come back":                       (*scene).testAilments,
	} {
		t.Run(name, func(t *testing.T) {
			f := fleettest.Start(t, e, three())
			o := options(f)
			o.CordonKey, o.CordonValue = "reboot", "draining"
			test(&scene{newCrew(t, o), f})
		})
	}
}

// database is a unit with an announcement and one that goes along.
func (s *scene) database() {
	db := s.place("db")
	s.unit("announce.service", launched, "X-Fleet:MachineOf="+db, "Unit:BindsTo="+db)
	s.unit("logs.service", launched, "X-Fleet:MachineOf="+db)
	s.up("announce.service", idA)
	s.up("logs.service", idA)
}

func (s *scene) testAnnouncement() {
	s.database()
	s.unit("everywhere.service", launched, "X-Fleet:Global=true")
	s.up("everywhere.service", idA)
	before := remains(s.f, s.T)
	s.drain(fleetlink.Order{})
	to := s.target("db.service")
	for _, name := range []string{"db.service", "announce.service", "logs.service"} {
		s.up(name, to)
		if s.target(name) != to || to == idA {
			s.Errorf("%s is on %s, db.service on %s", name, s.target(name), to)
		}
	}
	s.before(event{"stop", "announce.service", idA}, event{"stop", "db.service", idA})
	s.before(event{"stop", "announce.service", idA}, event{"start", "db.service", to})
	s.up("everywhere.service", idA)
	s.resume()
	s.wanted(before)
}

func (s *scene) testStubbornAnnouncement() {
	s.database()
	s.f.Lock()
	s.f.Slow["announce.service"] = time.Hour
	s.f.Unlock()
	s.o.Stop = 2 * fleettest.Heartbeat
	s.unfinished("announce.service does not end within", 4*fleettest.Heartbeat)
	if got := s.target("db.service"); got != idA {
		s.Errorf("db.service was moved to %s while it was announced", got)
	}
	s.resume()
}

func (s *scene) testConflicts() {
	s.f.Frozen.Store(true)
	for i, id := range []string{idA, idB, idC} {
		name := fmt.Sprintf("web@%d.service", i+1)
		s.unit(name, launched, "X-Fleet:Conflicts=%p@*.service")
		s.f.Etcd.Set(s.f.Key("job", name, "target"), id)
		s.up(name, id)
	}
	s.f.Lock()
	s.f.Files["web@1.service"] = []fleettest.Option{{Section: "X-Fleet", Name: "Conflicts", Value: "web@*.service"}} // the tests' engine knows no specifiers
	s.f.Files["web@2.service"], s.f.Files["web@3.service"] = nil, nil
	s.f.Unlock()
	s.f.Frozen.Store(false)
	want := []fleetlink.Workload{{Name: "web@1.service", Why: "it can go nowhere: bbbbbbbb runs web@2.service, which web@1.service conflicts with; cccccccc runs web@3.service, which web@1.service conflicts with"}}
	if held := s.held(); !slices.Equal(held, want) {
		s.Errorf("preflight: %v, want %v", held, want)
	}
	s.wish("web@3.service", inactive)
	s.until("there is room", func() bool { return len(s.held()) == 0 })
	s.drain(fleetlink.Order{})
	s.up("web@1.service", idC)
	s.resume()
}

func (s *scene) testPinned() {
	s.unit("pinned.service", launched, "X-Fleet:MachineID="+idA)
	s.unit("other.service", launched, "X-Fleet:MachineID="+idA)
	s.up("pinned.service", idA)
	s.up("other.service", idA)
	if held := s.held(); len(held) != 2 || held[1].Why != "it can go nowhere: bbbbbbbb, cccccccc is not machine aaaaaaaa" {
		s.Errorf("preflight: %v", held)
	}
	s.drain(fleetlink.Order{Force: true})
	if up := s.f.Agents[idA].Up(); len(up) > 0 {
		s.Errorf("after the drain %v run", up)
	}
	s.wish("other.service", inactive) // a person has other plans
	s.resume()
	s.up("pinned.service", idA)
	if n, _, err := s.f.Keys.Get(s.Context(), s.f.Key("job/other.service/target-state")); err != nil || n.Value != inactive {
		s.Errorf("resume started what a person had stopped: %+v, %v", n, err)
	}
}

func (s *scene) testPutBack() {
	name := s.place("a")
	var release func()
	wait := s.during(name, func(string) { release = s.hold(name) })
	s.unfinished("has no drydock_a=yes", fleettest.Heartbeat)
	wait()
	s.up(name, idA)
	release()
	s.drain(fleetlink.Order{})
	s.resume()
}

func (s *scene) testFlapping() {
	name := s.place("a")
	s.f.Lock()
	s.f.Flapping[name] = idB
	s.f.Unlock()
	s.unit("ballast.service", launched, "X-Fleet:MachineID="+idC)
	s.up("ballast.service", idC)
	s.unfinished("it does not stay up there", fleettest.Heartbeat)
	if st, err := s.open().Standing(s.within(enough)); err != nil || st.Drained() {
		s.Errorf("a unit flaps, and the machine counts as drained: %+v, %v", st, err)
	}
	s.drain(fleetlink.Order{Force: true})
	s.resume()
}

func (s *scene) testFails() {
	a, b := s.place("a"), s.place("b")
	s.f.Lock()
	s.f.Broken[a] = idB
	s.f.Unlock()
	s.unfinished(a+" (it is failed/failed on bbbbbbbb)", 8*fleettest.Heartbeat)
	if s.target(b) != idA {
		s.Error("one unit failed after its move, and the next one was moved as well")
	}
	s.resume()
	s.up(a, idA)
	s.up(b, idA)
}

func (s *scene) testVanishes() {
	name := s.place("a")
	wait := s.during(name, func(to string) { s.f.Agents[to].Vanish() })
	s.f.Etcd.Set(s.f.Key("job/anchor.service/object"), "{}") // so that A is not the emptiest
	s.f.Etcd.Set(s.f.Key("job/anchor.service/target-state"), loaded)
	s.f.Etcd.Set(s.f.Key("job/anchor.service/target"), idA)
	s.drain(fleetlink.Order{})
	wait()
	s.up(name, idC)
	s.resume()
}

func (s *scene) testTwins() {
	name := s.place("a")
	s.cordon()
	twin := s.crew
	o := s.o
	o.Instance, o.Machine.Hostname = "two", "web-2"
	l, err := Open(o)
	if err != nil {
		s.Fatal(err)
	}
	for what, call := range map[string]func() error{
		"preflight": func() error { _, err := l.Preflight(s.within(enough)); return err },
		"standing":  func() error { _, err := l.Standing(s.within(enough)); return err },
		"cordon":    func() error { return l.Cordon(s.within(enough), "mine") },
		"drain":     func() error { return l.Drain(s.within(enough), fleetlink.Order{}) },
		"resume":    func() error { return l.Resume(s.within(enough)) },
	} {
		if err := call(); err == nil || !strings.Contains(err.Error(), `called "web-1"`) {
			s.Errorf("%s on a machine whose id another one uses: %v", what, err)
		}
	}
	twin.up(name, idA)
	s.resume()
}

func (s *scene) testMetadata() {
	var names []string
	for i := range 3 {
		name := fmt.Sprintf("opt%d.service", i)
		s.unit(name, loaded, "X-Fleet:MachineMetadata=reboot=ok")
		s.f.Etcd.Set(s.f.Key("job", name, "target"), idA)
		s.wish(name, launched)
		names = append(names, name)
	}
	for _, name := range names {
		s.until(name+" runs", func() bool { return len(s.where(name)) == 1 })
		s.f.Etcd.Set(s.f.Key("job", name, "target"), idA)
		s.up(name, idA)
	}
	l := s.cordon()
	if s.metadata("reboot") != "ok" {
		s.Error("the cordon evicts units that run")
	}
	least := len(names)
	if err := l.Drain(s.within(enough), fleetlink.Order{Progress: func([]fleetlink.Workload) {
		up := 0
		for _, id := range []string{idA, idB, idC} {
			up += len(s.f.Agents[id].Up())
		}
		least = min(least, up)
	}}); err != nil {
		s.Fatal(err)
	}
	if s.metadata("reboot") != "draining" || least < len(names)-1 {
		s.Errorf("metadata is %q; at least %d of %d units ran", s.metadata("reboot"), least, len(names))
	}
	s.resume()
	s.until("the machine's own metadata is seen again", func() bool { return s.metadata("reboot") == "ok" })
	if _, _, err := s.f.Keys.Get(s.Context(), s.f.Key("machines", idA, "metadata", "reboot")); !etcd2.Is(err, etcd2.KeyNotFound) {
		s.Errorf("our override of the metadata is still there: %v", err)
	}
}

func (s *scene) testOverride() {
	for before, foreign := range map[string]bool{"blue": false, "": false, "draining": true} {
		s.f.Etcd.Set(s.f.Key("machines", idA, "metadata", "reboot"), before)
		s.drain(fleetlink.Order{})
		if s.metadata("reboot") != "draining" {
			s.Errorf("after %q: %q", before, s.metadata("reboot"))
		}
		s.resume()
		n, _, err := s.f.Keys.Get(s.Context(), s.f.Key("machines", idA, "metadata", "reboot"))
		if err != nil || n.Value != before {
			s.Errorf("it was overridden with %q (by somebody who drains: %t), and is %+v, %v", before, foreign, n, err)
		}
	}
	s.f.Etcd.Set(s.f.Key("machines", idA, "metadata", "reboot"), "blue")
	s.drain(fleetlink.Order{})
	s.f.Etcd.Set(s.f.Key("machines", idA, "metadata", "reboot"), "draining") // somebody wants it too, now
	s.resume()
	if s.metadata("reboot") != "draining" {
		s.Error("resume took off a cordon that somebody set after us")
	}
}

func (s *scene) testOthers() {
	name := s.place("a")
	s.f.Etcd.Set(prefixed(s.f, "drydock", idB), `{}`)
	s.set(idC, "reboot", "draining")
	want := []fleetlink.Workload{{Name: name, Why: "it can go nowhere: cccccccc has reboot=draining; bbbbbbbb is being drained as well"}}
	if held := s.held(); !slices.Equal(held, want) {
		s.Errorf("preflight: %v, want %v", held, want)
	}
	s.set(idC, "reboot", "ok")
	s.drain(fleetlink.Order{})
	s.up(name, idC)
	s.f.Etcd.Remove(prefixed(s.f, "drydock", idB))
	s.resume()
}

// prefixed is a key beside fleet's own.
func prefixed(f *fleettest.Fleet, root, name string) string {
	return "/" + root + f.Prefix + "/" + name
}

func (s *scene) testAway() {
	s.place("a")
	wait := s.during("a.service", func(string) {
		s.f.Mute.Store(true)
		<-time.After(5 * fleettest.Heartbeat)
		s.f.Mute.Store(false)
	})
	s.drain(fleetlink.Order{})
	wait()
	s.resume()
}

func (s *scene) testWrongEtcd() {
	s.place("a")
	s.o.Prefix = "/elsewhere"
	for what, call := range map[string]func(*Link) error{
		"preflight": func(l *Link) error { _, err := l.Preflight(s.within(enough)); return err },
		"cordon":    func(l *Link) error { return l.Cordon(s.within(enough), "x") },
	} {
		if err := call(s.open()); err == nil || !strings.Contains(err.Error(), "this is not fleet's etcd") {
			s.Errorf("%s: %v", what, err)
		}
	}
}

func (s *scene) testAilments() {
	s.unit("everywhere.service", launched, "X-Fleet:Global=true")
	s.unit("pinned.service", launched, "X-Fleet:MachineID="+idA)
	s.up("everywhere.service", idA)
	s.up("pinned.service", idA)
	ails := func() string {
		found, err := s.open().Ailments(s.within(enough))
		if err != nil {
			s.Fatal(err)
		}
		return fleetlink.Names(found)
	}
	s.drain(fleetlink.Order{Force: true})
	s.f.Lock()
	s.f.Broken["pinned.service"], s.f.Broken["everywhere.service"] = idA, idA
	s.f.Unlock()
	s.f.Agents[idA].Vanish()
	if got := ails(); !strings.Contains(got, "fleet does not see this machine") {
		s.Errorf("while the machine is down: %s", got)
	}
	s.f.Agents[idA].Start()
	s.until("the Global unit is missed", func() bool {
		return ails() == "everywhere.service (it was up on this machine before, and is failed/failed)"
	})
	s.resume()
	s.until("the stopped unit is missed", func() bool { return strings.Contains(ails(), "pinned.service (it is failed/failed on aaaaaaaa)") })
	s.f.Lock()
	clear(s.f.Broken)
	s.f.Unlock()
	s.f.Agents[idA].Vanish()
	s.f.Agents[idA].Start()
	s.until("all is well", func() bool { return ails() == "" })
}

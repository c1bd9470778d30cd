package rebootlock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/drydock-os/drydock/rebootlock/window"
)

// yard is a group on a store in memory, with a coordinator that is driven by hand.
type yard struct {
	t     *testing.T
	store *Memory
	keys  Keys
	now   time.Time
	reign *Reign
	c     *Coordinator
}

const testGroup = "web"

func newYard(t *testing.T, rules Rules) *yard {
	t.Helper()
	y := &yard{t: t, keys: Keys{Cluster: "test"}, now: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)}
	y.store = &Memory{Now: func() time.Time { return y.now }}
	y.write(y.keys.ClusterRecord(), encode(Cluster{Version: 1, ID: "test", UID: "u"}, nil))
	y.rules(rules)
	y.elect("coordinator")
	return y
}

func (y *yard) elect(machine string) {
	y.t.Helper()
	s, err := y.store.Session(context.Background(), leadTTL)
	if err != nil {
		y.t.Fatal(err)
	}
	lead, err := s.Campaign(context.Background(), y.keys.Election(), []byte(machine))
	if err != nil {
		y.t.Fatal(err)
	}
	y.c = &Coordinator{Store: y.store, Keys: y.keys, Machine: machine, Now: func() time.Time { return y.now }}
	if y.reign, err = y.c.Begin(context.Background(), lead); err != nil {
		y.t.Fatal(err)
	}
	y.t.Cleanup(func() { s.Close(context.Background()) })
}

func (y *yard) write(key string, value []byte) {
	y.t.Helper()
	if _, err := y.store.Commit(context.Background(), Txn{Then: []Op{{Key: key, Value: value, Delete: value == nil}}}); err != nil {
		y.t.Fatal(err)
	}
}

func (y *yard) rules(r Rules) {
	y.t.Helper()
	r.Version = version
	if err := r.Check(); err != nil {
		y.t.Fatal(err)
	}
	y.write(y.keys.Rules(testGroup), encode(r, nil))
}

// join makes a machine a member that is there, in a zone.
func (y *yard) join(zone string, machines ...string) {
	for _, m := range machines {
		y.write(y.keys.Member(m), encode(Member{Version: 1, Machine: m, Group: testGroup, Zone: zone}, nil))
		y.write(y.keys.Presence(m, "boot"), encode(Presence{Version: 1, Machine: m, Boot: "boot"}, nil))
	}
}

func (y *yard) ask(machines ...string) {
	for _, m := range machines {
		kv, _ := y.store.Read(context.Background(), Range{Key: y.keys.Member(m)})
		var rec Member
		if len(kv.KVs) == 1 {
			decode(kv.KVs[0].Value, &rec)
		}
		y.write(y.keys.Ticket(testGroup, m), encode(Ticket{Version: 1, Machine: m, Group: testGroup, Zone: rec.Zone, To: "2", Etcd: rec.Etcd}, nil))
	}
}

// end gives a permit back.
func (y *yard) end(machine string, e Ending) {
	y.t.Helper()
	p := y.permit(machine)
	p.Phase, p.Ending, p.PhaseSince = PhaseEnded, e, y.now
	y.write(y.keys.Permit(testGroup, machine), encode(p, nil))
}

func (y *yard) phase(machine, phase string) {
	p := y.permit(machine)
	p.Phase, p.PhaseSince = phase, y.now
	y.write(y.keys.Permit(testGroup, machine), encode(p, nil))
}

func (y *yard) permit(machine string) (p Permit) {
	y.t.Helper()
	s, err := y.store.Read(context.Background(), Range{Key: y.keys.Permit(testGroup, machine)})
	if err != nil || len(s.KVs) != 1 {
		y.t.Fatalf("%s has no permit: %v", machine, err)
	}
	if _, err := decode(s.KVs[0].Value, &p); err != nil {
		y.t.Fatal(err)
	}
	return p
}

// pass has the coordinator see what happened, and act.
func (y *yard) pass() error {
	events, err := y.store.Since(y.reign.Revision(), y.keys.everything())
	if err != nil {
		return err
	}
	y.reign.Apply(events)
	_, err = y.reign.Pass(context.Background())
	return err
}

// held passes, and returns who holds a permit.
func (y *yard) held() (machines []string) {
	y.t.Helper()
	if err := y.pass(); err != nil {
		y.t.Fatal(err)
	}
	s, err := y.store.Read(context.Background(), y.keys.all(kindPermit, testGroup))
	if err != nil {
		y.t.Fatal(err)
	}
	for _, kv := range s.KVs {
		var p Permit
		if _, err := decode(kv.Value, &p); err != nil {
			y.t.Fatal(err)
		}
		if p.Phase != PhaseEnded {
			machines = append(machines, p.Machine)
		}
	}
	slices.Sort(machines)
	return machines
}

func (y *yard) want(machines ...string) {
	y.t.Helper()
	if got := y.held(); !slices.Equal(got, machines) {
		y.t.Fatalf("holders %v, want %v; blocked: %v", got, machines, y.reign.book.judge(y.reign.book.group(testGroup), y.now, true).blocked)
	}
}

func TestFirstComeFirstServed(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 2}})
	y.join("", "a", "b", "c", "d")
	y.ask("c", "a", "d", "b")
	y.want("a", "c")
	y.end("c", Updated)
	y.want("a", "d")
	y.ask("c") // again: behind the others
	y.end("a", Aborted)
	y.want("b", "d")
	y.end("b", Updated)
	y.end("d", Updated)
	y.want("c")
}

func TestLoweredMaxTakesNothingAndGrantsNothing(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 3}})
	y.join("", "a", "b", "c", "d")
	y.ask("a", "b", "c", "d")
	y.want("a", "b", "c")
	y.rules(Rules{Max: Max{Count: 1}})
	y.want("a", "b", "c")
	y.end("a", Updated)
	y.end("b", Updated)
	y.want("c")
	y.end("c", Updated)
	y.want("d")
}

func TestAbsentMembersUseUpMax(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 2}})
	y.join("", "a", "b", "c", "d")
	y.write(y.keys.Presence("d", "boot"), nil)
	y.ask("a", "b")
	y.want("a")
	y.write(y.keys.Presence("a", "boot"), nil) // it reboots: counted once
	y.phase("a", PhaseRebooting)
	y.want("a")
	y.write(y.keys.Member("d"), nil) // the operator removes it
	y.want("a", "b")
}

func TestPercentRoundsDownAndIsAtLeastOne(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Percent: 30}})
	y.join("", "a", "b", "c")
	y.ask("a", "b", "c")
	y.want("a")
	y.join("", "d", "e", "f", "g") // 30 % of 7 are 2.1
	y.want("a", "b")
}

func TestZoneLimit(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 3}, ZoneMax: 1})
	y.join("z1", "a", "b")
	y.join("z2", "c")
	y.join("", "d")
	y.ask("a", "b", "d", "c")
	y.want("a", "c")
	y.end("c", Updated)
	y.want("a")
	y.end("a", Updated)
	y.want("b")
}

func TestOneZoneAtATimeStarvesNobody(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 2}, OneZone: true})
	y.join("z1", "a", "b", "c")
	y.join("z2", "x")
	y.ask("a", "b", "x")
	y.want("a", "b")
	y.end("a", Updated)
	y.ask("c") // z1 has holders, but x came before c
	y.want("b")
	y.end("b", Updated)
	y.want("x")
	y.end("x", Updated)
	y.want("c")
}

func TestWindowAndPause(t *testing.T) {
	w, err := window.Parse("13:00", "1h")
	if err != nil {
		t.Fatal(err)
	}
	y := newYard(t, Rules{Max: Max{Count: 1}, Windows: []window.Window{w}, Pause: Duration(10 * time.Minute)})
	y.join("", "a", "b")
	y.ask("a", "b")
	y.want()
	y.now = y.now.Add(time.Hour)
	y.want("a")
	y.end("a", Updated)
	y.want()
	y.now = y.now.Add(10*time.Minute + time.Second)
	y.want("b")
	y.end("b", Updated)
	y.ask("a")
	y.now = y.now.Add(time.Hour)
	y.want()
}

func TestRolledBackStopsTheReleaseAndNotTheNext(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	y.join("", "a", "b", "c")
	y.ask("a", "b")
	y.want("a")
	y.end("a", RolledBack)
	y.want()
	y.write(y.keys.Ticket(testGroup, "c"), encode(Ticket{Version: 1, Machine: "c", Group: testGroup, To: "3"}, nil))
	y.want("c") // a fixed release goes on
	y.end("c", Updated)
	y.want()
	y.write(y.keys.Failures(testGroup), nil) // forgiven
	y.want("b")
}

func TestOverdueHolderKeepsItsPermitAndStopsTheGroup(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 2}, Deadline: Duration(time.Hour)})
	y.join("", "a", "b", "c")
	y.ask("a")
	y.want("a")
	y.phase("a", PhaseRebooting)
	y.now = y.now.Add(2 * time.Hour)
	y.ask("b")
	y.want("a")
	y.want("a")
	if n := len(y.reign.book.group(testGroup).failures.rec.Failed); n != 1 {
		t.Errorf("%d failures booked, want one", n)
	}
	y.end("a", Updated) // it came back after all
	y.want("b")
}

func TestOverdueIsTakenAwayWhereTheRulesSaySo(t *testing.T) {
	stop := 3
	y := newYard(t, Rules{Max: Max{Count: 1}, Deadline: Duration(time.Hour), OnOverdue: TakeAwayOverdue, StopAfter: &stop})
	y.join("", "a", "b")
	y.ask("a", "b")
	y.want("a")
	y.phase("a", PhaseRebooting)
	y.now = y.now.Add(2 * time.Hour)
	y.want("b")
}

func TestGrantThatIsNotCollectedGoesBack(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	y.join("", "a", "b")
	y.ask("a", "b")
	y.want("a")
	y.now = y.now.Add(collectTime + time.Minute)
	y.want("b")
	y.phase("b", PhaseDraining)
	y.now = y.now.Add(collectTime + time.Minute)
	y.want("b")
}

func TestOneVoterOfAnEtcdClusterAtATimeAcrossGroups(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 5}})
	voter := []EtcdMember{{Cluster: "c1", Member: "m"}}
	for _, m := range []string{"a", "b"} {
		y.join("", m)
		y.write(y.keys.Member(m), encode(Member{Version: 1, Machine: m, Group: testGroup, Etcd: voter}, nil))
	}
	y.write(y.keys.Permit("other", "z"), encode(Permit{Version: 1, Machine: "z", Group: "other", Phase: PhaseRebooting, Deadline: y.now.Add(time.Hour), Etcd: voter}, nil))
	y.ask("a", "b")
	y.want()
	y.write(y.keys.Permit("other", "z"), nil)
	y.want("a")
	y.phase("a", PhaseDraining)
	y.end("a", Updated)
	y.want("b")
}

func TestFreezeStopsGrants(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}, Freeze: &Freeze{Reason: "incident", By: "ann"}})
	y.join("", "a")
	y.ask("a")
	y.want()
	y.rules(Rules{Max: Max{Count: 1}})
	y.write(y.keys.ClusterRecord(), encode(Cluster{Version: 1, ID: "test", UID: "u", Freeze: &Freeze{Reason: "incident", By: "ann"}}, nil))
	y.want()
	y.write(y.keys.ClusterRecord(), encode(Cluster{Version: 1, ID: "test", UID: "u"}, nil))
	y.want("a")
}

// TestDeposedCoordinatorGrantsNothing: its successor's grants count.
func TestDeposedCoordinatorGrantsNothing(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	y.join("", "a", "b")
	old := y.reign
	if err := y.pass(); err != nil {
		t.Fatal(err)
	}
	y.write(old.lead.Key, nil) // its lease ended while it was stalled
	y.elect("another")
	y.ask("a", "b")
	y.want("a")
	y.end("a", Updated) // which the old one, waking up, has not seen
	events, err := y.store.Since(old.Revision(), y.keys.everything())
	if err != nil {
		t.Fatal(err)
	}
	old.Apply(events)
	if _, err := old.Pass(context.Background()); !errors.Is(err, errDeposed) {
		t.Errorf("pass of a deposed coordinator: %v, want %v", err, errDeposed)
	}
	y.want("b")
}

func TestCoordinatorResignsBeforeARecordThatItCannotRead(t *testing.T) {
	for name, value := range map[string]string{"corrupt": "{", "newer": `{"version": 99}`, "no version": `{}`, "bad max": `{"version":1,"max":0}`} {
		t.Run(name, func(t *testing.T) {
			y := newYard(t, Rules{Max: Max{Count: 1}})
			y.join("", "a")
			y.ask("a")
			y.write(y.keys.Rules(testGroup), []byte(value))
			if err := y.pass(); !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNewer) {
				t.Errorf("pass: %v", err)
			}
			if s, _ := y.store.Read(context.Background(), y.keys.all(kindPermit)); len(s.KVs) != 0 {
				t.Errorf("granted: %+v", s.KVs)
			}
		})
	}
}

func TestCoordinatorStepsAsideForItsOwnReboot(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	y.join("", "coordinator")
	y.ask("coordinator")
	if err := y.pass(); !errors.Is(err, errAside) {
		t.Errorf("pass: %v, want %v", err, errAside)
	}
	if y.permit("coordinator").Phase != PhaseGranted {
		t.Error("not granted")
	}
}

// TestTwoLiveMachinesWithOneIDAreGrantedNothing and others wait for neither.
func TestTwoLiveMachinesWithOneIDAreGrantedNothing(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	y.join("", "a", "b")
	y.write(y.keys.Presence("a", "other boot"), encode(Presence{Version: 1, Machine: "a", Boot: "other boot"}, nil))
	y.ask("a", "b")
	y.want("b")
}

func TestManyGrantsStayUnderEtcdsLimit(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 500}})
	for i := range 300 {
		m := fmt.Sprintf("m%03d", i)
		y.join("", m)
		y.ask(m)
	}
	if n := len(y.held()); n != 300 {
		t.Errorf("%d granted, want 300", n)
	}
	for i := range 300 {
		y.end(fmt.Sprintf("m%03d", i), Updated)
	}
	y.want()
}

func TestEveryWaitingMachineHasAReason(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	y.join("", "a", "b", "c")
	y.ask("a", "b", "c")
	y.want("a")
	j := y.reign.book.judge(y.reign.book.group(testGroup), y.now, true)
	for _, m := range []string{"b", "c"} {
		if len(j.waits[m]) == 0 {
			t.Errorf("%s waits for no reason", m)
		}
	}
}

func TestSurvey(t *testing.T) {
	fields := map[string]bool{"version": true, "a": true}
	for _, c := range []struct {
		doc     string
		version int
		strange bool
	}{
		{`{"version":1}`, 1, false},
		{`{ "version" : 12 , "a":"}{\",\\"}`, 12, false},
		{`{"a":{"version":3,"b":[{"c":1}]},"version":2}`, 2, false},
		{`{"a":["b","c"],"version":1,"b":2}`, 1, true},
		{`{"version":"1"}`, 0, false},
		{`{"version":-1}`, -1, false},
		{`{"version":1.5}`, 0, false},
		{`["version",1]`, 0, false},
		{`null`, 0, false},
		{`"version"`, 0, false},
		{`{"b\"":1,"version":1}`, 1, true},
	} {
		if v, strange := survey([]byte(c.doc), fields); v != c.version || strange != c.strange {
			t.Errorf("%s: version %d, strange %t; want %d, %t", c.doc, v, strange, c.version, c.strange)
		}
	}
}

// A record of any bytes is refused or read, and what was read is written back whole.
func FuzzRecord(f *testing.F) {
	for _, seed := range []string{`{"version":1,"max":2,"x":{"y":1}}`, `{"version":2}`, `null`, `{"version":1,"max":"30%","windows":[{"start":"Sat 02:00","length":"4h"}]}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var r, again Rules
		if decodeInto(data, &r) != nil || r.Check() != nil {
			return
		}
		if err := decodeInto(encode(r, r.Extra), &again); err != nil || len(again.Extra) != len(r.Extra) {
			t.Fatalf("%s: read again: %v, %d of %d unknown fields", data, err, len(again.Extra), len(r.Extra))
		}
	})
}

package rebootlock

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestNewMachineJoinsByItself(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	y.write(y.keys.ClusterRecord(), nil)
	y.write(y.keys.Rules(testGroup), nil)
	a, b := y.ship(1), y.ship(2)
	a.Seed = func() *Rules { return &Rules{Max: Max{Percent: 25}, Pause: Duration(time.Minute)} }
	a.self.Labels = map[string]string{"rack": "7"}
	a.is(None)
	b.is(None)

	cluster, _ := oneOf[Cluster](y, y.keys.ClusterRecord())
	if cluster.ID != "test" || len(cluster.UID) < 16 {
		t.Errorf("cluster %+v", cluster)
	}
	for _, s := range []*ship{a, b} {
		if len(s.uids) != 1 || s.uids[0] != cluster.UID {
			t.Errorf("told the UIDs %v, want %s once", s.uids, cluster.UID)
		}
	}
	member, kv := oneOf[Member](y, y.keys.Member(a.self.Machine))
	if member.Group != testGroup || member.Labels["rack"] != "7" || member.Instance != "instance1" || kv.Lease != 0 {
		t.Errorf("member %+v, lease %d", member, kv.Lease)
	}
	if _, kv := oneOf[Presence](y, y.keys.Presence(a.self.Machine, a.self.Boot)); kv.Lease == 0 {
		t.Error("the presence hangs on no lease")
	}
	if rules, _ := oneOf[Rules](y, y.keys.Rules(testGroup)); rules.Max.Percent != 25 {
		t.Errorf("rules %+v", rules)
	}
	if told := y.journal(); told["joined"] != 2 || told["rules"] != 1 {
		t.Errorf("journal %v", told)
	}
	before := a.wire.asked()
	a.is(None)
	if n := a.wire.asked() - before; n != 1 {
		t.Errorf("a look of one that has joined takes %d requests", n)
	}
}

func TestWholeTurnOfOneMachineAfterTheOther(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	a, b := y.ship(1), y.ship(2)
	a.ask()
	b.ask()
	y.want(a.self.Machine)
	a.is(Holding)
	b.is(Queued)
	for _, phase := range []string{PhaseDraining, PhaseStaging, PhaseStaging, PhaseDraining, PhaseRebooting} {
		a.fence(phase)
		if got := a.state().Phase; got != phase {
			t.Errorf("phase %s, want %s", got, phase)
		}
	}
	a.die()
	y.now = y.now.Add(5 * time.Minute)
	y.want(a.self.Machine) // it is down: nobody else may be
	a.boot("instance1")
	a.is(Holding)
	if p := a.state().Permit; p.Boot == a.self.Boot || p.To != "2" {
		t.Errorf("permit %+v", p)
	}
	a.release(Updated)
	a.is(None)
	a.release(Updated)
	y.want(b.self.Machine)
	b.is(Holding)
	if told := y.journal(); told["updated"] != 1 || told["granted"] != 2 {
		t.Errorf("journal %v", told)
	}
}

// TestLocksmith58HolderAsksAgain: a holder that asked again of a full semaphore
// was refused.
func TestLocksmith58HolderAsksAgain(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	a := y.ship(1)
	a.hold()
	before, _ := oneOf[Permit](y, y.keys.Permit(testGroup, a.self.Machine))
	for range 3 {
		if s, err := a.Acquire(context.Background(), Request{}); s != Holding || err != nil {
			t.Fatalf("%v, %v", s, err)
		}
	}
	y.want(a.self.Machine)
	if after, _ := oneOf[Permit](y, y.keys.Permit(testGroup, a.self.Machine)); !after.Granted.Equal(before.Granted) {
		t.Error("there is another permit now")
	}
	for range 3 {
		a.release(Aborted)
	}
	a.is(None)
}

// TestLocksmith34StaleReadsDisagree: "unlocked but isn't", by reads of a member
// that lagged behind. Each look without a watch is linearizable.
func TestLocksmith34StaleReadsDisagree(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	a := y.ship(1)
	a.hold()
	if err := (Operator{Store: y.store, Keys: y.keys, Now: a.Now}).TakeAway(context.Background(), testGroup, a.self.Machine, "gone", false); err != nil {
		t.Fatal(err)
	}
	a.is(None)
}

func TestTicketKeepsItsPlaceWhenTheDaemonRestarts(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	holder, a, b := y.ship(9), y.ship(1), y.ship(2)
	holder.hold()
	a.ask()
	b.ask()
	old, kv := oneOf[Ticket](y, y.keys.Ticket(testGroup, a.self.Machine))
	a.die()
	a.restart()
	a.is(None) // until it asks again: the ticket would end with the old process
	y.now = y.now.Add(time.Second)
	a.ask()
	a.is(Queued)
	ticket, now := oneOf[Ticket](y, y.keys.Ticket(testGroup, a.self.Machine))
	if now.Created != kv.Created || now.Lease == kv.Lease || !ticket.Asked.Equal(old.Asked) {
		t.Errorf("ticket %+v of lease %d, created %d; before: %d, %d", ticket, now.Lease, now.Created, kv.Lease, kv.Created)
	}
	y.now = y.now.Add(2 * time.Minute)
	holder.release(Updated)
	y.want(a.self.Machine)

	before := b.wire.commits
	b.ask()
	if b.wire.commits != before {
		t.Error("a ticket that is there was written again")
	}
	b.release(Aborted)
	b.is(None)
}

func TestLostLeaseIsNoPlaceInTheQueue(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	holder, a := y.ship(9), y.ship(1)
	holder.hold()
	a.ask()
	a.die() // the lease ends while the process lives: it was stopped for minutes
	y.now = y.now.Add(2 * time.Minute)
	a.is(None)
	if _, kv := oneOf[Presence](y, y.keys.Presence(a.self.Machine, a.self.Boot)); kv.Lease != a.session.Lease() {
		t.Error("it is not shown as present again")
	}
	a.ask()
	a.is(Queued)
}

// hopeful is a store whose sessions never say that they have ended.
type hopeful struct{ Store }

type hopefulSession struct{ Session }

func (hopefulSession) Done() <-chan struct{} { return nil }

func (h hopeful) Session(ctx context.Context, ttl time.Duration) (Session, error) {
	s, err := h.Store.Session(ctx, ttl)
	return hopefulSession{s}, err
}

// TestLeaseThatEndedUnheard: the store has ended it, and refuses what is to hang
// on it, before its session says so.
func TestLeaseThatEndedUnheard(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	a := y.ship(1)
	a.wire.Store = hopeful{y.store}
	a.is(None)
	y.store.Abandon(a.session.(hopefulSession).Session)
	y.now = y.now.Add(2 * time.Minute)
	old := a.session.Lease()
	a.ask()
	a.is(Queued)
	if _, kv := oneOf[Presence](y, y.keys.Presence(a.self.Machine, a.self.Boot)); kv.Lease == old || kv.Lease != a.session.Lease() {
		t.Errorf("present by lease %d, and the session's is %d", kv.Lease, a.session.Lease())
	}
}

func TestMemberWritesBackWhatItDoesNotKnow(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	a := y.ship(1)
	key := y.keys.Member(a.self.Machine)
	y.write(key, []byte(`{"version":1,"machine":"`+a.self.Machine+`","instance":"instance1","group":"web","joined":"2026-01-02T03:04:05Z","shelf":{"of":"tomorrow"}}`))
	a.hold()
	member, kv := oneOf[Member](y, key)
	if string(member.Extra["shelf"]) != `{"of":"tomorrow"}` || member.Hostname != "host1" || member.Joined.Year() != 2026 || member.Joined.Month() != 1 {
		t.Errorf("member %s", kv.Value)
	}
	permit := y.keys.Permit(testGroup, a.self.Machine)
	_, kv = oneOf[Permit](y, permit)
	y.write(permit, []byte(strings.Replace(string(kv.Value), "{", `{"crane":3,`, 1)))
	a.fence(PhaseRebooting)
	if p, kv := oneOf[Permit](y, permit); string(p.Extra["crane"]) != "3" || p.Phase != PhaseRebooting {
		t.Errorf("permit %s", kv.Value)
	}
}

func TestFactsThatArriveLateAreWritten(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	holder, a := y.ship(9), y.ship(1)
	holder.hold()
	a.self.Zone = ""
	a.ask()
	a.self.Zone, a.self.Platform = "z2", map[string]string{"instance_type": "m1"}
	a.ask()
	member, _ := oneOf[Member](y, y.keys.Member(a.self.Machine))
	ticket, _ := oneOf[Ticket](y, y.keys.Ticket(testGroup, a.self.Machine))
	if member.Zone != "z2" || member.Platform["instance_type"] != "m1" || ticket.Zone != "z2" {
		t.Errorf("member %+v, ticket %+v", member, ticket)
	}
	if told := y.journal(); told["joined"] != 2 {
		t.Errorf("journal %v", told)
	}
}

func TestMachineMovesToAnotherGroupWhenItHoldsNothing(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	y.write(y.keys.Rules("db/1"), encode(Rules{Version: 1, Max: Max{Count: 1}}, nil))
	a := y.ship(1)
	a.hold()
	a.self.Group = "db/1"
	a.restart()
	a.is(Holding)
	if !has(a.state().Waits, "group") {
		t.Errorf("waits %v", a.state().Waits)
	}
	a.fence(PhaseRebooting)
	a.release(Updated)
	a.is(None)
	member, _ := oneOf[Member](y, y.keys.Member(a.self.Machine))
	if member.Group != "db/1" {
		t.Fatalf("member %+v", member)
	}
	a.ask()
	a.is(Queued)
	a.self.Group = testGroup // with a ticket, which goes
	a.is(None)
	if s, _ := y.store.Read(context.Background(), y.keys.all(kindTicket)); len(s.KVs) != 0 {
		t.Errorf("tickets %v", s.KVs)
	}
	a.hold()
}

func TestStatusSaysWhoSaysSo(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	a := y.ship(1)
	if err := a.Publish(context.Background(), Status{Release: "1", Step: "wait", Machine: "somebody else"}); err != nil {
		t.Fatal(err)
	}
	status, kv := oneOf[Status](y, y.keys.Status(a.self.Machine))
	if status.Machine != a.self.Machine || status.Hostname != "host1" || status.Release != "1" || !status.At.Equal(y.now) || kv.Lease != 0 {
		t.Errorf("status %+v", status)
	}
	if err := a.Publish(context.Background(), Status{LastError: strings.Repeat("x", maxRecord)}); err == nil {
		t.Error("a status without bounds was published")
	}
	y.write(y.keys.ClusterRecord(), nil)
	if err := a.Publish(context.Background(), Status{}); !errors.Is(err, ErrOtherCluster) {
		t.Errorf("published in a cluster that is gone: %v", err)
	}
}

// TestMachinesThatMayNotJoin: nothing is written of one of which not all is
// known.
func TestMachinesThatMayNotJoin(t *testing.T) {
	for name, spoil := range map[string]func(*Self){
		"no machine-id":           func(s *Self) { s.Machine = "" },
		"upper case":              func(s *Self) { s.Machine = strings.Repeat("A", 32) },
		"machine-id of zeros":     func(s *Self) { s.Machine = strings.Repeat("0", 32) },
		"uninitialized":           func(s *Self) { s.Machine = "uninitialized" },
		"UUID with hyphens":       func(s *Self) { s.Machine = "b08dfa60-83e7-567a-1921-a715000001fb" },
		"no group":                func(s *Self) { s.Group = "" },
		"group with a line end":   func(s *Self) { s.Group = "web\n" },
		"group with a blank":      func(s *Self) { s.Group = " web" },
		"group that is long":      func(s *Self) { s.Group = strings.Repeat("x", maxName+1) },
		"group that is no text":   func(s *Self) { s.Group = "\xff" },
		"zone with a bell":        func(s *Self) { s.Zone = "a\a" },
		"no instance":             func(s *Self) { s.Instance = "" },
		"boot-id that is no text": func(s *Self) { s.Boot = "\x00" },
	} {
		t.Run(name, func(t *testing.T) {
			y := newYard(t, Rules{Max: Max{Count: 1}})
			a := y.ship(1)
			spoil(&a.self)
			if _, err := a.Standing(context.Background()); err == nil {
				t.Error("it joined")
			}
			if a.wire.asked() != 0 {
				t.Error("the store was asked")
			}
		})
	}
}

func TestGroupNamesWithOddCharacters(t *testing.T) {
	for _, group := range []string{"prod/db", "a b", "100%", "ü€", "..", "web/../db", strings.Repeat("é", maxName/2)} {
		y := newYard(t, Rules{Max: Max{Count: 1}})
		y.write(y.keys.Rules(group), encode(Rules{Version: 1, Max: Max{Count: 1}}, nil))
		a, web := y.ship(1), y.ship(2)
		a.self.Group = group
		a.hold()
		web.hold() // another group's permits are its own
		a.fence(PhaseRebooting)
		a.release(Updated)
		y.held()
		a.is(None)
	}
}

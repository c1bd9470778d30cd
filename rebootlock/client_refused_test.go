package rebootlock

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// refused checks that the ship may do nothing, and why.
func (s *ship) refused(why error) {
	s.y.t.Helper()
	ctx := context.Background()
	_, acquire := s.Acquire(ctx, Request{To: "2"})
	for call, err := range map[string]error{"acquire": acquire, "fence": s.Fence(ctx, PhaseRebooting), "release": s.Release(ctx, Updated, "")} {
		if !errors.Is(err, why) {
			s.y.t.Errorf("%s: %v, want %v", call, err, why)
		}
	}
}

func TestAnotherClustersEtcdIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		record string
		uid    string
		want   error
	}{
		"another UID":    {`{"version":1,"id":"test","uid":"u2"}`, "u", ErrOtherCluster},
		"wiped":          {``, "u", ErrOtherCluster},
		"another's name": {`{"version":1,"id":"prod","uid":"u"}`, "u", ErrOtherCluster},
		"no UID":         {`{"version":1,"id":"test"}`, "", ErrCorrupt},
		"corrupt":        {`{"version":1,"id":`, "", ErrCorrupt},
		"newer":          {`{"version":2,"id":"test","uid":"u"}`, "u", ErrNewer},
	} {
		t.Run(name, func(t *testing.T) {
			y := newYard(t, Rules{Max: Max{Count: 1}})
			a := y.ship(1)
			y.write(y.keys.ClusterRecord(), []byte(c.record))
			if c.record == "" {
				y.write(y.keys.ClusterRecord(), nil)
			}
			a.self.UID = c.uid
			a.refused(c.want)
			if _, err := a.Standing(context.Background()); !errors.Is(err, c.want) {
				t.Errorf("standing: %v", err)
			}
			if err := a.Publish(context.Background(), Status{}); !errors.Is(err, c.want) {
				t.Errorf("publish: %v", err)
			}
			if a.wire.commits != 0 || len(a.uids) != 0 {
				t.Errorf("%d writes, told the UIDs %v", a.wire.commits, a.uids)
			}
		})
	}
}

// TestEtcdIsWipedUnderAHolder: a machine that drains finds another etcd, in
// which nobody knows of its permit.
func TestEtcdIsWipedUnderAHolder(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	a := y.ship(1)
	a.hold()
	a.wire.Store = &Memory{}
	a.refused(ErrOtherCluster)
	b := y.ship(2)
	b.wire.Store = a.wire.Store
	if err := b.Refresh(context.Background()); err != nil { // a new machine founds the cluster there
		t.Fatal(err)
	}
	a.refused(ErrOtherCluster)
}

func TestClusterThatCannotBeKeptIsNotJoined(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	a := y.ship(1)
	a.Joined = func(string) error { return errors.New("disk full") }
	if _, err := a.Standing(context.Background()); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Fatal(err)
	}
	if a.wire.commits != 0 {
		t.Error("it is there already")
	}
}

// rights is a store that refuses writes of some keys.
type rights struct {
	Store
	deny string
}

func (r rights) Commit(ctx context.Context, t Txn) (Result, error) {
	for _, op := range t.Then {
		if strings.Contains(op.Key, r.deny) {
			return Result{}, fmt.Errorf("etcdserver: permission denied: %w", ErrRefused)
		}
	}
	return r.Store.Commit(ctx, t)
}

func TestMissingRightsSayWhatAnOperatorDoes(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	y.write(y.keys.ClusterRecord(), nil)
	y.write(y.keys.Rules(testGroup), nil)
	a := y.ship(1)
	a.Seed = func() *Rules { return &Rules{Max: Max{Count: 1}} }
	a.wire.Store = rights{y.store, "lock/cluster"}
	if _, err := a.Standing(context.Background()); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "drydock lock apply") {
		t.Errorf("no right to found the cluster: %v", err)
	}
	y.write(y.keys.ClusterRecord(), encode(Cluster{Version: 1, ID: "test", UID: "u"}, nil))
	a.wire.Store = rights{y.store, "lock/groups"}
	if s := a.state(); !has(s.Waits, "rules") || !strings.Contains(fmt.Sprint(s.Waits), "drydock lock apply") {
		t.Errorf("no right to write rules: %v", s.Waits)
	}
	a.ask()
	a.is(Queued) // its place is kept
	b := y.ship(2)
	b.wire.Store = rights{y.store, "lock/tickets"}
	b.is(None)
	before := b.wire.asked()
	if _, err := b.Acquire(context.Background(), Request{}); !errors.Is(err, ErrRefused) {
		t.Errorf("no right to queue: %v", err)
	}
	if n := b.wire.asked() - before; n > 6 {
		t.Errorf("%d requests for a refusal", n)
	}
	c := y.ship(3)
	c.wire.Store = rights{y.store, "lock/present"}
	if _, err := c.Standing(context.Background()); !errors.Is(err, ErrRefused) {
		t.Errorf("no right to be present: %v", err)
	}
}

func TestOwnRecordsThatCannotBeRead(t *testing.T) {
	for _, record := range []string{`{"version":1,`, `{"version":7}`, `{}`, `[]`, ``} {
		y := newYard(t, Rules{Max: Max{Count: 1}})
		a := y.ship(1)
		a.ask()
		y.write(y.keys.Ticket(testGroup, a.self.Machine), []byte(record)) // is the machine's own to write again
		y.write(y.keys.Member(a.self.Machine), []byte(record))
		a.is(None)
		a.ask()
		a.is(Queued)
		newer := strings.Contains(record, "7")
		if got := has(a.state().Waits, "member"); got != newer {
			t.Errorf("record %q: member is told %t", record, got)
		}
		y.write(y.keys.Permit(testGroup, a.self.Machine), []byte(record))
		if s, err := a.Standing(context.Background()); err == nil {
			t.Errorf("permit %q: standing %v", record, s.Standing)
		}
		want := ErrCorrupt
		if newer {
			want = ErrNewer
		}
		a.refused(want)
	}
}

func TestOperatorsOwnPermitIsNotTheDaemons(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	o := Operator{Store: y.store, Keys: y.keys, Now: func() time.Time { return y.now }}
	a := y.ship(1) // which nobody has ever seen
	if err := o.Acquire(context.Background(), testGroup, a.self.Machine, "new memory"); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a ticket, then a permit
		a.is(None)
		a.stopped("operator")
		a.release(Aborted) // is not its own
		if _, err := a.Acquire(context.Background(), Request{}); err == nil {
			t.Error("the daemon got hold of what an operator asked for")
		}
		y.want(a.self.Machine)
	}
	if err := o.Release(context.Background(), testGroup, a.self.Machine, ""); err != nil {
		t.Fatal(err)
	}
	y.want()
	a.hold()
}

func TestUnknownVotersAskForNoPermit(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	a := y.ship(1)
	voters, unknown := []EtcdMember{{Cluster: "c", Member: "m"}}, error(nil)
	a.Etcd = func(context.Context) ([]EtcdMember, error) { return voters, unknown }
	a.is(None)
	unknown, voters = errors.New("connection refused"), nil
	if _, err := a.Acquire(context.Background(), Request{}); !errors.Is(err, unknown) {
		t.Errorf("acquire: %v", err)
	}
	if !has(a.state().Waits, "etcd") {
		t.Errorf("waits %v", a.state().Waits)
	}
	if m, _ := oneOf[Member](y, y.keys.Member(a.self.Machine)); len(m.Etcd) != 1 {
		t.Errorf("the voters that were known are forgotten: %+v", m)
	}
	unknown, voters = nil, []EtcdMember{{Cluster: "c", Member: "n"}}
	a.ask()
	if ticket, _ := oneOf[Ticket](y, y.keys.Ticket(testGroup, a.self.Machine)); len(ticket.Etcd) != 1 || ticket.Etcd[0].Member != "n" {
		t.Errorf("ticket %+v", ticket)
	}
}

// TestAirlock81LimitsInTwoPlaces: the policy's rules and the store's disagreed,
// and nobody said so. The store's count.
func TestAirlock81LimitsInTwoPlaces(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 2}, Deadline: Duration(DefaultDeadline)})
	a := y.ship(1)
	seed := &Rules{Max: Max{Count: 2}}
	a.Seed = func() *Rules { return seed }
	if s := a.state(); has(s.Waits, "rules") {
		t.Errorf("the same rules differ: %v", s.Waits)
	}
	seed = &Rules{Max: Max{Count: 5}, Freeze: &Freeze{Reason: "x"}}
	if s := a.state(); !has(s.Waits, "rules") || !strings.Contains(fmt.Sprint(s.Waits), "max") {
		t.Errorf("waits %v", s.Waits)
	}
	if r, _ := oneOf[Rules](y, y.keys.Rules(testGroup)); r.Max.Count != 2 {
		t.Errorf("rules %+v", r)
	}
	y.write(y.keys.Rules(testGroup), nil)
	seed = &Rules{Max: Max{Count: 1}, Timezone: "Mars/Olympus"}
	if s := a.state(); !strings.Contains(fmt.Sprint(s.Waits), "are not written") {
		t.Errorf("waits %v", s.Waits)
	}
}

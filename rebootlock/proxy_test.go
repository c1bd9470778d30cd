package rebootlock

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const guest = "978a225b3d7b40e9acd7ce9b62f68444"

func (y *yard) proxy() Proxy { return y.proxyOn(y.store) }

func (y *yard) proxyOn(s Store) Proxy {
	return Proxy{Store: s, Keys: y.keys, Now: func() time.Time { return y.now }, TTL: 15 * time.Minute}
}

func (y *yard) asks(p Proxy, machine string) Answer {
	y.t.Helper()
	a, err := p.Ask(context.Background(), testGroup, machine, 0)
	if err != nil {
		y.t.Fatalf("%s asks: %v", machine, err)
	}
	return a
}

// passes has the coordinator see what happened, and act.
func (y *yard) passes() {
	y.t.Helper()
	if err := y.pass(); err != nil {
		y.t.Fatal(err)
	}
}

func (y *yard) kv(key string) KV {
	y.t.Helper()
	s, err := y.store.Read(context.Background(), Range{Key: key})
	if err != nil {
		y.t.Fatal(err)
	}
	if len(s.KVs) == 0 {
		return KV{}
	}
	return s.KVs[0]
}

func TestProxyQueuesGrantsAndTakesBack(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	p := y.proxy()
	if a := y.asks(p, guest); a.Granted || len(a.Why) == 0 {
		t.Fatalf("first question: %+v, want a reason to wait", a)
	}
	ticket := y.kv(y.keys.Ticket(testGroup, guest))
	if ticket.Lease == 0 {
		t.Error("the ticket hangs on no lease")
	}
	y.asks(p, guest)
	if again := y.kv(y.keys.Ticket(testGroup, guest)); again.Modified != ticket.Modified {
		t.Error("a second question wrote the ticket again: the coordinator's transactions would fail for it")
	}
	y.passes()
	if got := y.permit(guest).Phase; got != PhaseGranted {
		t.Fatalf("phase %q after the pass, want granted", got)
	}
	if a := y.asks(p, guest); !a.Granted || y.permit(guest).Phase != PhaseRebooting {
		t.Fatalf("after the grant: %+v, phase %s, want rebooting before the answer", a, y.permit(guest).Phase)
	}
	if a := y.asks(p, guest); !a.Granted {
		t.Errorf("asked again: %+v, want granted again", a)
	}
	if a := y.asks(p, "other"); a.Granted {
		t.Error("a second machine was granted")
	}
	if err := p.Return(context.Background(), testGroup, guest); err != nil {
		t.Fatal(err)
	}
	if got := y.permit(guest); got.Phase != PhaseEnded || got.Ending != Updated || got.Via != viaFleetLock {
		t.Errorf("given back: %+v", got)
	}
	y.passes()
	if a := y.asks(p, "other"); !a.Granted {
		t.Errorf("the next: %+v", a)
	}
	if y.kv(y.keys.Permit(testGroup, guest)).Modified != 0 {
		t.Error("the ended permit is still there")
	}
}

func TestTicketLivesAsLongAsItsMachineAsks(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	y.asks(y.proxy(), "holder")
	y.passes()
	y.asks(y.proxy(), "asks")
	y.asks(y.proxy(), "silent")
	placed := y.kv(y.keys.Ticket(testGroup, "asks")).Created
	for range 5 {
		y.now = y.now.Add(5 * time.Minute)
		y.asks(y.proxy(), "asks") // each time through another proxy
	}
	if got := y.kv(y.keys.Ticket(testGroup, "asks")).Created; got != placed {
		t.Errorf("ticket of revision %d, was %d: the place is lost", got, placed)
	}
	if kv := y.kv(y.keys.Ticket(testGroup, "silent")); kv.Modified != 0 {
		t.Error("a machine that no longer asks is still in the queue")
	}
}

// stubborn says that a lease has ended although what hangs on it is still there,
// as etcd does for a moment.
type stubborn struct {
	*Memory
	refuse bool
}

func (s *stubborn) RenewLease(ctx context.Context, lease int64) error {
	if s.refuse {
		s.refuse = false
		return ErrRefused
	}
	return s.Memory.RenewLease(ctx, lease)
}

func TestTicketKeepsItsPlaceWhenOnlyItsLeaseEnded(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	s := &stubborn{Memory: y.store}
	y.asks(y.proxyOn(s), guest)
	before := y.kv(y.keys.Ticket(testGroup, guest))
	s.refuse = true
	y.asks(y.proxyOn(s), guest)
	after := y.kv(y.keys.Ticket(testGroup, guest))
	if after.Created != before.Created || after.Lease == before.Lease {
		t.Errorf("before %+v, after %+v: want the same place on a new lease", before, after)
	}
}

// obstructions are what keeps a holder from its reboot.
var obstructions = map[string]func(y *yard){
	"group frozen": func(y *yard) { y.rules(Rules{Max: Max{Count: 1}, Freeze: &Freeze{Reason: "incident", By: "ann"}}) },
	"cluster frozen": func(y *yard) {
		y.write(y.keys.ClusterRecord(), encode(Cluster{Version: 1, ID: "test", UID: "u", Freeze: &Freeze{Reason: "incident", By: "ann"}}, nil))
	},
	"release stopped": func(y *yard) {
		y.write(y.keys.Failures(testGroup), encode(Failures{Version: 1, Failed: []Failure{{Machine: "x", How: howOverdue}}}, nil))
	},
}

func TestProxyFence(t *testing.T) {
	for name, stop := range obstructions {
		for phase, asks := range map[string]int{PhaseGranted: 0, PhaseRebooting: 1} {
			t.Run(name+" in phase "+phase, func(t *testing.T) {
				y := newYard(t, Rules{Max: Max{Count: 1}})
				y.asks(y.proxy(), guest)
				y.passes()
				for range asks {
					y.asks(y.proxy(), guest)
				}
				stop(y)
				if a := y.asks(y.proxy(), guest); a.Granted || len(a.Why) != 1 {
					t.Errorf("%+v, want one reason and no grant", a)
				}
				if got := y.permit(guest).Phase; got != phase {
					t.Errorf("phase %s, want %s: it keeps the permit", got, phase)
				}
				y.rules(Rules{Max: Max{Count: 1}})
				y.write(y.keys.ClusterRecord(), encode(Cluster{Version: 1, ID: "test", UID: "u"}, nil))
				y.write(y.keys.Failures(testGroup), nil)
				if a := y.asks(y.proxy(), guest); !a.Granted {
					t.Errorf("after the thaw: %+v", a)
				}
			})
		}
	}
}

// meddler changes something between a read and the next commit, as often as told.
type meddler struct {
	*Memory
	times  int
	change func()
}

func (m *meddler) Commit(ctx context.Context, t Txn) (Result, error) {
	if m.times > 0 {
		m.times--
		m.change()
	}
	return m.Memory.Commit(ctx, t)
}

func TestFreezeBetweenReadAndFence(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	y.asks(y.proxy(), guest)
	y.passes()
	m := &meddler{Memory: y.store, times: 1, change: func() { y.rules(Rules{Max: Max{Count: 1}, Freeze: &Freeze{Reason: "now", By: "ann"}}) }}
	if a := y.asks(y.proxyOn(m), guest); a.Granted || y.permit(guest).Phase != PhaseGranted {
		t.Errorf("%+v, phase %s: the freeze came first", a, y.permit(guest).Phase)
	}
	y.rules(Rules{Max: Max{Count: 1}})
	m.times, m.change = 100, func() { y.rules(Rules{Max: Max{Count: 1}}) } // rewritten all the time
	if a, err := y.proxyOn(m).Ask(context.Background(), testGroup, guest, 0); a.Granted || !errors.Is(err, errBusy) {
		t.Errorf("%+v, %v, want it to give up", a, err)
	}
}

func TestEachStopBetweenReadAndFence(t *testing.T) {
	for name, stop := range obstructions {
		y := newYard(t, Rules{Max: Max{Count: 1}})
		y.asks(y.proxy(), guest)
		y.passes()
		m := &meddler{Memory: y.store, times: 1, change: func() { stop(y) }}
		if a := y.asks(y.proxyOn(m), guest); a.Granted || y.permit(guest).Phase != PhaseGranted {
			t.Errorf("%s: %+v, phase %s: the stop came first", name, a, y.permit(guest).Phase)
		}
	}
}

// TestTwoServersForOneMachine: the other one's ticket was granted between this
// one's read and its write.
func TestTwoServersForOneMachine(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	y.join("", guest)
	m := &meddler{Memory: y.store, times: 1, change: func() { y.asks(y.proxy(), guest); y.passes() }}
	if a := y.asks(y.proxyOn(m), guest); !a.Granted {
		t.Errorf("%+v, want the permit that the other question got", a)
	}
	if y.kv(y.keys.Ticket(testGroup, guest)).Modified != 0 {
		t.Error("a holder is in the queue as well")
	}
}

func TestTakenAwayBetweenReadAndFence(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	y.asks(y.proxy(), guest)
	y.passes()
	m := &meddler{Memory: y.store, times: 1, change: func() { y.write(y.keys.Permit(testGroup, guest), nil) }}
	if a := y.asks(y.proxyOn(m), guest); a.Granted {
		t.Error("granted what was taken away")
	}
	if y.kv(y.keys.Ticket(testGroup, guest)).Modified == 0 {
		t.Error("it is not back in the queue")
	}
}

func TestGrantedWhileItGivesBack(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	y.asks(y.proxy(), guest)
	m := &meddler{Memory: y.store, times: 1, change: y.passes}
	if err := y.proxyOn(m).Return(context.Background(), testGroup, guest); err != nil {
		t.Fatal(err)
	}
	if got := y.permit(guest); got.Phase != PhaseEnded || got.Ending != Aborted {
		t.Errorf("%+v, want the uncollected grant to end as aborted", got)
	}
}

// loser commits and never tells.
type loser struct {
	*Memory
	on bool
}

func (l *loser) Commit(ctx context.Context, t Txn) (Result, error) {
	r, err := l.Memory.Commit(ctx, t)
	if l.on {
		l.on = false
		return Result{}, errors.New("connection reset")
	}
	return r, err
}

func TestLostAnswerOfTheFence(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	y.asks(y.proxy(), guest)
	y.passes()
	l := &loser{Memory: y.store, on: true}
	if a, err := y.proxyOn(l).Ask(context.Background(), testGroup, guest, 0); err == nil || a.Granted {
		t.Fatalf("%+v, %v: granted on an answer that never came", a, err)
	}
	if a := y.asks(y.proxyOn(l), guest); !a.Granted {
		t.Errorf("asked again: %+v", a)
	}
}

func TestProxyLeavesAloneWhatOthersAskedFor(t *testing.T) {
	for _, via := range []string{"", viaOperator} {
		y := newYard(t, Rules{Max: Max{Count: 1}})
		y.join("", "m")
		y.write(y.keys.Ticket(testGroup, "m"), encode(Ticket{Version: 1, Machine: "m", Group: testGroup, Via: via}, nil))
		if _, err := y.proxy().Ask(context.Background(), testGroup, "m", 0); !errors.Is(err, ErrOtherWay) {
			t.Errorf("via %q, queued: %v", via, err)
		}
		y.passes()
		if _, err := y.proxy().Ask(context.Background(), testGroup, "m", 0); !errors.Is(err, ErrOtherWay) {
			t.Errorf("via %q, granted: %v", via, err)
		}
		if err := y.proxy().Return(context.Background(), testGroup, "m"); err != nil || y.permit("m").Phase != PhaseGranted {
			t.Errorf("via %q: %v, phase %s: a permit of another's was given back", via, err, y.permit("m").Phase)
		}
	}
}

func TestProxyJoins(t *testing.T) {
	ctx, y := context.Background(), newYard(t, Rules{Max: Max{Count: 1}})
	p := y.proxy()
	if _, err := p.Ask(ctx, "nosuch", guest, 0); !errors.Is(err, ErrUnknownGroup) {
		t.Errorf("a group without rules: %v", err)
	}
	if err := p.Join(ctx, "nosuch", guest); err != nil || y.kv(y.keys.Member(guest)).Modified != 0 {
		t.Errorf("joined a group without rules: %v", err)
	}
	y.asks(p, guest)
	y.passes()
	y.asks(p, guest)
	y.write(y.keys.Rules("db"), encode(Rules{Version: 1, Max: Max{Count: 1}}, nil))
	if _, err := p.Ask(ctx, "db", guest, 0); err != nil {
		t.Fatal(err)
	}
	if got := y.permit(guest); got.Phase != PhaseEnded {
		t.Errorf("it asks in another group, and its permit of the first is in phase %s", got.Phase)
	}
	if m, err := read[Member](y.kv(y.keys.Member(guest))); err != nil || m.rec.Group != "db" || m.rec.Via != viaFleetLock {
		t.Errorf("member %+v, %v", m.rec, err)
	}
	y.join("", "own")
	if _, err := p.Ask(ctx, "db", "own", 0); !errors.Is(err, ErrOtherWay) {
		t.Errorf("a machine whose drydockd belongs to another group: %v", err)
	}
	names, err := p.Members(ctx)
	if own, there := names["own"]; err != nil || own || !there || !names[guest] {
		t.Errorf("members %v, %v", names, err)
	}
}

func TestProxyKeepsWhatItDoesNotKnow(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	y.write(y.keys.Permit(testGroup, guest), []byte(`{"version":1,"machine":"`+guest+`","group":"web","via":"fleetlock","phase":"granted","novel":[1]}`))
	if a := y.asks(y.proxy(), guest); !a.Granted {
		t.Fatalf("%+v", a)
	}
	if kv := y.kv(y.keys.Permit(testGroup, guest)); !strings.Contains(string(kv.Value), `"novel":[1]`) {
		t.Errorf("%s: a field of a newer version is lost", kv.Value)
	}
}

func TestProxyWithRecordsItCannotRead(t *testing.T) {
	ctx := context.Background()
	for name, bad := range map[string]string{"corrupt": "{", "newer": `{"version":9}`} {
		y := newYard(t, Rules{Max: Max{Count: 1}})
		y.asks(y.proxy(), guest)
		y.passes()
		y.write(y.keys.Rules(testGroup), []byte(bad))
		if a, err := y.proxy().Ask(ctx, testGroup, guest, 0); err == nil || a.Granted {
			t.Errorf("%s rules: %+v, %v", name, a, err)
		}
		if err := y.proxy().Return(ctx, testGroup, guest); err != nil || y.permit(guest).Phase != PhaseEnded {
			t.Errorf("%s rules: %v: they keep nobody from giving back", name, err)
		}
		y.rules(Rules{Max: Max{Count: 1}})
		y.write(y.keys.Permit(testGroup, guest), []byte(bad))
		if a, err := y.proxy().Ask(ctx, testGroup, guest, 0); err == nil || a.Granted {
			t.Errorf("%s permit: %+v, %v", name, a, err)
		}
		if err := y.proxy().Return(ctx, testGroup, guest); err == nil {
			t.Errorf("%s permit: given back, nobody knows whose", name)
		}
	}
}

func TestProxyWaitsForTheGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		store, keys := &Memory{Now: time.Now}, Keys{Cluster: "test"}
		p := Proxy{Store: store, Keys: keys, Now: time.Now, TTL: time.Minute}
		if _, err := store.Commit(ctx, Txn{Then: []Op{{Key: keys.Rules(testGroup), Value: encode(Rules{Version: 1, Max: Max{Count: 1}}, nil)}}}); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if a, err := p.Ask(ctx, testGroup, guest, 10*time.Minute); err != nil || a.Granted || time.Since(start) != 10*time.Minute {
			t.Errorf("nobody coordinates: %+v, %v after %s", a, err, time.Since(start))
		}
		if kv, _ := store.Read(ctx, Range{Key: keys.Ticket(testGroup, guest)}); len(kv.KVs) != 1 {
			t.Fatal("the ticket ended while the question was held open")
		}
		c := &Coordinator{Store: store, Keys: keys, Machine: "c", Now: time.Now, Spread: time.Millisecond}
		ended := make(chan error, 1)
		time.AfterFunc(2*time.Minute, func() { ended <- c.Run(ctx) })
		start = time.Now()
		if a, err := p.Ask(ctx, testGroup, guest, 10*time.Minute); err != nil || !a.Granted || time.Since(start) > 2*time.Minute+time.Second {
			t.Errorf("granted after two minutes: %+v, %v after %s", a, err, time.Since(start))
		}
		gone, leave := context.WithTimeout(ctx, time.Minute)
		defer leave()
		if a, err := p.Ask(gone, testGroup, "other", 10*time.Minute); err == nil || a.Granted {
			t.Errorf("the client is gone: %+v, %v", a, err)
		}
		cancel()
		<-ended
	})
}

func TestMemoryLeases(t *testing.T) {
	ctx, now := context.Background(), time.Unix(1000, 0)
	m := &Memory{Now: func() time.Time { return now }}
	lease, err := m.GrantLease(ctx, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	other, _ := m.GrantLease(ctx, 90*time.Second)
	for _, l := range []int64{lease, other} {
		if _, err := m.Commit(ctx, Txn{Then: []Op{{Key: string(rune('a' + l)), Lease: l}}}); err != nil {
			t.Fatal(err)
		}
	}
	there := func() int {
		s, _ := m.Read(ctx, Range{Key: "", Prefix: true})
		return len(s.KVs)
	}
	for range 10 {
		now = now.Add(50 * time.Second)
		if err := m.RenewLease(ctx, lease); err != nil {
			t.Fatal(err)
		}
	}
	if there() != 1 {
		t.Errorf("%d records, want the one whose lease was renewed", there())
	}
	if err := m.RenewLease(ctx, other); !errors.Is(err, ErrRefused) {
		t.Errorf("a lease that ended: %v", err)
	}
	now = now.Add(time.Minute)
	if there() != 0 {
		t.Error("the lease outlived its ttl")
	}
	if _, err := m.GrantLease(ctx, 0); !errors.Is(err, ErrRefused) {
		t.Errorf("a lease of no time: %v", err)
	}
}

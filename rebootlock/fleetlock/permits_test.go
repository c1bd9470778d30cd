package fleetlock

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
)

func TestAppID(t *testing.T) {
	if got, err := AppID(vectorMachine); err != nil || got != vectorID {
		t.Errorf("%s, %v, want %s", got, err, vectorID)
	}
	for _, bad := range []string{"", "1C09CA98649C4C7ABC779CD04C96812E", "00000000000000000000000000000000", vectorMachine + "0", "zz09ca98649c4c7abc779cd04c96812e"} {
		if got, err := AppID(bad); err == nil {
			t.Errorf("%q is taken for a machine-id: %s", bad, got)
		}
	}
}

func (y *yard) member(machine, group, via string) {
	y.t.Helper()
	m := rebootlock.Member{Version: 1, Machine: machine, Group: group, Via: via}
	y.write(y.keys.Member(machine), []byte(mustJSON(y.t, m)))
	if via == "" {
		p := rebootlock.Presence{Version: 1, Machine: machine, Instance: "i", Boot: "b"}
		y.write(y.keys.Presence(machine, "b"), []byte(mustJSON(y.t, p)))
	}
}

func (y *yard) write(key string, value []byte) {
	y.t.Helper()
	if _, err := y.store.Commit(y.t.Context(), rebootlock.Txn{Then: []rebootlock.Op{{Key: key, Value: value, Delete: value == nil}}}); err != nil {
		y.t.Fatal(err)
	}
}

// TestOneHostIsOneMachine: zincati's id and the machine-id name one machine, of
// which the cluster knows by drydockd.
func TestOneHostIsOneMachine(t *testing.T) {
	y := newYard(t, &rebootlock.Memory{Now: time.Now}, "g")
	y.member(vectorMachine, "g", "")
	c := Client{URL: "http://" + y.serve(&Server{Hold: 10 * time.Second}), Group: "g", ID: vectorID}
	if err := c.PreReboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if y.phase("g", vectorMachine) != rebootlock.PhaseRebooting || y.phase("g", vectorID) != "" {
		t.Error("the permit is not that of the machine-id")
	}
	c.ID = vectorMachine
	if err := c.PreReboot(t.Context()); err != nil {
		t.Errorf("asked again by its machine-id: %v", err)
	}
	if err := c.SteadyState(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the permit is gone", func() bool { return y.phase("g", vectorMachine) == "" })
}

// TestPermitFromBeforeTheMachineWasKnown: drydockd joins while zincati's reboot
// is under way; the permit has the id's name, and goes back all the same.
func TestPermitFromBeforeTheMachineWasKnown(t *testing.T) {
	y := newYard(t, &rebootlock.Memory{Now: time.Now}, "g")
	c := Client{URL: "http://" + y.serve(&Server{Hold: 10 * time.Second}), Group: "g", ID: vectorID}
	if err := c.PreReboot(t.Context()); err != nil || y.phase("g", vectorID) != rebootlock.PhaseRebooting {
		t.Fatalf("%v, phase %s", err, y.phase("g", vectorID))
	}
	y.member(vectorMachine, "g", "")
	c.URL = "http://" + y.serve(&Server{}) // which knows the member
	if err := c.SteadyState(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the permit of the id is gone", func() bool { return y.phase("g", vectorID) == "" })
}

func TestServerRestartsBetweenPolls(t *testing.T) {
	y := newYard(t, &rebootlock.Memory{Now: time.Now}, "g")
	ask := func(id string) error {
		return Client{URL: "http://" + y.serve(&Server{}), Group: "g", ID: id}.PreReboot(t.Context())
	}
	eventually(t, "the first is granted, by whichever server", func() bool { return ask("a") == nil })
	for range 3 {
		if err := ask("b"); err == nil {
			t.Fatal("two at once")
		}
	}
	if err := (Client{URL: "http://" + y.serve(&Server{}), Group: "g", ID: "a"}).SteadyState(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the second is granted, by whichever server", func() bool { return ask("b") == nil })
}

func TestFreezeBetweenGrantAndQuestion(t *testing.T) {
	y := newYard(t, &rebootlock.Memory{Now: time.Now}, "g")
	s := &Server{}
	c := Client{URL: "http://" + y.serve(s), Group: "g", ID: "a"}
	_ = c.PreReboot(t.Context()) // a ticket
	eventually(t, "the grant", func() bool { return y.phase("g", "a") == rebootlock.PhaseGranted })
	if err := y.operator().Freeze(t.Context(), "g", "incident 7"); err != nil {
		t.Fatal(err)
	}
	var no *Error
	if err := c.PreReboot(t.Context()); !errors.As(err, &no) || no.Status != 423 || y.phase("g", "a") != rebootlock.PhaseGranted {
		t.Errorf("%v, phase %s: want 423, and the permit as it was", err, y.phase("g", "a"))
	}
	if err := y.operator().Thaw(t.Context(), "g"); err != nil {
		t.Fatal(err)
	}
	if err := c.PreReboot(t.Context()); err != nil || y.phase("g", "a") != rebootlock.PhaseRebooting {
		t.Errorf("after the thaw: %v, phase %s", err, y.phase("g", "a"))
	}
}

// TestStoreAway: never 200 while nothing can be known.
func TestStoreAway(t *testing.T) {
	store := &rebootlock.Memory{Now: time.Now}
	y := newYard(t, store, "g")
	c := Client{URL: "http://" + y.serve(&Server{Hold: 10 * time.Second}), Group: "g", ID: "a"}
	if err := c.PreReboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	store.Outage(errors.New("no quorum"))
	for name, ask := range map[string]func(context.Context) error{"pre-reboot by the holder": c.PreReboot, "steady-state": c.SteadyState} {
		var no *Error
		if err := ask(t.Context()); !errors.As(err, &no) || no.Status != 503 || no.Kind != "store_unavailable" {
			t.Errorf("%s: %v, want 503 store_unavailable", name, err)
		}
	}
	store.Outage(nil)
	if err := c.SteadyState(t.Context()); err != nil {
		t.Errorf("after the outage: %v", err)
	}
}

// clock is a time that stands until it is moved.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func TestMembersAreReadSeldom(t *testing.T) {
	ctx, now := t.Context(), &clock{time.Unix(1e9, 0)}
	store := &counting{Store: &rebootlock.Memory{Now: now.Now}}
	y := &yard{t: t, store: store, keys: rebootlock.Keys{Cluster: "test"}}
	p := &Permits{Store: store, Keys: y.keys, Now: now.Now}
	name := func(id string) string {
		t.Helper()
		machine, err := p.machine(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		return machine
	}
	for range 1000 {
		name(vectorID)
	}
	if store.reads != 1 {
		t.Errorf("%d reads of all members for 1000 questions", store.reads)
	}
	y.member(vectorMachine, "g", "")
	now.now = now.now.Add(30 * time.Second)
	for i := range 1000 {
		name(string(rune('0' + i)))
	}
	if store.reads != 2 {
		t.Errorf("%d reads, want one more for all ids that somebody makes up", store.reads-1)
	}
	if got := name(vectorID); got != vectorMachine {
		t.Errorf("%s, want the member that joined", got)
	}
	now.now = now.now.Add(-time.Hour) // the clock was set back
	name(vectorID)
	if store.reads != 3 {
		t.Errorf("%d reads", store.reads)
	}
}

// counting counts what is read.
type counting struct {
	rebootlock.Store
	reads int
}

func (c *counting) Read(ctx context.Context, ranges ...rebootlock.Range) (rebootlock.Snapshot, error) {
	c.reads++
	return c.Store.Read(ctx, ranges...)
}

func TestNoMoreMachinesThanTheLimit(t *testing.T) {
	p := &Permits{Store: &rebootlock.Memory{}, Keys: rebootlock.Keys{Cluster: "test"}, Now: func() time.Time { return time.Unix(1e9, 0) }}
	for i := range maxMachines {
		if _, err := p.machine(t.Context(), "made-up-"+time.Duration(i).String()); err != nil {
			t.Fatal(i, err)
		}
	}
	var no *Error
	if _, err := p.machine(t.Context(), "one more"); !errors.As(err, &no) || no.Kind != "too_many_machines" {
		t.Errorf("%v", err)
	}
	if _, err := p.machine(t.Context(), "made-up-0s"); err != nil {
		t.Errorf("one of them: %v", err)
	}
}

// hanging is a store whose first answer, an error, comes when so many have asked.
type hanging struct {
	rebootlock.Store
	asked, enough atomic.Int64
	reads         atomic.Int64
	all           chan struct{}
}

// now tells the time, and counts who comes.
func (h *hanging) now() time.Time {
	n := h.asked.Add(1)
	if n == h.enough.Load() {
		close(h.all)
	}
	return time.Unix(1e9+n, 0)
}

func (h *hanging) Read(context.Context, ...rebootlock.Range) (rebootlock.Snapshot, error) {
	h.reads.Add(1)
	<-h.all
	return rebootlock.Snapshot{}, errors.New("no answer")
}

// TestQuestionsDoNotQueueForAStoreThatHangs: else each would wait for the one
// before, ten seconds each.
func TestQuestionsDoNotQueueForAStoreThatHangs(t *testing.T) {
	h := &hanging{all: make(chan struct{})}
	h.enough.Store(101) // the one that reads looks at the time again
	p := &Permits{Store: h, Keys: rebootlock.Keys{Cluster: "test"}, Now: h.now}
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			if granted, _, err := p.Lock(t.Context(), "g", "a", time.Hour); granted || err == nil {
				t.Errorf("%t, %v", granted, err)
			}
		})
	}
	all.Wait()
	if n := h.reads.Load(); n != 1 {
		t.Errorf("%d reads for 100 questions that came at once", n)
	}
}

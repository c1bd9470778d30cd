package rebootlock

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A ship is one machine's client on the store of a yard, with a wire between.
type ship struct {
	*Client
	self Self
	y    *yard
	wire *wire
	off  time.Duration // of its clock
	uids []string      // that it was told to keep
}

// ship is a machine of the yard that has never been there.
func (y *yard) ship(n int) *ship {
	id := fmt.Sprintf("%032x", n)
	s := &ship{y: y, wire: &wire{Store: y.store}, self: Self{
		Machine: id, Instance: fmt.Sprint("instance", n), Boot: fmt.Sprint("boot", n), Group: testGroup,
		Hostname: fmt.Sprint("host", n), Zone: "z1", Program: "drydock-test",
	}}
	s.restart()
	return s
}

// restart is a new process of the machine; the old one is just gone.
func (s *ship) restart() {
	s.Client = &Client{
		Store: s.wire, Keys: s.y.keys, Self: func() Self { return s.self }, Now: func() time.Time { return s.y.now.Add(s.off) },
		Joined: func(uid string) error { s.uids, s.self.UID = append(s.uids, uid), uid; return nil },
	}
}

// die is the end of the machine's process: nobody keeps its lease alive.
func (s *ship) die() {
	s.y.store.Abandon(s.session)
}

// boot is the machine up again, maybe with another state directory.
func (s *ship) boot(instance string) {
	s.self.Boot += "+"
	if instance != s.self.Instance {
		s.self.Instance, s.self.UID = instance, ""
	}
	s.restart()
}

func (s *ship) state() State {
	s.y.t.Helper()
	state, err := s.Standing(context.Background())
	if err != nil {
		s.y.t.Fatalf("standing: %v", err)
	}
	return state
}

// is checks where the ship stands.
func (s *ship) is(want Standing) {
	s.y.t.Helper()
	if got := s.state(); got.Standing != want {
		s.y.t.Fatalf("standing %v, want %v; stops %v", got.Standing, want, got.Stops)
	}
}

func (s *ship) ask() {
	s.y.t.Helper()
	if _, err := s.Acquire(context.Background(), Request{Reason: "update", From: "1", To: "2"}); err != nil {
		s.y.t.Fatal(err)
	}
}

// hold brings the ship to where it holds a permit.
func (s *ship) hold() {
	s.y.t.Helper()
	s.ask()
	s.y.held()
	s.is(Holding)
}

func (s *ship) fence(phase string) {
	s.y.t.Helper()
	if err := s.Fence(context.Background(), phase); err != nil {
		s.y.t.Fatal(err)
	}
}

func (s *ship) release(e Ending) {
	s.y.t.Helper()
	if err := s.Release(context.Background(), e, ""); err != nil {
		s.y.t.Fatal(err)
	}
}

// stopped checks that an obstacle of a kind stops every phase.
func (s *ship) stopped(kind string) {
	s.y.t.Helper()
	state := s.state()
	if !has(state.Stops, kind) {
		s.y.t.Errorf("stops %v, want one of kind %q", state.Stops, kind)
	}
	if err := s.Fence(context.Background(), PhaseStaging); err == nil {
		s.y.t.Errorf("the fence let a phase begin in spite of %q", kind)
	}
}

func has(all []Obstacle, kind string) bool {
	for _, o := range all {
		if o.Kind == kind {
			return true
		}
	}
	return false
}

// one reads the record of a key.
func oneOf[T any](y *yard, key string) (rec T, kv KV) {
	y.t.Helper()
	s, err := y.store.Read(context.Background(), Range{Key: key})
	if err != nil || len(s.KVs) != 1 {
		y.t.Fatalf("record %s: %v, %v", key, s.KVs, err)
	}
	if err := decodeInto(s.KVs[0].Value, &rec); err != nil {
		y.t.Fatal(err)
	}
	return rec, s.KVs[0]
}

// journal counts the entries by what they tell.
func (y *yard) journal() map[string]int {
	y.t.Helper()
	s, err := y.store.Read(context.Background(), y.keys.all(kindEntry))
	if err != nil {
		y.t.Fatal(err)
	}
	told := map[string]int{}
	for _, kv := range s.KVs {
		var e Entry
		if _, err := decode(kv.Value, &e); err != nil {
			y.t.Fatal(err)
		}
		told[e.What]++
	}
	return told
}

// A wire is a store that counts what is asked of it, and loses answers.
type wire struct {
	Store
	reads, commits int
	// lose, if it is not nil, says what becomes of the n-th request, from 1: it never
	// arrives, or its answer is lost.
	lose func(n int, t *Txn) (never, lost bool)
}

var errWire = errors.New("the wire is cut")

func (w *wire) asked() int { return w.reads + w.commits }

func (w *wire) Read(ctx context.Context, ranges ...Range) (Snapshot, error) {
	w.reads++
	if w.lose != nil {
		if never, lost := w.lose(w.asked(), nil); never || lost {
			return Snapshot{}, errWire
		}
	}
	return w.Store.Read(ctx, ranges...)
}

func (w *wire) Commit(ctx context.Context, t Txn) (Result, error) {
	w.commits++
	if w.lose == nil {
		return w.Store.Commit(ctx, t)
	}
	never, lost := w.lose(w.asked(), &t)
	if never {
		return Result{}, errWire
	}
	r, err := w.Store.Commit(ctx, t)
	if lost && err == nil {
		return Result{}, errWire
	}
	return r, err
}

package rebootlock

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/rebootlock/etcdtest"
)

// office is where an operator works in these tests: a store, a clock, and a
// coordinator that passes when told to.
type office struct {
	t     *testing.T
	store Store
	now   time.Time
	Operator
	lead *Leadership
}

// m1, m2 and m3 are machines.
var m1, m2, m3 = strings.Repeat("1", 32), strings.Repeat("2", 32), strings.Repeat("3", 32)

// newOffice is an office at a store, in a cluster of its own.
func newOffice(t *testing.T, store Store) *office {
	f := &office{t: t, store: store, now: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)}
	f.Operator = Operator{
		Store: store, Keys: Keys{Cluster: fmt.Sprintf("office-%d", rand.Uint64())}, Who: "operator ann@laptop",
		Now: func() time.Time { return f.now },
	}
	return f
}

// inMemory is an office whose group web has rules.
func inMemory(t *testing.T) *office {
	f := newOffice(t, &Memory{})
	f.apply(Rules{Max: Max{Count: 1}})
	return f
}

// onEachStore runs a test on the store in memory, and on a real etcd.
func onEachStore(t *testing.T, f func(t *testing.T, store Store)) {
	t.Run("memory", func(t *testing.T) { f(t, &Memory{}) })
	t.Run("etcd", func(t *testing.T) {
		c := etcdtest.Start(t, etcdtest.Options{})
		store, err := DialEtcd(EtcdOptions{Endpoints: c.Endpoints()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { store.Close() })
		f(t, store)
	})
}

func (f *office) apply(r Rules) {
	f.t.Helper()
	if _, _, err := f.Apply(f.t.Context(), "web", r); err != nil {
		f.t.Fatal(err)
	}
}

func (f *office) write(key string, value []byte) {
	f.t.Helper()
	if _, err := f.store.Commit(f.t.Context(), Txn{Then: []Op{{Key: key, Value: value, Delete: value == nil}}}); err != nil {
		f.t.Fatal(err)
	}
}

// raw is what a key holds.
func (f *office) raw(key string) KV {
	f.t.Helper()
	s, err := f.store.Read(f.t.Context(), Range{Key: key})
	if err != nil {
		f.t.Fatal(err)
	}
	if len(s.KVs) == 0 {
		return KV{}
	}
	return s.KVs[0]
}

// join makes machines members that are there in boot "a".
func (f *office) join(machines ...string) {
	for _, m := range machines {
		f.write(f.Keys.Member(m), encode(Member{Version: 1, Machine: m, Group: "web", Hostname: "host" + m[:1]}, nil))
		f.boot(m, "a")
	}
}

func (f *office) boot(machine, boot string) {
	f.write(f.Keys.Presence(machine, boot), encode(Presence{Version: 1, Machine: machine, Boot: boot}, nil))
}

func (f *office) gone(machine, boot string) { f.write(f.Keys.Presence(machine, boot), nil) }

// ask queues machines as they do themselves.
func (f *office) ask(machines ...string) {
	for _, m := range machines {
		f.write(f.Keys.Ticket("web", m), encode(Ticket{Version: 1, Machine: m, Group: "web", Boot: "a", From: "1.0.0", To: "1.1.0", Reason: "update", Asked: f.now}, nil))
	}
}

// hold gives a machine a permit in a phase.
func (f *office) hold(machine, phase string) {
	f.write(f.Keys.Permit("web", machine), encode(Permit{
		Version: 1, Machine: machine, Group: "web", Boot: "a", From: "1.0.0", To: "1.1.0",
		Reason: "update", Granted: f.now, Deadline: f.now.Add(2 * time.Hour), Phase: phase, PhaseSince: f.now,
	}, nil))
}

// pass has a coordinator settle and grant whatever there is.
func (f *office) pass() {
	f.t.Helper()
	if f.lead == nil {
		session, err := f.store.Session(f.t.Context(), time.Minute)
		if err != nil {
			f.t.Fatal(err)
		}
		f.t.Cleanup(func() { session.Close(context.Background()) })
		lead, err := session.Campaign(f.t.Context(), f.Keys.Election(), []byte("coordinator"))
		if err != nil {
			f.t.Fatal(err)
		}
		f.lead = &lead
	}
	c := &Coordinator{Store: f.store, Keys: f.Keys, Machine: "coordinator", Now: f.Now}
	for range 2 { // what was settled makes room
		reign, err := c.Begin(f.t.Context(), *f.lead)
		if err != nil {
			f.t.Fatal(err)
		}
		if _, err := reign.Pass(f.t.Context()); err != nil {
			f.t.Fatal(err)
		}
	}
}

// held passes and returns the first letters of who holds.
func (f *office) held() string {
	f.t.Helper()
	f.pass()
	return f.holders()
}

func (f *office) holders() (all string) {
	f.t.Helper()
	for _, h := range f.group().Holders {
		if h.Phase != PhaseEnded {
			all += h.Machine[:1]
		}
	}
	return all
}

func (f *office) group() GroupView {
	f.t.Helper()
	v, err := f.Look(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	for _, g := range v.Groups {
		if g.Group == "web" {
			return g
		}
	}
	f.t.Fatalf("no group in %+v", v)
	panic("unreachable")
}

// entries are what and why of the journal, newest first.
func (f *office) entries() (all []string) {
	f.t.Helper()
	entries, err := f.Journal(f.t.Context(), "", 0)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, e := range entries {
		all = append(all, strings.TrimSpace(e.What+" "+e.Machine[:min(1, len(e.Machine))]+" "+e.Why))
	}
	return all
}

// verbs are changes that each find something to do in a busyOffice.
var verbs = map[string]func(context.Context, *office) error{
	"apply": func(ctx context.Context, f *office) error {
		_, _, err := f.Apply(ctx, "web", Rules{Max: Max{Percent: 50}})
		return err
	},
	"set-max":        func(ctx context.Context, f *office) error { _, err := f.SetMax(ctx, "web", Max{Count: 7}); return err },
	"freeze":         func(ctx context.Context, f *office) error { return f.Freeze(ctx, "web", "fair") },
	"freeze cluster": func(ctx context.Context, f *office) error { return f.Freeze(ctx, "", "fair") },
	"thaw":           func(ctx context.Context, f *office) error { return f.Thaw(ctx, "web") },
	"thaw cluster":   func(ctx context.Context, f *office) error { return f.Thaw(ctx, "") },
	"forgive":        func(ctx context.Context, f *office) error { return f.Forgive(ctx, "web", "1.1.0") },
	"acquire":        func(ctx context.Context, f *office) error { return f.Acquire(ctx, "web", m3, "disk") },
	"release":        func(ctx context.Context, f *office) error { return f.Release(ctx, "web", m2, "") },
	"take-away":      func(ctx context.Context, f *office) error { return f.TakeAway(ctx, "web", m1, "gone", false) },
	"remove":         func(ctx context.Context, f *office) error { return f.Remove(ctx, m3, "gone", false) },
}

// busyOffice has a frozen cluster and group, a failure, a holder, a machine that
// was queued by hand, and one that is not there.
func busyOffice(t *testing.T, store Store) *office {
	f := newOffice(t, store)
	f.apply(Rules{Max: Max{Count: 1}, Freeze: &Freeze{}})
	f.join(m1, m2)
	f.join(m3)
	f.gone(m3, "a")
	f.hold(m1, PhaseDraining)
	f.write(f.Keys.Failures("web"), encode(Failures{Version: 1, Failed: []Failure{{Release: "1.1.0", Machine: m2, How: "rolled-back", At: f.now}}}, nil))
	for _, err := range []error{f.Acquire(t.Context(), "web", m2, "disk"), f.Freeze(t.Context(), "web", "old"), f.Freeze(t.Context(), "", "old")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func TestEveryChangeIsOneTransactionWithItsLine(t *testing.T) {
	onEachStore(t, func(t *testing.T, store Store) {
		for name, verb := range verbs {
			t.Run(name, func(t *testing.T) {
				f := busyOffice(t, store)
				before, entries := f.revision(), f.entries()
				if err := verb(t.Context(), f); err != nil {
					t.Fatal(err)
				}
				if after := f.revision(); after != before+1 {
					t.Errorf("%d revisions", after-before)
				}
				if now := f.entries(); len(now) != len(entries)+1 || !slices.Equal(now[1:], entries) {
					t.Errorf("journal %q", now)
				}
				line, err := f.Journal(t.Context(), "", 1)
				if err != nil || len(line) != 1 || line[0].Who != "operator ann@laptop" || !line[0].At.Equal(f.now) {
					t.Errorf("line %+v, %v", line, err)
				}
				if name == "take-away" { // asking again for what is no longer there
					return
				}
				before = f.revision()
				if err := verb(t.Context(), f); name != "remove" && (err != nil || f.revision() != before) {
					t.Errorf("again: %v, %d changes", err, f.revision()-before)
				}
			})
		}
	})
}

func (f *office) revision() int64 {
	f.t.Helper()
	s, err := f.store.Read(f.t.Context(), Range{Key: f.Keys.ClusterRecord()})
	if err != nil {
		f.t.Fatal(err)
	}
	return s.Revision
}

// rival is a store in which something comes before, or in place of, a commit.
type rival struct {
	Store
	before func()
	commit func(context.Context, Txn) (Result, error)
}

func (r *rival) Commit(ctx context.Context, t Txn) (Result, error) {
	if r.before != nil {
		r.before()
	}
	if r.commit != nil {
		return r.commit(ctx, t)
	}
	return r.Store.Commit(ctx, t)
}

func TestLostRaceIsRunAgain(t *testing.T) {
	for name, verb := range verbs {
		t.Run(name, func(t *testing.T) {
			f := busyOffice(t, &Memory{})
			left := changeTries - 1
			f.Store = &rival{Store: f.store, before: func() {
				if left--; left >= 0 { // everybody else writes everything anew
					s, _ := f.store.Read(t.Context(), f.Keys.everything())
					for _, kv := range s.KVs {
						f.write(kv.Key, kv.Value)
					}
				}
			}}
			if err := verb(t.Context(), f); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("for ever", func(t *testing.T) {
		f := inMemory(t)
		n := 0
		f.Store = &rival{Store: f.store, before: func() { n++; f.write(f.Keys.Rules("web"), f.raw(f.Keys.Rules("web")).Value) }}
		if _, err := f.SetMax(t.Context(), "web", Max{Count: 3}); !errors.Is(err, errOvertaken) || n != changeTries {
			t.Errorf("%v after %d tries", err, n)
		}
	})
}

// TestRaceIsDecidedAnew: what was decided on an older record is not written over
// a newer one.
func TestRaceIsDecidedAnew(t *testing.T) {
	f := inMemory(t)
	first := true
	f.Store = &rival{Store: f.store, before: func() {
		if first {
			first = false
			other := f.Operator
			other.Store = f.store
			if err := other.Freeze(t.Context(), "web", "fair"); err != nil {
				t.Error(err)
			}
		}
	}}
	before, err := f.SetMax(t.Context(), "web", Max{Count: 3})
	rules, err2 := f.Rules(t.Context(), "web")
	if err != nil || err2 != nil || before.Count != 1 || rules.Max.Count != 3 || rules.Freeze == nil {
		t.Errorf("before %v, rules %+v, %v %v", before, rules, err, err2)
	}
}

var errNoAnswer = errors.New("no answer came")

func TestAnswerThatNeverCame(t *testing.T) {
	for name, verb := range verbs {
		for _, when := range []string{"after it was done", "before it was done"} {
			t.Run(name+", "+when, func(t *testing.T) {
				f := busyOffice(t, &Memory{})
				n, lines := 0, len(f.entries())
				f.Store = &rival{Store: f.store, commit: func(ctx context.Context, txn Txn) (Result, error) {
					if n++; n == 1 {
						if when == "after it was done" {
							f.store.Commit(ctx, txn)
						}
						return Result{}, errNoAnswer
					}
					return f.store.Commit(ctx, txn)
				}}
				if err := verb(t.Context(), f); err != nil {
					t.Error(err)
				}
				if now := len(f.entries()); now != lines+1 {
					t.Errorf("done %d times", now-lines)
				}
			})
		}
	}
}

// TestAnswerThatCameLate: the first commit is carried out after the second was
// decided. It happens once.
func TestAnswerThatCameLate(t *testing.T) {
	f := inMemory(t)
	var late Txn
	n := 0
	f.Store = &rival{Store: f.store, commit: func(ctx context.Context, txn Txn) (Result, error) {
		if n++; n == 1 {
			late = txn
			return Result{}, errNoAnswer
		}
		f.store.Commit(ctx, late)
		return f.store.Commit(ctx, txn)
	}}
	before, err := f.SetMax(t.Context(), "web", Max{Count: 3})
	if lines := f.entries(); err != nil || before.Count != 1 || len(lines) != 2 {
		t.Errorf("%v, %v, journal %q", before, err, lines)
	}
}

func TestCallerWhoLeavesHearsWhatBecame(t *testing.T) {
	for _, done := range []bool{true, false} {
		f := inMemory(t)
		ctx, cancel := context.WithCancel(t.Context())
		f.Store = &rival{Store: f.store, commit: func(ctx context.Context, txn Txn) (Result, error) {
			if done {
				f.store.Commit(ctx, txn)
			}
			cancel()
			return Result{}, context.Canceled
		}}
		err := f.Freeze(ctx, "web", "fair")
		if done && err != nil || !done && (err == nil || !strings.Contains(err.Error(), "whether it was done is not known")) {
			t.Errorf("done %v: %v", done, err)
		}
	}
}

func TestRefusalIsFinal(t *testing.T) {
	f := inMemory(t)
	n := 0
	f.Store = &rival{Store: f.store, commit: func(context.Context, Txn) (Result, error) {
		n++
		return Result{}, fmt.Errorf("%w: permission denied", ErrRefused)
	}}
	if err := f.Freeze(t.Context(), "web", "fair"); !errors.Is(err, ErrRefused) || n != 1 {
		t.Errorf("%v after %d tries", err, n)
	}
	memory := &Memory{}
	f = newOffice(t, memory)
	memory.Outage(errNoAnswer)
	if _, err := f.Look(t.Context()); !errors.Is(err, errNoAnswer) {
		t.Errorf("Look: %v", err)
	}
	if err := f.Freeze(t.Context(), "web", "fair"); !errors.Is(err, errNoAnswer) || strings.Contains(err.Error(), "not known") {
		t.Errorf("nothing was sent: %v", err)
	}
}

// TestNewerAndCorruptRecordsAreNeverOverwritten spoils each record in turn: a
// verb does its work without it, or refuses and leaves it as it is.
func TestNewerAndCorruptRecordsAreNeverOverwritten(t *testing.T) {
	for _, bad := range []struct {
		name, value string
		err         error
	}{
		{"newer", `{"version":2,"max":{"from":"somewhere"}}`, ErrNewer},
		{"corrupt", `{"version":1,"max":`, ErrCorrupt},
		{"without a version", `{}`, ErrCorrupt},
	} {
		for name, verb := range verbs {
			f := busyOffice(t, &Memory{})
			s, err := f.store.Read(t.Context(), f.Keys.everything())
			if err != nil {
				t.Fatal(err)
			}
			refused := 0
			for _, kv := range s.KVs {
				f := busyOffice(t, &Memory{})
				key := f.Keys.root() + strings.SplitN(kv.Key, "/", 4)[3]
				f.write(key, []byte(bad.value))
				err := verb(t.Context(), f)
				if err != nil && !errors.Is(err, bad.err) {
					t.Errorf("%s, %s record %s: %v", name, bad.name, key, err)
				}
				if err != nil {
					refused++
				}
				if now := f.raw(key); string(now.Value) != bad.value && now.Value != nil {
					t.Errorf("%s overwrites the %s record %s", name, bad.name, key)
				}
				if f.raw(key).Value == nil && name != "remove" {
					t.Errorf("%s deletes the %s record %s", name, bad.name, key)
				}
			}
			if refused == 0 {
				t.Errorf("%s reads no record that is %s", name, bad.name)
			}
		}
	}
}

func TestUnknownFieldsSurvive(t *testing.T) {
	f := busyOffice(t, &Memory{})
	add := func(key string) {
		f.write(key, []byte(strings.Replace(string(f.raw(key).Value), "{", `{"tomorrow":{"a":[1]},`, 1)))
	}
	kept := func(what, key string) {
		if !strings.Contains(string(f.raw(key).Value), `"tomorrow":{"a":[1]}`) {
			t.Errorf("%s: %s", what, f.raw(key).Value)
		}
	}
	rules, cluster, failures, permit := f.Keys.Rules("web"), f.Keys.ClusterRecord(), f.Keys.Failures("web"), f.Keys.Permit("web", m2)
	f.write(f.Keys.Ticket("web", m2), nil)
	f.write(permit, encode(Permit{Version: 1, Machine: m2, Group: "web", Phase: PhaseGranted, Via: "operator"}, nil))
	for _, key := range []string{rules, cluster, failures, permit} {
		add(key)
	}
	for _, name := range []string{"apply", "set-max", "freeze", "freeze cluster", "thaw", "thaw cluster", "forgive", "release"} {
		if err := verbs[name](t.Context(), f); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, key := range []string{rules, cluster, failures, permit} {
			kept(name, key)
		}
	}
}

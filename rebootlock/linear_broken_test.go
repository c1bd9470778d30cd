package rebootlock

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// TestSemaphoreModel shows which histories porcupine takes for those of a
// semaphore, and which not.
func TestSemaphoreModel(t *testing.T) {
	type seen struct {
		machine   int
		saw       testimony
		call, end int64 // end 0: it never got an answer
	}
	for _, test := range []struct {
		name  string
		limit int
		seen  []seen
		want  porcupine.CheckResult
	}{
		{"in turn", 1, []seen{{1, acquired, 1, 2}, {1, released, 3, 4}, {2, acquired, 5, 6}, {2, released, 7, 8}}, porcupine.Ok},
		{"two at once of one", 1, []seen{{1, acquired, 1, 2}, {2, acquired, 3, 4}, {1, released, 5, 6}, {2, released, 7, 8}}, porcupine.Illegal},
		{"two at once of two", 2, []seen{{1, acquired, 1, 2}, {2, acquired, 3, 4}, {1, released, 5, 6}, {2, released, 7, 8}}, porcupine.Ok},
		{"the release may have been done before the answer", 1, []seen{{1, acquired, 1, 2}, {1, released, 3, 9}, {2, acquired, 4, 6}}, porcupine.Ok},
		{"it may not have been done before the call", 1, []seen{{1, acquired, 1, 2}, {2, acquired, 3, 4}, {1, released, 5, 9}}, porcupine.Illegal},
		{"a fence while another holds", 1, []seen{{1, acquired, 1, 2}, {2, fenced, 3, 4}}, porcupine.Illegal},
		{"a fence after the release", 1, []seen{{1, acquired, 1, 2}, {1, released, 3, 4}, {1, fenced, 5, 6}}, porcupine.Illegal},
		{"a holder that is told it holds nothing", 1, []seen{{1, acquired, 1, 2}, {1, denied, 3, 4}, {1, released, 5, 6}}, porcupine.Illegal},
		{"given back twice", 1, []seen{{1, acquired, 1, 2}, {1, released, 3, 4}, {1, released, 5, 6}}, porcupine.Illegal},
		{"an open release was done", 1, []seen{{1, acquired, 1, 2}, {1, released, 3, 0}, {2, acquired, 5, 6}}, porcupine.Ok},
		{"an open acquire was not", 1, []seen{{1, acquired, 1, 0}, {2, acquired, 3, 4}, {2, released, 5, 6}, {3, acquired, 7, 8}}, porcupine.Ok},
		{"an open acquire excuses nothing else", 1, []seen{{1, acquired, 1, 0}, {2, acquired, 3, 4}, {3, acquired, 5, 6}}, porcupine.Illegal},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := chronicle{limit: test.limit}
			for _, s := range test.seen {
				end := time.Unix(0, s.end)
				if s.end == 0 {
					end = time.Time{}
				}
				h.add(s.machine, s.saw, time.Unix(0, s.call), end)
			}
			if got := h.check(checkLimit); got != test.want {
				t.Errorf("porcupine says %s, want %s", got, test.want)
			}
		})
	}
}

// doctored is a store that shows a coordinator other records than there are.
type doctored struct {
	Store
	change func(*KV)
}

// Read doctors what it reads.
func (d doctored) Read(ctx context.Context, ranges ...Range) (Snapshot, error) {
	s, err := d.Store.Read(ctx, ranges...)
	for i := range s.KVs {
		d.change(&s.KVs[i])
	}
	return s, err
}

// Watch doctors what it tells.
func (d doctored) Watch(ctx context.Context, after int64, ranges ...Range) <-chan []Event {
	out := make(chan []Event)
	in := d.Store.Watch(ctx, after, ranges...)
	go func() {
		defer close(out)
		for batch := range in {
			for i := range batch {
				d.change(&batch[i].KV)
			}
			select {
			case out <- batch:
			case <-ctx.Done():
			}
		}
	}()
	return out
}

// generous reads a max that is two more than there are.
func generous(s Store) Store {
	return doctored{s, func(kv *KV) {
		var r Rules
		if strings.Contains(kv.Key, "/"+kindRules+"/") && decodeInto(kv.Value, &r) == nil {
			r.Max.Count += 2
			kv.Value = encode(r, r.Extra)
		}
	}}
}

// unjust takes who came last for who came first.
func unjust(s Store) Store {
	return doctored{s, func(kv *KV) {
		if strings.Contains(kv.Key, "/"+kindTicket+"/") {
			kv.Created = 1<<40 - kv.Created
		}
	}}
}

// TestBrokenLockIsCaught runs the same machines and the same checks over locks
// that are broken on purpose, and over one that is not.
func TestBrokenLockIsCaught(t *testing.T) {
	for _, test := range []struct {
		name  string
		harm  func(Store) Store
		found string // "": nothing
		model porcupine.CheckResult
	}{
		{"not broken", nil, "", porcupine.Ok},
		{"grants two more than max", generous, "hold, 2 may", porcupine.Illegal},
		{"grants the last of the queue first", unjust, "was granted before that of revision", porcupine.Ok},
	} {
		t.Run(test.name, func(t *testing.T) {
			shared := &Memory{Now: chaosNow}
			c := newChaos(t, func() Store { return shared }, test.harm)
			c.start(20, 1)
			c.round(2, func(ctx context.Context) { wait(ctx, 300*time.Millisecond) })
			found, grants := c.watcher.findings()
			caught := slices.ContainsFunc(found, func(s string) bool { return strings.Contains(s, test.found) })
			if test.found == "" && len(found) > 0 || test.found != "" && !caught {
				t.Errorf("the watcher found %q, want %q", found, test.found)
			}
			if got := c.history.check(checkLimit); got != test.model {
				t.Errorf("%d operations: porcupine says %s, want %s", len(c.history.ops), got, test.model)
			}
			if grants < 20 {
				t.Errorf("%d grants, want one of each machine at least", grants)
			}
		})
	}
}

// unled writes as if it still led, whoever leads.
type unled struct {
	Store
	election string
}

// Commit leaves out the condition that the coordinator leads.
func (u unled) Commit(ctx context.Context, t Txn) (Result, error) {
	t.If = slices.DeleteFunc(slices.Clone(t.If), func(c Cond) bool { return strings.HasPrefix(c.Key, u.election) })
	return u.Store.Commit(ctx, t)
}

// TestLateGrantOfDeposedCoordinator holds up a coordinator's grant until
// another one was elected and has granted the permit to somebody else: then it
// is refused, because of the leadership that it compares and of nothing else.
// That shows in the same lock without the comparison, which the watcher finds.
func TestLateGrantOfDeposedCoordinator(t *testing.T) {
	for name, fenced := range map[string]bool{"as it is": true, "without the fence": false} {
		t.Run(name, func(t *testing.T) {
			shared := &Memory{Now: chaosNow}
			c := newChaos(t, func() Store { return shared }, func(s Store) Store {
				if fenced {
					return s
				}
				return unled{s, Keys{Cluster: "chaos"}.Election()}
			})
			c.start(2, 1)
			c.setMax(1)
			held := make(chan heldUp, 3)
			for _, k := range c.coordinators {
				k.valve.shut(held)
			}
			ctx, cancel := context.WithTimeout(c.ctx, turnLimit)
			defer cancel()
			first, second := c.contenders[0].client, c.contenders[1].client
			ask(t, ctx, first)
			victim := <-held // the grant to the first machine
			for _, k := range c.coordinators {
				if k.valve != victim.valve {
					k.valve.open()
				}
			}
			c.watcher.put(t, ctx, c.operator.Store, c.phantoms(victim.txn))
			victim.valve.depose(ctx)
			ask(t, ctx, second)
			for s := (State{}); s.Standing != Holding; s, _ = second.Standing(ctx) {
				if !wait(ctx, 5*time.Millisecond) {
					t.Fatal("the next coordinator grants nothing")
				}
			}
			victim.valve.open()
			for victim.valve.arrived() == 0 && wait(ctx, time.Millisecond) {
			}
			c.watcher.put(t, ctx, c.operator.Store, []Op{{Key: c.keys.root() + "lock/marker"}})
			found, _ := c.watcher.findings()
			if caught := len(found) > 0 && strings.Contains(found[0], "2 hold, 1 may"); caught == fenced {
				t.Errorf("the watcher found %q; the leadership is compared: %t", found, fenced)
			}
			if refused := victim.valve.refused() == 1; refused != fenced {
				t.Errorf("refused: %t; the leadership is compared: %t", refused, fenced)
			}
		})
	}
}

func ask(t *testing.T, ctx context.Context, c *Client) {
	t.Helper()
	if _, err := c.Acquire(ctx, Request{Reason: "test", From: "1", To: "2"}); err != nil {
		t.Fatal(err)
	}
}

package link

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/updater"
)

// TestPublishedStatus: everything that an updater says of itself and that the
// cluster has a place for is in the record that others read, and the machine's
// zone and labels with it.
func TestPublishedStatus(t *testing.T) {
	until := time.Date(2026, 11, 23, 2, 0, 0, 0, time.UTC)
	tests := []struct {
		name string
		says updater.Status
		want rebootlock.Status
	}{
		{"nothing is known yet", updater.Status{}, rebootlock.Status{Operation: "idle"}},
		{"the slot and its release", updater.Status{Booted: "B", Release: "1.1.0", OnTrial: true}, rebootlock.Status{Slot: "B", Release: "1.1.0", OnTrial: true, Operation: "idle"}},
		{"the step", updater.Status{StepName: "write", Operation: updater.Downloading, Progress: 0.25, NewVersion: "1.2.0"},
			rebootlock.Status{Step: "write", Operation: "downloading", Progress: 0.25, NewVersion: "1.2.0"}},
		{"the lock", updater.Status{Permit: "queued", Strategy: "coordinated", StepName: "lock"},
			rebootlock.Status{Permit: "queued", Strategy: "coordinated", Step: "lock", Operation: "idle"}},
		{"the last error", updater.Status{LastError: "write: no space", LastErrorAt: until, Operation: updater.ReportingError},
			rebootlock.Status{LastError: "write: no space", Operation: "reporting-error"}},
		{"what was rejected", updater.Status{Rejected: []updater.Rejection{{Version: "1.1.0", SHA256: "00", Reason: "sick", At: until}, {Version: "1.1.1"}}},
			rebootlock.Status{Rejected: []string{"1.1.0", "1.1.1"}, Operation: "idle"}},
		{"what it waits for", updater.Status{Reasons: []updater.Reason{{Kind: "window", Text: "closed", Until: until}, {Kind: "paused", Text: "by ann"}}},
			rebootlock.Status{Waits: []rebootlock.Obstacle{{Kind: "window", Text: "closed", Until: until}, {Kind: "paused", Text: "by ann"}}, Operation: "idle"}},
		{"the first of many", updater.Status{Reasons: many(15, func(i int) updater.Reason { return updater.Reason{Kind: fmt.Sprint(i)} }),
			Rejected: many(15, func(i int) updater.Rejection { return updater.Rejection{Version: fmt.Sprint(i)} })},
			rebootlock.Status{Waits: many(10, func(i int) rebootlock.Obstacle { return rebootlock.Obstacle{Kind: fmt.Sprint(i)} }),
				Rejected: many(10, func(i int) string { return fmt.Sprint(i) }), Operation: "idle"}},
	}
	machine, labels := strings.Repeat("1", 32), map[string]string{"role": "web"}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			store, keys := &rebootlock.Memory{Now: time.Now}, rebootlock.Keys{Cluster: "harbour"}
			client := &rebootlock.Client{Store: store, Keys: keys, Now: func() time.Time { return until }, Self: func() rebootlock.Self {
				return rebootlock.Self{Machine: machine, Instance: "i", Boot: "b", Group: "web", Zone: "eu-1a", Hostname: "web1", Labels: labels}
			}}
			if err := client.Publish(t.Context(), statusOf(test.says)); err != nil {
				t.Fatal(err)
			}
			v, err := rebootlock.Operator{Store: store, Keys: keys, Now: time.Now}.Look(t.Context())
			if err != nil || len(v.Machines) != 1 || v.Machines[0].Status == nil {
				t.Fatalf("%+v, %v", v, err)
			}
			got, want := *v.Machines[0].Status, test.want
			want.Version, want.Machine, want.At, want.Group, want.Zone, want.Labels, want.Hostname = 1, machine, until, "web", "eu-1a", labels, "web1"
			got.Extra = nil
			if !reflect.DeepEqual(got, want) {
				t.Errorf("published\n%+v, want\n%+v", got, want)
			}
		})
	}
}

// told is a cluster that keeps what it is told, and refuses some at first.
type told struct {
	mu      sync.Mutex
	refuses int
	all     []rebootlock.Status
}

func (c *told) publish(_ context.Context, s rebootlock.Status) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all = append(c.all, s); len(c.all) <= c.refuses {
		return errors.New("etcd is away")
	}
	return nil
}

func (c *told) times() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.all)
}

func (c *told) last() rebootlock.Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all[len(c.all)-1]
}

func many[T any](n int, of func(int) T) (list []T) {
	for i := range n {
		list = append(list, of(i))
	}
	return list
}

// TestPublishedWhenOfWeight: what is news to others is published at once, and
// what is none with the next round; what did not get through is tried again, as
// it is then.
func TestPublishedWhenOfWeight(t *testing.T) {
	base := updater.Status{Release: "1.0.0", Booted: "A", StepName: "write", Progress: 0.31, Reasons: []updater.Reason{{Kind: "window", Text: "closed"}}}
	changes := map[string]func(*updater.Status){
		"release":    func(s *updater.Status) { s.Release = "1.1.0" },
		"slot":       func(s *updater.Status) { s.Booted = "B" },
		"trial":      func(s *updater.Status) { s.OnTrial = true },
		"step":       func(s *updater.Status) { s.StepName = "lock" },
		"operation":  func(s *updater.Status) { s.Operation = updater.Finalizing },
		"version":    func(s *updater.Status) { s.NewVersion = "1.1.0" },
		"permit":     func(s *updater.Status) { s.Permit = "held" },
		"strategy":   func(s *updater.Status) { s.Strategy = "off" },
		"last error": func(s *updater.Status) { s.LastError = "no space" },
		"tenth":      func(s *updater.Status) { s.Progress = 0.41 },
		"rejected":   func(s *updater.Status) { s.Rejected = []updater.Rejection{{Version: "1.1.0"}} },
		"reason":     func(s *updater.Status) { s.Reasons = []updater.Reason{{Kind: "window", Text: "closed till Monday"}} },
		"well":       func(s *updater.Status) { s.Reasons = nil },
		"no news":    func(s *updater.Status) { s.Progress, s.Done, s.LastChecked = 0.32, 7, time.Unix(9, 0) },
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var told told
				p := &Publisher{To: told.publish}
				ctx, cancel := context.WithCancel(t.Context())
				defer synctest.Wait()
				defer cancel()
				p.Observe(updater.Event{Status: base})
				go p.Run(ctx)
				time.Sleep(time.Minute)
				next := base
				change(&next)
				p.Observe(updater.Event{Status: next})
				time.Sleep(publishPause)
				synctest.Wait()
				if want := map[bool]int{true: 1, false: 2}[name == "no news"]; told.times() != want {
					t.Errorf("published %d times, want %d", told.times(), want)
				}
				time.Sleep(2 * publishEvery)
				synctest.Wait()
				if last := told.last(); !reflect.DeepEqual(last, statusOf(next)) {
					t.Errorf("the last is %+v", last)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		told := told{refuses: 1}
		p := &Publisher{To: told.publish}
		ctx, cancel := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer cancel()
		p.Observe(updater.Event{Status: updater.Status{Release: "1.0.0"}})
		go p.Run(ctx)
		time.Sleep(2 * publishRetry)
		synctest.Wait()
		if told.times() != 2 || told.last().Release != "1.0.0" {
			t.Errorf("tried %d times, last %+v", told.times(), told.last())
		}
	})
}

package rebootlock

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestCoordinatorWhoseWatchIsMuteGrantsAllTheSame: a watch that says nothing looks
// like a cluster in which nothing happens. Everything is read anew now and then,
// whatever it says.
func TestCoordinatorWhoseWatchIsMuteGrantsAllTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{t: t, keys: Keys{Cluster: "test"}, store: &Memory{Now: time.Now}}
		y.write(y.keys.ClusterRecord(), encode(Cluster{Version: 1, ID: "test", UID: "u"}, nil))
		y.rules(Rules{Max: Max{Count: 1}})
		y.join("", "a", "b")
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		defer running.Wait()
		defer stop()
		c := &Coordinator{Store: mute{y.store}, Keys: y.keys, Machine: "coordinator", Now: time.Now}
		running.Go(func() { c.Run(ctx) })
		time.Sleep(10 * time.Second) // it is elected, and has read everything
		granted := func(machine string) bool {
			s, err := y.store.Read(ctx, Range{Key: y.keys.Permit(testGroup, machine)})
			if err != nil {
				t.Fatal(err)
			}
			return len(s.KVs) == 1
		}
		y.ask("a", "b")
		if time.Sleep(rereadInterval / 2); granted("a") {
			t.Error("granted at once: the watch is not mute")
		}
		if time.Sleep(rereadInterval/2 + time.Second); !granted("a") || granted("b") {
			t.Fatalf("%s after the tickets: a granted %t, b %t", rereadInterval, granted("a"), granted("b"))
		}
		y.end("a", Updated)
		if time.Sleep(rereadInterval + time.Second); !granted("b") || granted("a") {
			t.Errorf("%s after a's permit ended: a granted %t, b %t", rereadInterval, granted("a"), granted("b"))
		}
	})
}

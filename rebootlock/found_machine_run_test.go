package rebootlock

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// TestPlacesInTheQueueOutlastAnOutage: etcd is away for hours, and all sessions
// with it. The machines come back in another order than they came, and those
// that ask again while their tickets are there keep their places.
func TestPlacesInTheQueueOutlastAnOutage(t *testing.T) {
	const machines = 6
	synctest.Test(t, func(t *testing.T) {
		h := newHarbour(t, Rules{Max: Max{Count: 1}, Freeze: &Freeze{Reason: "test"}})
		defer h.end()
		var all []*Client
		for n := range machines {
			c := h.client(n + 1)
			all = append(all, c)
			h.run(c)
			time.Sleep(time.Second)
			if _, err := c.Acquire(t.Context(), Request{To: "2"}); err != nil {
				t.Fatal(err)
			}
		}
		order := func() (machines []string) {
			s, err := h.store.Read(t.Context(), h.keys.all(kindTicket))
			if err != nil {
				t.Fatal(err)
			}
			slices.SortFunc(s.KVs, func(a, b KV) int { return int(a.Created - b.Created) })
			for _, kv := range s.KVs {
				_, names, _ := h.keys.parse(kv.Key)
				machines = append(machines, names[1])
			}
			return machines
		}
		before := order()
		h.store.Outage(errors.New("etcd is away"))
		time.Sleep(3 * time.Hour)
		h.store.Outage(nil)
		asked := map[*Client]bool{}
		for range 120 {
			time.Sleep(time.Second)
			for _, c := range slices.Backward(all) {
				if s, err := c.Standing(t.Context()); err == nil && s.Standing == None && !asked[c] {
					_, err := c.Acquire(t.Context(), Request{To: "2"})
					asked[c] = err == nil
				}
			}
		}
		if after := order(); !slices.Equal(before, after) {
			t.Errorf("the queue was\n%q, and is\n%q", before, after)
		}
	})
}

package rebootlock

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"
)

// BenchmarkLook is what one look at a cluster costs, by its machines.
func BenchmarkLook(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			o := crowd(b, n)
			for b.Loop() {
				v, err := o.Look(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				data, err := json.Marshal(v)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(len(data))/float64(n), "bytes/machine")
			}
		})
	}
}

// crowd is a group of n machines, all of which wait, and its operator.
func crowd(tb testing.TB, n int) Operator {
	tb.Helper()
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	o := Operator{Store: &Memory{}, Keys: Keys{Cluster: "prod"}, Now: func() time.Time { return now }}
	if _, _, err := o.Apply(tb.Context(), "web", Rules{Max: Max{Count: 1}}); err != nil {
		tb.Fatal(err)
	}
	for i := range n {
		m := fmt.Sprintf("%032x", i+1)
		ops := []Op{
			{Key: o.Keys.Member(m), Value: encode(Member{Version: 1, Machine: m, Group: "web", Hostname: "node-" + m[26:], Joined: now}, nil)},
			{Key: o.Keys.Presence(m, "b"), Value: encode(Presence{Version: 1, Machine: m, Boot: "b", Since: now}, nil)},
			{Key: o.Keys.Status(m), Value: encode(Status{Version: 1, Machine: m, At: now, Group: "web", Release: "1.0.0", Slot: "A", Step: "wait", NewVersion: "1.1.0", Permit: "queued",
				Waits: []Obstacle{{Kind: "queue", Text: "it waits for a permit"}}}, nil)},
			{Key: o.Keys.Ticket("web", m), Value: encode(Ticket{Version: 1, Machine: m, Group: "web", Asked: now, Reason: "update to 1.1.0", From: "1.0.0", To: "1.1.0"}, nil)},
		}
		if _, err := o.Store.Commit(tb.Context(), Txn{Then: ops}); err != nil {
			tb.Fatal(err)
		}
	}
	return o
}

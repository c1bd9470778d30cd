package rebootlock

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestJournalIsBounded: a coordinator keeps the newest entries, whoever wrote
// them, and looks again only after many new ones.
func TestJournalIsBounded(t *testing.T) {
	const tooMany = 300
	y := newYard(t, Rules{Max: Max{Count: 1}})
	machine := strings.Repeat("a", 32)
	tell := func(n int) {
		key := y.keys.Entry(fmt.Sprintf("%016x-x", 1<<40-n)) // by a clock that runs backwards: the order is the store's
		if n%2 == 0 {
			key = y.keys.OwnEntry(machine, fmt.Sprintf("%016x-x", n))
		}
		y.write(key, encode(Entry{Version: version, At: y.now, Who: "test", What: fmt.Sprint(n)}, nil))
	}
	for n := range journalKept + tooMany {
		tell(n)
	}
	count := func() (n int, oldest string) {
		s, err := y.store.Read(context.Background(), y.keys.all(kindEntry))
		if err != nil {
			t.Fatal(err)
		}
		first := int64(1 << 62)
		for _, kv := range s.KVs {
			var e Entry
			if err := decodeInto(kv.Value, &e); err != nil {
				t.Fatal(err)
			}
			if kv.Created < first {
				first, oldest = kv.Created, e.What
			}
		}
		return len(s.KVs), oldest
	}
	y.held()
	if n, oldest := count(); n != journalKept || oldest != fmt.Sprint(tooMany) {
		t.Errorf("%d entries, the oldest %s; want %d, and %d", n, oldest, journalKept, tooMany)
	}
	for n := range 10 {
		tell(journalKept + tooMany + n)
	}
	y.now = y.now.Add(stampInterval + time.Second)
	y.held()
	if n, _ := count(); n != journalKept+10 {
		t.Errorf("%d entries: all of them are read again for ten new ones", n)
	}
	y.join("", "m")
	for range cutAfter/2 + 1 { // each turn is two entries
		y.ask("m")
		y.held()
		y.end("m", Updated)
		y.held()
	}
	y.now = y.now.Add(stampInterval + time.Second)
	y.held()
	if n, _ := count(); n != journalKept {
		t.Errorf("%d entries after many new ones, want %d", n, journalKept)
	}
}

// TestZoneThatIsNotKnownIsSaidSo: an operator's ticket may have none.
func TestZoneThatIsNotKnownIsSaidSo(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 3}, ZoneMax: 1})
	for _, m := range []string{"a", "b"} {
		y.write(y.keys.Ticket(testGroup, m), encode(Ticket{Version: 1, Machine: m, Group: testGroup, Via: viaOperator}, nil))
	}
	y.want("a")
	why := y.reign.book.judge(y.reign.book.group(testGroup), y.now, true).waits["b"]
	if len(why) != 1 || !strings.Contains(why[0].Text, "an unknown zone") {
		t.Errorf("%+v", why)
	}
}

// TestJournalTellsTheEndBeforeTheNextGrant: both are booked in one transaction,
// and a reader that saw the grant first would see two machines with one permit.
func TestJournalTellsTheEndBeforeTheNextGrant(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	y.join("", "a", "b")
	const turns = 20 // an order by chance would not hold for so many
	y.ask("a")
	y.want("a")
	holder, next := "a", "b"
	for range turns {
		y.ask(next)
		y.end(holder, Updated)
		y.want(next)
		holder, next = next, holder
	}
	entries, err := Operator{Store: y.store, Keys: y.keys, Now: func() time.Time { return y.now }}.Journal(t.Context(), testGroup, 0)
	if err != nil {
		t.Fatal(err)
	}
	want := "granted" // newest first
	for i, e := range entries {
		if e.What != want {
			t.Fatalf("entry %d, newest first, is %s of %s, want %s", i, e.What, e.Machine, want)
		}
		want = map[string]string{"granted": "updated", "updated": "granted"}[want]
	}
	if len(entries) != 2*turns+1 {
		t.Errorf("%d entries", len(entries))
	}
}

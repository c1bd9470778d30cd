package locktest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/drydock-os/drydock/rebootlock"
)

// next is the next n changes of a watch, in the order in which they came.
func (b *bench) next(watch <-chan []rebootlock.Event, n int) []rebootlock.Event {
	b.Helper()
	var events []rebootlock.Event
	for len(events) < n {
		select {
		case more, open := <-watch:
			if !open {
				b.Fatalf("watch ended after %d of %d changes", len(events), n)
			}
			events = append(events, more...)
		case <-b.ctx.Done():
			b.Fatalf("watch brought %d of %d changes: %v", len(events), n, events)
		}
	}
	if len(events) > n {
		b.Fatalf("watch brought %d changes, want %d: %v", len(events), n, events)
	}
	return events
}

func (b *bench) showEvents(events []rebootlock.Event) string {
	var out []string
	for _, e := range events {
		text := b.show([]rebootlock.KV{e.KV})
		if e.Deleted {
			text = "-" + strings.TrimSuffix(text, "=")
		}
		out = append(out, text)
	}
	return strings.Join(out, " ")
}

func (b *bench) watch() {
	b.commit(b.put("a", "0"))
	start := b.commit(b.put("a", "1"))
	first := b.commit(b.put("a", "2"), b.put("b", "2"))
	ctx, cancel := context.WithCancel(b.ctx)
	defer cancel()
	watch := b.s.Watch(ctx, start, b.all())
	events := b.next(watch, 2)
	if got := b.showEvents(events); got != "a=2 b=2" {
		b.Errorf("what came before the watch: %s", got)
	}
	if a, e := b.one("a"), events[0]; e.Created != a.Created || e.Modified != first || e.Lease != 0 {
		b.Errorf("event %+v, want the record %+v", e.KV, a)
	}
	b.commit(b.drop("a"), b.put("b", "3"))
	last := b.commit(b.put("a", "4"))
	events = b.next(watch, 3)
	if got := b.showEvents(events); got != "-a b=3 a=4" {
		b.Errorf("what came after: %s", got)
	}
	if gone, again := events[0], events[2]; gone.Modified != first+1 || gone.Value != nil || again.Created != last {
		b.Errorf("deleted: %+v in %d; made again: %+v in %d", gone, first+1, again, last)
	}
}

func (b *bench) watchRanges() {
	start := b.read(b.all()).Revision
	watch := b.s.Watch(b.ctx, start, b.key("k"), rebootlock.Range{Key: b.dir + "m/", Prefix: true}, b.key("m/1"), b.key("k"),
		rebootlock.Range{Key: b.dir + "m/", Prefix: true})
	b.commit(b.put("m/1", "1"), b.put("k", "1"), b.put("k2", "1"), b.put("n", "1"))
	b.commit(b.put("m", "1"))
	b.commit(b.put("k", "2"))
	events := b.next(watch, 3)
	slices.SortFunc(events, func(a, b rebootlock.Event) int { return strings.Compare(a.Key+string(a.Value), b.Key+string(b.Value)) })
	if got := b.showEvents(events); got != "k=1 k=2 m/1=1" {
		b.Errorf("got %s, want each change of the ranges once", got)
	}
	b.commit(b.put("k", "3"))
	if got := b.showEvents(b.next(watch, 1)); got != "k=3" {
		b.Errorf("then %s, want k=3", got)
	}
}

// watchWriters compares what a watch brings with what four writers wrote.
func (b *bench) watchWriters() {
	const writers, each = 4, 100
	watch := b.s.Watch(b.ctx, b.read(b.all()).Revision, b.all())
	var wg sync.WaitGroup
	defer wg.Wait()
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if _, err := b.s.Commit(b.ctx, rebootlock.Txn{Then: []rebootlock.Op{b.put(fmt.Sprintf("w%d", w), fmt.Sprint(i))}}); err != nil {
					b.Errorf("Commit = %v", err)
				}
			}
		})
	}
	var last int64
	count := map[string]int{}
	for range writers * each {
		for _, e := range b.upTo(watch, writers*each-count["all"]) {
			if e.Modified <= last {
				b.Fatalf("revision %d after %d", e.Modified, last)
			}
			if string(e.Value) != fmt.Sprint(count[e.Key]) {
				b.Fatalf("%s is %s after %d changes", e.Key, e.Value, count[e.Key])
			}
			last = e.Modified
			count[e.Key]++
			count["all"]++
		}
		if count["all"] == writers*each {
			return
		}
	}
}

// upTo is at least one and at most n changes.
func (b *bench) upTo(watch <-chan []rebootlock.Event, n int) []rebootlock.Event {
	b.Helper()
	select {
	case events, open := <-watch:
		if !open || len(events) > n {
			b.Fatalf("watch brought %d changes (open: %t), want at most %d", len(events), open, n)
		}
		return events
	case <-b.ctx.Done():
		b.Fatalf("watch ended before the last %d changes", n)
	}
	return nil
}

func (b *bench) watchEnds() {
	ctx, cancel := context.WithCancel(b.ctx)
	idle := b.s.Watch(ctx, b.read(b.all()).Revision, b.all())
	full := b.s.Watch(ctx, b.read(b.all()).Revision, b.all())
	for i := range 50 {
		b.commit(b.put("a", fmt.Sprint(i)))
	}
	b.next(idle, 50)
	cancel()
	for name, watch := range map[string]<-chan []rebootlock.Event{"idle": idle, "unread": full} {
		for range 51 {
			select {
			case _, open := <-watch:
				if !open {
					watch = nil
				}
			case <-b.ctx.Done():
				b.Fatalf("%s watch does not end with its context", name)
			}
			if watch == nil {
				break
			}
		}
		if watch != nil {
			b.Errorf("%s watch does not end with its context", name)
		}
	}
}

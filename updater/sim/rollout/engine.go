package rollout

import (
	"container/heap"
	"context"
	"iter"
	"slices"
	"time"
)

// An engine does one thing after the other, in the order of time and, at one
// time, of asking.
type engine struct {
	now   time.Time
	queue queue
	asked int64
}

type event struct {
	at    time.Time
	order int64
	do    func()
}

// at has something done at a time, which is not in the past.
func (e *engine) at(t time.Time, do func()) {
	e.asked++
	heap.Push(&e.queue, event{t, e.asked, do})
}

func (e *engine) after(d time.Duration, do func()) { e.at(e.now.Add(d), do) }

// step does the next thing, and reports whether there was one.
func (e *engine) step() bool {
	if len(e.queue) == 0 {
		return false
	}
	next := heap.Pop(&e.queue).(event)
	e.now = next.at
	next.do()
	return true
}

// queue is a heap of events.
type queue []event

// Len implements heap.Interface.
func (q queue) Len() int { return len(q) }

// Less implements heap.Interface.
func (q queue) Less(i, j int) bool {
	if c := q[i].at.Compare(q[j].at); c != 0 {
		return c < 0
	}
	return q[i].order < q[j].order
}

// Swap implements heap.Interface.
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }

// Push implements heap.Interface.
func (q *queue) Push(x any) { *q = append(*q, x.(event)) }

// Pop implements heap.Interface.
func (q *queue) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	(*q)[last] = event{}
	*q = (*q)[:last]
	return e
}

// A crew is the threads of one machine, and its updater.Clock: code that runs
// until it waits, and goes on when the engine says so.
type crew struct {
	e       *engine
	threads []*thread
	current *thread
	after   func() // is called when a thread waits, or has ended
}

type thread struct {
	resume func() (struct{}, bool)
	yield  func(struct{}) bool
	waits  *wait
	joins  *thread // waits for this one's end
}

type wait struct {
	ctx  context.Context
	wake bool // a wake ends it
}

// start has f run in a thread of its own.
func (c *crew) start(f func()) *thread {
	t := &thread{}
	t.resume, _ = iter.Pull(func(yield func(struct{}) bool) {
		t.yield = yield
		f()
	})
	w := &wait{ctx: context.Background()}
	t.waits = w
	c.threads = append(c.threads, t)
	c.goOn(t, w)
	return t
}

// goOn has a thread run that waits, unless something else ended its wait before.
func (c *crew) goOn(t *thread, w *wait) {
	c.e.at(c.e.now, func() {
		if t.waits == w {
			c.run(t)
		}
	})
}

func (c *crew) run(t *thread) {
	t.waits, c.current = nil, t
	_, more := t.resume()
	c.current = nil
	if !more {
		c.threads = slices.DeleteFunc(c.threads, func(o *thread) bool { return o == t })
		if j := t.joins; j != nil {
			c.goOn(j, j.waits)
		}
	}
	c.poke(false)
	c.after()
}

// poke lets those go on whose context has ended and, with wake, those that a
// wake ends.
func (c *crew) poke(wake bool) {
	for _, t := range c.threads {
		if w := t.waits; w != nil && (w.ctx.Err() != nil || wake && w.wake) {
			c.goOn(t, w)
		}
	}
}

// Pause implements updater.Clock.
func (c *crew) Pause(ctx context.Context, d time.Duration, wake <-chan struct{}) {
	if ctx.Err() != nil {
		return
	}
	select {
	case <-wake:
		return
	default:
	}
	t, w := c.current, &wait{ctx: ctx, wake: wake != nil}
	t.waits = w
	c.e.after(max(d, 0), func() {
		if t.waits == w {
			c.run(t)
		}
	})
	t.yield(struct{}{})
	select {
	case <-wake:
	default:
	}
}

// Within implements updater.Clock.
func (c *crew) Within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	c.e.after(d, func() {
		cancel()
		c.poke(false)
	})
	return ctx, cancel
}

// Beside implements updater.Clock.
func (c *crew) Beside(f func()) (join func()) {
	beside := c.start(f)
	return func() {
		t := c.current
		if !slices.Contains(c.threads, beside) {
			return
		}
		c.poke(false)
		beside.joins, t.waits = t, &wait{ctx: context.Background()}
		t.yield(struct{}{})
	}
}

package updater

import (
	"fmt"
	"strings"
	"testing"

	"github.com/drydock-os/drydock/partition"
)

// broken says which invariant a world breaks, "" if none.
func (w world) broken() string {
	next, ok := w.flags.Next()
	held := w.permit == Held || w.external || w.taken
	switch {
	case !ok:
		return "nothing to boot"
	case w.image[next] == -1:
		return "would boot a torn image"
	case (w.drained || w.half) && !held:
		return "drained without a permit"
	case !w.on && !w.flags[next].Successful && !held:
		return "trial boot without a permit"
	case w.on && next != w.booted && w.flags[w.booted].Successful && !held:
		return "staged without a permit"
	}
	return ""
}

// forbidden says why a world must not take a step, "" if it may.
func (w world) forbidden(s Step) string {
	leaving := s == Reboot && w.flags[w.booted].Priority > 0
	next, _ := w.flags.Next()
	staged := next != w.booted && w.flags[w.booted].Priority > 0
	towards := !w.external && (s == Lock || s == Drain || s == Stage || leaving)
	switch {
	case s == Release && !w.flags[w.booted].Successful:
		return "released before good"
	case s == Release && (w.drained || w.half):
		return "released before the work is back"
	case s == Release && w.missing && w.permit == Held && !w.unseen:
		return "released while work is missing"
	case w.external && (s == Lock || s == Drain || leaving):
		return "external coordinator, and yet " + s.String()
	case towards && !w.lockUp:
		return s.String() + " with the lock away"
	case towards && !w.window:
		return s.String() + " outside the window"
	case towards && w.blocked:
		return s.String() + " past an inhibitor"
	case s == Wait && w.permit == Held && w.lockUp && w.failed == Wait && w.health == Healthy && !w.missing && !(w.window && !w.blocked):
		return "keeps a permit that it cannot use" // flatcar/Flatcar#408, SUSE/rebootmgr#4
	case s == Lock && (w.drained || w.half || staged):
		return "asks for a permit drained or staged: it may wait for hours"
	case s == Wait && w.permit != Held && !w.unseen && !w.external && w.lockUp && w.failed == Wait && w.health == Healthy && (w.drained || w.half || staged):
		return "stays drained or staged without a permit"
	case s == Validate && w.memory.Drain != nil && w.memory.Drain.Boot == "this":
		return "work waits for a verdict on a boot that it was not taken away for"
	case s == Drain && w.memory.Returning:
		return "drains again on a permit whose work was taken back"
	case s == Write && w.image[w.booted] == w.offered():
		return "writes what runs"
	case s == Write && w.memory.Wish != nil && w.memory.Wish.Goal == OldRelease:
		return "overwrites the release that a rollback was asked for"
	}
	return ""
}

// TestDecideEveryWorld enumerates every world that one machine can reach, with
// crashes inside and after every step, power cuts anywhere, the lock away, the
// window shutting, permits taken away and rollbacks asked for.
func TestDecideEveryWorld(t *testing.T) {
	type edge struct {
		from worldKey
		step string
	}
	seen := map[worldKey]edge{}
	worlds := map[worldKey]world{}
	var queue []world
	push := func(n world, from worldKey, step string) {
		k := n.key()
		if _, old := seen[k]; !old {
			seen[k], worlds[k] = edge{from, step}, n
			queue = append(queue, n)
		}
	}
	fail := func(w world, why string) {
		t.Helper()
		k, path := w.key(), []string{fmt.Sprintf("%+v", w.key())}
		for e := seen[k]; e.step != "start"; e = seen[e.from] {
			path = append([]string{e.step}, path...)
		}
		t.Fatalf("%s: %s", why, strings.Join(path, " > "))
	}
	for i := range 8 {
		push(world{outside: outside{on: true, flags: partition.Table{{Priority: 1, Successful: true}, {}}, image: [2]int8{1, 0}, lockUp: true, window: true,
			permit: NoPermit, external: i&1 != 0, badNew: i&2 != 0, tries: uint8(1 + i&4/2)}}, worldKey{}, "start")
	}
	steps := map[Step]int{}
	for len(queue) > 0 {
		w := queue[0]
		queue = queue[1:]
		k := w.key()
		if why := w.broken(); why != "" {
			fail(w, why)
		}
		if !w.on {
			push(w.boot(), k, "boot")
			continue
		}
		n, s := w.decide()
		n.memory.History = nil
		steps[s]++
		if why := w.forbidden(s); why != "" {
			fail(w, why)
		}
		done, torn := n.step(s)
		for _, d := range done {
			push(d, k, s.String())
		}
		for _, d := range torn {
			push(d.restarted(), k, s.String()+"-crash")
			d.on = false
			push(d, k, s.String()+"-cut")
		}
		for name, a := range w.around() {
			push(a, k, name)
		}
		if len(seen) > 2_000_000 {
			t.Fatal("more worlds than anybody can think through")
		}
	}
	for _, w := range worlds {
		if end, ok := w.settle(); !ok {
			fail(w, fmt.Sprintf("does not settle: ends as %+v", end.key()))
		}
	}
	t.Logf("%d worlds, steps %v", len(seen), steps)
	for s := Wait; s <= Release; s++ {
		if steps[s] == 0 {
			t.Errorf("no world takes step %s", s)
		}
	}
}

// settle runs a world with everything allowed and nothing going wrong, and
// reports whether it comes to rest as it should: the permit free, work back,
// the new release running if it is good and was not rejected.
func (w world) settle() (world, bool) {
	for range 100 {
		w = w.later()
		w.window, w.lockUp, w.blocked, w.missing = true, true, false, false
		if !w.on {
			w = w.boot()
			continue
		}
		n, s := w.decide()
		if s != Wait {
			done, _ := n.step(s)
			w = done[len(done)-1]
			continue
		}
		if n.key() != n.later().key() { // a pause to sit out
			w = n
			continue
		}
		if next, _ := n.flags.Next(); n.external && next != n.booted {
			n.on = false // the other coordinator reboots it
			w = n
			continue
		}
		_, rejected := n.memory.rejection(versions[n.offered()], []byte{byte(n.offered())})
		rest := n.permit == NoPermit && !n.drained && !n.half && n.memory.Drain == nil
		return n, rest && (n.image[n.booted] == n.offered()) != rejected && (rejected || !n.badNew)
	}
	return w, false
}

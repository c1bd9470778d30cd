package daemon_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/updater"
)

// A dock is a scheduler's server, with work on a host, as the scheduler's own
// people see it.
type dock struct {
	tables string              // of the policy: [scheduler]
	heard  func() bool         // the daemon has asked the server; nil: that is not known
	work   []string            // what has to leave the host, as the daemon tells of it; the last can be kept
	why    string              // what is told of the last while it is kept
	keep   func() (let func()) // has the last not end, which no preflight can know
	holds  bool                // what is kept has to end before the machine can be given back
	here   func() []string     // what runs on the host that has to leave
	closed func() bool         // the cordon
	down   func()              // the host goes down
	phases []phase             // of its way back
	last   func()              // what ends the last of them
	record func() []moment     // the server's own, of what was done
	story  []string            // what this record and the lock's journal tell together, in order, each once
}

// A phase is a state of a machine that is on its way back, in which the permit
// must be kept.
type phase struct {
	begin  func() // nil: it has begun
	reason string // in the status
	closed bool   // the cordon is still there
}

// A moment is something that somebody wrote down.
type moment struct {
	at   time.Time
	what string
}

// A whole is one machine in a test: drydockd as a process, a device with two
// slots, a real etcd for the lock, and a dock.
type whole struct {
	t *testing.T
	*fleet
	host *host
	dock dock

	mu    sync.Mutex
	noted []moment
}

// bootID is what the hosts of these tests read in their nth boot.
func bootID(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", n) }

// newWhole makes a machine whose policy names the dock that open opens; reboot are
// further lines of [reboot].
func newWhole(t *testing.T, reboot string, open func(*testing.T, *host) dock) *whole {
	t.Helper()
	w := &whole{t: t, fleet: newFleet(t, 1)}
	w.host = w.hosts[0]
	w.dock = open(t, w.host)
	w.host.more += w.dock.tables
	w.host.reboot = reboot
	w.host.amend = func(text string) string { // a node may take its time to come up
		return strings.Replace(text, "timeout = \"2s\"", "timeout = \"10m\"", 1)
	}
	w.host.policy(partition.A)
	w.host.asked = w.asked
	w.down = func(*host) {
		w.note("the machine is down")
		if !w.dock.closed() {
			t.Error("the machine is away, and the scheduler gives it work")
		}
		w.holder()
		w.dock.down()
	}
	return w
}

func (w *whole) note(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.noted = append(w.noted, moment{time.Now(), what})
}

// asked is the moment in which logind is asked for the reboot: drydockd waits for
// the answer.
func (w *whole) asked() {
	w.note("the reboot is asked for")
	if here := w.dock.here(); len(here) > 0 {
		w.t.Errorf("the reboot is asked for, and here are %v", here)
	}
	if !w.dock.closed() {
		w.t.Error("the reboot is asked for, and the scheduler gives the machine work")
	}
}

// holder is the machine's permit, which it must have.
func (w *whole) holder() (p rebootlock.Holder) {
	w.t.Helper()
	for range 5 { // etcd answers late on a busy machine
		v, ok := w.look()
		if !ok {
			continue
		}
		if len(v.Groups) == 1 && len(v.Groups[0].Holders) == 1 && v.Groups[0].Holders[0].Machine == machineID(0) {
			return v.Groups[0].Holders[0]
		}
		break
	}
	w.t.Errorf("the machine has no permit")
	return p
}

// kept returns what is kept, and the rest of the work.
func (d dock) kept() (one string, others []string) {
	return d.work[len(d.work)-1], d.work[:len(d.work)-1]
}

// drains waits until all but what is kept has left.
func (w *whole) drains() {
	w.t.Helper()
	one, others := w.dock.kept()
	w.until("the drain waits for "+one+" alone", func() bool {
		s := w.host.status()
		if s.Drain == nil {
			return false
		}
		left := map[string]string{}
		for _, l := range s.Drain.Left {
			left[l.Name] = l.Why
		}
		return strings.Contains(left[one], w.dock.why) && !slices.ContainsFunc(others, func(name string) bool { _, here := left[name]; return here })
	})
}

// updates takes the machine from one release to the next.
func (w *whole) updates() {
	t, h, d := w.t, w.host, w.dock
	let := d.keep()
	h.publish("1.1.0")
	h.start()
	w.drains()
	one, others := d.kept()
	if here := d.here(); !slices.Contains(here, one) || slices.ContainsFunc(others, func(name string) bool { return slices.Contains(here, name) }) {
		t.Errorf("all but %s has left, and here are %v", one, here)
	}
	if p := w.holder(); p.Phase != rebootlock.PhaseDraining || !d.closed() || h.boots != 1 || len(h.rebooted) > 0 || h.next() != partition.A {
		t.Errorf("in the middle of the drain: permit %+v, cordoned %t, boot %d, reboots asked for %d, slot %s is next", p, d.closed(), h.boots, len(h.rebooted), h.next())
	}
	let()
	w.until("the machine reboots", func() bool { return h.boots == 2 })
	for _, p := range d.phases {
		if p.begin != nil {
			p.begin()
		}
		w.until("the status says: "+p.reason, func() bool {
			s := h.status()
			return s.Release == "1.1.0" && slices.ContainsFunc(s.Reasons, func(r updater.Reason) bool { return strings.Contains(r.Text, p.reason) })
		})
		if closed := d.closed(); closed != p.closed {
			t.Errorf("%s: cordoned is %t", p.reason, closed)
		}
		w.holder() // after the look at the cordon: once it is free it stays so
	}
	d.last()
	var s updater.Status
	w.until("the machine is at rest, and its permit free", func() bool { s = h.status(); return h.boots == 2 && rests("1.1.0")(s) && w.free() })
	if d.closed() {
		t.Error("the permit is free, and the machine cordoned")
	}
	if s.Booted != "B" || s.Drain != nil {
		t.Errorf("at rest: %+v", s)
	}
	w.tells(d.story)
	t.Logf("drydockd: %s", resident(t, h.daemon.Process.Pid))
}

// tells checks that what was written down by all has these things, in this order,
// each once.
func (w *whole) tells(story []string) {
	w.t.Helper()
	all := append(w.dock.record(), w.noted...)
	for _, e := range w.journal(machineID(0)) {
		all = append(all, moment{e.At, "permit: " + e.What})
	}
	slices.SortStableFunc(all, func(a, b moment) int { return a.at.Compare(b.at) })
	var text strings.Builder
	for _, m := range all {
		fmt.Fprintf(&text, "%s %s\n", m.at.UTC().Format("15:04:05.000000"), m.what)
	}
	before := -1
	for _, what := range story {
		is := func(m moment) bool { return m.what == what }
		at := slices.IndexFunc(all, is)
		if at <= before || slices.ContainsFunc(all[at+1:], is) {
			w.t.Fatalf("%q did not come in its turn, and once:\n%swant\n%s", what, &text, strings.Join(story, "\n"))
		}
		before = at
	}
}

// aborts has a drain not end in time, under a policy that gives up then.
func (w *whole) aborts() {
	t, h, d := w.t, w.host, w.dock
	h.more += "[drain]\ntimeout = \"10s\"\non_timeout = \"abort\"\n"
	h.policy(partition.A)
	let := d.keep()
	h.publish("1.1.0")
	h.start()
	one, _ := d.kept()
	said := func(s updater.Status) bool {
		return slices.ContainsFunc(s.Reasons, func(r updater.Reason) bool {
			return strings.Contains(r.Text, one) && strings.Contains(r.Text, d.why) && strings.Contains(r.Text, "not drained within 10s")
		})
	}
	if d.holds {
		w.until("the drain is given up", func() bool { return said(h.status()) })
		w.holder()
		let()
	}
	var s updater.Status
	w.until("the machine is given back", func() bool { s = h.status(); return s.Permit == "none" && s.Drain == nil && said(s) && w.free() })
	if d.closed() {
		t.Error("the drain was given up, and the machine is cordoned")
	}
	if h.boots != 1 || len(h.rebooted) > 0 || h.next() != partition.A || !s.Written {
		t.Errorf("the drain was given up: boot %d, reboots asked for %d, slot %s is next, %+v", h.boots, len(h.rebooted), h.next(), s)
	}
	entries := w.journal(machineID(0))
	i := slices.IndexFunc(entries, func(e rebootlock.Entry) bool { return e.What == "aborted" })
	if !told(entries, "granted", "aborted") || !strings.Contains(entries[i].Why, one) {
		t.Errorf("journal %+v: want it to say that %s did not leave", entries, one)
	}
	if !d.holds {
		let()
	}
}

// resident is how much memory a process has, and had at most.
func resident(t *testing.T, pid int) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "VmRSS:") || strings.HasPrefix(line, "VmHWM:") {
			lines = append(lines, strings.Join(strings.Fields(line), " "))
		}
	}
	return strings.Join(lines, ", ")
}

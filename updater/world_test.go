package updater

import (
	"time"

	"github.com/drydock-os/drydock/omaha"
	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/rebootlock/window"
	"github.com/drydock-os/drydock/updater/policy"
)

// world is one machine and everything outside it, small enough to enumerate.
// It is driven by the pure half of the real updater: reconcile, derive, Decide
// and the memory's own transitions.
type world struct {
	outside
	memory Memory
}

// outside is all of a world that is not remembered.
type outside struct {
	external bool
	badNew   bool // release 2 does not work
	tries    uint8

	on      bool
	booted  partition.Slot
	flags   partition.Table
	image   [2]int8 // release in each slot; -1 is half written
	health  Health
	permit  Permit // what the lock holds
	lockUp  bool
	half    bool // a drain was begun and has not ended, and its work is not back
	drained bool
	missing bool // work was resumed, and does not run yet
	window  bool
	blocked bool // somebody inhibits a reboot, or is logged in
	unseen  bool // the permit was taken away, and the machine still believes in it
	checked bool
	failed  Step // a step that went wrong and waits; Wait for none
	taken   bool // an operator took the permit away once
	wished  bool // an operator asked for a reboot once
	newer   bool // release 3 is out
}

var (
	worldNow = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	versions = map[int8]string{-1: "torn", 0: "", 1: "1.0.0", 2: "2.0.0", 3: "3.0.0"}
)

// worldKey is a world without what is only told, as a value that can be compared.
type worldKey struct {
	outside outside
	written struct {
		slot    partition.Slot
		version string
	}
	trial struct {
		slot                         partition.Slot
		version, from, boot, verdict string
		armed, later                 bool
		returns                      int
	}
	wish struct {
		goal       Goal
		slot       partition.Slot
		boot, from string
	}
	rejected string
	good     bool
	ending   Ending
	early    bool // the last permit was given back unused
	drain    string
	back     bool // work was taken back, and the permit was not yet
}

func (w world) key() (k worldKey) {
	m := w.memory
	if x := m.Written; x != nil {
		k.written.slot, k.written.version = x.Slot, x.Version
	}
	if t := m.Trial; t != nil {
		k.trial.slot, k.trial.version, k.trial.from, k.trial.boot, k.trial.verdict = t.Slot, t.Version, t.From, t.Boot, t.Verdict
		k.trial.armed, k.trial.later, k.trial.returns = t.Armed, !t.RetryAt.IsZero(), t.Returns
	}
	if x := m.Wish; x != nil {
		k.wish.goal, k.wish.slot, k.wish.boot, k.wish.from = x.Goal, x.Slot, x.Boot, x.From
	}
	for _, r := range m.Rejected {
		k.rejected += r.Version + " "
	}
	k.good, k.ending, k.early = !m.GoodAt.IsZero(), m.Ending, !m.AskAgain.IsZero()
	if m.Drain != nil {
		k.drain = m.Drain.Boot
	}
	k.back = m.Returning
	k.outside = w.outside
	return k
}

var shut = func() window.Window { // at worldNow
	w, err := window.Parse("12:00", "1h")
	if err != nil {
		panic(err)
	}
	return w
}()

func (w world) policy() policy.Policy {
	p := policy.Default()
	p.Reboot.Strategy = policy.Coordinated
	if w.external {
		p.Reboot.Strategy = policy.External
	}
	if !w.window {
		p.Reboot.Windows = []window.Window{shut}
	}
	p.Trial.Retries, p.Trial.FirmwareTries = 1, int(w.tries)
	return p
}

func (w world) observed() Observed {
	o := Observed{Now: worldNow, BootID: "this", Known: true, Booted: w.booted, Flags: w.flags, Release: versions[w.image[w.booted]],
		Health: w.health, Permit: w.permit, Drained: w.drained, Begun: w.half || w.memory.Drain != nil, Stale: !w.checked}
	if w.unseen {
		o.Permit = Held
	}
	if w.missing && o.Permit == Held && !w.half {
		o.Returns = []Reason{{Kind: "return"}}
	}
	if w.blocked {
		o.Blockers = []Reason{{Kind: "inhibitor"}}
	}
	if w.checked {
		o.Offer = &omaha.Offer{Update: true, Version: versions[w.offered()], SHA256: []byte{byte(w.offered())}}
	}
	if !w.lockUp {
		o.Permit = PermitUnknown
		o.Stopped = []Reason{{Kind: "lock"}}
	}
	if w.failed != Wait {
		o.Failed = []Failure{{Step: w.failed, Until: worldNow.Add(time.Minute)}}
	}
	return o
}

// offered is the newest release that is out.
func (w world) offered() int8 {
	if w.newer {
		return 3
	}
	return 2
}

// decide is what the real loop does up to the step.
func (w world) decide() (world, Step) {
	p := w.policy()
	w.memory = w.memory.reconcile(w.observed(), patience{p.Trial.Retries, p.Trial.RetryBackoff, p.Reboot.RetryPause})
	step := Decide(derive(w.observed(), w.memory, p).Facts)
	if step == w.failed {
		step = Wait
	}
	return w, step
}

// step returns every world that a step may leave behind when it ends, the one
// that it aims at last, and those that a crash of the daemon in its middle
// leaves.
func (w world) step(s Step) (done, torn []world) {
	n, o := w, w.observed()
	passive := w.booted.Other()
	crash := func() { torn = append(torn, n) }
	fail := func() { f := n; f.failed = s; done = append(done, f) }
	if w.fenced(s) && w.unseen {
		n.unseen, n.failed = false, s
		return []world{n}, nil
	}
	switch s {
	case Check:
		n.checked = true
	case Write:
		n.memory.Written = nil
		crash()
		n.flags = n.flags.Discard(passive)
		crash()
		n.image[passive] = -1
		crash()
		fail() // the download ends badly
		n.image[passive] = w.offered()
		crash()
		n.memory.Written = &Written{Slot: passive, Version: versions[w.offered()], SHA256: []byte{byte(w.offered())}}
	case Lock:
		if n.permit == NoPermit {
			n.permit = Queued
			done = append(done, n)
		}
		fail()
		n.permit, n.memory.Ending, n.memory.Returning = Held, "", false
	case Drain:
		if n.memory.Drain == nil || n.memory.Drain.Boot != "this" {
			n.memory.Drain = &Begun{Since: worldNow, Boot: "this"}
		}
		n.memory.Returning = false
		crash()
		n.half = true
		crash()
		fail()
		n.drained = true
	case Stage:
		if n.memory.Wish != nil && n.memory.Wish.Goal == OldRelease {
			n.flags = n.flags.Select(passive)
			break
		}
		fail() // the hook
		n.memory = n.memory.arm(o)
		crash()
		n.flags = n.flags.Stage(passive, w.tries)
	case Unstage:
		n.flags = n.flags.Unstage(passive)
		if w.flags[passive].Successful {
			n.flags = w.flags.Select(w.booted)
		}
		crash()
		n.memory = n.memory.disarm()
	case Reboot:
		if w.flags[w.booted].Priority > 0 {
			fail() // refused
		}
		n.on = false
	case Validate:
		n.health = Healthy
		if w.badNew && w.image[w.booted] == 2 {
			n.health = Sick
		}
	case MarkGood:
		n.flags = n.flags.Good(w.booted)
		crash()
		n.memory = n.memory.good(o)
	case Reject:
		n.memory = n.memory.judge(o, "sick")
		crash()
		n.flags = n.flags.Discard(w.booted)
	case Resume:
		fail()
		n.drained, n.half = false, false
		if o.Permit == Held && w.rare() {
			m := n
			m.missing, m.memory.Drain, m.memory.Returning = true, nil, true
			done = append(done, m)
		}
		crash()
		n.memory.Drain, n.memory.Returning = nil, o.Permit != NoPermit
		if o.Permit == NoPermit {
			n.memory = n.memory.lost(o, time.Minute)
		}
	case Release:
		n.permit, n.unseen, n.missing = NoPermit, false, false
		crash()
		n.memory = n.memory.released(o, time.Minute, "")
	}
	n.memory.History = nil
	return append(done, n), append(torn, n)
}

// rare reports whether a world has room for one more of the rare things: two
// stories at once are more than are needed.
func (w world) rare() bool {
	return !w.newer && !w.wished && !w.taken && !w.external && !w.blocked && w.tries == 1
}

// fenced says whether a step begins with the lock's fence.
func (w world) fenced(s Step) bool {
	return !w.external && (s == Drain || s == Stage || s == Reboot && w.flags[w.booted].Priority > 0)
}

// restarted is a world whose daemon died.
func (w world) restarted() world {
	w.health, w.checked, w.failed = HealthUnknown, false, Wait
	return w
}

// boot is the firmware's step.
func (w world) boot() world {
	var ok bool
	w.booted, w.flags, ok = w.flags.Boot()
	if !ok {
		panic("nothing to boot")
	}
	w = w.restarted()
	w.on = true
	if t := w.memory.Trial; t != nil {
		c := *t
		if c.Boot == "this" {
			c.Boot = "other"
		}
		w.memory.Trial = &c
	}
	if d := w.memory.Drain; d != nil {
		w.memory.Drain = &Begun{Since: d.Since, Boot: "other"}
	}
	if wish := w.memory.Wish; wish != nil {
		c := *wish
		c.Boot = "other"
		w.memory.Wish = &c
	}
	return w
}

// later is the same world when pauses have passed.
func (w world) later() world {
	w.failed = Wait
	w.unseen = false // the next look
	w.memory.GoodAt, w.memory.AskAgain = time.Time{}, time.Time{}
	if t := w.memory.Trial; t != nil {
		c := *t
		c.RetryAt = time.Time{}
		w.memory.Trial = &c
	}
	return w
}

// around returns what may happen to a world that runs, whatever it does.
func (w world) around() map[string]world {
	out := map[string]world{"later": w.later()}
	n := w
	n.window = !n.window
	out["window"] = n
	if !w.newer { // two stories at once are more than are needed
		n = w
		n.lockUp = !n.lockUp
		out["lock-away"] = n
	}
	if !w.newer && !w.wished && !w.taken && !w.external && w.tries == 1 { // nor are the rarer ones together
		n = w
		n.blocked = !n.blocked
		out["inhibitor"] = n
	}
	if w.missing {
		n = w
		n.missing = false
		out["work-back"] = n
	}
	n = w
	n.on = false
	out["power-cut"] = n
	if w.permit == Held && !w.taken && !w.newer && !w.blocked {
		n = w
		n.permit, n.taken, n.missing = NoPermit, true, false
		out["taken-away"] = n
		if n.unseen = true; !w.wished {
			out["taken-away-unseen"] = n
		}
	}
	if w.memory.Wish == nil && !w.wished && !w.badNew && !w.external && w.tries == 1 { // enough to meet every step
		n = w
		n.wished = true
		n.memory.Wish = &Wish{Goal: SameSlot, Slot: w.booted, Boot: "this", At: worldNow}
		out["reboot"] = n
	}
	if !w.newer && !w.badNew && !w.external && w.tries == 1 && !w.wished && !w.taken && w.lockUp {
		n = w
		n.newer, n.checked = true, false
		out["newer"] = n
	}
	running := versions[w.image[w.booted]]
	if passive := w.flags[w.booted.Other()]; w.memory.Wish == nil && passive.Successful && w.image[w.booted] > w.image[w.booted.Other()] && w.flags[w.booted].Successful {
		n = w
		n.memory = n.memory.reject(running, nil, "operator", worldNow)
		n.memory.Wish = &Wish{Goal: OldRelease, Slot: w.booted, Boot: "this", From: running, At: worldNow}
		n.memory.History = nil
		out["rollback"] = n
	}
	return out
}

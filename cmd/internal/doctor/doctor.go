// Package doctor looks at how a host is set up, and says what is wrong with it,
// what that means for the machine, and how to mend it.
//
// A check is a value: an id and a look at the host. What several of them need
// (slots, units, etcd) is gathered once, and judged apart from that, without
// asking anything. Nothing is changed: disks and boot directories are opened for
// reading, etcd is asked for what it would refuse, the update server hears no
// update check, a scheduler is asked what a drain would meet. No daemon is needed;
// one that runs is asked as well, and its program is run to ask the scheduler.
package doctor

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/drydock-os/drydock/updater/policy"
)

// A Verdict is what one check came to.
type Verdict string

// The verdicts.
const (
	OK      Verdict = "ok"
	Warning Verdict = "warning" // works, and may not when it matters
	Wrong   Verdict = "wrong"
	Unknown Verdict = "unknown" // could not be found out: never as good as ok
)

// A Finding is one check's result. Its JSON is what drydock doctor --json prints,
// and stays as it is: fields and ids are added, none changes its meaning.
type Finding struct {
	ID      string  `json:"id"` // "slots.table"; the part before the dot is its group
	Verdict Verdict `json:"verdict"`
	Seen    string  `json:"seen"`              // what is there
	Means   string  `json:"means,omitempty"`   // for this machine, unless all is ok
	Mend    string  `json:"mend,omitempty"`    // how
	Because string  `json:"because,omitempty"` // id of the check that keeps this one unknown
	Minor   bool    `json:"minor,omitempty"`   // that it is unknown fails nothing
}

// Fails reports whether the host is not healthy for this alone.
func (f Finding) Fails() bool { return f.Verdict == Wrong || f.Verdict == Unknown && !f.Minor }

// A Report is all that was found, in a fixed order.
type Report struct {
	Version int             `json:"version"` // of this form: 1
	At      time.Time       `json:"at"`
	Config  string          `json:"config"`         // path of the policy file
	Root    string          `json:"root,omitempty"` // what stood for "/"
	Image   bool            `json:"image"`          // Root is a tree that does not run: only its files were looked at
	Healthy bool            `json:"healthy"`        // nothing is wrong, nor unknown where it matters
	Counts  map[Verdict]int `json:"counts"`
	Checks  []Finding       `json:"checks"`
}

// Doctor examines one host.
type Doctor struct {
	Config string // path of the policy file
	Root   string // stands for "/", also before the paths that the policy names (but not its devices); "" for the system itself
	// Bus is the D-Bus address to ask; "": the system bus, or with a Root none.
	Bus      string
	Now      func() time.Time
	Built    time.Time     // when this program was made; zero: not known
	Patience time.Duration // with one check; 0: 10 s
}

const (
	defaultPatience = 10 * time.Second
	// maxAtOnce bounds the checks that run at the same time. Some wait for
	// others' facts, so it is more than a few.
	maxAtOnce = 16
)

// A check is one thing that is looked at.
type check struct {
	id      string
	bare    bool                     // needs no policy
	image   bool                     // can be told of a tree that does not run
	applies func(policy.Policy) bool // nil: to every host
	look    func(context.Context, *patient) Finding
}

// all are the checks, in the order in which they are read.
func all() []check {
	var list []check
	for _, group := range [][]check{policyChecks, machineChecks, slotChecks, bootChecks, trialChecks, clusterChecks, schedulerChecks, gateChecks, busChecks, daemonChecks, healthChecks, spaceChecks, clockChecks, serverChecks} {
		list = append(list, group...)
	}
	return list
}

// Examine runs every check that applies, each within Patience, and returns when
// all have been answered or given up.
func (d Doctor) Examine(ctx context.Context) Report {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p := d.meet(ctx)
	first := d.one(ctx, check{id: "policy.file", look: lookPolicyFile}, p)
	known := first.Verdict != Wrong && first.Verdict != Unknown
	var list []check
	for _, c := range all() {
		switch {
		case p.image && !c.image:
		case known && c.applies != nil && !c.applies(p.policy):
		default:
			list = append(list, c)
		}
	}
	findings := make([]Finding, len(list))
	var running sync.WaitGroup
	slots := make(chan struct{}, maxAtOnce)
	for i, c := range list {
		if !c.bare && !known {
			findings[i] = Finding{ID: c.id, Verdict: Unknown, Seen: "not looked at", Because: first.ID}
			continue
		}
		running.Go(func() {
			slots <- struct{}{}
			findings[i] = d.one(ctx, c, p)
			<-slots
		})
	}
	running.Wait()
	return d.report(p, append([]Finding{first}, findings...))
}

func (d Doctor) report(p *patient, findings []Finding) Report {
	r := Report{Version: 1, At: d.Now(), Config: d.Config, Root: d.Root, Image: p.image, Healthy: true, Counts: map[Verdict]int{OK: 0, Warning: 0, Wrong: 0, Unknown: 0}, Checks: findings}
	for _, f := range findings {
		r.Counts[f.Verdict]++
		r.Healthy = r.Healthy && !f.Fails()
	}
	return r
}

// one runs a check in its time. A look that hangs in the kernel, at a disk or a
// mount that is dead, cannot be ended: it is left behind, and what it may yet
// say is dropped.
func (d Doctor) one(ctx context.Context, c check, p *patient) Finding {
	patience := d.Patience
	if patience == 0 {
		patience = defaultPatience
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answer := make(chan Finding, 1)
	var left sync.WaitGroup
	left.Go(func() { answer <- c.look(ctx, p) })
	var f Finding
	select {
	case f = <-answer:
	case <-ctx.Done():
		f = Finding{Verdict: Unknown, Seen: fmt.Sprintf("did not answer in %v", patience),
			Means: "what it is about is stuck, or very slow", Mend: "look at dmesg and at the journal for what hangs, and run drydock doctor again"}
		if context.Cause(ctx) == context.Canceled {
			f = Finding{Verdict: Unknown, Seen: "interrupted"}
		}
	}
	f.ID = c.id
	return f
}

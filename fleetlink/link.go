// Package fleetlink asks the cluster's scheduler to take the work off this
// machine and to bring it back. Each kind of scheduler has a package below this
// one; all of them keep the contract of Link, which linktest tests.
package fleetlink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// A Link is one machine's side of the cluster's scheduler.
//
// Each call says what is to be, not what is to change: it may run twice, and
// goes on where another one was cut off, of this process or of one before it.
// That this machine is out of service on our word is therefore kept with the
// scheduler, or in a Record, and is still known after a reboot. Every call ends
// soon after its context does. What could not be asked is an error, never an
// answer.
type Link interface {
	// Preflight lists the workloads that could not leave this machine now, and why,
	// what an operator set so that this machine is left alone for now, which Forbids,
	// and what that belongs on this machine is not well already, for which Ailments
	// would keep it from coming back. It changes nothing. None is no promise: others
	// may come between.
	Preflight(ctx context.Context) ([]Workload, error)
	// Standing reads how far this machine is out of service. It changes nothing.
	Standing(ctx context.Context) (Standing, error)
	// Cordon has the scheduler give this machine no new work, and leaves word who
	// did that and why. Where somebody else has done so already, theirs stays.
	Cordon(ctx context.Context, why string) error
	// Drain has the work leave a machine that is cordoned, as gently as the
	// scheduler knows, and returns nil when none is left of what has to leave. Where
	// ctx ends before that, the error is an Unfinished. It does not give up by
	// itself, how long is policy, but for what Forbids: that ends it at once, with an
	// Unfinished that wraps ErrForbidden.
	Drain(ctx context.Context, o Order) error
	// Resume undoes what Cordon and Drain did, and only that. A machine that
	// somebody else cordoned stays cordoned.
	Resume(ctx context.Context) error
	// Ailments lists what is not well of what belongs on this machine, as far as it
	// can be in its present standing: a node that is not ready, before it is resumed;
	// work that was stopped here and does not run yet, after. It changes nothing.
	Ailments(ctx context.Context) ([]Workload, error)
}

// A Workload is something that a scheduler runs, and what about it is to be told.
type Workload struct {
	Name string `json:"name"`          // as the scheduler's own tools show it: "shop/web-7f9", "db.service"
	Why  string `json:"why,omitempty"` // what it waits for, or what is wrong with it; "" if that is not known
	// Forbids: an operator set that this is not moved now. No time and no force mends
	// it, but that operator.
	Forbids bool `json:"forbids,omitempty"`
}

// Forbidding are those of workloads that Forbid.
func Forbidding(ws []Workload) (barred []Workload) {
	for _, w := range ws {
		if w.Forbids {
			barred = append(barred, w)
		}
	}
	return barred
}

// ErrForbidden is why a drain ended that meets what Forbids.
var ErrForbidden = errors.New("nothing is moved, by force or without, until whoever set that takes it back")

// ErrNotAsked wraps the error of a link that could not be made of what the policy
// says, or may not be used now: nothing was asked, and so it says nothing of the
// scheduler, of the network, or of the release that runs.
var ErrNotAsked = errors.New("the scheduler was not asked")

// String is the workload as a person reads it: "shop/web-7f9: …".
func (w Workload) String() string {
	if w.Why == "" {
		return w.Name
	}
	return w.Name + ": " + w.Why
}

// Standing is how far a machine is out of service.
type Standing struct {
	Ours bool       // Cordon was called, and Resume was not
	Open bool       // the scheduler may give it work all the same: somebody took the cordon off
	Left []Workload // what still has to leave; not asked for where it is not Ours
}

// Drained reports whether a machine is out of service on our word, and nothing is
// left that has to leave.
func (s Standing) Drained() bool { return s.Ours && !s.Open && len(s.Left) == 0 }

// An Order says how a drain is to be.
type Order struct {
	Why      string           // for people who look at the scheduler: "drydock: update to 1.1.0"
	Deadline time.Time        // when the policy gives up, for schedulers that want to know; zero: never
	Force    bool             // that was before: end what does not leave, budgets or not, still giving it its time to end
	Progress func([]Workload) // called with what is left, at first and when that changes, from one goroutine at a time; nil: nobody listens
}

// Tell calls Progress, if anybody listens.
func (o Order) Tell(left []Workload) {
	if o.Progress != nil {
		o.Progress(left)
	}
}

// Unfinished is a drain that ended before the work had left.
type Unfinished struct {
	Left []Workload
	Err  error // why it ended
}

// Error names what is left, the first few of many.
func (u Unfinished) Error() string {
	return fmt.Sprintf("%s: %v", List(u.Left), u.Err)
}

// Unwrap is why it ended.
func (u Unfinished) Unwrap() error { return u.Err }

// named is how many workloads a sentence names.
const named = 5

// Names names the first few of many workloads: "db (why), web and 2 more".
func Names(left []Workload) string {
	var names []string
	for _, w := range left[:min(len(left), named)] {
		name := w.Name
		if w.Why != "" {
			name += " (" + w.Why + ")"
		}
		names = append(names, name)
	}
	text := strings.Join(names, ", ")
	if more := len(left) - named; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// List is a sentence on workloads: "2 workloads are still here: db (why), web".
func List(left []Workload) string {
	switch len(left) {
	case 0:
		return "it is not known what is still here"
	case 1:
		return "1 workload is still here: " + Names(left)
	}
	return fmt.Sprintf("%d workloads are still here: %s", len(left), Names(left))
}

// A Machine is the one that a link belongs to.
type Machine struct {
	ID       string // machine-id, 32 hexadecimal digits
	Hostname string
	BootID   func() (string, error) // of the running system
}

// A Record keeps a few bytes over crashes and reboots: durably, the old ones or
// the new ones, never a mix. It is for links whose scheduler has no place for
// them.
type Record interface {
	// Load returns what was saved last; nil if nothing was.
	Load() ([]byte, error)
	// Save returns when the bytes are on the disk. None: forget.
	Save(data []byte) error
}

// Recall reads the document that Remember saved into v; where there is none, v stays
// as it is.
func Recall(r Record, v any) error {
	data, err := r.Load()
	if err != nil || len(data) == 0 {
		return err
	}
	return json.Unmarshal(data, v)
}

// Remember saves v as a JSON document.
func Remember(r Record, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return r.Save(data)
}

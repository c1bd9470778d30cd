package updater

import (
	"context"
	"errors"
)

// An Action is something that an operator or a program asks for.
type Action string

// The actions. Each is idempotent: asking for what is so already is success.
const (
	ActCheck    Action = "check"    // ask the server now
	ActUpdate   Action = "update"   // check, and write what is offered now, whatever the download windows say; the reboot stays the policy's affair
	ActPause    Action = "pause"    // start nothing new until unpause; Reason says why
	ActUnpause  Action = "unpause"  //
	ActRollback Action = "rollback" // go back to the release in the passive slot, if it is good; the one left is rejected
	ActReboot   Action = "reboot"   // a reboot into the same slot, through permit and drain; Reason says why
	ActCancel   Action = "cancel"   // drop an accepted rollback or reboot that has not happened yet
	ActRetry    Action = "retry"    // forget that Version (or every version, if empty) was rejected
	ActMarkGood Action = "mark-good"
	ActMarkBad  Action = "mark-bad" // reject the booted release while it is on trial, or the one written
	ActReset    Action = "reset"    // update1's ResetStatus: forget a staged release, and take its flags back
)

// A Request is an Action with what it needs.
type Request struct {
	Action         Action
	Version        string // for ActRetry
	Reason         string // for ActPause, ActReboot, ActMarkBad
	AllowDowngrade bool   // for ActUpdate: take an older release this once; a stronger right is asked of the caller
	OnDemand       bool   // a person waits: said to the server as installsource
}

// An Outcome is how a request ended when it did not fail.
type Outcome string

// The outcomes.
const (
	Done        Outcome = "done"
	Updated     Outcome = "updated"       // the passive slot holds a newer release, or it is staged
	NothingToDo Outcome = "nothing-to-do" // the server offers nothing that is wanted here
	Accepted    Outcome = "accepted"      // will be done when policy, lock and scheduler allow
)

// ErrBusy says that another request of the same kind is being done.
var ErrBusy = errors.New("the same is being done already")

// ErrRefused says that a request cannot be done on this machine as it is now.
var ErrRefused = errors.New("refused")

// A Plan is what an update would do, without doing it.
type Plan struct {
	Running     string   `json:"running"`
	Offered     string   `json:"offered"` // "" when the server offers nothing
	Wanted      bool     `json:"wanted"`
	Why         string   `json:"why,omitempty"` // why it is not wanted
	URLs        []string `json:"urls,omitempty"`
	Download    int64    `json:"download_bytes"` // what is still to be fetched
	WrittenSlot string   `json:"written_slot"`   // the slot that would be written
	Steps       []string `json:"steps,omitempty"`
	Reasons     []Reason `json:"reasons,omitempty"` // what would hold it up, and until when
}

// A Controller is what the edges (D-Bus) ask of the updater.
type Controller interface {
	Status() Status
	// Do carries out a request. It returns when the request is fulfilled,
	// refused, or, for what waits for policy, accepted. Cancelling ctx stops a
	// check or a download that it started.
	Do(ctx context.Context, r Request) (Outcome, error)
	// Plan asks the server and says what an update would do now.
	Plan(ctx context.Context) (Plan, error)
	// History returns what happened to this machine's releases, newest first.
	History() []HistoryEntry
}

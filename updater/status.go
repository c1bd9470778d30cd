package updater

import (
	"slices"
	"time"

	"github.com/drydock-os/drydock/partition"
)

// An Operation is what clients of com.coreos.update1 are told, in upstream's
// order: code of theirs compares with >=.
type Operation uint8

// The operations. Verifying is listed by upstream and never said by it.
const (
	Idle Operation = iota
	CheckingForUpdate
	UpdateAvailable
	Downloading
	Verifying
	Finalizing
	NeedReboot // only when the boot flags select the new release
	ReportingError
)

var operationNames = [...]string{"idle", "checking-for-update", "update-available", "downloading", "verifying", "finalizing", "need-reboot", "reporting-error"}

// String is the operation as a word.
func (o Operation) String() string { return operationNames[o] }

// MarshalText gives the operation as the word that String gives.
func (o Operation) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText reads a word that String gives; one that is not known here is
// Idle.
func (o *Operation) UnmarshalText(word []byte) error {
	*o = Operation(max(slices.Index(operationNames[:], string(word)), 0))
	return nil
}

// Status is what everybody may know about this machine's updates. It is a
// value: a copy that does not change.
type Status struct {
	Step      Step      `json:"-"`
	StepName  string    `json:"step"`      // the step that is being done, or "wait"
	Operation Operation `json:"operation"` // for com.coreos.update1
	Reasons   []Reason  `json:"reasons"`   // why nothing (more) is done right now, most important first

	Booted   string        `json:"booted"`  // "A", "B" or "" while unknown
	Release  string        `json:"release"` // version of the running release
	Slots    [2]SlotStatus `json:"slots"`
	OnTrial  bool          `json:"on_trial"` // the booted slot is not marked good yet
	Strategy string        `json:"strategy"`

	NewVersion string  `json:"new_version"`       // offered, being written, written or staged; "" if none
	NewSize    int64   `json:"new_size"`          // payload bytes
	Written    bool    `json:"written"`           // the passive slot holds NewVersion, verified
	Staged     bool    `json:"staged"`            // the next boot takes the other slot
	Progress   float64 `json:"progress"`          // of the present step, 0 to 1
	Done       int64   `json:"done_bytes"`        // of the present download
	Total      int64   `json:"total_bytes"`       // of the present download
	Permit     string  `json:"permit"`            // "none", "queued", "held" or "unknown"
	Drained    bool    `json:"drained"`           // this machine is out of service, and its workloads have left
	Paused     string  `json:"paused,omitempty"`  // an operator's reason; "" when not paused
	Pending    string  `json:"pending,omitempty"` // an operator's accepted wish: "rollback" or "reboot"

	LastChecked time.Time   `json:"last_checked"` // of the last check that the server answered; zero if none
	NextCheck   time.Time   `json:"next_check"`
	LastError   string      `json:"last_error,omitempty"`
	LastErrorAt time.Time   `json:"last_error_at,omitzero"`
	Rejected    []Rejection `json:"rejected,omitempty"`

	Drain *Draining `json:"drain,omitempty"` // the drain that was begun; nil if there is none

	// Shadow is what a Shadow saw; nil where an Updater keeps the machine.
	Shadow *Shadowing `json:"shadow,omitempty"`
}

// SlotStatus is one slot as status shows it.
type SlotStatus struct {
	Slot       string `json:"slot"`
	Release    string `json:"release,omitempty"` // "" where it is not known
	Priority   uint8  `json:"priority"`
	Tries      uint8  `json:"tries"`
	Successful bool   `json:"successful"`
}

// A Reason is one thing that stands in the way, in words for a person and in
// a word for a program.
type Reason struct {
	Kind  string    `json:"kind"`           // "window", "inhibitor", "paused", "pin", "rejected", …
	Text  string    `json:"text"`           // a sentence: what, and what to do about it
	Until time.Time `json:"until,omitzero"` // when it ends by itself, if that is known
}

// A Rejection is a release that this machine does not take again until an
// operator says retry.
type Rejection struct {
	Version string    `json:"version"`
	SHA256  string    `json:"sha256,omitempty"` // of the payload, hex
	Reason  string    `json:"reason"`
	At      time.Time `json:"at"`
}

// EventType names what happened, in a word that logs, metrics and D-Bus share.
type EventType string

// The events. Progress is only sent when it moved by a hundredth or after ten
// seconds.
const (
	EventStarted    EventType = "started"
	EventStep       EventType = "step" // another step began
	EventChecked    EventType = "checked"
	EventOffered    EventType = "offered"
	EventProgress   EventType = "progress"
	EventWritten    EventType = "written"
	EventStaged     EventType = "staged"
	EventUnstaged   EventType = "unstaged"
	EventRebooting  EventType = "rebooting"
	EventGood       EventType = "good"
	EventRejected   EventType = "rejected"
	EventReturned   EventType = "returned" // the old slot is booted, and nobody knows why
	EventRolledBack EventType = "rolled-back"
	EventError      EventType = "error"
	EventWaiting    EventType = "waiting" // the reasons changed
	EventPolicy     EventType = "policy"  // another policy is in force
	EventOperator   EventType = "operator"
	EventAgreed     EventType = "agreed"   // in shadow mode: update_engine did what an Updater would have done
	EventDiffered   EventType = "differed" // in shadow mode: it did something else
	EventHook       EventType = "hook"     // a line that the release's own hook printed
)

// An Event is one thing that happened, with the status right after it. Log,
// D-Bus, metrics and reports are views of this one stream.
type Event struct {
	At      time.Time
	Type    EventType
	Version string // of the release it is about, if any
	Message string // a sentence
	Err     error  // for EventError
	Status  Status
}

// An Observer is told every event, in order, on the updater's own goroutine:
// it must return at once, and must not call back.
type Observer interface{ Observe(Event) }

// ObserverFunc is a function as an Observer.
type ObserverFunc func(Event)

// Observe calls f.
func (f ObserverFunc) Observe(e Event) { f(e) }

func slotName(s partition.Slot, known bool) string {
	if !known {
		return ""
	}
	return s.String()
}

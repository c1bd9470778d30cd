package bus

import (
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/updater"
	"github.com/godbus/dbus/v5"
)

// The options of the method Update.
const (
	optionDowngrade = "allow-downgrade" // b
	optionOnDemand  = "on-demand"       // b
)

// wireReason is an updater.Reason as (ssx): kind, text, until in Unix seconds
// or 0.
type wireReason struct {
	Kind, Text string
	Until      int64
}

// wireSlot is an updater.SlotStatus as (ssyyb): slot, release, priority,
// tries, successful.
type wireSlot struct {
	Slot, Release   string
	Priority, Tries uint8
	Successful      bool
}

// wireRejection is an updater.Rejection as (sssx): version, SHA-256 in hex,
// reason, Unix seconds.
type wireRejection struct {
	Version, SHA256, Reason string
	At                      int64
}

// wireDrain is an updater.Draining as (xxua(ssb)): since and deadline in Unix
// seconds, how many workloads had to leave, and of each that is left its name and
// what it waits for, and whether an operator forbids that it moves. All is zero where
// no drain was begun.
type wireDrain struct {
	Since, Deadline int64
	Total           uint32
	Left            []fleetlink.Workload
}

func wireDrainOf(d *updater.Draining) wireDrain {
	if d == nil {
		return wireDrain{}
	}
	return wireDrain{unix(d.Since), unix(d.Deadline), uint32(d.Total), d.Left}
}

// properties are the manager's: each is read off the status, none is stored.
// manager.xml says the same to clients.
var properties = []struct {
	name string
	of   func(updater.Status) any
}{
	{"Step", func(s updater.Status) any { return s.StepName }},
	{"Operation", func(s updater.Status) any { return s.Operation.String() }},
	{"Reasons", func(s updater.Status) any { return wireReasons(s.Reasons) }},
	{"Booted", func(s updater.Status) any { return s.Booted }},
	{"Release", func(s updater.Status) any { return s.Release }},
	{"Slots", func(s updater.Status) any { return wireSlots(s.Slots) }},
	{"OnTrial", func(s updater.Status) any { return s.OnTrial }},
	{"Shadow", func(s updater.Status) any { return wouldOf(s.Shadow) }},
	{"Strategy", func(s updater.Status) any { return s.Strategy }},
	{"NewVersion", func(s updater.Status) any { return s.NewVersion }},
	{"NewSize", func(s updater.Status) any { return s.NewSize }},
	{"Written", func(s updater.Status) any { return s.Written }},
	{"Staged", func(s updater.Status) any { return s.Staged }},
	{"Progress", func(s updater.Status) any { return s.Progress }},
	{"DoneBytes", func(s updater.Status) any { return s.Done }},
	{"TotalBytes", func(s updater.Status) any { return s.Total }},
	{"Permit", func(s updater.Status) any { return s.Permit }},
	{"Drained", func(s updater.Status) any { return s.Drained }},
	{"Drain", func(s updater.Status) any { return wireDrainOf(s.Drain) }},
	{"Paused", func(s updater.Status) any { return s.Paused }},
	{"Pending", func(s updater.Status) any { return s.Pending }},
	{"LastChecked", func(s updater.Status) any { return unix(s.LastChecked) }},
	{"NextCheck", func(s updater.Status) any { return unix(s.NextCheck) }},
	{"LastError", func(s updater.Status) any { return s.LastError }},
	{"LastErrorAt", func(s updater.Status) any { return unix(s.LastErrorAt) }},
	{"Rejected", func(s updater.Status) any { return wireRejections(s.Rejected) }},
}

// propertiesOf are all properties of a status, by name.
func propertiesOf(s updater.Status) map[string]dbus.Variant {
	all := make(map[string]dbus.Variant, len(properties))
	for _, p := range properties {
		all[p.name] = dbus.MakeVariant(p.of(s))
	}
	return all
}

// changed are the properties of now that differ from before.
func changed(before, now map[string]dbus.Variant) map[string]dbus.Variant {
	diff := map[string]dbus.Variant{}
	for name, value := range now {
		if !reflect.DeepEqual(value.Value(), before[name].Value()) {
			diff[name] = value
		}
	}
	return diff
}

// wouldOf is the step that drydockd would do in shadow mode; "" without it.
func wouldOf(s *updater.Shadowing) string {
	if s == nil {
		return ""
	}
	return s.Would
}

func wireReasons(reasons []updater.Reason) []wireReason {
	wire := make([]wireReason, 0, len(reasons))
	for _, r := range reasons {
		wire = append(wire, wireReason{r.Kind, r.Text, unix(r.Until)})
	}
	return wire
}

func wireSlots(slots [2]updater.SlotStatus) []wireSlot {
	var wire []wireSlot
	for _, s := range slots {
		wire = append(wire, wireSlot(s))
	}
	return wire
}

func wireRejections(rejected []updater.Rejection) []wireRejection {
	wire := make([]wireRejection, 0, len(rejected))
	for _, r := range rejected {
		wire = append(wire, wireRejection{r.Version, r.SHA256, r.Reason, unix(r.At)})
	}
	return wire
}

// unix is a time in Unix seconds, 0 for the zero time.
func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

// decodeStatus reads the JSON that the method Status gives. Step and
// Operation travel as words; a word of a newer daemon, unknown here, becomes
// the zero value, and StepName still says it.
func decodeStatus(text string) (updater.Status, error) {
	var wire struct {
		updater.Status
		Operation string `json:"operation"` // in place of the embedded one
	}
	if err := json.Unmarshal([]byte(text), &wire); err != nil {
		return updater.Status{}, fmt.Errorf("read drydockd's status: %w", err)
	}
	for o := updater.Idle; o <= updater.ReportingError; o++ {
		if o.String() == wire.Operation {
			wire.Status.Operation = o
		}
	}
	for s := updater.Wait; s <= updater.Release; s++ {
		if s.String() == wire.StepName {
			wire.Status.Step = s
		}
	}
	return wire.Status, nil
}

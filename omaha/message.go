// Package omaha speaks the Omaha v3 update protocol: its messages, a client, a server handler.
//
// PROTOCOL.md says which part of the protocol that is.
package omaha

import (
	"strings"
)

// Machine is what a request says about the host. The comments name the
// attribute of PROTOCOL.md, section 1, that carries each field.
type Machine struct {
	AppID         string // appid, the application to update, as "{e96281a6-d1af-4bde-9a0a-97b76e56dc57}"
	Version       string // version, the running release
	Track         string // track, the group or channel
	BootID        string // bootid, with braces
	OEM           string // oem
	OEMVersion    string // oemversion
	AlephVersion  string // alephversion, the release first installed
	MachineID     string // machineid, 32 hexadecimal digits
	MachineAlias  string // machinealias, the operator's name for the machine
	Board         string // board, as "amd64-usr"
	Lang          string // lang; "en-US" if empty
	HardwareClass string // hardware_class

	OSPlatform string // platform of os; "CoreOS" if empty
	OSVersion  string // version of os; "Chateau" if empty
	Arch       string // machine as uname(2) says; sp of os is Version_Arch

	DeltaOK bool // delta_okay, deltas are welcome
}

// EventType says what an event is about (PROTOCOL.md, section 3).
type EventType int

// Event types in use.
const (
	EventDownloadComplete       EventType = 1
	EventInstallComplete        EventType = 2
	EventUpdateComplete         EventType = 3
	EventDownloadStarted        EventType = 5
	EventInstallStarted         EventType = 6
	EventUpdateDownloadStarted  EventType = 13
	EventUpdateDownloadFinished EventType = 14
	EventUpdateInstalled        EventType = 800 // Nebraska's own
)

// EventResult says how it went (PROTOCOL.md, section 3).
type EventResult int

// Event results in use.
const (
	ResultError         EventResult = 0
	ResultSuccess       EventResult = 1
	ResultSuccessReboot EventResult = 2
	ResultCancelled     EventResult = 4
	ResultNoUpdate      EventResult = 7
	ResultDeferred      EventResult = 9
)

// Event is one report of a machine. On the wire it carries either
// PreviousVersion, if that is not nil, or ErrorCode, unless the result is
// ResultSuccess, where an error code has no meaning.
type Event struct {
	Type            EventType
	Result          EventResult
	ErrorCode       int     // a Code's Wire
	PreviousVersion *string // the release that ran before the last update; empty: none since the last report
}

// CheckEvent returns the event that goes with an update check of a machine
// that runs running. previous is the release that ran when the last update
// was made: nil on the very first check, empty once reported. If it is still
// the one running, the update was rolled back.
func CheckEvent(previous *string, running string) Event {
	switch {
	case previous == nil:
		first := "0.0.0.0"
		return Event{Type: EventUpdateComplete, Result: ResultSuccessReboot, PreviousVersion: &first}
	case *previous != "" && *previous == running:
		return Event{Type: EventUpdateComplete, Result: ResultError, ErrorCode: CodeRollback.Wire()}
	}
	return Event{Type: EventUpdateComplete, Result: ResultSuccessReboot, PreviousVersion: previous}
}

// App is one application of a request, as the server reads it.
type App struct {
	Machine
	Updater  string // the client's own name and version
	OnDemand bool   // somebody waits for the answer
	Ping     bool   // the machine says that it is alive
	Check    bool   // it asks for an update
	Events   []Event
}

// SameApp reports whether two application ids name the same application:
// braces and letter case do not count.
func SameApp(a, b string) bool {
	return strings.EqualFold(strings.Trim(a, "{}"), strings.Trim(b, "{}"))
}

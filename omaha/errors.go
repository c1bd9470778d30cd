package omaha

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// What can be wrong with an update server's answer. CodeOf tells each one's
// Code.
var (
	// ErrEmpty: the answer has no body.
	ErrEmpty = errors.New("the update server's answer is empty")
	// ErrXML: the answer is not well-formed XML, or more of it than the protocol needs.
	ErrXML = errors.New("the update server's answer is not acceptable XML")
	// ErrInvalid: the answer is XML, but not an Omaha response that can be followed.
	ErrInvalid = errors.New("the update server's answer is not a valid Omaha response")
	// ErrNetwork: there was no answer at all.
	ErrNetwork = errors.New("no answer from the update server")
	// ErrUnknownApp is what an Updates returns for an application it does not serve.
	ErrUnknownApp = errors.New("unknown application")
)

// A StatusError is an answer with an HTTP status other than 2xx.
type StatusError struct{ HTTP int }

// Error implements error.
func (e *StatusError) Error() string {
	text := http.StatusText(e.HTTP)
	return strings.TrimSpace(fmt.Sprintf("the update server answered HTTP %d %s", e.HTTP, text))
}

// Code returns 2000 plus the HTTP status, with 999 for a status that is none.
func (e *StatusError) Code() Code {
	if e.HTTP < 0 || e.HTTP >= 1000 {
		return CodeHTTPBase + 999
	}
	return CodeHTTPBase + Code(e.HTTP)
}

// Refused is the server's own refusal to answer an update check, in its words:
// it may serve this machine later. An Updates returns it to refuse a machine.
type Refused struct {
	AppStatus    string // status of the app, as "error-maxUpdatesPerPeriodLimitReached"; "ok" or empty if only the check was refused
	UpdateStatus string // status of the updatecheck, as "error-internal"; empty if there was none
	EventTaken   bool   // the server has the event sent along, if there was one
}

// Error implements error.
func (r *Refused) Error() string {
	return fmt.Sprintf("the update server refused: app status %q, updatecheck status %q", r.AppStatus, r.UpdateStatus)
}

// Deliberate reports whether the server named a reason of its own, as it does
// when it throttles or does not know the application.
func (r *Refused) Deliberate() bool { return r.AppStatus != "" && r.AppStatus != statusOK }

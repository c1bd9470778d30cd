package bus

import (
	"context"
	"errors"

	"github.com/drydock-os/drydock/updater"
	"github.com/godbus/dbus/v5"
)

// Sentinels that callers of a Client branch on, beside updater.ErrBusy and
// updater.ErrRefused, which cross the bus as well.
var (
	// ErrNotRunning says that nobody owns our name on the bus.
	ErrNotRunning = errors.New("drydockd is not running on this machine: systemctl status drydockd")
	// ErrNotAuthorized says that the caller lacks the right to what was asked.
	ErrNotAuthorized = errors.New("not authorized")
	// ErrCancelled says that a job was cancelled before it ended.
	ErrCancelled = errors.New("cancelled")
	// ErrRefused is logind's "not now": a normal answer, with its reason.
	ErrRefused = updater.ErrRefused
)

// The D-Bus errors of our interface. A method that fails gives one of these,
// with a sentence for a person as its only argument.
const (
	errorPrefix        = "io.drydock.Error."
	errorBusy          = errorPrefix + "Busy"
	errorRefused       = errorPrefix + "Refused"
	errorNotAuthorized = errorPrefix + "NotAuthorized"
	errorCancelled     = errorPrefix + "Cancelled"
	errorInvalid       = errorPrefix + "InvalidArgument"
	errorNoSuchJob     = errorPrefix + "NoSuchJob"
	errorNoCluster     = errorPrefix + "NoCluster"
	errorFailed        = errorPrefix + "Failed"
)

// kinds pairs each error that crosses the bus with its name there and with
// the word that ends a job. Both directions read it.
var kinds = []struct {
	err        error
	name, word string
}{
	{updater.ErrBusy, errorBusy, "busy"},
	{updater.ErrRefused, errorRefused, "refused"},
	{ErrNotAuthorized, errorNotAuthorized, "not-authorized"},
	{ErrCancelled, errorCancelled, "cancelled"},
	{ErrNoCluster, errorNoCluster, "no-cluster"},
	{context.Canceled, errorCancelled, "cancelled"},
}

// wordFailed ends a job whose error is none of kinds.
const wordFailed = "failed"

// busError is err as our interface sends it; nil stays nil.
func busError(err error) *dbus.Error {
	if err == nil {
		return nil
	}
	if sent := new(dbus.Error); errors.As(err, &sent) {
		return sent
	}
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			return failure(k.name, err.Error())
		}
	}
	return failure(errorFailed, err.Error())
}

func failure(name, text string) *dbus.Error {
	return dbus.NewError(name, []any{text})
}

// resultWord is how a job that returned err is said to have ended.
func resultWord(err error) string {
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			return k.word
		}
	}
	return wordFailed
}

// remote is an error that came over the bus: its own sentence, and the
// sentinel that it stands for here.
type remote struct {
	text string
	kind error
}

// Error gives the sentence.
func (r remote) Error() string { return r.text }

// Unwrap gives the sentinel.
func (r remote) Unwrap() error { return r.kind }

// clientError turns what a call returned into the errors that the caller's
// code knows.
func clientError(err error) error {
	name := errorName(err)
	switch name {
	case "":
		return err
	case errorServiceUnknown, errorNameHasNoOwner:
		return ErrNotRunning
	case errorAccessDenied, errorInteractive:
		return remote{err.Error(), ErrNotAuthorized}
	}
	for _, k := range kinds {
		if k.name == name {
			return remote{err.Error(), k.err}
		}
	}
	return err
}

// errorName is the D-Bus name of an error that the other side sent, "" for
// any other error.
func errorName(err error) string {
	var sent dbus.Error
	if errors.As(err, &sent) {
		return sent.Name
	}
	return ""
}

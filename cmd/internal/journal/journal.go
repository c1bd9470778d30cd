// Package journal writes the updater's events to the systemd journal as structured fields, or to a text log where there is none.
package journal

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/coreos/go-systemd/v22/journal"

	"github.com/drydock-os/drydock/updater"
)

// Log is an updater.Observer.
type Log struct {
	// Text takes the events where the program's output is not the journal's.
	Text *slog.Logger
	// Direct says that the journal takes the events with their fields.
	Direct bool
}

// New returns the log for this process: the journal, if its standard error
// goes there, else text.
func New(text *slog.Logger) *Log {
	direct, err := journal.StderrIsJournalStream()
	return &Log{Text: text, Direct: err == nil && direct && journal.Enabled()}
}

// Observe implements updater.Observer. Progress is left to those who watch.
func (l *Log) Observe(e updater.Event) {
	if e.Type == updater.EventProgress {
		return
	}
	if l.Direct && journal.Send(e.Message, priority(e), fields(e)) == nil {
		return
	}
	level := slog.LevelInfo
	if e.Type == updater.EventError {
		level = slog.LevelError
	}
	attrs := []slog.Attr{slog.String("event", string(e.Type)), slog.String("step", e.Status.StepName)}
	if e.Version != "" {
		attrs = append(attrs, slog.String("version", e.Version))
	}
	l.Text.LogAttrs(context.Background(), level, e.Message, attrs...)
}

func priority(e updater.Event) journal.Priority {
	switch e.Type {
	case updater.EventError:
		return journal.PriErr
	case updater.EventRejected, updater.EventReturned, updater.EventRolledBack:
		return journal.PriWarning
	case updater.EventStep, updater.EventHook:
		return journal.PriInfo
	}
	return journal.PriNotice
}

// fields are the journal fields of an event, named in drydockd(8).
func fields(e updater.Event) map[string]string {
	s := e.Status
	f := map[string]string{
		"SYSLOG_IDENTIFIER":   "drydockd",
		"DRYDOCK_EVENT":       string(e.Type),
		"DRYDOCK_STEP":        s.StepName,
		"DRYDOCK_OPERATION":   s.Operation.String(),
		"DRYDOCK_BOOTED":      s.Booted,
		"DRYDOCK_RELEASE":     s.Release,
		"DRYDOCK_PERMIT":      s.Permit,
		"DRYDOCK_NEW_VERSION": e.Version,
	}
	if e.Err != nil {
		f["DRYDOCK_ERROR"] = e.Err.Error()
	}
	for i, r := range s.Reasons {
		f[fmt.Sprintf("DRYDOCK_REASON_%d", i)] = r.Kind + ": " + r.Text
	}
	return f
}

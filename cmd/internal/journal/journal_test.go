package journal

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/coreos/go-systemd/v22/journal"

	"github.com/drydock-os/drydock/updater"
)

var rejected = updater.Event{
	Type: updater.EventRejected, Version: "1.1.0", Message: "release 1.1.0 is rejected: not healthy", Err: errors.New("not healthy"),
	Status: updater.Status{StepName: "reject", Booted: "B", Release: "1.1.0", Permit: "held", Reasons: []updater.Reason{{Kind: "unit", Text: "web.service is failed"}}},
}

func TestFields(t *testing.T) {
	got := fields(rejected)
	for name, want := range map[string]string{
		"DRYDOCK_EVENT": "rejected", "DRYDOCK_STEP": "reject", "DRYDOCK_BOOTED": "B", "DRYDOCK_NEW_VERSION": "1.1.0",
		"DRYDOCK_PERMIT": "held", "DRYDOCK_ERROR": "not healthy", "DRYDOCK_REASON_0": "unit: web.service is failed",
	} {
		if got[name] != want {
			t.Errorf("%s=%q, want %q", name, got[name], want)
		}
	}
	for name := range got { // journald drops what is not so named (systemd.journal-fields(7))
		if strings.ToUpper(name) != name || strings.HasPrefix(name, "_") {
			t.Errorf("journald refuses a field named %s", name)
		}
	}
	if p := priority(rejected); p != journal.PriWarning {
		t.Errorf("priority %d, want a warning", p)
	}
}

func TestTextWhereThereIsNoJournal(t *testing.T) {
	var out bytes.Buffer
	l := &Log{Text: slog.New(slog.NewTextHandler(&out, nil))}
	l.Observe(updater.Event{Type: updater.EventProgress, Message: "1 of 2 bytes"})
	l.Observe(rejected)
	got := out.String()
	if strings.Contains(got, "bytes") {
		t.Error("progress fills the log")
	}
	for _, want := range []string{"event=rejected", "step=reject", "version=1.1.0", "not healthy"} {
		if !strings.Contains(got, want) {
			t.Errorf("log %q lacks %s", got, want)
		}
	}
}

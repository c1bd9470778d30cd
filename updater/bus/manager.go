package bus

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/drydock-os/drydock/updater"
	"github.com/godbus/dbus/v5"
)

// manager is io.drydock.Drydock1.Manager; manager.xml describes it.
type manager struct{ *desk }

//go:embed manager.xml
var managerXML string

//go:embed job.xml
var jobXML string

// maxArgument bounds a string that a caller gives, in bytes: a reason is a
// sentence that is kept in the state file and shown everywhere.
const maxArgument = 1024

// Check asks the update server now; the job ends with "updated" if the
// machine has, or is about to get, a newer release.
func (m *manager) Check(msg dbus.Message) (dbus.ObjectPath, *dbus.Error) {
	return m.job(msg, updater.Request{Action: updater.ActCheck, OnDemand: true})
}

// Update asks the server and writes what it offers. An unknown option is an
// error.
func (m *manager) Update(msg dbus.Message, options map[string]dbus.Variant) (dbus.ObjectPath, *dbus.Error) {
	r := updater.Request{Action: updater.ActUpdate}
	known := map[string]*bool{optionDowngrade: &r.AllowDowngrade, optionOnDemand: &r.OnDemand}
	for name, value := range options {
		into, ok := known[name]
		if !ok {
			return "", failure(errorInvalid, fmt.Sprintf("option %q is not known", name))
		}
		if *into, ok = value.Value().(bool); !ok {
			return "", failure(errorInvalid, fmt.Sprintf("option %q must be a boolean", name))
		}
	}
	return m.job(msg, r)
}

// Rollback goes back to the release in the passive slot.
func (m *manager) Rollback(msg dbus.Message) (dbus.ObjectPath, *dbus.Error) {
	return m.job(msg, updater.Request{Action: updater.ActRollback, OnDemand: true})
}

// Reboot reboots into the same slot, through permit and drain.
func (m *manager) Reboot(msg dbus.Message, reason string) (dbus.ObjectPath, *dbus.Error) {
	return m.job(msg, updater.Request{Action: updater.ActReboot, Reason: reason, OnDemand: true})
}

// MarkGood ends the trial of the booted release.
func (m *manager) MarkGood(msg dbus.Message) (dbus.ObjectPath, *dbus.Error) {
	return m.job(msg, updater.Request{Action: updater.ActMarkGood, OnDemand: true})
}

// MarkBad rejects the release that is on trial, or the one that is written.
func (m *manager) MarkBad(msg dbus.Message, reason string) (dbus.ObjectPath, *dbus.Error) {
	return m.job(msg, updater.Request{Action: updater.ActMarkBad, Reason: reason, OnDemand: true})
}

// Reset takes a staged release back to written.
func (m *manager) Reset(msg dbus.Message) (dbus.ObjectPath, *dbus.Error) {
	return m.job(msg, updater.Request{Action: updater.ActReset, OnDemand: true})
}

// Pause lets nothing new begin until Unpause.
func (m *manager) Pause(msg dbus.Message, reason string) (string, *dbus.Error) {
	return m.now(msg, updater.Request{Action: updater.ActPause, Reason: reason})
}

// Unpause ends Pause.
func (m *manager) Unpause(msg dbus.Message) (string, *dbus.Error) {
	return m.now(msg, updater.Request{Action: updater.ActUnpause})
}

// Cancel drops a rollback or reboot that was accepted and has not happened.
func (m *manager) Cancel(msg dbus.Message) (string, *dbus.Error) {
	return m.now(msg, updater.Request{Action: updater.ActCancel})
}

// Retry forgets that a version was rejected; the empty one means all.
func (m *manager) Retry(msg dbus.Message, version string) (string, *dbus.Error) {
	return m.now(msg, updater.Request{Action: updater.ActRetry, Version: version})
}

// Status gives the status as the JSON of updater.Status.
func (m *manager) Status() (string, *dbus.Error) { return document(m.server.Controller.Status()) }

// History gives the JSON of a list of updater.HistoryEntry, newest first.
func (m *manager) History() (string, *dbus.Error) {
	entries := m.server.Controller.History()
	if entries == nil {
		entries = []updater.HistoryEntry{}
	}
	return document(entries)
}

// Explain says why nothing (more) is done right now.
func (m *manager) Explain() ([]wireReason, *dbus.Error) {
	return wireReasons(m.server.Controller.Status().Reasons), nil
}

// Plan asks the server and gives the JSON of updater.Plan. Though it changes
// nothing it takes the right to check: it makes the machine ask the server.
func (m *manager) Plan(msg dbus.Message) (string, *dbus.Error) {
	request := updater.Request{Action: updater.ActCheck}
	if err := m.authorize(msg, actionOf(request)); err != nil {
		return "", err
	}
	job, ctx, err := m.server.jobs.add(request, "")
	if err != nil {
		return "", busError(err)
	}
	defer m.server.jobs.remove(job)
	plan, err := m.server.Controller.Plan(ctx)
	if err != nil {
		return "", busError(err)
	}
	return document(plan)
}

// job starts what the sender of msg asks for, if it may.
func (m *manager) job(msg dbus.Message, r updater.Request) (dbus.ObjectPath, *dbus.Error) {
	action, e := m.admit(msg, r)
	if e != nil {
		return "", e
	}
	path, err := m.server.start(r, action)
	return path, busError(err)
}

// now does what the sender of msg asks for, if it may, and gives the outcome.
func (m *manager) now(msg dbus.Message, r updater.Request) (string, *dbus.Error) {
	if _, e := m.admit(msg, r); e != nil {
		return "", e
	}
	outcome, err := m.server.do(r)
	return string(outcome), busError(err)
}

// admit checks what was asked for, and the right to it.
func (m *manager) admit(msg dbus.Message, r updater.Request) (action string, e *dbus.Error) {
	for _, text := range []string{r.Reason, r.Version} {
		if len(text) > maxArgument {
			return "", failure(errorInvalid, fmt.Sprintf("an argument has %d bytes, at most %d are taken", len(text), maxArgument))
		}
		if strings.ContainsFunc(text, func(c rune) bool { return c < ' ' || c == 0x7f }) {
			return "", failure(errorInvalid, "an argument contains control characters")
		}
	}
	if m.server.Shadow {
		return "", busError(updater.ErrShadow)
	}
	action = actionOf(r)
	return action, m.authorize(msg, action)
}

// actionOf is the polkit action that a request takes: one a verb, and a
// stronger one where an update may lower the version. A rollback lowers it
// always, and has as strong an action of its own.
func actionOf(r updater.Request) string {
	if r.Action == updater.ActUpdate && r.AllowDowngrade {
		return actionPrefix + "downgrade"
	}
	return actionPrefix + string(r.Action)
}

func document(v any) (string, *dbus.Error) {
	data, err := json.Marshal(v)
	if err != nil {
		return "", failure(errorFailed, err.Error())
	}
	return string(data), nil
}

// managerProperties are those of the status.
type managerProperties struct{ *desk }

// GetAll gives all properties of the manager.
func (p managerProperties) GetAll(iface string) (map[string]dbus.Variant, *dbus.Error) {
	if iface != ManagerInterface && iface != "" {
		return map[string]dbus.Variant{}, nil
	}
	return propertiesOf(p.server.Controller.Status()), nil
}

// Get gives one property of the manager.
func (p managerProperties) Get(iface, name string) (dbus.Variant, *dbus.Error) {
	all, err := p.GetAll(iface)
	if value, ok := all[name]; ok && err == nil {
		return value, nil
	}
	return dbus.Variant{}, unknownProperty(iface, name)
}

// Set refuses: all are read-only.
func (p managerProperties) Set(iface, name string, _ dbus.Variant) *dbus.Error {
	return readOnly(iface, name)
}

// introspection is a fixed description of an object.
type introspection string

// Introspect gives the description.
func (i introspection) Introspect() (string, *dbus.Error) { return string(i), nil }

// jobIntrospection describes each job, and lists them at their common path.
type jobIntrospection struct{ *desk }

// Introspect gives the description.
func (i jobIntrospection) Introspect(msg dbus.Message) (string, *dbus.Error) {
	if path := pathOf(msg); path != jobsPath {
		_, err := i.server.jobs.find(path)
		return jobXML, err
	}
	var list strings.Builder
	list.WriteString("<node>\n")
	for _, id := range i.server.jobs.ids() {
		fmt.Fprintf(&list, "  <node name=\"%d\"/>\n", id)
	}
	list.WriteString("</node>\n")
	return list.String(), nil
}

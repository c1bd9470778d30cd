package bus

import (
	"cmp"
	_ "embed"
	"fmt"
	"os/user"
	"strconv"
	"time"

	"github.com/drydock-os/drydock/updater"
	"github.com/godbus/dbus/v5"
)

// update1 is com.coreos.update1.Manager, as update_engine.xml and
// update_attempter.cc of flatcar/update_engine have it.
type update1 struct{ *desk }

//go:embed update1.xml
var update1XML string

// update1User may call the methods, beside root: the same as upstream's
// D-Bus policy says, which dist/ has too. It is asked here again because a
// policy file can be lost.
const update1User = "core"

// update1Words are upstream's names of the operations, in its order.
var update1Words = [...]string{
	updater.Idle:              "UPDATE_STATUS_IDLE",
	updater.CheckingForUpdate: "UPDATE_STATUS_CHECKING_FOR_UPDATE",
	updater.UpdateAvailable:   "UPDATE_STATUS_UPDATE_AVAILABLE",
	updater.Downloading:       "UPDATE_STATUS_DOWNLOADING",
	updater.Verifying:         "UPDATE_STATUS_VERIFYING",
	updater.Finalizing:        "UPDATE_STATUS_FINALIZING",
	updater.NeedReboot:        "UPDATE_STATUS_UPDATED_NEED_REBOOT",
	updater.ReportingError:    "UPDATE_STATUS_REPORTING_ERROR_EVENT",
}

// update1Status is what GetStatus answers and StatusUpdate carries: (xdssx).
type update1Status struct {
	LastChecked int64   // Unix seconds of the last check that the server answered, or 0
	Progress    float64 // of the download, 0 to 1; 0 in every other operation
	Operation   string
	NewVersion  string // "0.0.0" when there is none
	NewSize     int64  // of the payload, bytes
}

func update1Of(s updater.Status) update1Status {
	u := update1Status{
		LastChecked: unix(s.LastChecked), Operation: "unknown status",
		NewVersion: s.NewVersion, NewSize: s.NewSize,
	}
	if int(s.Operation) < len(update1Words) {
		u.Operation = update1Words[s.Operation]
	}
	if s.Operation == updater.Downloading {
		u.Progress = s.Progress
	}
	if u.NewVersion == "" {
		u.NewVersion, u.NewSize = "0.0.0", 0
	}
	return u
}

// Upstream's steps of progress (update_attempter.cc, BytesReceived).
const (
	progressStep = 0.01
	progressTime = 10 * time.Second
)

// due says whether u is to be told after before, which was told some time ago.
func (u update1Status) due(before update1Status, ago time.Duration) bool {
	from, to := before.Progress, u.Progress
	before.Progress, u.Progress = 0, 0
	switch {
	case u != before:
		return true
	case to == from:
		return false
	case to < from, to >= 1: // another attempt began, or this one is through
		return true
	}
	const rounding = 1e-9 // a hundredth, and not a little less for being counted in binary
	return to-from >= progressStep-rounding || ago >= progressTime
}

// GetStatus answers to everybody whom the D-Bus policy lets ask.
func (u *update1) GetStatus() (lastChecked int64, progress float64, operation, newVersion string, newSize int64, e *dbus.Error) {
	s := update1Of(u.server.Controller.Status())
	return s.LastChecked, s.Progress, s.Operation, s.NewVersion, s.NewSize, nil
}

// AttemptUpdate has the server asked and what it offers written. It returns
// at once, and does nothing unless the machine is idle.
func (u *update1) AttemptUpdate(msg dbus.Message) *dbus.Error {
	if err := u.allowed(msg); err != nil {
		return err
	}
	if u.server.Controller.Status().Operation == updater.Idle {
		// Silently, as upstream: an update that cannot begin is not told.
		_, _ = u.server.start(updater.Request{Action: updater.ActUpdate, OnDemand: true}, actionPrefix+"update")
	}
	return nil
}

// ResetStatus takes a staged release back. Upstream lets the boot flags be,
// and says idle of a machine that would boot the new release; that is one of
// its defects. When nothing is staged and nothing is going on there is nothing
// to do; anything else is an error, as it is upstream.
func (u *update1) ResetStatus(msg dbus.Message) *dbus.Error {
	if err := u.allowed(msg); err != nil {
		return err
	}
	switch operation := u.server.Controller.Status().Operation; operation {
	case updater.Idle:
		return nil
	case updater.NeedReboot:
		_, err := u.server.do(updater.Request{Action: updater.ActReset})
		return busError(err)
	default:
		return failure(errorRefused, fmt.Sprintf("reset status: the machine is %s", operation))
	}
}

// allowed lets root and core through, as the D-Bus policy does.
func (u *update1) allowed(msg dbus.Message) *dbus.Error {
	c, err := u.caller(u.conn.Context(), msg)
	if err != nil {
		return failure(errorAccessDenied, err.Error())
	}
	if c.UID == 0 {
		return nil
	}
	name := cmp.Or(u.server.update1User, update1User)
	if core, err := user.Lookup(name); err == nil && core.Uid == strconv.FormatUint(uint64(c.UID), 10) {
		return nil
	}
	return failure(errorAccessDenied, fmt.Sprintf("only root and %s may do this", name))
}

// noProperties answers for an object that has none, as dbus-glib does for
// upstream's.
type noProperties struct{}

// Get finds no property.
func (noProperties) Get(iface, name string) (dbus.Variant, *dbus.Error) {
	return dbus.Variant{}, unknownProperty(iface, name)
}

// GetAll gives none.
func (noProperties) GetAll(string) (map[string]dbus.Variant, *dbus.Error) {
	return map[string]dbus.Variant{}, nil
}

// Set finds no property.
func (noProperties) Set(iface, name string, _ dbus.Variant) *dbus.Error {
	return unknownProperty(iface, name)
}

func unknownProperty(iface, name string) *dbus.Error {
	return failure("org.freedesktop.DBus.Error.UnknownProperty", fmt.Sprintf("no property %s.%s", iface, name))
}

package bus

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/drydock-os/drydock/updater"
	"github.com/godbus/dbus/v5"
)

// Login asks logind (org.freedesktop.login1). The zero value asks on the
// system bus. Each method opens a connection of its own, so a bus that was
// restarted is no affair of the caller's.
type Login struct {
	Address string // of the bus; empty for the system bus
}

const (
	loginName    = "org.freedesktop.login1"
	loginPath    = "/org/freedesktop/login1"
	loginManager = "org.freedesktop.login1.Manager"
	loginSession = "org.freedesktop.login1.Session"
)

// Flags of RebootWithFlags (systemd, org.freedesktop.login1(5)).
const (
	checkInhibitors = uint64(1) << 0 // SD_LOGIND_ROOT_CHECK_INHIBITORS: for root too
	skipInhibitors  = uint64(1) << 4 // SD_LOGIND_SKIP_INHIBITORS
)

// systemPatience bounds one question to logind or systemd whose caller set no
// closer bound: a hung service must not hang the updater.
const systemPatience = 30 * time.Second

// maxSessions bounds how many sessions are looked at one by one; logind's own
// limit is 8192 (SessionsMax). A machine with this many is in use.
const maxSessions = 256

// An Inhibitor is a lock that somebody took against a shutdown.
type Inhibitor struct {
	Who, Why string
	Mode     string // "block", or "block-weak", which binds root only if it wants to be bound, as Reboot does
	UID      uint32
	PID      uint32
}

// A Session is a person's login session.
type Session struct {
	ID, User  string
	Class     string // "user", "user-early", …; services and greeters are not listed
	Type      string // "tty", "x11", "wayland", "unspecified", …
	State     string // "online" or "active"
	Idle      bool
	IdleSince time.Time // by the machine's clock; zero unless Idle
	Remote    bool
}

// Reboot asks logind for a reboot and returns when it has agreed: the reboot
// is then under way. A refusal is ErrRefused with logind's reason. Unless
// forced, a blocking inhibitor refuses, to root as well.
func (l Login) Reboot(ctx context.Context, forced bool) error {
	return l.ask(ctx, func(ctx context.Context, conn *connection) error {
		flags := checkInhibitors
		if forced {
			flags = skipInhibitors
		}
		manager := conn.Object(loginName, loginPath)
		err := manager.CallWithContext(ctx, loginManager+".RebootWithFlags", 0, flags).Err
		switch errorName(err) {
		case errorUnknownMethod, errorInvalidArgs:
			return rebootPlainly(ctx, conn, forced)
		}
		return refusal(err)
	})
}

// rebootPlainly is for a logind without RebootWithFlags (before 246), or one
// that does not know the flag (skipInhibitors came with 257). Those overlook
// inhibitors where root asks, so they are looked at here.
func rebootPlainly(ctx context.Context, conn *connection, forced bool) error {
	if !forced {
		held, err := inhibitors(ctx, conn)
		if err != nil {
			return err
		}
		if len(held) > 0 {
			return fmt.Errorf("reboot: %w: %s inhibits it: %s", updater.ErrRefused, held[0].Who, held[0].Why)
		}
	}
	const interactive = false
	return refusal(conn.Object(loginName, loginPath).CallWithContext(ctx, loginManager+".Reboot", 0, interactive).Err)
}

// refusal tells logind's "no" from a logind that did not answer.
func refusal(err error) error {
	switch errorName(err) {
	case "": // no error, or one of the connection
	case errorServiceUnknown, errorNameHasNoOwner, errorNoReply, errorTimeout:
	default:
		return fmt.Errorf("reboot: %w: %s", updater.ErrRefused, err)
	}
	if err != nil {
		return fmt.Errorf("reboot through logind: %w", err)
	}
	return nil
}

// Inhibitors lists the blocking locks against a shutdown or reboot.
func (l Login) Inhibitors(ctx context.Context) (held []Inhibitor, err error) {
	err = l.ask(ctx, func(ctx context.Context, conn *connection) error {
		held, err = inhibitors(ctx, conn)
		return err
	})
	return held, err
}

func inhibitors(ctx context.Context, conn *connection) ([]Inhibitor, error) {
	var wire []struct {
		What, Who, Why, Mode string
		UID, PID             uint32
	}
	err := conn.Object(loginName, loginPath).CallWithContext(ctx, loginManager+".ListInhibitors", 0).Store(&wire)
	if err != nil {
		return nil, fmt.Errorf("list inhibitors: %w", err)
	}
	var held []Inhibitor
	for _, w := range wire {
		blocks := w.Mode == "block" || w.Mode == "block-weak"
		if blocks && slices.Contains(strings.Split(w.What, ":"), "shutdown") {
			held = append(held, Inhibitor{w.Who, w.Why, w.Mode, w.UID, w.PID})
		}
	}
	return held, nil
}

// Sessions lists the sessions in which people are logged in.
func (l Login) Sessions(ctx context.Context) (sessions []Session, err error) {
	err = l.ask(ctx, func(ctx context.Context, conn *connection) error {
		var wire []struct {
			ID         string
			UID        uint32
			User, Seat string
			Path       dbus.ObjectPath
		}
		if err := conn.Object(loginName, loginPath).CallWithContext(ctx, loginManager+".ListSessions", 0).Store(&wire); err != nil {
			return fmt.Errorf("list sessions: %w", err)
		}
		for _, w := range wire[:min(len(wire), maxSessions)] {
			session, there, err := session(ctx, conn, w.Path)
			if err != nil {
				return fmt.Errorf("read session %s: %w", w.ID, err)
			}
			session.ID, session.User = w.ID, w.User
			if there && strings.HasPrefix(session.Class, "user") && session.State != "closing" {
				sessions = append(sessions, session)
			}
		}
		return nil
	})
	return sessions, err
}

// session reads one session's properties. One that has just ended is not
// there.
func session(ctx context.Context, conn *connection, path dbus.ObjectPath) (s Session, there bool, err error) {
	all, err := getAll(ctx, conn.Object(loginName, path), loginSession)
	switch errorName(err) {
	case errorUnknownObject, errorUnknownInterface, errorUnknownMethod, loginName + ".NoSuchSession":
		return Session{}, false, nil
	}
	if err != nil {
		return Session{}, false, err
	}
	var since uint64 // microseconds since 1970
	err = store(all, map[string]any{
		"Class": &s.Class, "Type": &s.Type, "State": &s.State, "IdleHint": &s.Idle, "IdleSinceHint": &since, "Remote": &s.Remote,
	})
	if s.Idle {
		s.IdleSince = time.UnixMicro(int64(since))
	}
	return s, err == nil, err
}

func (l Login) ask(ctx context.Context, question func(context.Context, *connection) error) error {
	return askOnce(ctx, l.Address, question)
}

// askOnce opens a connection for one question and bounds the time for both.
func askOnce(ctx context.Context, address string, question func(context.Context, *connection) error) error {
	ctx, cancel := context.WithTimeout(ctx, systemPatience)
	defer cancel()
	conn, err := connect(ctx, address)
	if err != nil {
		return err
	}
	defer conn.Close()
	return question(ctx, conn)
}

// getAll reads all properties of one interface.
func getAll(ctx context.Context, object dbus.BusObject, iface string) (map[string]dbus.Variant, error) {
	var all map[string]dbus.Variant
	err := object.CallWithContext(ctx, propertiesInterface+".GetAll", 0, iface).Store(&all)
	return all, err
}

// getString reads one property that is a string.
func getString(ctx context.Context, object dbus.BusObject, iface, property string) (string, error) {
	var value dbus.Variant
	var text string
	err := object.CallWithContext(ctx, propertiesInterface+".Get", 0, iface, property).Store(&value)
	if err != nil {
		return "", err
	}
	return text, store(map[string]dbus.Variant{property: value}, map[string]any{property: &text})
}

// store puts properties where fields points. One that is missing, or of
// another type, is an error: it is not known.
func store(properties map[string]dbus.Variant, fields map[string]any) error {
	for name, into := range fields {
		value, there := properties[name]
		if !there {
			return fmt.Errorf("property %s is missing", name)
		}
		if err := value.Store(into); err != nil {
			return fmt.Errorf("property %s: %w", name, err)
		}
	}
	return nil
}

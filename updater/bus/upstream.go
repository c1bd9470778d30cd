package bus

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/drydock-os/drydock/updater"
	"github.com/godbus/dbus/v5"
)

// Upstream listens to upstream's update_engine on com.coreos.update1, and asks
// it for nothing but its status. Set the fields, then call Run.
type Upstream struct {
	Address string // as of Server
	// Hear is told each word, in order, on Run's goroutine; the zero one while
	// nobody has the name.
	Hear func(updater.Upstream)
	// Trouble is told, if it is not nil, that the bus is lost or cannot be
	// reached, the same once only, and nil when it was reached.
	Trouble func(error)

	told string
}

// askUpstream is how long upstream is silent before it is asked: it does not
// signal a ResetStatus (update_attempter.cc).
const askUpstream = 30 * time.Second

// Run listens until ctx ends. A bus that is not there, or goes away, is tried
// again with growing pauses.
func (u *Upstream) Run(ctx context.Context) error {
	pause := firstPause
	for ctx.Err() == nil {
		heard, err := u.session(ctx)
		if ctx.Err() != nil {
			break
		}
		u.Hear(updater.Upstream{})
		u.trouble(err)
		if heard {
			pause = firstPause
		}
		wait := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-wait.C:
		}
		wait.Stop()
		pause = min(2*pause, lastPause)
	}
	return nil
}

func (u *Upstream) trouble(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if u.Trouble != nil && text != u.told {
		u.told = text
		u.Trouble(err)
	}
}

// session is one stay on the bus, and reports whether it got as far as
// listening.
func (u *Upstream) session(ctx context.Context) (listened bool, err error) {
	dialing, cancel := context.WithTimeout(ctx, dialPatience)
	defer cancel()
	conn, err := connect(dialing, u.Address)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	signals := make(chan *dbus.Signal, 256)
	conn.Signal(signals)
	for _, rule := range [][]dbus.MatchOption{
		// The bus lets through what the owner of the name sends: locksmithctl
		// sends the same signal in upstream's stead (send_need_reboot.go).
		{dbus.WithMatchSender(Update1Name), dbus.WithMatchObjectPath(Update1Path), dbus.WithMatchInterface(Update1Interface), dbus.WithMatchMember("StatusUpdate")},
		{dbus.WithMatchSender("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, Update1Name)},
	} {
		if err := conn.AddMatchSignalContext(dialing, rule...); err != nil {
			return false, fmt.Errorf("listen to update_engine: %w", err)
		}
	}
	cancel()
	u.trouble(nil)
	return true, u.listen(ctx, conn, signals)
}

// listen tells what upstream says until the connection ends.
func (u *Upstream) listen(ctx context.Context, conn *connection, signals <-chan *dbus.Signal) error {
	u.ask(ctx, conn)
	for {
		quiet := time.NewTimer(askUpstream)
		select {
		case <-quiet.C:
			u.ask(ctx, conn)
		case signal, open := <-signals:
			switch {
			case !open:
				quiet.Stop()
				return errBusLost
			case signal.Name == nameOwnerChanged: // it came, went, or was started anew
				u.ask(ctx, conn)
			case signal.Name == Update1Interface+".StatusUpdate":
				u.hear(signal.Body)
			}
		}
		quiet.Stop()
	}
}

// ask asks upstream for its status. An engine that does not answer is one that
// does not run: nothing is built on it.
func (u *Upstream) ask(ctx context.Context, conn *connection) {
	ctx, cancel := context.WithTimeout(ctx, systemPatience)
	defer cancel()
	call := conn.Object(Update1Name, Update1Path).CallWithContext(ctx, Update1Interface+".GetStatus", dbus.FlagNoAutoStart)
	if call.Err != nil {
		u.Hear(updater.Upstream{})
		return
	}
	u.hear(call.Body)
}

// maxUpstreamVersion bounds a version that upstream names, in bytes: the longest
// in use have forty.
const maxUpstreamVersion = 128

// lastSecond is of the last year that JSON can write.
const lastSecond = 253402300799

// hear reads (xdssx). What is not that, or names what is no operation, says
// only that upstream is there.
func (u *Upstream) hear(body []any) {
	var said update1Status
	up := updater.Upstream{Running: true}
	if dbus.Store(body, &said.LastChecked, &said.Progress, &said.Operation, &said.NewVersion, &said.NewSize) == nil {
		up.Operation = updater.Operation(max(slices.Index(update1Words[:], said.Operation), 0))
		up.NewSize = max(said.NewSize, 0)
		if v := said.NewVersion; v != "0.0.0" && len(v) <= maxUpstreamVersion && !strings.ContainsFunc(v, func(r rune) bool { return !unicode.IsGraphic(r) }) {
			up.NewVersion = v
		}
		if !math.IsNaN(said.Progress) {
			up.Progress = min(max(said.Progress, 0), 1)
		}
		if said.LastChecked > 0 && said.LastChecked <= lastSecond {
			up.LastChecked = fromUnix(said.LastChecked)
		}
	}
	u.Hear(up)
}

// Rival says which program but the one with process id self has
// com.coreos.update1 on the bus at address: nil for none, or where no bus can be
// asked.
func Rival(ctx context.Context, address string, self int) error {
	ctx, cancel := context.WithTimeout(ctx, dialPatience)
	defer cancel()
	conn, err := connect(ctx, address)
	if err != nil {
		return nil // a machine without a bus updates itself, and update_engine does not run there
	}
	defer conn.Close()
	var owner string
	var pid uint32
	bus := conn.BusObject()
	if bus.CallWithContext(ctx, "org.freedesktop.DBus.GetNameOwner", 0, Update1Name).Store(&owner) != nil {
		return nil
	}
	_ = bus.CallWithContext(ctx, "org.freedesktop.DBus.GetConnectionUnixProcessID", 0, owner).Store(&pid) // 0: not known
	if int64(pid) == int64(self) {
		return nil
	}
	return fmt.Errorf("another program has %s on the bus (process %d): two would write the same slot, and reboot as each sees fit. "+
		"End it (systemctl stop update-engine.service), or set shadow = true", Update1Name, pid)
}

package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/drydock-os/drydock/updater"
	"github.com/godbus/dbus/v5"
)

// A Client asks the drydockd of this machine. Its methods may be called from
// several goroutines.
type Client struct {
	// Interactive lets polkit ask the person at the terminal for a password.
	Interactive bool

	conn   *connection
	listen sync.Once
	deaf   error // why listen did not work
}

// Dial connects to the bus at address, a D-Bus address of a unix socket. The
// empty address is $DRYDOCK_BUS if that is set, else the system bus. It does
// not ask whether drydockd is there: the first call does, with ErrNotRunning.
func Dial(ctx context.Context, address string) (*Client, error) {
	if address == "" {
		address = os.Getenv("DRYDOCK_BUS")
	}
	conn, err := connect(ctx, address)
	if err != nil {
		return nil, err
	}
	return &Client{conn: conn}, nil
}

// Close ends the connection. What was started goes on.
func (c *Client) Close() error { return c.conn.Close() }

// Status returns what everybody may know about this machine's updates.
func (c *Client) Status(ctx context.Context) (updater.Status, error) {
	var text string
	if err := c.call(ctx, "Status", nil, &text); err != nil {
		return updater.Status{}, err
	}
	return decodeStatus(text)
}

// Explain returns why the machine does nothing (more) right now, most
// important first.
func (c *Client) Explain(ctx context.Context) ([]updater.Reason, error) {
	var wire []wireReason
	if err := c.call(ctx, "Explain", nil, &wire); err != nil {
		return nil, err
	}
	reasons := make([]updater.Reason, 0, len(wire))
	for _, w := range wire {
		reasons = append(reasons, updater.Reason{Kind: w.Kind, Text: w.Text, Until: fromUnix(w.Until)})
	}
	return reasons, nil
}

// History returns what happened to this machine's releases, newest first.
func (c *Client) History(ctx context.Context) ([]updater.HistoryEntry, error) {
	var entries []updater.HistoryEntry
	return entries, c.document(ctx, "History", &entries)
}

// Plan has the daemon ask the update server, and returns what an update would
// do now.
func (c *Client) Plan(ctx context.Context) (updater.Plan, error) {
	var plan updater.Plan
	return plan, c.document(ctx, "Plan", &plan)
}

// document calls a method that gives a JSON document.
func (c *Client) document(ctx context.Context, method string, into any) error {
	var text string
	if err := c.call(ctx, method, nil, &text); err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(text), into); err != nil {
		return fmt.Errorf("read drydockd's answer to %s: %w", method, err)
	}
	return nil
}

// Watch calls f with the present status and again after each change, until
// ctx ends or the bus goes away; changes that follow closely may be told as
// one. A daemon that restarts is waited for. f runs on the caller's goroutine.
func (c *Client) Watch(ctx context.Context, f func(updater.Status)) error {
	signals, err := c.subscribe(ctx)
	if err != nil {
		return err
	}
	defer c.conn.RemoveSignal(signals)
	status, err := c.Status(ctx)
	if err != nil {
		return err
	}
	f(status)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case _, open := <-signals:
			if !open {
				return errBusLost
			}
			drain(signals)
			status, err := c.Status(ctx)
			if errors.Is(err, ErrNotRunning) {
				continue // its return is a signal as well
			}
			if err != nil {
				return err
			}
			f(status)
		}
	}
}

// drain takes what is waiting: one look at the status answers all of it.
func drain(signals chan *dbus.Signal) {
	for {
		select {
		case _, open := <-signals:
			if !open {
				return
			}
		default:
			return
		}
	}
}

// subscribe returns a channel of our service's signals, and of the coming and
// going of its owner.
func (c *Client) subscribe(ctx context.Context) (chan *dbus.Signal, error) {
	c.listen.Do(func() {
		for _, rule := range [][]dbus.MatchOption{
			{dbus.WithMatchSender(Name), dbus.WithMatchObjectPath(Path)},
			{dbus.WithMatchSender("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, Name)},
		} {
			c.deaf = errors.Join(c.deaf, c.conn.AddMatchSignalContext(ctx, rule...))
		}
	})
	if c.deaf != nil {
		return nil, fmt.Errorf("listen to drydockd: %w", c.deaf)
	}
	signals := make(chan *dbus.Signal, 64)
	c.conn.Signal(signals)
	return signals, nil
}

// answerPatience bounds the methods that only read: the daemon answers them
// from memory, whatever it is doing. The others may wait for a password.
const answerPatience = 30 * time.Second

var reads = map[string]bool{"Status": true, "History": true, "Explain": true}

// errMute says that the daemon is there and does not answer.
var errMute = errors.New("drydockd does not answer: systemctl status drydockd")

// call calls a method of the manager.
func (c *Client) call(ctx context.Context, method string, args []any, results ...any) error {
	if reads[method] {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, answerPatience, errMute)
		defer cancel()
	}
	return c.invoke(ctx, ManagerInterface+"."+method, args, results...)
}

// invoke calls a method of our object, by its full name. Where ctx ended for
// errMute, so did the call.
func (c *Client) invoke(ctx context.Context, method string, args []any, results ...any) error {
	var flags dbus.Flags
	if c.Interactive {
		flags = dbus.FlagAllowInteractiveAuthorization
	}
	object := c.conn.Object(Name, Path)
	err := object.CallWithContext(ctx, method, flags, args...).Store(results...)
	if err != nil && errors.Is(context.Cause(ctx), errMute) {
		return errMute
	}
	return clientError(err)
}

func fromUnix(seconds int64) time.Time {
	if seconds == 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0)
}

package bus

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/godbus/dbus/v5"
)

// actionPrefix begins the names of our polkit actions; the verb follows. They
// are declared in dist/polkit-1/actions/io.drydock.policy.
const actionPrefix = "io.drydock."

const (
	polkitName      = "org.freedesktop.PolicyKit1"
	polkitPath      = "/org/freedesktop/PolicyKit1/Authority"
	polkitAuthority = "org.freedesktop.PolicyKit1.Authority"

	// allowUserInteraction is polkit's CheckAuthorizationFlags AllowUserInteraction.
	allowUserInteraction = uint32(1)
)

// Patience with polkit. A person types a password in less than the longer
// one; polkit itself decides in milliseconds.
const (
	decisionPatience = 30 * time.Second
	passwordPatience = 5 * time.Minute
)

// polkit asks org.freedesktop.PolicyKit1 on the same bus.
type polkit struct{ conn *connection }

// subject is polkit's (sa{sv}): a connection, by its unique name on this bus.
type subject struct {
	Kind    string
	Details map[string]dbus.Variant
}

// authorization is polkit's answer (bba{ss}).
type authorization struct {
	Authorized, Challenge bool
	Details               map[string]string
}

// authorize lets uid 0 do everything, polkit or not, and asks polkit for
// everybody else. Any answer but a clear yes is a no.
func (p polkit) authorize(ctx context.Context, c Caller, action string) error {
	if c.UID == 0 {
		return nil
	}
	patience, flags := decisionPatience, uint32(0)
	if c.Interactive {
		patience, flags = passwordPatience, allowUserInteraction
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	who := subject{"system-bus-name", map[string]dbus.Variant{"name": dbus.MakeVariant(c.Name)}}
	question := rand.Text() // names it for CancelCheckAuthorization
	authority := p.conn.Object(polkitName, polkitPath)
	var answer authorization
	err := authority.CallWithContext(ctx, polkitAuthority+".CheckAuthorization", 0,
		who, action, map[string]string{}, flags, question).Store(&answer)
	if ctx.Err() != nil { // do not leave a password prompt behind
		authority.Call(polkitAuthority+".CancelCheckAuthorization", dbus.FlagNoReplyExpected, question)
	}
	switch name := errorName(err); {
	case name == errorServiceUnknown || name == errorNameHasNoOwner:
		return fmt.Errorf("%s needs root: polkit is not running on this machine", action)
	case err != nil:
		return fmt.Errorf("ask polkit for %s: %w", action, err)
	case answer.Authorized:
		return nil
	case answer.Challenge && !c.Interactive:
		return failure(errorInteractive, fmt.Sprintf("%s needs a password, and the caller did not let one be asked for", action))
	}
	return fmt.Errorf("polkit does not allow %s", action)
}

// Package bus puts the updater on the system D-Bus, and asks logind, systemd and polkit over it.
//
// Three things use it: the daemon exports its services with a Server, the
// command line asks them with a Client, and the updater's host asks Login and
// Systemd. A machine without a bus still updates itself: nothing here holds
// the updater up.
package bus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/godbus/dbus/v5"
)

// Our own service: one object, and one more for each running job.
const (
	Name             = "io.drydock.Drydock1"
	Path             = "/io/drydock/Drydock1"
	ManagerInterface = "io.drydock.Drydock1.Manager"
	JobInterface     = "io.drydock.Drydock1.Job"
	jobsPath         = Path + "/job"
)

// Upstream's service, as update_engine's dbus_constants.h and
// update_engine.xml name it. The node name in that XML is not the path.
const (
	Update1Name      = "com.coreos.update1"
	Update1Path      = "/com/coreos/update1"
	Update1Interface = "com.coreos.update1.Manager"
)

const (
	propertiesInterface   = "org.freedesktop.DBus.Properties"
	introspectInterface   = "org.freedesktop.DBus.Introspectable"
	propertiesChanged     = propertiesInterface + ".PropertiesChanged"
	nameOwnerChanged      = "org.freedesktop.DBus.NameOwnerChanged"
	systemAddress         = "unix:path=/run/dbus/system_bus_socket"
	errorServiceUnknown   = "org.freedesktop.DBus.Error.ServiceUnknown"
	errorNameHasNoOwner   = "org.freedesktop.DBus.Error.NameHasNoOwner"
	errorUnknownMethod    = "org.freedesktop.DBus.Error.UnknownMethod"
	errorUnknownInterface = "org.freedesktop.DBus.Error.UnknownInterface"
	errorInvalidArgs      = "org.freedesktop.DBus.Error.InvalidArgs"
	errorUnknownObject    = "org.freedesktop.DBus.Error.UnknownObject"
	errorNoReply          = "org.freedesktop.DBus.Error.NoReply"
	errorTimeout          = "org.freedesktop.DBus.Error.Timeout"
	errorAccessDenied     = "org.freedesktop.DBus.Error.AccessDenied"
	errorInteractive      = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"
)

// connection is a D-Bus connection whose socket can be torn down while a
// write to it is blocked: dbus.Conn.Close alone would wait for that write.
type connection struct {
	*dbus.Conn
	socket net.Conn
}

// Close ends the connection. Calls that are under way return with an error.
func (c *connection) Close() error {
	c.socket.Close()
	return c.Conn.Close()
}

// connect opens a private connection to the bus at address ("" is the system
// bus), bounded by ctx. Only unix sockets are taken: they alone tell the bus
// who is calling.
func connect(ctx context.Context, address string) (*connection, error) {
	if address == "" {
		address = os.Getenv("DBUS_SYSTEM_BUS_ADDRESS")
	}
	if address == "" {
		address = systemAddress
	}
	var errs []error
	for one := range strings.SplitSeq(address, ";") {
		conn, err := connectOne(ctx, one)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("connect to bus %s: %w", address, errors.Join(errs...))
}

func connectOne(ctx context.Context, address string) (*connection, error) {
	path, err := socketPath(address)
	if err != nil {
		return nil, err
	}
	var dialer net.Dialer
	socket, err := dialer.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { socket.Close() })
	conn, err := dbus.NewConn(socket)
	if err != nil {
		socket.Close()
		return nil, err
	}
	if err = conn.Auth(nil); err == nil {
		err = conn.Hello()
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		socket.Close()
		conn.Close()
		return nil, err
	}
	return &connection{conn, socket}, nil
}

// socketPath reads an address of the D-Bus specification ("Server Addresses",
// "Unix Domain Sockets") as a path for package net: one that begins with @ is
// in the abstract name space.
func socketPath(address string) (string, error) {
	keys, ok := strings.CutPrefix(address, "unix:")
	if !ok {
		return "", fmt.Errorf("bus address %q: want unix:path= or unix:abstract=", address)
	}
	for pair := range strings.SplitSeq(keys, ",") {
		key, value, _ := strings.Cut(pair, "=")
		value, err := dbus.UnescapeBusAddressValue(value)
		if err != nil {
			return "", fmt.Errorf("bus address %q: %w", address, err)
		}
		switch key {
		case "path":
			return value, nil
		case "abstract":
			return "@" + value, nil
		}
	}
	return "", fmt.Errorf("bus address %q: want unix:path= or unix:abstract=", address)
}

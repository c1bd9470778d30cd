package bus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"time"

	"github.com/drydock-os/drydock/updater"
	"github.com/godbus/dbus/v5"
)

// ClusterInterface is on our one object, beside the manager's; manager.xml
// describes it.
const ClusterInterface = "io.drydock.Drydock1.Cluster"

// A Cluster is what this machine's daemon knows of the other machines, and may
// do to their reboot lock. The documents are JSON, which the bus carries and
// does not read. A Client is one, and so is what answers it.
type Cluster interface {
	// Look returns the whole lock as it is.
	Look(ctx context.Context) ([]byte, error)
	// Journal returns the last entries of a group's journal, newest first; of all
	// with group "", and as many as are kept with limit 0.
	Journal(ctx context.Context, group string, limit int) ([]byte, error)
	// Change has who carry out a verb, and returns what came of it.
	Change(ctx context.Context, verb string, args []byte, who string) ([]byte, error)
}

var _ Cluster = (*Client)(nil)

// ErrNoCluster says that the daemon belongs to no cluster.
var ErrNoCluster = errors.New("drydockd on this machine belongs to no cluster")

const (
	// clusterAction is the polkit action of every change.
	clusterAction = actionPrefix + "lock-manage"
	// clusterPatience bounds one answer, which comes from etcd. It is shorter than
	// that of a Client.
	clusterPatience = 20 * time.Second
	// maxLooks bounds the answers that are being made: anybody may ask, and each
	// reads the whole lock.
	maxLooks = 2
	// maxDocument bounds a document in bytes, well within what dbus-daemon carries
	// (32 MiB): the view of 10,000 machines takes about 10 MB.
	maxDocument = 24 << 20
	// maxChange bounds the arguments of a change, in bytes: rules with a hundred
	// windows take about 10,000.
	maxChange = 64 << 10
)

// cluster is io.drydock.Drydock1.Cluster.
type cluster struct{ *desk }

// Look gives the JSON of rebootlock.View.
func (c *cluster) Look() (string, *dbus.Error) {
	return c.read(func(ctx context.Context, of Cluster) ([]byte, error) { return of.Look(ctx) })
}

// Journal gives the JSON of a list of rebootlock.Entry, newest first.
func (c *cluster) Journal(group string, limit uint32) (string, *dbus.Error) {
	if len(group) > maxArgument {
		return "", failure(errorInvalid, fmt.Sprintf("an argument has %d bytes, at most %d are taken", len(group), maxArgument))
	}
	return c.read(func(ctx context.Context, of Cluster) ([]byte, error) {
		return of.Journal(ctx, group, int(min(limit, 1<<30)))
	})
}

// Change carries out an operator's verb, if the sender of msg may.
func (c *cluster) Change(msg dbus.Message, verb, args string) (string, *dbus.Error) {
	if len(verb) > maxArgument || len(args) > maxChange {
		return "", failure(errorInvalid, fmt.Sprintf("the change has %d bytes, at most %d are taken", len(args), maxChange))
	}
	if c.server.Cluster == nil {
		return "", busError(ErrNoCluster)
	}
	if err := c.authorize(msg, clusterAction); err != nil {
		return "", err
	}
	caller, err := c.caller(c.conn.Context(), msg)
	if err != nil {
		return "", busError(err)
	}
	job, ctx, err := c.server.jobs.add(updater.Request{}, "")
	if err != nil {
		return "", busError(err)
	}
	defer c.server.jobs.remove(job)
	ctx, cancel := context.WithTimeout(ctx, clusterPatience)
	defer cancel()
	return sendable(c.server.Cluster.Change(ctx, verb, []byte(args), operator(caller.UID)))
}

// read answers a question that is open to everybody.
func (c *cluster) read(ask func(context.Context, Cluster) ([]byte, error)) (string, *dbus.Error) {
	s := c.server
	if s.Cluster == nil {
		return "", busError(ErrNoCluster)
	}
	if s.looks.Add(1) > maxLooks {
		s.looks.Add(-1)
		return "", busError(fmt.Errorf("%w: %d look at the cluster right now", updater.ErrBusy, maxLooks))
	}
	defer s.looks.Add(-1)
	ctx, cancel := context.WithTimeout(c.conn.Context(), clusterPatience)
	defer cancel()
	return sendable(ask(ctx, s.Cluster))
}

// sendable is an answer as the bus carries it.
func sendable(document []byte, err error) (string, *dbus.Error) {
	if err == nil && len(document) > maxDocument {
		err = fmt.Errorf("the answer has %d bytes, which is too much for D-Bus: ask etcd with --endpoints", len(document))
	}
	if err != nil {
		return "", busError(err)
	}
	return string(document), nil
}

// operator names a user of this machine for the journal.
func operator(uid uint32) string {
	name := "uid " + strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10)); err == nil {
		name = u.Username
	}
	host, err := os.Hostname()
	if err != nil {
		return "operator " + name
	}
	return "operator " + name + "@" + host
}

// Look returns the JSON of rebootlock.View. See Cluster.
func (c *Client) Look(ctx context.Context) ([]byte, error) {
	return c.clusterCall(ctx, "Look", answerPatience)
}

// Journal returns the JSON of a list of rebootlock.Entry. See Cluster.
func (c *Client) Journal(ctx context.Context, group string, limit int) ([]byte, error) {
	return c.clusterCall(ctx, "Journal", answerPatience, group, uint32(max(limit, 0)))
}

// Change carries out a verb in the name of who calls: the daemon finds out who
// that is. See Cluster.
func (c *Client) Change(ctx context.Context, verb string, args []byte, _ string) ([]byte, error) {
	return c.clusterCall(ctx, "Change", passwordPatience+answerPatience, verb, string(args))
}

func (c *Client) clusterCall(ctx context.Context, method string, patience time.Duration, args ...any) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errMute)
	defer cancel()
	var document string
	err := c.invoke(ctx, ClusterInterface+"."+method, args, &document)
	return []byte(document), err
}

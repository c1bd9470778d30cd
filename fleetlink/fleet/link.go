// Package fleet drains a machine of CoreOS fleet, unit by unit, and brings back
// what it stopped.
//
// fleet has no drain of its own: what it has is a schedule in etcd, one key a
// unit, which its engine only corrects where a unit cannot be where the key says.
// A Link picks the machine that the engine would pick and swaps that key, one
// unit at a time; the next one only when the former has been up elsewhere for
// longer than a heartbeat. What it does is written into etcd before it is done,
// beside fleet's own keys and not among them, so that a machine that dies in the
// middle of a drain finds its way back, and other machines give it no work
// meanwhile. After Resume that is gone as well.
package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/fleetlink/fleet/etcd2"
)

// Where fleet is, and its timing, as it comes.
const (
	DefaultEndpoint  = "unix:///var/run/fleet.sock"
	DefaultPrefix    = "/_coreos.com/fleet/"
	DefaultHeartbeat = 24 * time.Second // four fifths of agent_ttl
	DefaultPoll      = 2 * time.Second
	DefaultStop      = 90 * time.Second // systemd's DefaultTimeoutStopSec
	DefaultTimeout   = 10 * time.Second
)

// Options say where a fleet is, and how careful to be with it. All but Etcd,
// Machine.ID and Record have a default.
type Options struct {
	Endpoint string        // fleet's HTTP API, as fleetctl takes it: unix:///path or http://host:port
	Etcd     etcd2.Options // fleet's etcd_servers, with fleet's TLS settings
	Prefix   string        // fleet's etcd_key_prefix

	// CordonKey and CordonValue are the metadata that closes a machine, both or none:
	// units that ask for another value of the key (MachineMetadata=reboot=ok) are
	// not scheduled to a machine that has this one (reboot=draining).
	CordonKey, CordonValue string

	// Heartbeat is how long after a move what fleet tells of a unit may be wrong; a
	// unit has to be up for longer than that before the next one moves. It is at least
	// four fifths of fleet's agent_ttl.
	Heartbeat time.Duration
	// Linger is how long after a unit's announcement was withdrawn the unit itself
	// stays, so that who connects to it learns of that.
	Linger time.Duration
	// Stop is how long an announcement may take to end before the move is given up for
	// now; and how long, and a Heartbeat longer, a unit that left may take to end here
	// where systemd cannot be asked.
	Stop    time.Duration
	Poll    time.Duration // how often fleet is looked at while something is waited for
	Timeout time.Duration // of one request

	// Units is this machine's systemd. nil: a unit that left is given its time to end
	// (Stop), and nobody looks whether it did.
	Units   Units
	Machine fleetlink.Machine
	// Instance tells this machine from a clone of it that has the same machine-id;
	// it outlives reboots. "": clones are not told apart.
	Instance string
	// Record keeps after Resume what has to be up again.
	Record fleetlink.Record
	// Now is the clock; nil: the system's.
	Now func() time.Time
}

// metadataKey is what fleet takes as a key of metadata (api/machines.go).
var metadataKey = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)

// Check says what does not fit.
func (o Options) Check() error {
	switch {
	case !validName(o.Machine.ID):
		return fmt.Errorf("machine-id %q is none", o.Machine.ID)
	case o.Record == nil:
		return errors.New("no record is given")
	case (o.CordonKey == "") != (o.CordonValue == ""):
		return errors.New("a cordon needs both a key and a value of the machine's metadata")
	case o.CordonKey != "" && !metadataKey.MatchString(o.CordonKey):
		return fmt.Errorf("metadata key %q: fleet takes letters, digits, '_', '.' and '-'", o.CordonKey)
	case o.Prefix != "" && !strings.HasPrefix(o.Prefix, "/"):
		return fmt.Errorf("etcd key prefix %q does not begin with a slash", o.Prefix)
	case min(o.Heartbeat, o.Linger, o.Stop, o.Poll, o.Timeout) < 0:
		return errors.New("a time is negative")
	}
	return o.Etcd.Check()
}

// A Link is a fleetlink.Link of one machine of a fleet.
type Link struct {
	o    Options
	api  *api
	etcd *etcd2.Client

	mu    sync.Mutex
	files unitFiles
}

// Open makes a Link. It reads the files that the options name, and asks nobody.
func Open(o Options) (*Link, error) {
	if err := o.Check(); err != nil {
		return nil, fmt.Errorf("open fleet link: %w", err)
	}
	o.Prefix = path.Clean(cmp.Or(o.Prefix, DefaultPrefix))
	o.Heartbeat, o.Poll = cmp.Or(o.Heartbeat, DefaultHeartbeat), cmp.Or(o.Poll, DefaultPoll)
	o.Stop, o.Timeout = cmp.Or(o.Stop, DefaultStop), cmp.Or(o.Timeout, DefaultTimeout)
	if o.Now == nil {
		o.Now = now
	}
	l := &Link{o: o}
	var err error
	if l.api, err = openAPI(cmp.Or(o.Endpoint, DefaultEndpoint), o.Timeout); err != nil {
		return nil, fmt.Errorf("open fleet link: %w", err)
	}
	o.Etcd.Timeout = cmp.Or(o.Etcd.Timeout, o.Timeout)
	if l.etcd, err = etcd2.Open(o.Etcd); err != nil {
		return nil, fmt.Errorf("open fleet link: %w", err)
	}
	return l, nil
}

// now is the clock where none is given.
func now() time.Time { return time.Now() }

// key is one of fleet's own keys.
func (l *Link) key(elem ...string) string { return path.Join(append([]string{l.o.Prefix}, elem...)...) }

// Preflight implements fleetlink.Link: it moves the units in its mind alone, one
// after the other, and lists those for which no machine was left.
func (l *Link) Preflight(ctx context.Context) ([]fleetlink.Workload, error) {
	v, err := l.look(ctx)
	if err == nil {
		err = v.present()
	}
	if err != nil {
		return nil, fmt.Errorf("preflight: %w", err)
	}
	var held []fleetlink.Workload
	for _, m := range v.plan() {
		if m.to == "" || m.job != "" {
			held = append(held, v.workloads(m.group, cmp.Or(m.job, m.why))...)
		}
	}
	return held, nil
}

// Standing implements fleetlink.Link.
func (l *Link) Standing(ctx context.Context) (fleetlink.Standing, error) {
	r, err := l.recall(ctx)
	if err != nil || r == nil {
		return fleetlink.Standing{}, wrap("standing", err)
	}
	v, err := l.look(ctx)
	if err != nil {
		return fleetlink.Standing{}, wrap("standing", err)
	}
	return fleetlink.Standing{Ours: v.rec != nil, Open: l.o.CordonKey != "" && !v.shut(), Left: v.left()}, nil
}

// Ailments implements fleetlink.Link. Before Resume the machine has to be seen by
// fleet, with the Global units that were up on it when it was cordoned; after, the
// units that were moved or stopped have to be up somewhere. What was seen up there
// and is inactive has ended well: that it was is kept in the Record.
func (l *Link) Ailments(ctx context.Context) ([]fleetlink.Workload, error) {
	v, err := l.look(ctx)
	if err != nil {
		return nil, wrap("ailments", err)
	}
	var ails []fleetlink.Workload
	if err := v.present(); err != nil {
		ails = append(ails, fleetlink.Workload{Name: l.o.Machine.ID, Why: err.Error()})
	}
	more, err := l.missed(ctx, v)
	return append(ails, more...), wrap("ailments", err)
}

// missed lists what was up before and is not well.
func (l *Link) missed(ctx context.Context, v *view) (ails []fleetlink.Workload, err error) {
	back, err := l.expected()
	if err != nil {
		return nil, err
	}
	boot := ""
	if l.o.Machine.BootID != nil {
		if boot, err = l.o.Machine.BootID(); err != nil {
			return nil, err
		}
	}
	before := back.clone()
	back.during(boot, v.self)
	globals := back.Globals
	if v.rec != nil {
		globals = v.rec.Globals
	}
	for _, name := range globals {
		if why := v.globalAils(&back, name); why != "" {
			ails = append(ails, fleetlink.Workload{Name: name, Why: why})
		}
	}
	var states []state
	if len(back.Units) > 0 {
		if states, err = l.api.states(ctx, "", ""); err != nil {
			return nil, err
		}
	}
	for i := range back.Units {
		m := &back.Units[i]
		if why := v.ails(m, states); why != "" {
			ails = append(ails, fleetlink.Workload{Name: m.Name, Why: why})
		}
	}
	if slices.Equal(back.Seen, before.Seen) && slices.Equal(back.Units, before.Units) {
		return ails, nil
	}
	return ails, l.expect(back)
}

// wrap says what was being done when err came up, if it did.
func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/fleetlink/fleet/etcd2"
)

const (
	// recordsKey is where machines that are out of service are written down, one key
	// a machine, below fleet's own prefix: fleets that share an etcd do not meet.
	recordsKey = "/drydock"
	// recordVersion is raised when an older Drydock could not go on from a record.
	recordVersion = 1
)

// A record says that a machine is out of service on our word, and what was done
// for that. Each thing is written down before it is done: what is written and
// not to be seen was not done, or is undone, and nothing has to be put back.
type record struct {
	Version  int       `json:"version"`
	Hostname string    `json:"hostname,omitempty"` // for people who look at etcd
	Instance string    `json:"instance,omitempty"`
	Why      string    `json:"why"`
	Since    time.Time `json:"since"`
	Cordon   *override `json:"cordon,omitempty"`  // of the machine's metadata, by us
	Globals  []string  `json:"globals,omitempty"` // Global units that were up here
	Units    []moved   `json:"units,omitempty"`   // as they were touched

	index uint64 // of the key
}

// An override is a key of a machine's metadata that we set.
type override struct {
	Key    string  `json:"key"`
	Value  string  `json:"value"`
	Before *string `json:"before"`          // the override that was there; nil: none
	Index  uint64  `json:"index,omitempty"` // of our write; 0: the answer to it was lost
}

// moved is what was done to a unit.
type moved struct {
	Name    string `json:"name"`
	Ran     string `json:"ran,omitempty"`     // steady or starting, before it was touched; "": not up
	To      string `json:"to,omitempty"`      // where its schedule was moved; "": nowhere
	Up      string `json:"up,omitempty"`      // where it was seen up since
	Settled bool   `json:"settled,omitempty"` // it was seen to be up there, or need not be
	Gone    bool   `json:"gone,omitempty"`    // it was seen to have ended here, or had its time to
	Was     string `json:"was,omitempty"`     // its desired state, where Set took its place
	Set     string `json:"set,omitempty"`
	Index   uint64 `json:"index,omitempty"` // of the write of Set; 0: the answer to it was lost
}

// What a unit was doing when it was touched.
const (
	ranSteady   = "steady"
	ranStarting = "starting"
)

// line finds what was done to a unit; nil if nothing was.
func (r *record) line(name string) *moved {
	i := slices.IndexFunc(r.Units, func(m moved) bool { return m.Name == name })
	if i < 0 {
		return nil
	}
	return &r.Units[i]
}

// unit finds what was done to a unit, or adds an empty line for it.
func (r *record) unit(name string) *moved {
	if r.line(name) == nil {
		r.Units = append(r.Units, moved{Name: name})
	}
	return r.line(name)
}

// drop removes lines that say nothing.
func (r *record) drop() {
	r.Units = slices.DeleteFunc(r.Units, func(m moved) bool { return m.To == "" && m.Set == "" })
}

// A foreignRecord is a record under this machine's id that another one wrote.
type foreignRecord struct{ key, hostname, open string }

// Error says what that means.
func (e foreignRecord) Error() string {
	return fmt.Sprintf("a machine with this one's machine-id, called %q, has taken it out of service: two machines have the same id, or this one was installed anew in the middle of a drain; this one neither drains nor reboots until that is cleared up. If no other machine has the id, `%setcdctl rm %s` does it, and units that the record names may have to be started", e.hostname, e.open, e.key)
}

// opening is what takes a cordon's override back by hand, before the record of it
// is removed; "" if there is none.
func (l *Link) opening(r *record) string {
	if r.Cordon == nil {
		return ""
	}
	key := l.key("machines", l.o.Machine.ID, "metadata", r.Cordon.Key)
	if r.Cordon.Before == nil {
		return "etcdctl rm " + key + " && "
	}
	return "etcdctl set " + key + " '" + *r.Cordon.Before + "' && "
}

// records is the directory of the records of this fleet.
func (l *Link) records() string { return path.Join(recordsKey, l.o.Prefix) }

func (l *Link) recordKey() string { return path.Join(l.records(), l.o.Machine.ID) }

// recall reads this machine's record; nil if there is none.
func (l *Link) recall(ctx context.Context) (*record, error) {
	node, _, err := l.etcd.Get(ctx, l.recordKey())
	if etcd2.Is(err, etcd2.KeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return l.decode(node)
}

func (l *Link) decode(node etcd2.Node) (*record, error) {
	r := &record{}
	err := json.Unmarshal([]byte(node.Value), r)
	if err == nil && r.Version < 1 {
		err = errors.New("it has no version")
	}
	switch {
	case err != nil:
		return nil, lasting{fmt.Errorf("the record of this machine's drain cannot be read, so nothing is done: look at etcd's %s, and remove it when nothing that it names is missing: %w", node.Key, err)}
	case r.Version > recordVersion:
		return nil, lasting{fmt.Errorf("the record of this machine's drain (etcd's %s) is of a newer Drydock: finish the drain with that one", node.Key)}
	case r.Instance != l.o.Instance:
		return nil, lasting{foreignRecord{node.Key, r.Hostname, l.opening(r)}}
	}
	r.index = node.ModifiedIndex
	return r, nil
}

// save writes the record over the one that it was read from.
func (l *Link) save(ctx context.Context, r *record) error {
	r.drop()
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	var node etcd2.Node
	if r.index == 0 {
		node, err = l.etcd.Create(ctx, l.recordKey(), string(data))
	} else {
		node, err = l.etcd.Swap(ctx, l.recordKey(), string(data), etcd2.Prev{Index: r.index})
	}
	if err != nil {
		return fmt.Errorf("keep record of the drain: %w", err)
	}
	r.index = node.ModifiedIndex
	return nil
}

// forget removes the record, and the directories that would be left empty.
func (l *Link) forget(ctx context.Context, r *record) error {
	err := l.etcd.Delete(ctx, l.recordKey(), etcd2.Prev{Index: r.index})
	if err != nil && !etcd2.Is(err, etcd2.KeyNotFound) {
		return fmt.Errorf("remove record of the drain: %w", err)
	}
	for dir := l.records(); dir != "/"; dir = path.Dir(dir) {
		if err := l.etcd.RemoveDir(ctx, dir); err != nil {
			break // another machine's record is there, or nobody minds an empty directory
		}
	}
	return nil
}

// backlog is what has to be up after Resume, as this machine's own Record keeps
// it until the next Cordon.
type backlog struct {
	Globals []string `json:"globals,omitempty"`
	Units   []moved  `json:"units,omitempty"`
	Seen    []string `json:"seen,omitempty"` // Global units that were up here since
	Boot    string   `json:"boot,omitempty"` // in which things here were seen up
}

// backlog lists what a record says was up.
func (r *record) backlog() backlog {
	b := backlog{Globals: r.Globals}
	for _, m := range r.Units {
		if m.Ran != "" {
			b.Units = append(b.Units, moved{Name: m.Name, Ran: m.Ran, Up: m.Up})
		}
	}
	return b
}

func (b backlog) clone() backlog {
	b.Globals, b.Units, b.Seen = slices.Clone(b.Globals), slices.Clone(b.Units), slices.Clone(b.Seen)
	return b
}

// during forgets what was seen up on a machine in another boot of it.
func (b *backlog) during(boot, machine string) {
	if b.Boot == boot {
		return
	}
	b.Boot, b.Seen = boot, nil
	for i := range b.Units {
		if b.Units[i].Up == machine {
			b.Units[i].Up = ""
		}
	}
}

func (l *Link) expect(b backlog) error {
	data, err := json.Marshal(b)
	if len(b.Globals)+len(b.Units)+len(b.Seen) == 0 {
		data = nil
	}
	if err == nil {
		err = l.o.Record.Save(data)
	}
	return wrap("keep what has to be up again", err)
}

func (l *Link) expected() (b backlog, err error) {
	err = fleetlink.Recall(l.o.Record, &b)
	return b, wrap("read what has to be up again", err)
}

// Package nomad is the link to a Nomad cluster: it takes this machine's node out
// of service through Nomad's HTTP API, and gives it back.
//
// Nomad has two words for that. A node that is ineligible gets no new work; a
// drain makes it so, and has what runs there leave at the pace of each job's
// migrate block. A drain carries words of ours (Meta), which Nomad keeps as the
// node's LastDrain, over reboots too. Ineligibility carries none, and Nomad keeps
// nothing about a drain that was undone: so what we did, and what we found before
// we did it, stands in a Record as well. The Record is what counts.
//
// Rights of the ACL token, where ACLs are on: node:write; agent:read, for the
// node of the local agent (not with Options.Node); in every namespace ("*")
// read-job, as Nomad hides the allocations of other namespaces without a word;
// alloc-lifecycle there to end what a drain by force leaves. As a policy:
//
//	node { policy = "write" }
//	agent { policy = "read" }
//	namespace "*" { capabilities = ["read-job", "alloc-lifecycle"] }
//
// Nomad 1.1 is the oldest that keeps LastDrain. The API is that of Nomad's
// documentation (HTTP API: nodes, allocations, jobs, agent, client; blocking
// queries), and, where that is silent, of its source: api/nodes.go,
// nomad/node_endpoint.go, nomad/state/state_store.go and nomad/drainer.
//
// The client is our own. Nomad's (github.com/hashicorp/nomad/api) decodes the
// whole job within each allocation: read twenty times over, a node of 500
// allocations (4.5 MB of JSON) took 50 MiB with it, and 13 MiB here, where one
// allocation at a time is read and only what is used of it. drydockd has 40 MiB.
// It would bring five modules and 0.7 MB of program besides.
package nomad

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
)

// Address is that of a Nomad agent of this machine.
const Address = "http://127.0.0.1:4646"

// Options say how Nomad is reached, and how a drain is to be.
type Options struct {
	Address    string // URL of an agent: http, https, or unix:///path of a socket; "": Address
	Region     string // where the node is, if not the agent's own
	Node       string // the node's ID or name; "": that of the local agent, or the one that has this machine's host name
	TokenFile  string // its first line is the ACL token, read anew for each request; "": none
	CAFile     string // PEM certificates that vouch for the agent; "": the system's
	CertFile   string // this machine's own, where the agent asks for one; read anew for each connection
	KeyFile    string
	ServerName string // that the agent's certificate must have, as "server.global.nomad"; "": the address's host

	IgnoreSystemJobs bool // system jobs stay, and end with the machine; false: they are stopped last
	// EndAtDeadline tells Nomad the deadline, for it to end by then what has not
	// left, batch jobs among it. Without it nothing is ended that way: what does not
	// leave, stays, and is the policy's business.
	EndAtDeadline bool

	Timeout time.Duration    // of a request that does not wait for a change; 0: 10 s
	Now     func() time.Time // the clock; nil: the system's
}

// Validate says what is wrong with the options by themselves. It reads no file.
func (o Options) Validate() error {
	u, err := url.Parse(cmp.Or(o.Address, Address))
	switch {
	case err != nil:
		return fmt.Errorf("read the address of Nomad: %w", err)
	case u.Scheme == "unix" && u.Path != "" && u.Host == "":
	case (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && strings.Trim(u.Path, "/") == "":
	default:
		return fmt.Errorf("the address of Nomad, %q, is none of http://HOST:PORT, https://HOST:PORT and unix:///PATH", o.Address)
	}
	if (o.CertFile == "") != (o.KeyFile == "") {
		return errors.New("a certificate for Nomad needs its key, and a key its certificate: name both files, or neither")
	}
	if u.Scheme == "http" && (o.CAFile != "" || o.CertFile != "") {
		return fmt.Errorf("certificates for Nomad are of no use with %s: it is not https", u)
	}
	return nil
}

func now() time.Time { return time.Now() }

// A Link is this machine's side of a Nomad cluster.
type Link struct {
	options Options
	machine fleetlink.Machine
	record  fleetlink.Record
	client  *client
	local   bool          // the agent is one of this machine
	again   time.Duration // between two orders of one drain
	hush    time.Duration // that nothing changes before it is said what is waited for
	spacing time.Duration // between two blocking queries, however fast they are answered

	asking sync.Mutex
	writes string            // the token that was found to have node:write
	hosts  map[string]string // host names of nodes, by ID
}

var _ fleetlink.Link = (*Link)(nil)

// New returns the link of a machine. Nothing is asked of Nomad; the certificates
// are read. What was done to the node is kept in record.
func New(o Options, machine fleetlink.Machine, record fleetlink.Record) (*Link, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if record == nil || machine.ID == "" {
		return nil, errors.New("the link to Nomad needs a record and a machine-id")
	}
	if o.Now == nil {
		o.Now = now
	}
	c, err := newClient(o)
	if err != nil {
		return nil, err
	}
	return &Link{options: o, machine: machine, record: record, client: c, local: c.local(),
		hosts: map[string]string{}, again: 5 * time.Second, hush: 5 * time.Second, spacing: time.Second}, nil
}

// A sight is what was seen of a node at one time.
type sight struct {
	node             node
	allocs           []allocation // that have not ended
	nodeAt, allocsAt uint64       // of Nomad's indexes
}

// look reads the node of this machine and what runs on it.
func (l *Link) look(ctx context.Context) (s sight, err error) {
	if s.node, s.nodeAt, err = l.find(ctx); err != nil {
		return sight{}, err
	}
	s.allocs, s.allocsAt, err = l.allocations(ctx, s.node.ID, 0)
	return s, err
}

// allocations lists what has not ended on a node, after a change since index.
func (l *Link) allocations(ctx context.Context, node string, index uint64) (as []allocation, at uint64, err error) {
	r := request{path: "/v1/node/" + url.PathEscape(node) + "/allocations", right: "node:read", index: index}
	at, err = l.client.get(ctx, r, func(from *limited) (err error) {
		as, err = decodeAllocations(from, allocation.here)
		return err
	})
	if err != nil {
		return nil, 0, fmt.Errorf("list the node's allocations: %w", err)
	}
	return as, at, nil
}

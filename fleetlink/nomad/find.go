package nomad

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// maxRead is how many nodes are read one by one, for their attributes, where none
// has this machine's name.
const maxRead = 100

// find reads the node of this machine: the configured one; else that of the local
// agent; else the one that has this machine's host name. Two that fit are an
// error: the work of another machine must not leave because of us.
func (l *Link) find(ctx context.Context) (node, uint64, error) {
	if want := l.options.Node; want != "" {
		return l.only(ctx, fmt.Sprintf("is called %q or has that ID", want), func(n node) bool { return n.ID == want || n.Name == want })
	}
	if l.local {
		id, err := l.self(ctx)
		if err != nil {
			return node{}, 0, err
		}
		if id != "" {
			n, at, err := l.read(ctx, id, 0)
			if err == nil && l.machine.Hostname != "" && n.hostname() != "" && !sameHost(n.hostname(), l.machine.Hostname) {
				return node{}, 0, fmt.Errorf("the local Nomad agent is node %s of host %q, and this machine is %q: give its node in the policy", n, n.hostname(), l.machine.Hostname)
			}
			return n, at, err
		}
	}
	if l.machine.Hostname == "" {
		return node{}, 0, fmt.Errorf("this machine has no host name to find its Nomad node by: give its node in the policy")
	}
	return l.only(ctx, fmt.Sprintf("is called %q or has that host name", l.machine.Hostname),
		func(n node) bool {
			return sameHost(n.Name, l.machine.Hostname) || sameHost(n.hostname(), l.machine.Hostname)
		})
}

// hostname is the attribute that holds it.
const hostname = "unique.hostname"

func (n node) hostname() string { return n.Attributes[hostname] }

// sameHost compares host names, of which one may lack its domain.
func sameHost(a, b string) bool {
	long, short := strings.ToLower(a), strings.ToLower(b)
	if len(long) < len(short) {
		long, short = short, long
	}
	return short != "" && (long == short || strings.HasPrefix(long, short+".") && !strings.Contains(short, "."))
}

// self asks the agent which node it is; "" if it is none, but a server.
func (l *Link) self(ctx context.Context) (string, error) {
	var agent struct {
		Stats map[string]map[string]string `json:"stats"`
	}
	if _, err := l.client.value(ctx, request{path: "/v1/agent/self", right: "agent:read"}, &agent); err != nil {
		return "", fmt.Errorf("ask the local agent for its node: %w", err)
	}
	return agent.Stats["client"]["node_id"], nil
}

// read reads a node, after a change since index.
func (l *Link) read(ctx context.Context, id string, index uint64) (n node, at uint64, err error) {
	at, err = l.client.value(ctx, request{path: "/v1/node/" + url.PathEscape(id), right: "node:read", index: index}, &n)
	switch {
	case missing(err):
		return node{}, 0, fmt.Errorf("node %s is gone from Nomad: it was purged, or collected as garbage; start the Nomad agent of this machine: %w", id, err)
	case err != nil:
		return node{}, 0, fmt.Errorf("read node %s: %w", id, err)
	case n.ID != id:
		return node{}, 0, fmt.Errorf("read node %s: Nomad answers with node %q", id, n.ID)
	}
	return n, at, nil
}

// only reads the node that fits, if it is the only one.
func (l *Link) only(ctx context.Context, what string, fits func(node) bool) (node, uint64, error) {
	all, err := l.nodes(ctx)
	if err != nil {
		return node{}, 0, err
	}
	some := slices.DeleteFunc(slices.Clone(all), func(n node) bool { return !fits(n) })
	if len(some) == 0 && len(all) <= maxRead {
		for _, n := range all { // a list has no attributes
			host, err := l.host(ctx, n.ID)
			if err != nil {
				return node{}, 0, err
			}
			if n.Attributes = map[string]string{hostname: host}; fits(n) {
				some = append(some, n)
			}
		}
	}
	switch len(some) {
	case 1:
		return l.read(ctx, some[0].ID, 0)
	case 0:
		return node{}, 0, fmt.Errorf("none of Nomad's %d nodes %s: start the Nomad agent of this machine, or give its node in the policy", len(all), what)
	}
	var names []string
	for _, n := range some[:min(len(some), 5)] {
		names = append(names, n.String()+", "+n.Status)
	}
	return node{}, 0, fmt.Errorf("%d of Nomad's nodes could be this machine, as each %s: %s. None was touched: purge the wrong one, or give the ID in the policy",
		len(some), what, strings.Join(names, "; "))
}

// host returns the host name of a node, asked for once; "" if the node is gone.
func (l *Link) host(ctx context.Context, id string) (string, error) {
	l.asking.Lock()
	defer l.asking.Unlock()
	if host, known := l.hosts[id]; known {
		return host, nil
	}
	n, _, err := l.read(ctx, id, 0)
	if missing(err) {
		return "", nil
	}
	if err == nil {
		l.hosts[id] = n.hostname()
	}
	return n.hostname(), err
}

// nodes lists the cluster's nodes.
func (l *Link) nodes(ctx context.Context) (all []node, err error) {
	_, err = l.client.get(ctx, request{path: "/v1/nodes", right: "node:read"}, func(from *limited) error {
		return decodeList(from, maxNodes, func(d *json.Decoder) error {
			var n node
			err := d.Decode(&n)
			all = append(all, n)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list Nomad's nodes: %w", err)
	}
	return all, nil
}

package nomad

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
)

// Keys of a drain's Meta. The message is what Nomad's own tools show.
const (
	metaMessage = "message"
	metaMachine = "drydock.machine" // machine-id
	metaOrder   = "drydock.order"   // mark.Order
	metaFound   = "drydock.found"   // eligibility that was found before
	metaUntil   = "drydock.until"   // the order's deadline, where Nomad is told one
)

// A mark is what is remembered of the time out of service: in the record, as
// JSON, until the next one. Over, it says what is to come back.
type mark struct {
	Node    string   `json:"node"`  // ID of the node that was cordoned
	Order   string   `json:"order"` // tells this time from others, in a drain's Meta
	Why     string   `json:"why"`
	Theirs  bool     `json:"theirs,omitempty"` // somebody else had cordoned or drained it before
	Before  string   `json:"before,omitempty"` // the drain that was its last one then
	Over    bool     `json:"over,omitempty"`   // it was resumed
	Drivers []string `json:"drivers,omitempty"`
	System  []owed   `json:"system,omitempty"` // what ran here of system jobs
	Away    []away   `json:"away,omitempty"`   // and of others

	lost bool // it is not remembered, but what a drain under way says of itself
}

// ours reports whether the node is out of service on our word.
func (m *mark) ours() bool { return m != nil && !m.Over }

// word reports whether Nomad calls a drain of this order complete. It sees what
// the token does not.
func (m *mark) word(n node) bool {
	return n.DrainStrategy == nil && n.LastDrain != nil && n.LastDrain.Status == complete && n.LastDrain.Meta[metaOrder] == m.Order
}

// load reads the mark; nil if there is none.
func (l *Link) load() (*mark, error) {
	data, err := l.record.Load()
	if err != nil {
		return nil, fmt.Errorf("read what was done to the Nomad node: %w", err)
	}
	if len(data) == 0 {
		return nil, nil
	}
	m := &mark{}
	if err := json.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("read what was done to the Nomad node: %w", err)
	}
	return m, nil
}

func (l *Link) save(m *mark) error {
	data, err := json.Marshal(m)
	if err == nil {
		err = l.record.Save(data)
	}
	if err != nil {
		return fmt.Errorf("remember what is done to the Nomad node: %w", err)
	}
	return nil
}

// named reports whether the node's last drain is one of this machine's.
func (l *Link) named(n node) bool {
	return n.LastDrain != nil && n.LastDrain.Meta[metaMachine] == l.machine.ID
}

// recall reads the mark. Where it was lost, a drain under way that has our name
// says the same. One that is over does not: whether it was resumed, and who
// cordoned the node since, Nomad does not tell.
func (l *Link) recall(n node) (*mark, error) {
	m, err := l.load()
	if err == nil && !m.ours() && n.DrainStrategy != nil && l.named(n) {
		meta := n.LastDrain.Meta
		m = &mark{Node: n.ID, Order: meta[metaOrder], Why: meta[metaMessage], Theirs: meta[metaFound] != eligible, lost: true}
	}
	return m, err
}

// Standing implements fleetlink.Link.
func (l *Link) Standing(ctx context.Context) (fleetlink.Standing, error) {
	n, _, err := l.find(ctx)
	if err != nil {
		return fleetlink.Standing{}, fmt.Errorf("read the node's standing: %w", err)
	}
	m, err := l.recall(n)
	if err != nil || !m.ours() {
		return fleetlink.Standing{}, err
	}
	as, _, err := l.allocations(ctx, n.ID, 0)
	if err != nil {
		return fleetlink.Standing{}, fmt.Errorf("read the node's standing: %w", err)
	}
	left := l.left(sight{node: n, allocs: as}, m)
	if len(left) == 0 {
		if left, err = l.copying(ctx, n.ID, m.Away); err != nil {
			return fleetlink.Standing{}, fmt.Errorf("read the node's standing: %w", err)
		}
	}
	return fleetlink.Standing{Ours: true, Open: !n.closed(), Left: left}, nil
}

// Cordon implements fleetlink.Link. Nomad has no place for the reason of a cordon
// without a drain; it stands in the drain's Meta.
func (l *Link) Cordon(ctx context.Context, why string) error {
	s, err := l.look(ctx)
	if err != nil {
		return fmt.Errorf("cordon: %w", err)
	}
	m, err := l.recall(s.node)
	if err != nil {
		return fmt.Errorf("cordon: %w", err)
	}
	fresh := &mark{Node: s.node.ID, Order: l.options.Now().UTC().Format(time.RFC3339Nano), Why: why,
		Theirs: s.node.closed(), Before: s.node.drainID()}
	if m.ours() && m.Node == s.node.ID && s.node.closed() && !l.taken(s.node, m) {
		fresh = m // it may be one that was lost
	}
	if m.ours() && !m.lost { // they were seen before the work left
		fresh.System, fresh.Drivers, fresh.Away = m.System, m.Drivers, m.Away
	} else if err := l.survey(ctx, s, fresh); err != nil {
		return fmt.Errorf("cordon: %w", err)
	}
	// The mark is first: one too many makes Resume do nothing, one too few would
	// leave the machine out of service for ever.
	if err := l.save(fresh); err != nil {
		return fmt.Errorf("cordon: %w", err)
	}
	if s.node.closed() {
		return nil
	}
	if err := l.setEligible(ctx, s.node.ID, ineligible); err != nil {
		return fmt.Errorf("cordon: %w", err)
	}
	return nil
}

// survey notes what is to be as well as it is now.
func (l *Link) survey(ctx context.Context, s sight, m *mark) (err error) {
	m.System, m.Drivers = s.running(), nil
	for name, d := range s.node.Drivers {
		if d.Detected && d.Healthy {
			m.Drivers = append(m.Drivers, name)
		}
	}
	slices.Sort(m.Drivers)
	m.Away, err = l.away(ctx, s.node.ID, s.allocs)
	return err
}

// drainID tells a node's last drain from others.
func (n node) drainID() string {
	if n.LastDrain == nil {
		return ""
	}
	return n.LastDrain.StartedAt.UTC().Format(time.RFC3339Nano) + " " + n.LastDrain.Meta[metaOrder]
}

// running lists the groups of system jobs that run on the node.
func (s sight) running() (groups []owed) {
	for _, a := range s.allocs {
		if g := a.owed(); a.kind() == system && !a.stopping() && a.ClientStatus == "running" && !slices.Contains(groups, g) {
			groups = append(groups, g)
		}
	}
	return groups
}

// setEligible sets the node's eligibility.
func (l *Link) setEligible(ctx context.Context, id, to string) error {
	err := l.client.put(ctx, request{path: "/v1/node/" + url.PathEscape(id) + "/eligibility", right: "node:write",
		body: map[string]string{"NodeID": id, "Eligibility": to}})
	if err != nil {
		return fmt.Errorf("mark node %s %s: %w", id, to, err)
	}
	return nil
}

// setDrain sets the node's drain, or ends it where spec is nil.
func (l *Link) setDrain(ctx context.Context, id string, spec *drainSpec, open bool, meta map[string]string) error {
	err := l.client.put(ctx, request{path: "/v1/node/" + url.PathEscape(id) + "/drain", right: "node:write", body: struct {
		NodeID       string
		DrainSpec    *drainSpec
		MarkEligible bool
		Meta         map[string]string
	}{id, spec, open, meta}})
	if err != nil && spec == nil {
		return fmt.Errorf("end the drain of node %s: %w", id, err)
	}
	if err != nil {
		return fmt.Errorf("drain node %s: %w", id, err)
	}
	return nil
}

// meta is what a drain of ours says of itself.
func (l *Link) meta(m *mark, why string) map[string]string {
	found := eligible
	if m.Theirs {
		found = ineligible
	}
	return map[string]string{metaMessage: why, metaMachine: l.machine.ID, metaOrder: m.Order, metaFound: found}
}

// taken reports whether somebody else has drained the node since it was cordoned.
// The agent's own drain is no one's: it goes down because the machine does, and
// leaves the node ineligible.
func (l *Link) taken(n node, m *mark) bool {
	return !l.named(n) && !n.agents() && n.drainID() != m.Before
}

// Resume implements fleetlink.Link. A drain of somebody else that came on top of
// ours makes the node theirs.
func (l *Link) Resume(ctx context.Context) error {
	n, _, err := l.find(ctx)
	if err != nil {
		return fmt.Errorf("resume: %w", err)
	}
	m, err := l.recall(n)
	if err != nil {
		return fmt.Errorf("resume: %w", err)
	}
	if !m.ours() {
		return nil
	}
	switch {
	case l.taken(n, m), n.DrainStrategy != nil && !l.named(n) && !n.agents():
	case n.DrainStrategy != nil:
		err = l.setDrain(ctx, n.ID, nil, !m.Theirs, l.meta(m, m.Why))
	case n.closed() && !m.Theirs:
		err = l.setEligible(ctx, n.ID, eligible)
	}
	if err == nil {
		m.Over = true
		err = l.save(m)
	}
	if err != nil {
		return fmt.Errorf("resume: %w", err)
	}
	return nil
}

package rebootlock

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A Proxy asks for permits in the name of machines that speak only FleetLock.
// It keeps nothing: a machine may ask through another proxy each time.
type Proxy struct {
	Store Store // which is a Leaser
	Keys  Keys
	Now   func() time.Time
	TTL   time.Duration // for which a ticket outlives the last time that its machine asked
}

// An Answer is what a machine that asks is told.
type Answer struct {
	Granted  bool       // its permit is in PhaseRebooting: it may go down now
	Why      []Obstacle // why not, where it is not
	revision int64      // of the store, as of which this holds
}

// ErrUnknownGroup refuses a group that has no rules.
var ErrUnknownGroup = errors.New("the group has no rules (`drydock lock apply FILE` writes them)")

// ErrOtherWay refuses to speak for a machine for which somebody else does.
var ErrOtherWay = errors.New("the permits of this machine are not asked for through FleetLock")

// The limits of one question.
const (
	askTimeout  = 10 * time.Second // for the store's answers; it takes milliseconds where it is well
	askTries    = 5                // in a row that lose against another writer; each is one change of this machine's or its group's records
	askInterval = 30 * time.Second // between looks while a question is held open, should the watch be silent
)

// Ask puts a machine into its group's queue, or keeps its place there, and says
// whether it may reboot now. A permit goes to PhaseRebooting before it says so,
// under the same conditions as a machine's own Fence. It waits up to wait for
// the permit. After an error nothing is known, and nothing is allowed.
func (p Proxy) Ask(ctx context.Context, group, machine string, wait time.Duration) (Answer, error) {
	a, err := p.ask(ctx, group, machine)
	if err != nil || a.Granted || wait <= 0 {
		return a, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	over := time.NewTimer(wait)
	defer over.Stop()
	look := time.NewTicker(max(time.Millisecond, min(askInterval, p.TTL/3)))
	defer look.Stop()
	changes := p.Store.Watch(ctx, a.revision, Range{Key: p.Keys.Permit(group, machine)}, Range{Key: p.Keys.Rules(group)}, Range{Key: p.Keys.ClusterRecord()})
	for {
		select {
		case <-ctx.Done():
			return Answer{}, ctx.Err()
		case <-over.C:
			return a, nil
		case <-look.C:
		case _, ok := <-changes:
			if !ok {
				changes = nil // the slow look goes on
			}
		}
		if a, err = p.ask(ctx, group, machine); err != nil || a.Granted {
			return a, err
		}
	}
}

func (p Proxy) ask(ctx context.Context, group, machine string) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if err := p.Join(ctx, group, machine); err != nil {
		return Answer{}, err
	}
	for range askTries {
		s, err := p.sight(ctx, group, machine)
		if err != nil {
			return Answer{}, err
		}
		if s.rules.modified == 0 {
			return Answer{}, fmt.Errorf("group %s: %w", group, ErrUnknownGroup)
		}
		done, a, err := p.turn(ctx, s)
		if done || err != nil {
			return a, err
		}
	}
	return Answer{}, fmt.Errorf("ask for machine %s: %w", machine, errBusy)
}

var errBusy = errors.New("its records, or its group's, change all the time; it is to ask again")

// turn makes one move from what was seen. It is not done where somebody else
// moved meanwhile.
func (p Proxy) turn(ctx context.Context, s sight) (done bool, a Answer, err error) {
	a = Answer{revision: s.revision}
	if holds := s.permit.modified != 0 && s.permit.rec.Phase != PhaseEnded; holds {
		if s.permit.rec.Via != viaFleetLock {
			return false, a, fmt.Errorf("%w: %s holds one", ErrOtherWay, asker(s.permit.rec.Via))
		}
		if a.Why = s.stopped(); len(a.Why) > 0 {
			return true, a, nil
		}
		a.Granted, err = p.fence(ctx, s)
		return a.Granted, a, err
	}
	if s.ticket.modified != 0 && s.ticket.rec.Via != viaFleetLock {
		return false, a, fmt.Errorf("%w: %s waits for one", ErrOtherWay, asker(s.ticket.rec.Via))
	}
	a.Why = s.waits()
	done, err = p.queue(ctx, s)
	return done, a, err
}

// asker is who asked, for people.
func asker(via string) string {
	if via == viaOperator {
		return "an operator"
	}
	return "its drydockd"
}

// fence moves the permit to PhaseRebooting, if nothing of what allowed it has
// changed. It is written also where it is there already (the answer was lost, or
// the reboot took its time), so that a Return under way does not end it.
func (p Proxy) fence(ctx context.Context, s sight) (bool, error) {
	permit := s.permit.rec
	if permit.Phase != PhaseRebooting {
		permit.Phase, permit.PhaseSince = PhaseRebooting, p.now()
	}
	r, err := p.Store.Commit(ctx, Txn{
		If: []Cond{
			{Key: s.permitKey, Modified: s.permit.modified},
			{Key: p.Keys.Rules(s.group), Modified: s.rules.modified},
			{Key: p.Keys.Failures(s.group), Modified: s.failures.modified},
			{Key: p.Keys.ClusterRecord(), Modified: s.cluster.modified},
		},
		Then: []Op{{Key: s.permitKey, Value: encode(permit, permit.Extra)}},
	})
	if err != nil {
		return false, fmt.Errorf("fence permit of machine %s: %w", s.machine, err)
	}
	return r.Done, nil
}

// queue keeps the ticket's lease alive, or writes a ticket. A ticket whose lease
// has ended, and that is still there, keeps its place.
func (p Proxy) queue(ctx context.Context, s sight) (done bool, err error) {
	leases, ok := p.Store.(Leaser)
	if !ok {
		return false, errors.New("this store knows no leases that are renewed by number")
	}
	ticket := s.ticket.rec
	if s.ticket.modified == 0 {
		ticket = Ticket{
			Version: version, Machine: s.machine, Group: s.group, Zone: s.member.rec.Zone, Etcd: s.member.rec.Etcd,
			Asked: p.now(), Reason: "asked for through FleetLock", Via: viaFleetLock,
		}
	} else if s.lease != 0 {
		if err = leases.RenewLease(ctx, s.lease); err == nil {
			return true, nil
		} else if !errors.Is(err, ErrRefused) {
			return false, fmt.Errorf("renew ticket of machine %s: %w", s.machine, err)
		}
	}
	lease, err := leases.GrantLease(ctx, p.TTL)
	if err != nil {
		return false, fmt.Errorf("lease a ticket for machine %s: %w", s.machine, err)
	}
	r, err := p.Store.Commit(ctx, Txn{
		If: []Cond{
			{Key: s.ticketKey, Modified: s.ticket.modified},
			{Key: s.permitKey, Modified: s.permit.modified}, // granted meanwhile: no second ticket
		},
		Then: []Op{{Key: s.ticketKey, Value: encode(ticket, ticket.Extra), Lease: lease}},
	})
	if err != nil {
		return false, fmt.Errorf("queue machine %s: %w", s.machine, err)
	}
	return r.Done, nil
}

// Return gives a machine's permit back as used, and its ticket. Giving back
// what it does not have is success, and so is leaving alone what its own
// drydockd has.
func (p Proxy) Return(ctx context.Context, group, machine string) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	for range askTries {
		s, err := p.sight(ctx, group, machine)
		if err != nil && !errors.Is(err, errRules) { // bad rules keep nobody from giving back
			return err
		}
		var t Txn
		if permit := s.permit.rec; permit.Via == viaFleetLock && permit.Phase != PhaseEnded {
			// A grant that was not collected rebooted nobody. What the reboot was for,
			// FleetLock does not tell.
			permit.Ending = Updated
			if permit.Phase == PhaseGranted {
				permit.Ending = Aborted
			}
			permit.Phase, permit.PhaseSince, permit.Detail = PhaseEnded, p.now(), "FleetLock steady-state"
			t.If = append(t.If, Cond{Key: s.permitKey, Modified: s.permit.modified})
			t.Then = append(t.Then, Op{Key: s.permitKey, Value: encode(permit, permit.Extra)})
		}
		if s.ticket.rec.Via == viaFleetLock {
			t.If = append(t.If, Cond{Key: s.ticketKey, Modified: s.ticket.modified})
			t.Then = append(t.Then, Op{Key: s.ticketKey, Delete: true})
		}
		if len(t.Then) == 0 {
			return nil
		}
		r, err := p.Store.Commit(ctx, t)
		if err != nil {
			return fmt.Errorf("give back the permit of machine %s: %w", machine, err)
		}
		if r.Done {
			return nil
		}
	}
	return fmt.Errorf("give back the permit of machine %s: %w", machine, errBusy)
}

// Join makes a machine a member of a group that has rules. One that joined
// another group through a proxy leaves that, with what it holds there: it is up,
// and asks elsewhere. ErrOtherWay: its own drydockd joined another group.
func (p Proxy) Join(ctx context.Context, group, machine string) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	for range askTries {
		s, err := p.sight(ctx, group, machine)
		if err != nil && !errors.Is(err, errRules) {
			return err
		}
		m := s.member.rec
		switch {
		case s.rules.modified == 0 || s.member.modified != 0 && m.Group == group:
			return nil
		case s.member.modified != 0 && m.Via != viaFleetLock:
			return fmt.Errorf("%w: its drydockd made it a member of group %s", ErrOtherWay, m.Group)
		case s.member.modified != 0:
			if err := p.Return(ctx, m.Group, machine); err != nil {
				return err
			}
			m.Group = group
		default:
			m = Member{Version: version, Machine: machine, Group: group, Via: viaFleetLock, Joined: p.now()}
		}
		r, err := p.Store.Commit(ctx, Txn{
			If:   []Cond{{Key: p.Keys.Member(machine), Modified: s.member.modified}},
			Then: []Op{{Key: p.Keys.Member(machine), Value: encode(m, m.Extra)}, p.joined(m)},
		})
		if err != nil {
			return fmt.Errorf("join machine %s: %w", machine, err)
		}
		if r.Done {
			return nil
		}
	}
	return fmt.Errorf("join machine %s: %w", machine, errBusy)
}

// joined is the journal's entry of a new member.
func (p Proxy) joined(m Member) Op {
	e := Entry{Version: version, At: p.now(), Group: m.Group, Machine: m.Machine, Who: viaFleetLock, What: "joined", Why: "it asked through FleetLock"}
	return Op{Key: p.Keys.Entry(entryID(e.At)), Value: encode(e, nil)}
}

func (p Proxy) now() time.Time { return p.Now().UTC() }

// Members returns the names of all machines that the cluster knows; true for
// those that only a proxy speaks for.
func (p Proxy) Members(ctx context.Context) (map[string]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	s, err := p.Store.Read(ctx, p.Keys.all(kindMember))
	if err != nil {
		return nil, fmt.Errorf("read members: %w", err)
	}
	members := make(map[string]bool, len(s.KVs))
	for _, kv := range s.KVs {
		_, names, ok := p.Keys.parse(kv.Key)
		if !ok || len(names) != 1 {
			continue
		}
		m, err := read[Member](kv)
		members[names[0]] = err == nil && m.rec.Via == viaFleetLock
	}
	return members, nil
}

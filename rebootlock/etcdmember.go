package rebootlock

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// maxLag is how many entries a voter may be behind and counts as caught up: a
	// moment's writes of a busy etcd, which has thousands a second.
	maxLag = 1000
	// memberPatience bounds the question to one member how it is.
	memberPatience = 3 * time.Second
	// handOverTime bounds the transfer of the leadership: etcd's own limit is
	// ten elections of a second.
	handOverTime = 15 * time.Second
	// handOverLook is how often it is looked whether another member leads.
	handOverLook = 100 * time.Millisecond
)

// LocalEtcd is the etcd on this machine. Where several run, each is asked. Set
// the fields.
//
// At most one voter of an etcd is granted a permit at a time. That is worth
// something only if the others are well, so Preflight comes before the permit is
// asked for, HandOver before the reboot, and CaughtUp before the permit is given
// back.
type LocalEtcd struct {
	Options     EtcdOptions // endpoints of the etcd that runs on this machine, and of no other
	AllowSingle bool        // an etcd of one member may go down, as an operator says
}

// A voter is one local member, as it says of itself.
type voter struct {
	client *clientv3.Client
	status *clientv3.StatusResponse
	dial   EtcdOptions
}

func (m voter) id() uint64 { return m.status.Header.MemberId }

// String names the member as etcdctl does.
func (m voter) String() string { return fmt.Sprintf("etcd member %x", m.id()) }

// Members returns the voters of etcd on this machine: not learners, which may
// come and go. Each endpoint must answer: what does not is unknown.
func (l LocalEtcd) Members(ctx context.Context) ([]EtcdMember, error) {
	var found []EtcdMember
	err := l.each(ctx, func(_ context.Context, m voter) error {
		if !m.status.IsLearner {
			found = append(found, EtcdMember{Cluster: strconv.FormatUint(m.status.Header.ClusterId, 16), Member: strconv.FormatUint(m.id(), 16)})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("find the voters of etcd on this machine: %w", err)
	}
	slices.SortFunc(found, func(a, b EtcdMember) int {
		return cmp.Or(strings.Compare(a.Cluster, b.Cluster), strings.Compare(a.Member, b.Member))
	})
	return slices.Compact(found), nil // one member has several endpoints
}

// Preflight says why this machine may not go down: another voter is not well, or
// too few are left for a quorum.
func (l LocalEtcd) Preflight(ctx context.Context) error {
	err := l.each(ctx, func(ctx context.Context, m voter) error {
		if m.status.IsLearner {
			return nil
		}
		voters, err := m.voters(ctx)
		if err != nil {
			return err
		}
		if len(voters) == 1 {
			if l.AllowSingle {
				return nil
			}
			return errors.New("it is the only member, and all that needs it stops while it is down: add members, or allow it in the policy")
		}
		var ill []error
		well := 0
		for _, v := range voters {
			if v.ID == m.id() {
				continue
			}
			if _, err := m.ask(ctx, v); err != nil {
				ill = append(ill, err)
				continue
			}
			well++
		}
		if len(ill) > 0 {
			return fmt.Errorf("not all other voters are well: %w", errors.Join(ill...))
		}
		if quorum := len(voters)/2 + 1; well < quorum {
			return fmt.Errorf("%s no quorum of %d: add a member", plural(well, "other voter is", "other voters are"), len(voters))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("look whether etcd can do without this machine: %w", err)
	}
	return nil
}

// HandOver lets another voter lead, if one on this machine does: the one that is
// well and furthest. It returns when that leads.
func (l LocalEtcd) HandOver(ctx context.Context) error {
	err := l.each(ctx, func(ctx context.Context, m voter) error {
		if m.status.Leader != m.id() {
			return nil
		}
		voters, err := m.voters(ctx)
		if err != nil {
			return err
		}
		if len(voters) == 1 && l.AllowSingle {
			return nil
		}
		heir, furthest := uint64(0), uint64(0)
		var ill []error
		for _, v := range voters {
			if v.ID == m.id() {
				continue
			}
			s, err := m.ask(ctx, v)
			if err != nil {
				ill = append(ill, err)
				continue
			}
			if heir == 0 || s.RaftAppliedIndex > furthest {
				heir, furthest = v.ID, s.RaftAppliedIndex
			}
		}
		if heir == 0 {
			return fmt.Errorf("no other voter can lead: %w", errors.Join(ill...))
		}
		return m.handTo(ctx, heir)
	})
	if err != nil {
		return fmt.Errorf("hand the leadership of etcd over: %w", err)
	}
	return nil
}

// CaughtUp says why a member on this machine is not a voter again that the
// others can rely on.
func (l LocalEtcd) CaughtUp(ctx context.Context) error {
	err := l.each(ctx, func(ctx context.Context, m voter) error {
		members, err := m.members(ctx)
		if err != nil {
			return err
		}
		leader := slices.IndexFunc(members, func(v *etcdserverpb.Member) bool { return v.ID == m.status.Leader })
		committed := m.status.RaftIndex
		if leader >= 0 && m.status.Leader != m.id() {
			s, err := m.ask(ctx, members[leader])
			if err != nil {
				return fmt.Errorf("the leader is to say how far it is: %w", err)
			}
			committed = s.RaftIndex
		}
		own, err := m.own(ctx) // after the leader: no lag that is none
		switch {
		case err != nil:
			return fmt.Errorf("ask how far it is: %w", err)
		case own.Leader == 0 || leader < 0:
			return errors.New("it knows no leader")
		case own.IsLearner:
			return errors.New("it is a learner and does not vote: promote it (etcdctl member promote)")
		case len(own.Errors) > 0:
			return fmt.Errorf("it raises an alarm: %s", strings.Join(own.Errors, ", "))
		case own.RaftAppliedIndex+maxLag < committed:
			return fmt.Errorf("it is %d entries behind the leader; %d are allowed", committed-own.RaftAppliedIndex, maxLag)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("wait until etcd on this machine has caught up: %w", err)
	}
	return nil
}

// each asks every endpoint who is there, and does something with each.
func (l LocalEtcd) each(ctx context.Context, do func(context.Context, voter) error) error {
	if len(l.Options.Endpoints) == 0 {
		return errors.New("no endpoint is given")
	}
	for _, endpoint := range l.Options.Endpoints {
		if err := l.one(ctx, endpoint, do); err != nil {
			return err
		}
	}
	return nil
}

func (l LocalEtcd) one(ctx context.Context, endpoint string, do func(context.Context, voter) error) error {
	options := l.Options
	options.Endpoints = []string{endpoint}
	store, err := DialEtcd(options)
	if err != nil {
		return err
	}
	defer store.Close()
	m := voter{client: store.Client, dial: options}
	if m.status, err = m.own(ctx); err != nil {
		return fmt.Errorf("etcd at %s does not say who it is: %w", endpoint, err)
	}
	if err := do(ctx, m); err != nil {
		return fmt.Errorf("%v at %s: %w", m, endpoint, err)
	}
	return nil
}

// members lists the members of the member's cluster, linearizably: it waits
// until this one has applied what was committed before.
func (m voter) members(ctx context.Context) ([]*etcdserverpb.Member, error) {
	ctx, cancel := context.WithTimeout(ctx, memberPatience)
	defer cancel()
	list, err := m.client.MemberList(ctx)
	if err != nil {
		return nil, fmt.Errorf("list members: %w", err)
	}
	return list.Members, nil
}

// voters are the members that vote.
func (m voter) voters(ctx context.Context) ([]*etcdserverpb.Member, error) {
	all, err := m.members(ctx)
	return slices.DeleteFunc(all, func(v *etcdserverpb.Member) bool { return v.IsLearner }), err
}

// own asks the member itself how it is.
func (m voter) own(ctx context.Context) (*clientv3.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, memberPatience)
	defer cancel()
	return m.client.Status(ctx, m.client.Endpoints()[0])
}

// ask asks another voter how it is. An answer is of that voter, which is well:
// it has no alarm, follows the same leader, and is not far behind.
func (m voter) ask(ctx context.Context, other *etcdserverpb.Member) (*clientv3.StatusResponse, error) {
	if len(other.ClientURLs) == 0 {
		return nil, fmt.Errorf("etcd member %x at %s was never started", other.ID, strings.Join(other.PeerURLs, ", "))
	}
	var silent []error
	for _, url := range other.ClientURLs {
		s, err := m.statusOf(ctx, url)
		switch {
		case err != nil:
			silent = append(silent, err)
		case s.Header.MemberId != other.ID || s.Header.ClusterId != m.status.Header.ClusterId:
			silent = append(silent, fmt.Errorf("%s is etcd member %x", url, s.Header.MemberId))
		case len(s.Errors) > 0:
			return nil, fmt.Errorf("etcd member %s raises an alarm: %s", other.Name, strings.Join(s.Errors, ", "))
		case s.Leader == 0 || s.IsLearner:
			return nil, fmt.Errorf("etcd member %s has no leader, or no vote", other.Name)
		case s.Leader != m.status.Leader:
			return nil, fmt.Errorf("etcd member %s follows %x, and this one %x: they are electing", other.Name, s.Leader, m.status.Leader)
		case s.RaftAppliedIndex+maxLag < m.status.RaftAppliedIndex:
			return nil, fmt.Errorf("etcd member %s is %d entries behind", other.Name, m.status.RaftAppliedIndex-s.RaftAppliedIndex)
		default:
			return s, nil
		}
	}
	return nil, fmt.Errorf("etcd member %s does not answer: %w", other.Name, errors.Join(silent...))
}

func (m voter) statusOf(ctx context.Context, url string) (*clientv3.StatusResponse, error) {
	options := m.dial
	options.Endpoints = []string{url}
	store, err := DialEtcd(options)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	ctx, cancel := context.WithTimeout(ctx, memberPatience)
	defer cancel()
	return store.Client.Status(ctx, url)
}

// handTo moves the leadership, and waits until it is seen there.
func (m voter) handTo(ctx context.Context, heir uint64) error {
	ctx, cancel := context.WithTimeout(ctx, handOverTime)
	defer cancel()
	_, err := m.client.MoveLeader(ctx, heir)
	if errors.Is(err, rpctypes.ErrPermissionDenied) {
		return nil // it takes root of etcd, which hands over itself when the reboot stops it in order
	}
	if err != nil {
		return fmt.Errorf("move the leadership to %x: %w", heir, err)
	}
	for {
		s, err := m.own(ctx)
		switch {
		case err != nil:
			return fmt.Errorf("see who leads: %w", err)
		case s.Leader != 0 && s.Leader != m.id():
			return nil
		}
		if !rest(ctx, handOverLook) {
			return fmt.Errorf("the leadership did not leave this member within %s", handOverTime)
		}
	}
}

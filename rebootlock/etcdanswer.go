package rebootlock

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// An EtcdAnswer is what one endpoint of an etcd says of itself, asked alone.
type EtcdAnswer struct {
	Endpoint string
	Err      error // it does not answer, or not to us; nothing else is known then

	Cluster, Member string   // hexadecimal, as etcdctl shows them
	Leader          string   // the member that it follows; "": none
	Learner         bool     // it has no vote
	Version         string   // of its program: "3.6.4"
	Alarms          []string // what else it complains of: an alarm, no leader
	Bytes, Quota    int64    // of its database; Quota is 0 where it does not say (before 3.6)
}

// AskEtcd asks each endpoint of o how it is, all at once, and returns their
// answers in the order of the endpoints. It changes nothing. An error is of o
// itself: a file that cannot be read, endpoints that are none.
func AskEtcd(ctx context.Context, o EtcdOptions) ([]EtcdAnswer, error) {
	if _, err := o.check(); err != nil {
		return nil, fmt.Errorf("connect to etcd: %w", err)
	}
	answers := make([]EtcdAnswer, len(o.Endpoints))
	var asking sync.WaitGroup
	for i, endpoint := range o.Endpoints {
		asking.Go(func() { answers[i] = askEndpoint(ctx, o, endpoint) })
	}
	asking.Wait()
	return answers, nil
}

func askEndpoint(patient context.Context, o EtcdOptions, endpoint string) EtcdAnswer {
	a := EtcdAnswer{Endpoint: endpoint}
	o.Endpoints = []string{endpoint}
	store, err := DialEtcd(o)
	if err != nil {
		a.Err = err
		return a
	}
	defer store.Close()
	ctx, cancel := context.WithTimeout(patient, memberPatience)
	defer cancel()
	ctx, trouble := withTrouble(ctx)
	s, err := store.Client.Status(ctx, store.Client.Endpoints()[0])
	if err != nil {
		if why := trouble.last(); why != "" {
			err = errors.New(why)
		}
		if why := o.refused(patient, store.Client.Endpoints()[0]); why != nil {
			err = why
		}
		a.Err = fmt.Errorf("etcd at %s: %w", endpoint, err)
		return a
	}
	a.Cluster, a.Member = strconv.FormatUint(s.Header.ClusterId, 16), strconv.FormatUint(s.Header.MemberId, 16)
	if s.Leader != 0 {
		a.Leader = strconv.FormatUint(s.Leader, 16)
	}
	a.Learner, a.Version, a.Alarms, a.Bytes, a.Quota = s.IsLearner, s.Version, s.Errors, s.DbSize, s.DbSizeQuota
	return a
}

// refused is why this client and an endpoint with TLS do not trust each other; nil
// where that is not why. A server of TLS 1.3 judges the client's certificate after
// the handshake, and hangs up: who spoke by then may hear of a broken pipe alone.
// This listens.
func (o EtcdOptions) refused(ctx context.Context, endpoint string) error {
	at, found := strings.CutPrefix(endpoint, "https://")
	if !found {
		return nil
	}
	config, err := o.tls()
	if err != nil {
		return nil
	}
	config.NextProtos = []string{"h2"}
	ctx, cancel := context.WithTimeout(ctx, refusalPatience)
	defer cancel()
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", strings.TrimSuffix(at, "/"))
	if err == nil {
		defer conn.Close()
		defer context.AfterFunc(ctx, func() { conn.Close() })()
		_, err = conn.Read(make([]byte, 1))
	}
	var alert tls.AlertError
	var mistrust *tls.CertificateVerificationError
	if op := (*net.OpError)(nil); errors.As(err, &alert) || errors.As(err, &mistrust) || errors.As(err, &op) && op.Op == "remote error" {
		return err
	}
	return nil
}

// refusalPatience bounds the wait for a server's judgement of a certificate.
const refusalPatience = time.Second

// A Right is something that a client wants to do in a store.
type Right struct {
	What string // "change its ticket"
	Key  string // that must be written
}

// MachineRights are what a machine of a group needs (dist/etcd-roles.md), and
// one that coordinates besides.
func MachineRights(k Keys, group, machine string, coordinates bool) []Right {
	rights := []Right{
		{"write its member record", k.Member(machine)},
		{"write its ticket", k.Ticket(group, machine)},
		{"write its permit", k.Permit(group, machine)},
		{"write its status", k.Status(machine)},
		{"write its presence", k.Presence(machine, "doctor")},
		{"write its journal entries", k.OwnEntry(machine, "doctor")},
	}
	if coordinates {
		rights = append(rights, Right{"say that it coordinates", k.Stamp()}, Right{"write the group's ledger", k.Ledger(group)},
			Right{"write the group's failures", k.Failures(group)}, Right{"write permits", k.Permit(group, "doctor")})
	}
	return rights
}

// CheckRights asks, linearizably, whether this client may read the cluster's
// records and do what rights say. It writes nothing: the transaction that it
// sends is judged by the store as any other, its rights and its room included,
// under a condition that never holds. It returns the rights that the store
// refuses, each with its reason; an error says that it did not answer.
func CheckRights(ctx context.Context, s Store, k Keys, rights []Right) (refused map[Right]error, err error) {
	if _, err := s.Read(ctx, Range{Key: k.ClusterRecord()}); err != nil {
		return nil, err
	}
	var all []Op
	for _, r := range rights {
		all = append(all, Op{Key: r.Key, Value: []byte("{}")})
	}
	err = attempt(ctx, s, k, all...)
	if !errors.Is(err, ErrRefused) {
		return nil, err
	}
	refused = map[Right]error{}
	for i, r := range rights {
		switch err := attempt(ctx, s, k, all[i]); {
		case errors.Is(err, ErrRefused):
			refused[r] = err
		case err != nil:
			return refused, err
		}
	}
	return refused, nil
}

// attempt sends changes that are never made: no record was created so late.
func attempt(ctx context.Context, s Store, k Keys, ops ...Op) error {
	_, err := s.Commit(ctx, Txn{If: []Cond{{Key: k.ClusterRecord(), Created: math.MaxInt64}}, Then: ops})
	return err
}

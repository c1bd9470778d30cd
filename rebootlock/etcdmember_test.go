package rebootlock

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/drydock-os/drydock/rebootlock/etcdtest"
)

// localEtcd is the view of the machine on which member i runs.
func localEtcd(c *etcdtest.Cluster, i int) LocalEtcd {
	return LocalEtcd{Options: EtcdOptions{
		Endpoints: []string{c.Endpoints()[i]}, CAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile, User: c.User, PasswordFile: c.PasswordFile,
	}}
}

// patiently calls until there is no error, for as long as an election and a
// start may take.
func patiently(t *testing.T, call func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		err := call(ctx)
		if err == nil {
			return
		}
		if !rest(ctx, 100*time.Millisecond) {
			t.Fatal(err)
		}
	}
}

// TestFlatcar1367EtcdMembersGoDownOneByOne: the members of an etcd went down one
// after the other, each before the one before was back.
func TestFlatcar1367EtcdMembersGoDownOneByOne(t *testing.T) {
	ctx := t.Context()
	c := etcdtest.Start(t, etcdtest.Options{Members: 3})
	first, second := localEtcd(c, 0), localEtcd(c, 1)
	patiently(t, first.Preflight)
	patiently(t, second.Preflight)

	voters := map[EtcdMember]bool{}
	for i := range 3 {
		found, err := localEtcd(c, i).Members(ctx)
		if err != nil || len(found) != 1 || found[0].Cluster == "" {
			t.Fatalf("member %d: %+v, %v", i, found, err)
		}
		voters[found[0]] = true
	}
	if len(voters) != 3 {
		t.Errorf("voters %v: three members are not three", voters)
	}

	c.Stop(0)
	if err := second.Preflight(ctx); err == nil || !strings.Contains(err.Error(), "m0 does not answer") {
		t.Errorf("with the first member down, the second may go: %v", err)
	}
	if _, err := first.Members(ctx); err == nil {
		t.Error("an etcd that does not answer is known to have no voter")
	}
	if err := first.CaughtUp(ctx); err == nil {
		t.Error("a member that is down has caught up")
	}
	c.Restart(0)
	patiently(t, first.CaughtUp)
	patiently(t, second.Preflight)
}

func TestLeadershipIsHandedOverBeforeTheReboot(t *testing.T) {
	ctx := t.Context()
	c := etcdtest.Start(t, etcdtest.Options{Members: 3, TLS: etcdtest.Server, Auth: true})
	for range 3 {
		leader := -1
		patiently(t, func(context.Context) error {
			if leader = c.Leader(); leader < 0 {
				return fmt.Errorf("no leader")
			}
			return localEtcd(c, leader).Preflight(ctx)
		})
		if err := localEtcd(c, leader).HandOver(ctx); err != nil {
			t.Fatal(err)
		}
		if now := c.Leader(); now == leader {
			t.Errorf("member %d still leads", leader)
		}
	}
	follower := (c.Leader() + 1) % 3
	before := c.Leader()
	if err := localEtcd(c, follower).HandOver(ctx); err != nil || c.Leader() != before {
		t.Errorf("a follower handed over: %v, leader %d → %d", err, before, c.Leader())
	}
}

func TestPausedMemberIsNotWell(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{Members: 3})
	patiently(t, localEtcd(c, 0).Preflight)
	follower := (c.Leader() + 1) % 3
	here := localEtcd(c, c.Leader())
	c.Pause(follower)
	if err := here.Preflight(t.Context()); err == nil {
		t.Error("a voter that is paused counts as well")
	}
	if err := here.HandOver(t.Context()); err != nil {
		t.Errorf("the other voter is well, and could lead: %v", err)
	}
	c.Continue(follower)
	patiently(t, here.Preflight)
}

func TestAlarmHoldsEtcdMembersBack(t *testing.T) {
	ctx := t.Context()
	c := etcdtest.Start(t, etcdtest.Options{Members: 3, Flags: []string{"--quota-backend-bytes=1048576"}})
	here := localEtcd(c, 0)
	patiently(t, here.Preflight)
	client := c.Client(t)
	for i := range 100 {
		if _, err := client.Put(ctx, fmt.Sprint("k", i), strings.Repeat("x", 64<<10)); err != nil {
			break // NOSPACE
		}
	}
	if err := here.Preflight(ctx); err == nil || !strings.Contains(err.Error(), "alarm") {
		t.Errorf("preflight with an alarm: %v", err)
	}
	if err := here.CaughtUp(ctx); err == nil || !strings.Contains(err.Error(), "alarm") {
		t.Errorf("caught up with an alarm: %v", err)
	}
}

func TestSingleMemberNeedsTheOperatorsWord(t *testing.T) {
	ctx := t.Context()
	c := etcdtest.Start(t, etcdtest.Options{})
	here := localEtcd(c, 0)
	if err := here.Preflight(ctx); err == nil || !strings.Contains(err.Error(), "only member") {
		t.Errorf("preflight: %v", err)
	}
	here.AllowSingle = true
	for name, call := range map[string]func(context.Context) error{"preflight": here.Preflight, "hand over": here.HandOver, "caught up": here.CaughtUp} {
		if err := call(ctx); err != nil {
			t.Errorf("%s, allowed: %v", name, err)
		}
	}
}

// TestMemberThatWasNeverStartedHoldsTheOthersBack: it counts for the quorum from
// the moment in which it is added.
func TestMemberThatWasNeverStartedHoldsTheOthersBack(t *testing.T) {
	ctx := t.Context()
	c := etcdtest.Start(t, etcdtest.Options{Members: 3})
	here := localEtcd(c, 0)
	patiently(t, here.Preflight)
	client := c.Client(t)
	var err error
	patiently(t, func(ctx context.Context) error { // refused while the members have not met for five seconds
		_, err = client.MemberAdd(ctx, []string{"http://127.0.0.1:1"})
		return err
	})
	if err := here.Preflight(ctx); err == nil || !strings.Contains(err.Error(), "never started") {
		t.Errorf("preflight: %v", err)
	}
}

func TestLearnerIsNoVoter(t *testing.T) {
	ctx := t.Context()
	c := etcdtest.Start(t, etcdtest.Options{Members: 1})
	client := c.Client(t)
	if _, err := client.MemberAddAsLearner(ctx, []string{"http://127.0.0.1:1"}); err != nil {
		t.Fatal(err)
	}
	here := localEtcd(c, 0)
	if err := here.Preflight(ctx); err == nil || !strings.Contains(err.Error(), "only member") {
		t.Errorf("a learner that was never started counts as a voter: %v", err)
	}
	var list *clientv3.MemberListResponse
	list, err := client.MemberList(ctx)
	if err != nil || len(list.Members) != 2 {
		t.Fatalf("%v, %v", list, err)
	}
}

func TestLocalEtcdNeedsAnEndpoint(t *testing.T) {
	if _, err := (LocalEtcd{}).Members(t.Context()); err == nil {
		t.Error("no endpoint, and no voter for certain")
	}
}

package etcdtest

import (
	"context"
	"testing"
	"time"
)

// put says whether a write through member i alone is committed in time. It is
// tried again: one that a member passes on to a leader that is gone is lost.
func put(t *testing.T, c *Cluster, i int, limit time.Duration) error {
	t.Helper()
	client, err := c.client(c.members[i].clientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for {
		attempt, done := context.WithTimeout(ctx, time.Second)
		_, err = client.Put(attempt, "k", "v")
		done()
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
}

const (
	soon = 20 * time.Second // by then, a healthy cluster has answered
	long = 3 * time.Second  // an election of etcd's, and then some
)

func TestMembersComeAndGo(t *testing.T) {
	c := Start(t, Options{Members: 3})
	leader := c.Leader()
	if leader < 0 {
		t.Fatal("no leader")
	}
	other, third := (leader+1)%3, (leader+2)%3

	c.Kill(leader)
	if err := put(t, c, other, soon); err != nil {
		t.Fatalf("two of three members, one killed: %v", err)
	}
	c.Stop(third)
	if err := put(t, c, other, long); err == nil {
		t.Fatal("one member of three took a write")
	}
	c.Launch(leader)
	c.Restart(third)
	if err := put(t, c, leader, soon); err != nil {
		t.Fatalf("all members are back: %v", err)
	}
}

func TestPausedLeaderIsReplaced(t *testing.T) {
	c := Start(t, Options{Members: 3})
	leader := c.Leader()
	c.Pause(leader)
	if err := put(t, c, (leader+1)%3, soon); err != nil {
		t.Errorf("the leader is paused: %v", err)
	}
	if err := put(t, c, leader, long); err == nil {
		t.Error("a paused member took a write")
	}
	c.Continue(leader)
	if err := put(t, c, leader, soon); err != nil {
		t.Errorf("the paused member goes on: %v", err)
	}
}

func TestCutMemberHearsNothing(t *testing.T) {
	c := Start(t, Options{Members: 3})
	leader := c.Leader()
	c.Cut(leader)
	if err := put(t, c, (leader+1)%3, soon); err != nil {
		t.Errorf("the leader is cut off: %v", err)
	}
	if err := put(t, c, leader, long); err == nil {
		t.Error("a member that is cut off took a write")
	}
	if now := c.Leader(); now == leader || now < 0 {
		t.Errorf("leader is %d, was %d before it was cut off", now, leader)
	}
	c.Heal(leader)
	if err := put(t, c, leader, soon); err != nil {
		t.Errorf("the cut is healed: %v", err)
	}
}

func TestDirect(t *testing.T) {
	c := Start(t, Options{Direct: true, TLS: Mutual, Auth: true, Flags: []string{"--unsafe-no-fsync"}})
	if err := put(t, c, 0, soon); err != nil {
		t.Error(err)
	}
	c.Kill(0)
	c.Restart(0)
	if err := put(t, c, 0, soon); err != nil {
		t.Error(err)
	}
}

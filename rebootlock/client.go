package rebootlock

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// ErrOtherCluster refuses a store that holds another cluster's lock, or none
// where this machine had joined one: etcd was wiped, or it is another etcd.
var ErrOtherCluster = errors.New("this is not the cluster that the machine belongs to")

// ErrClone refuses two live machines with one machine-id, both of them.
var ErrClone = errors.New("two live machines have this machine-id")

// The client's own times.
const (
	// defaultTTL is how long a machine that died stays present, and queued.
	defaultTTL = time.Minute
	// pollInterval is how often everything is read, whatever the watch says: at
	// 10,000 machines that is 170 reads a second.
	pollInterval = time.Minute
	// freshness is how long what a watch told may be gone by without a word from
	// the store: two polls, and some.
	freshness = 150 * time.Second
	// patience bounds one call, with all that it asks of the store.
	patience = 20 * time.Second
	// retryFirst and retryMost bound the pause before the store is tried again, of
	// which a random part is waited: 10,000 machines come back over a minute.
	retryFirst = 10 * time.Second
	retryMost  = time.Minute
	// leaveTime bounds the goodbye of a machine that is shut down.
	leaveTime = 5 * time.Second
)

// Self is what a machine is to its cluster.
type Self struct {
	Machine  string // machine-id
	Instance string // random, kept in the state directory: a reinstalled machine has another
	Boot     string // boot-id
	Group    string
	Hostname string
	Zone     string // "": none is known
	Program  string // "drydock-1.2"
	Labels   map[string]string
	Platform map[string]string // instance facts
	UID      string            // of the cluster that was joined earlier; "": never
}

// check says why a machine cannot join.
func (s Self) check(cluster string) error {
	err := errors.Join(CheckName("cluster", cluster), CheckMachineID(s.Machine), CheckName("group", s.Group),
		CheckName("instance", s.Instance), CheckName("boot", s.Boot))
	if s.Zone != "" {
		err = errors.Join(err, CheckName("zone", s.Zone))
	}
	if err != nil {
		return fmt.Errorf("join cluster %q: %w", cluster, err)
	}
	return nil
}

// A Client is one machine's side of the lock. It writes nothing but this
// machine's own records, and the cluster's and the group's first ones. Its
// methods may be called at once, and one at a time is at work.
type Client struct {
	Store  Store
	Keys   Keys
	Self   func() Self                                 // is asked anew each time: facts arrive late, policy changes
	Seed   func() *Rules                               // what policy says of the group: written where it has no rules; nil, or returning nil: nothing is
	Etcd   func(context.Context) ([]EtcdMember, error) // the voters of etcd on this machine; nil: none. An error is unknown, and writes no ticket
	Now    func() time.Time
	TTL    time.Duration          // of presence and ticket; 0: 60 s
	Joined func(uid string) error // is told the UID of the cluster that is joined, to keep it durably; an error refuses to join; may be nil
	// Changed is called when something known has changed, from any of the methods;
	// it is cheap, calls no method of the client, and may be nil.
	Changed func()
	Rand    func(n int64) int64 // 0 to n-1 at random, for jitter; nil: math/rand/v2

	once sync.Once
	turn chan struct{} // has room for one call at a time

	mu      sync.Mutex
	sees    outlook
	session Session // written by whoever has the turn
	former  Session // the one before it, which has ended or may have: a ticket may still hang on it
	shown   int64   // lease with which the presence was written
	uid     string  // of the cluster that was joined
}

// State is where a machine stands, and what stands in its way.
type State struct {
	Standing Standing
	Phase    string     // of the permit, while Holding
	Permit   *Permit    // while Holding
	Ticket   *Ticket    // while Queued
	Queue    int        // tickets of the group, as the coordinator last counted
	Stops    []Obstacle // no phase may begin
	Waits    []Obstacle // for people: why nothing is granted, and what is odd
}

// Run joins the cluster, keeps this machine present, and keeps what is known
// current, until ctx ends; then presence and ticket go, and a permit stays. What
// goes wrong on the way is tried again, and is what Standing returns. An error
// says that the goodbye did not get through: the lease then ends by itself.
func (c *Client) Run(ctx context.Context) error {
	for tries := 0; ctx.Err() == nil; tries++ {
		if err := c.Refresh(ctx); err == nil {
			tries = 0
			c.follow(ctx)
		}
		sleep(ctx, c.pause(tries))
	}
	return c.leave(ctx)
}

// follow watches until the watch, the session or ctx ends, and polls.
func (c *Client) follow(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.mu.Lock()
	if c.session == nil { // another call is about to make a new one
		c.mu.Unlock()
		return
	}
	at, lost := c.sees.at, c.session.Done()
	events := c.Store.Watch(ctx, c.sees.revision, at.watched()...)
	c.sees.watching = true
	c.mu.Unlock()
	defer c.blink()
	poll := time.NewTimer(c.jitter(pollInterval))
	defer poll.Stop()
	for {
		look := false
		select {
		case <-ctx.Done():
			return
		case <-lost:
			return
		case batch, ok := <-events:
			if !ok {
				return
			}
			look = c.tell(batch)
		case <-poll.C:
			look = true
			poll.Reset(c.jitter(pollInterval))
		}
		if !look {
			continue
		}
		if err := c.Refresh(ctx); err != nil || !c.follows(at, lost) {
			return
		}
	}
}

// follows reports whether a watch still looks at the right keys, and with the
// right session.
func (c *Client) follows(at places, lost <-chan struct{}) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sees.at == at && c.session != nil && c.session.Done() == lost
}

// blink ends the time in which what is known is gone by.
func (c *Client) blink() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sees.watching = false
}

// tell takes in what a watch told, and reports whether more is to be done about
// it than to know it.
func (c *Client) tell(events []Event) (look bool) {
	c.mu.Lock()
	now, changed := c.Now(), false
	for _, e := range events {
		if !c.sees.hear(e, now) {
			continue
		}
		changed = true
		look = look || c.sees.at.isPresence(e.Key)
	}
	c.sees.alive(now)
	c.mu.Unlock()
	c.changed(changed)
	return look
}

func (c *Client) changed(yes bool) {
	if yes && c.Changed != nil {
		c.Changed()
	}
}

// leave ends the session, and with it presence and ticket.
func (c *Client) leave(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTime)
	defer cancel()
	ctx, done, err := c.enter(ctx)
	if err != nil {
		return fmt.Errorf("leave cluster %s: %w", c.Keys.Cluster, err)
	}
	defer done()
	c.mu.Lock()
	s := cmp.Or(c.session, c.former) // without a session, etcd was away: a ticket may be left
	c.session = nil
	c.sees.doubt()
	c.mu.Unlock()
	if s == nil {
		return nil
	}
	if err := s.Close(ctx); err != nil {
		return fmt.Errorf("leave cluster %s: %w", c.Keys.Cluster, err)
	}
	return nil
}

// enter waits for this call's turn, and bounds its time.
func (c *Client) enter(ctx context.Context) (bounded context.Context, leave func(), err error) {
	c.once.Do(func() { c.turn = make(chan struct{}, 1) })
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	bounded, cancel := context.WithTimeout(ctx, patience)
	return bounded, func() { cancel(); <-c.turn }, nil
}

// pause is how long to wait before the store is tried again.
func (c *Client) pause(tries int) time.Duration {
	limit := retryMost
	if tries < 3 {
		limit = min(limit, retryFirst<<tries)
	}
	return c.part(limit)
}

// jitter is d, give or take a tenth.
func (c *Client) jitter(d time.Duration) time.Duration { return d - d/10 + c.part(d/5) }

// part is a random part of d.
func (c *Client) part(d time.Duration) time.Duration {
	if c.Rand != nil {
		return time.Duration(c.Rand(int64(d)))
	}
	return time.Duration(rand.Int64N(int64(d)))
}

// Standing says where this machine stands: from what a watch told, where that
// can be gone by, and else by a Refresh. An error means that it is unknown.
func (c *Client) Standing(ctx context.Context) (State, error) {
	self := c.Self()
	if !c.isFresh(self) {
		if err := c.Refresh(ctx); err != nil {
			return State{}, err
		}
	}
	return c.scene(self).state()
}

// isFresh reports whether what is known can be gone by: a watch brings what
// changes, and the store was heard of.
func (c *Client) isFresh(self Self) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := &c.sees
	age := c.Now().Sub(o.heard)
	switch {
	case c.uid == "" || c.session == nil || !o.watching || o.heard.IsZero() || age < 0 || age > freshness:
		return false
	case o.at.machine != self.Machine || o.at.group != self.Group && !o.holds():
		return false
	}
	select {
	case <-c.session.Done():
		return false
	default:
		return true
	}
}

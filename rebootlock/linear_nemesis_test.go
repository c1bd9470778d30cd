package rebootlock

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/drydock-os/drydock/rebootlock/etcdtest"
)

// A nemesis does harm to a lock, by a schedule that follows from a seed.
type nemesis struct {
	*chaos
	cluster *etcdtest.Cluster // nil: only coordinators suffer
	down    map[int]bool      // members that were killed or stopped
}

// A fault is one harm, how long it lasts, and how long all is well after it.
type fault struct {
	what        string
	member      int // 3: the one that leads
	lasts, rest time.Duration
}

// The harms, some more often than others. What begins with "member" or
// "majority" needs an etcd.
var harms = []string{"member killed", "member killed", "member stopped", "member paused", "member paused", "member cut off", "member cut off",
	"majority killed", "majority paused", "majority cut off", "coordinator restarts", "coordinator deposed", "coordinator deposed", "frozen"}

func (n *nemesis) draw(rng *rand.Rand) fault {
	f := fault{what: harms[rng.IntN(len(harms))], member: rng.IntN(4)}
	f.lasts = 300*time.Millisecond + time.Duration(rng.IntN(2500))*time.Millisecond
	f.rest = time.Duration(rng.IntN(800)) * time.Millisecond
	if n.cluster == nil && strings.HasPrefix(f.what, "m") {
		f.what = "coordinator deposed"
	}
	return f
}

// haunt does harm for a time, and heals everything.
func (n *nemesis) haunt(ctx context.Context, rng *rand.Rand, lasts time.Duration) {
	for begun := chaosNow(); chaosNow().Sub(begun) < lasts && ctx.Err() == nil; {
		f := n.draw(rng)
		n.t.Logf("%s (%d) for %s", f.what, f.member, f.lasts)
		undo := n.strike(ctx, f)
		wait(ctx, f.lasts)
		undo()
		wait(ctx, f.rest)
	}
}

func (n *nemesis) strike(ctx context.Context, f fault) (undo func()) {
	who, kind, _ := strings.Cut(f.what, " ")
	switch who {
	case "coordinator":
		k := n.coordinators[f.member%len(n.coordinators)]
		if kind == "restarts" {
			k.stop()
			return k.start
		}
		return n.depose(ctx)
	case "frozen":
		_ = n.operator.Freeze(ctx, "", "chaos") // where it does not get through, nothing is frozen
		return func() {
			for n.operator.Thaw(ctx, "") != nil && wait(ctx, 100*time.Millisecond) {
			}
		}
	}
	first := f.member
	if first == 3 {
		first = max(n.cluster.Leader(), 0)
	}
	members := []int{first}
	if who == "majority" {
		members = append(members, (first+1)%3)
	}
	return n.hit(kind, members)
}

// hit harms members of etcd.
func (n *nemesis) hit(kind string, members []int) (undo func()) {
	do, back := n.cluster.Kill, n.cluster.Launch
	switch kind {
	case "stopped":
		do = n.cluster.Stop
	case "paused":
		do, back = n.cluster.Pause, n.cluster.Continue
	case "cut off":
		do, back = n.cluster.Cut, n.cluster.Heal
	}
	for _, m := range members {
		do(m)
	}
	return func() {
		for _, m := range members {
			back(m)
		}
	}
}

// deposePatience bounds the wait for a coordinator that grants something.
const deposePatience = time.Second

// depose holds up the next grants of the coordinator at work, ends its lease,
// and makes the machines that it would grant their permits look like clones, so
// that the next one passes them over and grants others theirs. When it ends, the
// first one's transaction arrives, of which everything holds but its leadership.
func (n *nemesis) depose(ctx context.Context) (undo func()) {
	held := make(chan heldUp, len(n.coordinators))
	for _, k := range n.coordinators {
		k.valve.shut(held)
	}
	var victim heldUp
	timer := time.NewTimer(deposePatience)
	select {
	case victim = <-held:
	case <-timer.C:
	case <-ctx.Done():
	}
	timer.Stop()
	for _, k := range n.coordinators {
		if k.valve != victim.valve {
			k.valve.open()
		}
	}
	if victim.valve == nil {
		return func() {}
	}
	phantoms := n.phantoms(victim.txn)
	n.put(ctx, phantoms)
	victim.valve.depose(ctx)
	return func() {
		victim.valve.open()
		for i := range phantoms {
			phantoms[i] = Op{Key: phantoms[i].Key, Delete: true}
		}
		n.put(ctx, phantoms)
	}
}

// phantoms are second presences of the machines to which t grants permits.
func (c *chaos) phantoms(t Txn) (ops []Op) {
	for _, op := range t.Then {
		kind, names, _ := c.keys.parse(op.Key)
		if kind != kindTicket || !op.Delete {
			continue
		}
		p := Presence{Version: version, Machine: names[1], Instance: "phantom", Boot: "phantom"}
		ops = append(ops, Op{Key: c.keys.Presence(names[1], p.Boot), Value: encode(p, nil)})
	}
	return ops
}

// put writes for certain.
func (n *nemesis) put(ctx context.Context, ops []Op) {
	for len(ops) > 0 {
		if _, err := n.operator.Store.Commit(ctx, Txn{Then: ops}); err == nil || !wait(ctx, 50*time.Millisecond) {
			return
		}
	}
}

// coordinated is a coordinator that can be stopped and held up.
type coordinated struct {
	*chaos
	name  string
	valve *valve
	stop  func()
}

func newCoordinated(c *chaos, i int, store Store) *coordinated {
	return &coordinated{chaos: c, name: fmt.Sprintf("coordinator-%d", i), valve: newValve(store), stop: func() {}}
}

func (k *coordinated) start() {
	ctx, cancel := context.WithCancel(k.ctx)
	var wg sync.WaitGroup
	c := &Coordinator{Store: k.valve, Keys: k.keys, Machine: k.name, Now: chaosNow, Spread: 200 * time.Millisecond}
	wg.Go(func() { _ = c.Run(ctx) })
	k.stop = func() { cancel(); wg.Wait() }
}

// A valve holds up the grants of a coordinator, as a machine that is suspended
// or a network does: they arrive when it opens, whatever has become of who sent
// them.
type valve struct {
	Store

	mu      sync.Mutex
	opened  chan struct{} // closed while the valve is open
	held    chan<- heldUp // is told what is held up
	session Session
	came    int // of what was held up, what has arrived
	lates   int // of that, what was refused
}

// heldUp is a transaction that a valve holds up.
type heldUp struct {
	valve *valve
	txn   Txn
}

func newValve(s Store) *valve {
	v := &valve{Store: s, opened: make(chan struct{})}
	close(v.opened)
	return v
}

// shut has the valve hold up grants; held has room for one of each valve.
func (v *valve) shut(held chan<- heldUp) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.opened, v.held = make(chan struct{}), held
}

func (v *valve) open() {
	v.mu.Lock()
	defer v.mu.Unlock()
	close(v.opened)
}

// Session keeps the coordinator's session in mind.
func (v *valve) Session(ctx context.Context, ttl time.Duration) (Session, error) {
	s, err := v.Store.Session(ctx, ttl)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.session = s
	return s, err
}

// depose ends the coordinator's lease.
func (v *valve) depose(ctx context.Context) {
	v.mu.Lock()
	s := v.session
	v.mu.Unlock()
	for s.Close(ctx) != nil && wait(ctx, 50*time.Millisecond) {
	}
}

// Commit waits for the valve, if t grants something.
func (v *valve) Commit(ctx context.Context, t Txn) (Result, error) {
	v.mu.Lock()
	opened, held := v.opened, v.held
	v.mu.Unlock()
	grants := slices.ContainsFunc(t.Then, func(op Op) bool { return op.Delete && strings.Contains(op.Key, "/"+kindTicket+"/") })
	select {
	case <-opened:
		return v.Store.Commit(ctx, t)
	default:
		if !grants {
			return v.Store.Commit(ctx, t)
		}
	}
	held <- heldUp{v, t}
	<-opened
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	r, err := v.Store.Commit(late, t)
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.came++; err == nil && !r.Done {
		v.lates++
	}
	return r, err
}

// refused counts the transactions that were held up, and then refused.
func (v *valve) refused() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.lates
}

func (v *valve) arrived() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.came
}

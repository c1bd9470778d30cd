package guest_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/drydock-os/drydock/cmd/internal/guest"
	"github.com/drydock-os/drydock/rebootlock"
)

const (
	// quorumPatience is how long etcd may give no answer: an election takes 10 to
	// 20 s with the guests' timeouts, and one that is handed over none.
	quorumPatience = 30 * time.Second
	// caughtUp is how many entries a voter may be behind, as drydockd has it.
	caughtUp = 1000
)

// A watch observes a cluster from outside, once a second, and fails the test
// when more than one machine may be down, when one boots that may not, when
// etcd's quorum is lost, or when etcd is not as a reboot needs it.
type watch struct {
	t     testing.TB
	etcd  *guest.Etcd
	store *rebootlock.Etcd
	lock  rebootlock.Operator
	began time.Time

	mu       sync.Mutex
	machines map[string]*guest.Machine // by host name
	boots    map[string]int            // of each, that were accounted for
	taken    string                    // whose permit is taken away
	last     rebootlock.View

	holder  string // host name; "": nobody, or no machine of ours
	phase   string
	leads   string // led etcd when the permit was granted
	handed  int    // leaderships that were handed over for a reboot
	longest time.Duration
}

// note logs what happens, and when.
func (w *watch) note(format string, args ...any) {
	w.t.Helper()
	w.t.Logf("%4.0f s: %s", time.Since(w.began).Seconds(), fmt.Sprintf(format, args...))
}

// begin watches until the test ends.
func (w *watch) begin() {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			w.sample(ctx, n)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	})
	w.t.Cleanup(func() {
		cancel()
		running.Wait()
		w.note("etcd took %s at most to answer, and its leadership was handed over %d times", w.longest.Round(time.Millisecond), w.handed)
	})
}

// power switches a machine on, which is no reboot.
func (w *watch) power(m *guest.Machine) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m.PowerOn()
	w.machines[m.Name], w.boots[m.Name] = m, m.Boots()
}

// view is how the lock looked last.
func (w *watch) view() rebootlock.View {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last
}

func (w *watch) sample(ctx context.Context, n int) {
	w.mu.Lock()
	boots := map[string]int{}
	for name, m := range w.machines {
		boots[name] = m.Boots()
	}
	w.mu.Unlock()
	var v rebootlock.View
	w.ask(ctx, "read", func(ctx context.Context) (err error) {
		v, err = w.lock.Look(ctx)
		return err
	})
	if n%3 == 0 {
		w.ask(ctx, "write", func(ctx context.Context) error {
			_, err := w.store.Commit(ctx, rebootlock.Txn{Then: []rebootlock.Op{{Key: "/observer", Value: []byte(fmt.Sprint(n))}}})
			return err
		})
	}
	if ctx.Err() != nil || len(v.Groups) == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.judge(ctx, v, boots)
	w.last = v
}

// ask asks etcd until it answers: its quorum is never lost for longer than an
// election.
func (w *watch) ask(ctx context.Context, what string, f func(context.Context) error) {
	began := time.Now()
	for ctx.Err() == nil {
		bounded, cancel := context.WithTimeout(ctx, quorumPatience)
		err := f(bounded)
		cancel()
		took := time.Since(began)
		w.longest = max(w.longest, took)
		if err == nil || ctx.Err() != nil {
			return
		}
		if took > quorumPatience {
			w.t.Errorf("etcd takes no %s for %s: %v", what, took.Round(time.Second), err)
			return
		}
	}
}

// judge compares what is seen with what was seen before. w.mu is held.
func (w *watch) judge(ctx context.Context, v rebootlock.View, boots map[string]int) {
	holders := v.Groups[0].Holders
	if len(holders) > 1 {
		w.t.Errorf("%d permits at once: %+v", len(holders), holders)
	}
	holder, phase := "", ""
	if len(holders) > 0 && w.machines[holders[0].Hostname] != nil {
		holder, phase = holders[0].Hostname, holders[0].Phase
	}
	for name, n := range boots {
		if n > w.boots[name] && holder != name {
			w.t.Errorf("%s booted, and %q has the permit", name, holder)
		}
		w.boots[name] = n
	}
	if holder != w.holder && w.holder != "" && w.holder != w.taken {
		w.back(ctx, w.holder)
	}
	if holder != w.holder && holder != "" {
		w.leads = w.leader(ctx, "")
		w.note("%s has the permit, and %s leads etcd", holder, w.leads)
	}
	if phase == rebootlock.PhaseRebooting && (phase != w.phase || holder != w.holder) {
		switch leader := w.leader(ctx, holder); {
		case leader == holder || leader == "":
			w.t.Errorf("%s reboots, and etcd is led by %q", holder, leader)
		case w.leads == holder:
			w.handed++
		}
	}
	w.holder, w.phase = holder, phase
}

// back checks the member of etcd of a machine that has given its permit back.
func (w *watch) back(ctx context.Context, name string) {
	own, err := w.status(ctx, name)
	if err != nil || own.leader == 0 {
		w.t.Errorf("%s gave its permit back, and its etcd is %+v, %v", name, own, err)
		return
	}
	for other, m := range w.machines {
		if !m.On() {
			continue
		}
		if s, err := w.status(ctx, other); err == nil && s.member == own.leader && own.applied+caughtUp < s.applied {
			w.t.Errorf("%s gave its permit back, and its etcd has applied %d entries of %d", name, own.applied, s.applied)
		}
	}
	w.note("%s gave its permit back", name)
}

// etcdStatus is what one member says of itself.
type etcdStatus struct {
	member, leader, applied uint64
}

func (w *watch) status(ctx context.Context, name string) (etcdStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	s, err := w.store.Client.Status(ctx, w.etcd.Endpoint(name))
	if err != nil {
		return etcdStatus{}, err
	}
	return etcdStatus{s.Header.MemberId, s.Leader, s.RaftAppliedIndex}, nil
}

// leader is the machine whose member leads, as the others say but one.
func (w *watch) leader(ctx context.Context, but string) string {
	ids := map[uint64]string{}
	ctx, cancel := context.WithTimeout(ctx, quorumPatience)
	defer cancel()
	list, err := w.store.Client.MemberList(ctx)
	if err != nil {
		w.t.Errorf("list the members of etcd: %v", err)
		return ""
	}
	for _, m := range list.Members {
		ids[m.ID] = m.Name
	}
	for name, m := range w.machines {
		if name == but || !m.On() {
			continue
		}
		if s, err := w.status(ctx, name); err == nil && s.leader != 0 {
			return ids[s.leader]
		}
	}
	return ""
}

// lead lets a machine's member lead.
func (w *watch) lead(ctx context.Context, name string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	leader := w.leader(ctx, "")
	if leader == name {
		return nil
	}
	s, err := w.status(ctx, name)
	if err != nil {
		return err
	}
	store, err := rebootlock.DialEtcd(rebootlock.EtcdOptions{Endpoints: []string{w.etcd.Endpoint(leader)}})
	if err != nil {
		return err
	}
	defer store.Close()
	_, err = store.Client.MoveLeader(ctx, s.member)
	return err
}

package locktest

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/drydock-os/drydock/rebootlock"
)

// with is op with the lease of s.
func with(s rebootlock.Session, op rebootlock.Op) rebootlock.Op {
	op.Lease = s.Lease()
	return op
}

func (b *bench) closeSession(s rebootlock.Session) {
	b.Helper()
	if err := s.Close(b.ctx); err != nil {
		b.Fatalf("Close() = %v", err)
	}
	select {
	case <-s.Done():
	case <-b.ctx.Done():
		b.Fatal("a session that is closed is not Done")
	}
}

func (b *bench) lease() {
	s := b.session()
	start := b.commit(with(s, b.put("b", "1")), with(s, b.put("a", "1")), b.put("c", "1"), with(s, b.put("d", "1")))
	if kv := b.one("a"); kv.Lease != s.Lease() {
		b.Errorf("a has lease %x, want %x", kv.Lease, s.Lease())
	}
	b.commit(b.drop("d"))
	watch := b.s.Watch(b.ctx, start+1, b.all())
	b.closeSession(s)
	if got := b.show(b.read(b.all()).KVs); got != "c=1" {
		b.Errorf("after the lease: %s, want what does not hang on it", got)
	}
	events := b.next(watch, 2)
	if got := b.showEvents(events); got != "-a -b" {
		b.Errorf("a watch saw %s at the end of the lease", got)
	}
	for _, e := range events {
		if e.Modified != start+2 {
			b.Errorf("%s went in revision %d, want %d, in one", e.Key, e.Modified, start+2)
		}
	}
	if err := s.Close(b.ctx); err != nil {
		b.Errorf("second Close() = %v; want none", err)
	}
	if _, err := b.s.Commit(b.ctx, rebootlock.Txn{Then: []rebootlock.Op{with(s, b.put("a", "2"))}}); !errors.Is(err, rebootlock.ErrRefused) {
		b.Errorf("Commit with a lease that ended = %v; want ErrRefused", err)
	}
}

// leaseMoved hangs records on a new lease, or on none: the end of the old one
// does not touch them, as a ticket's that its machine writes again after it
// lost its session.
func (b *bench) leaseMoved() {
	old, renewed := b.session(), b.session()
	made := b.commit(with(old, b.put("a", "1")), with(old, b.put("b", "1")), b.put("c", "1"))
	b.commit(with(renewed, b.put("a", "2")), b.put("b", "2"), with(old, b.put("c", "2")))
	b.closeSession(old)
	if kv := b.one("a"); kv.Created != made || kv.Lease != renewed.Lease() {
		b.Errorf("a = %+v; want it created in %d, with lease %x", kv, made, renewed.Lease())
	}
	if kv := b.one("b"); kv.Created != made || kv.Lease != 0 {
		b.Errorf("b = %+v; want it created in %d, without lease", kv, made)
	}
	b.closeSession(renewed)
	if got := b.show(b.read(b.all()).KVs); got != "b=2" {
		b.Errorf("after both leases: %s", got)
	}
}

// A vote is how a Campaign ended.
type vote struct {
	rebootlock.Leadership
	err error
}

// stand lets s campaign, and returns when it stands: its key is written.
func (b *bench) stand(ctx context.Context, s rebootlock.Session, value string) <-chan vote {
	b.Helper()
	won := make(chan vote, 1)
	before := len(b.read(b.all()).KVs)
	watch := b.s.Watch(b.ctx, b.read(b.all()).Revision, b.all())
	var campaign sync.WaitGroup
	campaign.Go(func() {
		l, err := s.Campaign(ctx, b.dir+"election", []byte(value))
		won <- vote{l, err}
	})
	b.Cleanup(campaign.Wait)
	b.upTo(watch, 1)
	if now := len(b.read(b.all()).KVs); now != before+1 {
		b.Fatalf("%d records after a candidate stood, want %d", now, before+1)
	}
	return won
}

func (b *bench) elected(won <-chan vote) rebootlock.Leadership {
	b.Helper()
	select {
	case v := <-won:
		if v.err != nil {
			b.Fatalf("Campaign() = %v", v.err)
		}
		return v.Leadership
	case <-b.ctx.Done():
		b.Fatal("nobody is elected")
	}
	return rebootlock.Leadership{}
}

// leads says whether what a leader writes under its leadership is done.
func (b *bench) leads(l rebootlock.Leadership) bool {
	b.Helper()
	return b.try([]rebootlock.Op{b.put("work", l.Key)}, rebootlock.Cond{Key: l.Key, Created: l.Created})
}

func (b *bench) election() {
	var sessions []rebootlock.Session
	var votes []<-chan vote
	for i := range 4 {
		sessions = append(sessions, b.session())
		votes = append(votes, b.stand(b.ctx, sessions[i], fmt.Sprint(i)))
	}
	first := b.elected(votes[0])
	kv := b.read(rebootlock.Range{Key: first.Key}).KVs
	if len(kv) != 1 || string(kv[0].Value) != "0" || kv[0].Created != first.Created || kv[0].Lease != sessions[0].Lease() {
		b.Fatalf("leadership %+v, record %+v", first, kv)
	}
	if !b.leads(first) {
		b.Error("the leader may not write")
	}
	b.closeSession(sessions[2]) // who waits goes away: the one behind does not pass
	b.closeSession(sessions[0])
	second := b.elected(votes[1])
	if b.leads(first) || !b.leads(second) {
		b.Error("after the first leader, the second does not lead alone")
	}
	if len(votes[3]) != 0 {
		b.Errorf("two are elected: %+v", <-votes[3])
	}
	if v := <-votes[2]; v.err == nil {
		b.Error("a session that ended was elected")
	}
	b.closeSession(sessions[1])
	if last := b.elected(votes[3]); !b.leads(last) {
		b.Error("the last one does not lead")
	}
}

func (b *bench) standTwice() {
	s := b.session()
	first, err := s.Campaign(b.ctx, b.dir+"election", []byte("1"))
	if err != nil {
		b.Fatal(err)
	}
	again, err := s.Campaign(b.ctx, b.dir+"election", []byte("2"))
	if err != nil || again != first {
		b.Errorf("Campaign of the leader = %+v, %v; want it to lead on as %+v", again, err, first)
	}
	if kv := b.read(rebootlock.Range{Key: first.Key}).KVs; len(kv) != 1 || string(kv[0].Value) != "2" {
		b.Errorf("the leader's record is %v, want its new value", kv)
	}
}

// fence lets a leader come back after its session ended and another was
// elected: the old leadership commits nothing, even if both had one key.
func (b *bench) fence() {
	old := b.session()
	was, err := old.Campaign(b.ctx, b.dir+"election", nil)
	if err != nil {
		b.Fatal(err)
	}
	b.closeSession(old)
	if b.leads(was) {
		b.Error("a leader whose session ended may write")
	}
	b.commit(rebootlock.Op{Key: was.Key, Value: []byte("another")})
	if b.leads(was) {
		b.Error("a leader whose session ended may write under another's key")
	}
	b.commit(rebootlock.Op{Key: was.Key, Delete: true})
	next, err := b.session().Campaign(b.ctx, b.dir+"election", nil)
	if err != nil || !b.leads(next) || b.leads(was) {
		b.Errorf("the next leader does not lead alone (%v)", err)
	}
}

func (b *bench) resign() {
	first, second := b.session(), b.session()
	if err := first.Resign(b.ctx); err != nil {
		b.Errorf("Resign of who does not stand = %v", err)
	}
	won := b.stand(b.ctx, first, "1")
	waits := b.stand(b.ctx, second, "2")
	was := b.elected(won)
	if err := first.Resign(b.ctx); err != nil {
		b.Fatalf("Resign() = %v", err)
	}
	if b.leads(was) {
		b.Error("who resigned may write")
	}
	if now := b.elected(waits); !b.leads(now) {
		b.Error("the next does not lead")
	}
	select {
	case <-first.Done():
		b.Error("who resigned lost its session")
	default:
	}
	if err := second.Resign(b.ctx); err != nil {
		b.Fatalf("Resign() = %v", err)
	}
	again, err := first.Campaign(b.ctx, b.dir+"election", nil)
	if err != nil || again.Created == was.Created || !b.leads(again) {
		b.Errorf("who stands again = %+v, %v; want a new leadership", again, err)
	}
}

// stopWaiting gives the wait for an election up, by Resign and by the end of
// a context: who stands behind is not held up by them.
func (b *bench) stopWaiting() {
	leader, resigns, cancels, last := b.session(), b.session(), b.session(), b.session()
	ctx, cancel := context.WithCancel(b.ctx)
	defer cancel()
	first := b.elected(b.stand(b.ctx, leader, "leader"))
	resigned, cancelled := b.stand(b.ctx, resigns, "resigns"), b.stand(ctx, cancels, "cancels")
	waits := b.stand(b.ctx, last, "last")
	if err := resigns.Resign(b.ctx); err != nil {
		b.Fatalf("Resign() = %v", err)
	}
	if v := <-resigned; v.err == nil {
		b.Errorf("who resigned is elected: %+v", v)
	}
	cancel()
	if v := <-cancelled; !errors.Is(v.err, context.Canceled) {
		b.Errorf("whose context ended = %+v; want it cancelled", v)
	}
	if len(waits) != 0 || !b.leads(first) {
		b.Error("the leader lost its leadership to those behind")
	}
	if err := leader.Resign(b.ctx); err != nil {
		b.Fatal(err)
	}
	if !b.leads(b.elected(waits)) {
		b.Error("the last one does not lead")
	}
}

func (b *bench) sessionEnds() {
	leader, waits := b.session(), b.session()
	b.elected(b.stand(b.ctx, leader, "leader"))
	won := b.stand(b.ctx, waits, "waits")
	b.closeSession(waits)
	if v := <-won; v.err == nil {
		b.Errorf("a session that ended is elected: %+v", v)
	}
	if _, err := waits.Campaign(b.ctx, b.dir+"election", nil); err == nil {
		b.Error("a session that ended stands for election")
	}
	if got := b.read(rebootlock.Range{Key: b.dir + "election", Prefix: true}).KVs; len(got) != 1 {
		b.Errorf("%d candidates, want the leader alone", len(got))
	}
}

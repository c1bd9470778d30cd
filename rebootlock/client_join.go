package rebootlock

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"
)

// maxRounds bounds a Refresh: each round writes at most one thing, of which
// there are six, and may lose a race.
const maxRounds = 16

// etcdPatience bounds the question which voters run on this machine.
const etcdPatience = 5 * time.Second

func (c *Client) ttl() time.Duration {
	if c.TTL <= 0 {
		return defaultTTL
	}
	return c.TTL
}

// Refresh reads everything that concerns this machine, linearizably, and writes
// what is missing of it: it joins the cluster, makes a session, shows the
// machine as present, and takes over what it held before it was reinstalled. An
// error means that nothing is known.
func (c *Client) Refresh(ctx context.Context) error {
	ctx, done, err := c.enter(ctx)
	if err != nil {
		return err
	}
	defer done()
	return c.refresh(ctx, c.Self())
}

// refresh reads, writes one thing, and reads again, until nothing is missing.
func (c *Client) refresh(ctx context.Context, self Self) error {
	err := self.check(c.Keys.Cluster)
	for range maxRounds {
		if err != nil {
			break
		}
		c.aim(self)
		if err = c.read(ctx); err != nil {
			break
		}
		v := c.scene(self)
		if v.home(self) != v.at.group {
			continue // what was read says that the machine is at home elsewhere
		}
		var wrote bool
		if wrote, err = c.settle(ctx, v); err == nil && !wrote {
			return nil
		}
	}
	c.mu.Lock()
	c.sees.doubt()
	c.mu.Unlock()
	if err == nil {
		err = fmt.Errorf("join cluster %s: this machine's records change all the time: is a second drydockd at work?", c.Keys.Cluster)
	}
	return err
}

// aim looks where the machine is at home.
func (c *Client) aim(self Self) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sees.aim(newPlaces(c.Keys, self.Machine, c.sees.home(self)))
}

// read reads everything.
func (c *Client) read(ctx context.Context) error {
	c.mu.Lock()
	ranges := c.sees.at.all()
	c.mu.Unlock()
	s, err := c.Store.Read(ctx, ranges...)
	if err != nil {
		return fmt.Errorf("read the lock of cluster %s: %w", c.Keys.Cluster, err)
	}
	c.mu.Lock()
	news := c.sees.survey(s.KVs, s.Revision, c.Now())
	c.mu.Unlock()
	c.changed(news)
	return nil
}

// commit makes a change while the cluster is the one that was joined, and takes
// in what became of it. Afterwards what it changed is known, or what kept it
// from that; where no answer came, nothing is.
func (c *Client) commit(ctx context.Context, v scene, t Txn) (bool, error) {
	t.If = append(t.If, Cond{Key: v.at.cluster, Created: v.cluster.created}) // 0: there is none
	t.Else = v.at.all()
	r, err := c.Store.Commit(ctx, t)
	c.mu.Lock()
	news := err == nil
	switch {
	case errors.Is(err, ErrRefused): // nothing was changed
	case err != nil:
		c.sees.doubt()
	case r.Done:
		c.sees.wrote(t.Then, r.Revision, c.Now())
	default:
		news = c.sees.survey(r.Else, r.Revision, c.Now())
	}
	c.mu.Unlock()
	c.changed(news)
	return r.Done, err
}

// settle writes the first thing that is missing, if anything is.
func (c *Client) settle(ctx context.Context, v scene) (wrote bool, err error) {
	for _, step := range []func(context.Context, scene) (bool, error){c.trust, c.appear, c.register, c.adopt, c.seed} {
		if wrote, err = step(ctx, v); wrote || err != nil {
			return wrote, err
		}
	}
	return false, nil
}

// trust makes sure that this is the cluster that the machine belongs to, before
// anything else in the store counts.
func (c *Client) trust(ctx context.Context, v scene) (bool, error) {
	if !v.cluster.there() && v.uid == "" {
		return true, c.found(ctx, v)
	}
	if err := v.stranger(c.Keys.Cluster); err != nil {
		return false, err
	}
	if v.uid == "" && c.Joined != nil {
		if err := c.Joined(v.cluster.rec.UID); err != nil {
			return false, fmt.Errorf("join cluster %s: keep its UID: %w", c.Keys.Cluster, err)
		}
	}
	c.mu.Lock()
	c.uid = v.cluster.rec.UID
	c.mu.Unlock()
	return false, nil
}

// stranger says why the cluster that was read is not that of this machine.
func (v scene) stranger(cluster string) error {
	const todo = "Nothing is known of who may be down, so this machine does not reboot. Correct the endpoints, or restore etcd; " +
		"if the old cluster is gone for good, let the machine forget the UID that it keeps in its state directory (remove cluster.json there, and restart drydockd)"
	record := v.cluster.rec
	switch {
	case v.cluster.err != nil:
		return fmt.Errorf("join cluster %s: record %s: %w", cluster, v.at.cluster, v.cluster.err)
	case !v.cluster.there():
		return fmt.Errorf("%w: it joined cluster %s with the UID %s, and this etcd knows no such cluster: it is another one, or it was wiped. %s", ErrOtherCluster, cluster, v.uid, todo)
	case record.ID != cluster:
		return fmt.Errorf("%w: policy says cluster %s, and record %s is that of cluster %q", ErrOtherCluster, cluster, v.at.cluster, record.ID)
	case record.UID == "":
		return fmt.Errorf("join cluster %s: record %s: %w: it has no uid", cluster, v.at.cluster, ErrCorrupt)
	case v.uid != "" && v.uid != record.UID:
		return fmt.Errorf("%w: it joined cluster %s with the UID %s, and that of this etcd has %s: it is another one, or it was wiped. %s", ErrOtherCluster, cluster, v.uid, record.UID, todo)
	}
	return nil
}

// found writes the cluster's record.
func (c *Client) found(ctx context.Context, v scene) error {
	record := Cluster{Version: version, ID: c.Keys.Cluster, UID: rand.Text(), Created: v.now}
	_, err := c.commit(ctx, v, Txn{Then: []Op{{Key: v.at.cluster, Value: encode(record, nil)}}})
	if errors.Is(err, ErrRefused) {
		return fmt.Errorf("join cluster %s: it has no record yet, and this machine may not write it; an operator creates it with `drydock lock apply FILE`: %w", c.Keys.Cluster, err)
	}
	if err != nil {
		return fmt.Errorf("create cluster %s: %w", c.Keys.Cluster, err)
	}
	return nil
}

// appear shows that this boot of the machine is there. Then everything is read
// again: of two machines that appear at once, at least one sees the other, and
// the watch tells the other one.
func (c *Client) appear(ctx context.Context, v scene) (bool, error) {
	session, fresh, err := c.begin(ctx)
	if err != nil {
		return false, err
	}
	lease := session.Lease()
	key := v.at.presence(v.self.Boot, v.self.Instance, false)
	if p := v.present[key]; p.there() && (p.err != nil || p.rec.Instance != v.self.Instance) {
		key = v.at.presence(v.self.Boot, v.self.Instance, true)
	}
	old := v.present[key]
	if old.there() && (old.lease == lease || v.shown == lease) { // it is shown, or a twin of this process shows it
		c.bury(ctx)
		return false, nil
	}
	record := Presence{Version: version, Machine: v.self.Machine, Instance: v.self.Instance, Boot: v.self.Boot, Since: v.now, Program: v.self.Program}
	t := Txn{
		If:   []Cond{{Key: key, Modified: old.modified}},
		Then: []Op{{Key: key, Value: encode(record, old.rec.Extra), Lease: lease}},
	}
	if q := v.ticket; c.former != nil && q.there() && q.err == nil && q.lease == c.former.Lease() { // its place outlasts the session
		t.If = append(t.If, Cond{Key: v.at.ticket, Modified: q.modified})
		t.Then = append(t.Then, Op{Key: v.at.ticket, Value: encode(q.rec, q.rec.Extra), Lease: lease})
	}
	written, err := c.commit(ctx, v, t)
	switch {
	case errors.Is(err, ErrRefused) && !fresh:
		c.forgo(ctx) // the lease has ended: another one
	case err != nil:
		return false, fmt.Errorf("show this machine as present: %w", err)
	case written:
		c.mu.Lock()
		c.shown = lease
		c.mu.Unlock()
	}
	return true, nil
}

// begin returns the session, and whether it is a new one.
func (c *Client) begin(ctx context.Context) (s Session, fresh bool, err error) {
	c.mu.Lock()
	s = c.session
	c.mu.Unlock()
	if s != nil {
		select {
		case <-s.Done():
			c.outlive(ctx, s)
		default:
			return s, false, nil
		}
	}
	s, err = c.Store.Session(ctx, c.ttl())
	if err != nil {
		return nil, false, fmt.Errorf("begin a session: %w", err)
	}
	c.mu.Lock()
	c.session = s
	c.mu.Unlock()
	return s, true, nil
}

// outlive sets a session aside that has ended, or may have, until what still
// hangs on it has moved to the next one.
func (c *Client) outlive(ctx context.Context, s Session) {
	if c.former != nil { // nothing was ever moved to s
		c.forgo(ctx)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session, c.former = nil, s
}

// bury ends a session that was set aside: what has not moved from it is not to
// outlive this by its whole time.
func (c *Client) bury(ctx context.Context) {
	if c.former != nil {
		_ = c.former.Close(ctx) // what is not given back ends with the lease
		c.former = nil
	}
}

// forgo drops a session that has ended, or may have. What still hangs on it goes
// now if the store hears of it, and else after its time.
func (c *Client) forgo(ctx context.Context) {
	c.mu.Lock()
	s := c.session
	c.session = nil
	c.mu.Unlock()
	_ = s.Close(ctx)
}

// journal is an entry of this machine's.
func (c *Client) journal(v scene, what, why string) Op {
	e := Entry{Version: version, At: v.now, Group: v.at.group, Machine: v.self.Machine, Who: "machine " + v.self.Machine, What: what, Why: why}
	return Op{Key: c.Keys.OwnEntry(v.self.Machine, entryID(v.now)), Value: encode(e, nil)}
}

// register makes the member record what the machine is now. While another
// machine with its machine-id is there, neither does.
func (c *Client) register(ctx context.Context, v scene) (bool, error) {
	if errors.Is(v.member.err, ErrNewer) || v.clones() != "" {
		return false, nil
	}
	voters, unknown := c.voters(ctx)
	if unknown != nil {
		voters = v.member.rec.Etcd
	}
	record, entry := v.asMember(voters)
	value := encode(record, record.Extra)
	if v.member.there() && v.member.err == nil && bytes.Equal(value, encode(v.member.rec, v.member.rec.Extra)) {
		return false, nil
	}
	t := Txn{If: []Cond{{Key: v.at.member, Modified: v.member.modified}}, Then: []Op{{Key: v.at.member, Value: value}}}
	if record.Group != v.at.group { // it moves, and holds nothing where it was
		t.If = append(t.If, Cond{Key: v.at.permit, Modified: v.permit.modified}, Cond{Key: v.at.ticket, Modified: v.ticket.modified})
		if v.ticket.there() {
			t.Then = append(t.Then, Op{Key: v.at.ticket, Delete: true})
		}
	}
	if entry != "" {
		t.Then = append(t.Then, c.journal(v, entry, ""))
	}
	if _, err := c.commit(ctx, v, t); err != nil {
		return false, fmt.Errorf("write this machine's member record: %w", err)
	}
	return true, nil
}

// asMember is the member record as it should be, and the journal's word for what
// that changes.
func (v scene) asMember(voters []EtcdMember) (record Member, entry string) {
	if v.member.there() && v.member.err == nil {
		record = v.member.rec
		if record.Instance != v.self.Instance {
			entry = "reinstalled"
		}
	} else {
		record, entry = Member{Joined: v.now}, "joined"
	}
	record.Version, record.Machine, record.Instance, record.Hostname, record.Zone = version, v.self.Machine, v.self.Instance, v.self.Hostname, v.self.Zone
	record.Labels, record.Platform, record.Etcd, record.Via = v.self.Labels, v.self.Platform, voters, ""
	if !v.holds() || record.Group == "" {
		record.Group = v.self.Group
	}
	return record, entry
}

// voters asks which voters of etcd run here, and keeps why nobody knows.
func (c *Client) voters(ctx context.Context) (found []EtcdMember, err error) {
	if c.Etcd != nil {
		ctx, cancel := context.WithTimeout(ctx, etcdPatience)
		defer cancel()
		found, err = c.Etcd(ctx)
	}
	c.mu.Lock()
	c.sees.etcd = err
	c.mu.Unlock()
	return found, err
}

// adopt takes over a permit that was granted before the machine was installed
// anew, so that it can be given back. Boot stays that of the grant.
func (c *Client) adopt(ctx context.Context, v scene) (bool, error) {
	if !v.holds() || v.permit.err != nil || v.permit.rec.Via == viaOperator || v.permit.rec.Instance == v.self.Instance || v.clones() != "" {
		return false, nil
	}
	record := v.permit.rec
	why := fmt.Sprintf("from instance %q, in phase %s since %s", record.Instance, record.Phase, record.PhaseSince.UTC().Format(time.RFC3339))
	record.Instance, record.Via = v.self.Instance, ""
	_, err := c.commit(ctx, v, Txn{
		If:   []Cond{{Key: v.at.permit, Modified: v.permit.modified}},
		Then: []Op{{Key: v.at.permit, Value: encode(record, record.Extra)}, c.journal(v, "adopted", why)},
	})
	if err != nil {
		return false, fmt.Errorf("take over the permit of the machine before it was installed anew: %w", err)
	}
	return true, nil
}

// seed writes the rules that policy has for a group that has none.
func (c *Client) seed(ctx context.Context, v scene) (wrote bool, err error) {
	why := ""
	defer func() {
		c.mu.Lock()
		c.sees.seed = why
		c.mu.Unlock()
	}()
	if v.rules.there() || v.policy == nil || v.at.group != v.self.Group {
		return false, nil
	}
	record := *v.policy
	record.Version, record.Freeze = version, nil
	if err := record.Check(); err != nil {
		why = fmt.Sprintf("policy's rules for group %s are not written: %v", v.at.group, err)
		return false, nil
	}
	_, err = c.commit(ctx, v, Txn{
		If:   []Cond{{Key: v.at.rules}},
		Then: []Op{{Key: v.at.rules, Value: encode(record, record.Extra)}, c.journal(v, "rules", "from the policy file: the group had none")},
	})
	switch {
	case errors.Is(err, ErrRefused):
		why = fmt.Sprintf("group %s has no rules, and this machine may not write them; an operator does with `drydock lock apply FILE`: %v", v.at.group, err)
		return false, nil
	case err != nil:
		return false, fmt.Errorf("write the rules of group %s: %w", v.at.group, err)
	}
	return true, nil
}

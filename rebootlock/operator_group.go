package rebootlock

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Rules returns a group's rules, nil where it has none.
func (o Operator) Rules(ctx context.Context, group string) (*Rules, error) {
	if err := CheckName("group", group); err != nil {
		return nil, err
	}
	records, err := o.read(ctx, []Range{{Key: o.Keys.Rules(group)}})
	if err != nil {
		return nil, err
	}
	rules, there, err := record[Rules](records, o.Keys.Rules(group))
	if err != nil || !there {
		return nil, err
	}
	return &rules, nil
}

// Apply makes rules those of a group, and returns what they were before, nil
// where there were none; then the group comes to be, and so does the cluster. A
// freeze stays, whatever rules says of one, and so do fields of the record that
// this version does not know.
func (o Operator) Apply(ctx context.Context, group string, rules Rules) (before *Rules, changed bool, err error) {
	if err := cmp.Or(CheckName("cluster", o.Keys.Cluster), CheckName("group", group)); err != nil {
		return nil, false, err
	}
	if err := rules.Check(); err != nil {
		return nil, false, fmt.Errorf("rules of group %s: %w", group, err)
	}
	key, clusterKey := o.Keys.Rules(group), o.Keys.ClusterRecord()
	err = o.change(ctx, []Range{{Key: key}, {Key: clusterKey}}, func(s seen) (edit, error) {
		before, changed = nil, false
		old, there, err := record[Rules](s, key)
		if err != nil {
			return edit{}, err
		}
		next := rules
		next.Version, next.Freeze, next.Extra = version, old.Freeze, old.Extra
		if there {
			before = &old
		}
		e := edit{entry: Entry{Group: group, What: "rules", Why: difference(before, next)}}
		if !there || e.entry.Why != "" {
			changed = true
			e.ops = append(e.ops, Op{Key: key, Value: encode(next, next.Extra)})
		}
		_, there, err = record[Cluster](s, clusterKey)
		if err == nil && !there {
			c := Cluster{Version: version, ID: o.Keys.Cluster, UID: rand.Text(), Created: o.Now()}
			e.ops = append(e.ops, Op{Key: clusterKey, Value: encode(c, nil)})
		}
		return e, err
	})
	if err != nil {
		return nil, false, fmt.Errorf("apply rules to group %s: %w", group, err)
	}
	return before, changed, nil
}

// SetMax changes how many permits a group has, and returns how many it had. What
// is held stays held: below that nothing is granted.
func (o Operator) SetMax(ctx context.Context, group string, limit Max) (before Max, err error) {
	if err := limit.check(); err != nil {
		return Max{}, err
	}
	err = o.rule(ctx, group, func(r *Rules) Entry {
		before, r.Max = r.Max, limit
		return Entry{What: "rules", Why: fmt.Sprintf("max %s → %s", before, limit)}
	})
	if err != nil {
		return Max{}, fmt.Errorf("set max of group %s: %w", group, err)
	}
	return before, nil
}

// Freeze stops a group, or with group "" the whole cluster, for a reason that
// everybody sees: no grant, and no phase of a permit begins. What is frozen
// already takes the new reason.
func (o Operator) Freeze(ctx context.Context, group, reason string) error {
	if err := checkReason(reason); err != nil {
		return fmt.Errorf("freeze %s: %w", scope(group), err)
	}
	return o.setFreeze(ctx, group, &Freeze{Reason: reason, By: o.who(), Since: o.Now()})
}

// Thaw lifts the freeze of a group, or of the cluster (""). That of the other
// stays. Without a freeze there is nothing to do.
func (o Operator) Thaw(ctx context.Context, group string) error { return o.setFreeze(ctx, group, nil) }

func (o Operator) setFreeze(ctx context.Context, group string, f *Freeze) (err error) {
	what, why := "thawed", ""
	if f != nil {
		what, why = "frozen", f.Reason
	}
	entry := Entry{What: what, Why: why}
	if group != "" {
		err = o.rule(ctx, group, func(r *Rules) Entry { r.Freeze = since(r.Freeze, f); return entry })
	} else {
		err = o.freezeCluster(ctx, f, entry)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", strings.Join([]string{map[bool]string{true: "freeze", false: "thaw"}[f != nil], scope(group)}, " "), err)
	}
	return nil
}

func (o Operator) freezeCluster(ctx context.Context, f *Freeze, entry Entry) error {
	key := o.Keys.ClusterRecord()
	return o.change(ctx, []Range{{Key: key}}, func(s seen) (edit, error) {
		c, there, err := record[Cluster](s, key)
		if err == nil && !there {
			err = fmt.Errorf("there is no cluster %s in this store: the first machine that joins makes it, or drydock lock apply", o.Keys.Cluster)
		}
		if err != nil {
			return edit{}, err
		}
		c.Freeze = since(c.Freeze, f)
		c.Version = version
		return rewrite(s[key], encode(c, c.Extra), entry), nil
	})
}

// since is a freeze that takes the place of another: what only changes its
// reason began when the first did.
func since(before, f *Freeze) *Freeze {
	if before == nil || f == nil {
		return f
	}
	if before.Reason == f.Reason {
		return before
	}
	return &Freeze{Reason: f.Reason, By: f.By, Since: before.Since}
}

// scope names what a freeze is of.
func scope(group string) string {
	if group == "" {
		return "the cluster"
	}
	return "group " + group
}

// rule changes the rules of a group that has some.
func (o Operator) rule(ctx context.Context, group string, set func(*Rules) Entry) error {
	if err := CheckName("group", group); err != nil {
		return err
	}
	key := o.Keys.Rules(group)
	return o.change(ctx, []Range{{Key: key}}, func(s seen) (edit, error) {
		rules, there, err := record[Rules](s, key)
		if err == nil && !there {
			err = fmt.Errorf("cluster %s has no rules for a group %s, so nothing is granted there: drydock lock apply writes them", o.Keys.Cluster, group)
		}
		if err != nil {
			return edit{}, err
		}
		entry := set(&rules)
		entry.Group = group
		rules.Version = version
		return rewrite(s[key], encode(rules, rules.Extra), entry), nil
	})
}

// rewrite is the edit that gives a record a new value, if it is one.
func rewrite(kv KV, value []byte, entry Entry) edit {
	if sameJSON(kv.Value, value) {
		return edit{}
	}
	return edit{ops: []Op{{Key: kv.Key, Value: value, Lease: kv.Lease}}, entry: entry}
}

// Forgive drops the failures of a group that are of one release, or all where
// release is "": it lifts the stop that they made.
func (o Operator) Forgive(ctx context.Context, group, release string) error {
	if err := CheckName("group", group); err != nil {
		return err
	}
	key := o.Keys.Failures(group)
	err := o.change(ctx, []Range{{Key: key}}, func(s seen) (edit, error) {
		f, there, err := record[Failures](s, key)
		if err != nil || !there {
			return edit{}, err
		}
		var machines []string
		kept := make([]Failure, 0, len(f.Failed))
		for _, one := range f.Failed {
			if release != "" && one.Release != release {
				kept = append(kept, one)
				continue
			}
			machines = append(machines, one.Machine)
		}
		if len(machines) == 0 {
			return edit{}, nil
		}
		f.Failed, f.Version = kept, version
		why := fmt.Sprintf("%d failed: %s", len(machines), strings.Join(machines, ", "))
		return rewrite(s[key], encode(f, f.Extra), Entry{Group: group, What: "forgiven", Release: release, Why: shorten(why)}), nil
	})
	if err != nil {
		return fmt.Errorf("forgive the failures of group %s: %w", group, err)
	}
	return nil
}

// shorten keeps a text that was put together within what a reason may have.
func shorten(text string) string {
	if len(text) <= maxReason {
		return text
	}
	return strings.ToValidUTF8(text[:maxReason-len("…")], "") + "…"
}

// difference says what of the rules changes, by the record's names: "max 1 → 3,
// pause – → 10m0s". It is "" where nothing does.
func difference(before *Rules, after Rules) string {
	old := map[string]json.RawMessage{}
	if before != nil {
		old = fields(encode(*before, nil))
	}
	next := fields(encode(after, nil))
	var texts []string
	for _, name := range slices.Sorted(maps.Keys(next)) {
		if !bytes.Equal(old[name], next[name]) {
			texts = append(texts, fmt.Sprintf("%s %s → %s", name, inWords(old[name]), inWords(next[name])))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(old)) {
		if _, still := next[name]; !still {
			texts = append(texts, fmt.Sprintf("%s %s → –", name, inWords(old[name])))
		}
	}
	return shorten(strings.Join(texts, ", "))
}

func fields(data []byte) map[string]json.RawMessage {
	all := map[string]json.RawMessage{}
	json.Unmarshal(data, &all) // encode made it
	delete(all, "version")
	delete(all, "freeze")
	return all
}

// inWords is a value as people write it.
func inWords(value json.RawMessage) string {
	if value == nil {
		return "–"
	}
	return strings.Trim(string(value), `"`)
}

// sameJSON reports whether two texts hold the same, however they are spaced.
func sameJSON(a, b []byte) bool {
	var left, right any
	if json.Unmarshal(a, &left) != nil || json.Unmarshal(b, &right) != nil {
		return false
	}
	x, _ := json.Marshal(left)
	y, _ := json.Marshal(right)
	return bytes.Equal(x, y)
}

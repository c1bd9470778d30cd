package rebootlock

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/rebootlock/window"
)

// goldenMachine is the machine that testdata/rebootlock/v1 tells of. Each of
// these records has all fields that version 1 has, and "shelf", which it has not.
const goldenMachine = "00000000000000000000000000000001"

// golden returns a record as version 1 wrote it.
func golden(t *testing.T, kind string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("../testdata/rebootlock/v1", kind+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// kept reports whether a record has what version 1 does not know.
func kept(value []byte) bool {
	var record struct{ Shelf json.RawMessage }
	var shelf bytes.Buffer
	return json.Unmarshal(value, &record) == nil && json.Compact(&shelf, record.Shelf) == nil && shelf.String() == `{"of":"tomorrow","years":[1,2.5,null]}`
}

// recordKind is one kind of record: where it lies, and how it is read and
// written back.
type recordKind struct {
	key    string
	fields reflect.Type
	rewrap func([]byte) ([]byte, error)
}

func recordOf[T any](key string) recordKind {
	return recordKind{key, reflect.TypeFor[T](), func(data []byte) ([]byte, error) {
		var rec T
		if err := decodeInto(data, &rec); err != nil {
			return nil, err
		}
		return encode(rec, reflect.ValueOf(rec).FieldByName("Extra").Interface().(Extra)), nil
	}}
}

func recordKinds(k Keys) map[string]recordKind {
	return map[string]recordKind{
		"cluster": recordOf[Cluster](k.ClusterRecord()), "member": recordOf[Member](k.Member(goldenMachine)),
		"presence": recordOf[Presence](k.Presence(goldenMachine, "boot1")), "ticket": recordOf[Ticket](k.Ticket(testGroup, goldenMachine)),
		"permit": recordOf[Permit](k.Permit(testGroup, goldenMachine)), "rules": recordOf[Rules](k.Rules(testGroup)),
		"failures": recordOf[Failures](k.Failures(testGroup)), "ledger": recordOf[Ledger](k.Ledger(testGroup)),
		"stamp": recordOf[Stamp](k.Stamp()), "status": recordOf[Status](k.Status(goldenMachine)), "entry": recordOf[Entry](k.Entry("1")),
	}
}

// TestRecordsOfVersion1AreReadWhole: read and written back, each is what it was,
// so no field of version 1 has another name, or is gone.
func TestRecordsOfVersion1AreReadWhole(t *testing.T) {
	for kind, r := range recordKinds(Keys{Cluster: "test"}) {
		data := golden(t, kind)
		again, err := r.rewrap(data)
		if err != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		var was, is map[string]any
		if err := errors.Join(json.Unmarshal(data, &was), json.Unmarshal(again, &is)); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(was, is) {
			t.Errorf("%s: was %s\nis %s", kind, data, again)
		}
		for name := range known(r.fields) {
			if _, has := was[name]; !has {
				t.Errorf("%s: version 1 is not known to have %q: a new field goes into testdata only with a new version", kind, name)
			}
		}
	}
	var rules Rules
	if err := decodeInto(golden(t, "rules"), &rules); err != nil || rules.Check() != nil {
		t.Errorf("rules: %v, %v", err, rules.Check())
	}
}

// archive is a yard whose records are those of version 1.
type archive struct {
	*yard
	kinds map[string]recordKind
	was   map[string]int64 // revisions, by key
}

// place writes a golden record with some of its fields changed.
func (y archive) place(kind string, change map[string]any) {
	y.t.Helper()
	var rec map[string]any
	if err := json.Unmarshal(golden(y.t, kind), &rec); err != nil {
		y.t.Fatal(err)
	}
	maps.Copy(rec, change)
	value, err := json.Marshal(rec)
	if err != nil {
		y.t.Fatal(err)
	}
	y.write(y.kinds[kind].key, value)
}

// rewritten checks that a record was written since the last look, and still has
// what version 1 does not know.
func (y archive) rewritten(by, kind string) {
	y.t.Helper()
	kv := y.kv(y.kinds[kind].key)
	if !kept(kv.Value) || kv.Modified == y.was[kind] {
		y.t.Errorf("%s does not rewrite %s, or not all of it: %s", by, kv.Key, kv.Value)
	}
	y.was[kind] = kv.Modified
}

// TestUnknownFieldsSurviveEachRewrite: whoever changes a record that version 1
// wrote, and that a later one added to, writes that back.
func TestUnknownFieldsSurviveEachRewrite(t *testing.T) {
	y := archive{newYard(t, Rules{Max: Max{Count: 1}}), nil, map[string]int64{}}
	y.kinds = recordKinds(y.keys)
	y.place("cluster", map[string]any{"freeze": nil})
	y.place("rules", map[string]any{"freeze": nil, "max": 1, "windows": nil, "pause": "0s", "stop_after": 0, "zone_max": 0, "one_zone": false})
	y.place("member", map[string]any{"hostname": "old"})
	for _, kind := range []string{"presence", "failures", "ledger"} {
		y.place(kind, nil)
	}
	y.machineRewrites()
	y.operatorRewrites(Operator{Store: y.store, Keys: y.keys, Who: "operator", Now: func() time.Time { return y.now }})
}

func (y archive) machineRewrites() {
	ctx, a := context.Background(), y.ship(1)
	if err := a.Refresh(ctx); err != nil {
		y.t.Fatal(err)
	}
	y.rewritten("a machine that joins", "member")
	y.rewritten("a machine that appears", "presence")
	y.place("ticket", map[string]any{"via": "", "etcd": nil})
	a.ask()
	y.rewritten("a machine that asks again", "ticket")
	y.held()
	y.rewritten("the coordinator that grants", "permit") // from the ticket
	y.rewritten("the coordinator that grants", "ledger")
	a.fence(PhaseDraining)
	y.rewritten("a fence", "permit")
	a.die()
	y.later(2 * time.Minute)
	a.boot("instance1b") // installed anew, with the old permit
	if err := a.Refresh(ctx); err != nil {
		y.t.Fatal(err)
	}
	y.rewritten("a machine that takes its permit over", "permit")
	a.release(RolledBack)
	y.rewritten("a release", "permit")
	y.held()
	y.rewritten("the coordinator that books a failure", "failures")
}

func (y archive) operatorRewrites(o Operator) {
	ctx := context.Background()
	for _, step := range []struct {
		by, kind string
		do       func() error
	}{
		{"apply", "rules", func() error { _, _, err := o.Apply(ctx, testGroup, Rules{Version: 1, Max: Max{Count: 3}}); return err }},
		{"set-max", "rules", func() error { _, err := o.SetMax(ctx, testGroup, Max{Count: 5}); return err }},
		{"freeze", "rules", func() error { return o.Freeze(ctx, testGroup, "x") }},
		{"thaw", "rules", func() error { return o.Thaw(ctx, testGroup) }},
		{"freeze --cluster-wide", "cluster", func() error { return o.Freeze(ctx, "", "x") }},
		{"thaw --cluster-wide", "cluster", func() error { return o.Thaw(ctx, "") }},
		{"forgive", "failures", func() error { return o.Forgive(ctx, testGroup, "") }},
	} {
		if err := step.do(); err != nil {
			y.t.Fatalf("%s: %v", step.by, err)
		}
		y.rewritten(step.by, step.kind)
	}
}

// spoilt is a group with a machine that waits, in which one record is
// exchanged.
func spoilt(t *testing.T, kind string, value []byte) (y *yard, a *ship) {
	y = newYard(t, Rules{Max: Max{Count: 1}})
	a = y.ship(1)
	a.ask()
	if _, err := y.store.Commit(context.Background(), Txn{Then: []Op{{Key: recordKinds(y.keys)[kind].key, Value: value}}}); err != nil {
		t.Fatal(err)
	}
	return y, a
}

// governs are the records by which permits are granted.
var governs = []string{"cluster", "member", "presence", "ticket", "permit", "rules", "failures", "ledger"}

// TestRecordsOfVersion2AreRefused: the coordinator resigns and says why, and
// grants nothing; a machine begins no phase by what it cannot read, and says why;
// and nobody overwrites it, but for what is the machine's own to write.
func TestRecordsOfVersion2AreRefused(t *testing.T) {
	for kind := range recordKinds(Keys{Cluster: "test"}) {
		t.Run(kind, func(t *testing.T) {
			newer := bytes.Replace(golden(t, kind), []byte(`"version": 1`), []byte(`"version": 2`), 1)
			y, a := spoilt(t, kind, newer)
			if kind == "stamp" { // the coordinator would write its own
				y.tells(t, a, kind)
				return
			}
			err := y.pass()
			if matters := slices.Contains(governs, kind); matters != errors.Is(err, ErrNewer) {
				t.Fatalf("the coordinator's pass: %v", err)
			} else if matters {
				stamp, _ := oneOf[Stamp](y, y.keys.Stamp())
				if key := recordKinds(y.keys)[kind].key; !strings.Contains(stamp.Trouble, key) || !strings.Contains(stamp.Trouble, "version 2") {
					t.Errorf("the stamp does not say why: %q", stamp.Trouble)
				}
				if s, _ := y.store.Read(context.Background(), y.keys.all(kindPermit)); len(s.KVs) > 0 && kind != "permit" {
					t.Errorf("granted in spite of it: %s", s.KVs[0].Value)
				}
			}
			y.tells(t, a, kind)
		})
	}
}

// tells checks where a machine says that it cannot read a record of a newer
// version, and that no phase begins where that matters.
func (y *yard) tells(t *testing.T, a *ship, kind string) {
	t.Helper()
	if err := a.Refresh(context.Background()); err == nil && kind == "cluster" {
		t.Error("it goes by a cluster that it cannot read")
	}
	s, err := a.Standing(context.Background())
	where := map[string][]Obstacle{"rules": s.Stops, "failures": s.Stops, "member": s.Waits, "ledger": s.Waits, "stamp": s.Waits}
	switch obstacles, is := where[kind]; {
	case kind == "cluster" || kind == "permit":
		if !errors.Is(err, ErrNewer) {
			t.Errorf("standing %v, %v; want %v", s.Standing, err, ErrNewer)
		}
		a.refused(ErrNewer)
	case err != nil:
		t.Errorf("standing: %v", err)
	case is && kind != "ledger" && !slices.ContainsFunc(obstacles, func(o Obstacle) bool { return strings.Contains(o.Text, "newer version") }):
		t.Errorf("it does not say that it cannot read %s: stops %v, waits %v", kind, s.Stops, s.Waits)
	}
	if kind == "rules" || kind == "failures" {
		if err := a.Fence(context.Background(), PhaseDraining); err == nil {
			t.Errorf("a phase began")
		}
	}
}

// broken returns what a record of a kind may be broken to.
func broken(t *testing.T, kind string) map[string][]byte {
	data := golden(t, kind)
	many := map[string][]byte{
		"empty": {}, "null": []byte("null"), "a list": []byte("[]"), "a text": []byte(`"x"`), "cut off": data[:len(data)/2], "two": append(slices.Clone(data), data...),
		"no version": bytes.Replace(data, []byte(`"version": 1`), []byte(`"versions": 1`), 1), "version 0": bytes.Replace(data, []byte(`"version": 1`), []byte(`"version": 0`), 1),
		"version -1": bytes.Replace(data, []byte(`"version": 1`), []byte(`"version": -1`), 1), "version 1.5": bytes.Replace(data, []byte(`"version": 1`), []byte(`"version": 1.5`), 1),
		"version as text": bytes.Replace(data, []byte(`"version": 1`), []byte(`"version": "1"`), 1),
		"too large":       bytes.Replace(data, []byte("tomorrow"), bytes.Repeat([]byte("x"), maxRecord), 1),
		"nested":          []byte(`{"version":1,"shelf":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`),
		"not UTF-8 and 0": []byte("\xff\x00\xfe"),
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		t.Fatal(err)
	}
	for name := range fields { // a type that no field has
		if name != "shelf" {
			wrong := maps.Clone(fields)
			wrong[name] = json.RawMessage(`[{"a":[]},true]`)
			many["wrong type of "+name], _ = json.Marshal(wrong)
		}
	}
	return many
}

// TestCorruptRecordsOfEachKind: none is read as something that it is not, the
// coordinator resigns over those that govern, and grants nothing.
func TestCorruptRecordsOfEachKind(t *testing.T) {
	for kind, r := range recordKinds(Keys{Cluster: "test"}) {
		for name, value := range broken(t, kind) {
			if _, err := r.rewrap(value); !errors.Is(err, ErrCorrupt) {
				t.Errorf("%s, %s: read: %v", kind, name, err)
			}
			if !slices.Contains(governs, kind) {
				continue
			}
			y, a := spoilt(t, kind, value)
			if err := y.pass(); !errors.Is(err, ErrCorrupt) {
				t.Errorf("%s, %s: the coordinator's pass: %v", kind, name, err)
			}
			if err := a.Fence(context.Background(), PhaseDraining); err == nil {
				t.Errorf("%s, %s: a phase began", kind, name)
			}
			if s, _ := y.store.Read(context.Background(), y.keys.all(kindPermit)); len(s.KVs) > 0 && kind != "permit" {
				t.Errorf("%s, %s: granted in spite of it", kind, name)
			}
		}
	}
}

// sections are those of RECORDS.md by number.
func sections(t *testing.T) map[string]string {
	t.Helper()
	data, err := os.ReadFile("RECORDS.md")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, part := range strings.Split(string(data), "\n## ")[1:] {
		number, text, _ := strings.Cut(part, ".")
		found[number] = text
	}
	return found
}

// TestEveryFieldIsDocumented: RECORDS.md names each field of each record, and
// those of what is in it, in the section that is told of it.
func TestEveryFieldIsDocumented(t *testing.T) {
	found := sections(t)
	types := map[string][]reflect.Type{
		"2": {reflect.TypeFor[Cluster]()}, "3": {reflect.TypeFor[Member](), reflect.TypeFor[Presence](), reflect.TypeFor[EtcdMember]()},
		"4": {reflect.TypeFor[Ticket]()}, "5": {reflect.TypeFor[Permit]()}, "6": {reflect.TypeFor[Rules](), reflect.TypeFor[Freeze](), reflect.TypeFor[window.Window]()},
		"7": {reflect.TypeFor[Failures](), reflect.TypeFor[Failure]()}, "8": {reflect.TypeFor[Ledger](), reflect.TypeFor[Stamp](), reflect.TypeFor[Obstacle]()},
		"9": {reflect.TypeFor[Status]()}, "10": {reflect.TypeFor[Entry]()},
	}
	for section, all := range types {
		fields := map[string]bool{}
		for _, typ := range all {
			names := known(typ)
			if typ == reflect.TypeFor[window.Window]() {
				names = map[string]bool{"start": true, "length": true} // it writes itself
			}
			for name := range names {
				fields[name] = true
				if word := regexp.MustCompile(fmt.Sprintf("[`{, ]%s[`:,} ]", regexp.QuoteMeta(name))); name != "version" && !word.MatchString(found[section]) {
					t.Errorf("section %s does not tell of %s.%s", section, typ.Name(), name)
				}
			}
		}
		for _, list := range regexp.MustCompile("`\\{([a-z_, ]+)\\}`").FindAllStringSubmatch(found[section], -1) { // what has fields of its own
			for name := range strings.SplitSeq(list[1], ", ") {
				if !fields[name] {
					t.Errorf("section %s tells of a field %q that no record has", section, name)
				}
			}
		}
	}
}

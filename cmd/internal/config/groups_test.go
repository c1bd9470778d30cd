package config

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/rebootlock/window"
	"github.com/drydock-os/drydock/updater/policy"
)

func zero() *int { return new(int) }

// every is a group with each rule that a file can hold.
var every = Group{Name: "prod/db \"α\"", Rules: rebootlock.Rules{
	Max: rebootlock.Max{Percent: 25}, ZoneMax: 2, OneZone: true, Pause: rebootlock.Duration(90 * time.Second),
	Windows: []window.Window{
		{Start: window.Start{Days: 1 << time.Saturday, Hour: 2}, Length: 4 * time.Hour},
		{Start: window.Start{Hour: 23, Minute: 30}, Length: 90 * time.Minute},
	},
	Timezone: "Europe/Berlin", Deadline: rebootlock.Duration(time.Hour), OnOverdue: rebootlock.TakeAwayOverdue, StopAfter: zero(),
}}

func TestReadGroups(t *testing.T) {
	got, err := ReadGroups(files(t, "groups/good.toml")[0])
	if err != nil {
		t.Fatal(err)
	}
	want := []Group{
		{Name: "web", Rules: rebootlock.Rules{Max: rebootlock.Max{Count: 2}}},
		{Name: "batch", Rules: rebootlock.Rules{Max: rebootlock.Max{Count: 3}}}, // its defaults in words are defaults
		every,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// What is written is read back, and writing that gives the same text.
func TestGroupsRoundTrip(t *testing.T) {
	two := 2
	for name, groups := range map[string][]Group{
		"the least": {{Name: "default", Rules: rebootlock.Rules{Max: rebootlock.Max{Count: 1}}}},
		"all":       {every, {Name: "b", Rules: rebootlock.Rules{Max: rebootlock.Max{Count: 4000}, StopAfter: &two, OnOverdue: rebootlock.WaitOverdue}}},
		"seconds":   {{Name: "[x]\\ # \"", Rules: rebootlock.Rules{Max: rebootlock.Max{Percent: 100}, Deadline: rebootlock.Duration(1500 * time.Millisecond)}}},
		"months":    {{Name: "a", Rules: rebootlock.Rules{Max: rebootlock.Max{Count: 1}, Pause: rebootlock.Duration(2000 * time.Hour)}}},
	} {
		var text bytes.Buffer
		if err := WriteGroups(&text, groups); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got, err := ReadGroups(write(t, text.String()))
		if err != nil || !reflect.DeepEqual(got, groups) {
			t.Errorf("%s: got %+v, %v\nwant %+v\n%s", name, got, err, groups, text.String())
		}
	}
}

// A record that says a default in words means what one says that is silent.
func TestDefaultsInWordsAreDefaults(t *testing.T) {
	one := 1
	in := Group{Name: "a", Rules: rebootlock.Rules{
		Max: rebootlock.Max{Count: 1}, Timezone: "UTC", Deadline: rebootlock.Duration(rebootlock.DefaultDeadline), OnOverdue: rebootlock.StopOverdue, StopAfter: &one,
	}}
	var text bytes.Buffer
	if err := WriteGroups(&text, []Group{in}); err != nil {
		t.Fatal(err)
	}
	got, err := ReadGroups(write(t, text.String()))
	want := []Group{{Name: "a", Rules: rebootlock.Rules{Max: rebootlock.Max{Count: 1}}}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
}

// The policy's defaults of a group are the lock's.
func TestDefaultGroupIsTheLocks(t *testing.T) {
	g := policy.DefaultGroup()
	g.Max = "1"
	got, err := GroupRules(g)
	if err != nil || !reflect.DeepEqual(got, rebootlock.Rules{Max: rebootlock.Max{Count: 1}}) {
		t.Errorf("got %+v, %v, want nothing but max", got, err)
	}
}

// A policy and the lock agree on what max is.
func TestMaxIsJudgedAlike(t *testing.T) {
	for _, text := range []string{"", "0", "1", "-1", "2", "007", "+3", "100", "0%", "1%", "25%", "100%", "101%", "-5%", "%", "x", "1.5", "2 ", "9999999999999999999", "5%%"} {
		g := policy.DefaultGroup()
		g.Max = policy.Max(text)
		_, err := rebootlock.ParseMax(text)
		if errs := g.Validate("group"); (err == nil) != (len(errs) == 0) {
			t.Errorf("%q: the lock says %v, the policy %v", text, err, errs)
		}
	}
}

func TestWriteGroupsRefusesWhatIsNoGroup(t *testing.T) {
	for name, g := range map[string]Group{
		"no name":  {Rules: rebootlock.Rules{Max: rebootlock.Max{Count: 1}}},
		"a line":   {Name: "a\nmax = 5", Rules: rebootlock.Rules{Max: rebootlock.Max{Count: 1}}},
		"no max":   {Name: "a"},
		"no zone":  {Name: "a", Rules: rebootlock.Rules{Max: rebootlock.Max{Count: 1}, Timezone: "Mars/Base"}},
		"not UTF8": {Name: "a\xff", Rules: rebootlock.Rules{Max: rebootlock.Max{Count: 1}}},
	} {
		var text bytes.Buffer
		if err := WriteGroups(&text, []Group{g}); err == nil || text.Len() > 0 {
			t.Errorf("%s: %v, wrote %q", name, err, text.String())
		}
	}
}

func TestMissingGroupsFile(t *testing.T) {
	_, err := ReadGroups(filepath.Join(t.TempDir(), "groups.toml"))
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "drydock lock show") {
		t.Errorf("got %v, want fs.ErrNotExist and what to do", err)
	}
}

// Whatever the file says: no panic, and either groups that are written and read
// back as the same, or problems that all say something.
func FuzzGroups(f *testing.F) {
	for _, pattern := range []string{"groups/*.toml", "groups/bad/*.toml"} {
		for _, path := range files(f, pattern) {
			data, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > maxFile {
			return
		}
		groups, found := parseGroups(data)
		for _, problem := range found {
			if problem.why == "" {
				t.Errorf("a problem of %q says nothing", problem.key)
			}
		}
		if len(found) > 0 {
			return
		}
		var text bytes.Buffer
		if err := WriteGroups(&text, groups); err != nil {
			t.Fatalf("read, and not written: %v", err)
		}
		again, found := parseGroups(text.Bytes())
		if len(found) > 0 || !reflect.DeepEqual(again, groups) {
			t.Errorf("got %+v, %v\nwant %+v\n%s", again, found, groups, text.String())
		}
	})
}

package config

import (
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/rebootlock/window"
	"github.com/drydock-os/drydock/updater/policy"
)

// Each key of the cluster's tables reaches its field.
func TestClusterKeysReachTheirFields(t *testing.T) {
	p, err := Load(files(t, "good/cluster.toml")[0])
	if err != nil {
		t.Fatal(err)
	}
	d := policy.Default()
	clients := []string{"URL", "CAFile", "ClientCertFile", "ClientKeyFile"} // exclude a server's
	for _, tt := range []struct{ got, start any }{{p.Cluster, d.Cluster}, {p.Group, d.Group}, {p.Platform, d.Platform}, {p.FleetLock, d.FleetLock}} {
		got, start := reflect.ValueOf(tt.got), reflect.ValueOf(tt.start)
		for i := range got.NumField() {
			name, same := got.Type().Field(i).Name, reflect.DeepEqual(got.Field(i).Interface(), start.Field(i).Interface())
			if same && !(got.Type() == reflect.TypeFor[policy.FleetLock]() && slices.Contains(clients, name)) {
				t.Errorf("%s.%s is still the default, %v", got.Type(), name, got.Field(i))
			}
		}
	}
	if got := p.Cluster.LabelValues()["role"]; got != "Web.Front" {
		t.Errorf("label role is %q: a value keeps its case and its dots", got)
	}
	source := reflect.ValueOf(PlatformSource(p.Platform))
	for i := range source.NumField() {
		if name := source.Type().Field(i).Name; name != "Timeout" && name != "Backoff" && source.Field(i).IsZero() {
			t.Errorf("the source has no %s", name)
		}
	}
}

func TestGroupRules(t *testing.T) {
	p, err := Load(files(t, "good/cluster.toml")[0])
	if err != nil {
		t.Fatal(err)
	}
	got, err := GroupRules(p.Group)
	want := rebootlock.Rules{
		Max: rebootlock.Max{Count: 2}, ZoneMax: 1, OneZone: true, Pause: rebootlock.Duration(time.Minute),
		Windows:  []window.Window{{Start: window.Start{Days: 0b0111110, Hour: 9}, Length: 8 * time.Hour}},
		Timezone: "Europe/Berlin", Deadline: rebootlock.Duration(time.Hour), OnOverdue: rebootlock.WaitOverdue, StopAfter: zero(),
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
	for name, g := range map[string]policy.Group{
		"none":        policy.DefaultGroup(),
		"a bad max":   {Max: "0%"},
		"a bad zone":  {Max: "1", Timezone: "Mars/Base"},
		"a bad pause": {Max: "1", Pause: -1},
	} {
		if _, err := GroupRules(g); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

package policy

import (
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/rebootlock/window"
)

// Each impossible value is one error, and its message begins with the key.
func TestValidateNamesTheClustersKey(t *testing.T) {
	in := func(change func(*Cluster)) func(*Policy) {
		return func(p *Policy) { p.Cluster = cluster(); change(&p.Cluster) }
	}
	group := func(change func(*Group)) func(*Policy) {
		return func(p *Policy) { p.Cluster, p.Group.Max = cluster(), "1"; change(&p.Group) }
	}
	locked := func(change func(*FleetLock)) func(*Policy) {
		return func(p *Policy) { p.Cluster = cluster(); change(&p.FleetLock) }
	}
	for _, tt := range []struct {
		want   string
		change func(*Policy)
	}{
		{"cluster.endpoints: is empty", in(func(c *Cluster) { c.Endpoints = nil })},
		{"cluster.id: is missing", in(func(c *Cluster) { c.ID = "" })},
		{"cluster.id: \" a\" begins or ends", in(func(c *Cluster) { c.ID = " a" })},
		{"cluster.id: \"a\\nb\" holds a character", in(func(c *Cluster) { c.ID = "a\nb" })},
		{"cluster.id: \"aaaaaaaaaaaaaaaaaaaa\"… has 129 bytes", in(func(c *Cluster) { c.ID = strings.Repeat("a", 129) })},
		{"cluster.group: is empty", in(func(c *Cluster) { c.Group = "" })},
		{"cluster.group: \"a\\xff\" holds", in(func(c *Cluster) { c.Group = "a\xff" })},
		{"cluster.zone: \"a\\x1bb\" holds", in(func(c *Cluster) { c.Zone = "a\x1bb" })},
		{"cluster.endpoints[1]: \"10.0.0.2:2379\" is no URL", in(func(c *Cluster) { c.Endpoints = append(c.Endpoints, "10.0.0.2:2379") })},
		{"cluster.endpoints[0]: \"unix:///run/etcd\" is no URL", in(func(c *Cluster) { c.Endpoints[0] = "unix:///run/etcd" })},
		{"cluster.endpoints[0]: \"https://10.0.0.1\" has no port", in(func(c *Cluster) { c.Endpoints[0] = "https://10.0.0.1" })},
		{"cluster.endpoints[0]: \"https://a:1/v3\" has something behind", in(func(c *Cluster) { c.Endpoints[0] = "https://a:1/v3" })},
		{"cluster.endpoints[0]: holds a user", in(func(c *Cluster) { c.Endpoints[0] = "https://me:secret@a:1" })},
		{"cluster.endpoints[0]: \"a:port\" is no URL", in(func(c *Cluster) { c.Endpoints[0] = "https://me:secret@a:port" })},
		{"cluster.endpoints[1]: \"https://10.0.0.1:2379\" is given twice", in(func(c *Cluster) { c.Endpoints = append(c.Endpoints, c.Endpoints[0]) })},
		{"cluster.endpoints[0]: \"http://a:1\" is http, where certificates", in(func(c *Cluster) { c.Endpoints[0], c.CAFile = "http://a:1", "/ca" })},
		{"cluster.endpoints[0]: \"http://a:1\" is http: the password", in(func(c *Cluster) { c.Endpoints[0], c.User, c.PasswordFile = "http://a:1", "me", "/p" })},
		{"cluster.ca_file: \"ca\" is not an absolute path", in(func(c *Cluster) { c.CAFile = "ca" })},
		{"cluster.cert_file: has no cluster.key_file", in(func(c *Cluster) { c.CertFile = "/c" })},
		{"cluster.key_file: has no cluster.cert_file", in(func(c *Cluster) { c.KeyFile = "/k" })},
		{"cluster.user: has no cluster.password_file", in(func(c *Cluster) { c.User = "me" })},
		{"cluster.password_file: has no cluster.user", in(func(c *Cluster) { c.PasswordFile = "/p" })},
		{"cluster.labels[1]: \"web\" is no label", in(func(c *Cluster) { c.Labels = []string{"a=b", "web"} })},
		{"cluster.labels[0]: \"=web\" is no label", in(func(c *Cluster) { c.Labels = []string{"=web"} })},
		{"cluster.labels[0]: \"role =web\" is no label", in(func(c *Cluster) { c.Labels = []string{"role =web"} })},
		{"cluster.labels[1]: \"role\" is given twice", in(func(c *Cluster) { c.Labels = []string{"role=a", "role=b"} })},
		{"cluster.labels[0]: \"a=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"… has 302 bytes", in(func(c *Cluster) { c.Labels = []string{"a=" + strings.Repeat("a", 300)} })},
		{"cluster.labels[0]: \"a=\\x00\" holds a character", in(func(c *Cluster) { c.Labels = []string{"a=\x00"} })},
		{"cluster.local_etcd[0]: \"localhost\" is no URL", in(func(c *Cluster) { c.LocalEtcd = []string{"localhost"} })},
		{"group: has no cluster", func(p *Policy) { p.Group.Max = "1" }},
		{"group.max: is missing", group(func(g *Group) { g.Max, g.ZoneMax = "", 1 })},
		{"group.max: 0 is not", group(func(g *Group) { g.Max = "0" })},
		{"group.max: -1 is not", group(func(g *Group) { g.Max = "-1" })},
		{"group.max: 101% is not", group(func(g *Group) { g.Max = "101%" })},
		{"group.zone_max: -1 is below 0", group(func(g *Group) { g.ZoneMax = -1 })},
		{"group.pause: -1s is below 0s", group(func(g *Group) { g.Pause = -time.Second })},
		{"group.windows[0].length: 0s", group(func(g *Group) { g.Windows = []window.Window{{}} })},
		{"group.windows: 101 windows are too many", group(func(g *Group) { g.Windows = hours(101) })},
		{"group.timezone: is \"Local\"", group(func(g *Group) { g.Timezone = "Local" })},
		{"group.timezone: is empty: name a zone, like \"Europe/Berlin\" or \"UTC\"", group(func(g *Group) { g.Timezone = "" })},
		{"group.timezone: \"Mars/Base\" is no time zone: write a name of the IANA database, like \"Europe/Berlin\" or \"UTC\"", group(func(g *Group) { g.Timezone = "Mars/Base" })},
		{"group.deadline: 0s is no time", group(func(g *Group) { g.Deadline = 0 })},
		{"group.on_overdue: \"reboot\" is none of \"stop\", \"wait\", \"take-away\"", group(func(g *Group) { g.OnOverdue = "reboot" })},
		{"group.stop_after: -1 is below 0", group(func(g *Group) { g.StopAfter = -1 })},
		{"platform.provider: \"gce\" is none of \"\", \"afterburn\"", func(p *Policy) { p.Platform.Provider = "gce" }},
		{"platform.zone_key: is empty", func(p *Policy) { p.Platform.Provider = Afterburn }},
		{"platform.zone_key: \"A-B\" is no name", func(p *Policy) { p.Platform.ZoneKey = "A-B" }},
		{"platform.file: \"\" is not", func(p *Policy) { p.Platform.File = "" }},
		{"platform.endpoint: \"169.254.169.254\" is no URL", func(p *Policy) { p.Platform.Endpoint = "169.254.169.254" }},
		{"platform.config_drive: \"drive\"", func(p *Policy) { p.Platform.ConfigDrive = "drive" }},
		{"fleetlock.listen: has no cluster", func(p *Policy) { p.FleetLock.Listen = "127.0.0.1:9999" }},
		{"fleetlock.listen: \"9999\" is no address", locked(func(f *FleetLock) { f.Listen = "9999" })},
		{"fleetlock.listen: \"a:0\" is no address", locked(func(f *FleetLock) { f.Listen = "a:0" })},
		{"fleetlock.listen: \"http://a:1\" is no address", locked(func(f *FleetLock) { f.Listen = "http://a:1" })},
		{"fleetlock.listen: \"a:65536\" is no address", locked(func(f *FleetLock) { f.Listen = "a:65536" })},
		{"metrics.listen: \"9899\" is no address", func(p *Policy) { p.Metrics.Listen = "9899" }},
		{"metrics.textfile: \"drydock.prom\" is not an absolute path", func(p *Policy) { p.Metrics.Textfile = "drydock.prom" }},
		{"metrics.textfile: \"/run/drydock\" does not end in .prom", func(p *Policy) { p.Metrics.Textfile = "/run/drydock" }},
		{"fleetlock.cert_file: has no fleetlock.key_file", locked(func(f *FleetLock) { f.CertFile = "/c" })},
		{"fleetlock.client_ca_file: has no fleetlock.cert_file", locked(func(f *FleetLock) { f.ClientCAFile = "/ca" })},
		{"fleetlock.hold: -1s", locked(func(f *FleetLock) { f.Hold = -time.Second })},
		{"fleetlock.url: \"fleetlock\" is no URL", locked(func(f *FleetLock) { f.URL = "fleetlock" })},
		{"fleetlock.url: holds a user: leave it out", locked(func(f *FleetLock) { f.URL = "http://me:secret@a/" })},
		{"fleetlock.url: is another server's", locked(func(f *FleetLock) { f.URL, f.Listen = "http://a/", ":1" })},
		{"fleetlock.url: \"http://a/\" is http", locked(func(f *FleetLock) { f.URL, f.CAFile = "http://a/", "/ca" })},
		{"fleetlock.client_cert_file: has no fleetlock.client_key_file", locked(func(f *FleetLock) { f.ClientCertFile = "/c" })},
		{"cluster.group: \"a b\" is no group of FleetLock", func(p *Policy) { p.FleetLock.URL, p.Cluster.Group = "http://a/", "a b" }},
	} {
		p := useful()
		tt.change(&p)
		errs := p.Validate()
		if len(errs) != 1 || !strings.HasPrefix(errs[0].Error(), tt.want) {
			t.Errorf("got %v, want one that begins with %s", errs, tt.want)
			continue
		}
		var invalid *Invalid
		if key, _, _ := strings.Cut(tt.want, ":"); !errors.As(errs[0], &invalid) || invalid.Key != key {
			t.Errorf("the key is %q, want %q", invalid.Key, key)
		}
		if strings.Contains(errs[0].Error(), "secret") {
			t.Errorf("%v: shows a password", errs[0])
		}
	}
}

func hours(n int) []window.Window {
	all := make([]window.Window, n)
	for i := range all {
		all[i].Length = time.Hour
	}
	return all
}

func TestLabelValues(t *testing.T) {
	if got := (Cluster{}).LabelValues(); got != nil {
		t.Errorf("no labels: got %v", got)
	}
	got := Cluster{Labels: []string{"role=web", "expr=a=b", "empty="}}.LabelValues()
	if !maps.Equal(got, map[string]string{"role": "web", "expr": "a=b", "empty": ""}) {
		t.Errorf("got %v", got)
	}
}

package policy

import (
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Bounds of what goes into the records of a cluster.
const (
	maxName    = 128 // bytes of a cluster's, group's or zone's name (rebootlock, RECORDS.md)
	maxLabels  = 32  // of a machine: they are in the record that every look at the fleet reads
	maxLabel   = 256 // bytes of one
	maxWindows = 100 // of a group: each is looked at with every grant
	maxHold    = 10 * time.Minute
)

func (c Cluster) validate(ch *checks) {
	switch {
	case c.ID != "":
		ch.name("cluster.id", c.ID)
		if len(c.Endpoints) == 0 {
			ch.add("cluster.endpoints", "is empty: name the etcd of cluster %q, like \"https://10.0.0.1:2379\"", c.ID)
		}
	case len(c.Endpoints) > 0:
		ch.add("cluster.id", "is missing: name the cluster that shares these endpoints; every machine of it writes the same")
	}
	ch.name("cluster.group", c.Group)
	secured := c.CAFile != "" || c.CertFile != ""
	ch.etcd("cluster.endpoints", c.Endpoints, secured, c.User != "")
	ch.optional("cluster.ca_file", c.CAFile)
	ch.pair("cluster.cert_file", c.CertFile, "cluster.key_file", c.KeyFile)
	ch.optional("cluster.password_file", c.PasswordFile)
	switch {
	case c.User != "" && c.PasswordFile == "":
		ch.add("cluster.user", "has no cluster.password_file to go with")
	case c.User == "" && c.PasswordFile != "":
		ch.add("cluster.password_file", "has no cluster.user to go with")
	}
	if c.Zone != "" {
		ch.name("cluster.zone", c.Zone)
	}
	ch.labels("cluster.labels", c.Labels)
	ch.etcd("cluster.local_etcd", c.LocalEtcd, secured, c.User != "")
}

// Validate returns an *Invalid for each value that a group cannot have, with
// key before their keys, as in "group.max".
func (g Group) Validate(key string) []error {
	c := checks{}
	at := func(name string) string { return key + "." + name }
	if why := g.Max.check(); why != "" {
		c.add(at("max"), "%s", why)
	}
	if g.ZoneMax < 0 {
		c.add(at("zone_max"), "%d is below 0, which means no limit", g.ZoneMax)
	}
	if g.Pause < 0 {
		c.add(at("pause"), "%v is below 0s, which means none", g.Pause)
	}
	if len(g.Windows) > maxWindows {
		c.add(at("windows"), "%d windows are too many: %d are the most", len(g.Windows), maxWindows)
	}
	c.windows(at("windows"), g.Windows)
	c.sharedZone(at("timezone"), g.Timezone)
	if g.Deadline <= 0 { // short ones are for tests and demonstrations, and the lock's own bound is no other
		c.add(at("deadline"), "%v is no time for a drain, a reboot and a trial: write one like \"2h\"", g.Deadline)
	}
	oneOf(&c, at("on_overdue"), g.OnOverdue, "stop", "wait", "take-away")
	if g.StopAfter < 0 {
		c.add(at("stop_after"), "%d is below 0, which means never", g.StopAfter)
	}
	return c.errs
}

// given reports whether the policy says anything of a group.
func (g Group) given() bool {
	d := DefaultGroup()
	return g.Max != "" || len(g.Windows) > 0 || g.ZoneMax != 0 || g.OneZone || g.Pause != 0 ||
		g.Timezone != d.Timezone || g.Deadline != d.Deadline || g.OnOverdue != d.OnOverdue || g.StopAfter != d.StopAfter
}

// check says why m is no number of permits, or returns "".
func (m Max) check() string {
	number, percent := strings.CutSuffix(string(m), "%")
	n, err := strconv.Atoi(number)
	switch {
	case m == "":
		return "is missing: say how many machines may reboot at once, as 2 or \"25%\""
	case err != nil:
		return fmt.Sprintf("%q is no number of permits: write 2 or \"25%%\"", string(m))
	case n < 1 || percent && n > 100:
		return fmt.Sprintf("%s is not at least 1, or 1%% to 100%% (to let nothing reboot, freeze the group)", string(m))
	}
	return ""
}

// environmentKey is the name of a variable (systemd.exec(5)).
var environmentKey = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (p Platform) validate(c *checks) {
	oneOf(c, "platform.provider", p.Provider, NoPlatform, Afterburn, OpenStack, EC2)
	c.absolute("platform.file", p.File)
	keys := []struct{ key, name string }{
		{"zone_key", p.ZoneKey}, {"region_key", p.RegionKey}, {"instance_key", p.InstanceKey}, {"type_key", p.TypeKey},
	}
	named := 0
	for _, k := range keys {
		if k.name == "" {
			continue
		}
		if named++; !environmentKey.MatchString(k.name) {
			c.add("platform."+k.key, "%q is no name of a variable in %s", k.name, p.File)
		}
	}
	if p.Provider == Afterburn && named == 0 {
		c.add("platform.zone_key", "is empty: name the variable in %s that holds the zone, like \"COREOS_EC2_AVAILABILITY_ZONE\"", p.File)
	}
	c.url("platform.endpoint", p.Endpoint, "http", "https")
	c.optional("platform.config_drive", p.ConfigDrive)
}

// fleetLockGroup is what FleetLock's protocol lets a group be called (zincati,
// docs/development/fleetlock/protocol.md).
var fleetLockGroup = regexp.MustCompile(`^[a-zA-Z0-9.-]+$`)

func (f FleetLock) validate(c *checks, cluster Cluster) {
	if c.listen("fleetlock.listen", f.Listen, "127.0.0.1:9999") && f.Listen != "" && cluster.ID == "" {
		c.add("fleetlock.listen", "has no cluster to serve: name it in cluster.id and cluster.endpoints")
	}
	c.pair("fleetlock.cert_file", f.CertFile, "fleetlock.key_file", f.KeyFile)
	c.optional("fleetlock.client_ca_file", f.ClientCAFile)
	if f.ClientCAFile != "" && f.CertFile == "" {
		c.add("fleetlock.client_ca_file", "has no fleetlock.cert_file: a client shows its certificate only to a server that has one")
	}
	c.between("fleetlock.hold", f.Hold, 0, maxHold)
	c.url("fleetlock.url", f.URL, "http", "https")
	if f.URL != "" && !fleetLockGroup.MatchString(cluster.Group) {
		c.add("cluster.group", "%q is no group of FleetLock: letters, digits, \".\" and \"-\" are", cluster.Group)
	}
	if f.URL != "" && f.Listen != "" {
		c.add("fleetlock.url", "is another server's, and fleetlock.listen serves this machine's own cluster: choose one")
	}
	c.optional("fleetlock.ca_file", f.CAFile)
	c.pair("fleetlock.client_cert_file", f.ClientCertFile, "fleetlock.client_key_file", f.ClientKeyFile)
	if (f.CAFile != "" || f.ClientCertFile != "") && strings.HasPrefix(f.URL, "http:") {
		c.add("fleetlock.url", "%q is http, where certificates are for https", f.URL)
	}
}

func (m Metrics) validate(c *checks) {
	c.listen("metrics.listen", m.Listen, "127.0.0.1:9899")
	c.optional("metrics.textfile", m.Textfile)
	if m.Textfile != "" && !strings.HasSuffix(m.Textfile, ".prom") {
		c.add("metrics.textfile", "%q does not end in .prom: node_exporter reads no other file", m.Textfile)
	}
}

// listen reports an address that nobody can listen on, and whether it is well.
func (c *checks) listen(key, address, like string) bool {
	if address == "" {
		return true
	}
	host, port, err := net.SplitHostPort(address)
	n, bad := strconv.ParseUint(port, 10, 16)
	if err != nil || bad != nil || n == 0 || strings.ContainsAny(host, " /") {
		c.add(key, "%q is no address to listen on: write host:port, like %q", address, like)
		return false
	}
	return true
}

// name reports what cannot name something in the cluster's keys and tables
// (rebootlock, CheckName).
func (c *checks) name(key, s string) {
	switch {
	case s == "":
		c.add(key, "is empty: give it a name")
	case len(s) > maxName:
		c.add(key, "%.20q… has %d bytes: %d are the most", s, len(s), maxName)
	case !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }):
		c.add(key, "%q holds a character that cannot be printed", s)
	case strings.TrimSpace(s) != s:
		c.add(key, "%q begins or ends with a blank", s)
	}
}

func (c *checks) labels(key string, labels []string) {
	if len(labels) > maxLabels {
		c.add(key, "%d labels are too many: %d are the most", len(labels), maxLabels)
	}
	seen := map[string]bool{}
	for i, label := range labels {
		at := fmt.Sprintf("%s[%d]", key, i)
		name, _, ok := strings.Cut(label, "=")
		switch {
		case !ok || name == "" || strings.TrimSpace(label) != label || strings.TrimSpace(name) != name:
			c.add(at, "%.40q is no label: write \"name=value\", like \"role=web\"", label)
		case len(label) > maxLabel:
			c.add(at, "%.40q… has %d bytes: %d are the most", label, len(label), maxLabel)
		case !utf8.ValidString(label) || strings.ContainsFunc(label, func(r rune) bool { return !unicode.IsPrint(r) }):
			c.add(at, "%.40q holds a character that cannot be printed", label)
		case seen[name]:
			c.add(at, "%q is given twice", name)
		}
		seen[name] = true
	}
}

// pair reports a certificate without its key, and a key without its certificate.
func (c *checks) pair(certKey, cert, keyKey, key string) {
	c.optional(certKey, cert)
	c.optional(keyKey, key)
	switch {
	case cert != "" && key == "":
		c.add(certKey, "has no %s to go with", keyKey)
	case cert == "" && key != "":
		c.add(keyKey, "has no %s to go with", certKey)
	}
}

// etcd reports what is no client URL of etcd, and one that would do without the
// encryption that the certificates promise or the password needs.
func (c *checks) etcd(key string, endpoints []string, secured, password bool) {
	seen := map[string]bool{}
	for i, text := range endpoints {
		at := fmt.Sprintf("%s[%d]", key, i)
		u, err := url.Parse(text)
		switch {
		case err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https":
			c.add(at, "%q is no URL of etcd: write one like \"https://10.0.0.1:2379\"", text[strings.LastIndexByte(text, '@')+1:])
		case u.User != nil:
			c.add(at, "holds a user: write it in cluster.user and cluster.password_file")
		case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
			c.add(at, "%q has something behind host and port: etcd's client URLs do not", text)
		case u.Port() == "":
			c.add(at, "%q has no port: etcd's is usually 2379", text)
		case seen[text]:
			c.add(at, "%q is given twice", text)
		case u.Scheme == "http" && secured:
			c.add(at, "%q is http, where certificates are for https", text)
		case u.Scheme == "http" && password && !loopback(u.Hostname()):
			c.add(at, "%q is http: the password of cluster.user would go over the network for all to read", text)
		}
		seen[text] = true
	}
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

package doctor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/updater/host"
	"github.com/drydock-os/drydock/updater/policy"
)

var clusterChecks = []check{
	{id: "etcd.endpoints", applies: inCluster, look: asked(judgeEndpoints)},
	{id: "etcd.quorum", applies: inCluster, look: asked(judgeQuorum)},
	{id: "etcd.space", applies: inCluster, look: asked(judgeEtcdSpace)},
	{id: "etcd.rights", applies: inCluster, look: asked(judgeRights)},
	{id: "etcd.clock", applies: inCluster, look: asked(judgeStamp)},
	{id: "etcd.joined", applies: inCluster, look: lookJoined},
	{id: "etcd.local", applies: inCluster, look: lookLocal},
	{id: "fleetlock.server", applies: func(p policy.Policy) bool { return p.FleetLock.URL != "" }, look: lookFleetLock},
	{id: "fleetlock.listen", applies: func(p policy.Policy) bool { return p.FleetLock.Listen != "" }, look: lookListen},
}

// etcdFacts are what the cluster's etcd says.
type etcdFacts struct {
	now      time.Time
	settings policy.Cluster
	machine  string // machine-id
	err      error  // of the settings: nothing was asked
	answers  []rebootlock.EtcdAnswer

	// Asked of all endpoints together.
	refused map[rebootlock.Right]error
	rights  error // that there was no answer, or that not even reading is allowed
	stamp   rebootlock.Stamp
	stamped error
}

// errNoStamp says that no coordinator ever was.
var errNoStamp = errors.New("no coordinator has said anything")

func etcdOptions(c policy.Cluster) rebootlock.EtcdOptions {
	return rebootlock.EtcdOptions{Endpoints: c.Endpoints, CAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile, User: c.User, PasswordFile: c.PasswordFile}
}

// etcdPatience bounds the questions to etcd, within that of a check: how each
// endpoint is comes first, and is worth knowing where the rest has no answer.
const etcdPatience = 4 * time.Second

func gatherEtcd(ctx context.Context, p *patient) etcdFacts {
	f := etcdFacts{now: p.now, settings: p.policy.Cluster}
	id, err := host.Identify(p.path())
	if err != nil {
		f.err = err
		return f
	}
	f.machine = id.MachineID
	options := etcdOptions(f.settings)
	if f.answers, f.err = rebootlock.AskEtcd(ctx, options); f.err != nil {
		return f
	}
	if len(f.alive()) == 0 {
		return f
	}
	store, err := rebootlock.DialEtcd(options)
	if err != nil {
		f.err = err
		return f
	}
	defer store.Close()
	keys := rebootlock.Keys{Cluster: f.settings.ID}
	ctx, cancel := context.WithTimeout(ctx, etcdPatience)
	defer cancel()
	f.refused, f.rights = rebootlock.CheckRights(ctx, store, keys, rebootlock.MachineRights(keys, f.settings.Group, f.machine, f.settings.Coordinate))
	f.stamp, f.stamped = readStamp(ctx, store, keys)
	return f
}

func readStamp(ctx context.Context, s rebootlock.Store, k rebootlock.Keys) (stamp rebootlock.Stamp, err error) {
	snap, err := s.Read(ctx, rebootlock.Range{Key: k.Stamp()})
	if err != nil {
		return stamp, err
	}
	if len(snap.KVs) == 0 {
		return stamp, errNoStamp
	}
	return stamp, json.Unmarshal(snap.KVs[0].Value, &stamp)
}

func asked(judge func(etcdFacts) Finding) func(context.Context, *patient) Finding {
	return func(_ context.Context, p *patient) Finding { return judge(p.etcd()) }
}

const noPermit = "no permit is asked for: releases are written, and wait"

func judgeEndpoints(f etcdFacts) Finding {
	if f.err != nil {
		return Finding{Verdict: Wrong, Seen: f.err.Error(), Means: noPermit, Mend: "correct [cluster] in the policy file, and the files that it names"}
	}
	var silent, mend []string
	for _, a := range f.answers {
		if a.Err != nil {
			silent = append(silent, a.Err.Error())
			mend = add(mend, mendEndpoint(a.Err.Error()))
		}
	}
	switch {
	case len(silent) == len(f.answers):
		return Finding{Verdict: Wrong, Seen: strings.Join(silent, "; "), Means: noPermit, Mend: strings.Join(mend, "; ")}
	case len(silent) > 0:
		return Finding{Verdict: Warning, Seen: strings.Join(silent, "; "), Means: "the others are asked instead; when they are away as well, nothing reboots", Mend: strings.Join(mend, "; ")}
	}
	return ok("each of %d answers", len(f.answers))
}

// mendEndpoint says what to do about an endpoint that does not answer, by what
// is said of it.
func mendEndpoint(why string) string {
	for _, known := range []struct{ part, mend string }{
		{"x509: certificate signed by unknown authority", "cluster.ca_file must hold the CA of etcd's server certificates"},
		{"x509: certificate has expired", "renew etcd's certificate, and look at this machine's clock"},
		{"x509: certificate is valid for", "name the endpoint as its certificate does"},
		{"certificate required", "etcd asks for a client certificate: set cluster.cert_file and cluster.key_file"},
		{"bad certificate", "etcd does not take this machine's certificate: cluster.cert_file must be signed by its --trusted-ca-file"},
		{"unknown certificate authority", "etcd does not take this machine's certificate: cluster.cert_file must be signed by its --trusted-ca-file"},
		{"server gave HTTP response to HTTPS", "write the endpoint with http://, or turn TLS on in etcd"},
		{"first record does not look like a TLS", "write the endpoint with http://, or turn TLS on in etcd"},
		{"no such host", "name resolution does not know that host: correct cluster.endpoints, or DNS"},
		{"connection refused", "start etcd there (systemctl status etcd), or take the endpoint out of cluster.endpoints"},
		{"authentication failed", "cluster.user and cluster.password_file must be what etcd knows"},
	} {
		if strings.Contains(why, known.part) {
			return known.mend
		}
	}
	return "see that etcd runs there and that no firewall is between (port 2379), or take the endpoint out of cluster.endpoints"
}

// alive are the endpoints that answered.
func (f etcdFacts) alive() []rebootlock.EtcdAnswer {
	return slices.DeleteFunc(slices.Clone(f.answers), func(a rebootlock.EtcdAnswer) bool { return a.Err != nil })
}

func judgeQuorum(f etcdFacts) Finding {
	alive := f.alive()
	if len(alive) == 0 {
		return because("etcd.endpoints")
	}
	var found []complaint
	say := func(v Verdict, seen, means, mend string) { found = append(found, complaint{v, seen, means, mend}) }
	for _, a := range alive {
		if a.Cluster != alive[0].Cluster {
			say(Wrong, fmt.Sprintf("%s is of etcd cluster %s, %s of %s", alive[0].Endpoint, alive[0].Cluster, a.Endpoint, a.Cluster),
				"two locks: machines that ask the one do not see who reboots by the other", "name the members of one etcd cluster alone in cluster.endpoints")
		}
		if old(a.Version) {
			say(Wrong, fmt.Sprintf("%s runs etcd %s", a.Endpoint, a.Version), "the lock needs etcd 3.4 or later", "upgrade etcd")
		}
		if a.Leader == "" {
			say(Wrong, a.Endpoint+" follows no leader", noPermit, "start the other members of etcd: more than half of them must run (etcdctl endpoint status --cluster)")
		}
	}
	leaders := map[string]bool{}
	for _, a := range alive {
		leaders[a.Leader] = a.Leader != ""
	}
	if len(found) == 0 && len(leaders) > 1 {
		say(Warning, "the members of etcd follow different leaders", "they are electing: permits wait", "run drydock doctor again; if it stays, look at the network between the members")
	}
	if len(found) == 0 && f.rights != nil && !errors.Is(f.rights, rebootlock.ErrRefused) {
		say(Wrong, "etcd does not answer a linearizable read: "+f.rights.Error(), noPermit, "more than half of etcd's members must run and reach each other (etcdctl endpoint health --cluster)")
	}
	return complain(fmt.Sprintf("etcd %s, cluster %s, leader %s", alive[0].Version, alive[0].Cluster, alive[0].Leader), found)
}

// old reports whether a version of etcd is before 3.4.
func old(version string) bool {
	var major, minor int
	if _, err := fmt.Sscanf(version, "%d.%d", &major, &minor); err != nil {
		return false // what it is, nobody knows
	}
	return major < 3 || major == 3 && minor < 4
}

func judgeEtcdSpace(f etcdFacts) Finding {
	alive := f.alive()
	if len(alive) == 0 {
		return because("etcd.endpoints")
	}
	var found []complaint
	largest := int64(0)
	for _, a := range alive {
		largest = max(largest, a.Bytes)
		for _, alarm := range a.Alarms {
			switch {
			case strings.Contains(alarm, "NOSPACE"):
				found = append(found, complaint{Wrong, a.Endpoint + " is full (NOSPACE)", "etcd takes no writes: nothing reboots, and no machine says how it is",
					"etcdctl compact, defrag, then `etcdctl alarm disarm`; and let etcd compact by itself: --auto-compaction-mode=periodic --auto-compaction-retention=1h"})
			case strings.Contains(alarm, "CORRUPT"):
				found = append(found, complaint{Wrong, a.Endpoint + " is corrupt", "its answers cannot be believed", "replace that member of etcd (its documentation: disaster recovery)"})
			}
		}
		if a.Quota > 0 && a.Bytes > a.Quota/10*8 && len(a.Alarms) == 0 {
			found = append(found, complaint{Warning, fmt.Sprintf("%s holds %s of %s", a.Endpoint, amount(a.Bytes), amount(a.Quota)), "at its quota etcd takes no writes, and nothing reboots",
				"defragment it (etcdctl defrag), and let it compact by itself: --auto-compaction-mode=periodic --auto-compaction-retention=1h"})
		}
	}
	return complain("no alarm, at most "+amount(largest), found)
}

func judgeRights(f etcdFacts) Finding {
	const mend = "give this machine's user its role: dist/etcd-roles.md (`etcd/roles host …` prints the commands)"
	switch {
	case len(f.alive()) == 0:
		return because("etcd.endpoints")
	case errors.Is(f.rights, rebootlock.ErrRefused):
		return Finding{Verdict: Wrong, Seen: fmt.Sprintf("this machine may not read /drydock/%s/: %v", f.settings.ID, f.rights), Means: noPermit, Mend: mend}
	case f.rights != nil:
		return because("etcd.quorum")
	}
	if slices.ContainsFunc(f.alive(), func(a rebootlock.EtcdAnswer) bool { return len(a.Alarms) > 0 }) && len(f.refused) > 0 {
		return because("etcd.space")
	}
	var denied []string
	for right, err := range f.refused {
		denied = append(denied, fmt.Sprintf("%s (%s: %v)", right.What, right.Key, err))
	}
	if len(denied) > 0 {
		slices.Sort(denied)
		if f.settings.Coordinate {
			denied = append(denied, "cluster.coordinate is true, which needs the coordinator's role as well")
		}
		return Finding{Verdict: Wrong, Seen: "etcd does not let this machine " + strings.Join(denied, "; "), Means: "it takes no part in the lock, or not all of it", Mend: mend}
	}
	return ok("it may read the lock and write its own part of it")
}

// maxSkew is rebootlock's: past it a machine does not reboot.
const maxSkew = 5 * time.Minute

// judgeStamp compares the coordinator's clock, as it last wrote it, with ours.
func judgeStamp(f etcdFacts) Finding {
	switch {
	case len(f.alive()) == 0:
		return because("etcd.endpoints")
	case errors.Is(f.stamped, errNoStamp):
		return Finding{Verdict: Warning, Seen: "no coordinator has ever been at work in cluster " + f.settings.ID, Means: "nobody grants permits", Mend: "start drydockd on a machine with cluster.coordinate = true"}
	case errors.Is(f.stamped, rebootlock.ErrRefused):
		return because("etcd.rights")
	case f.stamped != nil:
		return because("etcd.quorum")
	}
	switch age := f.now.Sub(f.stamp.At); {
	case age < -maxSkew:
		return Finding{Verdict: Wrong, Seen: fmt.Sprintf("the coordinator's clock is %s ahead of this machine's", (-age).Round(time.Second)), Means: "a machine whose clock is more than 5 minutes off does not reboot", Mend: "set this machine's clock (timedatectl), or the coordinator's (" + f.stamp.Coordinator + ")"}
	case age > maxSkew:
		return Finding{Verdict: Warning, Seen: fmt.Sprintf("the coordinator last wrote %s ago by this machine's clock", age.Round(time.Second)), Means: "either nobody coordinates, and no permit is granted, or the clocks differ",
			Mend: "drydock lock status says who coordinates; timedatectl says whether this machine's clock is set"}
	}
	return ok("the coordinator's and this machine's agree to within %s", maxSkew)
}

// lookJoined looks whether the policy's cluster is the one that was joined.
func lookJoined(_ context.Context, p *patient) Finding {
	path := filepath.Join(p.policy.State, "cluster.json")
	data, err := document(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Finding{Verdict: Warning, Seen: "this machine has not joined cluster " + p.said.Cluster.ID + " yet", Means: "it takes no turns until it has", Mend: "start drydockd; drydock status says what keeps it from joining"}
	}
	if err != nil {
		return unread(path, err)
	}
	var joined struct {
		Cluster string    `json:"cluster"`
		Joined  time.Time `json:"joined"`
	}
	if err := json.Unmarshal(data, &joined); err != nil {
		return Finding{Verdict: Warning, Seen: fmt.Sprintf("%s: %v", path, err), Means: "should it speak to another etcd than before, nobody notices", Mend: "look for what damaged it; drydockd makes it anew"}
	}
	if joined.Cluster != p.said.Cluster.ID {
		return Finding{Verdict: Wrong, Seen: fmt.Sprintf("it joined %q on %s, and the policy says %q", joined.Cluster, joined.Joined.Format(time.DateOnly), p.said.Cluster.ID), Means: "nothing reboots before that is settled",
			Mend: fmt.Sprintf("put cluster.id back; or leave %q for good: `drydock fleet remove` there, remove %s, restart drydockd", joined.Cluster, path)}
	}
	return ok("a member of %s since %s", joined.Cluster, joined.Joined.Format(time.DateOnly))
}

// lookLocal looks at the etcd on this machine, and whether it has one that the
// policy does not know.
func lookLocal(ctx context.Context, p *patient) Finding {
	c := p.policy.Cluster
	if len(c.LocalEtcd) == 0 {
		own, err := ownEndpoint(c.Endpoints)
		if err != nil {
			return unread("this machine's addresses", err)
		}
		if own != "" {
			return Finding{Verdict: Warning, Seen: own + " is on this machine, and cluster.local_etcd is empty", Means: "this machine reboots whatever becomes of etcd's quorum", Mend: fmt.Sprintf("set cluster.local_etcd = [%q]", own)}
		}
		return ok("no member of etcd is on this machine")
	}
	options := etcdOptions(c)
	options.Endpoints = c.LocalEtcd
	local := rebootlock.LocalEtcd{Options: options, AllowSingle: c.AllowSingleEtcd}
	const means = "this machine is granted no permit while that is so"
	members, err := local.Members(ctx)
	if err != nil {
		return Finding{Verdict: Wrong, Seen: err.Error(), Means: means, Mend: cmp.Or(mendEndpoint(err.Error()), "start etcd here")}
	}
	if len(members) == 0 {
		return Finding{Verdict: Warning, Seen: "the etcd on this machine has no vote", Means: "it is no part of etcd's quorum", Mend: "promote it (etcdctl member promote), or leave it a learner"}
	}
	if err := local.CaughtUp(ctx); err != nil {
		return Finding{Verdict: Wrong, Seen: err.Error(), Means: "a permit is given back only when it has caught up", Mend: "look at etcd's log on this machine"}
	}
	if err := local.Preflight(ctx); err != nil {
		return Finding{Verdict: Wrong, Seen: err.Error(), Means: means, Mend: "bring the other members of etcd back (etcdctl endpoint health --cluster); of a single member an operator says cluster.allow_single_etcd = true"}
	}
	return ok("member %s is a voter, caught up, and the others can do without it", members[0].Member)
}

// ownEndpoint is the endpoint that is an address of this machine, "" for none.
// Names are not resolved: a name may be of a balancer.
func ownEndpoint(endpoints []string) (string, error) {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return "", err
	}
	for _, e := range endpoints {
		host := e
		if u, err := url.Parse(e); err == nil && u.Hostname() != "" {
			host = u.Hostname()
		}
		ip := net.ParseIP(host)
		for _, a := range addresses {
			if n, ok := a.(*net.IPNet); ok && ip != nil && n.IP.Equal(ip) {
				return e, nil
			}
		}
	}
	return "", nil
}

func lookFleetLock(ctx context.Context, p *patient) Finding {
	f := p.policy.FleetLock
	if err := reach(ctx, f.URL, "", f.CAFile); err != nil {
		return Finding{Verdict: Wrong, Seen: "the FleetLock server " + f.URL + ": " + err.Error(), Means: noPermit, Mend: mendURL(err, "fleetlock.url", "fleetlock.ca_file")}
	}
	return ok("%s answers", f.URL)
}

// lookListen: drydockd serves FleetLock; who reaches it takes permits.
func lookListen(_ context.Context, p *patient) Finding {
	f := p.policy.FleetLock
	host, _, err := net.SplitHostPort(f.Listen)
	if err != nil {
		return Finding{Verdict: Wrong, Seen: err.Error(), Means: "FleetLock is not served", Mend: "write fleetlock.listen as HOST:PORT"}
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) && f.ClientCAFile == "" {
		return Finding{Verdict: Warning, Seen: f.Listen + " is open, and asks clients for no certificate", Means: "whoever reaches it takes and gives back permits of any machine", Mend: "set fleetlock.client_ca_file, or listen on loopback"}
	}
	return ok("%s", f.Listen)
}

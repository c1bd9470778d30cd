package guest_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/cmd/internal/guest"
	"github.com/drydock-os/drydock/rebootlock"
)

// A yard is three machines with a member of etcd on each, and one permit.
type yard struct {
	*watch
	lab    *guest.Lab
	server *guest.Server
}

// stranger is a machine that only an operator knows.
const stranger = "5ca1ab1e5ca1ab1e5ca1ab1e5ca1ab1e"

func newYard(t *testing.T, l *guest.Lab, names ...string) *yard {
	y := &yard{lab: l, server: l.Server(t), watch: &watch{t: t, began: time.Now(), etcd: l.Etcd(t, names...), machines: map[string]*guest.Machine{}, boots: map[string]int{}}}
	var endpoints []string
	for _, name := range names {
		endpoints = append(endpoints, y.etcd.Endpoint(name))
	}
	var err error
	if y.store, err = rebootlock.DialEtcd(rebootlock.EtcdOptions{Endpoints: endpoints}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { y.store.Close() })
	y.lock = rebootlock.Operator{Store: y.store, Keys: rebootlock.Keys{Cluster: "yard"}, Who: "observer", Now: time.Now}
	for _, name := range names { // one after the other: a machine takes a processor while it boots
		m := y.build(name, "1.0.0")
		y.power(m)
		m.Up()
	}
	y.begin()
	y.until(5*time.Minute, "three machines are there", func(v rebootlock.View) bool {
		return len(v.Groups) > 0 && v.Groups[0].Present == 3 && v.Coordinator.Machine != "" && y.allRun(v, "1.0.0")
	})
	return y
}

// build builds a machine that runs a release.
func (y *yard) build(name, version string) *guest.Machine {
	return y.lab.Machine(y.t, y.etcd.On(guest.Spec{
		Name: name, Release: y.image(version), Server: y.server,
		Policy: map[string]string{
			"reboot.strategy": `"coordinated"`, "cluster.id": `"yard"`, "cluster.group": `"web"`,
			"group.max": "1", "group.deadline": `"20m"`, "health.units": `["etcd.service"]`,
			"update.check_interval": `"4h"`, // and when it is asked: one writes at a time
		},
	}))
}

func (y *yard) image(version string) guest.Image {
	return image(y.t, y.lab, guest.Release{Version: version, Loader: guest.Modelled})
}

// until waits until the lock looks so.
func (y *yard) until(limit time.Duration, what string, ok func(rebootlock.View) bool) {
	y.t.Helper()
	for end := time.Now().Add(limit); !ok(y.view()); time.Sleep(time.Second) {
		if time.Now().After(end) {
			y.t.Fatalf("not within %s: %s: %+v", limit, what, y.view())
		}
	}
	y.note("%s", what)
}

// allRun reports whether all members run a release, and nobody waits or holds.
func (y *yard) allRun(v rebootlock.View, version string) bool {
	g := v.Groups[0]
	return len(g.Holders) == 0 && len(g.Queue) == 0 && !slices.ContainsFunc(v.Machines, func(m rebootlock.MachineView) bool {
		return !m.Present || m.Status == nil || m.Status.Release != version || m.Status.OnTrial
	})
}

// shows checks what a command tells an operator.
func (y *yard) shows(texts []string, args ...string) {
	y.t.Helper()
	out := y.operator(args...)
	for _, text := range texts {
		if !strings.Contains(out, text) {
			y.t.Errorf("drydock %s does not say %q", strings.Join(args, " "), text)
		}
	}
}

// operator runs a command of an operator, on a laptop, and returns what it
// printed.
func (y *yard) operator(args ...string) string {
	y.t.Helper()
	v := y.view()
	endpoints := []string{}
	for _, m := range v.Machines {
		if m.Present {
			endpoints = append(endpoints, y.etcd.Endpoint(m.Hostname))
		}
	}
	out := y.lab.Drydock(y.t, append(args, "--cluster", "yard", "--endpoints", strings.Join(endpoints, ","))...)
	y.note("drydock %s: %s", strings.Join(args, " "), out)
	return out
}

// rules are the group's, from now on.
func (y *yard) rules(deadline time.Duration) {
	y.t.Helper()
	file := filepath.Join(y.t.TempDir(), "groups.toml")
	text := fmt.Sprintf("[[group]]\nname = \"web\"\nmax = 1\ndeadline = %q\n", deadline)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		y.t.Fatal(err)
	}
	y.operator("lock", "apply", file)
}

// says waits until a machine's own drydock status says so.
func (y *yard) says(name string, texts ...string) {
	y.t.Helper()
	m, last := y.machines[name], ""
	defer func() { y.note("%s says:\n%s", name, last) }()
	m.Until(3*time.Minute, "it says: "+strings.Join(texts, "; "), func(ctx context.Context) bool {
		r, err := m.Run(ctx, "/usr/bin/drydock", "status")
		last = r.Out + r.Stderr
		return err == nil && !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(last, text) })
	})
}

// refuses checks that a command on a machine does nothing, and says why.
func (y *yard) refuses(name, command, why string) {
	y.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	r, err := y.machines[name].Run(ctx, "/bin/sh", "-c", command)
	if err != nil || r.Code == 0 || !strings.Contains(r.Stderr, why) {
		y.t.Errorf("%s: %s: %v: status %d: %s%s; want %q", name, command, err, r.Code, r.Out, r.Stderr, why)
	}
	y.note("%s: %s: %s", name, command, r.Stderr)
}

// line has an operator hold the permit while machines come to want it, one
// after the other, and returns the queue, by host name.
func (y *yard) line(names []string, want string) (queue []string) {
	y.t.Helper()
	y.operator("lock", "acquire", stranger, "--reason", "the rack's switch is replaced")
	y.until(time.Minute, "an operator has the permit", func(v rebootlock.View) bool { return len(v.Groups[0].Holders) == 1 })
	for i, name := range names {
		y.note("%s: %s: %s", name, want, y.machines[name].Do(want))
		y.until(3*time.Minute, name+" waits in the queue", func(v rebootlock.View) bool { return len(v.Groups[0].Queue) == i+1 })
	}
	last := names[len(names)-1]
	y.says(last, "waits in the queue for a permit to reboot", "permit queued")
	y.shows([]string{"1 of 1 permits are held by " + stranger[:12] + " (granted)"}, "fleet", "explain", last)
	for _, w := range y.view().Groups[0].Queue {
		queue = append(queue, w.Hostname)
	}
	if !slices.Equal(queue, names) {
		y.t.Errorf("the queue is %v, want first come, first served: %v", queue, names)
	}
	return queue
}

// open gives the operator's permit back.
func (y *yard) open() { y.operator("lock", "release", stranger) }

// journal is what became of permits, oldest first: "web-1 granted".
func (y *yard) journal() (all []string) {
	y.t.Helper()
	entries, err := y.lock.Journal(y.t.Context(), "web", 0)
	if err != nil {
		y.t.Fatal(err)
	}
	names := map[string]string{stranger: "stranger"}
	for name, m := range y.machines {
		names[m.ID()] = name
	}
	open := ""
	for _, e := range slices.Backward(entries) {
		name := names[e.Machine]
		switch e.What {
		case "granted":
			if open != "" {
				y.t.Errorf("%s was granted a permit while %s had it", name, open)
			}
			open = name
		case "updated", "rebooted", "rolled-back", "aborted", "lapsed", "taken-away":
			if open != name {
				y.t.Errorf("%s gave a permit back (%s) that %q had", name, e.What, open)
			}
			open = ""
		case "overdue":
		default:
			continue
		}
		all = append(all, name+" "+e.What)
	}
	return all
}

// TestCluster has three machines, of which each is a voter of their etcd, take a
// release one at a time. Then one of them is switched off for good in the
// middle of its reboot: the group stops and says so, and goes on when an operator
// has taken the permit away and has put another machine in its place.
func TestCluster(t *testing.T) {
	t.Parallel()
	l := guest.Open(t)
	l.Processor(t) // idle machines cost little, and one at a time is what is tested
	names := []string{"web-1", "web-2", "web-3"}
	y := newYard(t, l, names...)

	y.server.Offer(t, y.image("1.0.1"))
	y.line(names, "drydock update")
	if err := y.lead(t.Context(), names[0]); err != nil { // at least this one has to hand over
		t.Fatal(err)
	}
	y.open()
	y.until(15*time.Minute, "all run 1.0.1", func(v rebootlock.View) bool { return y.allRun(v, "1.0.1") })
	guest.Count(t, "updates", 3)
	y.mu.Lock()
	handed := y.handed
	y.mu.Unlock()
	if handed == 0 {
		t.Error("etcd's leadership was never handed over")
	}
	want := []string{"stranger granted", "stranger aborted", "web-1 granted", "web-1 updated", "web-2 granted", "web-2 updated", "web-3 granted", "web-3 updated"}
	if got := y.journal(); !slices.Equal(got, want) {
		t.Errorf("journal: %v, want %v", got, want)
	}
	y.lose(names)
}

// lose has the group reboot once more, and one machine never come back. In CI
// two are asked to reboot; in the full run all have another release to take.
func (y *yard) lose(names []string) {
	y.t.Helper()
	version, ending := "1.0.1", "rebooted"
	queue, want := names[1:], `drydock reboot --reason "new kernel arguments"`
	if guest.Full() {
		version, ending = "1.0.2", "updated"
		y.server.Offer(y.t, y.image(version))
		queue, want = names, "drydock update"
	}
	y.line(queue, want)
	dead, next := queue[len(queue)-2], queue[len(queue)-1]
	if len(queue) == 2 {
		y.rules(time.Minute)
	}
	y.open()
	if len(queue) == 3 {
		y.until(5*time.Minute, queue[0]+" reboots", y.reboots(queue[0]))
		y.rules(2 * time.Minute)
	}
	y.until(15*time.Minute, dead+" reboots", y.reboots(dead))
	m := y.machines[dead]
	m.Cut()
	guest.Count(y.t, "power cuts", 1)
	boots := y.machines[next].Boots()

	y.until(5*time.Minute, dead+" is overdue, and "+version+" stopped", func(v rebootlock.View) bool {
		g := v.Groups[0]
		return len(g.Holders) == 1 && g.Holders[0].Overdue && len(g.Stops) == 1 && g.Stops[0].Release == version
	})
	y.says(next, "release "+version+" stopped after 1 failed reboot", "1 of 1 permits are held by "+dead+" (rebooting)")
	y.until(3*time.Minute, dead+" is away", y.away(dead))
	y.shows([]string{"it is not there: it was last heard of at", "it holds a permit in phase rebooting since"}, "fleet", "explain", dead)
	y.refuses(names[0], "drydock lock take-away "+dead+" --reason 'board is dead'", "has not been seen since, so it may be down: look at the machine, and use force")
	y.mu.Lock()
	y.taken = dead
	y.mu.Unlock()
	y.operator("lock", "take-away", dead, "--reason", "board is dead", "--force")
	y.operator("lock", "thaw", "--release", version)
	y.until(time.Minute, "it counts as one that is down", func(v rebootlock.View) bool { return len(v.Groups[0].Stops)+len(v.Groups[0].Holders) == 0 })
	y.shows([]string{"0 of 1 permits are held; 1 member is not there and uses up what may be down at once", dead}, "lock", "status")
	y.operator("fleet", "remove", dead, "--reason", "board is dead")
	y.rules(20 * time.Minute)
	y.replace(dead, next, version)
	if got := y.machines[next].Boots(); got != boots {
		y.t.Errorf("%s booted %d times while etcd could not do without it", next, got-boots)
	}
	y.until(10*time.Minute, "all run "+version, func(v rebootlock.View) bool {
		return len(v.Machines) == 3 && y.allRun(v, version) && y.machines[next].Boots() > boots
	})
	for _, v := range y.view().Machines {
		y.machines[v.Hostname].Settled(3*time.Minute, version)
	}
	got := y.journal()
	y.note("journal: %v", got)
	if tail := got[len(got)-2:]; !slices.Equal(tail, []string{next + " granted", next + " " + ending}) {
		y.t.Errorf("the journal ends %v", tail)
	}
	if guest.Full() {
		guest.Count(y.t, "updates", 2)
	}
}

// reboots reports whether a machine is in the phase in which it may be down.
func (y *yard) reboots(name string) func(rebootlock.View) bool {
	return func(v rebootlock.View) bool {
		return slices.ContainsFunc(v.Groups[0].Holders, func(h rebootlock.Holder) bool {
			return h.Hostname == name && h.Phase == rebootlock.PhaseRebooting
		})
	}
}

// away reports whether a member is not there.
func (y *yard) away(name string) func(rebootlock.View) bool {
	return func(v rebootlock.View) bool {
		return slices.ContainsFunc(v.Machines, func(m rebootlock.MachineView) bool { return m.Hostname == name && !m.Present })
	}
}

// replace is what an operator does about etcd when a machine with a voter is
// gone: until then the next voter does not reboot, and says why.
func (y *yard) replace(dead, next, version string) {
	y.t.Helper()
	ctx := y.t.Context()
	y.says(next, "not all other voters are well: etcd member "+dead+" does not answer")
	list, err := y.store.Client.MemberList(ctx)
	if err != nil {
		y.t.Fatal(err)
	}
	others := []string{}
	for _, m := range list.Members {
		if m.Name != dead {
			others = append(others, m.Name)
			continue
		}
		y.note("etcdctl member remove %x", m.ID)
		if _, err := y.store.Client.MemberRemove(ctx, m.ID); err != nil {
			y.t.Fatal(err)
		}
	}
	y.says(next, "no quorum of 2: add a member")
	const fresh = "web-4"
	y.etcd.Join(y.t, fresh, others...)
	y.note("etcdctl member add %s --peer-urls=%s", fresh, y.etcd.Peer(fresh))
	if _, err := y.store.Client.MemberAdd(ctx, []string{y.etcd.Peer(fresh)}); err != nil {
		y.t.Fatal(err)
	}
	y.power(y.build(fresh, version))
}

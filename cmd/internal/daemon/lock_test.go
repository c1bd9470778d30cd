package daemon

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/rebootlock/etcdtest"
	"github.com/drydock-os/drydock/updater"
)

// soon is how long the daemons of these tests wait to try again.
const soon = 50 * time.Millisecond

// clustered is a daemon in this process that is in a cluster of a real etcd, as
// its operator sees it. It has no bus, so it cannot reboot.
type clustered struct {
	*process
	etcd     *etcdtest.Cluster
	operator rebootlock.Operator
}

// member makes a daemon of a cluster with an id; more are lines of [cluster],
// and tables behind them.
func member(t *testing.T, etcd *etcdtest.Cluster, id, more string) *clustered {
	t.Helper()
	c := &clustered{process: prepare(t, ""), etcd: etcd}
	c.operator = rebootlock.Operator{Store: &rebootlock.Etcd{Client: etcd.Client(t)}, Keys: rebootlock.Keys{Cluster: id}, Who: "operator test", Now: time.Now}
	c.reboot = "strategy = \"coordinated\"\nrespect_inhibitors = false\nrespect_sessions = false\n"
	c.says(more)
	c.build()
	c.cluster.pauses, c.updater.QueuePoll = pauses{parts: soon, facts: soon}, soon
	return c
}

// says writes the policy.
func (c *clustered) says(more string) {
	tls := ""
	if c.etcd.CAFile != "" {
		tls = fmt.Sprintf("ca_file = %q\ncert_file = %q\nkey_file = %q\n", c.etcd.CAFile, c.etcd.CertFile, c.etcd.KeyFile)
	}
	c.policy(fmt.Sprintf(noServer+"[group]\nmax = \"1\"\n[cluster]\nid = %q\nendpoints = [%q]\n%s%s",
		c.operator.Keys.Cluster, c.etcd.Endpoints()[0], tls, more))
}

// resays has a running daemon read another policy.
func (c *clustered) resays(more string) {
	c.says(more)
	c.reload <- os.Interrupt
}

// wishes asks for a reboot, as `drydock reboot` does.
func (c *clustered) wishes() {
	c.t.Helper()
	if o, err := c.updater.Do(c.t.Context(), updater.Request{Action: updater.ActReboot, Reason: "new kernel arguments"}); err != nil || o != updater.Accepted {
		c.t.Fatalf("reboot: %v, %v", o, err)
	}
}

// group is the only group; the zero one where there is none yet.
func (c *clustered) group() (g rebootlock.GroupView) {
	c.t.Helper()
	if v := c.look(); len(v.Groups) == 1 {
		g = v.Groups[0]
	}
	return g
}

func (c *clustered) look() rebootlock.View {
	c.t.Helper()
	v, err := c.operator.Look(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	return v
}

// because reports whether the status gives a reason of a kind with these words.
func (c *clustered) because(kind, words string) func() bool {
	return func() bool {
		return slices.ContainsFunc(c.updater.Status().Reasons, func(r updater.Reason) bool { return r.Kind == kind && strings.Contains(r.Text, words) })
	}
}

// journalSays reports whether the journal has an entry.
func (c *clustered) journalSays(what string) bool {
	c.t.Helper()
	entries, err := c.operator.Journal(c.t.Context(), "", 0)
	if err != nil {
		c.t.Fatal(err)
	}
	return slices.ContainsFunc(entries, func(e rebootlock.Entry) bool { return e.What == what })
}

// until waits as the process does, and says how the lock stands if in vain.
func (c *clustered) until(what string, cond func() bool) {
	c.t.Helper()
	defer func() {
		if !c.t.Failed() {
			return
		}
		view, _ := json.Marshal(c.look())
		status, _ := json.Marshal(c.updater.Status())
		c.t.Logf("%s\n%s", view, status)
	}()
	c.process.until(what, cond)
}

// untouched fails the test if this machine was queued, or was given a permit.
func (c *clustered) untouched() {
	c.t.Helper()
	if g := c.group(); len(g.Queue) != 0 || len(g.Holders) != 0 || c.journalSays("granted") {
		c.t.Errorf("a permit was asked for: queue %+v, holders %+v", g.Queue, g.Holders)
	}
}

// TestClusterAsThePolicyHasIt: what a policy says of the cluster holds in a
// daemon on a real etcd, and changes with the policy.
func TestClusterAsThePolicyHasIt(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.Options{})

	t.Run("the only member of etcd stays up", func(t *testing.T) {
		local := fmt.Sprintf("local_etcd = [%q]\n", etcd.Endpoints()[0])
		c := member(t, etcd, "voters", local)
		c.run()
		c.wishes()
		c.until("the status says why", c.because("etcd", "it is the only member"))
		c.untouched()
		c.resays(local + "allow_single_etcd = true\n")
		c.until("it is granted a permit", func() bool { return c.journalSays("granted") })
		v := c.look()
		if len(v.Machines) != 1 || len(v.Machines[0].Etcd) != 1 {
			t.Errorf("machines %+v: the voter is not in the member record", v.Machines)
		}
	})

	t.Run("the zone is known late", func(t *testing.T) {
		platform := func(file string) string {
			return fmt.Sprintf("[platform]\nprovider = \"afterburn\"\nfile = %q\nzone_key = \"COREOS_EC2_AVAILABILITY_ZONE\"\n", file)
		}
		c := member(t, etcd, "zones", "")
		file := filepath.Join(c.dir, "metadata")
		c.says(platform(file))
		c.reread()
		c.run()
		zone := func() string {
			if v := c.look(); len(v.Machines) == 1 {
				return v.Machines[0].Zone
			}
			return "none"
		}
		c.wishes()
		c.until("the status says that the zone is not known", c.because("platform", "zone of this machine is not known yet"))
		c.until("the status says what is missing", c.because("platform", "did afterburn"))
		c.until("it is a member without a zone", func() bool { return zone() == "" })
		c.untouched()
		c.write("metadata", "COREOS_EC2_AVAILABILITY_ZONE=eu-1a\n")
		c.until("the zone is in the member record", func() bool { return zone() == "eu-1a" })
		c.until("it is granted a permit", func() bool { return c.journalSays("granted") })
		c.until("nothing is said of the platform any more", func() bool { return !c.because("platform", "")() })

		c.resays("")
		c.until("a zone that no platform says any more is forgotten", func() bool { return zone() == "" })
		c.resays("zone = \"rack 7\"\n")
		c.until("the policy's own zone is in the record", func() bool { return zone() == "rack 7" })
	})

	t.Run("nobody coordinates", func(t *testing.T) {
		c := member(t, etcd, "headless", "coordinate = false\n")
		c.run()
		c.wishes()
		c.until("it is queued", func() bool { return c.updater.Status().Permit == "queued" && len(c.group().Queue) == 1 })
		c.until("the status says that nobody coordinates", c.because("coordinator", "no coordinator was ever at work"))
		v := c.look()
		if v.Coordinator.Machine != "" || len(v.Groups[0].Holders) != 0 || c.journalSays("granted") {
			t.Errorf("coordinator %+v, holders %+v", v.Coordinator, v.Groups[0].Holders)
		}
		c.resays("coordinate = true\n")
		c.until("it is granted a permit", func() bool { return c.journalSays("granted") })
	})
}

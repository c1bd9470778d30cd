package nomad

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/fleetlink/linktest"
	"github.com/drydock-os/drydock/fleetlink/nomad/nomadtest"
)

// TestRealNomad runs the conformance test against a real cluster. It wants two
// ready nodes at least, of which the one that is drained runs nothing but system
// jobs, and a driver that runs "sleep".
func TestRealNomad(t *testing.T) {
	address := os.Getenv("DRYDOCK_NOMAD_ADDR")
	if address == "" {
		t.Skip("set DRYDOCK_NOMAD_ADDR to the URL of a Nomad agent whose node may be drained (or name one in DRYDOCK_NOMAD_NODE), " +
			"DRYDOCK_NOMAD_TOKEN to a token that may also submit jobs, DRYDOCK_NOMAD_CACERT for https, DRYDOCK_NOMAD_DRIVER if not raw_exec")
	}
	o := Options{Address: address, Node: os.Getenv("DRYDOCK_NOMAD_NODE"), CAFile: os.Getenv("DRYDOCK_NOMAD_CACERT"), IgnoreSystemJobs: true}
	if token := os.Getenv("DRYDOCK_NOMAD_TOKEN"); token != "" {
		o.TokenFile = filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(o.TokenFile, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	testReal(t, func(*testing.T) *realNomad {
		return &realNomad{options: o, host: host, driver: cmp.Or(os.Getenv("DRYDOCK_NOMAD_DRIVER"), "raw_exec"), pace: 15 * time.Second}
	})
}

// TestRealNomadsTest runs that test against the server, for it to be right where
// a real one is at hand.
func TestRealNomadsTest(t *testing.T) {
	testReal(t, func(t *testing.T) *realNomad {
		_, address := nomadtest.Open(t)
		return &realNomad{options: Options{Address: address}, host: "a", driver: "docker", pace: 200 * time.Millisecond}
	})
}

func testReal(t *testing.T, open func(*testing.T) *realNomad) {
	tests := 0
	linktest.Test(t, func(t *testing.T) linktest.Cluster {
		tests++
		r := open(t)
		r.T, r.record, r.prefix = t, &memory{}, fmt.Sprintf("drydock-linktest-%d-%d-", os.Getpid(), tests)
		r.Link = r.open()
		s := r.look()
		r.id = s.node.ID
		all, err := r.nodes(t.Context())
		r.must(err)
		all = slices.DeleteFunc(all, func(n node) bool { return n.Status != ready || n.SchedulingEligibility != eligible })
		if r.machines = len(all); len(all) < 2 || s.node.closed() || len(r.seen(s)) > 0 {
			t.Fatalf("want two nodes in service and no work on %s; it has %v, and %d are in service", s.node, r.seen(s), len(all))
		}
		t.Cleanup(r.clean)
		return linktest.Cluster{
			Open:     func() fleetlink.Link { return r.open() },
			Place:    r.place,
			Here:     r.here,
			Hold:     r.hold,
			Closed:   func() bool { return r.look().node.closed() },
			Claim:    func() { r.must(r.setEligible(t.Context(), r.id, ineligible)) },
			Uncordon: func() { r.must(r.setEligible(t.Context(), r.id, eligible)) },
			Pace:     r.pace,
		}
	})
}

// A realNomad is a real cluster in one test.
type realNomad struct {
	*testing.T
	*Link
	options  Options
	host     string
	driver   string
	pace     time.Duration
	record   *memory
	prefix   string // of the test's jobs
	id       string // of the node
	machines int
	jobs     []string
}

func (r *realNomad) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *realNomad) open() *Link {
	l, err := New(r.options, fleetlink.Machine{ID: machine.ID, Hostname: r.host}, r.record)
	r.must(err)
	l.again, l.hush, l.spacing = r.pace/3, r.pace/3, r.pace/20
	return l
}

func (r *realNomad) look() sight {
	s, err := r.Link.look(r.Context())
	r.must(err)
	return s
}

func (r *realNomad) put(path string, body any) {
	r.must(r.client.put(r.Context(), request{path: path, right: "submit-job", body: body}))
}

// place registers a job that prefers the node, and runs once on each at most.
func (r *realNomad) place(name string) string {
	type m = map[string]any
	pace := m{"MaxParallel": 1, "HealthCheck": "task_states", "MinHealthyTime": time.Second, "HealthyDeadline": time.Minute}
	id := r.prefix + name
	r.jobs = append(r.jobs, id)
	r.put("/v1/jobs", m{"Job": m{"ID": id, "Name": id, "Type": "service", "Datacenters": []string{"*"},
		"Affinities":  []m{{"LTarget": "${node.unique.id}", "RTarget": r.id, "Operand": "=", "Weight": 100}},
		"Constraints": []m{{"Operand": "distinct_hosts", "RTarget": "true"}},
		"TaskGroups": []m{{"Name": "main", "Count": 1, "Migrate": pace, "EphemeralDisk": m{"SizeMB": 10}, "Tasks": []m{{"Name": "main", "Driver": r.driver,
			"Config": m{"command": "sleep", "args": []string{"1d"}}, "KillTimeout": time.Second, "Resources": m{"CPU": 20, "MemoryMB": 16}}}}}}})
	for range 60 {
		for _, a := range r.look().allocs {
			if a.JobID == id && a.ClientStatus == "running" && a.healthy() {
				return a.String()
			}
		}
		<-time.After(r.pace / 15)
	}
	r.Fatalf("job %s does not run on node %s", id, r.id)
	return ""
}

func (r *realNomad) here() (names []string) {
	for _, a := range r.look().allocs {
		if strings.HasPrefix(a.JobID, r.prefix) {
			names = append(names, a.String())
		}
	}
	return names
}

// hold asks for one more than there are machines: it stays unplaced, and its
// migrate block lets none leave.
func (r *realNomad) hold(workload string) (release func()) {
	id, _, _ := strings.Cut(workload, ".main[")
	scale := func(n int) {
		r.put("/v1/job/"+url.PathEscape(id)+"/scale", map[string]any{"Count": n, "Target": map[string]string{"Group": "main"}, "Message": "linktest"})
	}
	scale(r.machines + 1)
	return func() { scale(1) }
}

// clean removes the test's jobs, and opens the node.
func (r *realNomad) clean() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // the test's own is over
	defer cancel()
	for _, id := range r.jobs {
		if _, done, err := r.client.do(ctx, http.MethodDelete, request{path: "/v1/job/" + url.PathEscape(id), query: url.Values{"purge": {"true"}}}); err == nil {
			done()
		}
	}
	if err := r.setDrain(ctx, r.id, nil, true, nil); err != nil {
		r.Error(err)
	}
}

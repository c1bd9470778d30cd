package nomad

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// rights are those of an ACL token.
type rights struct {
	node  string   // "read", "write" or ""
	agent bool     // agent:read
	read  []string // namespaces with read-job; "*" is all
	stop  bool     // alloc-lifecycle everywhere
}

func (r rights) reads(namespace string) bool {
	for _, n := range r.read {
		if n == namespace || n == "*" {
			return true
		}
	}
	return false
}

// A server is Nomad's HTTP API over a cluster: command/agent/node_endpoint.go,
// alloc_endpoint.go, job_endpoint.go and agent_endpoint.go, with the codes and
// texts of command/agent/http.go's errCodeFromHandler.
type server struct {
	*cluster
	self   string            // the node of the agent; "" for one that is only a server
	tokens map[string]rights // nil: ACLs are off
	silent atomic.Bool       // nothing is answered
	broken atomic.Int32      // so many answers are 500; below 0: all
	denies atomic.Int32      // so many reads are refused, as with a token that a server does not know yet
	back   atomic.Bool       // indexes go back
	onward atomic.Bool       // indexes go on without a change
	puts   atomic.Int32      // writes that came
	asked  atomic.Int32      // requests
}

// open serves a new cluster, and returns the address.
func open(t *testing.T) (*server, string) {
	s := &server{cluster: newCluster(t)}
	s.self = s.node("a").ID
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	t.Cleanup(srv.CloseClientConnections)
	return s, srv.URL
}

type reply struct {
	code  int
	index uint64
	value any
}

func refuse(code int, format string, args ...any) reply {
	return reply{code: code, value: fmt.Sprintf(format, args...)}
}

var denied = refuse(403, "Permission denied")

// ServeHTTP implements http.Handler.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.asked.Add(1)
	if s.silent.Load() {
		<-r.Context().Done()
		return
	}
	if n := s.broken.Load(); n != 0 {
		s.broken.Store(max(n-1, -1))
		http.Error(w, "No cluster leader", 500)
		return
	}
	if s.denies.Load() > 0 && r.Method == http.MethodGet && s.denies.Add(-1) >= 0 {
		http.Error(w, "ACL token not found", http.StatusForbidden)
		return
	}
	is := rights{node: "write", agent: true, read: []string{"*"}, stop: true}
	if s.tokens != nil {
		known := false
		if is, known = s.tokens[r.Header.Get("X-Nomad-Token")]; !known && r.Header.Get("X-Nomad-Token") != "" {
			http.Error(w, "ACL token not found", http.StatusForbidden)
			return
		}
	}
	var a reply
	if r.Method == http.MethodGet {
		a = s.blocking(r, is)
	} else {
		s.puts.Add(1)
		s.do(func() { a = s.write(r, is) })
	}
	if a.code != 0 {
		http.Error(w, a.value.(string), a.code)
		return
	}
	w.Header().Set("X-Nomad-Index", strconv.FormatUint(a.index, 10))
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(a.value)
}

// blocking reads; with an index, after a change since or when the wait is over.
func (s *server) blocking(r *http.Request, is rights) reply {
	index, _ := strconv.ParseUint(r.URL.Query().Get("index"), 10, 64)
	wait, err := time.ParseDuration(r.URL.Query().Get("wait"))
	if index > 0 && (err != nil || wait > 10*time.Minute) {
		return refuse(400, "Invalid wait time")
	}
	over := time.After(wait)
	for {
		s.mu.Lock()
		a := s.read(r, is)
		data, err := json.Marshal(a.value) // while it is locked
		changed := s.changed
		s.mu.Unlock()
		if err != nil {
			return refuse(500, "%v", err)
		}
		if a.code != 0 {
			return a
		}
		if a.value = json.RawMessage(data); s.back.Load() && index > 0 {
			a.index = index - 1
			return a
		}
		if s.onward.Load() {
			a.index = max(a.index, index) + 1
			return a
		}
		if index == 0 || a.index > index {
			return a
		}
		select {
		case <-changed:
		case <-over:
			return a
		case <-r.Context().Done():
			return a
		}
	}
}

// list is a node as a list of nodes has it: without attributes.
func (n *simNode) list() map[string]any {
	return map[string]any{"ID": n.ID, "Name": n.Name, "Datacenter": n.Datacenter, "NodePool": n.NodePool, "Status": n.Status,
		"SchedulingEligibility": n.SchedulingEligibility, "Drain": n.DrainStrategy != nil, "Drivers": n.Drivers, "LastDrain": n.LastDrain}
}

func (s *server) read(r *http.Request, is rights) reply {
	path := strings.TrimPrefix(r.URL.Path, "/v1/")
	part := strings.Split(path, "/")
	switch {
	case path == "agent/self" && !is.agent, part[0] == "node" && is.node == "", path == "nodes" && is.node == "", path == "client/stats" && is.node == "":
		return denied
	case path == "agent/self":
		stats := map[string]map[string]string{"nomad": {"server": "true"}}
		if s.self != "" {
			stats["client"] = map[string]string{"node_id": s.self}
		}
		return reply{value: map[string]any{"config": map[string]any{}, "stats": stats}}
	case path == "nodes":
		list := []any{}
		for _, n := range s.nodes {
			list = append(list, n.list())
		}
		return reply{index: s.index, value: list}
	case path == "client/stats":
		n := s.node(r.URL.Query().Get("node_id"))
		if n == nil || n.mute {
			return refuse(404, "No path to node")
		}
		return reply{value: map[string]any{"Uptime": 10}}
	case part[0] == "node" && len(part) == 2:
		n := s.node(part[1])
		if n == nil {
			return refuse(404, "node not found")
		}
		return reply{index: n.ModifyIndex, value: n}
	case part[0] == "node" && part[2] == "allocations":
		return s.readAllocs(part[1], is)
	case part[0] == "job":
		return s.readJob(r, part, is)
	}
	return refuse(404, "no such thing: %s", r.URL.Path)
}

func (s *server) readAllocs(id string, is rights) reply {
	all, index, list := s.on(id), uint64(0), []*simAlloc{}
	sortAllocs(all)
	for _, a := range all {
		if is.reads(a.Namespace) { // the others are left out without a word
			list = append(list, a)
		}
		index = max(index, a.ModifyIndex)
	}
	if len(all) == 0 {
		index = max(s.allocsI, 1)
	}
	return reply{index: index, value: list}
}

func (s *server) readJob(r *http.Request, part []string, is rights) reply {
	namespace := r.URL.Query().Get("namespace")
	if !is.reads(namespace) {
		return denied
	}
	if len(part) == 3 { // of a job that is not there as well
		list := []any{}
		for _, a := range s.allocs {
			if a.JobID == part[1] && a.Namespace == namespace {
				stub := *a
				stub.Job = nil
				list = append(list, stub)
			}
		}
		return reply{index: s.allocsI, value: list}
	}
	for _, j := range s.jobs {
		if j.ID == part[1] && j.Namespace == namespace {
			return reply{index: s.index, value: j}
		}
	}
	return refuse(404, "job not found")
}

func (s *server) write(r *http.Request, is rights) reply {
	part := strings.Split(strings.TrimPrefix(r.URL.Path, "/v1/"), "/")
	if len(part) == 3 && part[0] == "allocation" && part[2] == "stop" {
		return s.writeStop(part[1], is)
	}
	if part[0] == "jobs" || part[0] == "job" {
		return s.writeJob(r, part)
	}
	if len(part) != 3 || part[0] != "node" {
		return refuse(404, "no such thing: %s", r.URL.Path)
	}
	var body struct {
		Eligibility string
		DrainSpec   *struct {
			Deadline         time.Duration
			IgnoreSystemJobs bool
		}
		MarkEligible bool
		Meta         map[string]string
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		return refuse(400, "%v", err)
	}
	n := s.node(part[1])
	switch {
	case is.node != "write":
		return denied
	case n == nil:
		return refuse(500, "node not found")
	case part[2] == "drain":
		var d *simDrain
		if body.DrainSpec != nil {
			d = &simDrain{Deadline: body.DrainSpec.Deadline, IgnoreSystemJobs: body.DrainSpec.IgnoreSystemJobs}
		}
		s.setDrain(n, d, body.MarkEligible, simWords{r.Header.Get("X-Nomad-Token"), body.Meta}, time.Now())
		return reply{index: s.index, value: map[string]any{"NodeModifyIndex": s.index}}
	case body.Eligibility != "eligible" && body.Eligibility != "ineligible":
		return refuse(500, "invalid scheduling eligibility %q", body.Eligibility)
	case body.Eligibility == "eligible" && n.DrainStrategy != nil:
		return refuse(500, "can not set node's scheduling eligibility to eligible while it is draining")
	case n.SchedulingEligibility != body.Eligibility:
		n.SchedulingEligibility = body.Eligibility
		s.touch(n)
	}
	return reply{index: s.index, value: map[string]any{"NodeModifyIndex": s.index}}
}

func (s *server) writeStop(id string, is rights) reply {
	if !is.stop {
		return denied
	}
	for _, a := range s.allocs {
		if a.ID == id {
			s.stop(a, time.Now())
			return reply{index: s.index, value: map[string]any{"EvalID": "e"}}
		}
	}
	return refuse(404, "alloc not found")
}

// writeJob registers, scales or purges one.
func (s *server) writeJob(r *http.Request, part []string) reply {
	body := struct {
		Job   *simJob
		Count int
	}{}
	if r.Method != http.MethodDelete {
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			return refuse(400, "%v", err)
		}
	}
	if s.index++; part[0] == "jobs" {
		j := body.Job
		j.Namespace, j.NodePool = "default", "default"
		s.jobs = append(s.jobs, j)
		for _, a := range j.Affinities {
			s.place(j, s.node(a.RTarget), 0)
		}
		return reply{index: s.index, value: map[string]any{}}
	}
	for i, j := range s.jobs {
		switch {
		case j.ID != part[1]:
			continue
		case r.Method == http.MethodDelete:
			s.jobs = append(s.jobs[:i], s.jobs[i+1:]...)
			body.Count = 0
		default:
			j.TaskGroups[0].Count = body.Count
			j.Version++
		}
		for _, a := range s.allocs { // those of the highest numbers go
			if number := 0; a.Job == j {
				if _, err := fmt.Sscanf(a.Name, j.ID+".main[%d]", &number); err == nil && number >= body.Count && !a.terminal() {
					s.stop(a, time.Now())
				}
			}
		}
		return reply{index: s.index, value: map[string]any{}}
	}
	return refuse(404, "job not found")
}

// Package nomadtest serves Nomad's HTTP API over a cluster that is played, for
// tests.
package nomadtest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// Rights are those of an ACL token.
type Rights struct {
	Node  string   // "read", "write" or ""
	Agent bool     // agent:read
	Read  []string // namespaces with read-job; "*" is all
	Stop  bool     // alloc-lifecycle everywhere
}

func (r Rights) reads(namespace string) bool {
	for _, n := range r.Read {
		if n == namespace || n == "*" {
			return true
		}
	}
	return false
}

// A Server is Nomad's HTTP API over a cluster: command/agent/node_endpoint.go,
// alloc_endpoint.go, job_endpoint.go and agent_endpoint.go, with the codes and
// texts of command/agent/http.go's errCodeFromHandler.
type Server struct {
	*Cluster
	Self   string            // the node of the agent; "" for one that is only a server
	Tokens map[string]Rights // nil: ACLs are off
	Silent atomic.Bool       // nothing is answered
	Broken atomic.Int32      // so many answers are 500; below 0: all
	Denies atomic.Int32      // so many reads are refused, as with a token that a server does not know yet
	Back   atomic.Bool       // indexes go back
	Onward atomic.Bool       // indexes go on without a change
	Puts   atomic.Int32      // writes that came
	Asked  atomic.Int32      // requests
}

// New is a server with a new cluster, to be served by a test's own listener.
func New(t testing.TB) *Server {
	s := &Server{Cluster: newCluster(t)}
	s.Self = s.Node("a").ID
	return s
}

// Open serves a new cluster until the test ends, and returns the address.
func Open(t testing.TB) (*Server, string) {
	s := New(t)
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
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.Asked.Add(1)
	if s.Silent.Load() {
		<-r.Context().Done()
		return
	}
	if n := s.Broken.Load(); n != 0 {
		s.Broken.Store(max(n-1, -1))
		http.Error(w, "No cluster leader", 500)
		return
	}
	if s.Denies.Load() > 0 && r.Method == http.MethodGet && s.Denies.Add(-1) >= 0 {
		http.Error(w, "ACL token not found", http.StatusForbidden)
		return
	}
	is := Rights{Node: "write", Agent: true, Read: []string{"*"}, Stop: true}
	if s.Tokens != nil {
		known := false
		if is, known = s.Tokens[r.Header.Get("X-Nomad-Token")]; !known && r.Header.Get("X-Nomad-Token") != "" {
			http.Error(w, "ACL token not found", http.StatusForbidden)
			return
		}
	}
	var a reply
	if r.Method == http.MethodGet {
		a = s.blocking(r, is)
	} else {
		s.Puts.Add(1)
		s.Do(func() { a = s.write(r, is) })
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
func (s *Server) blocking(r *http.Request, is Rights) reply {
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
		if a.value = json.RawMessage(data); s.Back.Load() && index > 0 {
			a.index = index - 1
			return a
		}
		if s.Onward.Load() {
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
func (n *Node) list() map[string]any {
	return map[string]any{"ID": n.ID, "Name": n.Name, "Datacenter": n.Datacenter, "NodePool": n.NodePool, "Status": n.Status,
		"SchedulingEligibility": n.SchedulingEligibility, "Drain": n.DrainStrategy != nil, "Drivers": n.Drivers, "LastDrain": n.LastDrain}
}

func (s *Server) read(r *http.Request, is Rights) reply {
	path := strings.TrimPrefix(r.URL.Path, "/v1/")
	part := strings.Split(path, "/")
	switch {
	case path == "agent/self" && !is.Agent, part[0] == "node" && is.Node == "", path == "nodes" && is.Node == "", path == "client/stats" && is.Node == "":
		return denied
	case path == "agent/self":
		stats := map[string]map[string]string{"nomad": {"server": "true"}}
		if s.Self != "" {
			stats["client"] = map[string]string{"node_id": s.Self}
		}
		return reply{value: map[string]any{"config": map[string]any{}, "stats": stats}}
	case path == "nodes":
		list := []any{}
		for _, n := range s.Nodes {
			list = append(list, n.list())
		}
		return reply{index: s.Index, value: list}
	case path == "client/stats":
		n := s.Node(r.URL.Query().Get("node_id"))
		if n == nil || n.Mute {
			return refuse(404, "No path to node")
		}
		return reply{value: map[string]any{"Uptime": 10}}
	case part[0] == "node" && len(part) == 2:
		n := s.Node(part[1])
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

func (s *Server) readAllocs(id string, is Rights) reply {
	all, index, list := s.On(id), uint64(0), []*Alloc{}
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

func (s *Server) readJob(r *http.Request, part []string, is Rights) reply {
	namespace := r.URL.Query().Get("namespace")
	if !is.reads(namespace) {
		return denied
	}
	if len(part) == 3 { // of a job that is not there as well
		list := []any{}
		for _, a := range s.Allocs {
			if a.JobID == part[1] && a.Namespace == namespace {
				stub := *a
				stub.Job = nil
				list = append(list, stub)
			}
		}
		return reply{index: s.allocsI, value: list}
	}
	for _, j := range s.Jobs {
		if j.ID == part[1] && j.Namespace == namespace {
			return reply{index: s.Index, value: j}
		}
	}
	return refuse(404, "job not found")
}

func (s *Server) write(r *http.Request, is Rights) reply {
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
	n := s.Node(part[1])
	switch {
	case is.Node != "write":
		return denied
	case n == nil:
		return refuse(500, "node not found")
	case part[2] == "drain":
		var d *Drain
		if body.DrainSpec != nil {
			d = &Drain{Deadline: body.DrainSpec.Deadline, IgnoreSystemJobs: body.DrainSpec.IgnoreSystemJobs}
		}
		s.SetDrain(n, d, body.MarkEligible, Words{r.Header.Get("X-Nomad-Token"), body.Meta}, now())
		return reply{index: s.Index, value: map[string]any{"NodeModifyIndex": s.Index}}
	case body.Eligibility != "eligible" && body.Eligibility != "ineligible":
		return refuse(500, "invalid scheduling eligibility %q", body.Eligibility)
	case body.Eligibility == "eligible" && n.DrainStrategy != nil:
		return refuse(500, "can not set node's scheduling eligibility to eligible while it is draining")
	case s.setEligibility(n, body.Eligibility):
		s.Touch(n)
	}
	return reply{index: s.Index, value: map[string]any{"NodeModifyIndex": s.Index}}
}

func (s *Server) writeStop(id string, is Rights) reply {
	if !is.Stop {
		return denied
	}
	for _, a := range s.Allocs {
		if a.ID == id {
			s.stop(a, now())
			return reply{index: s.Index, value: map[string]any{"EvalID": "e"}}
		}
	}
	return refuse(404, "alloc not found")
}

// writeJob registers, scales or purges one.
func (s *Server) writeJob(r *http.Request, part []string) reply {
	body := struct {
		Job   *Job
		Count int
	}{}
	if r.Method != http.MethodDelete {
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			return refuse(400, "%v", err)
		}
	}
	if s.Index++; part[0] == "jobs" {
		j := body.Job
		j.Namespace, j.NodePool = "default", "default"
		s.Jobs = append(s.Jobs, j)
		for _, a := range j.Affinities {
			s.Place(j, s.Node(a.RTarget), 0)
		}
		return reply{index: s.Index, value: map[string]any{}}
	}
	for i, j := range s.Jobs {
		switch {
		case j.ID != part[1]:
			continue
		case r.Method == http.MethodDelete:
			s.Jobs = append(s.Jobs[:i], s.Jobs[i+1:]...)
			body.Count = 0
		default:
			j.TaskGroups[0].Count = body.Count
			j.Version++
		}
		for _, a := range s.Allocs { // those of the highest numbers go
			if number := 0; a.Job == j {
				if _, err := fmt.Sscanf(a.Name, j.ID+".main[%d]", &number); err == nil && number >= body.Count && !a.terminal() {
					s.stop(a, now())
				}
			}
		}
		return reply{index: s.Index, value: map[string]any{}}
	}
	return refuse(404, "job not found")
}

func sortAllocs(as []*Alloc) {
	slices.SortFunc(as, func(a, b *Alloc) int { return cmp.Compare(b.ModifyIndex, a.ModifyIndex) })
}

package nomad

import (
	"testing"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/fleetlink/nomad/nomadtest"
)

// TestFind: whose node it is, of a cluster with a, b and what change makes of it.
func TestFind(t *testing.T) {
	add := func(s *nomadtest.Server, id, name, host string) {
		s.Nodes = append(s.Nodes, &nomadtest.Node{ID: id, Name: name, Status: "down", Attributes: map[string]string{"unique.hostname": host}, ModifyIndex: 1})
	}
	for name, c := range map[string]struct {
		node, host string // configured, and this machine's
		change     func(s *nomadtest.Server)
		want       string   // the node's name
		words      []string // or the error's
	}{
		"the local agent's":               {host: "a", want: "a"},
		"the local agent's, no host name": {want: "a"},
		"the local agent's, short name":   {host: "A", change: func(s *nomadtest.Server) { s.Nodes[0].Attributes["unique.hostname"] = "a.example.com" }, want: "a"},
		"the agent of another host":       {host: "c", words: []string{`of host "a"`, `this machine is "c"`}},
		"a server's agent":                {host: "b.example.com", change: func(s *nomadtest.Server) { s.Self = "" }, want: "b"},
		"by attribute": {host: "web-7", change: func(s *nomadtest.Server) {
			s.Self = ""
			add(s, "c", "i-123", "web-7.example.com")
		}, want: "i-123"},
		"none": {host: "web-7", change: func(s *nomadtest.Server) { s.Self = "" }, words: []string{"none of Nomad's 2 nodes", `"web-7"`}},
		"two of a name": {host: "b", change: func(s *nomadtest.Server) {
			s.Self = ""
			add(s, "b2", "b", "b")
		}, words: []string{"2 of Nomad's nodes", "b (b0000000-1111-2222-3333-444444444444), ready", "b (b2), down", "None was touched"}},
		"two by attribute": {host: "web", change: func(s *nomadtest.Server) {
			s.Self = ""
			add(s, "c", "i-1", "web")
			add(s, "d", "i-2", "web.example.com")
		}, words: []string{"i-1 (c)", "i-2 (d)"}},
		"not another domain": {host: "b.example.com", change: func(s *nomadtest.Server) { s.Self, s.Nodes[1].Name, s.Nodes[1].Attributes = "", "b.example.org", nil },
			words: []string{"none of Nomad's"}},
		"no name":           {change: func(s *nomadtest.Server) { s.Self = "" }, words: []string{"no host name"}},
		"configured name":   {node: "b", host: "c", want: "b"},
		"configured ID":     {node: "b0000000-1111-2222-3333-444444444444", want: "b"},
		"configured, twice": {node: "b", change: func(s *nomadtest.Server) { add(s, "b2", "b", "") }, words: []string{"2 of Nomad's nodes"}},
		"configured, wrong": {node: "z", words: []string{"none of Nomad's"}},
		"gone":              {host: "a", change: func(s *nomadtest.Server) { s.Nodes = s.Nodes[1:] }, words: []string{"gone from Nomad"}},
	} {
		s, address := nomadtest.Open(t)
		if c.change != nil {
			s.Do(func() { c.change(s) })
		}
		l, err := New(Options{Address: address, Node: c.node}, fleetlink.Machine{ID: machine.ID, Hostname: c.host}, &memory{})
		if err != nil {
			t.Fatal(err)
		}
		n, _, err := l.find(t.Context())
		if c.words != nil {
			says(t, name, err, c.words...)
		} else if err != nil || n.Name != c.want {
			t.Errorf("%s: %s, %v, want %s", name, n, err, c.want)
		}
		asked := s.Asked.Load()
		if again, _, err2 := l.find(t.Context()); again.ID != n.ID || (err == nil) != (err2 == nil) || s.Asked.Load()-asked > 3 { // the agent, the list, the node
			t.Errorf("%s: the second time %s, %v, after %d requests", name, again, err2, s.Asked.Load()-asked)
		}
		if s.Puts.Load() != 0 {
			t.Errorf("%s: something was written", name)
		}
	}
}

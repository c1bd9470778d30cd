package policy

import (
	"fmt"
	"regexp"
	"time"
)

// Gates are what else must be well before this machine asks for a permit, and
// before it gives one back that it has used. All of them must be open.
type Gates struct {
	Every   time.Duration `mapstructure:"every"`   // how long an answer holds
	Timeout time.Duration `mapstructure:"timeout"` // of one gate
	Alerts  []AlertGate   `mapstructure:"alerts"`
	HTTP    []HTTPGate    `mapstructure:"http"`
	Exec    []ExecGate    `mapstructure:"exec"`
}

// AlertGate is open while no alert of a Prometheus fires.
type AlertGate struct {
	URL       string `mapstructure:"url"`               // of the server, before /api/v1
	Query     string `mapstructure:"query,omitempty"`   // PromQL; empty: ALERTS
	Match     string `mapstructure:"match,omitempty"`   // regular expression of alerts' names: others do not count; empty: all do
	Ignore    string `mapstructure:"ignore,omitempty"`  // of names that do not count; empty: none
	Pending   bool   `mapstructure:"pending,omitempty"` // alerts that are pending count, too
	CAFile    string `mapstructure:"ca_file,omitempty"`
	CertFile  string `mapstructure:"cert_file,omitempty"`
	KeyFile   string `mapstructure:"key_file,omitempty"`
	TokenFile string `mapstructure:"token_file,omitempty"` // bearer token
}

// HTTPGate is open while a URL answers with a status.
type HTTPGate struct {
	URL       string `mapstructure:"url"`
	Status    int    `mapstructure:"status,omitempty"` // 0: 200
	CAFile    string `mapstructure:"ca_file,omitempty"`
	CertFile  string `mapstructure:"cert_file,omitempty"`
	KeyFile   string `mapstructure:"key_file,omitempty"`
	TokenFile string `mapstructure:"token_file,omitempty"`
}

// ExecGate is open while an executable exits 0 and names nothing.
type ExecGate struct {
	Path string `mapstructure:"path"` // absolute; its owner is root
}

const maxGates = 20 // of a kind: all are asked at every look

func (g Gates) validate(c *checks) {
	c.between("gates.every", g.Every, time.Second, time.Hour)
	c.between("gates.timeout", g.Timeout, time.Second, maxAsk)
	c.count("gates.alerts", len(g.Alerts), 0, maxGates)
	c.count("gates.http", len(g.HTTP), 0, maxGates)
	c.count("gates.exec", len(g.Exec), 0, maxGates)
	for i, a := range g.Alerts {
		key := fmt.Sprintf("gates.alerts[%d]", i)
		c.url(key+".url", a.URL, "http", "https")
		for name, text := range map[string]string{"match": a.Match, "ignore": a.Ignore} {
			if _, err := regexp.Compile(text); err != nil {
				c.add(key+"."+name, "%q is no regular expression: %v", text, err)
			}
		}
		c.access(key, a.CAFile, a.CertFile, a.KeyFile, a.TokenFile)
	}
	for i, h := range g.HTTP {
		key := fmt.Sprintf("gates.http[%d]", i)
		c.url(key+".url", h.URL, "http", "https")
		if h.Status != 0 {
			c.count(key+".status", h.Status, 100, 599)
		}
		c.access(key, h.CAFile, h.CertFile, h.KeyFile, h.TokenFile)
	}
	for i, e := range g.Exec {
		key := fmt.Sprintf("gates.exec[%d]", i)
		c.absolute(key+".path", e.Path)
	}
}

func (c *checks) access(key, ca, cert, certKey, token string) {
	c.optional(key+".ca_file", ca)
	c.pair(key+".cert_file", cert, key+".key_file", certKey)
	c.optional(key+".token_file", token)
}

package daemon

import (
	"context"
	"reflect"
	"regexp"
	"sync"
	"time"

	"github.com/drydock-os/drydock/fleetlink/gate"
	"github.com/drydock-os/drydock/fleetlink/hook"
	"github.com/drydock-os/drydock/updater/policy"
)

// gates are those of the policy that is in force.
type gates struct {
	d *Daemon

	mu     sync.Mutex
	policy policy.Gates
	now    *gate.Gates
}

// Shut implements updater.Gates.
func (g *gates) Shut(ctx context.Context) []string {
	now, err := g.current()
	if err != nil {
		return []string{"the gates cannot be asked: " + err.Error()}
	}
	return now.Shut(ctx)
}

// current makes the gates anew where the policy has others.
func (g *gates) current() (*gate.Gates, error) {
	p := g.d.keeper.Policy().Gates
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.now != nil && reflect.DeepEqual(p, g.policy) {
		return g.now, nil
	}
	now, err := g.d.gatesOf(p)
	if err == nil {
		g.policy, g.now = p, now
	}
	return now, err
}

// gatesOf makes the gates that a policy names.
func (d *Daemon) gatesOf(p policy.Gates) (*gate.Gates, error) {
	g := &gate.Gates{Every: p.Every, Patience: p.Timeout, Now: time.Now}
	for _, a := range p.Alerts {
		alerts := gate.Alerts{URL: a.URL, Query: a.Query, Pending: a.Pending,
			Access: gate.Access{CAFile: a.CAFile, CertFile: a.CertFile, KeyFile: a.KeyFile, TokenFile: a.TokenFile}}
		var err error
		if alerts.Match, err = pattern(a.Match); err != nil {
			return nil, err
		}
		if alerts.Ignore, err = pattern(a.Ignore); err != nil {
			return nil, err
		}
		g.List = append(g.List, alerts)
	}
	for _, h := range p.HTTP {
		g.List = append(g.List, gate.HTTP{URL: h.URL, Status: h.Status,
			Access: gate.Access{CAFile: h.CAFile, CertFile: h.CertFile, KeyFile: h.KeyFile, TokenFile: h.TokenFile}})
	}
	if len(p.Exec) == 0 {
		return g, nil
	}
	m, err := d.identity()
	if err != nil {
		return nil, err
	}
	for _, e := range p.Exec {
		g.List = append(g.List, hook.Gate{Path: e.Path, Timeout: p.Timeout, Machine: m, Log: d.hookSaid})
	}
	return g, nil
}

// pattern is a regular expression; nil for "".
func pattern(text string) (*regexp.Regexp, error) {
	if text == "" {
		return nil, nil
	}
	return regexp.Compile(text)
}

// hookSaid takes what a hook, or an executable that is a gate, writes to standard
// error.
func (d *Daemon) hookSaid(line string) { d.Log.Info(line) }

package hook

import (
	"context"
	"path/filepath"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
)

// A Gate is an executable that says whether this machine may go: it is called
// with the verb gate, as HOOKS.md has it. It is one of those that fleetlink/gate
// asks.
type Gate struct {
	Path    string // trusted as hooks are
	Machine fleetlink.Machine
	Timeout time.Duration // zero: DefaultAsk
	Log     func(line string)
}

// Shut says why the gate is shut: what the executable named, that it was refused,
// failed or did not end. None: it is open.
func (g Gate) Shut(ctx context.Context) (why []string) {
	if err := Trusted(g.Path); err != nil {
		return []string{"gate " + g.Path + " is refused, and shut: " + err.Error()}
	}
	h := hook{filepath.Base(g.Path), g.Path}
	a, err := summon(ctx, h, request{Verb: gate, bound: or(g.Timeout, DefaultAsk)}, g.Machine, g.Log)
	if err != nil {
		return []string{"gate " + g.Path + " is shut: " + err.Error()}
	}
	for _, w := range a.list {
		why = append(why, w.String()+" ("+g.Path+")")
	}
	if a.notYet && len(why) == 0 {
		why = []string{"gate " + g.Path + " says \"not yet\", and not why"}
	}
	return why
}

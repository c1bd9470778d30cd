package hook

import (
	"fmt"
	"slices"
	"strings"

	"github.com/drydock-os/drydock/fleetlink"
)

// record is what a Link keeps: which hooks were told to cordon, and why. Without
// hooks the machine is in service.
type record struct {
	Why   string   `json:"why"`
	Hooks []called `json:"hooks"`
}

// called is a hook that was told to cordon.
type called struct {
	Name    string `json:"name"`
	Drained bool   `json:"drained,omitempty"` // its drain ended well, since
}

// left is what a hook has left, of which it names a list. One that does not name
// anything may know no better: it is drained when its drain has ended.
func (c called) left(list []fleetlink.Workload) []fleetlink.Workload {
	if len(list) == 0 && !c.Drained {
		return []fleetlink.Workload{{Name: c.Name, Why: "its drain has not ended, and it does not say what is left"}}
	}
	return list
}

// cordoned adds hooks. What was drained may not be any more.
func (r record) cordoned(why string, hooks []hook) record {
	next := record{Why: why}
	for _, c := range r.Hooks {
		next.Hooks = append(next.Hooks, called{Name: c.Name})
	}
	for _, h := range hooks {
		if !slices.ContainsFunc(next.Hooks, func(c called) bool { return c.Name == h.name }) {
			next.Hooks = append(next.Hooks, called{Name: h.name})
		}
	}
	slices.SortFunc(next.Hooks, func(a, b called) int { return strings.Compare(a.Name, b.Name) })
	return next
}

func (l *Link) load() (r record, err error) {
	if err := fleetlink.Recall(l.Record, &r); err != nil {
		return record{}, fmt.Errorf("read which hooks have this machine out of service: %w", err)
	}
	return r, nil
}

func (l *Link) save(r record) error {
	if err := fleetlink.Remember(l.Record, r); err != nil {
		return fmt.Errorf("remember which hooks have this machine out of service: %w", err)
	}
	return nil
}

// recorded finds the hooks that were told to cordon. One that is gone is an error:
// nobody else knows how to undo what it did.
func (l *Link) recorded(r record) ([]hook, error) {
	there, err := l.hooks()
	if err != nil {
		return nil, err
	}
	hooks := make([]hook, 0, len(r.Hooks))
	for _, c := range r.Hooks {
		i := slices.IndexFunc(there, func(h hook) bool { return h.name == c.Name })
		if i < 0 {
			return nil, fmt.Errorf("hook %s took work off this machine and is not in %s any more, so the machine stays out of service: "+
				"put it back, or an executable of its name that undoes what it did", c.Name, l.Dir)
		}
		hooks = append(hooks, there[i])
	}
	return hooks, nil
}

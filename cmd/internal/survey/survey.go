// Package survey is what the scheduler and the gates of a policy say of a machine
// when they are asked and nothing is changed. drydockd, which has their drivers,
// asks them; drydock doctor has it do so, and judges what they say. So the
// operator's command need not have the drivers as well.
package survey

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
)

// Version is that of the form of a Survey. A program that reads another one than
// its own can tell nothing.
const Version = 1

// Patience is for all questions of a survey together. It leaves drydock doctor,
// whose checks have ten seconds, time to begin and to judge.
const Patience = 6 * time.Second

// A Survey is what was said.
type Survey struct {
	Version   int       `json:"version"`
	Scheduler Scheduler `json:"scheduler"`
	Gates     []Gate    `json:"gates,omitempty"` // in the order of the policy: alerts, http, exec
}

// An Answer is a value, or why there is none: unknown is never an empty value.
type Answer[T any] struct {
	Value T      `json:"value,omitempty"`
	Err   string `json:"err,omitempty"` // in the driver's words; "": there is a value
}

// Scheduler is what a link answered to all that it can be asked without a change.
type Scheduler struct {
	Opened   string                       `json:"opened,omitempty"` // why there is no link; then nothing was asked
	Standing Answer[fleetlink.Standing]   `json:"standing"`
	Held     Answer[[]fleetlink.Workload] `json:"held"` // that could not leave now
	Ails     Answer[[]fleetlink.Workload] `json:"ails"`
	Lacking  *Answer[[]string]            `json:"lacking,omitempty"` // rights; nil: the scheduler knows no question for them
}

// A Gate is what a gate said.
type Gate struct {
	Name  string   `json:"name"`            // as the policy has it: "gates.http[0]"
	Shut  []string `json:"shut,omitempty"`  // why, in sentences; none: it is open
	Unfit bool     `json:"unfit,omitempty"` // it could not be asked, which is what Shut says
}

// entitled is a link that can say which rights it lacks.
type entitled interface {
	// Lacking names the rights that this machine lacks, with force also those of a
	// drain by force. It changes nothing.
	Lacking(ctx context.Context, force bool) ([]string, error)
}

// AskLink asks a link everything that changes nothing, all at once, and returns
// when all of it was answered, or soon after ctx ends. force: the policy may have a
// drain by force.
func AskLink(ctx context.Context, l fleetlink.Link, force bool) (s Scheduler) {
	var asking sync.WaitGroup
	asking.Go(func() { s.Standing = answer(l.Standing(ctx)) })
	asking.Go(func() { s.Held = answer(l.Preflight(ctx)) })
	asking.Go(func() { s.Ails = answer(l.Ailments(ctx)) })
	if e, can := l.(entitled); can {
		asking.Go(func() {
			a := answer(e.Lacking(ctx, force))
			s.Lacking = &a
		})
	}
	asking.Wait()
	return s
}

func answer[T any](value T, err error) Answer[T] {
	if err != nil {
		return Answer[T]{Err: err.Error()}
	}
	return Answer[T]{Value: value}
}

// A Door is a gate that can be asked, and its name.
type Door struct {
	Name string
	Gate interface {
		Shut(ctx context.Context) []string
	}
}

// AskGates asks gates, all at once, each for as long as the policy has it.
func AskGates(ctx context.Context, doors []Door, each time.Duration) []Gate {
	ctx, cancel := context.WithTimeout(ctx, each)
	defer cancel()
	gates := make([]Gate, len(doors))
	var asking sync.WaitGroup
	for i, d := range doors {
		asking.Go(func() {
			why := d.Gate.Shut(ctx)
			gates[i] = Gate{Name: d.Name, Shut: why, Unfit: slices.ContainsFunc(why, unfit)}
		})
	}
	asking.Wait()
	return gates
}

// unfit reports whether a gate says that it could not be asked, as fleetlink/gate
// and fleetlink/hook do; else it was, and says no.
func unfit(why string) bool {
	for _, words := range []string{" cannot be asked", " is refused, and shut: ", " is shut: "} {
		if strings.Contains(why, words) {
			return true
		}
	}
	return false
}

package hook

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
)

// Exit codes of a hook (HOOKS.md, section 4): EX_OK and EX_TEMPFAIL of
// sysexits(3). Any other is a failure.
const (
	exitDone   = 0
	exitNotYet = 75
)

// protocol is the version of what hooks are told.
const protocol = 1

// request is what one call is about; as JSON, what a hook reads (HOOKS.md,
// section 3).
type request struct {
	Protocol  int       `json:"protocol"`
	Verb      string    `json:"verb"`
	Hook      string    `json:"hook"`
	MachineID string    `json:"machine_id"`
	Hostname  string    `json:"hostname"`
	BootID    string    `json:"boot_id"`
	Reason    string    `json:"reason"`
	Force     bool      `json:"force"`
	Attempt   int       `json:"attempt"`
	Deadline  time.Time `json:"deadline,omitzero"`
	Timeout   int       `json:"timeout_seconds,omitempty"`

	bound time.Duration              // how long the call may take; zero: as long as its context
	heard func([]fleetlink.Workload) // each list that is complete while the hook runs; may be nil
}

// answer is what a hook that did not fail said.
type answer struct {
	notYet bool
	list   []fleetlink.Workload // that it named last
}

// bound is how long a call may take; zero: as long as its context.
func (l *Link) bound(verb string) time.Duration {
	switch verb {
	case drain:
		return 0
	case cordon, resume:
		return or(l.Act, DefaultAct)
	}
	return or(l.Ask, DefaultAsk)
}

// call calls a hook once.
func (l *Link) call(ctx context.Context, h hook, r request) (answer, error) {
	r.bound = l.bound(r.Verb)
	return summon(ctx, h, r, l.Machine, l.Log)
}

// summon runs a hook.
func summon(ctx context.Context, h hook, r request, m fleetlink.Machine, log func(string)) (answer, error) {
	r.Protocol, r.Hook, r.MachineID, r.Hostname, r.Timeout = protocol, h.name, m.ID, m.Hostname, int(r.bound.Seconds())
	r.Attempt = max(r.Attempt, 1)
	if m.BootID != nil {
		id, err := m.BootID()
		if err != nil {
			return answer{}, fmt.Errorf("hook %s: %s: read the boot-id: %w", h.name, r.Verb, err)
		}
		r.BootID = id
	}
	input, err := json.Marshal(r)
	if err != nil {
		return answer{}, fmt.Errorf("hook %s: %s: %w", h.name, r.Verb, err)
	}
	said := lists{told: r.heard}
	var last string
	p := process{
		path: h.path, verb: r.Verb, env: r.env(), input: append(input, '\n'), bound: r.bound,
		out: said.line,
		err: func(line string) {
			if last = line; log != nil {
				log("hook " + h.name + ": " + r.Verb + ": " + line)
			}
		},
	}
	code, err := p.run(ctx, &said.err)
	switch {
	case err != nil:
	case code == exitDone || code == exitNotYet:
		return answer{notYet: code == exitNotYet, list: said.end()}, nil
	case last != "":
		err = fmt.Errorf("exited with code %d: %s", code, clip(last, maxName))
	default:
		err = fmt.Errorf("exited with code %d", code)
	}
	return answer{}, fmt.Errorf("hook %s: %s: %w", h.name, r.Verb, err)
}

// passed are the variables of our environment that a hook sees.
var passed = []string{"PATH", "HOME", "LANG", "TZ", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}

// env is the environment of a hook: what it reads as JSON, for shells.
func (r request) env() []string {
	deadline := ""
	if !r.Deadline.IsZero() {
		deadline = strconv.FormatInt(r.Deadline.Unix(), 10)
	}
	force := "0"
	if r.Force {
		force = "1"
	}
	env := []string{
		"DRYDOCK_PROTOCOL=" + strconv.Itoa(r.Protocol),
		"DRYDOCK_VERB=" + r.Verb,
		"DRYDOCK_HOOK=" + r.Hook,
		"DRYDOCK_MACHINE_ID=" + r.MachineID,
		"DRYDOCK_HOSTNAME=" + r.Hostname,
		"DRYDOCK_BOOT_ID=" + r.BootID,
		"DRYDOCK_REASON=" + strings.ReplaceAll(r.Reason, "\x00", ""),
		"DRYDOCK_FORCE=" + force,
		"DRYDOCK_ATTEMPT=" + strconv.Itoa(r.Attempt),
		"DRYDOCK_DEADLINE=" + deadline,
		"DRYDOCK_TIMEOUT=" + strconv.Itoa(r.Timeout),
	}
	for _, name := range passed {
		if value, set := os.LookupEnv(name); set {
			env = append(env, name+"="+value)
		}
	}
	return env
}

package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/drydock-os/drydock/cmd/internal/survey"
	"github.com/drydock-os/drydock/fleetlink/hook"
	"github.com/drydock-os/drydock/updater/policy"
)

var gateChecks = []check{
	{id: "gates.exec", image: true, applies: func(p policy.Policy) bool { return len(p.Gates.Exec) > 0 }, look: lookGateFiles},
	{id: "gates.answer", applies: gated, look: lookGateAnswers},
	{id: "gates.open", applies: gated, look: lookGates},
}

// gated: something else must be well. In shadow nothing is asked for.
func gated(p policy.Policy) bool {
	return !p.Shadow && len(p.Gates.Alerts)+len(p.Gates.HTTP)+len(p.Gates.Exec) > 0
}

// gatesShut is what a gate that is not open does.
const gatesShut = "this machine asks for no permit, and keeps one that it has used"

func lookGateFiles(_ context.Context, p *patient) Finding {
	var found []complaint
	for i, e := range p.policy.Gates.Exec {
		err := hook.Trusted(e.Path)
		switch {
		case errors.Is(err, fs.ErrPermission):
			f := unread(e.Path, err)
			found = append(found, complaint{f.Verdict, f.Seen, f.Means, f.Mend})
		case err != nil:
			found = append(found, complaint{Wrong, fmt.Sprintf("gates.exec[%d]: %v", i, err), gatesShut, "it must be an executable of root's (chmod 0755, chown root:, also the directories above it)"})
		}
	}
	return complain(fmt.Sprintf("%d executables, root's alone", len(p.policy.Gates.Exec)), found)
}

func lookGateAnswers(_ context.Context, p *patient) Finding {
	s, err := p.survey()
	if err != nil {
		return unsurveyed(p, err)
	}
	return judgeGateAnswers(s.Gates)
}

func lookGates(_ context.Context, p *patient) Finding {
	s, err := p.survey()
	if err != nil {
		return because("gates.answer")
	}
	return judgeGates(s.Gates)
}

// judgeGateAnswers: a gate that cannot be asked is shut, for ever if it is
// configured so.
func judgeGateAnswers(gates []survey.Gate) Finding {
	var found []complaint
	for _, g := range gates {
		if g.Unfit {
			found = append(found, complaint{Wrong, g.Name + ": " + strings.Join(g.Shut, "; "), gatesShut, mendGate(strings.Join(g.Shut, "; "))})
		}
	}
	return complain(fmt.Sprintf("each of %d answers", len(gates)), found)
}

// mendGate says what to do about a gate that cannot be asked.
func mendGate(why string) string {
	for _, known := range []struct{ part, mend string }{
		{" is refused, and shut: ", "see gates.exec"},
		{" is shut: ", "run that executable by hand as hooks.md says, with DRYDOCK_VERB=gate"},
		{"read the token", "put the token into its token_file"},
		{"certificate", "its ca_file must hold the CA that signed the server's certificate, cert_file and key_file this machine's own; and look at this machine's clock"},
		{"no such host", "name resolution does not know that host: correct its url, or DNS (resolvectl query)"},
		{"answers 4", "correct its url or query (the rights of its token, too)"},
	} {
		if strings.Contains(why, known.part) {
			return known.mend
		}
	}
	return "see that the server runs and is reached from here; correct its url"
}

// judgeGates: that a gate is shut is what it is for.
func judgeGates(gates []survey.Gate) Finding {
	var shut []string
	for _, g := range gates {
		if g.Unfit {
			return because("gates.answer")
		}
		shut = append(shut, g.Shut...)
	}
	if len(shut) > 0 {
		return Finding{Verdict: Warning, Seen: strings.Join(shut, "; "), Means: gatesShut, Mend: "see to what they name; an alert that is to count for nothing goes into its gate's ignore"}
	}
	return ok("all %d are open", len(gates))
}

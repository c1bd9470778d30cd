package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/drydock-os/drydock/cmd/internal/survey"
	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/fleetlink/hook"
	"github.com/drydock-os/drydock/updater/policy"
)

var schedulerChecks = []check{
	{id: "scheduler.hooks", image: true, applies: scheduledBy(policy.Hooks), look: func(_ context.Context, p *patient) Finding { return lookHooks(p.policy.Scheduler.Hook.Directory) }},
	{id: "scheduler.credential", applies: scheduledBy(remote...), look: lookCredential},
	{id: "scheduler.answers", applies: scheduled, look: lookScheduler},
	{id: "scheduler.node", applies: scheduledBy(remote...), look: surveyed(judgeNode)},
	{id: "scheduler.rights", applies: scheduledBy(remote...), look: surveyed(judgeSchedulerRights)},
	{id: "scheduler.standing", look: lookStanding},
	{id: "scheduler.drain", applies: scheduled, look: surveyed(judgeHeld)},
	{id: "scheduler.work", applies: scheduled, look: surveyed(judgeAils)},
}

// remote are the schedulers that know this machine among others, by a credential.
var remote = []policy.SchedulerKind{policy.Kubernetes, policy.Nomad, policy.Fleet}

func scheduledBy(kinds ...policy.SchedulerKind) func(policy.Policy) bool {
	return func(p policy.Policy) bool { return slices.Contains(kinds, p.Scheduler.Kind) }
}

// scheduled: there is something that takes work off this machine.
func scheduled(p policy.Policy) bool {
	s := p.Scheduler
	return s.Kind != policy.NoScheduler || len(s.None.Units)+len(s.None.Containers) > 0
}

// surveyPatience is for drydockd to begin, to ask and to end, within that of a
// check.
const surveyPatience = survey.Patience + 3*time.Second

// gatherSurvey has drydockd ask scheduler and gates: their drivers are in it, and
// not in this program.
func gatherSurvey(ctx context.Context, p *patient) (survey.Survey, error) {
	ctx, cancel := context.WithTimeout(ctx, surveyPatience)
	defer cancel()
	if p.Root != "" && p.Bus == "" {
		return survey.Survey{}, errNoBus
	}
	path := p.path(guardDaemon)
	if why, err := changeable(path); err != nil || why != "" {
		return survey.Survey{}, errors.Join(err, complaintOf(why))
	}
	config, err := filepath.Abs(p.Config)
	if err == nil && !below(config, p.path()) {
		err = fmt.Errorf("the policy file %s is not below %s, where drydockd could read it", config, p.Root)
	}
	if err != nil {
		return survey.Survey{}, err
	}
	inside := func(path string) string { return filepath.Join("/", strings.TrimPrefix(path, p.Root)) }
	s := survey.Surveyor{Program: inside(path), Root: p.Root, Args: []string{"-config", inside(config)}}
	if p.Bus != "" {
		s.Args = append(s.Args, "-bus", p.Bus)
	}
	return s.Survey(ctx)
}

// complaintOf is what keeps a program from being run as root; nil for "".
func complaintOf(why string) error {
	if why == "" {
		return nil
	}
	return fmt.Errorf("drydockd was not run: %s", why)
}

// surveyed is a check that goes by the scheduler's answers.
func surveyed(judge func(schedulerFacts) Finding) func(context.Context, *patient) Finding {
	return func(_ context.Context, p *patient) Finding {
		s, err := p.survey()
		if err != nil {
			return because("scheduler.answers")
		}
		return judge(schedulerFacts{kind: p.said.Scheduler.Kind, Scheduler: s.Scheduler})
	}
}

// lookScheduler is whether the scheduler was asked at all, and answered.
func lookScheduler(ctx context.Context, p *patient) Finding {
	if _, err := p.survey(); err != nil {
		return unsurveyed(p, err)
	}
	return surveyed(judgeAnswers)(ctx, p)
}

// lookCredential looks also whether others could write a kubeconfig: it can name a
// program, which is run as root.
func lookCredential(ctx context.Context, p *patient) Finding {
	if path := p.policy.Scheduler.Kubernetes.Kubeconfig; p.said.Scheduler.Kind == policy.Kubernetes && path != "" {
		if why, err := changeable(path); err == nil && why != "" {
			return Finding{Verdict: Wrong, Seen: why, Means: "whoever that is runs programs as root: a kubeconfig can name one", Mend: "chown root: and chmod go-w it"}
		}
	}
	return surveyed(judgeCredential)(ctx, p)
}

// unsurveyed is the verdict where drydockd could not be had to ask.
func unsurveyed(p *patient, err error) Finding {
	if errors.Is(err, errNoBus) {
		return unasked(p, err)
	}
	return Finding{Verdict: Unknown, Seen: "what the scheduler and the gates say: " + err.Error(), Means: "drydockd has their drivers, and asks them; without it nothing is known of them",
		Mend: "install drydockd of the same release as drydock; `drydockd survey` says what it says (as root)"}
}

// schedulerFacts are what the scheduler answered, and who it is.
type schedulerFacts struct {
	kind policy.SchedulerKind
	survey.Scheduler
}

// faults are why questions were not answered, but for that of rights, which not
// every account may ask.
func (f schedulerFacts) faults() (faults []linkFault) {
	for _, said := range present(f.Opened, f.Held.Err, f.Standing.Err, f.Ails.Err) {
		faults = append(faults, linkFaultOf(f.kind, said))
	}
	return faults
}

// judge is the verdict of one of linkChecks: good is what it is where nothing
// speaks against it.
func (f schedulerFacts) judge(id, means string, good Finding) Finding {
	faults := f.faults()
	for _, check := range linkChecks {
		i := slices.IndexFunc(faults, func(l linkFault) bool { return l.check == check })
		switch {
		case i >= 0 && check == id:
			return faults[i].finding(means)
		case i >= 0:
			return because(check)
		case check == id:
			return good
		}
	}
	return good
}

// unanswered is the verdict on a question that was not answered: the check that
// says why comes first.
func (f schedulerFacts) unanswered(said string) Finding {
	return because(linkFaultOf(f.kind, orElse(f.Opened, said)).check)
}

func judgeCredential(f schedulerFacts) Finding {
	return f.judge("scheduler.credential", noPermit, ok("it can be read"))
}

func judgeAnswers(f schedulerFacts) Finding {
	return f.judge("scheduler.answers", noPermit, ok("%s answers", schedulerNames[f.kind]))
}

func judgeNode(f schedulerFacts) Finding {
	return f.judge("scheduler.node", noPermit, ok("%s knows this machine", schedulerNames[f.kind]))
}

// schedulerNames are for people.
var schedulerNames = map[policy.SchedulerKind]string{policy.Kubernetes: "Kubernetes", policy.Nomad: "Nomad", policy.Fleet: "fleet", policy.Hooks: "each hook", policy.NoScheduler: "what runs the work of this host"}

// rightsMend says where the rights that are needed are written.
var rightsMend = map[policy.SchedulerKind]string{
	policy.Kubernetes: "give the account of scheduler.kubernetes.kubeconfig a role with them (fleetlink/kubernetes/rbac.yaml has each), or turn off in [scheduler.kubernetes] what needs them",
	policy.Nomad:      "give the token of scheduler.nomad.token_file a policy with node:write, agent:read, and in every namespace read-job and alloc-lifecycle",
	policy.Fleet:      "give scheduler.fleet.user a role of fleet's etcd that may read and write below scheduler.fleet.prefix and /drydock",
}

func judgeSchedulerRights(f schedulerFacts) Finding {
	const means = "a drain fails in its middle, or does not begin: releases are written, and wait"
	switch {
	case f.Lacking == nil:
		return f.judge("scheduler.rights", means, ok("all that was asked was allowed; alloc-lifecycle, which a drain by force needs, cannot be tried"))
	case len(f.Lacking.Value) > 0:
		return Finding{Verdict: Wrong, Seen: "this machine may not " + strings.Join(f.Lacking.Value, "; "), Means: means, Mend: rightsMend[f.kind]}
	case f.Lacking.Err != "":
		return f.judge("scheduler.rights", means,
			Finding{Verdict: Unknown, Minor: true, Seen: "which rights this machine has: " + f.Lacking.Err, Means: "one that is missing comes out in a drain", Mend: rightsMend[f.kind]})
	}
	return f.judge("scheduler.rights", means, ok("it may do what a drain needs"))
}

// drainMend says what lets work go.
var drainMend = map[policy.SchedulerKind]string{
	policy.Kubernetes:  "see that they can: more replicas, another budget (kubectl get pdb -A), an end to what hangs; unmanaged, empty_dir and daemonsets in [scheduler.kubernetes] say what may be ended",
	policy.Nomad:       "see that they can: more allocations, another node that suits (nomad node status), another migrate block; a batch job is waited for, or set end_at_deadline",
	policy.Fleet:       "see that they can: another machine that their X-Fleet section allows (fleetctl list-machines), or stop them by hand before a reboot",
	policy.Hooks:       "what each hook says is its author's to explain",
	policy.NoScheduler: "see to what is named; a job is waited for",
}

// judgeHeld: that work cannot leave now is no fault of this host's set-up, and
// passes often; an operator who wonders why nothing reboots wants to know it.
func judgeHeld(f schedulerFacts) Finding {
	switch held := f.Held; {
	case f.Opened != "" || held.Err != "":
		return f.unanswered(held.Err)
	case len(held.Value) > 0:
		return Finding{Verdict: Warning, Seen: fmt.Sprintf("%d of the workloads here could not leave now: %s", len(held.Value), fleetlink.Names(held.Value)),
			Means: "this machine asks for no permit while that is so; a drain that is under way waits for them", Mend: drainMend[f.kind]}
	}
	return ok("nothing stands in the way of a drain now")
}

func judgeAils(f schedulerFacts) Finding {
	switch ails := f.Ails; {
	case f.Opened != "" || ails.Err != "":
		return f.unanswered(ails.Err)
	case len(ails.Value) > 0:
		return Finding{Verdict: Warning, Seen: "not well here: " + fleetlink.Names(ails.Value), Means: "after a reboot the permit is kept until they are, and the other machines wait", Mend: "look at them with the scheduler's own tools"}
	}
	return ok("what belongs here is well")
}

// lookStanding looks at whose word this machine is out of service, and whether
// anybody will take it back. It is looked at whatever the policy says now.
func lookStanding(ctx context.Context, p *patient) Finding {
	path := filepath.Join(p.policy.State, "scheduler.json")
	data, err := document(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return unread(path, err)
	}
	var was berth
	if len(bytes.TrimSpace(data)) > 0 { // an empty one is none
		if err := json.Unmarshal(data, &was); err != nil {
			return Finding{Verdict: Wrong, Seen: fmt.Sprintf("%s: %v", path, err), Means: "at which scheduler this machine is out of service is not known, and none is asked", Mend: "see that it is in service everywhere (kubectl uncordon, nomad node eligibility), and remove the file"}
		}
	}
	if now := (berth{p.said.Scheduler.Kind, p.said.Scheduler.Place()}); was != (berth{}) && was != now {
		return Finding{Verdict: Wrong, Seen: fmt.Sprintf("this machine was taken out of service at %s, and the policy now names %s", was, now), Means: "nobody gives it back there, and nothing reboots",
			Mend: fmt.Sprintf("name %s in [scheduler] until it is back, or give it back there by hand and remove %s", was, path)}
	}
	if !scheduled(p.said) {
		return ok("no scheduler is named: nothing has to be taken off this machine")
	}
	return surveyed(func(f schedulerFacts) Finding {
		_, err := p.status()
		return judgeStanding(f, err == nil)
	})(ctx, p)
}

// A berth is where a machine is out of service, as drydockd writes it down.
type berth struct {
	Kind  policy.SchedulerKind `json:"kind"`
	Place string               `json:"place"` // policy.Scheduler.Place
}

// String is the kind, and where there is one the place.
func (b berth) String() string {
	if b.Place == "" {
		return string(b.Kind)
	}
	return fmt.Sprintf("%s (%s)", b.Kind, b.Place)
}

// judgeStanding judges how far a machine is out of service; daemon: drydockd runs,
// and will give it back.
func judgeStanding(f schedulerFacts, daemon bool) Finding {
	s := f.Standing.Value
	switch {
	case f.Opened != "" || f.Standing.Err != "":
		return f.unanswered(f.Standing.Err)
	case !s.Ours:
		return ok("in service, as far as drydock is concerned")
	case !daemon:
		return Finding{Verdict: Wrong, Seen: "this machine is out of service on drydock's word, and drydockd does not run", Means: "nobody gives it back: it takes no work", Mend: "start drydockd (daemon.answers), which goes on where it was"}
	case s.Open:
		return Finding{Verdict: Warning, Seen: "this machine is out of service on drydock's word, and somebody took the cordon off", Means: "it may be given work that the drain has to move again", Mend: "leave it to drydockd (drydock status), or end what it is about: drydock lock freeze"}
	}
	return ok("out of service on drydock's word, %d workloads left; drydock status says why", len(s.Left))
}

// lookHooks judges the directory of hooks as their driver does, and runs none.
func lookHooks(dir string) Finding {
	names, wrong := hook.Judge(dir)
	if len(wrong) == 0 {
		return ok("%d hooks in %s, root's alone: %s", len(names), dir, strings.Join(names, ", "))
	}
	for _, err := range wrong {
		if errors.Is(err, fs.ErrPermission) {
			return unread(dir, err)
		}
	}
	var seen []string
	for _, err := range wrong {
		seen = append(seen, err.Error())
	}
	return Finding{Verdict: Wrong, Seen: strings.Join(seen, "; "), Means: noPermit,
		Mend: "hooks are executables of root's (chmod 0755, chown root:, also the directories above them) in " + dir + "; move away what is none"}
}

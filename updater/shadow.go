package updater

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/updater/policy"
	"github.com/drydock-os/drydock/updater/state"
)

// ErrShadow refuses what somebody asks of a Shadow.
var ErrShadow = fmt.Errorf("%w: drydockd is in shadow mode (shadow = true in its policy file): it only watches update_engine and changes nothing on this machine", ErrRefused)

// A Shadow watches a machine that upstream's update_engine keeps, and says what
// an Updater would do in its place. It has nothing to act with: what it is given
// can only be looked at, and its own notes are all that it writes. Its exported
// fields are set once, before Run.
type Shadow struct {
	Slots     Sight
	Host      Senses
	Lock      Bystander
	Scheduler Preflight
	// Beside says what of a policy is not as upstream has it (server, keys); nil:
	// nothing is compared.
	Beside    func(policy.Policy) []Reason
	Notes     NotesFile
	Observers []Observer
	Now       func() time.Time
	Clock     Clock // nil: as time passes for the machine

	front // its mu guards words, too
	words []Upstream

	up    Upstream // as it was said last
	notes Notes
}

// Sight is a look at the slots of this machine. It is the half of Disk and
// partition.Control that changes nothing.
type Sight interface {
	// Booted is as in Disk.
	Booted() (partition.Slot, error)
	// Table reads the flags as the loader would read them now.
	Table() (partition.Table, error)
}

// Senses is the half of Host that changes nothing.
type Senses interface {
	Identity() (Identity, error)
	Blockers(ctx context.Context, p policy.Policy) []Reason
	Required(p policy.Policy) string
	Ailments(ctx context.Context, p policy.Policy) []Reason
}

// A Bystander sees what would keep this machine from a permit, without being in
// the group. Its Permit is NoPermit, or PermitUnknown.
type Bystander interface {
	Standing(ctx context.Context) (Standing, error)
}

// Preflight is the half of Scheduler that changes nothing.
type Preflight interface {
	Preflight(ctx context.Context) ([]fleetlink.Workload, error)
}

// NotesFile keeps Notes in one file, in a directory that is there.
type NotesFile struct{ Path string }

func (f NotesFile) file() state.File[Notes] { return state.File[Notes]{Path: f.Path, Version: 1} }

// Shadowing is what a Shadow saw, as status shows it.
type Shadowing struct {
	Upstream Upstream       `json:"upstream"`
	Would    string         `json:"would"` // the step that an Updater would do now
	Log      []HistoryEntry `json:"log"`   // agreements and differences, newest first, at most a hundred
}

var _ Controller = (*Shadow)(nil)

// SetPolicy puts another policy in force, from the next look on.
func (s *Shadow) SetPolicy(p policy.Policy) {
	s.mu.Lock()
	s.policy = p
	s.mu.Unlock()
	s.Wake()
}

// Do refuses everything.
func (s *Shadow) Do(context.Context, Request) (Outcome, error) { return "", ErrShadow }

// History returns the agreements and differences, newest first.
func (s *Shadow) History() []HistoryEntry {
	if sh := s.Status().Shadow; sh != nil {
		return slices.Clone(sh.Log)
	}
	return nil
}

// Plan says what an update to the release that upstream was offered would do
// now. No server is asked.
func (s *Shadow) Plan(context.Context) (Plan, error) {
	st := s.Status()
	plan := Plan{Running: st.Release, Reasons: st.Reasons, Why: "update_engine was offered nothing"}
	booted, err := partition.ParseSlot(st.Booted)
	if err != nil {
		return plan, fmt.Errorf("%w: the boot flags cannot be read: %s", ErrRefused, firstReason(st.Reasons))
	}
	plan.WrittenSlot = booted.Other().String()
	if st.NewVersion == "" {
		return plan, nil
	}
	p := s.Policy()
	plan.Offered, plan.Why = st.NewVersion, ""
	if err := p.Accept(st.Release, st.NewVersion); err != nil {
		plan.Why = err.Error()
		return plan, nil
	}
	plan.Wanted, plan.Download, plan.Steps = true, st.NewSize, steps(p, booted.Other(), st.NewVersion)
	return plan, nil
}

// maxWords bounds what upstream said and was not taken in yet. So much in the
// time of one look is an engine gone mad: the oldest of it is forgotten.
const maxWords = 256

// Hear takes in what upstream says; it returns at once. Progress alone does not
// count as another word.
func (s *Shadow) Hear(up Upstream) {
	s.mu.Lock()
	still := func(u Upstream) Upstream { u.Progress, u.LastChecked = 0, time.Time{}; return u }
	if last := len(s.words) - 1; last >= 0 && still(s.words[last]) == still(up) {
		s.words[last] = up
	} else {
		s.words = append(s.words, up)
	}
	if len(s.words) > maxWords {
		s.words = slices.Clone(s.words[1:])
	}
	s.mu.Unlock()
	s.Wake()
}

// next takes the oldest word in, and reports whether there are more.
func (s *Shadow) next() (more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.words) > 0 {
		s.up, s.words = s.words[0], s.words[1:]
	}
	return len(s.words) > 0
}

// pollTrial is how often a boot on trial is looked at: upstream marks it good 45
// seconds after its own start.
const pollTrial = 5 * time.Second

// Run watches until ctx ends.
func (s *Shadow) Run(ctx context.Context) error {
	notes, err := s.Notes.file().Load()
	s.notes = notes
	s.mu.Lock()
	s.status.Shadow = &Shadowing{Log: notes.Imagined.History}
	s.mu.Unlock()
	s.event(EventStarted, "", "drydock started in shadow mode: it watches update_engine and changes nothing")
	s.keep(err)
	for ctx.Err() == nil {
		more := s.next()
		o := s.look(ctx)
		if ctx.Err() != nil {
			break
		}
		before := s.notes
		after, v, step := before.watch(o, s.up, s.Policy())
		s.notes = after
		if !reflect.DeepEqual(before, after) {
			s.keep(s.Notes.file().Save(after))
		}
		s.tell(before, o, v, step)
		if !more {
			s.rest(ctx, o)
		}
	}
	return nil
}

// keep says with every status what became of the notes.
func (s *Shadow) keep(err error) {
	if err != nil {
		err = fmt.Errorf("the log of agreements and differences is lost with this run: %w", err)
	}
	s.mu.Lock()
	same := slices.ContainsFunc(s.trouble, func(r Reason) bool { return r.Kind == "notes" && err != nil && r.Text == err.Error() })
	none := err == nil && !slices.ContainsFunc(s.trouble, func(r Reason) bool { return r.Kind == "notes" })
	s.mu.Unlock()
	if !same && !none { // each word of trouble wakes us
		s.Trouble("notes", err)
	}
}

func (s *Shadow) rest(ctx context.Context, o Observed) {
	wait := poll
	if o.onTrial() {
		wait = pollTrial
	}
	s.clock().Pause(ctx, wait, s.woken())
}

func (s *Shadow) clock() Clock {
	if s.Clock == nil {
		return wallClock{}
	}
	return s.Clock
}

// look observes the machine and what is around it.
func (s *Shadow) look(ctx context.Context) Observed {
	s.lived(s.Now())
	p := s.Policy()
	o := Observed{Now: s.Now(), Permit: NoPermit}
	if err := s.lookInside(&o); err != nil {
		o.Unknown = err.Error()
		return o
	}
	o.Known = true
	if p.Reboot.Strategy != policy.External {
		o.Required = s.Host.Required(p)
	}
	t := s.notes.Imagined.Trial
	if o.onTrial() || t != nil && t.Slot == o.Booted {
		s.judge(ctx, &o, p)
	}
	if s.up.Operation == NeedReboot || t != nil && t.Armed || o.Required != "" || s.notes.Imagined.Written != nil {
		s.lookOutside(ctx, &o, p)
	}
	return o
}

func (s *Shadow) lookInside(o *Observed) error {
	id, err := s.Host.Identity()
	if err != nil {
		return err
	}
	o.BootID, o.Release, o.Up = id.BootID, id.Release, id.Up
	if o.Booted, err = s.Slots.Booted(); err != nil {
		return err
	}
	o.Flags, err = s.Slots.Table()
	return err
}

// judge asks what ails a boot that is, or was, on trial.
func (s *Shadow) judge(ctx context.Context, o *Observed, p policy.Policy) {
	ctx, cancel := s.clock().Within(ctx, p.Health.Timeout)
	defer cancel()
	ailments := s.Host.Ailments(ctx, p)
	s.lived(s.Now())
	switch {
	case len(ailments) == 0:
		o.Health = Healthy
	case o.Up >= min(p.Health.Timeout+p.Health.Settle, p.Trial.Deadline):
		o.Health = Sick
	}
	if len(ailments) > 0 {
		o.Sick = firstReason(ailments)
	}
}

// lookOutside asks what would be in the way of a reboot.
func (s *Shadow) lookOutside(ctx context.Context, o *Observed, p policy.Policy) {
	ctx, cancel := s.clock().Within(ctx, lookTimeout)
	defer cancel()
	standing, err := s.Lock.Standing(ctx)
	if err != nil {
		o.Permit = PermitUnknown
		standing.Stopped = []Reason{{Kind: "lock", Text: "the reboot lock cannot be read: " + err.Error()}}
	}
	o.Stopped, o.Waits = standing.Stopped, standing.Waits
	o.Blockers = s.Host.Blockers(ctx, p)
	o.Blockers = append(o.Blockers, preflight(ctx, s.Scheduler, p)...)
}

// tell puts what was seen into the status, and tells what is new of it.
func (s *Shadow) tell(before Notes, o Observed, v view, step Step) {
	was := s.Status()
	s.survey(o, v, step)
	news := s.notes.Imagined.History
	if len(before.Imagined.History) > 0 {
		news = news[:max(slices.Index(news, before.Imagined.History[0]), 0)]
	}
	for _, h := range slices.Backward(news) {
		s.event(h.Type, h.Version, h.Message)
	}
	now := s.Status()
	same := func(a, b Reason) bool { return a.Kind == b.Kind && a.Text == b.Text }
	switch {
	case !slices.EqualFunc(was.Reasons, now.Reasons, same):
		s.event(EventWaiting, now.NewVersion, firstReason(now.Reasons))
	case was.Operation != now.Operation:
		s.event(EventStep, now.NewVersion, "update_engine: "+now.Operation.String())
	case was.Progress != now.Progress:
		s.event(EventProgress, now.NewVersion, "update_engine downloads")
	}
}

// survey puts what was seen into the status. Of what stands in it, only slots,
// release and health are this machine's own; the rest is upstream's.
func (s *Shadow) survey(o Observed, v view, step Step) {
	p, up, m := s.Policy(), s.up, s.notes.Imagined
	var beside []Reason
	if s.Beside != nil {
		beside = s.Beside(p)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st := &s.status
	st.Step, st.StepName = Wait, Wait.String() // nothing is ever done
	st.Operation, st.Progress, st.LastChecked = up.Operation, up.Progress, up.LastChecked
	st.NewVersion, st.NewSize = "", 0
	if up.has(UpdateAvailable) {
		st.NewVersion, st.NewSize = s.notes.Upstream.NewVersion, s.notes.Upstream.NewSize
	}
	st.Booted, st.Release = slotName(o.Booted, o.Known), o.Release
	st.Slots, st.OnTrial = slotStatus(o, m), o.onTrial()
	next, bootable := o.Flags.Next()
	st.Staged = o.Known && bootable && next != o.Booted && o.Flags[o.Booted].Successful
	st.Strategy, st.Permit = string(p.Reboot.Strategy), permitNames[NoPermit]
	st.Shadow = &Shadowing{Upstream: up, Would: step.String(), Log: m.History}
	st.Reasons = []Reason{{Kind: "shadow", Text: "shadow mode: update_engine keeps this machine and drydockd only watches. In its place drydockd would now " + deeds[step]}}
	if !up.Running {
		st.Reasons = append(st.Reasons, Reason{Kind: "upstream", Text: "update_engine does not run (nobody has com.coreos.update1 on the bus), so nobody updates this machine: systemctl start update-engine.service, or leave shadow mode"})
	}
	st.Reasons = slices.Concat(st.Reasons, v.Reasons, beside, s.trouble, standing(p))
}

// deeds are the steps as what one would do.
var deeds = [...]string{
	Wait: "wait", Check: "ask the update server", Write: "download the release, write and verify it", Lock: "ask for a permit, drain, stage and reboot",
	Drain: "drain", Stage: "stage the release", Unstage: "take the selection of the other slot back", Reboot: "reboot", Validate: "judge the health of this boot",
	MarkGood: "mark this boot good", Reject: "reject this release and go back", Resume: "take work again", Release: "give the permit back",
}

func (s *Shadow) event(t EventType, version, message string) {
	e := Event{At: s.Now(), Type: t, Version: version, Message: message, Status: s.Status()}
	for _, o := range s.Observers {
		o.Observe(e)
	}
}

package updater

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/rebootlock/window"
	"github.com/drydock-os/drydock/updater/policy"
)

// watched is a machine that upstream keeps, and what it tells of itself. It is
// all that a Shadow is given, and what would change anything fails the test.
type watched struct {
	t *testing.T

	now      time.Time
	boot     int
	up       time.Duration
	release  string
	booted   partition.Slot
	flags    partition.Table
	ailments []Reason
	blockers []Reason
	stopped  []Reason
	unread   error
}

func (w *watched) Booted() (partition.Slot, error) { return w.booted, w.unread }

func (w *watched) Table() (partition.Table, error) { return w.flags, w.unread }

func (w *watched) Identity() (Identity, error) {
	return Identity{Release: w.release, BootID: fmt.Sprint("boot-", w.boot), Up: w.up}, nil
}

func (w *watched) Blockers(context.Context, policy.Policy) []Reason { return w.blockers }

func (w *watched) Required(policy.Policy) string { return "" }

func (w *watched) Ailments(context.Context, policy.Policy) []Reason { return w.ailments }

func (w *watched) Standing(context.Context) (Standing, error) {
	return Standing{Permit: NoPermit, Stopped: w.stopped}, nil
}

func (w *watched) Preflight(context.Context) ([]fleetlink.Workload, error) { return nil, nil }

func (w *watched) act(what string) error {
	w.t.Errorf("in shadow mode: %s", what)
	return nil
}

// What an Updater acts with. A Shadow that found a way to it would be caught.
func (w *watched) Slot(partition.Slot) (SlotDevice, error) { return nil, w.act("a slot is opened") }
func (w *watched) SetTable(partition.Table) error          { return w.act("flags are written") }
func (w *watched) CreateKernel(partition.Slot) (partition.File, error) {
	return nil, w.act("a kernel is created")
}
func (w *watched) PlaceKernel(partition.Slot) (string, error) { return "", w.act("a kernel is placed") }
func (w *watched) Acquire(context.Context, Intent) (Permit, error) {
	return Held, w.act("a permit is asked for")
}
func (w *watched) Fence(context.Context, string) error { return w.act("fence") }
func (w *watched) Release(context.Context, Ending, string) error {
	return w.act("a permit is given back")
}
func (w *watched) Drain(context.Context) error                { return w.act("drain") }
func (w *watched) Resume(context.Context) error               { return w.act("resume") }
func (w *watched) Reboot(context.Context, string, bool) error { return w.act("reboot") }
func (w *watched) Hook(context.Context, HookRun, func(string)) error {
	return w.act("the hook runs")
}

// factory is a machine on slot A that was good before.
func factory(t *testing.T) *watched {
	return &watched{t: t, now: worldNow, boot: 1, up: 10 * time.Minute, release: "1.0.0", flags: partition.Table{{Priority: 1, Successful: true}, {}}}
}

// shadowOf watches w. Its loop is stepped by the test.
func shadowOf(t *testing.T, w *watched, p policy.Policy) *Shadow {
	s := &Shadow{Slots: w, Host: w, Lock: w, Scheduler: w, Notes: NotesFile{Path: filepath.Join(t.TempDir(), "shadow.json")},
		Now: func() time.Time { return w.now }}
	s.SetPolicy(p)
	return s
}

// see has the shadow take in one word of upstream's, as its loop does.
func (w *watched) see(s *Shadow, up Upstream) {
	s.Hear(up)
	s.next()
	o := s.look(w.t.Context())
	before := s.notes
	after, v, step := before.watch(o, s.up, s.Policy())
	s.notes = after
	s.tell(before, o, v, step)
	w.now = w.now.Add(time.Second)
}

func said(op Operation, version string) Upstream {
	up := Upstream{Running: true, Operation: op, NewVersion: version}
	if version != "" {
		up.NewSize = 808010
	}
	return up
}

// stages is what flatcar-postinst does to the flags, and boots what GRUB does.
func (w *watched) stages() { w.flags = w.flags.Stage(w.booted.Other(), 1) }

func (w *watched) boots(version string) {
	w.booted, w.flags, _ = w.flags.Boot()
	w.boot++
	w.release = version
}

func coordinated() policy.Policy {
	p := policy.Default()
	p.Server.URL = "http://127.0.0.1:1/"
	p.Trial.KeepPrevious = 0
	return p
}

// update takes w through one update of upstream's.
func (w *watched) update(s *Shadow, version string) {
	w.see(s, said(Idle, ""))
	w.see(s, said(CheckingForUpdate, ""))
	w.see(s, said(UpdateAvailable, version))
	w.see(s, said(Downloading, version))
	w.see(s, said(Finalizing, version))
	w.stages()
	w.see(s, said(NeedReboot, version))
}

func (w *watched) reboots(s *Shadow, version string) {
	w.boots(version)
	w.see(s, Upstream{}) // before upstream is on the bus
	w.see(s, said(Idle, ""))
	w.flags = w.flags.Good(w.booted)
	w.see(s, said(Idle, ""))
}

// told is the log as "type: message", oldest first.
func told(s *Shadow) (lines []string) {
	for _, h := range slices.Backward(s.History()) {
		lines = append(lines, string(h.Type)+": "+h.Message)
	}
	return lines
}

func expect(t *testing.T, s *Shadow, want ...string) {
	t.Helper()
	got := told(s)
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			t.Errorf("not said: %s", want[i])
		case i >= len(want) || !strings.HasPrefix(got[i], want[i][:strings.IndexByte(want[i], ':')+1]) || !strings.Contains(got[i], want[i][strings.IndexByte(want[i], ':')+2:]):
			t.Errorf("line %d: %s", i, got[i])
			if i < len(want) {
				t.Errorf("   want: %s", want[i])
			}
		}
	}
}

func TestShadowAgreesWithAnUneventfulUpdate(t *testing.T) {
	w := factory(t)
	s := shadowOf(t, w, coordinated())
	w.update(s, "1.1.0")
	if got := s.Status(); got.Shadow.Would != "lock" || got.StepName != "wait" || got.Operation != NeedReboot || got.NewVersion != "1.1.0" || !got.Staged || got.Permit != "none" {
		t.Errorf("status %+v", got)
	}
	if why := s.Status().Reasons[0]; why.Kind != "shadow" || !strings.Contains(why.Text, "ask for a permit") {
		t.Errorf("reasons %v", s.Status().Reasons)
	}
	w.reboots(s, "1.1.0")
	expect(t, s,
		"agreed: downloads 1.1.0 (808010 bytes): drydockd would do so now, too",
		"agreed: staged 1.1.0 in slot B, and the boot flags say so: priority 2, tries 1",
		"agreed: rebooted 2026-01-02 02:54 UTC for 1.1.0: drydockd saw nothing against it",
		"agreed: marked slot B (1.1.0) good; nothing ails it")
	if got := s.Status(); got.Booted != "B" || got.OnTrial || got.Shadow.Would != "wait" {
		t.Errorf("at rest: %+v", got)
	}
	if h := s.notes.Imagined; h.Trial != nil || h.Written != nil || h.GoodAt.IsZero() {
		t.Errorf("imagined: %+v", h)
	}
}

func TestShadowDiffers(t *testing.T) {
	for _, tt := range []struct {
		name   string
		policy func(*policy.Policy)
		world  func(*watched)
		want   []string
	}{
		{"a reboot outside the window", func(p *policy.Policy) { p.Reboot.Windows = []window.Window{shut} }, nil, []string{
			"agreed: downloads", "agreed: staged", "differed: drydockd would have waited: reboots wait for their window (until 2026-01-02 12:00 UTC)", "agreed: good"}},
		{"a download outside the window", func(p *policy.Policy) { p.Update.Windows = []window.Window{shut} }, nil, []string{
			"differed: would not now: release 1.1.0 is offered; downloads wait for their window (until 2026-01-02 12:00 UTC)", "agreed: staged",
			"differed: would have waited: release 1.1.0 is offered; downloads wait", "agreed: good"}},
		{"a pin", func(p *policy.Policy) { p.Update.Pin = "1.0.*" }, nil, []string{
			"differed: would not now: release 1.1.0 is offered and not taken", "agreed: staged", "differed: would have waited: release 1.1.0 is offered and not taken", "agreed: good"}},
		{"updates are disabled", func(p *policy.Policy) { p.Update.Enabled = false }, nil, []string{
			"differed: would not now: updates are disabled", "agreed: staged", "differed: would have waited: updates are disabled", "agreed: good"}},
		{"an inhibitor", nil, func(w *watched) { w.blockers = []Reason{{Kind: "inhibitor", Text: "backup inhibits a shutdown"}} }, []string{
			"agreed: downloads", "agreed: staged", "differed: would have waited: backup inhibits", "agreed: good"}},
		{"a frozen group", nil, func(w *watched) { w.stopped = []Reason{{Kind: "freeze", Text: "the group is frozen"}} }, []string{
			"agreed: downloads", "agreed: staged", "differed: would have waited: the group is frozen", "agreed: good"}},
		{"strategy off", func(p *policy.Policy) { p.Reboot.Strategy = policy.Off }, nil, []string{
			"agreed: downloads", "agreed: staged", "differed: would have waited: a reboot is due", "agreed: good"}},
		{"strategy external", func(p *policy.Policy) { p.Reboot.Strategy = policy.External }, nil, []string{
			"agreed: downloads", "agreed: staged", "agreed: strategy external", "agreed: good"}},
		{"a unit that failed", nil, func(w *watched) { w.ailments = []Reason{{Kind: "unit", Text: "unit kubelet.service is failed"}} }, []string{
			"agreed: downloads", "agreed: staged", "agreed: rebooted", "differed: 1.1.0 is not well 10m0s after its boot: drydockd would reject it and go back to slot A: unit kubelet",
			"differed: good; drydockd would not yet: unit kubelet.service is failed"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, p := factory(t), coordinated()
			if tt.policy != nil {
				tt.policy(&p)
			}
			if tt.world != nil {
				tt.world(w)
			}
			s := shadowOf(t, w, p)
			w.update(s, "1.1.0")
			w.reboots(s, "1.1.0")
			expect(t, s, tt.want...)
		})
	}
}

// Upstream's post-install hook that exits 3 makes it say that a reboot is needed
// though no flag was set.
func TestShadowSeesAReleaseThatIsNotStaged(t *testing.T) {
	w := factory(t)
	s := shadowOf(t, w, coordinated())
	w.see(s, said(Idle, ""))
	w.see(s, said(Downloading, "1.1.0"))
	w.see(s, said(NeedReboot, "1.1.0"))
	expect(t, s, "agreed: downloads", "differed: says that 1.1.0 waits for a reboot, and the boot flags still select slot A")
}

// ResetStatus leaves the flags as they are.
func TestShadowSeesAResetThatIsNone(t *testing.T) {
	w := factory(t)
	s := shadowOf(t, w, coordinated())
	w.update(s, "1.1.0")
	w.see(s, said(Idle, ""))
	expect(t, s, "agreed: downloads", "agreed: staged", "differed: forgot 1.1.0 on somebody's word")
	if would := s.Status().Shadow.Would; would != "unstage" {
		t.Errorf("it would %s", would)
	}
}

// A release that does not come up is taken by upstream again and again.
func TestShadowWouldNotTakeABadReleaseAgain(t *testing.T) {
	w, p := factory(t), coordinated()
	p.Trial.Retries, p.Trial.RetryBackoff = 1, 0
	s := shadowOf(t, w, p)
	for range 3 {
		w.update(s, "1.1.0")
		w.boots("1.1.0") // the trial, which shadow never sees
		w.booted, w.flags, _ = w.flags.Boot()
		w.boot, w.release = w.boot+1, "1.0.0"
		w.see(s, Upstream{})
		w.see(s, said(Idle, ""))
		w.now = w.now.Add(13 * time.Hour)
	}
	got := strings.Join(told(s), "\n")
	for _, want := range []string{"did not find 1.1.0 good: drydockd would try it again", "drydockd would reject 1.1.0 now", "downloads 1.1.0 (808010 bytes): drydockd would not now: release 1.1.0 was rejected"} {
		if !strings.Contains(got, want) {
			t.Errorf("not said: %q in\n%s", want, got)
		}
	}
}

// With a restart of its own upstream forgets which release waits.
func TestShadowRemembersWhatUpstreamForgot(t *testing.T) {
	w := factory(t)
	s := shadowOf(t, w, coordinated())
	w.update(s, "1.1.0")
	w.see(s, Upstream{})
	w.see(s, said(NeedReboot, ""))
	if got := s.Status(); got.NewVersion != "1.1.0" || got.Shadow.Would != "lock" || len(got.Shadow.Log) != 2 {
		t.Errorf("status %+v, log %v", got, told(s))
	}
}

func TestShadowSaysThatUpstreamIsGone(t *testing.T) {
	w := factory(t)
	s := shadowOf(t, w, coordinated())
	w.see(s, Upstream{})
	if r := s.Status().Reasons; len(r) < 2 || r[1].Kind != "upstream" {
		t.Errorf("reasons %v", r)
	}
	w.unread = fmt.Errorf("no disk")
	w.see(s, said(Idle, ""))
	if r := s.Status().Reasons; len(r) != 2 || r[1].Kind != "unknown" || s.Status().Shadow.Would != "wait" {
		t.Errorf("reasons %v", r)
	}
}

func TestShadowRefusesEverything(t *testing.T) {
	s := shadowOf(t, factory(t), coordinated())
	for _, a := range []Action{ActCheck, ActUpdate, ActPause, ActUnpause, ActRollback, ActReboot, ActCancel, ActRetry, ActMarkGood, ActMarkBad, ActReset} {
		if _, err := s.Do(t.Context(), Request{Action: a}); err != ErrShadow || !strings.Contains(err.Error(), "shadow mode") {
			t.Errorf("%s: %v", a, err)
		}
	}
}

// TestShadowHasNothingToActWith holds by construction what the rest of the tests
// only observe: no field of a Shadow offers a method that changes anything.
func TestShadowHasNothingToActWith(t *testing.T) {
	reads := []string{"Booted", "Table", "Identity", "Blockers", "Required", "Ailments", "Standing", "Preflight",
		"Observe", "Pause", "Within", "Beside"} // observers are told, and a Clock is time
	for i := range reflect.TypeFor[Shadow]().NumField() {
		f := reflect.TypeFor[Shadow]().Field(i)
		of := f.Type
		for of.Kind() == reflect.Slice {
			of = of.Elem()
		}
		if !f.IsExported() || of.Kind() != reflect.Interface {
			continue
		}
		for m := range of.NumMethod() {
			if name := of.Method(m).Name; !slices.Contains(reads, name) {
				t.Errorf("Shadow.%s offers %s", f.Name, name)
			}
		}
	}
}

// TestShadowOnlyWatches has upstream, firmware, operators and the machine around
// do whatever they can, in any order, under many policies. Nothing is ever acted
// upon, the flags are what upstream and the firmware made them, and the notes
// stay bounded.
func TestShadowOnlyWatches(t *testing.T) {
	const runs, steps = 300, 120
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	seen := map[string]bool{}
	for range runs {
		w, p := factory(t), coordinated()
		p.Reboot.Strategy = []policy.Strategy{policy.Coordinated, policy.Immediate, policy.External, policy.Off}[r.IntN(4)]
		if r.IntN(3) == 0 {
			p.Reboot.Windows = []window.Window{shut}
		}
		s := shadowOf(t, w, p)
		for range steps {
			version := fmt.Sprintf("1.%d.0", r.IntN(3))
			switch r.IntN(9) {
			case 0:
				w.stages()
			case 1:
				w.boots(version)
			case 2:
				w.flags = w.flags.Good(w.booted)
			case 3:
				w.blockers = append([]Reason(nil), []Reason{{Kind: "session"}}[:r.IntN(2)]...)
			case 4:
				w.ailments = append([]Reason(nil), []Reason{{Kind: "unit"}}[:r.IntN(2)]...)
			case 5:
				w.now = w.now.Add(time.Duration(r.IntN(20)) * time.Hour)
			case 6:
				w.flags = w.flags.Discard(w.booted.Other())
			}
			w.up = time.Duration(1+r.IntN(20)) * time.Minute
			flags := w.flags
			if r.IntN(4) == 0 {
				version = ""
			}
			w.see(s, Upstream{Running: r.IntN(6) > 0, Operation: Operation(r.IntN(int(ReportingError) + 1)), NewVersion: version})
			if w.flags != flags {
				t.Fatal("the flags changed")
			}
			seen[s.Status().Shadow.Would] = true
			if n := len(s.notes.Imagined.History); n > maxHistory {
				t.Fatalf("%d entries", n)
			}
			if s.Status().StepName != "wait" || s.Status().Permit != "none" {
				t.Fatalf("status %+v", s.Status())
			}
		}
	}
	for _, step := range []Step{Wait, Write, Lock, Stage, Unstage, Validate, MarkGood, Reject} {
		if !seen[step.String()] {
			t.Errorf("no machine was met on which it would %s", step)
		}
	}
}

// TestShadowRuns has the loop itself take in a burst of words in their order,
// keep its notes through a restart, and end with its context.
func TestShadowRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := factory(t)
		s := shadowOf(t, w, coordinated())
		run := func(s *Shadow) (stop func()) {
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			wg.Go(func() { s.Run(ctx) })
			return func() { cancel(); wg.Wait() }
		}
		stop := run(s)
		s.Hear(said(Idle, ""))
		synctest.Wait()
		w.stages()
		for _, up := range []Upstream{said(UpdateAvailable, "1.1.0"), said(Downloading, "1.1.0"), said(Finalizing, "1.1.0"), said(NeedReboot, "1.1.0")} {
			s.Hear(up)
		}
		synctest.Wait()
		log := told(s)
		if len(log) != 2 || s.Status().Shadow.Would != "lock" {
			t.Fatalf("log %q, status %+v", log, s.Status())
		}
		stop()
		again := shadowOf(t, w, coordinated())
		again.Notes = s.Notes
		stop = run(again)
		synctest.Wait()
		if got := told(again); !slices.Equal(got, log) || again.notes.Imagined.Written == nil {
			t.Errorf("after a restart: %q", got)
		}
		again.Hear(said(NeedReboot, "1.1.0"))
		synctest.Wait()
		if got := told(again); !slices.Equal(got, log) || again.Status().Shadow.Would != "lock" {
			t.Errorf("said twice: %q, would %s", got, again.Status().Shadow.Would)
		}
		stop()
		if beat := again.Beat(); beat.IsZero() {
			t.Error("no sign of life")
		}
	})
}

func TestShadowHearsABoundedStory(t *testing.T) {
	s := shadowOf(t, factory(t), coordinated())
	for i := range 10 * maxWords {
		s.Hear(said(Downloading, fmt.Sprint(i)))
		s.Hear(Upstream{Running: true, Operation: Downloading, NewVersion: fmt.Sprint(i), NewSize: 808010, Progress: 0.5}) // the same word
	}
	if len(s.words) != maxWords || s.words[maxWords-1].NewVersion != fmt.Sprint(10*maxWords-1) || s.words[maxWords-1].Progress != 0.5 {
		t.Errorf("%d words, the last %+v", len(s.words), s.words[len(s.words)-1])
	}
}

func TestShadowPlansWithoutAsking(t *testing.T) {
	w := factory(t)
	s := shadowOf(t, w, coordinated())
	w.see(s, said(Idle, ""))
	if plan, err := s.Plan(t.Context()); err != nil || plan.Offered != "" || plan.Wanted {
		t.Errorf("nothing is offered: %+v, %v", plan, err)
	}
	w.see(s, said(Downloading, "1.1.0"))
	if plan, err := s.Plan(t.Context()); err != nil || plan.Offered != "1.1.0" || !plan.Wanted || plan.Download != 808010 || plan.WrittenSlot != "B" || len(plan.Steps) == 0 {
		t.Errorf("plan %+v, %v", plan, err)
	}
}

package demo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/updater"
)

// story tells the three chapters.
func (f *fleet) story(ctx context.Context) error {
	if err := f.until(ctx, "the machines come up", f.all(oldRelease)); err != nil {
		return err
	}
	for _, chapter := range []func(context.Context) error{f.rollout, f.stop, f.freeze} {
		if err := chapter(ctx); err != nil {
			return err
		}
		if n := f.down(); n > permits {
			return fmt.Errorf("%d machines were down at once, and %d is the most that the rules allow", n, permits)
		}
	}
	f.end()
	return nil
}

// rollout takes every machine to a good release.
func (f *fleet) rollout(ctx context.Context) error {
	f.screen.title("1. Release %s appears", newRelease)
	began := time.Now()
	if err := f.publish(ctx, newRelease); err != nil {
		return err
	}
	if err := f.until(ctx, "every machine runs "+newRelease, f.all(newRelease)); err != nil {
		return err
	}
	f.screen.say("")
	f.screen.say("All %d run %s after %.0f s. Never more than %d of %d were down; their work ran on the others.",
		machines, newRelease, time.Since(began).Seconds(), f.down(), machines)
	return f.pauseToRead(ctx)
}

// stop lets one machine try a release that is not well.
func (f *fleet) stop(ctx context.Context) error {
	f.screen.title("2. Release %s appears, and its web.service will not start", badRelease)
	f.screen.say("A new line of releases: the operator lets one machine at a time go.")
	if err := f.setMax(ctx, 1); err != nil {
		return err
	}
	if err := f.publish(ctx, badRelease); err != nil {
		return err
	}
	if err := f.until(ctx, badRelease+" stops", func() bool { return f.stopped(ctx) }); err != nil {
		return err
	}
	tried := f.ran(badRelease)
	if len(tried) != 1 {
		return fmt.Errorf("%d machines tried %s, and the rules stop it after one: %v", len(tried), badRelease, tried)
	}
	waiting := f.hosts[slices.IndexFunc(f.hosts, func(h *host) bool { return h.name != tried[0] })]
	if err := f.explain(ctx, waiting); err != nil {
		return err
	}
	f.screen.say("One machine, %s, tried it and went back by itself; the group stopped.", tried[0])
	f.screen.say("The other %d never left %s: they have %s written, and wait.", machines-1, newRelease, badRelease)
	return f.pauseToRead(ctx)
}

// stopped reports whether the bad release was given up: who tried it is back,
// and the others wait.
func (f *fleet) stopped(ctx context.Context) bool {
	back, waiting := 0, 0
	for _, h := range f.hosts {
		s, _ := h.status()
		switch {
		case h.rests(newRelease) && len(s.Rejected) > 0:
			back++
		case s.Release == newRelease && h.queued() && s.NewVersion == badRelease:
			waiting++
		}
	}
	if back == 0 || back+waiting < machines || f.witness.records() > 0 || !f.work.home() {
		return false
	}
	v, err := f.operator.Look(ctx)
	return err == nil && len(v.Groups) == 1 && len(v.Groups[0].Stops) > 0
}

// freeze stops a rollout in the middle of a drain, and lets it go on.
func (f *fleet) freeze(ctx context.Context) error {
	f.screen.title("3. Release %s mends it, and the operator freezes the group meanwhile", fixedRelease)
	if err := f.setMax(ctx, permits); err != nil {
		return err
	}
	f.work.move.Store(int64(f.pace.slow)) // so that the freeze meets a drain
	if err := f.publish(ctx, fixedRelease); err != nil {
		return err
	}
	if err := f.until(ctx, "some machines drain and the others wait", f.busy); err != nil {
		return err
	}
	if err := f.pauseToRead(ctx); err != nil {
		return err
	}
	boots := f.boots()
	const reason = "the shop opens its sale"
	f.screen.command("drydock lock freeze --group %s --reason %q", group, reason)
	if err := f.operator.Freeze(ctx, group, reason); err != nil {
		return err
	}
	var err error
	if f.frozen, err = f.revision(ctx); err != nil {
		return err
	}
	if err := f.until(ctx, "the frozen group is at rest", f.halted); err != nil {
		return err
	}
	if err := f.pauseToRead(ctx); err != nil { // and what the machines say of themselves comes in
		return err
	}
	waiting := slices.IndexFunc(f.hosts, func(h *host) bool { return h.queued() })
	if err := f.explain(ctx, f.hosts[max(waiting, 0)]); err != nil {
		return err
	}
	if now := f.boots(); now != boots {
		return fmt.Errorf("%d machines rebooted while the group was frozen", now-boots)
	}
	f.screen.say("Nothing rebooted. Who was draining took its work back and gave its permit back, unused.")
	if err := f.pauseToRead(ctx); err != nil {
		return err
	}
	return f.thaw(ctx)
}

// busy reports whether as many machines drain as may, and all others wait.
func (f *fleet) busy() bool {
	draining, waiting := 0, 0
	for _, phase := range f.witness.holders() {
		if phase == rebootlock.PhaseDraining {
			draining++
		}
	}
	for _, h := range f.hosts {
		if h.queued() {
			waiting++
		}
	}
	return draining == permits && draining+waiting == machines
}

// thaw lifts the freeze and forgives the failure, as drydock lock thaw does.
func (f *fleet) thaw(ctx context.Context) error {
	f.work.move.Store(int64(f.pace.move))
	f.screen.command("drydock lock thaw --group %s", group)
	if err := f.operator.Forgive(ctx, group, ""); err != nil {
		return err
	}
	if err := f.operator.Thaw(ctx, group); err != nil {
		return err
	}
	var err error
	if f.thawed, err = f.revision(ctx); err != nil {
		return err
	}
	return f.until(ctx, "every machine runs "+fixedRelease, f.all(fixedRelease))
}

// halted reports whether a frozen group is at rest: every machine has the
// release written, none holds a permit, and all work is at home.
func (f *fleet) halted() bool {
	for _, h := range f.hosts {
		s, on := h.status()
		if !on || !s.Written || s.NewVersion != fixedRelease || s.Drained || s.Permit == "held" {
			return false
		}
	}
	return f.witness.records() == 0 && f.work.home()
}

// end says how it all stands.
func (f *fleet) end() {
	f.screen.say("")
	for _, h := range f.hosts {
		s, _ := h.status()
		f.screen.say("%s  %s  %s  %s", h.name, inWords(s.Slots[0], s.Booted), inWords(s.Slots[1], s.Booted), strings.Join(f.work.Workloads(h.name), " "))
	}
	f.screen.say("")
	f.screen.say("%d reboots, and never more than %d of %d were down, as a watch on etcd saw it at every revision.",
		f.boots()-machines, f.down(), machines)
	f.screen.title("Where to look next")
	f.screen.say("dist/drydock.toml            the policy file, with every key explained")
	f.screen.say("dist/README.md               how to install drydockd on a host, and what etcd needs")
	f.screen.say("go run ./cmd/drydock --help  what an operator can ask and do: lock, fleet, status, simulate")
	f.screen.say("rebootlock/RECORDS.md        what the lock keeps in etcd")
	f.screen.say("DESIGN.md                    why it is built as it is")
}

// inWords is a slot at the end.
func inWords(s updater.SlotStatus, booted string) string {
	text := fmt.Sprintf("slot %s %s", s.Slot, s.Release)
	if s.Successful {
		text += ", good"
	}
	if s.Slot == booted {
		return text + ", runs"
	}
	return text + ", the way back"
}

// publish builds, signs and offers a release, and has every machine look for it
// now instead of within the hour.
func (f *fleet) publish(ctx context.Context, version string) error {
	img, err := makeImage(f.dir, version, f.pace.image)
	if err != nil {
		return err
	}
	size, err := f.server.publish(ctx, version, img, f.key)
	if err != nil {
		return err
	}
	f.screen.say("A %d MiB image became a signed payload of %.1f MiB. Every machine fetches it into its passive slot.", f.pace.image>>20, float64(size)/(1<<20))
	for _, h := range f.hosts {
		if err := h.look(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (f *fleet) setMax(ctx context.Context, n int) error {
	f.screen.command("drydock lock set-max %d --group %s", n, group)
	_, err := f.operator.SetMax(ctx, group, rebootlock.Max{Count: n})
	return err
}

// explain prints what drydock fleet explain prints.
func (f *fleet) explain(ctx context.Context, h *host) error {
	v, err := f.operator.Look(ctx)
	if err != nil {
		return err
	}
	f.screen.command("drydock fleet explain %s", h.name)
	for _, o := range rebootlock.Explain(v, h.machine.ID) {
		f.screen.item(o.Text)
	}
	return nil
}

// all is true once every machine rests with a release, no permit is left, and
// all work is at home.
func (f *fleet) all(release string) func() bool {
	return func() bool {
		for _, h := range f.hosts {
			if !h.rests(release) {
				return false
			}
		}
		return f.witness.records() == 0 && f.work.home()
	}
}

// ran names the machines that ever booted a release.
func (f *fleet) ran(release string) (names []string) {
	for _, h := range f.hosts {
		if slices.Contains(h.boots(), release) {
			names = append(names, h.name)
		}
	}
	return names
}

// down is how many machines were down at once at most, by the permits and by
// the work that was away.
func (f *fleet) down() int { return max(f.witness.maximum(), f.work.maximum()) }

// boots is how often a machine was booted so far.
func (f *fleet) boots() (n int) {
	for _, h := range f.hosts {
		n += len(h.boots())
	}
	return n
}

// until waits for cond, and says what was waited for in vain.
func (f *fleet) until(ctx context.Context, what string, cond func() bool) error {
	for !cond() {
		if nap(ctx, 20*time.Millisecond) {
			continue
		}
		if err := context.Cause(ctx); !errors.Is(err, errSlow) {
			return err
		}
		return fmt.Errorf("%w; it waited until %s: %s", errSlow, what, f.standing())
	}
	return nil
}

// standing is what each machine does, for whoever has to find out why.
func (f *fleet) standing() string {
	var texts []string
	for _, h := range f.hosts {
		s, _ := h.status()
		text := fmt.Sprintf("%s runs %s, step %s, permit %s", h.name, s.Release, s.StepName, s.Permit)
		if len(s.Reasons) > 0 {
			text += ", " + s.Reasons[0].Text
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, "; ")
}

func (f *fleet) pauseToRead(ctx context.Context) error {
	nap(ctx, f.pace.read)
	return ctx.Err()
}

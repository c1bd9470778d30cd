package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/drydock-os/drydock/updater/bus"
	"github.com/drydock-os/drydock/updater/policy"
)

// In shadow drydockd starts no trial.
func notShadow(p policy.Policy) bool { return !p.Shadow }

var trialChecks = []check{
	{id: "trial.panic", bare: true, applies: notShadow, look: lookPanic},
	{id: "trial.watchdog", bare: true, applies: notShadow, look: lookWatchdog},
	{id: "trial.guard", bare: true, image: true, applies: notShadow, look: lookGuard},
	{id: "trial.timer", bare: true, image: true, applies: notShadow, look: lookTimer},
	{id: "trial.deadline", applies: notShadow, look: lookDeadline},
	{id: "trial.state", applies: notShadow, look: lookGuardState},
	{id: "trial.coordinated", applies: notShadow, look: lookCoordinated},
}

const (
	hung  = "a release on its trial that hangs stays there: its tries are never spent, and nobody goes back"
	guard = "README.md of the package, \"The trial guard\""
)

// maxPanic is the longest panic= that is worth it, in seconds: a minute is for
// people to read the console.
const maxPanic = 300

func lookPanic(_ context.Context, p *patient) Finding {
	line, err := p.read("proc/cmdline")
	if err != nil {
		return unread("the kernel's command line", err)
	}
	now, err := p.read("proc/sys/kernel/panic")
	if err != nil {
		return unread("kernel.panic", err)
	}
	return judgePanic(line, strings.TrimSpace(now))
}

// judgePanic judges the kernel's command line, and kernel.panic as it is now
// (kernel-parameters.txt, "panic=").
func judgePanic(line, now string) Finding {
	said, there := "", false
	for _, word := range strings.Fields(line) {
		if value, ok := strings.CutPrefix(word, "panic="); ok {
			said, there = value, true
		}
	}
	mend := "add panic=30 to the kernel's command line (" + guard + ")"
	wrong := func(format string, args ...any) Finding {
		return Finding{Verdict: Wrong, Seen: fmt.Sprintf(format, args...), Means: "a release whose kernel panics on its trial stays there: nobody goes back", Mend: mend}
	}
	set, err := strconv.Atoi(now)
	early, earlyErr := strconv.Atoi(said)
	switch {
	case err != nil:
		return Finding{Verdict: Unknown, Seen: fmt.Sprintf("kernel.panic is %q", now)}
	case there && earlyErr != nil:
		return wrong("the kernel's command line says panic=%s, which is no number", said)
	case set == 0 && there && early != 0:
		mend = "find what resets kernel.panic (sysctl.d) and take it out"
		return wrong("the command line says panic=%s, and kernel.panic is 0 now", said)
	case set == 0:
		return wrong("a kernel that panics does not reboot: no panic= on its command line, and kernel.panic is 0")
	case set > maxPanic || early > maxPanic:
		return Finding{Verdict: Warning, Seen: fmt.Sprintf("a kernel that panics waits %d seconds", max(set, early)), Means: "the machine is away that long for nothing, with its permit", Mend: "panic=30 is enough"}
	case !there || early == 0:
		return Finding{Verdict: Warning, Seen: fmt.Sprintf("kernel.panic is %d, and the kernel's command line has no panic=", set), Means: "a kernel that panics before sysctl runs (no root file system, a bad initrd) stays there", Mend: mend}
	case set < 0:
		return ok("at once (panic=%s)", said)
	}
	return ok("after %d seconds", set)
}

// watchdogFacts are what is known of the hardware's watchdog.
type watchdogFacts struct {
	devices []string // in /sys/class/watchdog
	state   string   // of the first: "active", "inactive"; "" where the kernel does not say
	node    bool     // /dev/watchdog0 is there
	fed     time.Duration
	err     error // that fed is not known
}

func lookWatchdog(ctx context.Context, p *patient) Finding {
	var f watchdogFacts
	entries, err := os.ReadDir(p.path("sys/class/watchdog"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return unread("/sys/class/watchdog", err)
	}
	for _, e := range entries {
		f.devices = append(f.devices, e.Name())
	}
	if len(f.devices) > 0 {
		state, err := p.read("sys/class/watchdog", f.devices[0], "state")
		if err == nil {
			f.state = strings.TrimSpace(state)
		}
	}
	absent, err := missing(p.path("dev/watchdog0"))
	f.node = err == nil && !absent
	if f.err = errNoBus; p.Root == "" || p.Bus != "" {
		f.fed, f.err = bus.Systemd{Address: p.Bus}.Watchdog(ctx)
	}
	return judgeWatchdog(f)
}

func judgeWatchdog(f watchdogFacts) Finding {
	const mend = "install system.conf.d/10-drydock-watchdog.conf (RuntimeWatchdogSec=60s), then `systemctl daemon-reexec`"
	switch {
	case len(f.devices) == 0 && !f.node:
		return Finding{Verdict: Warning, Seen: "this machine has no watchdog device", Means: "a kernel or a systemd that hangs on a trial is not reset: somebody must",
			Mend: "load its driver (iTCO_wdt, sp5100_tco, i6300esb, ipmi_watchdog), or turn it on in the firmware or the hypervisor; softdog is better than nothing"}
	case f.err != nil:
		return Finding{Verdict: Unknown, Seen: "systemd does not say whether it feeds the watchdog: " + f.err.Error(), Means: "whether a machine that hangs is reset is not known", Mend: "see bus.reachable"}
	case f.fed == 0 && f.state == "active":
		return Finding{Verdict: Warning, Seen: f.devices[0] + " is armed, and not by systemd", Means: "whoever feeds it may go on while systemd hangs", Mend: "see that it is fed only while the system is well, or leave it to systemd: " + mend}
	case f.fed == 0:
		return Finding{Verdict: Wrong, Seen: "there is a watchdog device, and systemd does not arm it (RuntimeWatchdogSec=0)", Means: hung, Mend: mend}
	case f.state == "inactive":
		return Finding{Verdict: Wrong, Seen: "systemd is to feed the watchdog, and " + f.devices[0] + " is not armed", Means: hung, Mend: "`journalctl -b _PID=1 -g watchdog` says why (another program may hold the device)"}
	case f.fed != math.MaxInt64 && f.fed > 10*time.Minute:
		return Finding{Verdict: Warning, Seen: fmt.Sprintf("the watchdog resets a machine that hangs after %v", f.fed), Means: "the machine is away that long for nothing, with its permit", Mend: mend}
	case f.fed == math.MaxInt64:
		return ok("armed by systemd, with the device's own time")
	}
	return ok("armed by systemd: a machine that hangs is reset after %v", f.fed)
}

// guardScript is what the timer runs, guardDaemon what that asks.
const (
	guardScript = "usr/lib/drydock/trial-guard"
	guardDaemon = "usr/bin/drydockd"
)

func lookGuard(_ context.Context, p *patient) Finding {
	var found []complaint
	const mend = "install it from the package"
	for _, name := range []string{guardScript, guardDaemon} {
		path := p.path(name)
		info, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			found = append(found, complaint{Wrong, "there is no /" + name, hung, mend})
			continue
		case err != nil:
			f := unread(path, err)
			found = append(found, complaint{f.Verdict, f.Seen, f.Means, f.Mend})
			continue
		case info.Mode().Perm()&0o111 == 0 || !info.Mode().IsRegular():
			found = append(found, complaint{Wrong, fmt.Sprintf("/%s is not executable (%v)", name, info.Mode()), hung, "chmod 0755 it"})
			continue
		}
		if why, err := changeable(path); err == nil && why != "" {
			found = append(found, complaint{Wrong, why, "whoever that is runs programs as root", "chown root: and chmod go-w it"})
		}
	}
	return complain("/"+guardScript+" and /"+guardDaemon+" are executable", found)
}

func lookTimer(_ context.Context, p *patient) Finding {
	units, err := p.units()
	if err != nil {
		return unasked(p, err)
	}
	return judgeTimer(units[trialTimer], units[trialUnit], p.image)
}

func judgeTimer(timer, service bus.UnitSetup, image bool) Finding {
	const mend = "install drydock-trial.timer and .service from the package, and `systemctl enable --now drydock-trial.timer`"
	why := enabled(timer)
	switch {
	case why == "" && service.LoadState != "loaded":
		why = fmt.Sprintf("%s is %s", trialUnit, orElse(service.LoadState, "not there"))
	case why == "" && !image && timer.ActiveState != "active":
		why = fmt.Sprintf("%s is %s", trialTimer, timer.ActiveState)
	}
	if why != "" {
		return Finding{Verdict: Wrong, Seen: why, Means: hung, Mend: mend}
	}
	return ok("%s is enabled%s", trialTimer, map[bool]string{true: "", false: " and active"}[image])
}

func lookDeadline(_ context.Context, p *patient) Finding {
	units, err := p.units()
	if err != nil {
		return unasked(p, err)
	}
	if units[trialTimer].LoadState != "loaded" {
		return because("trial.timer")
	}
	return judgeDeadline(units[trialTimer].OnBoot, p.policy.Trial.Deadline)
}

// judgeDeadline: the guard comes after drydockd's own verdict, which says why.
func judgeDeadline(onBoot []time.Duration, deadline time.Duration) Finding {
	if len(onBoot) == 0 {
		return Finding{Verdict: Wrong, Seen: trialTimer + " has no OnBootSec=", Means: hung, Mend: "take back the drop-in that empties it (systemctl cat " + trialTimer + ")"}
	}
	if first := slices.Min(onBoot); first <= deadline {
		return Finding{Verdict: Wrong, Seen: fmt.Sprintf("the trial guard acts %s after the boot, and drydockd judges by %s (trial.deadline)", first, deadline),
			Means: "the guard reboots a release that may be about to become good", Mend: fmt.Sprintf("a drop-in for %s with OnBootSec= and OnBootSec=%s, or a shorter trial.deadline", trialTimer, deadline+5*time.Minute)}
	}
	return ok("the guard acts %s after the boot, drydockd %s", slices.Min(onBoot), deadline)
}

// lookGuardState: a guard whose drydockd cannot tell reads the state file, and
// must know where it is.
func lookGuardState(_ context.Context, p *patient) Finding {
	want := filepath.Join(p.said.State, "memory.json")
	if want == "/var/lib/drydock/memory.json" {
		return ok("the trial guard looks for the state where it is")
	}
	units, err := p.units()
	if err != nil {
		return unasked(p, err)
	}
	if slices.Contains(units[trialUnit].Service.Environment, "DRYDOCK_STATE="+want) {
		return ok("the trial guard is told of %s", want)
	}
	return Finding{Verdict: Wrong, Seen: "the state is in " + p.said.State + ", and " + trialUnit + " is not told", Means: "where drydockd is broken, the trial guard does not know that a release is on its trial, and reboots nothing",
		Mend: "a drop-in for " + trialUnit + ": [Service] Environment=DRYDOCK_STATE=" + want}
}

// lookCoordinated puts together what strategy "coordinated" stands on: a machine
// that takes a permit must come back by itself.
func lookCoordinated(ctx context.Context, p *patient) Finding {
	parts := map[string]Finding{"trial.panic": lookPanic(ctx, p), "trial.watchdog": lookWatchdog(ctx, p), "trial.guard": lookGuard(ctx, p), "trial.timer": lookTimer(ctx, p), "trial.deadline": lookDeadline(ctx, p)}
	return judgeCoordinated(p.said.Reboot.Strategy, parts)
}

func judgeCoordinated(s policy.Strategy, parts map[string]Finding) Finding {
	var wrong, unknown []string
	for id, part := range parts {
		switch part.Verdict {
		case Wrong:
			wrong = append(wrong, id)
		case Unknown:
			unknown = append(unknown, id)
		}
	}
	slices.Sort(wrong)
	slices.Sort(unknown)
	switch {
	case len(wrong) > 0 && s == policy.Coordinated:
		return Finding{Verdict: Wrong, Seen: "the trial guard is not whole: " + strings.Join(wrong, ", "),
			Means: `strategy "coordinated" must not be used here: a trial that hangs keeps its permit, and the whole group waits for somebody to come`,
			Mend:  `mend these, or set reboot.strategy = "off" until then`}
	case len(wrong) > 0:
		return Finding{Verdict: Warning, Seen: "the trial guard is not whole: " + strings.Join(wrong, ", "), Means: "a trial that hangs waits for somebody to come", Mend: "mend these"}
	case len(unknown) > 0:
		return Finding{Verdict: Unknown, Seen: "not all of the trial guard could be looked at: " + strings.Join(unknown, ", "), Means: `strategy "coordinated" needs it whole`, Because: unknown[0]}
	}
	return ok("a trial that hangs or panics comes back by itself: strategy %s may be used", s)
}

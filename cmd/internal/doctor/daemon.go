package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/bus"
	"github.com/drydock-os/drydock/updater/host"
	"github.com/drydock-os/drydock/updater/policy"
)

var busChecks = []check{
	{id: "bus.reachable", bare: true, look: lookBus},
	{id: "bus.files", bare: true, image: true, look: lookBusFiles},
	{id: "bus.polkit", bare: true, look: lookPolkit},
	{id: "bus.logind", look: lookLogind},
}

const (
	polkitName = "org.freedesktop.PolicyKit1"
	logindName = "org.freedesktop.login1"
)

func gatherNames(ctx context.Context, p *patient) (map[string]bus.NameState, error) {
	if p.Root != "" && p.Bus == "" {
		return nil, errNoBus
	}
	return bus.Names(ctx, p.Bus, []string{bus.Name, bus.Update1Name, polkitName, logindName})
}

func lookBus(_ context.Context, p *patient) Finding {
	_, err := p.names()
	if errors.Is(err, errNoBus) {
		return unasked(p, err)
	}
	if err != nil {
		return Finding{Verdict: Wrong, Seen: err.Error(), Means: "logind cannot be asked for a reboot, and nobody can ask drydockd: updates are written, and wait", Mend: "systemctl status dbus.socket dbus.service (or dbus-broker.service)"}
	}
	return ok("the system bus answers")
}

// busFiles are installed with the package; the bus and polkit go by them.
var busFiles = []struct {
	where []string
	name  string
	means string
}{
	{[]string{"usr/share/dbus-1/system.d", "etc/dbus-1/system.d"}, "io.drydock.Drydock1.conf", "the bus lets drydockd have no name: nobody can ask it"},
	{[]string{"usr/share/dbus-1/system.d", "etc/dbus-1/system.d"}, "com.coreos.update1.conf", "programs that ask for upstream's interface are refused"},
	{[]string{"usr/share/polkit-1/actions"}, "io.drydock.policy", "only root may change anything"},
}

func lookBusFiles(_ context.Context, p *patient) Finding {
	var found []complaint
	for _, file := range busFiles {
		there := slices.ContainsFunc(file.where, func(dir string) bool {
			absent, err := missing(p.path(dir, file.name))
			return err == nil && !absent
		})
		if !there {
			v := Wrong
			if file.name == "io.drydock.policy" {
				v = Warning
			}
			found = append(found, complaint{v, fmt.Sprintf("there is no /%s/%s", file.where[0], file.name), file.means, "install it from the package, then `systemctl reload dbus`"})
		}
	}
	return complain("the bus and polkit have drydock's files", found)
}

func lookPolkit(_ context.Context, p *patient) Finding {
	names, err := p.names()
	if err != nil {
		return because("bus.reachable")
	}
	if s := names[polkitName]; !s.Owned && !s.Activatable {
		return Finding{Verdict: Warning, Seen: "polkit is not on the bus", Means: "only root may change anything", Mend: "install polkit, if others than root are to steer updates"}
	}
	return ok("polkit decides who may change what")
}

func lookLogind(ctx context.Context, p *patient) Finding {
	if _, err := p.names(); err != nil {
		return because("bus.reachable")
	}
	login := bus.Login{Address: p.Bus}
	held, err := login.Inhibitors(ctx)
	if err == nil {
		_, err = login.Sessions(ctx)
	}
	if err != nil {
		return Finding{Verdict: Wrong, Seen: "logind: " + err.Error(), Means: "who is in the way of a reboot is not known, so none happens", Mend: "systemctl status systemd-logind.service"}
	}
	if len(held) > 0 {
		return ok("it answers; %s inhibits shutdowns now", held[0].Who)
	}
	return ok("it answers")
}

var daemonChecks = []check{
	{id: "daemon.unit", bare: true, image: true, look: lookDaemonUnit},
	{id: "daemon.answers", bare: true, look: lookDaemon},
	{id: "daemon.names", bare: true, look: lookNames},
	{id: "daemon.policy", look: lookDaemonPolicy},
	{id: "daemon.checked", applies: func(p policy.Policy) bool { return p.Update.Enabled }, look: lookChecked},
	{id: "daemon.sandbox", look: lookSandbox},
	{id: "daemon.rivals", look: lookRivals},
}

func lookDaemonUnit(_ context.Context, p *patient) Finding {
	units, err := p.units()
	if err != nil {
		return unasked(p, err)
	}
	return judgeDaemonUnit(units[daemonUnit], p.image)
}

func judgeDaemonUnit(u bus.UnitSetup, image bool) Finding {
	const means = "no release is taken, and a trial is never judged"
	if why := enabled(u); why != "" {
		return Finding{Verdict: Wrong, Seen: why, Means: means, Mend: "install it from the package, and `systemctl enable --now " + daemonUnit + "`"}
	}
	switch {
	case image:
		return ok("%s is enabled", daemonUnit)
	case u.ActiveState != "active" && u.ActiveState != "reloading":
		return Finding{Verdict: Wrong, Seen: fmt.Sprintf("%s is %s (%s)", daemonUnit, u.ActiveState, u.SubState), Means: means, Mend: "`systemctl status " + daemonUnit + "` says why; what is wrong above comes first"}
	case u.Outdated:
		return Finding{Verdict: Warning, Seen: "the files of " + daemonUnit + " were changed since systemd read them", Means: "it runs as the old ones say", Mend: "systemctl daemon-reload && systemctl restart " + daemonUnit}
	}
	return ok("%s is enabled and active", daemonUnit)
}

func gatherStatus(ctx context.Context, p *patient) (updater.Status, error) {
	if p.Root != "" && p.Bus == "" {
		return updater.Status{}, errNoBus
	}
	c, err := bus.Dial(ctx, p.Bus)
	if err != nil {
		return updater.Status{}, err
	}
	defer c.Close()
	return c.Status(ctx)
}

func lookDaemon(_ context.Context, p *patient) Finding {
	s, err := p.status()
	if errors.Is(err, errNoBus) {
		return unasked(p, err)
	}
	if _, bad := p.names(); bad != nil {
		return because("bus.reachable")
	}
	if err != nil {
		return Finding{Verdict: Wrong, Seen: err.Error(), Means: "no release is taken, and a trial is never judged", Mend: "`systemctl status " + daemonUnit + "` and `journalctl -u " + daemonUnit + "` say why"}
	}
	return ok("it runs %s, step %s", orElse(s.Release, "a release that it does not know"), s.StepName)
}

func lookNames(_ context.Context, p *patient) Finding {
	names, err := p.names()
	if err != nil {
		return because("bus.reachable")
	}
	if _, err := p.status(); err != nil {
		return because("daemon.answers")
	}
	if !names[bus.Update1Name].Owned {
		return Finding{Verdict: Warning, Seen: "nobody has the name " + bus.Update1Name, Means: "programs that ask for upstream's interface (locksmith, operators for Kubernetes) hear nothing", Mend: "see bus.files, then restart drydockd"}
	}
	return ok("%s and %s answer", bus.Name, bus.Update1Name)
}

func lookDaemonPolicy(_ context.Context, p *patient) Finding {
	status, err := p.status()
	if err != nil {
		return because("daemon.answers")
	}
	var changed, read time.Time
	if info, err := os.Stat(p.Config); err == nil {
		changed = info.ModTime()
	}
	if units, err := p.units(); err == nil {
		read = units[daemonUnit].Changed
	}
	return judgeDaemonPolicy(status, p.said, changed, read)
}

// judgeDaemonPolicy compares what is in force with the file: what the daemon
// says of it, and whether the file is younger than the daemon's last start or
// reload.
func judgeDaemonPolicy(s updater.Status, p policy.Policy, changed, read time.Time) Finding {
	const mend = "systemctl reload drydockd (for [slots] and state: restart)"
	for _, r := range s.Reasons {
		if r.Kind == "policy" {
			return Finding{Verdict: Wrong, Seen: "drydockd did not take the file: " + r.Text, Means: "the policy before it is in force", Mend: "mend what it says, then " + mend}
		}
	}
	switch {
	case s.Strategy != string(p.Reboot.Strategy):
		return Finding{Verdict: Warning, Seen: fmt.Sprintf("drydockd has strategy %s, the file says %s", s.Strategy, p.Reboot.Strategy), Means: "another policy is in force than this file", Mend: mend}
	case !read.IsZero() && changed.After(read):
		return Finding{Verdict: Warning, Seen: "the file was changed at " + changed.Format(time.DateTime) + "; drydockd last read it by " + read.Format(time.DateTime), Means: "the policy before it is in force", Mend: mend}
	}
	return ok("drydockd goes by this file, as far as can be seen")
}

func lookChecked(_ context.Context, p *patient) Finding {
	status, err := p.status()
	if err != nil {
		return because("daemon.answers")
	}
	up := time.Duration(0)
	if id, err := host.Identify(p.path()); err == nil {
		up = id.Up
	}
	return judgeChecked(status, p.said.Update, p.now, up)
}

// judgeChecked: a server may ask for longer intervals, up to policy.MaxPoll.
func judgeChecked(s updater.Status, u policy.Update, now time.Time, up time.Duration) Finding {
	patience := 2*max(u.CheckInterval, policy.MaxPoll) + u.CheckJitter
	last := ""
	if s.LastError != "" {
		last = ": " + s.LastError
	}
	const mend = "drydock explain says why; see server.reachable"
	switch age := now.Sub(s.LastChecked); {
	case s.LastChecked.IsZero() && up > patience:
		return Finding{Verdict: Warning, Seen: "the update server has never answered" + last, Means: "this machine gets no releases", Mend: mend}
	case s.LastChecked.IsZero():
		return ok("the update server has not been asked yet")
	case age > patience:
		return Finding{Verdict: Warning, Seen: fmt.Sprintf("the update server last answered %s ago%s", age.Round(time.Minute), last), Means: "this machine gets no releases", Mend: mend}
	}
	return ok("the update server answered at %s", s.LastChecked.Local().Format(time.DateTime))
}

func lookSandbox(_ context.Context, p *patient) Finding {
	units, err := p.units()
	if err != nil {
		return unasked(p, err)
	}
	if units[daemonUnit].LoadState != "loaded" {
		return because("daemon.unit")
	}
	return judgeSandbox(units[daemonUnit].Service, p.said)
}

// judgeSandbox finds paths of the policy that drydockd cannot see or write
// (systemd.exec(5)).
func judgeSandbox(s bus.ServiceSetup, p policy.Policy) Finding {
	var found []complaint
	writable := append([]string(nil), s.ReadWritePaths...)
	for _, dir := range s.StateDirectory {
		writable = append(writable, filepath.Join("/var/lib", dir))
	}
	for key, path := range map[string]string{"state": p.State, "update.extra_packages_dir": p.Update.ExtraPackagesDir, "slots.boot_directory": p.Slots.BootDirectory} {
		free := s.ProtectSystem != "strict" || slices.ContainsFunc(writable, func(dir string) bool { return below(path, dir) })
		if path != "" && !free {
			found = append(found, complaint{Wrong, fmt.Sprintf("%s is %s, which drydockd.service may not write", key, path), "what belongs there cannot be written: an update fails", "a drop-in for " + daemonUnit + ": [Service] ReadWritePaths=" + path})
		}
	}
	named := map[string]string{"health.directory": p.Health.Directory}
	_, certificates := linkFiles(p)
	for _, path := range slices.Concat(p.Trust.Keys, secrets(p), certificates, linkPrograms(p), present(p.Server.CAFile, p.Cluster.CAFile, p.Cluster.CertFile, p.FleetLock.CAFile, p.FleetLock.CertFile, p.State, p.Update.ExtraPackagesDir)) {
		named[path] = path
	}
	for key, path := range named {
		if why := hidden(s, path); why != "" {
			found = append(found, complaint{Wrong, fmt.Sprintf("%s: drydockd.service does not see %s (%s)", key, path, why), "what is there does not exist for drydockd", "move it below /etc/drydock or /var/lib/drydock, and name it there"})
		}
	}
	slices.SortFunc(found, func(a, b complaint) int { return strings.Compare(a.seen, b.seen) })
	return complain("it sees and may write what the policy names", found)
}

// hidden says what of a service's sandbox hides a path, "" for nothing.
func hidden(s bus.ServiceSetup, path string) string {
	for _, dir := range []string{"/home", "/root", "/run/user"} {
		if below(path, dir) && (s.ProtectHome == "yes" || s.ProtectHome == "tmpfs") {
			return "ProtectHome=" + s.ProtectHome
		}
	}
	for _, dir := range []string{"/tmp", "/var/tmp"} {
		if below(path, dir) && s.PrivateTmp {
			return "PrivateTmp=yes"
		}
	}
	return ""
}

func lookRivals(_ context.Context, p *patient) Finding {
	units, err := p.units()
	if err != nil {
		return unasked(p, err)
	}
	return judgeRivals(units[upstream], units[locksmith], p.said)
}

func judgeRivals(engine, locksmith bus.UnitSetup, p policy.Policy) Finding {
	runs := func(u bus.UnitSetup) bool { return u.ActiveState == "active" || u.ActiveState == "activating" }
	var found []complaint
	switch {
	case runs(engine) && !p.Shadow:
		found = append(found, complaint{Wrong, upstream + " runs", "two updaters write the same slot", "systemctl mask --now " + upstream + " (drydock's drop-in keeps it from starting: is it installed?)"})
	case !runs(engine) && p.Shadow:
		found = append(found, complaint{Wrong, "shadow is true, and " + upstream + " does not run", "nobody updates this machine", "start " + upstream + ", or set shadow = false"})
	}
	if runs(locksmith) && p.Reboot.Strategy != policy.External && !p.Shadow {
		found = append(found, complaint{Wrong, "locksmithd.service runs, and reboot.strategy is " + string(p.Reboot.Strategy), "two programs reboot this machine, each in its own turn", `systemctl mask --now locksmithd.service, or reboot.strategy = "external"`})
	}
	return complain("no other program updates or reboots this machine", found)
}

var healthChecks = []check{
	{id: "health.directory", image: true, look: lookHealthDirectory},
	{id: "health.units", applies: func(p policy.Policy) bool { return len(p.Health.Units) > 0 }, look: lookHealthUnits},
}

// lookHealthDirectory judges the checks as host.RunChecks does, and runs none.
func lookHealthDirectory(_ context.Context, p *patient) Finding {
	dir := p.policy.Health.Directory
	const means = "every trial is found unhealthy, and rejected"
	entries, err := os.ReadDir(dir)
	if dir == "" || errors.Is(err, fs.ErrNotExist) {
		return ok("there are no checks in %s", orElse(dir, "health.directory"))
	}
	if err != nil {
		return unread(dir, err)
	}
	if why, err := changeable(filepath.Join(dir, ".")); err == nil && why != "" {
		return Finding{Verdict: Wrong, Seen: why, Means: means, Mend: "chown root: and chmod go-w it"}
	}
	var found []complaint
	n := 0
	for _, e := range entries {
		info, err := os.Stat(filepath.Join(dir, e.Name()))
		if err != nil || strings.HasPrefix(e.Name(), ".") || info.IsDir() {
			continue
		}
		if info.Mode().Perm()&0o111 == 0 {
			found = append(found, complaint{Warning, e.Name() + " is not executable", "it is no check, and nobody looks at what it is for", "chmod 0755 it, or move it away"})
			continue
		}
		n++
		if why, err := changeable(filepath.Join(dir, e.Name())); err == nil && why != "" {
			found = append(found, complaint{Wrong, why, means, "chown root: and chmod go-w it"})
		}
	}
	return complain(fmt.Sprintf("%d checks in %s", n, dir), found)
}

func lookHealthUnits(ctx context.Context, p *patient) Finding {
	if p.Root != "" && p.Bus == "" {
		return unasked(p, errNoBus)
	}
	states, err := bus.Systemd{Address: p.Bus}.UnitStates(ctx, p.said.Health.Units)
	if err != nil {
		return unasked(p, err)
	}
	return judgeHealthUnits(states)
}

func judgeHealthUnits(states []bus.UnitState) Finding {
	var found []complaint
	for _, s := range states {
		switch {
		case s.LoadState != "loaded":
			found = append(found, complaint{Wrong, fmt.Sprintf("%s is %s", s.Unit, s.LoadState), "every trial is found unhealthy, and rejected", "correct health.units, or install that unit"})
		case s.ActiveState != "active":
			found = append(found, complaint{Warning, fmt.Sprintf("%s is %s", s.Unit, s.ActiveState), "this machine asks for no permit, and would not find a trial healthy", "systemctl status " + s.Unit})
		}
	}
	return complain(fmt.Sprintf("all %d are active", len(states)), found)
}

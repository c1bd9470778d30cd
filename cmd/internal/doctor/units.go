package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/drydock-os/drydock/updater/bus"
)

// The units that are looked at.
const (
	daemonUnit = "drydockd.service"
	trialTimer = "drydock-trial.timer"
	trialUnit  = "drydock-trial.service"
	upstream   = "update-engine.service"
	locksmith  = "locksmithd.service"
)

// gatherUnits asks systemd how units are set up; of a tree that does not run,
// their files say a part of it.
func gatherUnits(ctx context.Context, p *patient) (map[string]bus.UnitSetup, error) {
	units := []string{daemonUnit, trialTimer, trialUnit, goodUnit, upstream, locksmith}
	found := map[string]bus.UnitSetup{}
	if p.image {
		for _, unit := range units {
			found[unit] = unitFile(p, unit)
		}
		return found, nil
	}
	if p.Root != "" && p.Bus == "" {
		return nil, errNoBus
	}
	setups, err := bus.Systemd{Address: p.Bus}.UnitSetups(ctx, units)
	for _, s := range setups {
		found[s.Unit] = s
	}
	return found, err
}

// unitDirs are where systemd looks for units, the strongest first
// (systemd.unit(5), "Unit File Load Path").
var unitDirs = []string{"etc/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"}

// unitFile tells of a unit what its files do: whether it is there, masked, and
// wanted by another.
func unitFile(p *patient, unit string) bus.UnitSetup {
	u := bus.UnitSetup{UnitState: bus.UnitState{Unit: unit, LoadState: "not-found"}}
	for _, dir := range unitDirs {
		to, err := os.Readlink(p.path(dir, unit))
		if err == nil && to == os.DevNull {
			u.LoadState, u.FileState = "masked", "masked"
			return u
		}
		if _, err := os.Lstat(p.path(dir, unit)); err == nil {
			u.LoadState, u.FileState = "loaded", "disabled"
			break
		}
	}
	if u.LoadState != "loaded" {
		return u
	}
	for _, dir := range unitDirs {
		for _, kind := range []string{"wants", "requires"} {
			if links, err := filepath.Glob(filepath.Join(p.path(dir), "*."+kind, unit)); err == nil && len(links) > 0 {
				u.FileState = "enabled"
			}
		}
	}
	return u
}

// unasked is the verdict where systemd does not answer.
func unasked(p *patient, err error) Finding {
	if errors.Is(err, errNoBus) {
		return Finding{Verdict: Unknown, Seen: err.Error(), Mend: "name the bus of the system that runs below --root with --bus"}
	}
	if _, gone := p.names(); gone != nil {
		return because("bus.reachable")
	}
	return Finding{Verdict: Unknown, Seen: "systemd does not answer: " + err.Error(), Means: "how its units are set up is not known", Mend: "systemctl status; systemctl daemon-reexec"}
}

// enabled says why a unit is not started at boot, "" if it is.
func enabled(u bus.UnitSetup) string {
	switch {
	case u.LoadState != "loaded":
		return fmt.Sprintf("%s is %s", u.Unit, orElse(u.LoadState, "not there"))
	case u.FileState != "enabled" && u.FileState != "enabled-runtime":
		return fmt.Sprintf("%s is %s", u.Unit, orElse(u.FileState, "not enabled"))
	}
	return ""
}

// missing reports whether a file is not there, or why that is not known.
func missing(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return false, err
}

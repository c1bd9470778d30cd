package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/drydock-os/drydock/cmd/internal/config"
	"github.com/drydock-os/drydock/cmd/internal/machine"
	"github.com/drydock-os/drydock/updater"
)

// ErrOnTrial says that the booted slot is not marked good.
var ErrOnTrial = errors.New("the booted slot is on trial")

// TrialState reads the boot flags and returns nil when the booted slot is good,
// ErrOnTrial when it is not, and any other error when it cannot tell. The trial
// guard asks it, with no daemon running.
func TrialState(o Options) error {
	p, err := config.LoadHost(o.Config, rootOf(o.Root))
	if err != nil {
		return err
	}
	if p.Shadow { // the trial is upstream's
		return nil
	}
	slots, err := machine.OpenSlots(p.Slots, o.Root)
	if err != nil {
		return err
	}
	booted, err := slots.Booted()
	if err != nil {
		return err
	}
	table, err := slots.Control.Table()
	if err != nil {
		return err
	}
	if table[booted].Successful {
		return nil
	}
	if _, ok := table.Discard(booted).Next(); !ok { // a reboot would lead nowhere: no business of the guard's
		return fmt.Errorf("slot %s is not marked good, and no other slot could be booted", booted)
	}
	return fmt.Errorf("slot %s: %w", booted, ErrOnTrial)
}

// goodMark is an updater.Observer that makes a file once the boot flags say
// that the booted slot is good. The trial guard and drydock-good.service wait
// for it; it lives in /run, which is empty after every boot. It also takes away
// the initrd's count of boots that did not come up (dist/lib/verity-guard). From a
// slot that is known to be damaged it leaves one: should this boot end before
// drydockd left the slot in order, the next one reads it in full, and leaves it.
type goodMark struct {
	path  string
	boots string
	log   *slog.Logger
	made  bool
}

func newGoodMark(o Options) *goodMark {
	dir := os.Getenv("RUNTIME_DIRECTORY") // systemd's, where the unit asks for one
	if dir == "" {
		dir = filepath.Join(rootOf(o.Root), "run", "drydock")
	}
	return &goodMark{path: filepath.Join(dir, "good"), boots: filepath.Join(rootOf(o.Root), "var/lib/drydock/boots"), log: o.Log}
}

// Observe implements updater.Observer.
func (g *goodMark) Observe(e updater.Event) {
	if g.made || e.Status.Booted == "" || e.Status.OnTrial {
		return
	}
	if err := g.make(e.Status.Release); err != nil {
		g.log.Error("the trial guard cannot be told that this boot is good", "error", err)
		return
	}
	g.made = true
	err := os.Remove(g.boots)
	if slices.ContainsFunc(e.Status.Reasons, func(r updater.Reason) bool { return r.Kind == "damage" }) {
		err = os.WriteFile(g.boots, []byte("1\n"), 0o600) // one that is torn counts the same
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		g.log.Error("the initrd cannot be told that this boot came up: where the root is verified, the next boot reads all of it first", "error", err)
	}
}

func (g *goodMark) make(release string) error {
	if err := os.MkdirAll(filepath.Dir(g.path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(g.path, []byte(release+"\n"), 0o644)
}

package daemon

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"

	"github.com/drydock-os/drydock/cmd/internal/config"
	"github.com/drydock-os/drydock/cmd/internal/survey"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/host"
	"github.com/drydock-os/drydock/updater/policy"
	"github.com/drydock-os/drydock/updater/state"
)

// Survey asks the scheduler and the gates that the policy names everything that
// changes nothing. No daemon need run; one that does is not asked. drydock doctor
// judges what they say.
func Survey(ctx context.Context, o Options) (survey.Survey, error) {
	p, err := config.LoadHost(o.Config, rootOf(o.Root))
	if err != nil {
		return survey.Survey{}, err
	}
	d := &Daemon{Options: o}
	d.who = func() (updater.Identity, error) {
		id, err := host.Identify(rootOf(o.Root))
		return updater.Identity{MachineID: id.MachineID, BootID: id.BootID}, err
	}
	ctx, cancel := context.WithTimeout(ctx, survey.Patience)
	defer cancel()
	s := survey.Survey{Version: survey.Version}
	var asking sync.WaitGroup
	asking.Go(func() { s.Scheduler = d.surveyScheduler(ctx, p) })
	doors, err := d.doors(p.Gates)
	if err == nil {
		s.Gates = survey.AskGates(ctx, doors, p.Gates.Timeout)
	}
	asking.Wait()
	return s, err
}

func (d *Daemon) surveyScheduler(ctx context.Context, p policy.Policy) survey.Scheduler {
	m, err := d.identity()
	if err != nil {
		return survey.Scheduler{Opened: err.Error()}
	}
	l, err := d.openLink(p, m, shelf{readOnly{recordPath(p)}, func() (string, error) { return readInstance(p.State) }})
	if err != nil {
		return survey.Scheduler{Opened: err.Error()}
	}
	return survey.AskLink(ctx, l, p.Drain.OnTimeout == policy.Force)
}

// doors are the gates of a policy, each with its key.
func (d *Daemon) doors(p policy.Gates) ([]survey.Door, error) {
	g, err := d.gatesOf(p)
	if err != nil {
		return nil, err
	}
	var doors []survey.Door
	for _, table := range []struct {
		key string
		n   int
	}{{"alerts", len(p.Alerts)}, {"http", len(p.HTTP)}, {"exec", len(p.Exec)}} {
		for i := range table.n {
			doors = append(doors, survey.Door{Name: fmt.Sprintf("gates.%s[%d]", table.key, i), Gate: g.List[len(doors)]})
		}
	}
	return doors, nil
}

// readOnly is a record that a survey reads, and that it must not write.
type readOnly struct{ recordFile }

// Save implements fleetlink.Record.
func (readOnly) Save([]byte) error { return errors.New("a survey changes nothing") }

// readInstance reads the instance-id, which state.InstanceID would make; "" where
// there is none yet.
func readInstance(dir string) (string, error) {
	const length = 16 // bytes, as state.InstanceID has it
	data, err := state.ReadFile(filepath.Join(dir, "instance-id"), 1<<10)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	text := strings.TrimSpace(string(data))
	if id, bad := hex.DecodeString(text); err == nil && (bad != nil || len(id) != length) {
		return "", nil // drydockd makes a new one
	}
	return text, err
}

package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/drydock-os/drydock/updater"
	"github.com/godbus/dbus/v5"
)

// A Job is a request that the daemon is carrying out. Requests that are over
// at once are a Job that has ended already.
type Job struct {
	client  *Client
	path    dbus.ObjectPath // "" for one that has ended
	owner   string          // the daemon's unique name: only its word ends the job
	signals chan *dbus.Signal
	outcome updater.Outcome
}

// Start asks the daemon for r. It returns once the daemon has taken the
// request on, or refused it: ErrNotRunning, ErrNotAuthorized,
// updater.ErrBusy and updater.ErrRefused are told apart by errors.Is.
func (c *Client) Start(ctx context.Context, r updater.Request) (*Job, error) {
	method, args, err := methodOf(r)
	if err != nil {
		return nil, err
	}
	if !isJob[r.Action] {
		job := &Job{client: c}
		return job, c.call(ctx, method, args, (*string)(&job.outcome))
	}
	signals, err := c.subscribe(ctx) // before the call: the job may end at once
	if err != nil {
		return nil, err
	}
	job := &Job{client: c, signals: signals}
	bus := c.conn.BusObject()
	if err = bus.CallWithContext(ctx, "org.freedesktop.DBus.GetNameOwner", 0, Name).Store(&job.owner); err != nil {
		err = clientError(err)
	} else {
		err = c.call(ctx, method, args, &job.path)
	}
	if err != nil {
		c.conn.RemoveSignal(signals)
		return nil, err
	}
	return job, nil
}

// methodOf is a request as a method of the manager and its arguments.
func methodOf(r updater.Request) (string, []any, error) {
	switch r.Action {
	case updater.ActCheck:
		return "Check", nil, nil
	case updater.ActUpdate:
		options := map[string]dbus.Variant{}
		if r.AllowDowngrade {
			options[optionDowngrade] = dbus.MakeVariant(true)
		}
		if r.OnDemand {
			options[optionOnDemand] = dbus.MakeVariant(true)
		}
		return "Update", []any{options}, nil
	case updater.ActPause:
		return "Pause", []any{r.Reason}, nil
	case updater.ActUnpause:
		return "Unpause", nil, nil
	case updater.ActRollback:
		return "Rollback", nil, nil
	case updater.ActReboot:
		return "Reboot", []any{r.Reason}, nil
	case updater.ActCancel:
		return "Cancel", nil, nil
	case updater.ActRetry:
		return "Retry", []any{r.Version}, nil
	case updater.ActMarkGood:
		return "MarkGood", nil, nil
	case updater.ActMarkBad:
		return "MarkBad", []any{r.Reason}, nil
	case updater.ActReset:
		return "Reset", nil, nil
	}
	return "", nil, fmt.Errorf("request %q is not known", r.Action)
}

// Wait returns how the job ended. Until then it calls progress, which may be
// nil, with the status after each change. When ctx ends first Wait returns
// its error and the job goes on; it may then be cancelled, not waited for
// again.
func (j *Job) Wait(ctx context.Context, progress func(updater.Status)) (updater.Outcome, error) {
	if j.path == "" {
		return j.outcome, nil
	}
	defer j.client.conn.RemoveSignal(j.signals)
	for {
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case signal, open := <-j.signals:
			if !open {
				return "", errBusLost
			}
			if outcome, err, ended := j.ended(signal); ended {
				return outcome, err
			}
			if err := j.tell(ctx, signal, progress); err != nil {
				return "", err
			}
		}
	}
}

// tell passes a change of the status on.
func (j *Job) tell(ctx context.Context, signal *dbus.Signal, progress func(updater.Status)) error {
	if progress == nil || signal.Name != propertiesChanged {
		return nil
	}
	status, err := j.client.Status(ctx)
	if err == nil {
		progress(status)
	}
	return err
}

// ended says whether a signal ends the job, and how.
func (j *Job) ended(signal *dbus.Signal) (outcome updater.Outcome, err error, ended bool) {
	switch signal.Name {
	case nameOwnerChanged:
		var name, from, to string
		if dbus.Store(signal.Body, &name, &from, &to) == nil && signal.Sender == "org.freedesktop.DBus" && name == Name && from == j.owner {
			return "", errors.New("drydockd ended while it was at work; what it had begun is taken up when it starts again"), true
		}
	case ManagerInterface + ".JobRemoved":
		var id uint32
		var path dbus.ObjectPath
		var result, message string
		if dbus.Store(signal.Body, &id, &path, &result, &message) == nil && signal.Sender == j.owner && path == j.path {
			outcome, err := jobResult(result, message)
			return outcome, err, true
		}
	}
	return "", nil, false
}

// jobResult reads what JobRemoved says of a job's end.
func jobResult(result, message string) (updater.Outcome, error) {
	if result == wordFailed {
		return "", errors.New(message)
	}
	for _, k := range kinds {
		if k.word == result {
			return "", remote{message, k.err}
		}
	}
	return updater.Outcome(result), nil
}

// Cancel stops the job; Wait then returns ErrCancelled. A job that has ended
// is cancelled with success.
func (j *Job) Cancel(ctx context.Context) error {
	if j.path == "" {
		return nil
	}
	var flags dbus.Flags
	if j.client.Interactive {
		flags = dbus.FlagAllowInteractiveAuthorization
	}
	err := j.client.conn.Object(Name, j.path).CallWithContext(ctx, JobInterface+".Cancel", flags).Err
	if errorName(err) == errorNoSuchJob {
		return nil
	}
	return clientError(err)
}

package bus

import (
	"errors"
	"slices"
	"time"

	"github.com/drydock-os/drydock/updater"
	"github.com/godbus/dbus/v5"
)

// teller sends the signals of one stay on the bus.
type teller struct {
	ours     *connection
	upstream *connection // nil: another engine serves upstream's clients
	jobs     *jobs

	properties map[string]dbus.Variant // as told last
	update1    update1Status           // StatusUpdate as sent last
	progressAt time.Time               // when the progress in it was sent
	owns       bool                    // com.coreos.update1 is ours
}

// run tells what is in the queue until the connection ends. What is told is
// the difference to status.
func (t *teller) run(status updater.Status, news *queue, names <-chan *dbus.Signal) error {
	t.properties = propertiesOf(status)
	t.update1 = update1Of(status)
	for {
		if err := t.greet(); err != nil {
			return err
		}
		select {
		case <-t.ours.Context().Done():
			return errBusLost
		case _, open := <-names: // a name was acquired or lost
			if !open {
				return errBusLost
			}
		case <-news.wake:
			waiting, ok := news.take()
			if !ok {
				return errors.New("the bus took no signals and was given up")
			}
			if err := t.tell(waiting); err != nil {
				return err
			}
		}
	}
}

// greet sends one StatusUpdate when upstream's name has become ours, as
// update_engine does when it starts.
func (t *teller) greet() error {
	if t.owns {
		return nil
	}
	return t.guarded(t.statusUpdate)
}

// tell sends what some notices are about.
func (t *teller) tell(waiting []notice) error {
	return t.guarded(func() error {
		for _, n := range waiting {
			var err error
			switch {
			case n.removed != nil:
				err = t.ours.Emit(Path, ManagerInterface+".JobRemoved", n.removed.id, jobPath(n.removed.id), n.removed.result, n.removed.message)
			case n.cancelling != 0:
				err = t.changed(jobPath(n.cancelling), JobInterface, map[string]dbus.Variant{"State": dbus.MakeVariant(stateCancelling)})
			default:
				err = t.event(n.event)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// event sends what an event has changed.
func (t *teller) event(e updater.Event) error {
	now := propertiesOf(e.Status)
	diff := changed(t.properties, now)
	t.properties = now
	if err := t.changed(Path, ManagerInterface, diff); err != nil {
		return err
	}
	if progress, moved := diff["Progress"]; moved {
		for _, id := range t.jobs.ids() {
			if err := t.changed(jobPath(id), JobInterface, map[string]dbus.Variant{"Progress": progress}); err != nil {
				return err
			}
		}
	}
	if next := update1Of(e.Status); next.due(t.update1, e.At.Sub(t.progressAt)) {
		t.update1, t.progressAt = next, e.At
		return t.statusUpdate()
	}
	return nil
}

// changed sends PropertiesChanged, if any did.
func (t *teller) changed(path dbus.ObjectPath, iface string, diff map[string]dbus.Variant) error {
	if len(diff) == 0 {
		return nil
	}
	return t.ours.Emit(path, propertiesChanged, iface, diff, []string{})
}

// statusUpdate sends the status to upstream's clients, while its name is ours.
func (t *teller) statusUpdate() error {
	t.owns = t.upstream != nil && slices.Contains(t.upstream.Names(), Update1Name)
	if !t.owns {
		return nil
	}
	u := t.update1
	return t.upstream.Emit(Update1Path, Update1Interface+".StatusUpdate", u.LastChecked, u.Progress, u.Operation, u.NewVersion, u.NewSize)
}

// guarded gives the connection up when a write to it hangs: the bus, or the
// machine, is in a bad way, and the queue must not grow for ever.
func (t *teller) guarded(write func() error) error {
	hung := time.AfterFunc(writePatience, func() {
		t.ours.socket.Close()
		if t.upstream != nil {
			t.upstream.socket.Close()
		}
	})
	defer hung.Stop()
	return write()
}
